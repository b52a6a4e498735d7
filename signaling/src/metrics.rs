//! What this server counts. Names, labels and help texts live here and nowhere else; every label has a fixed set of values.
//!
//! The text format appends `_total` to counters and the prefix is `signaling_`. An embedded relay counts into the
//! same registry under its own prefix.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use signaling_protocol::{CloseCode, ErrorCode};

/// Handles to every metric; counting is one atomic addition, except for the labelled ones, which are rare.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Connections that are open, of any transport; before their hello only WebSockets count.
    pub(crate) connections: Gauge,
    /// Bytes queued for clients that have not taken them yet.
    pub(crate) outbox_bytes: Gauge,
    /// Sessions, here and away.
    pub(crate) sessions: Gauge,
    /// Sessions with a connection.
    pub(crate) sessions_here: Gauge,
    /// Rooms that exist.
    pub(crate) rooms: Gauge,
    /// Bytes kept for replay to sessions that have not acknowledged them.
    pub(crate) replay_bytes: Gauge,
    /// How often the accept loop waited for its rate.
    pub(crate) handshakes_delayed: Counter,
    /// Frames received from clients.
    pub(crate) frames_received: Counter,
    /// Frames handed to connections.
    pub(crate) frames_sent: Counter,
    /// Signals put into their recipients' sequences.
    pub(crate) signals: Counter,
    /// Bytes of them.
    pub(crate) signal_bytes: Counter,
    /// Sessions that were sent more than is kept for them.
    pub(crate) overflows: Counter,
    refused: Family<RefusalLabel, Counter>,
    frame_errors: Family<FrameErrorLabel, Counter>,
    closes: Family<CloseLabel, Counter>,
    welcomes: Family<WelcomeLabel, Counter>,
    ended: Family<EndLabel, Counter>,
    turn_errors: Family<TurnErrorLabel, Counter>,
    opened: Family<HttpLabel, Counter>,
    orders: Family<OrderLabel, Counter>,
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("signaling");
        registry.register("connections", "Open connections, of any transport", this.connections.clone());
        registry.register("sessions", "Sessions, with or without a connection", this.sessions.clone());
        registry.register("sessions_here", "Sessions with a connection", this.sessions_here.clone());
        registry.register("rooms", "Rooms with at least one session", this.rooms.clone());
        registry.register("outbox_bytes", "Bytes queued for slow readers", this.outbox_bytes.clone());
        registry.register(
            "replay_bytes",
            "Bytes kept until clients acknowledge them",
            this.replay_bytes.clone(),
        );
        registry.register(
            "handshakes_delayed",
            "Waits before a connection was accepted, since they came too fast",
            this.handshakes_delayed.clone(),
        );
        registry.register("frames_received", "Frames received from clients", this.frames_received.clone());
        registry.register("frames_sent", "Frames handed to connections", this.frames_sent.clone());
        registry.register("signals", "Signals relayed from peer to peer", this.signals.clone());
        registry.register("signal_bytes", "Size of the signals relayed", this.signal_bytes.clone());
        registry.register(
            "overflows",
            "Sessions lost because too much was sent to them",
            this.overflows.clone(),
        );
        registry.register("acme_orders", "Certificates asked for, by what came of it", this.orders.clone());
        registry.register("websockets", "WebSockets opened, by the version of HTTP", this.opened.clone());
        registry.register("frame_errors", "Frames answered with an error", this.frame_errors.clone());
        registry.register(
            "refused",
            "Connections and requests turned away before a session",
            this.refused.clone(),
        );
        registry.register("closes", "Connections ended, by close code", this.closes.clone());
        registry.register("welcomes", "Sessions begun or resumed, by outcome", this.welcomes.clone());
        registry.register("sessions_ended", "Sessions ended, by reason", this.ended.clone());
        registry.register(
            "turn_errors_reported",
            "Allocations that clients reported as failed, by STUN error code",
            this.turn_errors.clone(),
        );
        this
    }

    pub(crate) fn refused(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }

    /// A WebSocket, over this version of HTTP.
    pub(crate) fn opened(&self, http: &'static str) {
        self.opened.get_or_create(&HttpLabel { http }).inc();
    }

    /// A certificate was `obtained` or `renewed`, or that `failed`.
    pub(crate) fn ordered(&self, outcome: &'static str) {
        self.orders.get_or_create(&OrderLabel { outcome }).inc();
    }

    /// `None`: the client closed it, or the network did.
    pub(crate) fn closed(&self, code: Option<CloseCode>) {
        let code = code.map_or("gone", CloseCode::name);
        self.closes.get_or_create(&CloseLabel { code }).inc();
    }

    pub(crate) fn welcomed(&self, outcome: &'static str, reason: &'static str) {
        self.welcomes.get_or_create(&WelcomeLabel { outcome, reason }).inc();
    }

    /// `reason` is one of the words for an end reason.
    pub(crate) fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&EndLabel { reason }).inc();
    }

    pub(crate) fn frame_refused(&self, code: ErrorCode) {
        let code = match code {
            ErrorCode::NoSuchPeer => "no_such_peer",
            ErrorCode::NotDelivered => "not_delivered",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::NotPermitted => "not_permitted",
            ErrorCode::TokenRefused => "token_refused",
            ErrorCode::TokenUnverified => "token_unverified",
            // The others precede a close and are counted there.
            ErrorCode::GoingAway
            | ErrorCode::PingTimeout
            | ErrorCode::SlowReader
            | ErrorCode::HelloTimeout
            | ErrorCode::Overloaded
            | ErrorCode::RateLimited
            | ErrorCode::RoomFull
            | ErrorCode::BadFrame
            | ErrorCode::TooLarge
            | ErrorCode::BadHello
            | ErrorCode::Replaced
            | ErrorCode::Kicked
            | ErrorCode::Banned
            | ErrorCode::Locked
            | ErrorCode::Unverified
            | ErrorCode::Unauthorized
            | ErrorCode::TokenExpired
            | ErrorCode::Knocking
            | ErrorCode::Denied
            | ErrorCode::WrongPassword
            | ErrorCode::AlreadyHere => return,
        };
        self.frame_errors.get_or_create(&FrameErrorLabel { code }).inc();
    }

    pub(crate) fn turn_error(&self, code: u16) {
        // Only codes that TURN defines get a label of their own: the number comes from a client.
        let code = match code {
            300 => "300",
            400 => "400",
            401 => "401",
            403 => "403",
            437 => "437",
            438 => "438",
            440 => "440",
            441 => "441",
            442 => "442",
            443 => "443",
            486 => "486",
            500 => "500",
            508 => "508",
            701 => "701",
            _ => "other",
        };
        self.turn_errors.get_or_create(&TurnErrorLabel { code }).inc();
    }
}

