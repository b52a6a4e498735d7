//! The hub: rooms, sessions and what is said between them, as a value.
//!
//! ```text
//!                    +---------------- Hub ----------------+
//!   Input  --------> |  Room --members--> Session --Ring   | --------> Output
//!   (now, what       |    attached to a connection,        |           (send, close,
//!    happened)       |    or away until its grace ends     |            mint, tell)
//!                    +-------------------------------------+
//!                          deadline(): when to say Timeout
//! ```
//!
//! The driver owns sockets, clocks and queues. It numbers its connections, hands every event to [`Hub::handle`] with
//! the time, carries out what comes back, in that order, and says [`Input::Timeout`] when [`Hub::deadline`] has
//! passed. The hub touches no socket, no clock, no thread and no random source but the one that it was given, so a
//! test can run a million schedules in seconds.
//!
//! Invariants:
//! - Every sequenced frame reaches its session exactly once and in order, over however many connections, or the
//!   client is told `resync` in a new `welcome` and the others by `peer_joined`.
//! - The sender of a signal is written by the hub from the session that the connection is attached to.
//! - A session is attached to one connection, or away until a time; there is no third state.
//! - What a session may make the hub hold is bounded by [`Limits`]; when it ends, all of it is gone but the bans that it
//!   spoke, which end by themselves. An empty room does not exist.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod attach;
mod bans;
mod contract;
mod deadlines;
mod drain;
mod entrance;
mod frame;
mod grant;
mod inspect;
mod limits;
mod moderate;
mod ring;
mod room;
mod session;
mod speak;
mod token;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque, vec_deque};
use std::time::{Duration, Instant};

use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use signaling_protocol::{
    CloseCode, Hello, IceServers, LeaveReason, PeerId, RoomName, ServerMessage, SessionId,
};
use slab::Slab;

pub use contract::{ConnId, EndReason, Event, GoneReason, Input, KeptOut, Output, Traffic, Whom};
pub use frame::Frame;
pub use grant::{Grant, Identity, Subject, Unproven};
pub use inspect::{BanView, PeerView, RoomPage, RoomView};
pub use limits::Limits;
pub(crate) use limits::{Bucket, Rate};

use attach::Attach;
use bans::Bans;
use deadlines::Deadlines;
use frame::Body;
use moderate::Farewell;
use ring::Held;
use room::Room;
use session::{Link, Session, Slot};
use token::Epoch;

/// The hub of one shard. See the module.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    rng: ChaCha20Rng,
    epoch: Epoch,
    /// What the next fresh session will be called, drawn beforehand for [`Self::session_for`].
    next_session: SessionId,
    draining: bool,
    /// It shut down, and takes nobody any more.
    ended: bool,
    /// Where newcomers are sent meanwhile: the origin of another server.
    elsewhere: Option<Box<str>>,
    rooms: Slab<Room>,
    /// Hashed with SipHash: clients choose these keys. The other two maps have keys of ours.
    rooms_by_name: HashMap<RoomName, usize>,
    sessions: Slab<Session>,
    sessions_by_id: HashMap<SessionId, Slot, foldhash::fast::RandomState>,
    conns: HashMap<ConnId, Slot, foldhash::fast::RandomState>,
    deadlines: Deadlines,
    bans: Bans,
    /// Sessions that were removed, apart from the bans lest they crowd those out.
    removed: Bans,
    /// When those who knocked are forgotten, the room and who it is.
    knocks: BTreeSet<(Instant, usize, PeerId)>,
    held: Held,
    /// Sessions that fell too far behind during this input; whoever of them is attached is closed at its end.
    overflowed: Vec<Slot>,
    outputs: VecDeque<Output>,
}

/// What a hub holds, for metrics and tests. Cheap to ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rooms with a member.
    pub rooms: usize,
    /// Sessions, attached or away.
    pub sessions: usize,
    /// Sessions with a connection.
    pub attached: usize,
    /// Frames kept until their recipient acknowledges them.
    pub buffered_frames: usize,
    /// What these frames are charged for, in bytes.
    pub buffered_bytes: usize,
    /// Deadlines in the timing index.
    pub timers: usize,
    /// Peers and subjects that are kept out of a room, and sessions that were removed from one.
    pub bans: usize,
    /// Newcomers who wait for somebody to let them in.
    pub waiting: usize,
}

