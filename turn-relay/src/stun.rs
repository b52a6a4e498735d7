//! STUN requests and responses (RFC 8489, RFC 8656): bytes to [`Request`], attributes to bytes.
//!
//! The only file that imports the codec library (`stun-types`, `turn-types`), and only its attributes: the walk over the
//! message is ours, because it must be bounded, must ignore what follows MESSAGE-INTEGRITY and must not log what strangers send.
//!
//! Refuses to do: state, policy, authentication. [`Message::is_signed_with`] says whether a key fits; whose key is the core's question.

use std::net::SocketAddr;

use stun_types::attribute::{
    AttributeFromRaw, AttributeType, AttributeWrite, ErrorCode, Fingerprint, MessageIntegrity, Nonce,
    RawAttribute as Raw, Realm, UnknownAttributes, XorMappedAddress,
};
use stun_types::message::{
    Message as StunMessage, MessageType, MessageWrite, MessageWriteExt as _, MessageWriteVec,
};
use turn_types::AddressFamily;
use turn_types::attribute::{
    ChannelNumber as ChannelNumberAttribute, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorPeerAddress, XorRelayedAddress,
};

use crate::credentials::Key;
use crate::frame::{self, ChannelNumber, RawAttribute, TransactionId};

/// Longer requests are dropped. The longest USERNAME, REALM and NONCE together are some 2 KiB, the rest is for peers.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// Requests with more attributes are dropped.
const MAX_ATTRIBUTES: usize = 64;
/// UNKNOWN-ATTRIBUTES names no more than this many: the answer must not outgrow the question.
const MAX_UNKNOWN: usize = 8;
/// RFC 8489 section 14.3.
const MAX_USERNAME_BYTES: usize = 508;

mod kind {
    pub(super) const USERNAME: u16 = 0x0006;
    pub(super) const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub(super) const ERROR_CODE: u16 = 0x0009;
    pub(super) const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    pub(super) const CHANNEL_NUMBER: u16 = 0x000C;
    pub(super) const LIFETIME: u16 = 0x000D;
    pub(super) const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub(super) const DATA: u16 = 0x0013;
    pub(super) const REALM: u16 = 0x0014;
    pub(super) const NONCE: u16 = 0x0015;
    pub(super) const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub(super) const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub(super) const EVEN_PORT: u16 = 0x0018;
    pub(super) const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub(super) const DONT_FRAGMENT: u16 = 0x001A;
    pub(super) const MESSAGE_INTEGRITY_SHA256: u16 = 0x001C;
    pub(super) const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub(super) const RESERVATION_TOKEN: u16 = 0x0022;
    pub(super) const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub(super) const FINGERPRINT: u16 = 0x8028;
}

/// A request whose envelope is sound. Nothing in it is authenticated yet.
#[derive(Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// What is asked for.
    pub request: Request,
    /// Names the transaction.
    pub transaction: TransactionId,
    /// An attribute of the request has the wrong size or a meaningless value: answer 400.
    pub malformed: bool,
    /// Comprehension-required attributes that we do not know: answer 420 and name them.
    pub unknown: Vec<u16>,
    /// FINGERPRINT was there (and right): the answer carries one too.
    pub fingerprint: bool,
    /// USERNAME.
    pub username: Option<&'a str>,
    /// REALM was there. Its value does not matter: a key for another realm signs differently.
    pub has_realm: bool,
    /// NONCE.
    pub nonce: Option<&'a [u8]>,
    /// MESSAGE-INTEGRITY: where the attribute begins, and the tag.
    integrity: Option<(usize, &'a [u8])>,
}

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
}

