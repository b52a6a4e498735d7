//! What an attached client says, and what others get to hear of it.

use std::time::{Duration, Instant};

use signaling_protocol::{
    ClientFrame, ClientMessage, CloseCode, ErrorCode, LeaveReason, PeerChanged, PeerId, PeerLeft, PeerState,
    RelayedSignal, ServerError, ServerMessage, Signal,
};

use super::Hub;
use super::contract::{ConnId, EndReason, Event, GoneReason, Output};
use super::frame::{Body, Frame, farewell};
use super::moderate::Farewell;
use super::session::{Link, Slot};

impl Hub {
    pub(super) fn hear(&mut self, now: Instant, conn: ConnId, frame: ClientFrame) {
        // A frame of a connection that was taken over, closed or replaced is nobody's.
        let Some(&slot) = self.conns.get(&conn) else { return };
        let session = &mut self.sessions[slot];
        let Link::Attached(attached) = &mut session.link else { return };
        if let Err(refill) = session.bucket.take(now, &self.limits) {
            let message = format!("at most {} frames a second", self.limits.messages_per_second);
            return self.expel(now, slot, CloseCode::RateLimited, &message, Some(refill));
        }
        attached.heard = now;
        session.traffic.received += 1;
        session.keys.confirm();
        if frame.ack > session.ring.last() {
            let message = format!("ack {} of a frame that was never sent", frame.ack);
            return self.expel(now, slot, CloseCode::BadFrame, &message, None);
        }
        session.ring.acknowledge(frame.ack, &mut self.held);
        if frame.seq > session.received + 1 {
            let message = format!("sequence: expected {}, got {}", session.received + 1, frame.seq);
            return self.expel(now, slot, CloseCode::BadFrame, &message, None);
        }
        if frame.seq != 0 {
            attached.ack_due.get_or_insert(now + self.limits.ack_delay);
            if frame.seq <= session.received {
                return self.reschedule(slot);
            }
            session.received = frame.seq;
        }
        self.act(now, slot, frame);
        self.acknowledge(slot);
    }

    fn act(&mut self, now: Instant, slot: Slot, frame: ClientFrame) {
        match frame.message {
            ClientMessage::Signal(signal) => self.relay(slot, frame.seq, signal),
            ClientMessage::Bye => self.part(now, slot, LeaveReason::Bye, &Farewell::BYE),
            ClientMessage::Kick(kick) => self.kick_for(now, slot, frame.seq, &kick),
            ClientMessage::Bans => self.show_bans_for(now, slot, frame.seq),
            ClientMessage::Lift(to) => self.lift_for(now, slot, frame.seq, to),
            ClientMessage::Door(wish) => self.set_door_for(slot, frame.seq, &wish),
            ClientMessage::Admit(to) => self.answer_for(now, slot, frame.seq, to, true),
            ClientMessage::Deny(to) => self.answer_for(now, slot, frame.seq, to, false),
            ClientMessage::Token(token) => self.show_token(slot, token),
            ClientMessage::Pong => self.hear_pong(now, slot, frame.ack),
            ClientMessage::Ack | ClientMessage::Report(_) => {}
            ClientMessage::Hello(_) => {
                self.expel(
                    now,
                    slot,
                    CloseCode::BadFrame,
                    "hello is the first frame of a connection only",
                    None,
                );
            }
            ClientMessage::Unknown => self.refuse_unknown(now, slot, frame.seq),
        }
    }

    /// Frames that were sent before the ping arrived before it, unless the answer to a poll was lost and somebody on the way
    /// asked again: then nothing but this would tell, as long as nothing else is sent.
    fn hear_pong(&mut self, now: Instant, slot: Slot, ack: u64) {
        let Link::Attached(attached) = &mut self.sessions[slot].link else { return };
        if attached.pinged.take().is_some_and(|sent| ack < sent) {
            let message = "what was sent before the ping is not acknowledged";
            self.expel(now, slot, CloseCode::SlowReader, message, None);
        }
    }

