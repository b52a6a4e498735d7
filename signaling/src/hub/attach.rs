//! What a `hello` leads to: a session begins, is resumed, takes the place of another, or the client is turned away.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::{Duration, Instant};

use rand::Rng as _;
use signaling_protocol::{
    CloseCode, Hello, IceServers, LimitsNotice, MAX_FRAME_BYTES, Outcome, PeerId, PeerJoined, PeerState,
    PingNotice, ResyncReason, RoomName, RoomSnapshot, ServerMessage, SessionId, Welcome,
};

use super::contract::{ConnId, EndReason, Event, Output, Traffic};
use super::entrance::Newcomer;
use super::frame::{Body, Frame};
use super::grant::{Grant, Identity};
use super::limits::Bucket;
use super::moderate::Farewell;
use super::ring::Ring;
use super::room::Room;
use super::session::{Attached, Link, Session, Slot};
use super::token::{Key, Keys, Token};
use super::{Hub, millis};

/// Optional abilities that `welcome` lists.
const FEATURES: [&str; 5] = ["resume", "ice_refresh", "moderation", "bans", "token"];

/// Credentials are not refreshed more often, however soon they expire.
const MIN_ICE_REFRESH: Duration = Duration::from_secs(1);

/// A connection whose first frame was a hello.
pub(super) struct Attach {
    pub(super) conn: ConnId,
    pub(super) room: RoomName,
    pub(super) ack: u64,
    pub(super) hello: Hello,
    pub(super) grant: Option<Grant>,
    pub(super) ice: IceServers,
}

/// What is to be done with a hello.
enum Verdict {
    Resume {
        slot: Slot,
        key: Key,
    },
    Fresh {
        existing: Option<Slot>,
        resync: Option<ResyncReason>,
    },
    /// It acknowledges what was never sent.
    Impossible,
    /// The client said it, gave up, and is attached by a later connection already.
    Late,
    /// The session that it wants to resume was removed.
    Removed,
}

impl Verdict {
    /// The session that stands already and that the hello resumes or replaces.
    const fn session(&self) -> Option<Slot> {
        match self {
            Self::Resume { slot, .. } => Some(*slot),
            Self::Fresh { existing, .. } => *existing,
            Self::Impossible | Self::Late | Self::Removed => None,
        }
    }
}

impl Hub {
    pub(super) fn expected_session(&self, room: &RoomName, ack: u64, hello: &Hello) -> SessionId {
        match self.judge(room, ack, hello).1 {
            Verdict::Resume { slot, .. } => self.sessions[slot].id,
            Verdict::Fresh { .. } | Verdict::Impossible | Verdict::Late | Verdict::Removed => {
                self.next_session
            }
        }
    }

    pub(super) fn attach(&mut self, now: Instant, attach: Attach) {
        let conn = attach.conn;
        if self.draining {
            return self.send_elsewhere(conn);
        }
        let (peer, verdict) = self.judge(&attach.room, attach.ack, &attach.hello);
        let verdict = self.unless_late(conn, &attach.hello, verdict);
        if let Some(slot) = verdict.session()
            && let Err(refill) = self.sessions[slot].bucket.take_hello(now, &self.limits)
        {
            return self.turn_away_until(conn, refill);
        }
        match verdict {
            Verdict::Resume { slot, .. } if self.is_of_another(slot, &attach) => {
                self.turn_away(conn, CloseCode::Unauthorized, "the token is of another user");
            }
            Verdict::Resume { slot, key } => self.resume(now, slot, key, attach),
            Verdict::Fresh { existing, resync } => self.begin(now, peer, existing, resync, attach),
            Verdict::Impossible => {
                let message = "ack of a frame that was never sent in this session";
                self.turn_away(conn, CloseCode::BadHello, message);
            }
            Verdict::Removed => self.turn_away(conn, CloseCode::Kicked, "removed from the room"),
            Verdict::Late => self.turn_away(conn, CloseCode::Replaced, "a later connection is in place"),
        }
    }

    /// A session stays with the user who began it.
    fn is_of_another(&self, slot: Slot, attach: &Attach) -> bool {
        let session = &self.sessions[slot];
        attach.grant.as_ref().is_some_and(|grant| grant.subject != session.grant.subject)
    }

