//! What ends when: an ordered index, so that the next deadline is found without looking at what is not due.

use std::collections::BTreeSet;
use std::time::Instant;

use super::contract::{OpenId, PeerConnectionId};
use super::parked::AskId;

/// Something with a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The lifetime of the allocation in this slot of the slab.
    Allocation(usize),
    /// The hold on the port behind this token.
    Reservation(u64),
    /// The patience with another worker.
    Claim(OpenId),
    /// The patience with a peer that does not answer, or with a client that binds no connection.
    PeerConnection(PeerConnectionId),
    /// The patience with the authorization hook.
    Parked(AskId),
}

/// Timers by time. Whoever sets one remembers its time: that is what finds it again.
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Instant, Timer)>);

impl Deadlines {
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        let new = self.0.insert((at, timer));
        debug_assert!(new, "a timer was set twice");
    }

    pub(super) fn cancel(&mut self, at: Instant, timer: Timer) {
        let was_set = self.0.remove(&(at, timer));
        debug_assert!(was_set, "a timer was cancelled that was not set");
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