    fn relay(&mut self, slot: Slot, seq: u64, signal: Signal) {
        let session = &self.sessions[slot];
        if !session.grant.may_publish {
            return self.refuse(slot, seq, ErrorCode::NotPermitted, "you may not send signals");
        }
        let to = signal.to.filter(|to| *to != session.peer);
        let Some(recipient) = to.and_then(|to| self.rooms[session.room].find(&to)) else {
            return self.refuse(slot, seq, ErrorCode::NoSuchPeer, "no such peer in this room");
        };
        let body = Body::relayed(RelayedSignal {
            from: session.peer,
            negotiation: signal.negotiation,
            payload: signal.payload,
        });
        let bytes = body.len();
        if self.deliver(recipient, body) {
            self.event(Event::Relayed { bytes });
        } else {
            self.refuse(
                slot,
                seq,
                ErrorCode::NotDelivered,
                "the peer has fallen behind; it comes back by a resync",
            );
        }
    }

    fn refuse_unknown(&mut self, now: Instant, slot: Slot, seq: u64) {
        let Link::Attached(attached) = &mut self.sessions[slot].link else { return };
        attached.unknown_types += 1;
        if attached.unknown_types > self.limits.unknown_types {
            return self.expel(now, slot, CloseCode::BadFrame, "too many frames of unknown types", None);
        }
        self.refuse(slot, seq, ErrorCode::UnknownType, "this server does not know that type");
    }

    /// Answers a frame with an error; the connection stays.
    pub(super) fn refuse(&mut self, slot: Slot, seq: u64, code: ErrorCode, message: &'static str) {
        let error = ServerError {
            code,
            message: message.into(),
            temporary: matches!(code, ErrorCode::NotDelivered | ErrorCode::TokenUnverified),
            retry_after_ms: None,
            re: (seq != 0).then_some(seq),
        };
        self.deliver(slot, Body::of(&ServerMessage::Error(error)));
        self.event(Event::Refused { code });
    }

    /// Sends an `ack` if many frames wait for one, and sees to it that it is sent in time otherwise.
    fn acknowledge(&mut self, slot: Slot) {
        let Some(session) = self.sessions.get(slot) else { return };
        if session.received - session.told >= self.limits.ack_every {
            self.send_unsequenced(slot, Body::of(&ServerMessage::Ack));
        }
        self.reschedule(slot);
    }

    /// Puts a frame into the session's sequence and sends it if there is a connection. False if the session has
    /// fallen too far behind to ever get it.
    pub(super) fn deliver(&mut self, slot: Slot, body: Body) -> bool {
        let session = &mut self.sessions[slot];
        let news = !session.ring.overflowed();
        let Ok(seq) = session.ring.push(body.clone(), &self.limits, &mut self.held) else {
            if news {
                let session = session.id;
                self.overflowed.push(slot);
                self.event(Event::Overflowed { session });
            }
            return false;
        };
        self.send(slot, seq, body);
        true
    }

    pub(super) fn send_unsequenced(&mut self, slot: Slot, body: Body) {
        self.send(slot, 0, body);
    }

    fn send(&mut self, slot: Slot, seq: u64, body: Body) {
        let session = &mut self.sessions[slot];
        let Link::Attached(attached) = &mut session.link else { return };
        // Every frame carries the acknowledgement, so nothing waits for one any more.
        attached.ack_due = None;
        session.told = session.received;
        session.traffic.sent += 1;
        let frame = Frame::new(seq, session.received, body);
        self.outputs.push_back(Output::Send { conn: attached.conn, frame });
    }

    /// Delivers to every member of a room, or to all but one.
    pub(super) fn broadcast(&mut self, room: usize, except: Option<Slot>, body: impl Fn(&PeerId) -> Body) {
        let members: Vec<_> = self.rooms[room].members().collect();
        for (peer, slot) in members {
            if Some(slot) != except {
                self.deliver(slot, body(&peer));
            }
        }
    }

