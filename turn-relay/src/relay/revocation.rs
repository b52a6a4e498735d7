//! Users that the operator refuses for a time. In memory: a restart forgets them, a reload does not.
//!
//! Who must be refused for good is taken out of the configuration, or the secret is exchanged. This is for the time until a
//! credential that is out there expires.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::credentials::account;

/// Revoked users at one time: 16,384 of at most 508 bytes are 10 MB.
pub const MAX_REVOKED: usize = 16_384;

/// As many users are revoked as may be at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_REVOKED} users are revoked already; lift some, or exchange the secret")]
pub struct TooManyRevoked;

/// Who is refused, and until when.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Read before the lock is taken: nobody is revoked on most servers.
    count: AtomicUsize,
    until: Mutex<BTreeMap<Box<str>, Instant>>,
}

impl Revocations {
    /// Refuses `user` until then: a username, or the id that a time-limited one ends with. A later call replaces an earlier one.
    ///
    /// # Errors
    /// When there is no room for another.
    pub fn revoke(&self, now: Instant, user: &str, until: Instant) -> Result<(), TooManyRevoked> {
        let mut revoked = self.lock();
        revoked.retain(|_, until| now < *until);
        if revoked.len() >= MAX_REVOKED && !revoked.contains_key(user) {
            return Err(TooManyRevoked);
        }
        revoked.insert(user.into(), until);
        self.count.store(revoked.len(), Ordering::Release);
        Ok(())
    }

    /// Ends the refusal; tells whether there was one.
    pub fn lift(&self, now: Instant, user: &str) -> bool {
        let mut revoked = self.lock();
        let lifted = revoked.remove(user).is_some_and(|until| now < until);
        self.count.store(revoked.len(), Ordering::Release);
        lifted
    }

    /// The revoked users in order of their names, behind `after`, at most `limit`.
    pub fn page(&self, now: Instant, after: Option<&str>, limit: usize) -> Vec<(Box<str>, Instant)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let revoked = self.lock();
        let standing = revoked.range::<str, _>((start, Bound::Unbounded)).filter(|(_, until)| now < **until);
        standing.take(limit).map(|(user, until)| (user.clone(), *until)).collect()
    }

    pub(super) fn holds(&self, now: Instant, username: &str) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let revoked = self.lock();
        [username, account(username)].iter().any(|name| revoked.get(*name).is_some_and(|until| now < *until))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Instant>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
