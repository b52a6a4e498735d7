//! The hub, driven by bytes as clients, the operator and time might drive it: well-formed and malformed frames, resumes with right and wrong
//! tokens, cuts, drains, notices, other limits. What must hold of every input is in `expected`, what of the operator's in `operator`.
#![no_main]

mod expected;
mod operator;

use std::time::{Duration, Instant};

use fuzz_targets::Tape;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use signaling::hub::{
    ConnId, Counts, GoneReason, Grant, Hub, Identity, Input, Limits, Subject, Unproven, Whom,
};
use signaling_protocol::{ClientFrame, ClientMessage, Door, IceServers, PeerId, RoomName, SessionId};

use expected::Expected;

const SECRETS: usize = 4;
const ROOMS: [&str; 2] = ["a", "b"];

fuzz_target!(|bytes: &[u8]| {
    let mut world = World::new();
    let mut tape = Tape::new(bytes);
    while !tape.is_over() {
        world.step(&mut tape);
    }
    world.end();
});

struct World {
    hub: Hub,
    now: Instant,
    next_conn: u64,
    /// Connections that the hub knows of, and the room of each.
    open: Vec<(ConnId, &'static str)>,
    /// Resume tokens given out.
    tokens: Vec<String>,
    sessions: Vec<SessionId>,
    expected: Expected,
}

impl World {
    fn new() -> Self {
        Self {
            hub: Hub::new(Limits::default(), ChaCha20Rng::from_seed([7; 32])),
            now: Instant::now(),
            next_conn: 0,
            open: Vec::new(),
            tokens: Vec::new(),
            sessions: Vec::new(),
            expected: Expected::default(),
        }
    }

    fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.below(14) {
            0 | 1 => self.attach(tape),
            2..=4 => self.frame(tape),
            5 => {
                let Some(index) = self.pick(tape) else { return };
                let (conn, _) = self.open.remove(index);
                let why = [GoneReason::Closed, GoneReason::SlowReader][tape.below(2)];
                self.handle(Input::Gone { conn, why });
            }
            6 => {
                self.now += Duration::from_millis(1 << tape.below(17));
                self.handle(Input::Timeout);
            }
            7 => self.moderate(tape),
            9 => self.send_away(tape),
            10 => self.welcome_again(tape),
            11 => self.notice(tape),
            12 => self.limit(tape),
            13 => self.lift(tape),
            _ => {
                if let Some(&session) = self.sessions.get(tape.below(256)) {
                    self.handle(Input::Ice { session, ice: ice() });
                }
            }
        }
    }

    fn grant(&self, tape: &mut Tape<'_>) -> Grant {
        Grant {
            subject: Subject::new(["", "u"][tape.below(2)]),
            expires: (tape.below(2) == 0).then(|| self.now + Duration::from_millis(1 << tape.below(17))),
            may_publish: tape.below(4) > 0,
            may_kick: tape.below(2) == 0,
            may_lock: tape.below(2) == 0,
            turn: tape.below(2) == 0,
            identity: [Identity::Several, Identity::Replace, Identity::Reject][tape.below(3)],
            ..Grant::default()
        }
    }

    fn moderate(&mut self, tape: &mut Tape<'_>) {
        let room: RoomName = ROOMS[tape.below(ROOMS.len())].parse().expect("a room of one letter");
        let ban = (tape.below(2) == 0).then(|| Duration::from_millis(1 << tape.below(24)));
        let verdict = match tape.below(4) {
            0 => Err(Unproven::Refused),
            1 => Err(Unproven::Unverified),
            _ => Ok(self.grant(tape)),
        };
        let input = match (tape.below(4), self.sessions.get(tape.below(256))) {
            (0, _) => Input::Door { room, door: [Door::Open, Door::Locked, Door::Knock][tape.below(3)] },
            // Asked for or not.
            (3, Some(&session)) => Input::Grant { session, verdict },
            (1, Some(&session)) => Input::Kick { whom: Whom::Session(session), ban, reason: None },
            _ => {
                let peer = PeerId::derive(&room, &secret(tape.below(SECRETS)).parse().expect("43 letters"));
                Input::Kick { whom: Whom::Peer(room, peer), ban, reason: Some("go".into()) }
            }
        };
        self.handle(input);
    }