/// What must now happen, in order. It borrows the hub, so that it is drained before the next input.
#[must_use = "outputs are the only way the hub acts"]
#[derive(Debug)]
pub struct Outputs<'a>(vec_deque::Drain<'a, Output>);

impl Hub {
    /// Makes an empty hub. `rng` is what resume tokens and session ids are drawn from: seed it from the system.
    #[must_use]
    pub fn new(limits: Limits, mut rng: ChaCha20Rng) -> Self {
        let mut epoch = Epoch::default();
        rng.fill_bytes(&mut epoch);
        Self {
            limits,
            epoch,
            next_session: SessionId::from_bits(rng.next_u64()),
            rng,
            draining: false,
            ended: false,
            elsewhere: None,
            rooms: Slab::new(),
            rooms_by_name: HashMap::new(),
            sessions: Slab::new(),
            sessions_by_id: HashMap::default(),
            conns: HashMap::default(),
            deadlines: Deadlines::default(),
            bans: Bans::default(),
            removed: Bans::default(),
            knocks: BTreeSet::new(),
            held: Held::default(),
            overflowed: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The limits that hold now.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The session that an [`Input::Attach`] with this room, ack and hello would attach to, if it came next: the one
    /// that it resumes, or the fresh one that it starts. The driver asks, to mint TURN credentials in the session's
    /// name beforehand.
    #[must_use]
    pub fn session_for(&self, room: &RoomName, ack: u64, hello: &Hello) -> SessionId {
        self.expected_session(room, ack, hello)
    }

    /// Whether a session that exists was granted the relay.
    #[must_use]
    pub fn may_relay(&self, session: SessionId) -> bool {
        self.sessions_by_id.get(&session).is_some_and(|&slot| self.sessions[slot].grant.turn)
    }

    /// Applies one input and lends out everything that must now happen. `now` never goes back.
    pub fn handle(&mut self, now: Instant, input: Input) -> Outputs<'_> {
        match input {
            Input::Attach { conn, room, ack, hello, grant, ice } => {
                self.attach(now, Attach { conn, room, ack, hello, grant, ice });
            }
            Input::Frame { conn, frame } => self.hear(now, conn, frame),
            Input::Malformed { conn, error } => {
                if let Some(&slot) = self.conns.get(&conn) {
                    self.expel(now, slot, error.close_code(), &error.to_string(), None);
                }
            }
            Input::TooMany { conn, retry_after } => {
                if let Some(&slot) = self.conns.get(&conn) {
                    let message = "the clients of this address send too many frames";
                    self.expel(now, slot, CloseCode::RateLimited, message, Some(retry_after));
                }
            }
            Input::Gone { conn, why } => {
                if let Some(&slot) = self.conns.get(&conn) {
                    self.detach(now, slot, why);
                }
            }
            Input::Ice { session, ice } => self.refresh_ice(now, session, ice),
            Input::Grant { session, verdict } => self.grant(now, session, verdict),
            Input::Kick { whom, ban, reason } => self.kick(now, &whom, ban, reason.as_deref()),
            Input::Lift { room, whom } => self.bans.lift_all(&room, &whom),
            Input::Door { room, door } => {
                if let Some(&room) = self.rooms_by_name.get(&room) {
                    self.set_door(room, door, self.rooms[room].password);
                }
            }
            Input::Notice { room, notice } => self.notice(&room, notice),
            Input::Limits(limits) => self.limit(*limits),
            Input::GoAway { window, url } => self.send_away(window, url),
            Input::Stay => self.welcome_again(),
            Input::Drain => self.end(now),
            Input::Timeout => self.time_out(now),
        }
        self.close_overflowed(now);
        Outputs(self.outputs.drain(..))
    }

    /// When [`Input::Timeout`] is due. May be earlier than anything happens, never later.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        [self.deadlines.first(), self.bans.first(), self.removed.first(), self.first_knock()]
            .into_iter()
            .flatten()
            .min()
    }

