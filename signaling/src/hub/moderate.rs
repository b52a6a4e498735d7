//! What a moderator or the operator does to a peer: remove it, keep it out, let it in again.

use std::time::{Duration, Instant};

use signaling_protocol::{self as protocol, CloseCode, ErrorCode, Kick, LeaveReason, PeerId, ServerMessage};

use super::bans::{Ban, Banned};
use super::contract::{KeptOut, Whom};
use super::frame::Body;
use super::inspect::BanView;
use super::session::Slot;
use super::{Hub, millis};

/// How the connection of a session that ends is closed.
pub(super) struct Farewell<'a> {
    pub(super) code: CloseCode,
    pub(super) message: &'a str,
    pub(super) retry_after: Option<Duration>,
}

impl Farewell<'_> {
    pub(super) const BYE: Self = Self { code: CloseCode::Normal, message: "", retry_after: None };
}

impl Hub {
    /// A client asks for it.
    pub(super) fn kick_for(&mut self, now: Instant, slot: Slot, seq: u64, kick: &Kick) {
        let session = &self.sessions[slot];
        if !session.grant.may_kick {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not remove others");
        }
        let to = kick.to.filter(|to| *to != session.peer);
        let Some(target) = to.and_then(|to| self.rooms[session.room].find(&to)) else {
            return self.refuse(slot, seq, ErrorCode::NoSuchPeer, "no such peer in this room");
        };
        self.remove(now, target, kick.ban, kick.reason.as_ref().map(|reason| reason.as_str()));
    }

    /// A client asks who is kept out.
    pub(super) fn show_bans_for(&mut self, now: Instant, slot: Slot, seq: u64) {
        if !self.sessions[slot].grant.may_kick {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not see who is kept out");
        }
        self.show_bans(now, slot);
    }

    /// A client lets a peer in again, with the user that it is.
    pub(super) fn lift_for(&mut self, now: Instant, slot: Slot, seq: u64, to: Option<PeerId>) {
        let session = &self.sessions[slot];
        if !session.grant.may_kick {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not let anybody in again");
        }
        let room = self.rooms[session.room].name.clone();
        let Some(peer) = to.filter(|to| self.bans.keeps_out(now, &room, *to)) else {
            return self.refuse(slot, seq, ErrorCode::NoSuchPeer, "no such peer is kept out of this room");
        };
        self.bans.lift_all(&room, &KeptOut::Peer(peer));
        self.show_bans(now, slot);
    }

    /// Who only the operator can name, a user of whom no peer is known, is not on the list.
    fn show_bans(&mut self, now: Instant, slot: Slot) {
        let room = &self.rooms[self.sessions[slot].room].name;
        let of_peer = |ban: BanView| {
            Some(protocol::Ban { peer: ban.peer?, name: ban.name, ends_in_ms: millis(ban.remaining) })
        };
        let bans = self.bans.of_room(now, room).into_iter().filter_map(of_peer).collect();
        self.deliver(slot, Body::of(&ServerMessage::Bans(protocol::Bans { bans })));
    }

    /// The operator asks for it.
    pub(super) fn kick(&mut self, now: Instant, whom: &Whom, ban: Option<Duration>, reason: Option<&str>) {
        let target = match whom {
            Whom::Session(session) => self.sessions_by_id.get(session).copied(),
            Whom::Peer(room, peer) => {
                self.rooms_by_name.get(room).and_then(|&room| self.rooms[room].find(peer))
            }
        };
        match (target, whom, ban) {
            (Some(slot), _, _) => self.remove(now, slot, ban, reason),
            // It left, or has not come yet: it is kept out all the same.
            (None, Whom::Peer(room, peer), Some(ban)) => {
                self.bans.add(room, Banned::Peer(*peer), Ban::of_nobody(now + ban), &self.limits);
            }
            (None, ..) => {}
        }
    }

    /// Ends a session and, with a ban, every other one of the same subject in its room.
    fn remove(&mut self, now: Instant, target: Slot, ban: Option<Duration>, reason: Option<&str>) {
        let code = if ban.is_some() { CloseCode::Banned } else { CloseCode::Kicked };
        let message = reason.unwrap_or("removed from the room");
        let slots = match ban {
            Some(ban) => self.ban(now, target, ban),
            None => vec![target],
        };
        for slot in slots {
            let session = &self.sessions[slot];
            let (room, removed) = (&self.rooms[session.room].name, Banned::Session(session.id));
            let until = now + self.limits.kick_memory;
            self.removed.add(room, removed, Ban::of_nobody(until), &self.limits);
            self.part(now, slot, LeaveReason::Kicked, &Farewell { code, message, retry_after: ban });
        }
    }

    /// Keeps the peer and its subject out, and gives all sessions that this is about.
    fn ban(&mut self, now: Instant, target: Slot, ban: Duration) -> Vec<Slot> {
        let session = &self.sessions[target];
        let room = &self.rooms[session.room];
        let (until, subject) = (now + ban, session.grant.subject.clone());
        let ban = Ban { until, subject: subject.clone(), name: session.name.clone() };
        self.bans.add(&room.name, Banned::Peer(session.peer), ban, &self.limits);
        let Some(subject) = &subject else { return vec![target] };
        self.bans.add(&room.name, Banned::Subject(subject.clone()), Ban::of_nobody(until), &self.limits);
        let same = |slot: &Slot| self.sessions[*slot].grant.subject.as_ref() == Some(subject);
        room.members().map(|(_, slot)| slot).filter(same).collect()
    }
}