/// Why somebody was turned away before there was a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    /// `accept` failed.
    Accept,
    /// As many connections as we hold.
    Total,
    /// As many connections, or as many without a hello, as one address may have.
    Address,
    /// As many connections that have not said hello as we hold of all addresses.
    Pending,
    /// More connections per second than one address may make.
    Rate,
    /// As many sessions as one address may have.
    Sessions,
    /// More frames per second than the clients of one address may send; this one had a session.
    Frames,
    /// A connection of an address in `proxy_protocol_from` that did not begin with a PROXY header.
    Introduction,
    /// A connection of HTTP/2 with too many requests a second, or frames that ask for nothing.
    Flood,
    /// The TLS handshake failed or took too long.
    Tls,
    /// The `Host` is missing or malformed, or names somebody else.
    Host,
    /// The `Origin` is not one of ours.
    Origin,
    /// A WebSocket handshake, or another transport's request, without what it needs.
    Handshake,
    /// A request with a key that opens no connection (any more).
    Key,
    /// We are about to stop.
    Stopping,
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Accept => "accept",
            Self::Total => "total",
            Self::Address => "address",
            Self::Pending => "pending",
            Self::Rate => "rate",
            Self::Sessions => "sessions",
            Self::Frames => "frames",
            Self::Introduction => "introduction",
            Self::Flood => "flood",
            Self::Tls => "tls",
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Handshake => "handshake",
            Self::Key => "key",
            Self::Stopping => "stopping",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabel {
    http: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OrderLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CloseLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WelcomeLabel {
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FrameErrorLabel {
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TurnErrorLabel {
    code: &'static str,
}
