//! One session: one peer's presence in one room, over however many connections.

use std::time::Instant;

use signaling_protocol::{DisplayName, Instance, PeerId, PeerSnapshot, PeerState, SessionId};

use super::contract::{ConnId, Traffic};
use super::grant::Grant;
use super::limits::{Bucket, Limits};
use super::ring::Ring;
use super::token::Keys;

/// Index of a session in the hub.
pub(super) type Slot = usize;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// Index of its room in the hub.
    pub(super) room: usize,
    pub(super) peer: PeerId,
    pub(super) instance: Instance,
    pub(super) name: Option<DisplayName>,
    pub(super) grant: Grant,
    /// A further token of it is being verified.
    pub(super) verifying: bool,
    pub(super) started: Instant,
    pub(super) traffic: Traffic,
    pub(super) keys: Keys,
    pub(super) link: Link,
    /// The connection that it was attached to last.
    pub(super) latest: ConnId,
    /// The `attempt` of the hello on it.
    pub(super) attempt: u64,
    /// Highest `seq` of the client that was processed.
    pub(super) received: u64,
    /// Highest `ack` that was written to the client.
    pub(super) told: u64,
    /// Frames to the client.
    pub(super) ring: Ring,
    /// Outlives connections, and the session if another takes its place: coming back does not fill it.
    pub(super) bucket: Bucket,
    /// Set while the client has credentials that expire and fresh ones were not asked for. Coming back does not
    /// postpone it.
    pub(super) ice_due: Option<Instant>,
    /// Its entry in the timing index.
    pub(super) wake: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Link {
    Attached(Attached),
    Away { until: Instant },
}

#[derive(Debug)]
pub(super) struct Attached {
    pub(super) conn: ConnId,
    /// When the last frame came.
    pub(super) heard: Instant,
    pub(super) next_ping: Instant,
    /// What had been sent before the ping that waits for its pong: whoever answers it has received that, or it was lost.
    pub(super) pinged: Option<u64>,
    /// Set while the client waits for an acknowledgement.
    pub(super) ack_due: Option<Instant>,
    pub(super) unknown_types: u8,
}

impl Session {
    pub(super) const fn conn(&self) -> Option<ConnId> {
        match &self.link {
            Link::Attached(attached) => Some(attached.conn),
            Link::Away { .. } => None,
        }
    }

    pub(super) const fn state(&self) -> PeerState {
        match self.link {
            Link::Attached(_) => PeerState::Here,
            Link::Away { .. } => PeerState::Away,
        }
    }

    /// When something happens to it without anybody's doing.
    pub(super) fn due(&self, limits: &Limits) -> Instant {
        let (first, others) = match &self.link {
            Link::Away { until } => (*until, [None, None]),
            Link::Attached(attached) => {
                (attached.next_ping.min(attached.silent_at(limits)), [attached.ack_due, self.ice_due])
            }
        };
        others.into_iter().chain([self.grant.expires]).flatten().fold(first, Instant::min)
    }

    /// How it looks to `reader`.
    pub(super) fn snapshot_for(&self, reader: &PeerId) -> PeerSnapshot {
        PeerSnapshot {
            peer: self.peer,
            instance: self.instance.clone(),
            name: self.name.clone(),
            role: self.grant.role.clone(),
            polite: reader.is_polite_towards(&self.peer),
            state: self.state(),
        }
    }
}

impl Attached {
    pub(super) fn new(conn: ConnId, now: Instant, limits: &Limits) -> Self {
        Self {
            conn,
            heard: now,
            next_ping: now + limits.ping_interval,
            pinged: None,
            ack_due: None,
            unknown_types: 0,
        }
    }

    /// When the silence has lasted too long.
    pub(super) fn silent_at(&self, limits: &Limits) -> Instant {
        self.heard + limits.ping_interval + limits.ping_deadline
    }
}