/// The attributes of Allocate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocate {
    /// REQUESTED-TRANSPORT: an IP protocol number.
    pub transport: Option<u8>,
    /// REQUESTED-ADDRESS-FAMILY.
    pub family: Option<Family>,
    /// ADDITIONAL-ADDRESS-FAMILY was there. Not supported, which RFC 8656 section 7.2 lets a server be, but it may contradict others.
    pub additional_family: bool,
    /// EVEN-PORT with its R bit.
    pub even_port: Option<bool>,
    /// RESERVATION-TOKEN.
    pub reservation: Option<u64>,
    /// LIFETIME in seconds.
    pub lifetime: Option<u32>,
}

/// The attributes of Refresh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refresh {
    /// LIFETIME in seconds.
    pub lifetime: Option<u32>,
    /// REQUESTED-ADDRESS-FAMILY.
    pub family: Option<Family>,
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

/// Why bytes are no request; all of them are answered with silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotARequest {
    /// Not STUN, too long, too many attributes, attributes that do not fit.
    Malformed,
    /// A response or an indication.
    OtherClass,
    /// A request of a method that this server does not know (RFC 8489 section 6.3: silently discarded).
    OtherMethod,
    /// FINGERPRINT is not last or does not match.
    WrongFingerprint,
}

/// Reads one request. Takes any bytes whatever.
pub fn parse(bytes: &[u8]) -> Result<Message<'_>, NotARequest> {
    if bytes.len() > MAX_REQUEST_BYTES {
        return Err(NotARequest::Malformed);
    }
    match frame::classify(bytes) {
        frame::Kind::Request => {}
        frame::Kind::Send(_) | frame::Kind::OtherStun => return Err(NotARequest::OtherClass),
        frame::Kind::ChannelData(_) | frame::Kind::Malformed => return Err(NotARequest::Malformed),
    }
    let transaction = frame::transaction_id(bytes).ok_or(NotARequest::Malformed)?;
    let mut message = Message {
        bytes,
        request: method(bytes).ok_or(NotARequest::OtherMethod)?,
        transaction,
        malformed: false,
        unknown: Vec::new(),
        fingerprint: false,
        username: None,
        has_realm: false,
        nonce: None,
        integrity: None,
    };
    let mut sealed = false;
    let mut attributes = frame::Attributes::new(bytes);
    for (count, attribute) in attributes.by_ref().enumerate() {
        if count == MAX_ATTRIBUTES {
            return Err(NotARequest::Malformed);
        }
        if message.fingerprint {
            return Err(NotARequest::WrongFingerprint);
        }
        match attribute.kind {
            kind::FINGERPRINT => {
                check_fingerprint(bytes, attribute).ok_or(NotARequest::WrongFingerprint)?;
                message.fingerprint = true;
            }
            // RFC 8489 section 14.5: what follows the integrity was not signed, so it is ignored.
            _ if sealed => {}
            kind::MESSAGE_INTEGRITY | kind::MESSAGE_INTEGRITY_SHA256 => {
                sealed = true;
                if attribute.kind == kind::MESSAGE_INTEGRITY {
                    message.integrity = Some((attribute.start - 4, attribute.value));
                }
            }
            _ => message.read(attribute),
        }
    }
    if attributes.complete() { Ok(message) } else { Err(NotARequest::Malformed) }
}

impl<'a> Message<'a> {
    /// Whether MESSAGE-INTEGRITY is there at all.
    pub fn is_signed(&self) -> bool {
        self.integrity.is_some()
    }

    /// Whether MESSAGE-INTEGRITY is there and made with `key`. Constant time.
    #[must_use]
    pub fn is_signed_with(&self, key: &Key) -> bool {
        let Some((offset, tag)) = self.integrity else { return false };
        let (Some(kind), Some(rest)) = (self.bytes.get(..2), self.bytes.get(4..offset)) else { return false };
        // The length that was signed ends with MESSAGE-INTEGRITY (RFC 8489 section 14.5).
        let Ok(length) = u16::try_from(offset + 24 - 20) else { return false };
        key.verify(&[kind, &length.to_be_bytes(), rest], tag)
    }