    /// Tells the others whether a peer has a connection. The change has been counted already.
    pub(super) fn tell_state(&mut self, slot: Slot, state: PeerState) {
        let session = &self.sessions[slot];
        let (peer, room) = (session.peer, session.room);
        let version = self.rooms[room].version;
        let body = Body::of(&ServerMessage::PeerChanged(PeerChanged { peer, state, version }));
        self.broadcast(room, Some(slot), |_| body.clone());
    }

    /// Takes the session's connection away; it may come back within the grace.
    pub(super) fn detach(&mut self, now: Instant, slot: Slot, why: GoneReason) {
        let session = &mut self.sessions[slot];
        let Some(conn) = session.conn() else { return };
        session.link = Link::Away { until: now + self.limits.grace };
        let (id, room) = (session.id, session.room);
        self.conns.remove(&conn);
        self.event(Event::Away { session: id, why });
        self.rooms[room].change();
        self.tell_state(slot, PeerState::Away);
        self.reschedule(slot);
    }

    /// Closes the session's connection; it may come back within the grace.
    pub(super) fn expel(
        &mut self,
        now: Instant,
        slot: Slot,
        code: CloseCode,
        message: &str,
        retry_after: Option<Duration>,
    ) {
        let session = &self.sessions[slot];
        let ack = session.received;
        let Some(conn) = session.conn() else { return };
        self.close(conn, ack, code, message, retry_after);
        self.detach(now, slot, GoneReason::ClosedByServer(code));
    }

    /// Ends a session and tells the others.
    pub(super) fn part(
        &mut self,
        now: Instant,
        slot: Slot,
        reason: LeaveReason,
        &Farewell { code, message, retry_after }: &Farewell<'_>,
    ) {
        let session = &self.sessions[slot];
        let (peer, room, ack) = (session.peer, session.room, session.received);
        if let Some(conn) = session.conn() {
            self.close(conn, ack, code, message, retry_after);
        }
        let end = match reason {
            LeaveReason::Bye => EndReason::Bye,
            LeaveReason::Expired => EndReason::Expired,
            LeaveReason::Kicked => EndReason::Kicked,
            LeaveReason::TokenExpired => EndReason::TokenExpired,
            LeaveReason::Replaced => EndReason::Replaced,
        };
        self.forget(now, slot, end);
        self.rooms[room].remove(&peer);
        if self.rooms[room].is_empty() {
            self.forget_knocks(room);
            let room = self.rooms.remove(room);
            self.rooms_by_name.remove(&room.name);
            let lived = now.saturating_duration_since(room.since);
            self.event(Event::RoomEnded { room: room.name, lived });
            return;
        }
        let version = self.rooms[room].change();
        let body = Body::of(&ServerMessage::PeerLeft(PeerLeft { peer, reason, version }));
        self.broadcast(room, None, |_| body.clone());
    }

    /// Drops everything about a session but its place in the room.
    pub(super) fn forget(&mut self, now: Instant, slot: Slot, reason: EndReason) {
        let mut session = self.sessions.remove(slot);
        self.deadlines.remove(slot, &mut session);
        self.sessions_by_id.remove(&session.id);
        if let Some(conn) = session.conn() {
            self.conns.remove(&conn);
        }
        session.ring.clear(&mut self.held);
        let lived = now.saturating_duration_since(session.started);
        let (id, traffic) = (session.id, session.traffic);
        self.event(Event::Ended { session: id, reason, lived, traffic });
        if reason != EndReason::Replaced {
            let room = self.rooms[session.room].name.clone();
            self.event(Event::Left { room, peer: session.peer, session: id, reason, lived });
        }
    }

    /// Says why, and closes.
    pub(super) fn close(
        &mut self,
        conn: ConnId,
        ack: u64,
        code: CloseCode,
        message: &str,
        retry_after: Option<Duration>,
    ) {
        if let Some(error) = farewell(code, message.to_owned(), retry_after) {
            let frame = Frame::new(0, ack, Body::of(&ServerMessage::Error(error)));
            self.outputs.push_back(Output::Send { conn, frame });
        }
        self.outputs.push_back(Output::Close { conn, code });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
