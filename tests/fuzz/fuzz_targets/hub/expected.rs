//! What must hold of every input, whatever it is.

use std::collections::HashMap;

use signaling::hub::{ConnId, Counts, Input, Limits, Output};
use signaling_protocol::{CloseCode, Outcome, PeerState, RoomName, ServerFrame, ServerMessage, SessionId};

use super::{ROOMS, SECRETS, World};

/// What is known of the hub from outside of it.
#[derive(Default)]
pub(super) struct Expected {
    /// The last sequenced frame on each connection.
    sequence: HashMap<ConnId, u64>,
    session_of: HashMap<ConnId, SessionId>,
    /// The last sequenced frame that a session was sent.
    reached: HashMap<SessionId, u64>,
    /// Notices that were said to a session while it was away.
    owed: Vec<(SessionId, String)>,
    pub(super) notices: u32,
    pub(super) newcomers: Newcomers,
    /// The widest limits so far: what was there when they became narrower stays.
    widest: Option<Limits>,
}

/// What becomes of who attaches.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Newcomers {
    #[default]
    Welcome,
    /// They are turned away, to this origin if it is known.
    Elsewhere(Option<Box<str>>),
    /// They are turned away for good.
    Ended,
}

/// What one input led to.
pub(super) struct Happened {
    pub(super) sent: Vec<(ConnId, ServerFrame)>,
    pub(super) closed: Vec<(ConnId, CloseCode)>,
    pub(super) before: Counts,
    pub(super) after: Counts,
}

impl Happened {
    pub(super) fn sent_to(&self, conn: ConnId) -> impl Iterator<Item = &ServerFrame> {
        self.sent.iter().filter(move |(to, _)| *to == conn).map(|(_, frame)| frame)
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.sent.is_empty() && self.closed.is_empty() && self.before == self.after
    }
}

impl World {
    /// Applies one input and checks that what comes out can be carried out.
    pub(super) fn handle(&mut self, input: Input) -> Happened {
        let ack = if let Input::Attach { ack, .. } = &input { *ack } else { 0 };
        let before = self.hub.counts();
        let outputs: Vec<Output> = self.hub.handle(self.now, input).collect();
        let (mut sent, mut closed) = (Vec::new(), Vec::new());
        for output in outputs {
            match output {
                Output::Send { conn, frame } => {
                    assert!(self.is_open(conn), "sent to a connection that is gone");
                    let frame = ServerFrame::parse(&frame.to_text()).expect("what the hub sends parses");
                    self.read(conn, ack, &frame);
                    sent.push((conn, frame));
                }
                Output::Close { conn, code } => {
                    assert!(self.is_open(conn), "closed a connection that is gone");
                    self.open.retain(|(open, _)| *open != conn);
                    closed.push((conn, code));
                }
                Output::RefreshIce { .. } | Output::Verify { .. } | Output::Event(_) => {}
            }
        }
        let happened = Happened { sent, closed, before, after: self.hub.counts() };
        self.expect_bounds(&happened);
        happened
    }

    fn is_open(&self, conn: ConnId) -> bool {
        self.open.iter().any(|(open, _)| *open == conn)
    }

    /// Each connection gets the frames of its session in their order, none of them twice and none left out.
    fn read(&mut self, conn: ConnId, ack: u64, frame: &ServerFrame) {
        let Expected { sequence, session_of, reached, .. } = &mut self.expected;
        if let ServerMessage::Welcome(welcome) = &frame.message {
            let begins = if welcome.outcome == Outcome::Resumed { ack } else { 0 };
            assert_eq!(sequence.insert(conn, begins), None, "a second welcome");
            session_of.insert(conn, welcome.session);
            self.tokens.push(welcome.resume.as_str().to_owned());
            self.sessions.push(welcome.session);
        }
        if frame.seq > 0 {
            let last = sequence.get_mut(&conn).expect("welcome comes first");
            assert_eq!(frame.seq, *last + 1, "a gap or a repetition in what is sent");
            *last = frame.seq;
            let reached = reached.entry(session_of[&conn]).or_default();
            *reached = frame.seq.max(*reached);
        }
    }

