//! The way into a room: bans, the door, its password, and those who knock.
//!
//! Somebody who knocks holds no connection: it is turned away with the request to come back for the answer in a few seconds. What
//! the room keeps of it is bounded in number and time, and those who may open the door are told. So waiting costs a handshake every
//! few seconds, works over every transport, and whoever goes away is noticed.

use std::time::Instant;

use sha2::{Digest as _, Sha256};
use signaling_protocol::{
    CloseCode, DisplayName, Door, ErrorCode, Hello, Knock, KnockEnded, LeaveReason, Password, PeerId, Role,
    RoomChanged, RoomName, ServerMessage, SetDoor,
};
use subtle::ConstantTimeEq as _;

use super::Hub;
use super::frame::Body;
use super::grant::{Grant, Identity};
use super::moderate::Farewell;
use super::session::Slot;

/// Somebody who knocked.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) peer: PeerId,
    name: Option<DisplayName>,
    role: Option<Role>,
    /// When it knocked first.
    since: Instant,
    /// When it is forgotten, if it does not come back before.
    pub(super) until: Instant,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Admitted,
    Denied,
}

/// SHA-256 of a password: what a room keeps of it.
pub(super) type PasswordDigest = [u8; 32];

/// Who comes.
pub(super) struct Newcomer<'a> {
    pub(super) room: &'a RoomName,
    pub(super) peer: PeerId,
    pub(super) hello: &'a Hello,
    pub(super) grant: &'a Grant,
    /// It has a session that it takes the place of.
    pub(super) member: bool,
}

impl Hub {
    /// Whether a client is kept out, by which code and for how long.
    pub(super) fn shut_out(&mut self, now: Instant, who: &Newcomer<'_>) -> Option<Farewell<'static>> {
        let turned_away = |code, message, retry_after| Some(Farewell { code, message, retry_after });
        if let Some(rest) = self.bans.remaining(now, who.room, who.peer, who.grant.subject.as_ref()) {
            return turned_away(CloseCode::Banned, "banned from this room for a time", Some(rest));
        }
        if who.grant.identity == Identity::Reject && !self.others_of(who).is_empty() {
            return turned_away(CloseCode::AlreadyHere, "this user is here already by another device", None);
        }
        if who.member || who.grant.may_lock {
            return None;
        }
        let Some(&room) = self.rooms_by_name.get(who.room) else {
            // The first may be one who has to be let in: it waits for somebody who may do that.
            return match self.limits.door {
                Door::Open => None,
                Door::Knock => turned_away(CloseCode::Knocking, KNOCKING, Some(self.limits.knock_again)),
                Door::Locked => turned_away(CloseCode::Locked, LOCKED, None),
            };
        };
        if let Err(farewell) = self.check_password(now, room, who.hello.password.as_ref()) {
            return Some(farewell);
        }
        match self.rooms[room].door {
            Door::Open => None,
            Door::Locked => turned_away(CloseCode::Locked, LOCKED, None),
            Door::Knock => self.knock(now, room, who),
        }
    }

    /// Sessions of the same user in the room, other than the one of this very peer.
    pub(super) fn others_of(&self, who: &Newcomer<'_>) -> Vec<Slot> {
        let (Some(subject), Some(&room)) = (&who.grant.subject, self.rooms_by_name.get(who.room)) else {
            return Vec::new();
        };
        let same = |&(peer, slot): &(PeerId, Slot)| {
            peer != who.peer && self.sessions[slot].grant.subject.as_ref() == Some(subject)
        };
        self.rooms[room].members().filter(same).map(|(_, slot)| slot).collect()
    }

    /// Ends the other sessions of a user who may be in the room only once.
    pub(super) fn replace_others(&mut self, now: Instant, others: Vec<Slot>) {
        let message = "the same user came by another device";
        let farewell = Farewell { code: CloseCode::Replaced, message, retry_after: None };
        for slot in others {
            self.part(now, slot, LeaveReason::Replaced, &farewell);
        }
    }

    fn check_password(
        &mut self,
        now: Instant,
        room: usize,
        shown: Option<&Password>,
    ) -> Result<(), Farewell<'static>> {
        let room = &mut self.rooms[room];
        let Some(password) = room.password else { return Ok(()) };
        // Before it is looked at: a guess that is one too many learns nothing.
        let fresh = room.guesses_forgotten_at.max(now) + self.limits.guess_interval;
        let most = self.limits.guess_interval * self.limits.guesses.max(1);
        if shown.is_some() && fresh - now > most {
            let (code, message) =
                (CloseCode::RateLimited, "too many wrong passwords were tried in this room");
            return Err(Farewell { code, message, retry_after: Some(fresh - now - most) });
        }
        if shown.is_some_and(|shown| digest(shown).ct_eq(&password).into()) {
            return Ok(());
        }
        if shown.is_some() {
            room.guesses_forgotten_at = fresh;
        }
        let message = if shown.is_some() { "this is not the password" } else { "this room has a password" };
        Err(Farewell { code: CloseCode::WrongPassword, message, retry_after: None })
    }

