//! One allocation: its lifetime, permissions, channels and counters.
//!
//! Refuses to do: the wire, the policy. Both lists are small and sorted, so that a packet costs two binary searches.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::allocation_id::AllocationId;
use super::contract::{PeerConnectionId, Traffic};
use super::peers::Reach;
use super::rates::{Meter, UserSlot};
use super::relayed::RelayedSet;
use crate::address::{FiveTuple, PeerAddr, Subscriber, packed, unpacked};
use crate::credentials::Key;
use crate::frame::ChannelNumber;

/// RFC 8656 section 9: exactly five minutes.
pub(super) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 section 12: ten minutes.
pub(super) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// What an allocation relays: its REQUESTED-TRANSPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Datagrams (RFC 8656).
    Udp,
    /// Connections (RFC 6062).
    Tcp,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) id: AllocationId,
    pub(super) from: FiveTuple,
    pub(super) username: Box<str>,
    pub(super) key: Key,
    /// Its relayed transport addresses, each with its own end. Never empty while the allocation is in the slab.
    pub(super) relayed: RelayedSet,
    /// What the client was told that its relayed addresses are, when it began; the second only of a dual allocation.
    pub(super) advertised: (SocketAddr, Option<SocketAddr>),
    pub(super) started: Instant,
    pub(super) traffic: Traffic,
    /// What it may make flow, by itself and together with its user's others.
    pub(super) meter: Meter,
    pub(super) user: UserSlot,
    /// Whose address it counts for, wherever its client sends from now.
    pub(super) counted_for: Subscriber,
    /// When its credential ends it, refreshed or not.
    pub(super) until: Option<Instant>,
    pub(super) protocol: Protocol,
    /// Of a TCP allocation.
    pub(super) connections: Vec<PeerConnectionId>,
    /// The serial of the mobility ticket that is good; none was asked for without.
    pub(super) ticket: Option<u32>,
    /// A five-tuple to which the client moved, and from which no data came yet.
    pub(super) next: Option<FiveTuple>,
    /// Where it was last said to be in an event.
    pub(super) seen_at: FiveTuple,
    /// When it moved last.
    pub(super) moved_at: Option<Instant>,
    permissions: Vec<Permission>,
    channels: Vec<Channel>,
    /// Peers of `channels`, sorted: for the way back.
    channel_peers: Vec<(u128, u16, ChannelNumber)>,
}

#[derive(Debug)]
struct Permission {
    ip: u128,
    reach: Reach,
    until: Instant,
}

#[derive(Debug)]
struct Channel {
    number: ChannelNumber,
    peer: PeerAddr,
    until: Instant,
}

/// What an allocation is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) id: AllocationId,
    pub(super) from: FiveTuple,
    pub(super) username: Box<str>,
    pub(super) key: Key,
    pub(super) relayed: RelayedSet,
    pub(super) advertised: (SocketAddr, Option<SocketAddr>),
    pub(super) user: UserSlot,
    pub(super) counted_for: Subscriber,
    pub(super) until: Option<Instant>,
    pub(super) protocol: Protocol,
}

/// A channel number or a peer is bound otherwise (400), or there are as many as there may be (508).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unbindable {
    NumberTaken,
    PeerTaken,
    TooMany,
}

impl Allocation {
    pub(super) fn new(now: Instant, parts: Parts) -> Self {
        Self {
            id: parts.id,
            from: parts.from,
            username: parts.username,
            key: parts.key,
            relayed: parts.relayed,
            advertised: parts.advertised,
            started: now,
            traffic: Traffic::default(),
            meter: Meter::default(),
            user: parts.user,
            counted_for: parts.counted_for,
            until: parts.until,
            protocol: parts.protocol,
            connections: Vec::new(),
            ticket: None,
            next: None,
            seen_at: parts.from,
            moved_at: None,
            permissions: Vec::new(),
            channels: Vec::new(),
            channel_peers: Vec::new(),
        }
    }

    /// Whether the allocation stands: one of its relayed addresses at least does.
    pub(super) fn stands(&self, now: Instant) -> bool {
        self.relayed.iter().any(|relayed| now < relayed.expires)
    }

    /// How much of `ip` is permitted now; `None`: no permission, or an expired one.
    pub(super) fn permitted(&self, now: Instant, ip: IpAddr) -> Option<Reach> {
        let permission = self.permission(ip)?;
        (now < permission.until).then_some(permission.reach)
    }