    /// What a response, now or later, needs to know of this request.
    pub fn reply_to(&self) -> ReplyTo {
        let kind = self.bytes.get(..2).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_be_bytes);
        ReplyTo { kind, transaction: self.transaction, fingerprint: self.fingerprint }
    }

    /// Keeps one attribute. Of a repeated attribute the first counts (RFC 8489 section 14), XOR-PEER-ADDRESS excepted.
    fn read(&mut self, attribute: RawAttribute<'a>) {
        match attribute.kind {
            kind::USERNAME if self.username.is_none() => match std::str::from_utf8(attribute.value) {
                Ok(name) if name.len() <= MAX_USERNAME_BYTES => self.username = Some(name),
                Ok(_) | Err(_) => self.malformed = true,
            },
            kind::REALM => self.has_realm = true,
            kind::NONCE if self.nonce.is_none() => self.nonce = Some(attribute.value),
            kind::USERNAME
            | kind::NONCE
            | kind::ERROR_CODE
            | kind::UNKNOWN_ATTRIBUTES
            | kind::XOR_RELAYED_ADDRESS
            | kind::XOR_MAPPED_ADDRESS
            | kind::DATA => {}
            kind::CHANNEL_NUMBER
            | kind::LIFETIME
            | kind::XOR_PEER_ADDRESS
            | kind::REQUESTED_ADDRESS_FAMILY
            | kind::EVEN_PORT
            | kind::REQUESTED_TRANSPORT
            | kind::DONT_FRAGMENT
            | kind::RESERVATION_TOKEN
            | kind::ADDITIONAL_ADDRESS_FAMILY => {
                if self.request.read(attribute, self.transaction).is_none() {
                    self.malformed = true;
                }
            }
            0x8000.. => {}
            unknown => {
                if self.unknown.len() < MAX_UNKNOWN && !self.unknown.contains(&unknown) {
                    self.unknown.push(unknown);
                }
            }
        }
    }
}

