//! Who is kept out of which room, and until when. It outlives sessions and rooms, so it has bounds of its own: when
//! they are reached, the ban that would have ended first gives way to the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use signaling_protocol::{PeerId, RoomName, SessionId};

use super::grant::Subject;
use super::limits::Limits;

/// Whom a ban is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Banned {
    Peer(PeerId),
    Subject(Subject),
    /// A session that was removed: coming back by itself does not help it, not even if the close got lost.
    Session(SessionId),
}

#[derive(Debug, Default)]
pub(super) struct Bans {
    /// Hashed with SipHash: clients choose these keys.
    rooms: HashMap<RoomName, BTreeMap<Banned, Instant>>,
    ends: BTreeSet<(Instant, RoomName, Banned)>,
}

impl Bans {
    /// How much longer one of these is kept out of the room.
    pub(super) fn remaining(
        &self,
        now: Instant,
        room: &RoomName,
        peer: PeerId,
        subject: Option<&Subject>,
    ) -> Option<Duration> {
        let bans = self.rooms.get(room)?;
        let subject = subject.and_then(|subject| bans.get(&Banned::Subject(subject.clone())));
        let until = bans.get(&Banned::Peer(peer)).max(subject)?;
        until.checked_duration_since(now).filter(|remaining| !remaining.is_zero())
    }

    pub(super) fn is_removed(&self, room: &RoomName, session: SessionId) -> bool {
        self.rooms.get(room).is_some_and(|bans| bans.contains_key(&Banned::Session(session)))
    }

    /// Keeps somebody out; what was said of them before is void.
    pub(super) fn add(&mut self, room: &RoomName, whom: Banned, until: Instant, limits: &Limits) {
        self.lift(room, &whom);
        if let Some(bans) = self.rooms.get(room).filter(|bans| bans.len() >= limits.bans_per_room.max(1))
            && let Some((first, _)) = bans.iter().min_by_key(|(_, until)| **until)
        {
            let first = first.clone();
            self.lift(room, &first);
        }
        if self.ends.len() >= limits.bans.max(1)
            && let Some((_, room, first)) = self.ends.first().cloned()
        {
            self.lift(&room, &first);
        }
        self.rooms.entry(room.clone()).or_default().insert(whom.clone(), until);
        self.ends.insert((until, room.clone(), whom));
    }

    /// Forgets what has ended.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((until, room, whom)) = self.ends.first().cloned() {
            if until > now {
                return;
            }
            self.lift(&room, &whom);
        }
    }

    /// When the next one ends.
    pub(super) fn first(&self) -> Option<Instant> {
        self.ends.first().map(|(until, ..)| *until)
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn lift(&mut self, room: &RoomName, whom: &Banned) {
        let Some(bans) = self.rooms.get_mut(room) else { return };
        let Some(until) = bans.remove(whom) else { return };
        if bans.is_empty() {
            self.rooms.remove(room);
        }
        self.ends.remove(&(until, room.clone(), whom.clone()));
    }
}

#[cfg(test)]
impl Bans {
    pub(super) fn assert_consistent(&self, limits: &Limits) {
        let of_rooms: usize = self.rooms.values().map(BTreeMap::len).sum();
        assert_eq!(of_rooms, self.ends.len());
        assert!(self.ends.len() <= limits.bans);
        assert!(self.rooms.values().all(|bans| (1..=limits.bans_per_room).contains(&bans.len())));
        assert!(self.ends.iter().all(|(until, room, whom)| self.rooms[room].get(whom) == Some(until)));
    }
}
