//! Tests of the hub: a virtual clock, connections that are lists of frames, everything through its JSON text.

mod bounds;
mod conversation;
mod document;
mod drain;
mod entrance;
mod grants;
mod model;
mod moderation;
mod operator;
mod property;
mod resume;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use signaling_protocol::{
    ClientFrame, ClientMessage, CloseCode, ErrorCode, IceServer, IceServers, PeerId, ServerError,
    ServerFrame, ServerMessage, SessionId, Welcome,
};

use super::{ConnId, Event, GoneReason, Grant, Hub, Input, Limits, Output};

/// The one real instant that all virtual ones are counted from.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made from nothing")]
pub(super) fn start() -> Instant {
    Instant::now()
}

pub(super) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(super) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A hub, its clock, and what came out of it.
struct World {
    hub: Hub,
    now: Instant,
    /// Frames sent and not yet looked at.
    inbox: HashMap<ConnId, Vec<ServerFrame>>,
    closed: HashMap<ConnId, CloseCode>,
    events: Vec<Event>,
    refreshes: Vec<SessionId>,
    next_conn: u64,
    ice: IceServers,
    /// What whoever says hello next was granted.
    grant: Option<Grant>,
    /// Tokens to verify: whose, and what.
    shown: Vec<(SessionId, String)>,
}

/// A client that keeps its side of the protocol by hand.
#[derive(Clone)]
struct Client {
    conn: ConnId,
    letter: char,
    room: &'static str,
    seq: u64,
    peer: PeerId,
    token: String,
}

impl World {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self {
            hub: Hub::new(limits, ChaCha20Rng::seed_from_u64(1)),
            now: start(),
            inbox: HashMap::new(),
            closed: HashMap::new(),
            events: Vec::new(),
            refreshes: Vec::new(),
            next_conn: 0,
            ice: IceServers::default(),
            grant: Some(Grant::default()),
            shown: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        for output in self.hub.handle(self.now, input) {
            match output {
                Output::Send { conn, frame } => {
                    assert!(!self.closed.contains_key(&conn), "a frame after the close");
                    let text = frame.to_text();
                    assert!(text.len() <= frame.max_len());
                    self.inbox.entry(conn).or_default().push(ServerFrame::parse(&text).unwrap());
                }
                Output::Close { conn, code } => {
                    assert_eq!(self.closed.insert(conn, code), None, "closed twice");
                }
                Output::RefreshIce { session, .. } => self.refreshes.push(session),
                Output::Verify { session, token, .. } => {
                    self.shown.push((session, token.as_str().to_owned()))
                }
                Output::Event(event) => self.events.push(event),
            }
        }
        assert_consistent(&self.hub);
    }

    /// Lets the time pass, deadline by deadline.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.hub.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    /// Lets the time pass while these clients show that they are there.
    fn pass_alive(&mut self, time: Duration, clients: &[&Client]) {
        let until = self.now + time;
        while self.now < until {
            self.pass(secs(1).min(until - self.now));
            for client in clients {
                self.say(client, r#""type":"ack","seq":0,"ack":0"#);
            }
        }
    }

    /// A connection that says hello as the peer of this letter.
    fn hello(&mut self, letter: char, room: &str, ack: u64, more: &str) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        let secret = letter.to_string().repeat(42) + "A";
        let text = format!(
            r#"{{"type":"hello","seq":0,"ack":{ack},"secret":"{secret}","instance":"run-{letter}"{more}}}"#
        );
        let frame = ClientFrame::parse(text.as_bytes()).unwrap();
        let ClientMessage::Hello(hello) = frame.message else { panic!("a hello") };
        let room = room.parse().unwrap();
        self.input(Input::Attach {
            conn,
            room,
            ack,
            hello,
            grant: self.grant.clone(),
            ice: self.ice.clone(),
        });
        conn
    }

    fn join(&mut self, letter: char, room: &'static str) -> Client {
        let conn = self.hello(letter, room, 0, "");
        let welcome = self.welcome(conn);
        let (peer, token) = (welcome.peer, welcome.resume.as_str().to_owned());
        Client { conn, letter, room, seq: 0, peer, token }
    }

    /// Joins the lobby with this grant.
    fn join_as(&mut self, letter: char, grant: Grant) -> Client {
        self.grant = Some(grant);
        self.join(letter, "lobby")
    }

