//! What goes into the core and what comes out: plain values.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::allocation_id::AllocationId;
use super::drain::Drain;
use super::mobility::{Moving, NotMoved, Summons};
use super::parked::AskId;
use super::settings::RelaySettings;
use crate::address::{FiveTuple, PeerAddr, RelayedPort, Transport};
use crate::credentials::Authorization;
use crate::frame::Header;

/// Which worker, counted from 0. At most 4096 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerIndex(pub u16);

/// The driver's name for a relayed socket of this worker. Small and dense (a slab index): the core indexes a table with it.
/// A slot may be used again after [`Output::Close`] or [`Output::Surrender`] gave it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketSlot(pub u32);

/// Names a TCP connection with a peer. Never used twice by one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerConnectionId {
    /// Made for a Connect; named by the core.
    Outgoing(u64),
    /// Made by the peer; named by the driver.
    Incoming(u64),
}

/// Names one [`Output::Open`] or [`Output::ClaimAt`] until its answer comes. Never used twice by one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenId(pub u64);

/// What to do with one packet. Small and `Copy`; the data path allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send `frame[start..][..len]` from the relayed socket `via`.
    ToPeer {
        /// The relayed socket to send from.
        via: SocketSlot,
        /// Where to.
        to: PeerAddr,
        /// Where the payload begins in the frame.
        start: u16,
        /// Payload bytes; zero is a valid, empty datagram.
        len: u16,
        /// Set the IPv4 DF bit on this datagram; otherwise leave it clear (RFC 8656 section 14).
        dont_fragment: bool,
    },
    /// Write the header in front of the payload ([`Header::write`]) and send the whole to the client.
    ToClient {
        /// Which client, through which listener or connection.
        to: FiveTuple,
        /// What to write.
        header: Header,
    },
    /// Hand the same bytes to [`super::Relay::handle`] as [`Input::Message`].
    Control,
    /// Forget the packet and count the reason.
    Drop(DropReason),
}

/// Why a packet goes no further. Each variant is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Neither STUN nor ChannelData, or lengths that contradict each other.
    Malformed,
    /// A STUN response, or an indication that clients do not send.
    Unexpected,
    /// Data for an allocation that does not exist (any more).
    NoAllocation,
    /// ChannelData on a channel that is not bound.
    NoChannel,
    /// No permission, or one that expired.
    NoPermission,
    /// The peer policy refuses the address, or it is our own and no live allocation.
    PeerForbidden,
    /// A Send indication to a peer of the other address family.
    PeerFamily,
    /// A datagram too large for the header that has to go in front of it.
    TooLarge,
    /// An answer that the per-prefix limit on unauthenticated answers withheld.
    RateLimited,
    /// A request repeated while its first copy is still being worked on.
    InProgress,
    /// More bytes or packets than one allocation may send or receive.
    AllocationRate,
    /// More bytes or packets than all allocations of one user may send or receive.
    UserRate,
    /// A Send indication to one new peer too many.
    NewPeers,
    /// More ICMP messages than a client is told of in a second.
    IcmpRate,
    /// A Send indication, or a datagram, for an allocation that relays TCP.
    TcpAllocation,
    /// A peer's connection that was one too many of its allocation or user.
    TooManyConnections,
    /// A request of a user whom only the authorization hook can know, and too many wait for it already.
    HookBusy,
    /// The authorization hook did not answer in time.
    HookSilent,
}

impl DropReason {
    /// Every reason, for registering metrics.
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Unexpected,
        Self::NoAllocation,
        Self::NoChannel,
        Self::NoPermission,
        Self::PeerForbidden,
        Self::PeerFamily,
        Self::TooLarge,
        Self::RateLimited,
        Self::InProgress,
        Self::AllocationRate,
        Self::UserRate,
        Self::NewPeers,
        Self::IcmpRate,
        Self::TcpAllocation,
        Self::TooManyConnections,
        Self::HookBusy,
        Self::HookSilent,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unexpected => "unexpected",
            Self::NoAllocation => "no_allocation",
            Self::NoChannel => "no_channel",
            Self::NoPermission => "no_permission",
            Self::PeerForbidden => "peer_forbidden",
            Self::PeerFamily => "peer_family",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::InProgress => "in_progress",
            Self::AllocationRate => "allocation_rate",
            Self::UserRate => "user_rate",
            Self::NewPeers => "new_peers",
            Self::IcmpRate => "icmp_rate",
            Self::TcpAllocation => "tcp_allocation",
            Self::TooManyConnections => "too_many_connections",
            Self::HookBusy => "hook_busy",
            Self::HookSilent => "hook_silent",
        }
    }
}

