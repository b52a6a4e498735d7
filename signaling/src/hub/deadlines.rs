//! The timing index: at most one entry for each session, never later than the session's next deadline.
//!
//! A frame from a client moves its deadline into the future, which costs nothing here: the entry stays where it is,
//! and when it comes up too early the session is entered anew.

use std::collections::BTreeSet;
use std::time::Instant;

use super::session::{Session, Slot};

#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Instant, Slot)>);

impl Deadlines {
    pub(super) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Makes sure that the session comes up at `due` or before.
    pub(super) fn enter(&mut self, slot: Slot, session: &mut Session, due: Instant) {
        if session.wake.is_some_and(|wake| wake <= due) {
            return;
        }
        self.remove(slot, session);
        self.0.insert((due, slot));
        session.wake = Some(due);
    }

    pub(super) fn remove(&mut self, slot: Slot, session: &mut Session) {
        if let Some(wake) = session.wake.take() {
            self.0.remove(&(wake, slot));
        }
    }

    /// Takes out one entry that is due. The caller clears the session's `wake` and enters it again.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Slot> {
        let &(at, slot) = self.0.first()?;
        (at <= now).then(|| {
            self.0.pop_first();
            slot
        })
    }
}