    /// A hello that was held up in the network while its client gave up and came by another connection must not
    /// throw that one out. The client's own count tells; without one, or if somebody on the way sent a hello twice, the
    /// order in which the connections came does.
    fn unless_late(&self, conn: ConnId, hello: &Hello, verdict: Verdict) -> Verdict {
        let Some(slot) = verdict.session() else { return verdict };
        let session = &self.sessions[slot];
        let counted = hello.attempt != 0 && hello.instance == session.instance;
        let late = match hello.attempt.cmp(&session.attempt) {
            Ordering::Less if counted => true,
            Ordering::Greater if counted => false,
            Ordering::Less | Ordering::Equal | Ordering::Greater => conn < session.latest,
        };
        if late { Verdict::Late } else { verdict }
    }

    fn judge(&self, room: &RoomName, ack: u64, hello: &Hello) -> (PeerId, Verdict) {
        let peer = PeerId::derive(room, &hello.secret);
        let existing = self.rooms_by_name.get(room).and_then(|&room| self.rooms[room].find(&peer));
        let fresh = |resync| Verdict::Fresh { existing, resync };
        let verdict = match &hello.resume {
            None => fresh(None),
            Some(token) => match Token::read(token) {
                Some(token) if self.removed.is_removed(room, token.session) => Verdict::Removed,
                Some(token) if token.epoch == self.epoch => self
                    .judge_token(existing, ack, hello, &token)
                    .unwrap_or_else(|reason| fresh(Some(reason))),
                Some(_) | None => fresh(Some(ResyncReason::Unknown)),
            },
        };
        (peer, verdict)
    }

    fn judge_token(
        &self,
        existing: Option<Slot>,
        ack: u64,
        hello: &Hello,
        token: &Token,
    ) -> Result<Verdict, ResyncReason> {
        let slot = existing.ok_or(ResyncReason::Expired)?;
        let session = &self.sessions[slot];
        // Another run of the client does not know what this one has received.
        if session.id != token.session || session.instance != hello.instance {
            return Err(ResyncReason::Replaced);
        }
        if !session.keys.accept(&token.key) {
            return Err(ResyncReason::Unknown);
        }
        if session.ring.overflowed() || ack < session.ring.acked() {
            return Err(ResyncReason::Overflow);
        }
        if ack > session.ring.last() {
            return Ok(Verdict::Impossible);
        }
        Ok(Verdict::Resume { slot, key: token.key })
    }

    fn resume(&mut self, now: Instant, slot: Slot, presented: Key, attach: Attach) {
        let fresh = self.draw_key();
        let session = &mut self.sessions[slot];
        let attached = Attached::new(attach.conn, now, &self.limits);
        let former = std::mem::replace(&mut session.link, Link::Attached(attached));
        session.latest = attach.conn;
        if let Some(grant) = attach.grant {
            session.grant = grant;
        }
        session.attempt = attach.hello.attempt;
        // The client may have put only the first ones to use: the push comes when it would have come.
        session.ice_due = [session.ice_due, ice_due(now, &attach.ice)].into_iter().flatten().min();
        session.keys.rotate(presented, fresh);
        session.ring.acknowledge(attach.ack, &mut self.held);
        let (id, room, ack) = (session.id, session.room, session.received);
        let takeover = match former {
            Link::Attached(former) => {
                self.conns.remove(&former.conn);
                self.close(
                    former.conn,
                    ack,
                    CloseCode::Replaced,
                    "another connection resumed this session",
                    None,
                );
                true
            }
            Link::Away { .. } => {
                self.rooms[room].change();
                false
            }
        };
        self.conns.insert(attach.conn, slot);

        self.welcome(now, slot, attach.conn, Outcome::Resumed, None, attach.ice);
        let replayed = self.replay(slot, attach.conn);
        self.event(Event::Resumed { session: id, takeover, replayed });
        if !takeover {
            self.tell_state(slot, PeerState::Here);
        }
        self.reschedule(slot);
    }

