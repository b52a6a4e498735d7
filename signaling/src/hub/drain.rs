//! The end of a hub: its clients are asked to go elsewhere, one after the other, and who is left is closed.

use std::time::{Duration, Instant};

use signaling_protocol::{CloseCode, GoAway, ServerMessage};

use super::bans::Bans;
use super::contract::{ConnId, EndReason, Event, Output};
use super::frame::{Body, Frame};
use super::room::Room;
use super::session::Slot;
use super::{Hub, millis};

impl Hub {
    /// Turns newcomers away from now on and asks every client to leave at a time of its own. These times are spread evenly over
    /// `window`; the members of a room leave within [`TOGETHER`], so that they are apart for a moment only.
    pub(super) fn send_away(&mut self, window: Duration, url: Option<Box<str>>) {
        let all = self.conns.len();
        let rooms: Vec<Vec<Slot>> = self.rooms.iter().map(|(_, room)| self.attached(room)).collect();
        let mut before = 0;
        for members in rooms {
            let begin = share(window, before, all);
            let width = share(window, members.len(), all).min(TOGETHER);
            for (place, &slot) in members.iter().enumerate() {
                let in_ms = millis(begin + share(width, place, members.len()));
                self.send_unsequenced(
                    slot,
                    Body::of(&ServerMessage::GoAway(GoAway { in_ms, url: url.clone() })),
                );
            }
            before += members.len();
        }
        self.elsewhere = url;
        self.draining = true;
    }

    /// Takes that back, as far as it can be: who was asked to leave still may. The end is not taken back.
    pub(super) fn welcome_again(&mut self) {
        if self.ended {
            return;
        }
        self.draining = false;
        self.elsewhere = None;
    }

    /// Closes every connection and forgets every session.
    pub(super) fn end(&mut self, now: Instant) {
        (self.draining, self.ended) = (true, true);
        let all: Vec<Slot> = self.sessions.iter().map(|(slot, _)| slot).collect();
        for slot in all {
            let session = &self.sessions[slot];
            let ack = session.received;
            if let Some(conn) = session.conn() {
                self.close(conn, ack, CloseCode::GoingAway, "the server is shutting down", None);
            }
            self.forget(now, slot, EndReason::Drained);
        }
        let ended: Vec<Room> = self.rooms.drain().collect();
        for room in ended {
            let lived = now.saturating_duration_since(room.since);
            self.event(Event::RoomEnded { room: room.name, lived });
        }
        self.rooms_by_name.clear();
        self.bans = Bans::default();
        self.removed = Bans::default();
        self.knocks.clear();
    }

    /// Turns a newcomer away, and says where it is welcome if that is known.
    pub(super) fn send_elsewhere(&mut self, conn: ConnId) {
        if let Some(url) = self.elsewhere.clone() {
            let body = Body::of(&ServerMessage::GoAway(GoAway { in_ms: 0, url: Some(url) }));
            self.outputs.push_back(Output::Send { conn, frame: Frame::new(0, 0, body) });
        }
        self.turn_away(conn, CloseCode::GoingAway, "the server is shutting down");
    }

    fn attached(&self, room: &Room) -> Vec<Slot> {
        let members = room.members().map(|(_, slot)| slot);
        members.filter(|&slot| self.sessions[slot].conn().is_some()).collect()
    }
}

/// `part` of `whole` shares of a time.
fn share(time: Duration, part: usize, whole: usize) -> Duration {
    let [part, whole] = [part, whole.max(1)].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    time.saturating_mul(part) / whole
}

/// Within this time the members of a room leave, if the window is as generous: while some are here and some are
/// elsewhere they do not hear each other.
const TOGETHER: Duration = Duration::from_secs(1);