impl Request {
    /// Keeps an attribute if the method uses it. `None`: it is malformed.
    fn read(&mut self, attribute: RawAttribute<'_>, transaction: TransactionId) -> Option<()> {
        match (self, attribute.kind) {
            (Self::Allocate(allocate), kind) => allocate.read(kind, attribute.value),
            (Self::Refresh(refresh), kind::LIFETIME) => {
                first(&mut refresh.lifetime, || lifetime(attribute.value))
            }
            (Self::Refresh(refresh), kind::REQUESTED_ADDRESS_FAMILY) => {
                first(&mut refresh.family, || family(attribute.value))
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
                // RFC 8656 section 7.2: the additional family cannot be IPv4.
                (family(value)? != Family::V4).then_some(())
            }
            kind::EVEN_PORT => {
                first(&mut self.even_port, || Some(decode::<EvenPort>(kind, value)?.requested()))
            }
            kind::RESERVATION_TOKEN => {
                first(&mut self.reservation, || Some(decode::<ReservationToken>(kind, value)?.token()))
            }
            kind::LIFETIME => first(&mut self.lifetime, || lifetime(value)),
            kind::DONT_FRAGMENT => value.is_empty().then_some(()),
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

fn decode<'a, A: AttributeFromRaw<'a>>(kind: u16, value: &'a [u8]) -> Option<A> {
    A::from_raw(Raw::new(AttributeType::new(kind), value)).ok()
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

fn method(bytes: &[u8]) -> Option<Request> {
    Some(match u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?) {
        0x0001 => Request::Binding,
        0x0003 => Request::Allocate(Allocate::default()),
        0x0004 => Request::Refresh(Refresh::default()),
        0x0008 => Request::CreatePermission(Vec::new()),
        0x0009 => Request::ChannelBind(ChannelBind::default()),
        _ => return None,
    })
}

/// RFC 8489 section 14.7: over everything before it, with a length that ends with it.
fn check_fingerprint(bytes: &[u8], attribute: RawAttribute<'_>) -> Option<()> {
    let offset = attribute.start - 4;
    let length = u16::try_from(offset + 8 - 20).ok()?;
    let mut header = [0; 4];
    header[..2].copy_from_slice(bytes.get(..2)?);
    header[2..].copy_from_slice(&length.to_be_bytes());
    let fingerprint = decode::<Fingerprint>(kind::FINGERPRINT, attribute.value)?;
    (*fingerprint.fingerprint() == Fingerprint::compute(&[&header, bytes.get(4..offset)?])).then_some(())
}

fn codec_id(transaction: TransactionId) -> stun_types::message::TransactionId {
    let mut wide = [0; 16];
    wide[4..].copy_from_slice(&transaction.0);
    u128::from_be_bytes(wide).into()
}

/// An attribute of a response.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    /// Where the request came from.
    XorMappedAddress(SocketAddr),
    /// The relayed address.
    XorRelayedAddress(SocketAddr),
    /// Seconds.
    Lifetime(u32),
    /// Names a reserved port.
    ReservationToken(u64),
    /// The realm to make a key for. At most 763 bytes.
    Realm(&'a str),
    /// To be sent back. At most 763 bytes.
    Nonce(&'a str),
    /// What was not understood.
    UnknownAttributes(&'a [u16]),
}

/// What a response repeats of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    kind: u16,
    transaction: TransactionId,
    fingerprint: bool,
}

/// Whether a request succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A success response.
    Success,
    /// An error response with this code (300 to 699) and phrase.
    Error(u16, &'static str),
}

/// Writes the response to `request`: attributes in the order given, MESSAGE-INTEGRITY if there is a key, FINGERPRINT if the request had one.
pub fn respond(
    request: ReplyTo,
    outcome: Outcome,
    attributes: &[Attribute<'_>],
    key: Option<&Key>,
) -> Vec<u8> {
    let class: u16 = match outcome {
        Outcome::Success => 0x0100,
        Outcome::Error(..) => 0x0110,
    };
    let kind = request.kind | class;
    let kind = MessageType::from_bytes(&kind.to_be_bytes())
        .expect("a request's type has its two highest bits clear");
    let id = codec_id(request.transaction);
    let mut message = StunMessage::builder(kind, id, MessageWriteVec::with_capacity(160));
    if let Outcome::Error(code, phrase) = outcome {
        let error = ErrorCode::new(code, phrase).expect("our codes are between 300 and 699");
        message.push_attribute_unchecked(&error);
    }
    for attribute in attributes {
        push(&mut message, *attribute, id);
    }
    if let Some(key) = key {
        message.push_attribute_unchecked(&MessageIntegrity::new([0; 20]));
        let data = message.mut_data();
        let (signed, attribute) = data.split_at_mut(data.len() - 24);
        attribute[4..].copy_from_slice(&key.sign(&[signed]));
    }
    if request.fingerprint {
        message.add_fingerprint().expect("there is none yet and the message is short");
    }
    message.finish()
}

fn push(message: &mut MessageWriteVec, attribute: Attribute<'_>, id: stun_types::message::TransactionId) {
    let mut write = |attribute: &dyn AttributeWrite| message.push_attribute_unchecked(attribute);
    match attribute {
        Attribute::XorMappedAddress(address) => write(&XorMappedAddress::new(address, id)),
        Attribute::XorRelayedAddress(address) => write(&XorRelayedAddress::new(address, id)),
        Attribute::Lifetime(seconds) => write(&Lifetime::new(seconds)),
        Attribute::ReservationToken(token) => write(&ReservationToken::new(token)),
        Attribute::Realm(realm) => write(&Realm::new(realm).expect("settings bound the realm to 763 bytes")),
        Attribute::Nonce(nonce) => write(&Nonce::new(nonce).expect("our nonces are short")),
        Attribute::UnknownAttributes(kinds) => {
            let kinds: Vec<AttributeType> = kinds.iter().map(|kind| AttributeType::new(*kind)).collect();
            write(&UnknownAttributes::new(&kinds));
        }
    }
}

#[cfg(test)]
mod tests;
