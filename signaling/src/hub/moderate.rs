//! What a moderator or the operator does to a room: remove a peer, keep it out, open and close the door.

use std::time::{Duration, Instant};

use signaling_protocol::{
    CloseCode, Door, ErrorCode, Kick, LeaveReason, PeerId, RoomChanged, RoomName, ServerMessage,
};

use super::Hub;
use super::bans::Banned;
use super::contract::Whom;
use super::frame::Body;
use super::grant::Grant;
use super::session::Slot;

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
                self.bans.add(room, Banned::Peer(*peer), now + ban, &self.limits);
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
            self.removed.add(room, removed, now + self.limits.kick_memory, &self.limits);
            self.part(now, slot, LeaveReason::Kicked, &Farewell { code, message, retry_after: ban });
        }
    }

    /// Keeps the peer and its subject out, and gives all sessions that this is about.
    fn ban(&mut self, now: Instant, target: Slot, ban: Duration) -> Vec<Slot> {
        let session = &self.sessions[target];
        let room = &self.rooms[session.room];
        self.bans.add(&room.name, Banned::Peer(session.peer), now + ban, &self.limits);
        let Some(subject) = &session.grant.subject else { return vec![target] };
        self.bans.add(&room.name, Banned::Subject(subject.clone()), now + ban, &self.limits);
        let same = |slot: &Slot| self.sessions[*slot].grant.subject.as_ref() == Some(subject);
        room.members().map(|(_, slot)| slot).filter(same).collect()
    }

    /// A client asks for it.
    pub(super) fn set_door_for(&mut self, slot: Slot, seq: u64, door: Door) {
        let session = &self.sessions[slot];
        if !session.grant.may_lock {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not open or close this room");
        }
        self.set_door(session.room, door);
    }

    /// Opens or closes the door of a room that exists. Who is in stays in.
    pub(super) fn set_door(&mut self, room: usize, door: Door) {
        if self.rooms[room].door == door {
            return;
        }
        self.rooms[room].door = door;
        let version = self.rooms[room].change();
        let body = Body::of(&ServerMessage::RoomChanged(RoomChanged { door, version }));
        self.broadcast(room, None, |_| body.clone());
    }

    /// Whether a client is kept out, by which code and for how long. A `member` has a session that it takes the place of.
    pub(super) fn shut_out(
        &self,
        now: Instant,
        name: &RoomName,
        peer: PeerId,
        grant: &Grant,
        member: bool,
    ) -> Option<Farewell<'static>> {
        if let Some(remaining) = self.bans.remaining(now, name, peer, grant.subject.as_ref()) {
            let message = "banned from this room for a time";
            return Some(Farewell { code: CloseCode::Banned, message, retry_after: Some(remaining) });
        }
        let room = self.rooms_by_name.get(name).map(|&room| &self.rooms[room])?;
        let locked = room.door == Door::Locked && !grant.may_lock && !member;
        locked.then_some(Farewell {
            code: CloseCode::Locked,
            message: "this room takes no newcomers",
            retry_after: None,
        })
    }
}
