//! What the core is told at its start. Parsed values: nothing here can be wrong later.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::credentials::Credentials;
use crate::policy::PeerPolicy;

/// Settings of all workers' cores.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Who may allocate, and the realm.
    pub credentials: Credentials,
    /// Who may be a peer.
    pub policy: PeerPolicy,
    /// Where relayed sockets are bound. The first of each family is used; at most 16.
    pub relay_addresses: Vec<RelayAddress>,
    /// Every further address that is this machine's own (interfaces behind a wildcard listener, say).
    /// Relay, external and listener addresses need not be repeated.
    pub own_addresses: Vec<IpAddr>,
    /// Where the listeners are. Nobody may be relayed to them, `--allow-peer` or not: a relay that talks to itself loops.
    pub listeners: Vec<SocketAddr>,
    /// Relayed ports, inclusive. Both ends at least 1024 and the first not above the last.
    pub ports: (u16, u16),
    /// Limits.
    pub limits: Limits,
    /// Refuse channel numbers above 0x4FFF, as RFC 8656 section 12 has it. RFC 5766 had them up to 0x7FFF, and so do clients.
    pub strict_channels: bool,
    /// NAT behaviour discovery, where it is on.
    pub nat_discovery: Option<NatDiscovery>,
    /// Give mobility tickets to those who ask (RFC 8016); 405 otherwise.
    pub mobility: bool,
    /// There is an authorization hook to ask about users that `credentials` do not know.
    pub authorization_hook: bool,
}

/// The two addresses and ports of RFC 5780. They differ in both, and all four combinations are listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatDiscovery {
    /// The first address and port.
    pub primary: SocketAddr,
    /// The second ones.
    pub alternate: SocketAddr,
}

impl NatDiscovery {
    /// All four combinations.
    pub fn addresses(&self) -> [SocketAddr; 4] {
        let [one, other] = [self.primary, self.alternate];
        [one, SocketAddr::new(one.ip(), other.port()), SocketAddr::new(other.ip(), one.port()), other]
    }

    /// `at` with the other address, the other port, or both; `None` where `at` is none of the four.
    pub(super) fn changed(&self, at: SocketAddr, ip: bool, port: bool) -> Option<SocketAddr> {
        if !self.addresses().contains(&at) {
            return None;
        }
        let [one, other] = [self.primary, self.alternate];
        let ip = if ip == (at.ip() == one.ip()) { other.ip() } else { one.ip() };
        let port = if port == (at.port() == one.port()) { other.port() } else { one.port() };
        Some(SocketAddr::new(ip, port))
    }
}

/// One address that relayed sockets are bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// The address of the interface.
    pub ip: IpAddr,
    /// How the world knows it, if a 1:1 NAT stands between (`--external-address`). Of the same family.
    pub external: Option<IpAddr>,
}

impl RelayAddress {
    /// The address to tell clients.
    pub fn advertised(&self) -> IpAddr {
        self.external.unwrap_or(self.ip)
    }
}

/// Bounds on what clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Allocations of all users on all workers, and ports reserved for one; more are refused with 508.
    pub allocations: u32,
    /// The same of one user of the configuration; more are refused with 486.
    pub allocations_per_user: u32,
    /// Peer addresses with a permission, per allocation; more are refused with 508.
    pub permissions: u16,
    /// Bound channels per allocation; more are refused with 508.
    pub channels: u16,
    /// Lifetime without a LIFETIME attribute, and the least that is granted (RFC 8656 section 7.2).
    pub default_lifetime: Duration,
    /// The most that is granted.
    pub max_lifetime: Duration,
    /// Answers per second to requests that proved no address (Binding, 401, 438, 400), per /24 or /56 and worker. 0: no limit.
    pub unauthenticated_answers: u32,
    /// Like `allocations_per_user`, of one client address (an IPv4 address or an IPv6 /56); more are refused with 486, for RFC 8656
    /// section 7.2 leaves it to the server what a quota is for.
    pub allocations_per_address: u32,
    /// What may flow through one allocation in each direction; the rest is dropped.
    pub allocation_rate: Rate,
    /// What may flow through all allocations of one user in each direction; the rest is dropped.
    pub user_rate: Rate,
    /// Peers that one allocation may name for the first time, per minute and as many at once. 0: no limit. Requests are refused
    /// with 508, Send indications dropped.
    pub new_peers_per_minute: u32,
    /// The same of all allocations of one user.
    pub user_new_peers_per_minute: u32,
    /// Like `allocations_per_user`, of the id of a time-limited credential.
    pub allocations_per_minted_user: u32,
    /// Peer connections of one TCP allocation (RFC 6062), those that wait for a ConnectionBind included. A Connect above it is
    /// refused with 508, a peer's connection is closed.
    pub connections_per_allocation: u16,
    /// The same of all allocations of one user; more are refused with 486.
    pub connections_per_user: u32,
}

/// Payload per second, in each direction by itself, and as much at once. 0: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Payload bytes, headers not counted.
    pub bytes_per_second: u64,
    /// Datagrams.
    pub packets_per_second: u32,
}

impl Default for Limits {
    /// 16,384 allocations (the default port range). 1,024 per user: a browser in a mesh of six gathers a relay candidate per
    /// transport, interface and connection, which is some 60, but a static user may stand for everybody on a small site. The id
    /// of a time-limited credential stands for one person: 128.
    /// 128 permissions and channels each: ICE installs one per remote candidate. 32 peer connections each: ICE over TCP (RFC 6544)
    /// tries one per remote candidate and keeps one; each costs two descriptors. As many of a user as allocations.
    ///
    /// 4,096 allocations of one address: an office or a carrier's NAT may hide many users, but none takes the whole server.
    /// 100 Mbit/s and 10,000 packets/s of one allocation: ten times a call in high definition. Ten times that of one user, which
    /// is a gigabit: a static user may be a small site. 300 new peers a minute: ICE with a hundred remote candidates names each
    /// by a permission, a channel and a Send. 12,000 of one user: forty such calls begin in one minute.
    fn default() -> Self {
        Self {
            allocations: 16_384,
            allocations_per_user: 1024,
            permissions: 128,
            channels: 128,
            default_lifetime: Duration::from_secs(600),
            max_lifetime: Duration::from_secs(3600),
            unauthenticated_answers: 200,
            allocations_per_address: 4096,
            allocation_rate: Rate { bytes_per_second: 12_500_000, packets_per_second: 10_000 },
            user_rate: Rate { bytes_per_second: 125_000_000, packets_per_second: 100_000 },
            new_peers_per_minute: 300,
            user_new_peers_per_minute: 12_000,
            allocations_per_minted_user: 128,
            connections_per_allocation: 32,
            connections_per_user: 1024,
        }
    }
}
