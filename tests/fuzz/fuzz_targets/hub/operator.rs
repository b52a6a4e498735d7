//! What the operator does to the hub as a whole, and what must hold of it.

use std::collections::HashMap;
use std::time::Duration;

use fuzz_targets::Tape;
use signaling::hub::{BanView, ConnId, Counts, Input, KeptOut, Limits, Subject};
use signaling_protocol::{CloseCode, Door, ErrorCode, GoAway, Notice, PeerId, RoomName, ServerMessage};

use super::expected::{Happened, Newcomers, notice};
use super::{ROOMS, SECRETS, World, secret};

impl World {
    /// A drain: at first everybody is asked to leave, or at once everybody is closed.
    pub(super) fn send_away(&mut self, tape: &mut Tape<'_>) {
        if tape.below(8) == 7 {
            return self.end_all();
        }
        let window = Duration::from_millis((1 << tape.below(18)) - 1);
        let url: Option<Box<str>> = (tape.below(2) == 0).then(|| "https://b.example".into());
        let happened = self.handle(Input::GoAway { window, url: url.clone() });
        assert!(
            happened.closed.is_empty() && happened.before == happened.after,
            "who is asked to leave stays"
        );
        assert_eq!(happened.sent.len(), self.open.len());
        let mut rooms: HashMap<&str, Vec<u64>> = HashMap::new();
        for &(conn, room) in &self.open {
            rooms.entry(room).or_default().push(asked(&happened, conn, url.as_deref()));
        }
        let window = u64::try_from(window.as_millis()).expect("a short time");
        for times in rooms.values() {
            let [first, last] =
                [times.iter().min(), times.iter().max()].map(|time| *time.expect("one at least"));
            assert!(last <= window && last - first <= 1_000, "{first}..{last} of {window}");
        }
        assert!(
            self.open.is_empty() || rooms.values().flatten().any(|time| *time == 0),
            "nobody goes at once"
        );
        if self.expected.newcomers != Newcomers::Ended {
            self.expected.newcomers = Newcomers::Elsewhere(url);
        }
    }

    pub(super) fn welcome_again(&mut self, _: &mut Tape<'_>) {
        let happened = self.handle(Input::Stay);
        assert!(happened.is_nothing(), "nobody notices");
        if self.expected.newcomers != Newcomers::Ended {
            self.expected.newcomers = Newcomers::Welcome;
        }
    }

    fn end_all(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.open.clone_from(&open);
        let happened = self.handle(Input::Drain);
        for (conn, _) in open {
            let last = happened.sent_to(conn).last().map(|frame| &frame.message);
            assert!(matches!(last, Some(ServerMessage::Error(error)) if error.code == ErrorCode::GoingAway));
            assert!(happened.closed.contains(&(conn, CloseCode::GoingAway)));
        }
        assert_eq!(happened.after, Counts::default(), "something is left");
        self.expected.newcomers = Newcomers::Ended;
    }

    /// Who comes while the server ends is told where to go, if that is known, and nothing else happens.
    pub(super) fn expect_turned_away(&self, conn: ConnId, happened: &Happened) {
        let sent: Vec<_> = happened.sent_to(conn).map(|frame| &frame.message).collect();
        let (&error, before) = sent.split_last().expect("it is told why");
        assert!(matches!(error, ServerMessage::Error(error) if error.code == ErrorCode::GoingAway));
        if let Newcomers::Elsewhere(Some(origin)) = &self.expected.newcomers {
            let [ServerMessage::GoAway(away)] = before else { panic!("it is not told where: {before:?}") };
            assert_eq!(*away, GoAway { in_ms: 0, url: Some(origin.clone()) });
        }
        assert!(happened.sent.len() == sent.len() && happened.before == happened.after);
    }

    /// Everybody in the room hears it, now or on coming back, and nobody else does.
    pub(super) fn notice(&mut self, tape: &mut Tape<'_>) {
        let name = ROOMS[tape.below(ROOMS.len())];
        let room: RoomName = name.parse().expect("a room of one letter");
        self.expected.notices += 1;
        let text = format!("{} {}", self.expected.notices, "n".repeat(tape.below(256)));
        let said = Notice { text: text.parse().expect("a short text") };
        self.owe(&room, &text);
        let open = self.open.clone();
        let happened = self.handle(Input::Notice { room, notice: said });
        for (conn, of) in open {
            let heard: Vec<_> = happened.sent_to(conn).filter_map(notice).collect();
            let closed = happened.closed.iter().find(|(closed, _)| *closed == conn).map(|(_, code)| *code);
            if of != name {
                assert!(happened.sent_to(conn).next().is_none() && closed.is_none(), "another room hears it");
            } else if closed != Some(CloseCode::SlowReader) || !heard.is_empty() {
                assert_eq!(heard, [text.as_str()], "everybody hears it once");
            }
        }
        assert_eq!(happened.before.sessions, happened.after.sessions);
    }

