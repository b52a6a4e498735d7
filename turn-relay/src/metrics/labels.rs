//! What may stand in the labels of metrics: few values, all known beforehand.

use std::net::SocketAddr;

/// Why a packet that the core let pass did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendFailure {
    /// The kernel's buffer for the socket is full.
    BufferFull,
    /// The kernel refused it: no route, too large, an ICMP error from before.
    Refused,
    /// A TCP client does not read what it is sent.
    SlowClient,
    /// The client's connection or listener is gone.
    ClientGone,
}

impl SendFailure {
    pub(super) const ALL: [Self; 4] = [Self::BufferFull, Self::Refused, Self::SlowClient, Self::ClientGone];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::BufferFull => "send_buffer_full",
            Self::Refused => "send_refused",
            Self::SlowClient => "slow_client",
            Self::ClientGone => "client_gone",
        }
    }
}

/// The address families of an allocation as it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    Ipv4,
    Ipv6,
    /// A dual allocation (RFC 8656 section 7.2).
    Both,
}

impl Families {
    pub(super) const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Both];

    /// Those of an allocation with these relayed addresses.
    pub(crate) fn of(relayed: (SocketAddr, Option<SocketAddr>)) -> Self {
        match relayed {
            (_, Some(_)) => Self::Both,
            (SocketAddr::V4(_), None) => Self::Ipv4,
            (SocketAddr::V6(_), None) => Self::Ipv6,
        }
    }

    /// The metric label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Both => "both",
        }
    }
}

/// What the answer to a request was: success first, everything unforeseen last.
pub(super) const OUTCOMES: [(Option<u16>, &str); 19] = [
    (None, "success"),
    (Some(0), "challenged"),
    (Some(300), "300"),
    (Some(400), "400"),
    (Some(401), "401"),
    (Some(403), "403"),
    (Some(405), "405"),
    (Some(420), "420"),
    (Some(437), "437"),
    (Some(438), "438"),
    (Some(440), "440"),
    (Some(441), "441"),
    (Some(442), "442"),
    (Some(443), "443"),
    (Some(486), "486"),
    (Some(487), "487"),
    (Some(500), "500"),
    (Some(508), "508"),
    (Some(u16::MAX), "other"),
];

/// The pseudo-code under which a first request without credentials is counted, apart from wrong credentials.
pub(crate) const CHALLENGED: u16 = 0;