    fn first_knock(&self) -> Option<Instant> {
        self.knocks.first().map(|(until, ..)| *until)
    }

    /// What the hub holds now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            rooms: self.rooms.len(),
            sessions: self.sessions.len(),
            attached: self.conns.len(),
            buffered_frames: self.held.frames,
            buffered_bytes: self.held.bytes,
            timers: self.deadlines.len(),
            bans: self.bans.len() + self.removed.len(),
            waiting: self.knocks.len(),
        }
    }

    fn time_out(&mut self, now: Instant) {
        self.bans.expire(now);
        self.removed.expire(now);
        self.expire_knocks(now);
        while let Some(slot) = self.deadlines.pop(now) {
            self.sessions[slot].wake = None;
            self.fire(now, slot);
        }
    }

    /// Does what is due for one session, which may be nothing: its entry may be early.
    fn fire(&mut self, now: Instant, slot: Slot) {
        let session = &mut self.sessions[slot];
        if session.grant.expires.is_some_and(|expires| expires <= now) {
            return self.run_out(now, slot);
        }
        let attached = match &mut session.link {
            Link::Away { until } if *until <= now => {
                return self.part(now, slot, LeaveReason::Expired, &Farewell::BYE);
            }
            Link::Away { .. } => return self.reschedule(slot),
            Link::Attached(attached) => attached,
        };
        if attached.silent_at(&self.limits) <= now {
            return self.expel(now, slot, CloseCode::PingTimeout, "nothing was heard for too long", None);
        }
        let ack = attached.ack_due.is_some_and(|due| due <= now);
        let ping = attached.next_ping <= now;
        if ping {
            attached.next_ping = now + self.limits.ping_interval.max(Duration::from_millis(1));
            attached.pinged.get_or_insert_with(|| session.ring.last());
        }
        if session.ice_due.is_some_and(|due| due <= now) {
            session.ice_due = None;
            let (id, conn, turn) = (session.id, attached.conn, session.grant.turn);
            let refresh = Output::RefreshIce { session: id, conn, turn };
            self.outputs.push_back(refresh);
        }
        if ping {
            self.send_unsequenced(slot, Body::of(&ServerMessage::Ping));
        } else if ack {
            self.send_unsequenced(slot, Body::of(&ServerMessage::Ack));
        }
        self.reschedule(slot);
    }

    fn refresh_ice(&mut self, now: Instant, session: SessionId, ice: IceServers) {
        let Some(&slot) = self.sessions_by_id.get(&session) else { return };
        let session = &mut self.sessions[slot];
        if session.conn().is_none() {
            return;
        }
        session.ice_due = attach::ice_due(now, &ice);
        self.deliver(slot, Body::of(&ServerMessage::Ice(ice.into())));
        self.reschedule(slot);
    }

    /// Closing one tells the others, which may make further ones overflow; each does so once.
    fn close_overflowed(&mut self, now: Instant) {
        while let Some(slot) = self.overflowed.pop() {
            if self.sessions.get(slot).is_some_and(|session| session.ring.overflowed()) {
                self.expel(
                    now,
                    slot,
                    CloseCode::SlowReader,
                    "more was sent than is acknowledged in time",
                    None,
                );
            }
        }
    }

    fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        // A shorter time between pings brings deadlines forward.
        let all: Vec<Slot> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in all {
            self.reschedule(slot);
        }
    }

    /// Enters the session's next deadline into the timing index.
    fn reschedule(&mut self, slot: Slot) {
        let session = &mut self.sessions[slot];
        let due = session.due(&self.limits);
        self.deadlines.enter(slot, session, due);
    }
}

impl Iterator for Outputs<'_> {
    type Item = Output;

    fn next(&mut self) -> Option<Output> {
        self.0.next()
    }
}

impl Drop for Outputs<'_> {
    fn drop(&mut self) {
        debug_assert!(
            self.0.len() == 0 || std::thread::panicking(),
            "outputs were dropped before they were carried out"
        );
    }
}

/// A time as the wire has it.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
