//! The state of one session over its connections.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use signaling_protocol::{
    AccessToken, DisplayName, ErrorCode, Instance, LimitsNotice, Negotiation, Outcome, Password, Payload,
    PeerId, PingNotice, ResumeToken, Secret, ServerFrame, ServerMessage, Welcome,
};

use crate::contract::{ConnId, Event, Identity, Input, Moderation, Output, Outputs};
use crate::kept::{Kept, Pace};

/// The client of one session. See the crate.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    link: Link,
    /// The connection that was asked for last.
    conn: ConnId,
    /// When the present connection is given up unless something is heard before.
    dead_at: Option<Instant>,
    resume: Option<ResumeToken>,
    /// What the access token replaced, until the server has said what it thinks of that.
    former: Option<AccessToken>,
    /// The access token came too late for the hello of this connection.
    token_due: bool,
    /// Highest `seq` received in order.
    received: u64,
    /// Highest `ack` that was written.
    told: u64,
    /// When an acknowledgement goes out by itself.
    ack_at: Option<Instant>,
    kept: Kept,
    pace: Option<Pace>,
    /// When the next frame may go out; set while some wait.
    flush_at: Option<Instant>,
    limits: LimitsNotice,
    ping: PingNotice,
    /// Connections without a `welcome` since the last one.
    failures: u32,
    /// What the `error` frame before a close asked for.
    retry_after: Duration,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Not begun, or over.
    None,
    /// A connection was asked for.
    Connecting,
    /// It took the hello.
    Greeting,
    /// It brought the welcome.
    Open,
    /// Bye was said; only the close is awaited.
    Leaving,
}

/// The fields that every frame of the server has, those of a type of a later version too.
#[derive(Deserialize)]
struct Envelope {
    seq: u64,
    ack: u64,
}

#[derive(Serialize)]
struct HelloFrame<'a> {
    r#type: &'static str,
    seq: u64,
    ack: u64,
    secret: &'a Secret,
    instance: &'a Instance,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: &'a Option<DisplayName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: &'a Option<ResumeToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: &'a Option<AccessToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: &'a Option<Password>,
    attempt: u64,
}