    /// The client comes back on a new connection.
    fn resume(&mut self, client: &mut Client, ack: u64) -> Welcome {
        client.conn =
            self.hello(client.letter, client.room, ack, &format!(r#","resume":"{}""#, client.token));
        self.welcome(client.conn)
    }

    fn gone(&mut self, client: &Client) {
        self.input(Input::Gone { conn: client.conn, why: GoneReason::Closed });
    }

    /// Sends one frame; `fields` is the object without its braces.
    fn say(&mut self, client: &Client, fields: &str) {
        let frame = ClientFrame::parse(format!("{{{fields}}}").as_bytes()).unwrap();
        self.input(Input::Frame { conn: client.conn, frame });
    }

    /// Sends the client's next signal, acknowledging nothing.
    fn signal(&mut self, client: &mut Client, to: PeerId, payload: &str) {
        client.seq += 1;
        self.signal_as(client, client.seq, to, payload);
    }

    fn signal_as(&mut self, client: &Client, seq: u64, to: PeerId, payload: &str) {
        self.say(
            client,
            &format!(
                r#""type":"signal","seq":{seq},"ack":0,"to":"{to}","negotiation":"n","candidate":{payload}"#
            ),
        );
    }

    fn ack(&mut self, client: &Client, ack: u64) {
        self.say(client, &format!(r#""type":"ack","seq":0,"ack":{ack}"#));
    }

    fn frames(&mut self, conn: ConnId) -> Vec<ServerFrame> {
        self.inbox.remove(&conn).unwrap_or_default()
    }

    /// What was sent since the last look, one word each, e.g. `2:peer_left`.
    fn heard(&mut self, client: &Client) -> Vec<String> {
        self.frames(client.conn).iter().map(word).collect()
    }

    /// Takes the welcome that is first in the inbox.
    fn welcome(&mut self, conn: ConnId) -> Welcome {
        let inbox = self.inbox.get_mut(&conn).expect("something was sent");
        match inbox.remove(0) {
            ServerFrame { seq: 0, message: ServerMessage::Welcome(welcome), .. } => *welcome,
            other => panic!("not a welcome: {other:?}"),
        }
    }

    /// The error before the close, and the code of the close.
    fn farewell(&mut self, conn: ConnId) -> (ServerError, u16) {
        let code = self.closed.get(&conn).expect("it was closed").code();
        match self.frames(conn).pop() {
            Some(ServerFrame { seq: 0, message: ServerMessage::Error(error), .. }) => (error, code),
            other => panic!("not an error: {other:?}"),
        }
    }

    fn close_code(&self, conn: ConnId) -> Option<u16> {
        self.closed.get(&conn).map(|code| code.code())
    }

    fn assert_empty(&self) {
        assert_eq!(self.hub.counts(), super::Counts::default());
        assert_eq!(self.hub.deadline(), None);
    }
}

/// A frame in one word: `seq:type`, and what tells two of a type apart.
fn word(frame: &ServerFrame) -> String {
    let what = match &frame.message {
        ServerMessage::Welcome(welcome) => format!("welcome {:?}", welcome.outcome),
        ServerMessage::PeerJoined(joined) if joined.resync => "peer_joined again".to_owned(),
        ServerMessage::PeerJoined(_) => "peer_joined".to_owned(),
        ServerMessage::PeerChanged(changed) => format!("peer {:?}", changed.state).to_lowercase(),
        ServerMessage::PeerLeft(left) => format!("peer_left {:?}", left.reason).to_lowercase(),
        ServerMessage::RoomChanged(changed) => format!("room {:?}", changed.door).to_lowercase(),
        ServerMessage::Knock(_) => "knock".to_owned(),
        ServerMessage::KnockEnded(_) => "knock_ended".to_owned(),
        ServerMessage::Signal(signal) => format!("signal {}", signal.payload.raw().get()),
        ServerMessage::Bans(list) => format!("bans {}", list.bans.len()),
        ServerMessage::Granted(_) => "granted".to_owned(),
        ServerMessage::Ice(_) => "ice".to_owned(),
        ServerMessage::Error(error) => format!("error {}", serde_json::to_string(&error.code).unwrap()),
        ServerMessage::Notice(notice) => format!("notice {}", notice.text.as_str()),
        ServerMessage::GoAway(away) => {
            format!("goaway {} {}", away.in_ms, away.url.as_deref().unwrap_or("-"))
        }
        ServerMessage::Ping => "ping".to_owned(),
        ServerMessage::Ack => "ack".to_owned(),
    };
    format!("{}:{what}", frame.seq)
}

fn credentials(expires_in: Duration) -> IceServers {
    let server = IceServer {
        urls: vec!["turn:turn.example:3478?transport=udp".into()],
        username: Some("1:x".into()),
        credential: Some("p".into()),
    };
    IceServers { servers: vec![server], expires_in: Some(expires_in) }
}

/// The `re` and code of an error that leaves the connection standing.
fn refusal(frame: &ServerFrame) -> (Option<u64>, ErrorCode) {
    let ServerMessage::Error(error) = &frame.message else { panic!("not an error: {frame:?}") };
    assert_ne!(frame.seq, 0, "this one precedes a close");
    (error.re, error.code)
}

/// Every index agrees with the sessions, and the counts with what they count.
fn assert_consistent(hub: &Hub) {
    let mut held = super::ring::Held::default();
    let mut attached = 0;
    let mut timers = 0;
    for (slot, session) in &hub.sessions {
        held.frames += session.ring.held().frames;
        held.bytes += session.ring.held().bytes;
        assert_eq!(hub.sessions_by_id[&session.id], slot);
        assert_eq!(hub.rooms[session.room].find(&session.peer), Some(slot));
        if let Some(conn) = session.conn() {
            attached += 1;
            assert_eq!(hub.conns[&conn], slot);
            assert!(!session.ring.overflowed(), "whoever is attached has missed nothing");
        }
        let wake = session.wake.expect("every session has a deadline");
        assert!(wake <= session.due(&hub.limits));
        timers += 1;
    }
    let members: usize = hub.rooms.iter().map(|(_, room)| room.len()).sum();
    assert!(hub.rooms.iter().all(|(slot, room)| !room.is_empty() && hub.rooms_by_name[&room.name] == slot));
    assert_eq!((members, hub.sessions_by_id.len()), (hub.sessions.len(), hub.sessions.len()));
    assert_eq!((hub.conns.len(), hub.rooms_by_name.len()), (attached, hub.rooms.len()));
    assert_eq!((hub.held, hub.deadlines.len()), (held, timers));
    let waiting = hub.rooms.iter().flat_map(|(slot, room)| {
        assert!(room.waiting.len() <= hub.limits.knocks);
        assert!(room.waiting.is_empty() || room.door == signaling_protocol::Door::Knock);
        room.waiting.iter().map(move |waiting| (waiting.until, slot, waiting.peer))
    });
    assert!(waiting.collect::<std::collections::BTreeSet<_>>() == hub.knocks);
    hub.bans.assert_consistent(&hub.limits);
    hub.removed.assert_consistent(&hub.limits);
}