    /// Whether a client claims to have seen what its session was never sent, which is up to the client.
    pub(super) fn claims(&self, session: SessionId, ack: u64) -> bool {
        ack > self.expected.reached.get(&session).copied().unwrap_or(0)
    }

    /// Whoever attaches gets what was announced, or hears why not.
    pub(super) fn expect_of_attach(
        &mut self,
        conn: ConnId,
        session: SessionId,
        claims: bool,
        happened: &Happened,
    ) {
        let code = happened.closed.iter().find(|(closed, _)| *closed == conn).map(|(_, code)| *code);
        assert_eq!(code == Some(CloseCode::GoingAway), self.expected.newcomers != Newcomers::Welcome);
        if self.expected.newcomers != Newcomers::Welcome {
            return self.expect_turned_away(conn, happened);
        }
        let mut sent = happened.sent_to(conn);
        if code.is_some() {
            let first = sent.next().map(|frame| &frame.message);
            // One that was welcomed may be put out at once, if what is sent to it is too much.
            return assert!(matches!(first, Some(ServerMessage::Error(_) | ServerMessage::Welcome(_))));
        }
        let Some(ServerMessage::Welcome(welcome)) = sent.next().map(|frame| &frame.message) else {
            panic!("whoever is not closed is welcomed");
        };
        assert_eq!(welcome.session, session, "the session was announced beforehand");
        if welcome.outcome == Outcome::Resumed {
            let said: Vec<&str> = sent.filter_map(notice).collect();
            let owed = self.expected.owed.extract_if(.., |(to, _)| *to == session);
            for (_, text) in owed {
                assert!(claims || said.contains(&text.as_str()), "{text} was not said again");
            }
        }
    }

    /// Those who are away when something is said to their room.
    pub(super) fn owe(&mut self, room: &RoomName, text: &str) {
        let Some((_, peers)) = self.hub.room(self.now, room) else { return };
        let away = peers.into_iter().filter(|peer| peer.state == PeerState::Away);
        self.expected.owed.extend(away.map(|peer| (peer.session, text.to_owned())));
    }

    fn expect_bounds(&mut self, happened: &Happened) {
        let Happened { before, after, .. } = happened;
        assert_eq!(after.attached, self.open.len(), "a connection is attached, or closed");
        assert!(after.rooms <= ROOMS.len() && after.sessions <= SECRETS * ROOMS.len());
        let limits = self.hub.limits();
        let widest = self.expected.widest.get_or_insert_with(|| limits.clone());
        widen(widest, limits);
        assert!(after.rooms <= before.rooms || before.rooms < limits.rooms, "a room too many");
        assert!(after.sessions <= before.sessions || before.sessions < limits.sessions, "a session too many");
        assert!(after.bans <= 2 * widest.bans && after.waiting <= ROOMS.len() * widest.knocks);
        let kept = after.buffered_bytes;
        assert!(kept <= after.sessions * widest.replay_bytes, "{kept} bytes for {} sessions", after.sessions);
        assert!(kept <= widest.replay_total_bytes + after.sessions * widest.replay_reserve, "{kept} bytes");
        assert!(after.buffered_frames <= after.sessions * widest.replay_messages);
    }
}

fn widen(widest: &mut Limits, limits: &Limits) {
    widest.replay_messages = widest.replay_messages.max(limits.replay_messages);
    widest.replay_bytes = widest.replay_bytes.max(limits.replay_bytes);
    widest.replay_total_bytes = widest.replay_total_bytes.max(limits.replay_total_bytes);
    widest.replay_reserve = widest.replay_reserve.max(limits.replay_reserve);
    widest.bans = widest.bans.max(limits.bans);
    widest.knocks = widest.knocks.max(limits.knocks);
}

/// What a frame says to the room, if that is what it does.
pub(super) fn notice(frame: &ServerFrame) -> Option<&str> {
    match &frame.message {
        ServerMessage::Notice(notice) => Some(notice.text.as_str()),
        _ => None,
    }
}
