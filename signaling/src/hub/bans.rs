//! Who is kept out of which room, and until when. It outlives sessions and rooms, so it has bounds of its own: when
//! they are reached, the ban that would have ended first gives way to the new one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use signaling_protocol::{DisplayName, PeerId, RoomName, SessionId};

use super::contract::KeptOut;
use super::grant::Subject;
use super::inspect::BanView;
use super::limits::Limits;

/// Whom a ban is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Banned {
    Peer(PeerId),
    Subject(Subject),
    /// A session that was removed: coming back by itself does not help it, not even if the close got lost.
    Session(SessionId),
}

/// How somebody is kept out.
#[derive(Clone, Debug)]
pub(super) struct Ban {
    pub(super) until: Instant,
    /// Of a peer: the user that it was, who is kept out with it.
    pub(super) subject: Option<Subject>,
    /// Of a peer: what it called itself.
    pub(super) name: Option<DisplayName>,
}

impl Ban {
    /// One that names no user beside whom it is about.
    pub(super) const fn of_nobody(until: Instant) -> Self {
        Self { until, subject: None, name: None }
    }
}

#[derive(Debug, Default)]
pub(super) struct Bans {
    /// Hashed with SipHash: clients choose these keys.
    rooms: HashMap<RoomName, BTreeMap<Banned, Ban>>,
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
        let peer = bans.get(&Banned::Peer(peer));
        let until = [peer, subject].into_iter().flatten().map(|ban| ban.until).max()?;
        until.checked_duration_since(now).filter(|remaining| !remaining.is_zero())
    }

    /// Whether the peer itself is on the list of the room.
    pub(super) fn keeps_out(&self, now: Instant, room: &RoomName, peer: PeerId) -> bool {
        let ban = self.rooms.get(room).and_then(|bans| bans.get(&Banned::Peer(peer)));
        ban.is_some_and(|ban| ban.until > now)
    }

    pub(super) fn is_removed(&self, room: &RoomName, session: SessionId) -> bool {
        self.rooms.get(room).is_some_and(|bans| bans.contains_key(&Banned::Session(session)))
    }

    /// Keeps somebody out; what was said of them before is void.
    pub(super) fn add(&mut self, room: &RoomName, whom: Banned, ban: Ban, limits: &Limits) {
        self.lift(room, &whom);
        if let Some(bans) = self.rooms.get(room).filter(|bans| bans.len() >= limits.bans_per_room.max(1))
            && let Some((first, _)) = bans.iter().min_by_key(|(_, ban)| ban.until)
        {
            let first = first.clone();
            self.lift(room, &first);
        }
        if self.ends.len() >= limits.bans.max(1)
            && let Some((_, room, first)) = self.ends.first().cloned()
        {
            self.lift(&room, &first);
        }
        self.ends.insert((ban.until, room.clone(), whom.clone()));
        self.rooms.entry(room.clone()).or_default().insert(whom, ban);
    }

    /// The bans of a room: one for each peer, and for each user of whom no peer is known any more.
    pub(super) fn of_room(&self, now: Instant, room: &RoomName) -> Vec<BanView> {
        let Some(bans) = self.rooms.get(room) else { return Vec::new() };
        let named: BTreeSet<&Subject> = bans.values().filter_map(|ban| ban.subject.as_ref()).collect();
        let standing = bans.iter().filter(|(_, ban)| ban.until > now);
        let shown = standing.filter_map(|(whom, ban)| {
            let (peer, subject) = match whom {
                Banned::Peer(peer) => (Some(*peer), ban.subject.clone()),
                Banned::Subject(subject) if !named.contains(subject) => (None, Some(subject.clone())),
                Banned::Subject(_) | Banned::Session(_) => return None,
            };
            let (name, remaining) = (ban.name.clone(), ban.until.saturating_duration_since(now));
            Some(BanView { peer, subject, name, remaining })
        });
        shown.collect()
    }

    /// Lets a user in again with all that was said of its peers, or a peer of whom no user is known.
    pub(super) fn lift_all(&mut self, room: &RoomName, whom: &KeptOut) {
        let Some(bans) = self.rooms.get(room) else { return };
        let subject = match whom {
            KeptOut::Peer(peer) => bans.get(&Banned::Peer(*peer)).and_then(|ban| ban.subject.clone()),
            KeptOut::Subject(subject) => Some(subject.clone()),
        };
        let mut lifted: Vec<Banned> = match whom {
            KeptOut::Peer(peer) => vec![Banned::Peer(*peer)],
            KeptOut::Subject(subject) => vec![Banned::Subject(subject.clone())],
        };
        if let Some(subject) = subject {
            let same = bans.iter().filter(|(_, ban)| ban.subject.as_ref() == Some(&subject));
            lifted.extend(same.map(|(whom, _)| whom.clone()));
            lifted.push(Banned::Subject(subject));
        }
        for whom in lifted {
            self.lift(room, &whom);
        }
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
        let Some(Ban { until, .. }) = bans.remove(whom) else { return };
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
        assert!(self.ends.iter().all(|(until, room, whom)| self.rooms[room][whom].until == *until));
    }
}