    fn begin(
        &mut self,
        now: Instant,
        peer: PeerId,
        existing: Option<Slot>,
        resync: Option<ResyncReason>,
        attach: Attach,
    ) {
        let Attach { conn, room: name, hello, grant, ice, .. } = attach;
        let Some(grant) = grant else {
            return self.turn_away(conn, CloseCode::Unauthorized, "this server asks for a token");
        };
        let who = Newcomer { room: &name, peer, hello: &hello, grant: &grant, member: existing.is_some() };
        if let Some(farewell) = self.shut_out(now, &who) {
            return self.turn_away_with(conn, &farewell);
        }
        if grant.identity == Identity::Replace {
            let others = self.others_of(&who);
            self.replace_others(now, others);
        }
        let bucket = match existing {
            Some(former) => self.end_replaced(now, former),
            None => {
                if let Err((code, message)) = self.admit(&name) {
                    return self.turn_away(conn, code, message);
                }
                Bucket::full(now)
            }
        };
        let room = match self.rooms_by_name.get(&name) {
            Some(&room) => room,
            None => {
                let room = self.rooms.insert(Room::new(now, name.clone(), self.limits.door));
                self.event(Event::RoomStarted { room: name.clone() });
                self.rooms_by_name.insert(name.clone(), room);
                room
            }
        };
        let (id, key) = (self.take_session_id(), self.draw_key());
        let slot = self.sessions.insert(Session {
            id,
            room,
            peer,
            instance: hello.instance,
            name: grant.name.clone().or(hello.name).filter(|name| !name.as_str().is_empty()),
            grant,
            verifying: false,
            started: now,
            traffic: Traffic::default(),
            keys: Keys::new(key),
            link: Link::Attached(Attached::new(conn, now, &self.limits)),
            latest: conn,
            attempt: hello.attempt,
            received: 0,
            told: 0,
            ring: Ring::default(),
            bucket,
            ice_due: ice_due(now, &ice),
            wake: None,
        });
        self.sessions_by_id.insert(id, slot);
        self.conns.insert(conn, slot);
        self.rooms[room].set(peer, slot);
        self.rooms[room].change();

        let outcome = if resync.is_some() { Outcome::Resync } else { Outcome::New };
        self.welcome(now, slot, conn, outcome, resync, ice);
        self.event(Event::Started { session: id, resync });
        if existing.is_none() {
            self.event(Event::Joined { room: name, peer, session: id });
        }
        self.tell_joined(slot, existing.is_some());
        self.tell_who_waits(slot);
        self.reschedule(slot);
    }

