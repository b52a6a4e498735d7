//! Why a request is refused: who is at fault, and the one code that goes on the wire.

use crate::credentials::Unauthenticated;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request contradicts itself or the RFC.
    ClientMalformed(&'static str),
    /// No credentials: the normal first exchange, not an incident.
    Challenge,
    /// Credentials that nobody has.
    Unauthorized(Unauthenticated),
    /// The nonce is too old or not ours.
    StaleNonce,
    /// The policy refuses the peer.
    PeerForbidden,
    /// Comprehension-required attributes that we do not know.
    UnknownAttributes,
    /// There is no allocation, or there is one already.
    AllocationMismatch(&'static str),
    /// Neither IPv4 nor IPv6, or a family we have no relay address of.
    FamilyUnsupported,
    /// Not the user that made the allocation.
    WrongCredentials,
    /// Neither UDP nor TCP.
    TransportUnsupported,
    /// A peer or a Refresh of the other family.
    PeerFamilyMismatch,
    /// The user has as many allocations as one may have.
    OverQuota,
    /// We have no more.
    Capacity(&'static str),
    /// The client's address has as many allocations as one may have.
    AddressOverQuota,
    /// Nobody but the authorization hook can know the user: not an answer, the request waits.
    AskHook,
    /// The authorization hook does not answer.
    HookUnavailable,
    /// The operator refuses the user for now.
    Revoked,
    /// Another server is to be asked.
    TryAlternate,
    /// A Connect to a peer that the allocation is connected to.
    ConnectionExists,
    /// A peer did not accept a connection, or not in time.
    ConnectionFailure,
    /// The user has as many peer connections as one may have.
    ConnectionQuota,
    /// Channels are for datagrams.
    NoChannels,
    /// The operator wants no mobility.
    MobilityForbidden,
}

impl Refusal {
    /// RFC 8489 section 14.8 and RFC 8656 section 19, RFC 6062 section 6.3.
    pub(super) fn code(self) -> u16 {
        match self {
            Self::ClientMalformed(_) => 400,
            Self::Challenge | Self::Unauthorized(_) | Self::AskHook => 401,
            Self::PeerForbidden | Self::Revoked | Self::NoChannels => 403,
            Self::UnknownAttributes => 420,
            Self::AllocationMismatch(_) => 437,
            Self::StaleNonce => 438,
            Self::FamilyUnsupported => 440,
            Self::WrongCredentials => 441,
            Self::TransportUnsupported => 442,
            Self::PeerFamilyMismatch => 443,
            Self::ConnectionExists => 446,
            Self::ConnectionFailure => 447,
            Self::OverQuota | Self::AddressOverQuota | Self::ConnectionQuota => 486,
            Self::Capacity(_) => 508,
            Self::TryAlternate => 300,
            Self::MobilityForbidden => 405,
            // RFC 8489 section 14.8: a temporary error, try again.
            Self::HookUnavailable => 500,
        }
    }

    /// Whether the answer tells realm and nonce, so that the client may try (again).
    pub(super) fn challenges(self) -> bool {
        matches!(self, Self::Challenge | Self::Unauthorized(_) | Self::StaleNonce)
    }

    /// The reason phrase, for answers to clients that proved themselves. Others get none: every byte is amplification.
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::ClientMalformed(_) => "Bad Request",
            Self::Challenge | Self::Unauthorized(_) | Self::AskHook => "Unauthorized",
            Self::HookUnavailable => "Server Error",
            Self::PeerForbidden | Self::Revoked | Self::NoChannels => "Forbidden",
            Self::UnknownAttributes => "Unknown Attribute",
            Self::AllocationMismatch(_) => "Allocation Mismatch",
            Self::StaleNonce => "Stale Nonce",
            Self::FamilyUnsupported => "Address Family not Supported",
            Self::WrongCredentials => "Wrong Credentials",
            Self::TransportUnsupported => "Unsupported Transport Protocol",
            Self::PeerFamilyMismatch => "Peer Address Family Mismatch",
            Self::OverQuota | Self::AddressOverQuota | Self::ConnectionQuota => "Allocation Quota Reached",
            Self::ConnectionExists => "Connection Already Exists",
            Self::ConnectionFailure => "Connection Timeout or Failure",
            Self::Capacity(_) => "Insufficient Capacity",
            Self::TryAlternate => "Try Alternate",
            Self::MobilityForbidden => "Mobility Forbidden",
        }
    }

    /// For the log.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ClientMalformed(reason) | Self::AllocationMismatch(reason) | Self::Capacity(reason) => {
                reason
            }
            Self::Challenge => "no credentials",
            Self::Unauthorized(why) => why.reason(),
            Self::StaleNonce => "the nonce is too old or was not issued to this client",
            Self::PeerForbidden => "the peer policy refuses the address",
            Self::UnknownAttributes => "comprehension-required attributes that are not supported",
            Self::FamilyUnsupported => "no relay address of that family",
            Self::WrongCredentials => "the allocation belongs to another user",
            Self::TransportUnsupported => "only UDP and TCP are relayed",
            Self::PeerFamilyMismatch => "the allocation is of the other address family",
            Self::NoChannels => "a TCP allocation has no channels",
            Self::ConnectionExists => "the allocation is connected to this peer",
            Self::ConnectionFailure => "the peer did not accept the connection",
            Self::ConnectionQuota => "the user has as many peer connections as one may have",
            Self::OverQuota => "the user has as many allocations as one may have",
            Self::AddressOverQuota => "the client's address has as many allocations as one may have",
            Self::Revoked => "the user is revoked",
            Self::TryAlternate => "the server is about to end and names another",
            Self::MobilityForbidden => "mobility is not wanted here",
            Self::AskHook => "the authorization hook is asked",
            Self::HookUnavailable => "the authorization hook does not answer",
        }
    }
}