    /// Whoever is let in again is kept out by nothing, and nobody notices.
    pub(super) fn lift(&mut self, tape: &mut Tape<'_>) {
        let room: RoomName = ROOMS[tape.below(ROOMS.len())].parse().expect("a room of one letter");
        let peer = PeerId::derive(&room, &secret(tape.below(SECRETS)).parse().expect("43 letters"));
        let by_subject = Subject::new("u").filter(|_| tape.below(2) == 0);
        let before = self.hub.bans(self.now, &room);
        let of_peer = before.iter().find(|ban| ban.peer == Some(peer)).and_then(|ban| ban.subject.clone());
        let (peer, subject) = match &by_subject {
            Some(subject) => (None, Some(subject.clone())),
            None => (Some(peer), of_peer),
        };
        let whom = by_subject
            .map_or_else(|| KeptOut::Peer(peer.expect("it is by one or the other")), KeptOut::Subject);
        let happened = self.handle(Input::Lift { room: room.clone(), whom });
        assert!(happened.sent.is_empty() && happened.closed.is_empty(), "nobody notices");
        let about =
            |of: &BanView| peer.is_some() && of.peer == peer || subject.is_some() && of.subject == subject;
        let rest: Vec<BanView> = before.into_iter().filter(|ban| !about(ban)).collect();
        assert_eq!(self.hub.bans(self.now, &room), rest, "the others stay");
        assert!(happened.after.bans <= happened.before.bans);
    }

    /// Other limits hold at once, of what comes: what is there stays, and nobody notices.
    pub(super) fn limit(&mut self, tape: &mut Tape<'_>) {
        let limits = limits(tape);
        let happened = self.handle(Input::Limits(Box::new(limits.clone())));
        let quiet = happened.sent.is_empty() && happened.closed.is_empty();
        let Happened { before, after, .. } = happened;
        assert!(quiet && Counts { timers: 0, ..before } == Counts { timers: 0, ..after }, "nobody notices");
        assert_eq!(*self.hub.limits(), limits);
        let silent = self.now + limits.ping_interval + limits.ping_deadline;
        let first = self.hub.deadline();
        assert!(
            self.open.is_empty() || first.is_some_and(|first| first <= silent),
            "a silence is noticed too late"
        );
    }
}

/// When a client was asked to leave, in milliseconds.
fn asked(happened: &Happened, conn: ConnId, url: Option<&str>) -> u64 {
    let mut sent = happened.sent_to(conn);
    match sent.next().map(|frame| (frame.seq, &frame.message)) {
        Some((0, ServerMessage::GoAway(away))) if sent.next().is_none() => {
            assert_eq!(away.url.as_deref(), url);
            away.in_ms
        }
        other => panic!("it was not asked to leave: {other:?}"),
    }
}

/// Limits that so few clients reach.
fn limits(tape: &mut Tape<'_>) -> Limits {
    let time = |tape: &mut Tape<'_>| Duration::from_millis(1 << tape.below(17));
    Limits {
        messages_per_second: 1 << tape.below(10),
        message_burst: 1 << tape.below(10),
        peers_per_room: 1 + tape.below(4),
        rooms: 1 + tape.below(2),
        sessions: 1 + tape.below(8),
        replay_messages: 1 << tape.below(11),
        replay_bytes: 1 << tape.below(19),
        replay_total_bytes: 1 << tape.below(20),
        replay_reserve: 1 << tape.below(15),
        ping_interval: time(tape),
        ping_deadline: time(tape),
        grace: time(tape),
        bans_per_room: 1 + tape.below(4),
        bans: 1 + tape.below(8),
        door: [Door::Open, Door::Locked, Door::Knock][tape.below(3)],
        knocks: 1 + tape.below(4),
        ..Limits::default()
    }
}