    /// Whether one more session in this room is within the limits.
    fn admit(&self, name: &RoomName) -> Result<(), (CloseCode, &'static str)> {
        if self.sessions.len() >= self.limits.sessions {
            return Err((CloseCode::Overloaded, "the server holds as many sessions as it may"));
        }
        match self.rooms_by_name.get(name) {
            Some(&room) if self.rooms[room].len() >= self.limits.peers_per_room => {
                Err((CloseCode::RoomFull, "the room holds as many peers as it may"))
            }
            None if self.rooms.len() >= self.limits.rooms => {
                Err((CloseCode::Overloaded, "the server holds as many rooms as it may"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Gives the bucket, which goes over to the new session: replacing oneself does not fill it.
    fn end_replaced(&mut self, now: Instant, former: Slot) -> Bucket {
        let session = &self.sessions[former];
        let (ack, bucket) = (session.received, session.bucket);
        if let Some(conn) = session.conn() {
            self.close(conn, ack, CloseCode::Replaced, "a new session of the same peer took its place", None);
        }
        // The room keeps its member: `begin` gives it the new session.
        self.forget(now, former, EndReason::Replaced);
        bucket
    }

    fn welcome(
        &mut self,
        now: Instant,
        slot: Slot,
        conn: ConnId,
        outcome: Outcome,
        reason: Option<ResyncReason>,
        ice: IceServers,
    ) {
        let session = &self.sessions[slot];
        let room = &self.rooms[session.room];
        let others = room.members().filter(|&(_, other)| other != slot);
        let token = Token { epoch: self.epoch, session: session.id, key: session.keys.current() };
        let welcome = Welcome {
            session: session.id,
            peer: session.peer,
            resume: token.write(),
            outcome,
            reason,
            features: FEATURES.map(Cow::Borrowed).to_vec(),
            limits: LimitsNotice {
                message_bytes: MAX_FRAME_BYTES as u64,
                messages_per_second: self.limits.messages_per_second.into(),
                message_burst: self.limits.message_burst.into(),
                replay_messages: self.limits.replay_messages as u64,
                replay_bytes: self.limits.replay_bytes as u64,
            },
            ping: PingNotice {
                interval_ms: millis(self.limits.ping_interval),
                deadline_ms: millis(self.limits.ping_deadline),
            },
            grace_ms: millis(self.limits.grace),
            granted: session.grant.notice(now),
            ice: ice.into(),
            room: RoomSnapshot {
                name: room.name.clone(),
                version: room.version,
                door: room.door,
                password: room.password.is_some(),
                peers: others.map(|(_, other)| self.sessions[other].snapshot_for(&session.peer)).collect(),
            },
        };
        let frame = Frame::new(0, session.received, Body::of(&ServerMessage::Welcome(Box::new(welcome))));
        self.outputs.push_back(Output::Send { conn, frame });
        let session = &mut self.sessions[slot];
        session.told = session.received;
        session.traffic.sent += 1;
    }

    /// Sends again what the client has not acknowledged.
    fn replay(&mut self, slot: Slot, conn: ConnId) -> usize {
        let session = &self.sessions[slot];
        let before = self.outputs.len();
        self.outputs.extend(session.ring.iter().map(|(seq, body)| Output::Send {
            conn,
            frame: Frame::new(seq, session.received, body.clone()),
        }));
        let count = self.outputs.len() - before;
        self.sessions[slot].traffic.sent += count as u64;
        count
    }

    fn tell_joined(&mut self, slot: Slot, resync: bool) {
        let session = &self.sessions[slot];
        let (room, peer) = (session.room, session.peer);
        let version = self.rooms[room].version;
        let body = |polite| {
            Body::of(&ServerMessage::PeerJoined(PeerJoined {
                peer,
                instance: session.instance.clone(),
                name: session.name.clone(),
                role: session.grant.role.clone(),
                polite,
                resync,
                version,
            }))
        };
        // Serialised once for all who are polite towards the newcomer and once for all who are not.
        let [impolite, polite] = [body(false), body(true)];
        self.broadcast(room, Some(slot), |reader| {
            if reader.is_polite_towards(&peer) { polite.clone() } else { impolite.clone() }
        });
    }

    /// Refuses a connection that has no session.
    pub(super) fn turn_away(&mut self, conn: ConnId, code: CloseCode, message: &'static str) {
        let full = matches!(code, CloseCode::Overloaded | CloseCode::RoomFull);
        let retry_after = full.then_some(self.limits.retry_after_full);
        self.turn_away_with(conn, &Farewell { code, message, retry_after });
    }

    fn turn_away_with(&mut self, conn: ConnId, farewell: &Farewell<'_>) {
        let &Farewell { code, message, retry_after } = farewell;
        self.close(conn, 0, code, message, retry_after);
        self.event(Event::TurnedAway { code });
    }

    /// Refuses a connection of a peer that came back too often. Its session stays as it is.
    fn turn_away_until(&mut self, conn: ConnId, refill: Duration) {
        let message = "this peer connects too often";
        let farewell = Farewell { code: CloseCode::RateLimited, message, retry_after: Some(refill) };
        self.turn_away_with(conn, &farewell);
    }

    fn take_session_id(&mut self) -> SessionId {
        let id = self.next_session;
        while self.next_session == id || self.sessions_by_id.contains_key(&self.next_session) {
            self.next_session = SessionId::from_bits(self.rng.next_u64());
        }
        id
    }

    fn draw_key(&mut self) -> Key {
        let mut key = Key::default();
        self.rng.fill_bytes(&mut key);
        key
    }
}

/// When fresh credentials are to be asked for.
pub(super) fn ice_due(now: Instant, ice: &IceServers) -> Option<Instant> {
    ice.refresh_in().map(|refresh_in| now + refresh_in.max(MIN_ICE_REFRESH))
}
