//! What the operator sees of a hub, and says to a room. Looking changes nothing.

use std::time::{Duration, Instant};

use signaling_protocol::{DisplayName, Door, Notice, PeerId, PeerState, RoomName, ServerMessage, SessionId};

use super::Hub;
use super::frame::Body;
use super::grant::Subject;
use super::room::Room;

/// A room in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    /// Its name.
    pub name: RoomName,
    /// Who may come in.
    pub door: Door,
    /// Its members, those that are away included.
    pub peers: usize,
    /// Its members with a connection.
    pub here: usize,
    /// How long it has existed.
    pub age: Duration,
}

/// A member of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Who it is.
    pub peer: PeerId,
    /// Its session.
    pub session: SessionId,
    /// What it calls itself.
    pub name: Option<DisplayName>,
    /// Whether it has a connection.
    pub state: PeerState,
    /// How long its session has lived.
    pub age: Duration,
    /// Frames that it sent in this session.
    pub received: u64,
    /// Frames that were sent to it.
    pub sent: u64,
}

/// Somebody who is kept out of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanView {
    /// The peer; `None` if only the user is kept out by now.
    pub peer: Option<PeerId>,
    /// The user, where one is known.
    pub subject: Option<Subject>,
    /// What the peer called itself, where that is known.
    pub name: Option<DisplayName>,
    /// How much longer.
    pub remaining: Duration,
}

/// A part of the list of all rooms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomPage {
    /// Some rooms, in no order that means anything.
    pub rooms: Vec<RoomView>,
    /// Where the list goes on.
    pub next: Option<usize>,
}

impl Hub {
    /// At most `limit` rooms from a place on; 0 is the first place. Who follows `next` sees every room once that exists all the
    /// while. It looks at a bounded number of places, so a page may be empty and yet have a `next`.
    #[must_use]
    pub fn rooms_from(&self, now: Instant, place: usize, limit: usize) -> RoomPage {
        let mut page = RoomPage::default();
        let end = self.rooms.capacity();
        for place in place..end.min(place.saturating_add(PLACES)) {
            if page.rooms.len() == limit {
                return RoomPage { next: Some(place), ..page };
            }
            page.rooms.extend(self.rooms.get(place).map(|room| self.view(now, room)));
        }
        page.next = place.checked_add(PLACES).filter(|next| *next < end);
        page
    }

    /// One room and its members, in the order of their ids.
    #[must_use]
    pub fn room(&self, now: Instant, name: &RoomName) -> Option<(RoomView, Vec<PeerView>)> {
        let room = &self.rooms[*self.rooms_by_name.get(name)?];
        let peers = room.members().map(|(peer, slot)| {
            let session = &self.sessions[slot];
            PeerView {
                peer,
                session: session.id,
                name: session.name.clone(),
                state: session.state(),
                age: now.saturating_duration_since(session.started),
                received: session.traffic.received,
                sent: session.traffic.sent,
            }
        });
        Some((self.view(now, room), peers.collect()))
    }

    /// Who is kept out of a room, which need not exist: as many as [`Limits::bans_per_room`](super::Limits::bans_per_room) at most.
    #[must_use]
    pub fn bans(&self, now: Instant, room: &RoomName) -> Vec<BanView> {
        self.bans.of_room(now, room)
    }

    fn view(&self, now: Instant, room: &Room) -> RoomView {
        let here = room.members().filter(|(_, slot)| self.sessions[*slot].conn().is_some()).count();
        let age = now.saturating_duration_since(room.since);
        RoomView { name: room.name.clone(), door: room.door, peers: room.len(), here, age }
    }

    pub(super) fn notice(&mut self, name: &RoomName, notice: Notice) {
        let Some(&room) = self.rooms_by_name.get(name) else { return };
        let body = Body::of(&ServerMessage::Notice(notice));
        self.broadcast(room, None, |_| body.clone());
    }
}

/// Looked at for one page: some hundred microseconds between two frames.
const PLACES: usize = 4_096;