impl Client {
    /// A client that has not begun; [`Input::Connect`] begins.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            link: Link::None,
            conn: ConnId(0),
            dead_at: None,
            resume: None,
            former: None,
            token_due: false,
            received: 0,
            told: 0,
            ack_at: None,
            kept: Kept::default(),
            pace: None,
            flush_at: None,
            limits: LimitsNotice {
                message_bytes: signaling_protocol::MAX_FRAME_BYTES as u64,
                messages_per_second: 1,
                message_burst: 1,
                replay_messages: 0,
                replay_bytes: 0,
            },
            ping: PingNotice { interval_ms: 10_000, deadline_ms: 5_000 },
            failures: 0,
            retry_after: Duration::ZERO,
            outputs: VecDeque::new(),
        }
    }

    /// Applies one input and lends out everything that must now happen. `now` never goes back. What concerns a connection
    /// that was given up is ignored.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Outputs<'_> {
        match input {
            Input::Connect => self.connect(now, Duration::ZERO, Duration::ZERO),
            Input::Opened(conn) if conn == self.conn && self.link == Link::Connecting => self.greet(),
            Input::Text { conn, text } if conn == self.conn => self.hear(now, text),
            Input::Closed { conn, code } if conn == self.conn => self.lost(now, code),
            Input::Opened(_) | Input::Text { .. } | Input::Closed { .. } => {}
            Input::Signal { to, negotiation, payload } => self.signal(now, to, &negotiation, &payload),
            Input::Moderate(moderation) => self.moderate(now, moderation),
            Input::Token(token) => self.show(token),
            Input::TurnError { url, code } => self.report(url, code),
            Input::Bye => self.leave(now),
            Input::Timeout => self.time_out(now),
        }
        Outputs(self.outputs.drain(..))
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.dead_at, self.ack_at, self.flush_at].into_iter().flatten().min()
    }

    /// Whether the session stands on a connection.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.link == Link::Open
    }

    /// Frames that the server has not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.kept.len()
    }

    fn connect(&mut self, now: Instant, after: Duration, within: Duration) {
        if self.link == Link::Leaving {
            return;
        }
        self.detach();
        self.conn = ConnId(self.conn.0 + 1);
        self.link = Link::Connecting;
        self.dead_at = Some(now + after + within + WELCOME_DEADLINE);
        self.outputs.push_back(Output::Connect { conn: self.conn, after, within });
    }

    /// Gives the present connection up.
    fn detach(&mut self) {
        if self.link != Link::None {
            self.outputs.push_back(Output::Disconnect(self.conn));
        }
        self.link = Link::None;
        self.retry_after = Duration::ZERO;
        (self.dead_at, self.ack_at, self.flush_at) = (None, None, None);
    }

    fn greet(&mut self) {
        self.link = Link::Greeting;
        self.token_due = false;
        let Identity { secret, instance, name, token, password } = &self.identity;
        let ack = if self.resume.is_some() { self.received } else { 0 };
        let (resume, attempt) = (&self.resume, self.conn.0);
        let hello = HelloFrame {
            r#type: "hello",
            seq: 0,
            ack,
            secret,
            instance,
            name,
            resume,
            token,
            password,
            attempt,
        };
        let text = serde_json::to_string(&hello).expect("strings and numbers serialise without error");
        self.outputs.push_back(Output::Send { conn: self.conn, text });
    }

    fn hear(&mut self, now: Instant, text: &str) {
        if matches!(self.link, Link::None | Link::Connecting | Link::Leaving) {
            return;
        }
        let Ok(frame) = ServerFrame::parse(text) else { return self.skip(now, text) };
        if let ServerMessage::Welcome(welcome) = frame.message {
            return self.enter(now, frame.ack, welcome);
        }
        if !self.take_place(now, frame.seq, frame.ack) {
            return;
        }
        if matches!(frame.message, ServerMessage::Ping) {
            return self.send_unsequenced(PONG);
        }
        if let (0, ServerMessage::Error(error)) = (frame.seq, &frame.message) {
            self.retry_after = Duration::from_millis(error.retry_after_ms.unwrap_or(0));
        }
        self.judge(&frame.message);
        if !matches!(frame.message, ServerMessage::Ack) {
            self.tell(Event::Frame { seq: frame.seq, message: frame.message });
        }
    }

    /// A frame of a type that this version does not know: its place counts.
    fn skip(&mut self, now: Instant, text: &str) {
        match serde_json::from_str(text) {
            Ok(Envelope { seq, ack }) => {
                self.take_place(now, seq, ack);
            }
            Err(_) => self.lost(now, None),
        }
    }

    /// Whether the frame is the next one, or has no place in the sequence.
    fn take_place(&mut self, now: Instant, seq: u64, ack: u64) -> bool {
        if self.link == Link::Open {
            self.dead_at = Some(now + self.patience());
            self.kept.acknowledge(ack);
        }
        if seq == 0 || seq <= self.received {
            return seq == 0;
        }
        if self.link != Link::Open || seq != self.received + 1 {
            // A gap cannot be mended on this connection; the next hello names how far we are.
            self.connect(now, Duration::ZERO, Duration::ZERO);
            return false;
        }
        self.received = seq;
        if self.received - self.told >= ACK_EVERY {
            self.send_unsequenced(ACK);
        } else {
            self.ack_at.get_or_insert(now + ACK_DELAY);
        }
        true
    }

    fn enter(&mut self, now: Instant, ack: u64, welcome: Box<Welcome>) {
        if welcome.outcome != Outcome::Resumed {
            self.received = 0;
            self.kept = Kept::default();
        }
        self.resume = Some(welcome.resume.clone());
        (self.limits, self.ping) = (welcome.limits, welcome.ping);
        self.failures = 0;
        self.link = Link::Open;
        self.dead_at = Some(now + self.patience());
        self.kept.acknowledge(ack);
        self.kept.rewind();
        // The token that we came with is good until the server has heard us with the new one.
        self.send_unsequenced(ACK);
        if std::mem::take(&mut self.token_due) {
            self.send_token();
        }
        self.tell(Event::Welcome(welcome));
        self.flush(now);
    }

    fn signal(&mut self, now: Instant, to: PeerId, negotiation: &Negotiation, payload: &Payload) {
        let negotiation = serde_json::to_string(negotiation).expect("a string serialises without error");
        let (field, raw) = (payload.field(), payload.raw().get());
        // RawValue keeps line breaks between tokens, and a line of a POST has none.
        let raw = raw.replace(['\n', '\r'], " ");
        self.keep(now, format!(r#""type":"signal","to":"{to}","negotiation":{negotiation},"{field}":{raw}"#));
    }

    fn moderate(&mut self, now: Instant, moderation: &Moderation) {
        let text = serde_json::to_string(moderation).expect("strings and numbers serialise without error");
        let fields = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(&text);
        self.keep(now, fields.to_owned());
    }

    fn show(&mut self, token: AccessToken) {
        self.former = self.identity.token.replace(token);
        self.token_due = self.link == Link::Greeting;
        self.send_token();
    }

    fn send_token(&mut self) {
        let quoted = serde_json::to_string(&self.identity.token).expect("a string serialises without error");
        self.send_unsequenced(&format!(r#""type":"token","token":{quoted}"#));
    }

    /// What the server says of a further token.
    fn judge(&mut self, message: &ServerMessage) {
        if matches!(message, ServerMessage::Granted(_)) {
            self.former = None;
        } else if let ServerMessage::Error(error) = message
            && error.code == ErrorCode::TokenRefused
            && let Some(former) = self.former.take()
        {
            self.identity.token = Some(former);
        }
    }

    fn report(&mut self, url: &str, code: u16) {
        if url.len() <= MAX_URL_BYTES {
            let url = serde_json::to_string(url).expect("a string serialises without error");
            let fields = format!(r#""type":"report","kind":"turn_error","url":{url},"code":{code}"#);
            self.send_unsequenced(&fields);
        }
    }

    /// Before the first `welcome` there is nobody to send to.
    fn keep(&mut self, now: Instant, fields: String) {
        if self.resume.is_none() || matches!(self.link, Link::None | Link::Leaving) {
            return;
        }
        let seq = self.kept.push(fields);
        self.tell(Event::Kept(seq));
        if self.kept.exceeds(&self.limits) {
            // More is outstanding than may be kept: an honest fresh start instead of a silent gap.
            self.resume = None;
            self.kept = Kept::default();
            return self.connect(now, Duration::ZERO, Duration::ZERO);
        }
        self.flush(now);
    }

    fn flush(&mut self, now: Instant) {
        self.flush_at = None;
        if self.link != Link::Open {
            return;
        }
        while !self.kept.is_flushed() {
            let pace = self.pace.get_or_insert_with(|| Pace::full(now));
            if let Err(later) = pace.take(now, &self.limits) {
                self.flush_at = Some(later);
                return;
            }
            let Some((seq, fields)) = self.kept.next() else { return };
            let text = format!(r#"{{"seq":{seq},"ack":{},{fields}}}"#, self.received);
            self.write(text);
        }
    }

    /// What belongs to this connection.
    fn send_unsequenced(&mut self, fields: &str) {
        if self.link == Link::Open {
            self.write(format!(r#"{{"seq":0,"ack":{},{fields}}}"#, self.received));
        }
    }

    fn write(&mut self, text: String) {
        self.told = self.received;
        self.ack_at = None;
        self.outputs.push_back(Output::Send { conn: self.conn, text });
    }

    fn leave(&mut self, now: Instant) {
        if self.link != Link::Open {
            return self.end(None);
        }
        self.keep(now, r#""type":"bye""#.to_owned());
        if self.link == Link::Open && self.kept.is_flushed() {
            self.link = Link::Leaving;
            self.dead_at = Some(now + BYE_DEADLINE);
            (self.ack_at, self.flush_at) = (None, None);
        } else {
            self.end(None);
        }
    }

    /// The present connection is gone, or not worth keeping.
    fn lost(&mut self, now: Instant, code: Option<u16>) {
        if matches!(self.link, Link::None) {
            return;
        }
        let stay_away = code.is_some_and(|code| code == 1000 || (4200..4300).contains(&code));
        if self.link == Link::Leaving || stay_away {
            return self.end(code);
        }
        let asked = matches!(code, Some(4100..4200)).then_some(PATIENCE).unwrap_or_default();
        let after = if self.retry_after.is_zero() { asked } else { self.retry_after };
        let within = match self.failures {
            0 => Duration::ZERO,
            failures => FIRST_WAIT.saturating_mul(1 << (failures - 1).min(8)).min(LONGEST_WAIT),
        };
        self.failures += 1;
        self.connect(now, after, within);
    }

    fn end(&mut self, code: Option<u16>) {
        self.detach();
        self.resume = None;
        self.kept = Kept::default();
        self.tell(Event::Ended(code));
    }

    fn time_out(&mut self, now: Instant) {
        if self.dead_at.is_some_and(|at| at <= now) {
            return self.lost(now, None);
        }
        if self.ack_at.is_some_and(|at| at <= now) {
            self.ack_at = None;
            self.send_unsequenced(ACK);
        }
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// How long the server may be silent.
    fn patience(&self) -> Duration {
        Duration::from_millis(self.ping.interval_ms + self.ping.deadline_ms)
    }
}

const ACK: &str = r#""type":"ack""#;
const PONG: &str = r#""type":"pong""#;
/// Of a report; PROTOCOL.md allows no more.
const MAX_URL_BYTES: usize = 256;
/// From the wish for a connection to its `welcome`.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);
/// PROTOCOL.md asks for an acknowledgement after at most 1 s or 16 frames.
const ACK_DELAY: Duration = Duration::from_millis(800);
const ACK_EVERY: u64 = 16;
/// After `bye` the server closes; a dead network must not keep the program waiting for that.
const BYE_DEADLINE: Duration = Duration::from_secs(1);
/// When the server asked for patience and named no time.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait is up to this long, each further one up to twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(8);