    /// `None` if the client was admitted.
    fn knock(&mut self, now: Instant, room: usize, who: &Newcomer<'_>) -> Option<Farewell<'static>> {
        let again = Some(self.limits.knock_again);
        let knocking = Some(Farewell { code: CloseCode::Knocking, message: KNOCKING, retry_after: again });
        let waiting = &mut self.rooms[room].waiting;
        if let Some(at) = waiting.iter().position(|waiting| waiting.peer == who.peer) {
            match waiting[at].answer {
                Some(Answer::Admitted) => {
                    let admitted = waiting.remove(at);
                    self.knocks.remove(&(admitted.until, room, admitted.peer));
                    return None;
                }
                Some(Answer::Denied) => {
                    return Some(Farewell { code: CloseCode::Denied, message: DENIED, retry_after: None });
                }
                None => {
                    let longest = waiting[at].since + self.limits.knock_longest;
                    let until = (now + self.limits.knock_patience).min(longest);
                    self.keep_waiting(room, at, until);
                    return knocking;
                }
            }
        }
        if waiting.len() >= self.limits.knocks {
            let message = "as many wait for this room as may";
            return Some(Farewell { code: CloseCode::RoomFull, message, retry_after: again });
        }
        let until = now + self.limits.knock_patience;
        let name = who.grant.name.clone().or_else(|| who.hello.name.clone());
        let name = name.filter(|name| !name.as_str().is_empty());
        let role = who.grant.role.clone();
        waiting.push(Waiting { peer: who.peer, name, role, since: now, until, answer: None });
        self.knocks.insert((until, room, who.peer));
        let body = self.knock_body(room, self.rooms[room].waiting.len() - 1);
        self.tell_doorkeepers(room, &body);
        knocking
    }

    fn keep_waiting(&mut self, room: usize, at: usize, until: Instant) {
        let waiting = &mut self.rooms[room].waiting[at];
        self.knocks.remove(&(waiting.until, room, waiting.peer));
        waiting.until = until;
        self.knocks.insert((until, room, waiting.peer));
    }

    fn knock_body(&self, room: usize, at: usize) -> Body {
        let Waiting { peer, name, role, .. } = &self.rooms[room].waiting[at];
        Body::of(&ServerMessage::Knock(Knock { peer: *peer, name: name.clone(), role: role.clone() }))
    }

    fn tell_doorkeepers(&mut self, room: usize, body: &Body) {
        let members: Vec<Slot> = self.rooms[room].members().map(|(_, slot)| slot).collect();
        for slot in members {
            if self.sessions[slot].grant.may_lock {
                self.deliver(slot, body.clone());
            }
        }
    }

    /// Tells one who may open the door, from now on, who waits before it.
    pub(super) fn tell_who_waits(&mut self, slot: Slot) {
        let room = self.sessions[slot].room;
        if !self.sessions[slot].grant.may_lock {
            return;
        }
        for at in 0..self.rooms[room].waiting.len() {
            if self.rooms[room].waiting[at].answer.is_none() {
                let body = self.knock_body(room, at);
                self.deliver(slot, body);
            }
        }
    }

    /// A client answers somebody who knocked.
    pub(super) fn answer_for(&mut self, now: Instant, slot: Slot, seq: u64, to: Option<PeerId>, admit: bool) {
        let session = &self.sessions[slot];
        if !session.grant.may_lock {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not answer who knocks");
        }
        let room = session.room;
        let unanswered = |waiting: &Waiting| Some(waiting.peer) == to && waiting.answer.is_none();
        let Some(at) = self.rooms[room].waiting.iter().position(unanswered) else {
            return self.refuse(slot, seq, ErrorCode::NoSuchPeer, "nobody of that id waits before the door");
        };
        let answer = if admit { Answer::Admitted } else { Answer::Denied };
        self.rooms[room].waiting[at].answer = Some(answer);
        let peer = self.rooms[room].waiting[at].peer;
        self.keep_waiting(room, at, now + self.limits.answer_memory);
        let body = Body::of(&ServerMessage::KnockEnded(KnockEnded { peer }));
        self.tell_doorkeepers(room, &body);
    }

    /// Forgets who did not come back, and tells those who were asked.
    pub(super) fn expire_knocks(&mut self, now: Instant) {
        while let Some(&(until, room, peer)) = self.knocks.first() {
            if until > now {
                return;
            }
            self.knocks.pop_first();
            let waiting = &mut self.rooms[room].waiting;
            let Some(at) = waiting.iter().position(|waiting| waiting.peer == peer) else { continue };
            let unanswered = waiting[at].answer.is_none();
            // Who waited as long as one may is sent away; who went away is forgotten.
            let tired = unanswered && now >= waiting[at].since + self.limits.knock_longest;
            if tired {
                waiting[at].answer = Some(Answer::Denied);
                waiting[at].until = now + self.limits.answer_memory;
                self.knocks.insert((waiting[at].until, room, peer));
            } else {
                waiting.remove(at);
            }
            if unanswered {
                let body = Body::of(&ServerMessage::KnockEnded(KnockEnded { peer }));
                self.tell_doorkeepers(room, &body);
            }
        }
    }

    /// A client asks for it.
    pub(super) fn set_door_for(&mut self, slot: Slot, seq: u64, wish: &SetDoor) {
        let session = &self.sessions[slot];
        if !session.grant.may_lock {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not open or close this room");
        }
        let (room, kept) = (session.room, self.rooms[session.room].password);
        let password = match &wish.password {
            None => kept,
            Some(password) => (!password.as_str().is_empty()).then(|| digest(password)),
        };
        self.set_door(room, wish.door, password);
    }

    /// Opens or closes the door of a room that exists. Who is in stays in; who knocked is forgotten if nobody knocks any more.
    pub(super) fn set_door(&mut self, room: usize, door: Door, password: Option<PasswordDigest>) {
        let Some(it) = self.rooms.get_mut(room) else { return };
        if (it.door, it.password) == (door, password) {
            return;
        }
        (it.door, it.password) = (door, password);
        let version = it.change();
        if door != Door::Knock {
            self.forget_knocks(room);
        }
        let password = password.is_some();
        let body = Body::of(&ServerMessage::RoomChanged(RoomChanged { door, password, version }));
        self.broadcast(room, None, |_| body.clone());
    }

    pub(super) fn forget_knocks(&mut self, room: usize) {
        for waiting in std::mem::take(&mut self.rooms[room].waiting) {
            self.knocks.remove(&(waiting.until, room, waiting.peer));
        }
    }
}

fn digest(password: &Password) -> PasswordDigest {
    Sha256::digest(password.as_str()).into()
}

const KNOCKING: &str = "somebody inside is asked; come back for the answer";
const LOCKED: &str = "this room takes no newcomers";
const DENIED: &str = "nobody inside lets you in";
