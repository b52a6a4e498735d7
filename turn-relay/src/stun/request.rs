//! What a client may ask for, and how its attributes are read.

use std::net::SocketAddr;

use turn_types::AddressFamily;
use turn_types::attribute::{
    ChannelNumber as ChannelNumberAttribute, ConnectionId, EvenPort, Lifetime, RequestedAddressFamily,
    RequestedTransport, ReservationToken, XorPeerAddress,
};

use super::{codec_id, decode, kind};
use crate::frame::{ChannelNumber, RawAttribute, TransactionId};

/// What a client may ask for. Attributes that the method does not use are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// RFC 8489 section 3.
    Binding,
    /// RFC 8656 section 7.
    Allocate(Allocate),
    /// RFC 8656 section 8.
    Refresh(Refresh),
    /// RFC 8656 section 10; every XOR-PEER-ADDRESS.
    CreatePermission(Vec<SocketAddr>),
    /// RFC 8656 section 12.
    ChannelBind(ChannelBind),
    /// RFC 6062 section 5.2: XOR-PEER-ADDRESS.
    Connect(Option<SocketAddr>),
    /// RFC 6062 section 5.4: CONNECTION-ID.
    ConnectionBind(Option<u32>),
}

/// The attributes of Allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocate {
    /// REQUESTED-TRANSPORT: an IP protocol number.
    pub transport: Option<u8>,
    /// REQUESTED-ADDRESS-FAMILY.
    pub family: Option<Family>,
    /// ADDITIONAL-ADDRESS-FAMILY was there: an address of each family is wanted.
    pub additional_family: bool,
    /// EVEN-PORT with its R bit.
    pub even_port: Option<bool>,
    /// RESERVATION-TOKEN.
    pub reservation: Option<u64>,
    /// LIFETIME in seconds.
    pub lifetime: Option<u32>,
    /// DONT-FRAGMENT was there.
    pub dont_fragment: bool,
    /// MOBILITY-TICKET (RFC 8016), whatever it is.
    pub mobility: Option<Box<[u8]>>,
}

/// The attributes of Refresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refresh {
    /// LIFETIME in seconds.
    pub lifetime: Option<u32>,
    /// REQUESTED-ADDRESS-FAMILY.
    pub family: Option<Family>,
    /// MOBILITY-TICKET (RFC 8016), whatever it is.
    pub mobility: Option<Box<[u8]>>,
}

/// The attributes of ChannelBind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelBind {
    /// CHANNEL-NUMBER, if it is in range.
    pub channel: Option<ChannelNumber>,
    /// XOR-PEER-ADDRESS.
    pub peer: Option<SocketAddr>,
}

/// An address family that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 0x01.
    V4,
    /// 0x02.
    V6,
    /// Any other value.
    Unknown,
}
pub(super) fn method(bytes: &[u8]) -> Option<Request> {
    Some(match u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?) {
        0x0001 => Request::Binding,
        0x0003 => Request::Allocate(Allocate::default()),
        0x0004 => Request::Refresh(Refresh::default()),
        0x0008 => Request::CreatePermission(Vec::new()),
        0x0009 => Request::ChannelBind(ChannelBind::default()),
        0x000A => Request::Connect(None),
        0x000B => Request::ConnectionBind(None),
        _ => return None,
    })
}

impl Request {
    /// Keeps an attribute if the method uses it. `None`: it is malformed.
    pub(super) fn read(&mut self, attribute: RawAttribute<'_>, transaction: TransactionId) -> Option<()> {
        match (self, attribute.kind) {
            (Self::Allocate(allocate), kind) => allocate.read(kind, attribute.value),
            (Self::Refresh(refresh), kind::LIFETIME) => {
                first(&mut refresh.lifetime, || lifetime(attribute.value))
            }
            (Self::Refresh(refresh), kind::REQUESTED_ADDRESS_FAMILY) => {
                first(&mut refresh.family, || family(attribute.value))
            }
            (Self::Refresh(refresh), kind::MOBILITY_TICKET) => {
                first(&mut refresh.mobility, || Some(attribute.value.into()))
            }
            (Self::CreatePermission(peers), kind::XOR_PEER_ADDRESS) => {
                peers.push(peer(attribute.value, transaction)?);
                Some(())
            }
            (Self::ChannelBind(bind), kind::XOR_PEER_ADDRESS) => {
                first(&mut bind.peer, || peer(attribute.value, transaction))
            }
            (Self::ChannelBind(bind), kind::CHANNEL_NUMBER) => first(&mut bind.channel, || {
                let raw = decode::<ChannelNumberAttribute>(kind::CHANNEL_NUMBER, attribute.value)?;
                ChannelNumber::new(raw.channel())
            }),
            (Self::Connect(to), kind::XOR_PEER_ADDRESS) => first(to, || peer(attribute.value, transaction)),
            (Self::ConnectionBind(id), kind::CONNECTION_ID) => {
                first(id, || Some(decode::<ConnectionId>(kind::CONNECTION_ID, attribute.value)?.id()))
            }
            _ => Some(()),
        }
    }
}

impl Allocate {
    fn read(&mut self, kind: u16, value: &[u8]) -> Option<()> {
        match kind {
            kind::REQUESTED_TRANSPORT => {
                first(&mut self.transport, || Some(decode::<RequestedTransport>(kind, value)?.protocol()))
            }
            kind::REQUESTED_ADDRESS_FAMILY => first(&mut self.family, || family(value)),
            kind::ADDITIONAL_ADDRESS_FAMILY => {
                self.additional_family = true;
                // RFC 8656 section 18.11: IPv6 is the only valid value.
                (family(value)? == Family::V6).then_some(())
            }
            kind::DRAFT_ADDITIONAL_ADDRESS_FAMILY => {
                self.additional_family |= family(value) == Some(Family::V6);
                Some(())
            }
            kind::EVEN_PORT => {
                first(&mut self.even_port, || Some(decode::<EvenPort>(kind, value)?.requested()))
            }
            kind::RESERVATION_TOKEN => {
                first(&mut self.reservation, || Some(decode::<ReservationToken>(kind, value)?.token()))
            }
            kind::LIFETIME => first(&mut self.lifetime, || lifetime(value)),
            kind::MOBILITY_TICKET => first(&mut self.mobility, || Some(value.into())),
            kind::DONT_FRAGMENT => {
                self.dont_fragment = true;
                value.is_empty().then_some(())
            }
            _ => Some(()),
        }
    }
}

/// Fills `slot` unless it is filled already. `None`: the value is malformed.
fn first<T>(slot: &mut Option<T>, read: impl FnOnce() -> Option<T>) -> Option<()> {
    if slot.is_none() {
        *slot = Some(read()?);
    }
    Some(())
}

fn lifetime(value: &[u8]) -> Option<u32> {
    Some(decode::<Lifetime>(kind::LIFETIME, value)?.seconds())
}

/// ADDITIONAL-ADDRESS-FAMILY has the same layout.
fn family(value: &[u8]) -> Option<Family> {
    if value.len() != 4 {
        return None;
    }
    match decode::<RequestedAddressFamily>(kind::REQUESTED_ADDRESS_FAMILY, value)
        .map(|requested| requested.family())
    {
        Some(AddressFamily::IPV4) => Some(Family::V4),
        Some(AddressFamily::IPV6) => Some(Family::V6),
        None => Some(Family::Unknown),
    }
}

fn peer(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    Some(decode::<XorPeerAddress>(kind::XOR_PEER_ADDRESS, value)?.addr(codec_id(transaction)))
}
