//! Requests of users whom only the authorization hook can know. They wait for its answer and are then looked at again, as if
//! they came only now.
//!
//! Invariants: nobody waits here who has not proved an address (the nonce was checked before); one request per five-tuple,
//! [`MAX_PARKED`] per worker, [`MAX_BYTES`] each, [`PATIENCE`] long. What does not fit is dropped: on UDP the client asks again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::Relay;
use super::contract::{DropReason, Output};
use super::deadlines::Timer;
use super::requests::Arrival;
use crate::address::{FiveTuple, TupleKey};
use crate::credentials::Authorization;
use crate::frame::TransactionId;

/// Names one question to the authorization hook until its answer comes. Never used twice by one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// Requests that wait at one worker: 2 MB at the most.
const MAX_PARKED: usize = 1024;
/// The longest request that waits. One without data to relay has some 300 bytes, with a username of 508 some 800.
const MAX_BYTES: usize = 2048;
/// Longer than the hook may take. A client retransmits for 39.5 s (RFC 8489 section 6.2.1).
const PATIENCE: Duration = Duration::from_secs(15);
/// Questions per second, per /24 or /56 and worker: a household or an office that joins at once, not a dictionary.
pub(super) const ASKS_PER_SECOND: u32 = 20;

#[derive(Debug)]
struct Parked {
    from: FiveTuple,
    bytes: Box<[u8]>,
    arrival: Arrival,
    until: Instant,
}

/// Everything that waits at one worker.
#[derive(Debug, Default)]
pub(super) struct ParkedRequests {
    waiting: HashMap<AskId, Parked, RandomState>,
    seats: HashMap<TupleKey, AskId, RandomState>,
    next: u64,
}

impl ParkedRequests {
    fn take(&mut self, ask: AskId) -> Option<Parked> {
        let parked = self.waiting.remove(&ask)?;
        self.seats.remove(&parked.from.key());
        Some(parked)
    }

    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.waiting.len(), self.seats.len(), "a seat without a request");
        self.waiting.len()
    }
}

impl Relay {
    /// Puts a request aside and asks about its user.
    pub(super) fn park(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        bytes: &[u8],
        arrival: Arrival,
        (username, transaction): (&str, TransactionId),
    ) {
        if self.parked.seats.contains_key(&from.key()) {
            return self.dropped(DropReason::InProgress);
        }
        if !self.asks.allows(now, from, transaction) {
            return self.dropped(DropReason::RateLimited);
        }
        if self.parked.waiting.len() >= MAX_PARKED || bytes.len() > MAX_BYTES {
            return self.dropped(DropReason::HookBusy);
        }
        let ask = AskId(self.parked.next);
        self.parked.next += 1;
        let until = now + PATIENCE;
        self.parked.seats.insert(from.key(), ask);
        self.parked.waiting.insert(ask, Parked { from: *from, bytes: bytes.into(), arrival, until });
        self.deadlines.set(until, Timer::Parked(ask));
        self.outputs.push(Output::Authorize { ask, username: username.into(), transport: from.transport });
    }

    /// The hook has spoken.
    pub(super) fn authorized(&mut self, now: Instant, ask: AskId, authorization: &Authorization) {
        // An answer that comes too late, or for a client that is gone, is nobody's.
        let Some(parked) = self.parked.take(ask) else { return };
        self.deadlines.cancel(parked.until, Timer::Parked(ask));
        self.message(now, &parked.from, &parked.bytes, parked.arrival, Some(authorization));
    }

    pub(super) fn parked_timed_out(&mut self, ask: AskId) {
        if self.parked.take(ask).is_some() {
            self.dropped(DropReason::HookSilent);
        }
    }

    /// The client of a parked request is gone.
    pub(super) fn unpark(&mut self, from: &FiveTuple) {
        let Some(ask) = self.parked.seats.get(&from.key()).copied() else { return };
        if let Some(parked) = self.parked.take(ask) {
            self.deadlines.cancel(parked.until, Timer::Parked(ask));
        }
    }
}
