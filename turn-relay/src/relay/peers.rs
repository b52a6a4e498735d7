//! Who may be a peer, our own addresses considered, and what our own addresses are called inside and outside.
//!
//! The relay's own addresses are refused except where the peer is a live allocation: two clients of one relay must reach
//! each other, and nobody must reach what else runs on this machine. Where a 1:1 NAT stands in front, clients know the
//! relay by its external address; inside, packets to ourselves go to the real one.

use std::net::{IpAddr, SocketAddr};

use super::allocation::Protocol;
use super::settings::{RelayAddress, RelaySettings};
use super::shared::Shared;
use crate::address::PeerAddr;
use crate::policy::{self, PeerPolicy};

/// Which ports of a permitted address may be reached. Decided once per permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every port.
    Anywhere,
    /// An address that may be our own, allowed by the operator: every port but our listeners'.
    NotOurListeners,
    /// Our own address: ports of live allocations.
    LiveAllocations,
}

#[derive(Debug)]
pub(super) struct Peers {
    policy: PeerPolicy,
    relay_addresses: Vec<RelayAddress>,
    /// Where allocations may stand: relay addresses of now and of before a reload.
    relayed: Vec<IpAddr>,
    own: Vec<IpAddr>,
    listeners: Vec<SocketAddr>,
}

impl Peers {
    /// `shared` must know the settings already ([`Shared::apply`]).
    pub(super) fn new(settings: &RelaySettings, shared: &Shared) -> Self {
        let relayed: Vec<IpAddr> = shared.relay_ips().collect();
        let mut own = settings.own_addresses.clone();
        own.extend(&relayed);
        own.extend(settings.listeners.iter().map(SocketAddr::ip));
        for address in &settings.relay_addresses {
            own.push(address.ip);
            own.extend(address.external);
        }
        own.retain(|ip| !ip.is_unspecified());
        own.sort_unstable();
        own.dedup();
        Self {
            policy: settings.policy.clone(),
            relay_addresses: settings.relay_addresses.clone(),
            relayed,
            own,
            listeners: settings.listeners.clone(),
        }
    }

    /// The address to send to and to keep permissions under, for what a client calls `peer`.
    pub(super) fn inward(&self, peer: SocketAddr) -> PeerAddr {
        let inside = self.relay_addresses.iter().find(|address| address.external == Some(peer.ip()));
        PeerAddr(inside.map_or(peer, |address| SocketAddr::new(address.ip, peer.port())))
    }

    /// What to call a peer towards a client.
    pub(super) fn outward(&self, peer: PeerAddr) -> PeerAddr {
        let outside = self
            .relay_addresses
            .iter()
            .find(|address| address.ip == peer.ip())
            .and_then(|address| address.external);
        PeerAddr(outside.map_or(peer.0, |ip| SocketAddr::new(ip, peer.port())))
    }

    /// Which ports of `ip` (inside) may be reached; `None`: none.
    pub(super) fn reach(&self, ip: IpAddr) -> Option<Reach> {
        if policy::forms(ip).any(|form| form.is_unspecified()) || self.policy.denies_expressly(ip) {
            return None;
        }
        if policy::forms(ip).skip(1).any(|embedded| self.own.contains(&embedded)) {
            return None;
        }
        if !self.own.contains(&ip) {
            // Every loopback address is ours, and addresses come and go: what is allowed expressly may have become ours.
            let maybe_ours = ip.is_loopback() || self.policy.allows_expressly(ip);
            let reach = if maybe_ours { Reach::NotOurListeners } else { Reach::Anywhere };
            return self.policy.permits(ip).then_some(reach);
        }
        if self.policy.allows_expressly(ip) {
            return Some(Reach::NotOurListeners);
        }
        self.relayed.contains(&ip).then_some(Reach::LiveAllocations)
    }

    pub(super) fn is_ours(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip)
    }

    /// Whether this very peer may be reached now, its address being permitted as `reach` says.
    pub(super) fn may_reach(
        &self,
        reach: Reach,
        peer: PeerAddr,
        protocol: Protocol,
        shared: &Shared,
    ) -> bool {
        match reach {
            _ if peer.port() == 0 => false,
            Reach::Anywhere => true,
            Reach::NotOurListeners => !self.is_listener(peer),
            Reach::LiveAllocations => shared.is_live(peer.ip(), peer.port(), protocol),
        }
    }

    fn is_listener(&self, peer: PeerAddr) -> bool {
        self.listeners
            .iter()
            .any(|at| at.port() == peer.port() && (at.ip() == peer.ip() || at.ip().is_unspecified()))
    }
}
