//! One room: who is in it, whether more may come, and the count of its changes. A room without members does not exist.

use std::time::Instant;

use signaling_protocol::{Door, PeerId, RoomName};

use super::entrance::{PasswordDigest, Waiting};
use super::session::Slot;

#[derive(Debug)]
pub(super) struct Room {
    pub(super) name: RoomName,
    pub(super) since: Instant,
    /// Counts the changes of membership and presence.
    pub(super) version: u64,
    pub(super) door: Door,
    pub(super) password: Option<PasswordDigest>,
    /// When the wrong passwords that were tried are forgotten, each after a while.
    pub(super) guesses_forgotten_at: Instant,
    /// In the order in which they knocked.
    pub(super) waiting: Vec<Waiting>,
    /// In the order of the peer ids.
    members: Vec<(PeerId, Slot)>,
}

impl Room {
    pub(super) const fn new(now: Instant, name: RoomName, door: Door) -> Self {
        Self {
            name,
            since: now,
            version: 0,
            door,
            password: None,
            guesses_forgotten_at: now,
            waiting: Vec::new(),
            members: Vec::new(),
        }
    }

    pub(super) fn find(&self, peer: &PeerId) -> Option<Slot> {
        self.position(peer).ok().map(|at| self.members[at].1)
    }

    /// Adds the peer, or gives it another session.
    pub(super) fn set(&mut self, peer: PeerId, slot: Slot) {
        match self.position(&peer) {
            Ok(at) => self.members[at].1 = slot,
            Err(at) => self.members.insert(at, (peer, slot)),
        }
    }

    pub(super) fn remove(&mut self, peer: &PeerId) {
        if let Ok(at) = self.position(peer) {
            self.members.remove(at);
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (PeerId, Slot)> + '_ {
        self.members.iter().copied()
    }

    /// Counts a change.
    pub(super) const fn change(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    fn position(&self, peer: &PeerId) -> Result<usize, usize> {
        self.members.binary_search_by_key(peer, |(peer, _)| *peer)
    }
}