    fn attach(&mut self, tape: &mut Tape<'_>) {
        let room = ROOMS[tape.below(ROOMS.len())];
        let secret = secret(tape.below(SECRETS));
        let resume = match self.tokens.get(tape.below(256)) {
            Some(token) => format!(r#","resume":"{token}""#),
            None => String::new(),
        };
        let resume = format!("{resume}{}", ["", r#","password":"x""#][tape.below(2)]);
        let ack = tape.below(32);
        let hello =
            format!(r#"{{"type":"hello","seq":0,"ack":{ack},"secret":"{secret}","instance":"i"{resume}}}"#);
        let frame = ClientFrame::parse(hello.as_bytes()).expect("a hello like this parses");
        let ClientMessage::Hello(hello) = frame.message else { unreachable!("a hello is a hello") };
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.open.push((conn, room));
        let room_name: RoomName = room.parse().expect("a room of one letter");
        let session = self.hub.session_for(&room_name, frame.ack, &hello);
        let grant = (tape.below(8) > 0).then(|| self.grant(tape));
        let ack = frame.ack;
        let claims = self.claims(session, ack);
        let happened = self.handle(Input::Attach { conn, room: room_name, ack, hello, grant, ice: ice() });
        self.expect_of_attach(conn, session, claims, &happened);
    }

    fn frame(&mut self, tape: &mut Tape<'_>) {
        let Some(index) = self.pick(tape) else { return };
        let (conn, room) = self.open[index];
        let (seq, ack) = (tape.below(32), tape.below(64));
        let envelope = format!(r#""seq":{seq},"ack":{ack}"#);
        let text = match tape.below(9) {
            0..=2 => {
                let room: RoomName = room.parse().expect("a room of one letter");
                let to = PeerId::derive(&room, &secret(tape.below(SECRETS)).parse().expect("43 letters"));
                let candidate = "x".repeat(usize::from(tape.short()) % 60_000);
                format!(
                    r#"{{"type":"signal",{envelope},"to":"{}","negotiation":"n","candidate":"{candidate}"}}"#,
                    to.as_str()
                )
            }
            3 => format!(
                r#"{{"type":"{}","seq":0,"ack":{ack},"token":"t"}}"#,
                ["ack", "pong", "token"][tape.below(3)]
            ),
            4 => format!(r#"{{"type":"{}",{envelope}}}"#, ["bye", "unheard-of"][tape.below(2)]),
            5 => {
                let room: RoomName = room.parse().expect("a room of one letter");
                let to = PeerId::derive(&room, &secret(tape.below(SECRETS)).parse().expect("43 letters"));
                match tape.below(4) {
                    0 => format!(r#"{{"type":"lift",{envelope},"to":"{}"}}"#, to.as_str()),
                    1 => format!(r#"{{"type":"bans",{envelope}}}"#),
                    _ => format!(
                        r#"{{"type":"kick",{envelope},"to":"{}","ban_ms":{}}}"#,
                        to.as_str(),
                        tape.short()
                    ),
                }
            }
            6 => {
                let door = ["open", "locked", "knock"][tape.below(3)];
                let password = ["", r#","password":"""#, r#","password":"x""#][tape.below(3)];
                format!(r#"{{"type":"door",{envelope},"door":"{door}"{password}}}"#)
            }
            7 => {
                let room: RoomName = room.parse().expect("a room of one letter");
                let to = PeerId::derive(&room, &secret(tape.below(SECRETS)).parse().expect("43 letters"));
                let answer = ["admit", "deny"][tape.below(2)];
                format!(r#"{{"type":"{answer}",{envelope},"to":"{}"}}"#, to.as_str())
            }
            _ => String::from_utf8_lossy(tape.bytes()).into_owned(),
        };
        match ClientFrame::parse(text.as_bytes()) {
            Ok(frame) => self.handle(Input::Frame { conn, frame }),
            Err(error) => self.handle(Input::Malformed { conn, error }),
        };
    }

    fn pick(&self, tape: &mut Tape<'_>) -> Option<usize> {
        let choice = tape.below(256);
        (!self.open.is_empty()).then(|| choice % self.open.len())
    }

    /// Everyone leaves; after the grace nothing is left.
    fn end(mut self) {
        while let Some((conn, _)) = self.open.pop() {
            self.handle(Input::Gone { conn, why: GoneReason::Closed });
        }
        let mut rounds = 0;
        while let Some(deadline) = self.hub.deadline() {
            self.now = self.now.max(deadline);
            self.handle(Input::Timeout);
            rounds += 1;
            assert!(rounds < 100_000, "its deadlines never end");
        }
        assert_eq!(self.hub.counts(), Counts::default(), "something is left");
    }
}

fn secret(index: usize) -> String {
    format!("{}{index}", "s".repeat(41)) + "A"
}

fn ice() -> IceServers {
    IceServers::default()
}