/// Something that happened outside the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// One STUN message from a client, for which `route_client` said [`Verdict::Control`].
    Message {
        /// Where from, and through which listener.
        from: FiveTuple,
        /// The whole message, no more.
        bytes: &'a [u8],
        /// The wall clock: time-limited credentials are checked against it.
        wall: SystemTime,
    },
    /// The answer to [`Output::Open`].
    Opened {
        /// Which request it answers.
        open: OpenId,
        /// The bound sockets, or why not.
        outcome: Result<Opened, OpenFailure>,
    },
    /// Another worker asks for a port that this one holds in reserve ([`Output::ClaimAt`] there).
    Claim(Claim),
    /// The answer to [`Output::ClaimAt`] ([`Output::Surrender`] or [`Output::DenyClaim`] at the other worker).
    Claimed {
        /// Which request it answers.
        open: OpenId,
        /// The socket, already in this worker's slab, or nothing: unknown token, expired, other user, or the owner did not answer.
        outcome: Option<ClaimedSocket>,
    },
    /// The client's TCP connection is gone.
    ClientGone(FiveTuple),
    /// [`super::Relay::deadline`] has passed.
    Timeout,
    /// These settings hold from here on; [`super::Shared::apply`] has seen them. Allocations stay unless what authorised them is
    /// gone, permissions stay unless the policy now refuses the peer.
    Settings(Arc<RelaySettings>),
    /// The answer to [`Output::Authorize`].
    Authorized {
        /// Which question it answers.
        ask: AskId,
        /// Whether the user may come in, and with what.
        authorization: Authorization,
    },
    /// The operator ends an allocation. One that does not stand here is nothing to end.
    End {
        /// Which.
        id: AllocationId,
        /// [`EndReason::Operator`], [`EndReason::Revoked`] or [`EndReason::Shutdown`].
        reason: EndReason,
    },
    /// Another worker asks for an allocation that stands here ([`Output::SummonAt`] there).
    Summon(Summons),
    /// The answer to [`Output::SummonAt`] ([`Output::HandOver`] or [`Output::DenySummons`] at the other worker).
    Summoned {
        /// Which request it answers.
        open: OpenId,
        /// The allocation, its sockets already in this worker's slab, or why not.
        outcome: Result<Moving, NotMoved>,
    },
    /// The server is about to end (or is not any more, with `None`): newcomers are sent elsewhere, who is here runs on.
    Drain(Option<Arc<Drain>>),
    /// What [`Output::ConnectPeer`] asked for stands.
    PeerConnected(PeerConnectionId),
    /// A peer connected to a TCP allocation. [`Output::ClosePeer`] in answer refuses it; otherwise the driver keeps it, reading nothing.
    PeerAccepted {
        /// The listening socket.
        on: SocketSlot,
        /// The driver's name for it.
        connection: PeerConnectionId,
        /// The peer.
        from: PeerAddr,
    },
    /// A peer connection could not be made or is over, and so is the client's connection that was joined with it. None is needed
    /// after [`Output::ClosePeer`], and none hurts.
    PeerGone(PeerConnectionId),
}

/// What another worker asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who asks; the answer goes there.
    pub by: WorkerIndex,
    /// The asking worker's name for the request.
    pub open: OpenId,
    /// The RESERVATION-TOKEN.
    pub token: u64,
    /// A reservation belongs to the user that made it.
    pub username: Box<str>,
}

/// A relayed socket that another worker handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedSocket {
    /// Its slot in the receiving worker's slab.
    pub slot: SocketSlot,
    /// The relay address it is bound to.
    pub ip: IpAddr,
    /// The port it is bound to, claimed in [`super::Shared`].
    pub port: RelayedPort,
}

/// Relayed sockets that the driver bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The socket on the port asked for.
    pub slot: SocketSlot,
    /// The socket on the next higher port, exactly if `reserve_next` asked for it.
    pub reserved: Option<SocketSlot>,
}

/// Why a relayed socket could not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenFailure {
    /// Another process holds the port: another port may do.
    PortTaken,
    /// No descriptors, no memory, no such address: another port would not help.
    Unavailable,
}

