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
//! - What a session may make the hub hold is bounded by [`Limits`]; when it ends, all of it is gone. An empty room
//!   does not exist.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod contract;
mod frame;
mod limits;

use std::collections::VecDeque;
use std::collections::vec_deque;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;
use signaling_protocol::{Hello, RoomName, SessionId};

pub use contract::{ConnId, EndReason, Event, GoneReason, Input, Output};
pub use frame::Frame;
pub use limits::Limits;

/// The hub of one shard. See the module.
#[derive(Debug)]
pub struct Hub {
    limits: Limits,
    outputs: VecDeque<Output>,
}

/// What a hub holds, for metrics and tests.
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
}

/// What must now happen, in order. It borrows the hub, so that it is drained before the next input.
#[must_use = "outputs are the only way the hub acts"]
#[derive(Debug)]
pub struct Outputs<'a>(vec_deque::Drain<'a, Output>);

impl Hub {
    /// Makes an empty hub. `rng` is what resume tokens and session ids are drawn from: seed it from the system.
    #[must_use]
    pub fn new(limits: Limits, _rng: ChaCha20Rng) -> Self {
        Self { limits, outputs: VecDeque::new() }
    }

    /// The limits that it was made with.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The session that an [`Input::Attach`] with this room and hello would attach to, if it came next: the one that
    /// it resumes, or the fresh one that it starts. The driver asks to mint TURN credentials in the session's name
    /// beforehand.
    #[must_use]
    pub fn session_for(&self, _room: &RoomName, _hello: &Hello) -> SessionId {
        SessionId::from_bits(0)
    }

    /// Applies one input and lends out everything that must now happen.
    pub fn handle(&mut self, _now: Instant, _input: Input) -> Outputs<'_> {
        Outputs(self.outputs.drain(..))
    }

    /// When [`Input::Timeout`] is due. May be earlier than anything happens, never later.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What the hub holds now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}

impl Iterator for Outputs<'_> {
    type Item = Output;

    fn next(&mut self) -> Option<Output> {
        self.0.next()
    }
}
