//! Answers kept for requests that come again because their answer was lost (RFC 8489 section 6.3.1): the second copy gets
//! the very same bytes, so that a repeated Allocate opens no second port and a repeated Refresh with lifetime 0 is no mismatch.
//!
//! Only for UDP, only for authenticated requests, only for the exact same bytes from the same five-tuple, for 40 seconds, and
//! bounded in number: the oldest make room, those of the same user first, so that nobody pushes out what others need.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::address::{FiveTuple, Transport, TupleKey};

/// RFC 8489 section 6.3.1: transactions are remembered for 40 s.
pub(super) const KEEP: Duration = Duration::from_secs(40);
/// Some 200 bytes each, so less than 4 MiB; 400 requests a second for the whole 40 s.
const MAX_ANSWERS: usize = 16_384;
/// A sixteenth of them all: 25 requests a second for the whole 40 s, where a call of one user needs one in a minute or so.
pub(super) const MAX_ANSWERS_PER_USER: usize = 1024;

/// Tidying up so few entries of `order` would not pay.
const SPARE: usize = 64;

/// A request that can be answered again. The transaction id is part of the hashed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    from: TupleKey,
    bytes: u64,
    repeats: bool,
}

#[derive(Debug)]
struct Kept {
    answer: Vec<u8>,
    until: Instant,
    /// Whom it is counted for.
    user: Box<str>,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    hasher: RandomState,
    kept: HashMap<Question, Kept, RandomState>,
    /// In the order in which they were kept, which is the order in which they expire. May name what is gone already.
    order: VecDeque<(Instant, Question)>,
    /// The same of each user, and nothing that is gone.
    of_user: HashMap<Box<str>, VecDeque<Question>, RandomState>,
}

impl Answers {
    pub(super) fn question(&self, from: &FiveTuple, bytes: &[u8]) -> Question {
        Question {
            from: from.key(),
            bytes: self.hasher.hash_one(bytes),
            repeats: from.transport == Transport::Udp,
        }
    }

    /// The answer that was given to the same question.
    pub(super) fn find(&mut self, now: Instant, question: Question) -> Option<Vec<u8>> {
        self.forget(now);
        self.kept.get(&question).map(|kept| kept.answer.clone())
    }

    /// Keeps what `user` was answered.
    pub(super) fn keep(&mut self, now: Instant, question: Question, user: &str, answer: &[u8]) {
        if !question.repeats {
            return;
        }
        self.forget(now);
        self.remove(&question);
        let oldest = self.of_user.get(user).filter(|own| own.len() >= MAX_ANSWERS_PER_USER);
        if let Some(oldest) = oldest.and_then(VecDeque::front).copied() {
            self.remove(&oldest);
        }
        while self.kept.len() >= MAX_ANSWERS {
            self.forget_oldest();
        }
        // What users pushed out of their own is still in the order, but never more than what is kept, and some.
        if self.order.len() > 2 * self.kept.len() + SPARE {
            let kept = &self.kept;
            self.order
                .retain(|(until, question)| kept.get(question).is_some_and(|kept| kept.until == *until));
        }
        let until = now + KEEP;
        self.of_user.entry(user.into()).or_default().push_back(question);
        self.kept.insert(question, Kept { answer: answer.to_vec(), until, user: user.into() });
        self.order.push_back((until, question));
    }

    /// Drops what is too old.
    pub(super) fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((until, question)) = self.order.pop_front()
            && self.kept.get(&question).is_some_and(|kept| kept.until == until)
        {
            self.remove(&question);
        }
    }

    fn remove(&mut self, question: &Question) {
        let Some(Kept { user, .. }) = self.kept.remove(question) else { return };
        let Some(own) = self.of_user.get_mut(&user) else { return };
        // Almost always the first: a user's answers go in the order in which they came.
        if let Some(index) = own.iter().position(|other| other == question) {
            own.remove(index);
        }
        if own.is_empty() {
            self.of_user.remove(&user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::testing::{epoch, secs, tuple};

    fn ask(answers: &mut Answers, now: Instant, user: &str, number: u32) {
        let question = answers.question(&tuple(1), &number.to_be_bytes());
        answers.keep(now, question, user, &number.to_be_bytes());
    }

    fn known(answers: &mut Answers, now: Instant, number: u32) -> bool {
        let question = answers.question(&tuple(1), &number.to_be_bytes());
        answers.find(now, question).is_some_and(|answer| answer == number.to_be_bytes())
    }

    #[test]
    fn user_that_asks_without_end_pushes_out_its_own_answers_and_nobody_elses() {
        let (mut answers, now) = (Answers::default(), epoch());
        ask(&mut answers, now, "alice", 1_000_000);
        for number in 0..100_000 {
            ask(&mut answers, now, "mallory", number);
        }
        assert!(known(&mut answers, now, 1_000_000), "alice's answer is still there");
        assert!(known(&mut answers, now, 99_999) && !known(&mut answers, now, 0));
        assert_eq!(answers.kept.len(), 1 + MAX_ANSWERS_PER_USER);
        assert!(
            answers.order.len() <= 2 * answers.kept.len() + SPARE + 1,
            "{} in order",
            answers.order.len()
        );
    }

    #[test]
    fn all_users_together_are_bounded_and_nothing_stays_longer_than_it_is_kept() {
        let (mut answers, now) = (Answers::default(), epoch());
        for number in 0..50_000 {
            ask(&mut answers, now, &format!("user {}", number % 100), number);
        }
        assert_eq!(answers.kept.len(), MAX_ANSWERS);
        assert_eq!(answers.of_user.values().map(VecDeque::len).sum::<usize>(), MAX_ANSWERS);
        answers.forget(now + KEEP - secs(1));
        assert_eq!(answers.kept.len(), MAX_ANSWERS);
        answers.forget(now + KEEP);
        assert!(answers.kept.is_empty() && answers.of_user.is_empty() && answers.order.is_empty());
    }

    #[test]
    fn question_that_is_answered_anew_is_kept_anew() {
        let (mut answers, now) = (Answers::default(), epoch());
        ask(&mut answers, now, "alice", 1);
        ask(&mut answers, now + secs(30), "alice", 1);
        assert!(known(&mut answers, now + secs(69), 1));
        assert!(!known(&mut answers, now + secs(70), 1));
        assert!(answers.of_user.is_empty());
    }
}
