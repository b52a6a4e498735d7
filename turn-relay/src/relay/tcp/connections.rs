//! What all workers know of peer connections: who holds the one behind a CONNECTION-ID, and how many a user has.
//!
//! Refuses to do: anything per byte. The lock is taken when a connection begins, is bound and ends.
//!
//! A CONNECTION-ID has 32 bits (RFC 6062 section 6.2.1), all of them random here: a worker's number inside, as reservation
//! tokens have it, would make them easier to guess.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use crate::relay::contract::WorkerIndex;

/// One for all workers.
#[derive(Debug, Default)]
pub(in crate::relay) struct ConnectionTable(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<u32, WorkerIndex, RandomState>,
    of_holder: HashMap<Box<str>, u32, RandomState>,
}

impl ConnectionTable {
    /// Counts one more connection of `holder`, unless it has `limit` already.
    pub(in crate::relay) fn admit(&self, holder: &str, limit: u32) -> bool {
        let mut table = self.table();
        match table.of_holder.get_mut(holder) {
            Some(count) if *count >= limit => return false,
            Some(count) => *count += 1,
            None if limit == 0 => return false,
            None => drop(table.of_holder.insert(holder.into(), 1)),
        }
        true
    }

    /// The end of what `admit` counted.
    pub(in crate::relay) fn dismiss(&self, holder: &str) {
        let mut table = self.table();
        match table.of_holder.get_mut(holder) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) => drop(table.of_holder.remove(holder)),
            None => debug_assert!(false, "a connection was dismissed twice"),
        }
    }

    /// A CONNECTION-ID for a connection of `worker`, until it is forgotten.
    pub(in crate::relay) fn name(&self, worker: WorkerIndex, rng: &mut impl rand::CryptoRng) -> u32 {
        let mut table = self.table();
        loop {
            let id = rng.next_u32();
            if let Entry::Vacant(vacant) = table.waiting.entry(id) {
                vacant.insert(worker);
                return id;
            }
        }
    }

    /// Which worker holds the connection that waits under this id.
    pub(in crate::relay) fn worker_of(&self, id: u32) -> Option<WorkerIndex> {
        self.table().waiting.get(&id).copied()
    }

    pub(in crate::relay) fn forget(&self, id: u32) {
        let known = self.table().waiting.remove(&id);
        debug_assert!(known.is_some(), "a connection id was forgotten twice");
    }

    /// Whether nothing waits and nobody is counted: for tests.
    #[cfg(any(test, feature = "fuzz"))]
    pub(in crate::relay) fn is_empty(&self) -> bool {
        let table = self.table();
        table.waiting.is_empty() && table.of_holder.is_empty()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