    /// Channels through which something passes now, with their peers and when that ends: with the binding or the permission.
    pub(super) fn open_channels(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (ChannelNumber, PeerAddr, Instant)> {
        self.channels.iter().filter(move |channel| now < channel.until).filter_map(move |channel| {
            let permission =
                self.permission(channel.peer.ip()).filter(|permission| now < permission.until)?;
            Some((channel.number, channel.peer, channel.until.min(permission.until)))
        })
    }

    fn permission(&self, ip: IpAddr) -> Option<&Permission> {
        let ip = packed(ip);
        let index = self.permissions.binary_search_by_key(&ip, |permission| permission.ip).ok()?;
        self.permissions.get(index)
    }

    /// Installs or refreshes permissions for all of `ips`, or for none if that would be more than `limit`.
    pub(super) fn permit(
        &mut self,
        now: Instant,
        ips: &[(IpAddr, Reach)],
        limit: u16,
    ) -> Result<(), Unbindable> {
        self.permissions.retain(|permission| now < permission.until);
        let mut new: Vec<u128> = ips.iter().map(|(ip, _)| packed(*ip)).collect();
        new.sort_unstable();
        new.dedup();
        new.retain(|ip| self.permissions.binary_search_by_key(ip, |permission| permission.ip).is_err());
        if self.permissions.len() + new.len() > usize::from(limit) {
            return Err(Unbindable::TooMany);
        }
        let until = now + PERMISSION_LIFETIME;
        for (ip, reach) in ips {
            let permission = Permission { ip: packed(*ip), reach: *reach, until };
            match self.permissions.binary_search_by_key(&permission.ip, |permission| permission.ip) {
                Ok(index) => self.permissions[index] = permission,
                Err(index) => self.permissions.insert(index, permission),
            }
        }
        Ok(())
    }

    /// Takes every permission before `reach` again: what it refuses now is gone, channels to it pass nothing any more.
    pub(super) fn review(&mut self, reach: impl Fn(IpAddr) -> Option<Reach>) {
        self.permissions.retain_mut(|permission| {
            let Some(now) = reach(unpacked(permission.ip)) else { return false };
            permission.reach = now;
            true
        });
    }

    /// The peer that a channel is bound to now.
    pub(super) fn channel_peer(&self, now: Instant, number: ChannelNumber) -> Option<PeerAddr> {
        let index = self.channels.binary_search_by_key(&number, |channel| channel.number).ok()?;
        let channel = self.channels.get(index)?;
        (now < channel.until).then_some(channel.peer)
    }

    /// The channel that a peer is bound to now.
    pub(super) fn peer_channel(&self, now: Instant, peer: PeerAddr) -> Option<ChannelNumber> {
        let key = (packed(peer.ip()), peer.port());
        let index = self.channel_peers.binary_search_by_key(&key, |(ip, port, _)| (*ip, *port)).ok()?;
        let (_, _, number) = *self.channel_peers.get(index)?;
        self.channel_peer(now, number).map(|_| number)
    }

    /// Whether the channel could be bound to the peer now (RFC 8656 section 12.2). Forgets what expired.
    pub(super) fn check_bind(
        &mut self,
        now: Instant,
        number: ChannelNumber,
        peer: PeerAddr,
        limit: u16,
    ) -> Result<(), Unbindable> {
        self.channels.retain(|channel| now < channel.until);
        let channels = &self.channels;
        self.channel_peers
            .retain(|(_, _, number)| channels.binary_search_by_key(number, |channel| channel.number).is_ok());
        match (self.channel_peer(now, number), self.peer_channel(now, peer)) {
            (Some(bound), _) if bound != peer => Err(Unbindable::NumberTaken),
            (_, Some(bound)) if bound != number => Err(Unbindable::PeerTaken),
            (None, _) if self.channels.len() >= usize::from(limit) => Err(Unbindable::TooMany),
            _ => Ok(()),
        }
    }

    /// Binds a channel, or refreshes its binding, after `check_bind` said yes. The permission is the caller's.
    pub(super) fn bind(&mut self, now: Instant, number: ChannelNumber, peer: PeerAddr) {
        let channel = Channel { number, peer, until: now + CHANNEL_LIFETIME };
        match self.channels.binary_search_by_key(&number, |channel| channel.number) {
            Ok(index) => self.channels[index] = channel,
            Err(index) => {
                self.channels.insert(index, channel);
                let entry = (packed(peer.ip()), peer.port(), number);
                let at = self.channel_peers.partition_point(|other| *other < entry);
                self.channel_peers.insert(at, entry);
            }
        }
    }
}