/// Something that must now happen.
#[derive(Debug)]
pub enum Output {
    /// Send a STUN message to a client.
    Send {
        /// Which client, through which listener or connection.
        to: FiveTuple,
        /// The bytes, ready for the wire on UDP and TCP alike.
        message: Vec<u8>,
    },
    /// Bind a relayed UDP socket and answer with [`Input::Opened`].
    Open {
        /// To be repeated in the answer.
        open: OpenId,
        /// The relay address to bind.
        ip: IpAddr,
        /// The port to bind; nobody else of ours has it.
        port: RelayedPort,
        /// Also bind `port + 1`: both or none (EVEN-PORT with the R bit).
        reserve_next: bool,
    },
    /// Close a relayed socket, and then call [`super::Shared::release`] with its address and port: in this order nobody finds the
    /// port free and cannot bind it.
    Close(ClaimedSocket),
    /// Close a client's TCP connection, after what was sent to it before. No `ClientGone` is needed in answer, and none hurts.
    Disconnect(FiveTuple),
    /// Deliver [`Input::Claim`] to worker `at`. If that cannot be done answer [`Input::Claimed`] with `None` here.
    ClaimAt {
        /// The worker that holds the reserved port; never this one.
        at: WorkerIndex,
        /// What to ask for.
        claim: Claim,
    },
    /// Move the socket in `slot` out of this worker's slab and deliver [`Input::Claimed`] with it to worker `to`.
    /// If that cannot be done drop the socket and call [`super::Shared::release`] with its address and port.
    Surrender {
        /// The asking worker.
        to: WorkerIndex,
        /// The asking worker's name for the request.
        open: OpenId,
        /// The socket to move.
        slot: SocketSlot,
        /// The relay address it is bound to.
        ip: IpAddr,
        /// The port it is bound to.
        port: RelayedPort,
    },
    /// Deliver [`Input::Claimed`] with `None` to worker `to`.
    DenyClaim {
        /// The asking worker.
        to: WorkerIndex,
        /// The asking worker's name for the request.
        open: OpenId,
    },
    /// Deliver [`Input::Summon`] to worker `at`. If that cannot be done answer [`Input::Summoned`] with [`NotMoved::Lost`] here.
    SummonAt {
        /// The worker where the allocation stands; never this one.
        at: WorkerIndex,
        /// What to ask for.
        summons: Summons,
    },
    /// Move the sockets of an allocation out of this worker's slab and deliver [`Input::Summoned`] with it to worker `to`, where
    /// [`Moving::exchange`] tells it of their new slots. If that cannot be done put the sockets back into this worker's slab and
    /// answer [`Input::Summoned`] with it here: the core ends it.
    HandOver {
        /// The asking worker.
        to: WorkerIndex,
        /// The asking worker's name for the request.
        open: OpenId,
        /// The allocation.
        moving: Moving,
    },
    /// Deliver [`Input::Summoned`] with the reason to worker `to`.
    DenySummons {
        /// The asking worker.
        to: WorkerIndex,
        /// The asking worker's name for the request.
        open: OpenId,
        /// Why.
        why: NotMoved,
    },
    /// For the log and the metrics; nothing depends on it.
    Event(Event),
    /// Bind a TCP socket, listen on it, and answer with [`Input::Opened`]. Its slot is like that of a UDP socket, and closed alike.
    ListenTcp {
        /// To be repeated in the answer.
        open: OpenId,
        /// The relay address to bind.
        ip: IpAddr,
        /// The port to bind; nobody else of ours has it.
        port: RelayedPort,
    },
    /// Connect to a peer and answer with [`Input::PeerConnected`] or [`Input::PeerGone`]. Nothing is read from it until it is joined.
    ConnectPeer {
        /// Its name from now on.
        connection: PeerConnectionId,
        /// The relayed address, on which a socket listens already.
        from: SocketAddr,
        /// The peer.
        to: PeerAddr,
    },
    /// Close a peer connection, standing or not, and the client's connection that is joined with it.
    ClosePeer(PeerConnectionId),
    /// From here on the client's connection and the peer's are one: bytes as they are, both ways, those that wait in either
    /// included, behind what was sent to the client before. When it is over answer with [`Input::PeerGone`].
    Join {
        /// The peer's side.
        connection: PeerConnectionId,
        /// The client's side, of which the core will hear nothing more.
        client: FiveTuple,
    },
    /// Hand a client's connection to another worker, with what was not read of it, and this message to be read first. If that
    /// cannot be done close it.
    MoveClient {
        /// The connection.
        client: FiveTuple,
        /// The worker that has the peer connection; never this one.
        to: WorkerIndex,
        /// A whole request.
        message: Vec<u8>,
    },
    /// Ask the authorization hook about a user and answer with [`Input::Authorized`], soon or never.
    Authorize {
        /// To be repeated in the answer.
        ask: AskId,
        /// The user, as the client wrote it.
        username: Box<str>,
        /// How the client came.
        transport: Transport,
    },
}

