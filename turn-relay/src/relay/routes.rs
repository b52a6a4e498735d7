//! Routes: what a driver may relay by itself, without asking the core about each packet, where it has the means for that.
//!
//! The core stays the authority. It names the allocations of which something has changed; for each the driver asks which routes
//! there are now, and lets go of all others before it does anything else. What the routes carried is told to the core now and then, which
//! counts it against the same rates. Every route has passed the peer policy at the time it was asked for, and ends
//! by itself when the permission, the channel or the allocation does.

use std::net::SocketAddr;
use std::time::Instant;

use super::Relay;
use super::allocation::Protocol;
use super::allocation_id::AllocationId;
use super::contract::Traffic;
use super::peers::Reach;
use super::rates::Direction;
use crate::address::{FiveTuple, PeerAddr, Transport};
use crate::frame::ChannelNumber;

/// A channel of a client over UDP: what comes from `client` under its number goes from `relayed` to `peer`, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The client's five-tuple; its transport is UDP.
    pub client: FiveTuple,
    /// The channel.
    pub channel: ChannelNumber,
    /// The relayed transport address, inside.
    pub relayed: SocketAddr,
    /// The peer, inside.
    pub peer: PeerAddr,
    /// Nothing may pass from here on, unless the route is given again with a later end.
    pub until: Instant,
    /// The peer is at an address of this very server: a driver may pass to it what is for another client, and nothing else.
    pub ours: bool,
    /// Whose allocation it is: allocations of this worker with the same number share a user's rates.
    pub user: usize,
}

/// A rate as a bucket of its own can keep it ([`Relay::paces`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScaledPace {
    /// Nanoseconds that a unit costs, times 65,536.
    pub scaled_cost: u64,
    /// Nanoseconds that a bucket may be ahead of now; 0: there is no limit.
    pub depth: u64,
}

/// Bytes and packets.
pub type ByFlow<T> = [T; 2];

/// Where the buckets of one direction stand: times in nanoseconds since the server's epoch at which they are full again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Of the allocation.
    pub allocation: ByFlow<u64>,
    /// Of all allocations of its user.
    pub user: ByFlow<u64>,
}

impl Relay {
    /// Names from now on what has changed; without this nothing is kept about it.
    pub fn keep_changes(&mut self) {
        self.changed = Some(Vec::new());
    }

    /// Moves the allocations whose routes may be others than before into `into`. They may be over, and named twice.
    pub fn take_changed(&mut self, into: &mut Vec<AllocationId>) {
        if let Some(changed) = &mut self.changed {
            into.append(changed);
        }
    }

    /// Puts the routes of an allocation as they are now into `into`: none where it is over, is no UDP client's, or is just moving.
    pub fn routes(&self, now: Instant, id: AllocationId, into: &mut Vec<Route>) {
        let Some(allocation) = self.ids.get(&id).and_then(|index| self.allocations.get(*index)) else {
            return;
        };
        let is_moving = allocation.next.is_some();
        if allocation.protocol != Protocol::Udp || allocation.from.transport != Transport::Udp || is_moving {
            return;
        }
        into.extend(allocation.open_channels(now).filter_map(|(channel, peer, until)| {
            let relayed = allocation.relayed.towards(peer.ip())?;
            let reach = self.peers.reach(peer.ip())?;
            // Whether another client is there is seen when packets come.
            if reach != Reach::LiveAllocations
                && !self.peers.may_reach(reach, peer, Protocol::Udp, &self.shared)
            {
                return None;
            }
            Some(Route {
                client: allocation.from,
                channel,
                relayed: SocketAddr::new(relayed.ip, relayed.port.0),
                peer,
                until: until.min(relayed.expires),
                ours: self.peers.is_ours(peer.ip()),
                user: allocation.user.index(),
            })
        }));
    }

    /// Counts what the routes of an allocation carried, and tells where its buckets are then: towards peers, towards the client.
    /// `None`: it is not here any more, and nothing was counted.
    pub fn carried(&mut self, now: Instant, id: AllocationId, traffic: &Traffic) -> Option<[Levels; 2]> {
        let index = *self.ids.get(&id)?;
        let allocation = self.allocations.get_mut(index)?;
        allocation.traffic.add(traffic);
        let to_peer = (traffic.to_peer_bytes, traffic.to_peer_packets);
        let to_client = (traffic.to_client_bytes, traffic.to_client_packets);
        let (meter, user) = (&mut allocation.meter, allocation.user);
        Some([
            self.rates.carried(now, Direction::ToPeer, meter, user, to_peer),
            self.rates.carried(now, Direction::ToClient, meter, user, to_client),
        ])
    }

    /// The rates of an allocation and of a user, in each direction.
    pub fn paces(&self) -> (ByFlow<ScaledPace>, ByFlow<ScaledPace>) {
        self.rates.scaled()
    }

    /// What [`Levels`] count from.
    pub fn epoch(&self) -> Instant {
        self.shared.epoch()
    }

    /// Something about an allocation has changed that its routes may depend on.
    pub(super) fn touch(&mut self, index: usize) {
        let (Some(changed), Some(allocation)) = (&mut self.changed, self.allocations.get(index)) else {
            return;
        };
        if changed.last() != Some(&allocation.id) {
            changed.push(allocation.id);
        }
    }

    /// Something about all of them has.
    pub(super) fn touch_all(&mut self) {
        if let Some(changed) = &mut self.changed {
            changed.extend(self.allocations.iter().map(|(_, allocation)| allocation.id));
        }
    }
}
