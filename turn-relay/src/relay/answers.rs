//! Answers kept for requests that come again because their answer was lost (RFC 8489 section 6.3.1): the second copy gets
//! the very same bytes, so that a repeated Allocate opens no second port and a repeated Refresh with lifetime 0 is no mismatch.
//!
//! Only for UDP, only for authenticated requests, only for the exact same bytes from the same five-tuple, for 40 seconds, and
//! bounded in number: the oldest make room.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::address::{FiveTuple, TupleKey};

/// RFC 8489 section 6.3.1: transactions are remembered for 40 s.
pub(super) const KEEP: Duration = Duration::from_secs(40);
/// Some 200 bytes each, so less than 4 MiB; 400 requests a second for the whole 40 s.
const MAX_ANSWERS: usize = 16_384;

/// A request that can be answered again. The transaction id is part of the hashed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    from: TupleKey,
    bytes: u64,
    repeats: bool,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    hasher: RandomState,
    kept: HashMap<Question, Vec<u8>, RandomState>,
    /// In the order in which they were kept, which is the order in which they expire.
    order: VecDeque<(Instant, Question)>,
}

impl Answers {
    pub(super) fn question(&self, from: &FiveTuple, bytes: &[u8]) -> Question {
        Question {
            from: from.key(),
            bytes: self.hasher.hash_one(bytes),
            repeats: from.transport.is_datagram(),
        }
    }

    /// The answer that was given to the same question.
    pub(super) fn find(&mut self, now: Instant, question: Question) -> Option<Vec<u8>> {
        self.forget(now);
        self.kept.get(&question).cloned()
    }

    pub(super) fn keep(&mut self, now: Instant, question: Question, answer: &[u8]) {
        if !question.repeats {
            return;
        }
        self.forget(now);
        if self.order.len() >= MAX_ANSWERS {
            self.forget_oldest();
        }
        if self.kept.insert(question, answer.to_vec()).is_none() {
            self.order.push_back((now + KEEP, question));
        }
    }

    /// Drops what is too old.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, question)) = self.order.pop_front() {
            self.kept.remove(&question);
        }
    }
}