/// What an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An allocation began.
    AllocationStarted {
        /// Its name from now on.
        id: AllocationId,
        /// The client. An address: debug level at most.
        client: FiveTuple,
        /// Whose credential.
        username: Box<str>,
        /// As the client knows it (the external address behind 1:1 NAT).
        relayed: SocketAddr,
        /// Granted lifetime.
        lifetime: Duration,
        /// The IPv6 address of a dual allocation; `relayed` is then the IPv4 one.
        additional: Option<SocketAddr>,
    },
    /// An allocation is over and its port is free again.
    AllocationEnded {
        /// As it began.
        id: AllocationId,
        /// The client. An address: debug level at most.
        client: FiveTuple,
        /// Whose credential.
        username: Box<str>,
        /// As it began.
        relayed: SocketAddr,
        /// Why.
        reason: EndReason,
        /// How long it stood.
        duration: Duration,
        /// What flowed through it.
        traffic: Traffic,
        /// As it began.
        additional: Option<SocketAddr>,
    },
    /// A request was refused with an error response. The first challenge of a client (401 without credentials) is not reported.
    Refused {
        /// The client. An address: debug level at most.
        client: FiveTuple,
        /// Which request.
        method: RequestMethod,
        /// The error code on the wire.
        code: u16,
        /// In words, without addresses.
        reason: &'static str,
    },
    /// A message on the control path was dropped without an answer.
    Dropped(DropReason),
    /// A request was answered with success.
    Granted(RequestMethod),
    /// A client without credentials was challenged (401).
    Challenged(RequestMethod),
    /// An Allocate request of somebody who proved who it is was answered, with success or not.
    AllocateAnswered {
        /// When it came; it may have waited for the authorization hook and for sockets.
        asked: Instant,
    },
    /// A client took its allocation along to another five-tuple.
    AllocationMoved {
        /// Which allocation.
        id: AllocationId,
        /// Where it was. An address: debug level at most.
        from: FiveTuple,
        /// Where it is. An address: debug level at most.
        to: FiveTuple,
        /// As it began.
        relayed: SocketAddr,
        /// As it began.
        additional: Option<SocketAddr>,
    },
}

/// The requests of RFC 8489, RFC 8656 and RFC 6062 that the relay answers. A metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestMethod {
    /// RFC 8489 section 3.
    Binding,
    /// RFC 8656 section 7.
    Allocate,
    /// RFC 8656 section 8.
    Refresh,
    /// RFC 8656 section 10.
    CreatePermission,
    /// RFC 8656 section 12.
    ChannelBind,
    /// RFC 6062 section 5.2.
    Connect,
    /// RFC 6062 section 5.4.
    ConnectionBind,
}

impl RequestMethod {
    /// Every method, for registering metrics.
    pub const ALL: [Self; 7] = [
        Self::Binding,
        Self::Allocate,
        Self::Refresh,
        Self::CreatePermission,
        Self::ChannelBind,
        Self::Connect,
        Self::ConnectionBind,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
            Self::Connect => "connect",
            Self::ConnectionBind => "connection_bind",
        }
    }
}

/// Why an allocation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndReason {
    /// The client asked for lifetime 0.
    Released,
    /// Nobody refreshed it.
    Expired,
    /// The client's TCP connection closed.
    ConnectionClosed,
    /// What authorised it is gone: the user, its password, or the secret; or the operator revoked the user.
    Revoked,
    /// The time-limited credential that it was made with is over (a switch).
    CredentialExpired,
    /// The operator ended this one.
    Operator,
    /// The server ended.
    Shutdown,
}

impl EndReason {
    /// Every reason, for registering metrics.
    pub const ALL: [Self; 7] = [
        Self::Released,
        Self::Expired,
        Self::ConnectionClosed,
        Self::Revoked,
        Self::CredentialExpired,
        Self::Operator,
        Self::Shutdown,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::ConnectionClosed => "connection_closed",
            Self::Revoked => "revoked",
            Self::CredentialExpired => "credential_expired",
            Self::Operator => "operator",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Payload counted by the core when it lets a packet pass. Headers are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes from the client to peers.
    pub to_peer_bytes: u64,
    /// Datagrams from the client to peers.
    pub to_peer_packets: u64,
    /// Payload bytes from peers to the client.
    pub to_client_bytes: u64,
    /// Datagrams from peers to the client.
    pub to_client_packets: u64,
}

impl Traffic {
    /// Adds what flowed elsewhere.
    pub fn add(&mut self, more: &Self) {
        self.to_peer_bytes += more.to_peer_bytes;
        self.to_peer_packets += more.to_peer_packets;
        self.to_client_bytes += more.to_client_bytes;
        self.to_client_packets += more.to_client_packets;
    }
}
