//! Addresses that must not be confused with each other, each in a type of its own.
//!
//! Refuses to do: parse text, resolve names, decide who may be reached (see [`crate::policy`]).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Where a client sends from: the far end of its five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientAddr(pub SocketAddr);

/// Where a peer is, as the relayed socket sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddr(pub SocketAddr);

impl PeerAddr {
    /// The address without its port: what a permission is for (RFC 8656 section 2.3).
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The port, in host order.
    pub fn port(self) -> u16 {
        self.0.port()
    }
}

/// A UDP port of one of the relay addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelayedPort(pub u16);

/// What carries a client's messages to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// One datagram is one frame.
    Udp,
    /// A byte stream; ChannelData is padded to four bytes (RFC 8656 section 12.5).
    Tcp,
    /// A byte stream inside TLS over TCP.
    Tls,
    /// One record inside DTLS over UDP is one frame (RFC 7350).
    Dtls,
}

impl Transport {
    /// Every transport, for registering metrics.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Dtls];

    /// Frames follow each other without bounds of their own and arrive exactly once: TCP and TLS.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// One datagram is one frame, and may be lost or repeated: UDP and DTLS.
    #[must_use]
    pub fn is_datagram(self) -> bool {
        !self.is_stream()
    }

    /// A handshake came first, so the client's address is proved and there is something to close: all but UDP.
    #[must_use]
    pub fn is_connected(self) -> bool {
        self != Self::Udp
    }

    /// The name in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Dtls => "dtls",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What names an allocation on the client's side (RFC 8656 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// What carries the client's messages.
    pub transport: Transport,
    /// Where the client sends from.
    pub client: ClientAddr,
    /// Which of our addresses the client sends to. A stream's, or a datagram's real destination behind a wildcard listener.
    pub server: SocketAddr,
}

/// A five-tuple packed for hashing: 42 bytes without padding or variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TupleKey {
    client: u128,
    server: u128,
    ports: u64,
}

impl TupleKey {
    /// The server's address, without its scope.
    pub(crate) fn server(&self) -> SocketAddr {
        let [.., high, low, _] = self.ports.to_be_bytes();
        SocketAddr::new(unpacked(self.server), u16::from_be_bytes([high, low]))
    }

    pub(crate) fn transport(&self) -> Transport {
        match self.ports & 0xff {
            0 => Transport::Udp,
            1 => Transport::Tcp,
            2 => Transport::Tls,
            _ => Transport::Dtls,
        }
    }
}

impl FiveTuple {
    /// Packs the tuple. A v4 address and its v4-mapped form collide on purpose: a listener has one family, so both cannot occur.
    pub(crate) fn key(&self) -> TupleKey {
        let scope = match self.client.0 {
            SocketAddr::V4(_) => 0,
            // Two links may both have a client on the same link-local address and port.
            SocketAddr::V6(v6) => v6.scope_id() & 0x00ff_ffff,
        };
        let transport = match self.transport {
            Transport::Udp => 0,
            Transport::Tcp => 1,
            Transport::Tls => 2,
            Transport::Dtls => 3,
        };
        TupleKey {
            client: packed(self.client.0.ip()),
            server: packed(self.server.ip()),
            ports: (u64::from(scope) << 40)
                | (u64::from(self.client.0.port()) << 24)
                | (u64::from(self.server.port()) << 8)
                | transport,
        }
    }
}

/// An address as a number; a v4 address takes its v4-mapped form.
pub(crate) fn packed(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address that [`packed`] made the number of; a v4-mapped address becomes the v4 one, whose number is the same.
pub(crate) fn unpacked(packed: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(packed)).to_canonical()
}

/// Whether both are IPv4 or both are IPv6.
pub(crate) fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// Whom an address counts for: an IPv4 address, or the /56 that one IPv6 customer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Subscriber(u128);

impl From<IpAddr> for Subscriber {
    fn from(ip: IpAddr) -> Self {
        Self(if ip.is_ipv4() { packed(ip) } else { packed(ip) >> 72 << 72 })
    }
}
