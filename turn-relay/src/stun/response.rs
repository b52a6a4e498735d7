//! Responses: attributes in, bytes out.

use std::net::SocketAddr;

use stun_types::attribute::{
    AlternateDomain, AlternateServer, AttributeType, AttributeWrite, ErrorCode, MessageIntegrity,
    MessageIntegritySha256, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, RawAttribute, Realm,
    UnknownAttributes, XorMappedAddress,
};
use stun_types::message::{
    Message as StunMessage, MessageType, MessageWrite, MessageWriteExt as _, MessageWriteVec,
};
use turn_types::AddressFamily;
use turn_types::attribute::{
    AddressErrorCode, ConnectionId, Lifetime, ReservationToken, XorPeerAddress, XorRelayedAddress,
};

use super::{codec_id, kind};
use crate::credentials::{Integrity, Key, PasswordAlgorithm};
use crate::frame::TransactionId;

/// Method 0x00C (RFC 6062 section 6.1), class indication.
const CONNECTION_ATTEMPT: u16 = 0x001C;

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
    /// Why a dual allocation has one family only (RFC 8656 section 18.12).
    AddressErrorCode {
        /// The family that is missing is IPv4; otherwise IPv6.
        ipv4: bool,
        /// 300 to 699.
        code: u16,
        /// In words.
        phrase: &'static str,
    },
    /// What a key may be made with, the preferred algorithm first.
    PasswordAlgorithms(&'a [PasswordAlgorithm]),
    /// Where to go instead (with 300).
    AlternateServer(SocketAddr),
    /// The name in the certificate of the alternate server. At most 255 bytes.
    AlternateDomain(&'a str),
    /// Where the request came from, in the clear: RFC 5780 section 4.6 compares it with the other one.
    MappedAddress(SocketAddr),
    /// Which of our addresses the answer comes from.
    ResponseOrigin(SocketAddr),
    /// The address and port of ours that differ in both.
    OtherAddress(SocketAddr),
    /// So many zeroes.
    Padding(usize),
    /// Names a peer connection (RFC 6062 section 6.2.1).
    ConnectionId(u32),
    /// Where a peer is, as the client may call it.
    XorPeerAddress(SocketAddr),
    /// The name that tokens for this server are sealed with (RFC 7635 section 6.1). At most 253 bytes.
    ThirdPartyAuthorization(&'a str),
    /// Takes the allocation along (RFC 8016 section 3.3).
    MobilityTicket(&'a [u8]),
}

/// What a response repeats of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    pub(super) kind: u16,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
}

/// Whether a request succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A success response.
    Success,
    /// An error response with this code (300 to 699) and phrase.
    Error(u16, &'static str),
}

/// Writes the response to `request`: attributes in the order given, the integrity attribute of the key if there is one, FINGERPRINT if the request had one.
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
        sign(&mut message, key);
    }
    if request.fingerprint {
        message.add_fingerprint().expect("there is none yet and the message is short");
    }
    message.finish()
}

/// The attribute is written first, because the length that is signed includes it.
fn sign(message: &mut MessageWriteVec, key: &Key) {
    match key.integrity() {
        Integrity::Sha1 => message.push_attribute_unchecked(&MessageIntegrity::new([0; 20])),
        Integrity::Sha256 => message.push_attribute_unchecked(
            &MessageIntegritySha256::new(&[0; 32]).expect("32 bytes are a whole tag"),
        ),
    }
    let data = message.mut_data();
    let (signed, attribute) = data.split_at_mut(data.len() - 4 - key.integrity().tag_bytes());
    attribute[4..].copy_from_slice(&key.sign(&[signed]));
}

/// Writes a ConnectionAttempt indication (RFC 6062 section 5.3), unsigned, as RFC 8489 section 9.2.5 has it of all indications.
pub fn connection_attempt(transaction: TransactionId, peer: SocketAddr, connection: u32) -> Vec<u8> {
    let kind = MessageType::from_bytes(&CONNECTION_ATTEMPT.to_be_bytes())
        .expect("an indication's type has its two highest bits clear");
    let id = codec_id(transaction);
    let mut message = StunMessage::builder(kind, id, MessageWriteVec::with_capacity(56));
    push(&mut message, Attribute::XorPeerAddress(peer), id);
    push(&mut message, Attribute::ConnectionId(connection), id);
    message.finish()
}

fn push(message: &mut MessageWriteVec, attribute: Attribute<'_>, id: stun_types::message::TransactionId) {
    let mut write = |attribute: &dyn AttributeWrite| message.push_attribute_unchecked(attribute);
    let plain =
        |kind, address| RawAttribute::new(AttributeType::new(kind), &plain_address(address)).into_owned();
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
        Attribute::AddressErrorCode { ipv4, code, phrase } => {
            let family = if ipv4 { AddressFamily::IPV4 } else { AddressFamily::IPV6 };
            let error = ErrorCode::new(code, phrase).expect("our codes are between 300 and 699");
            write(&AddressErrorCode::new(family, error));
        }
        Attribute::PasswordAlgorithms(algorithms) => {
            let value = |algorithm: &PasswordAlgorithm| match algorithm {
                PasswordAlgorithm::Md5 => PasswordAlgorithmValue::MD5,
                PasswordAlgorithm::Sha256 => PasswordAlgorithmValue::SHA256,
            };
            let values: Vec<PasswordAlgorithmValue> = algorithms.iter().map(value).collect();
            write(&PasswordAlgorithms::new(&values));
        }
        Attribute::AlternateServer(address) => write(&AlternateServer::new(address)),
        Attribute::AlternateDomain(name) => write(&AlternateDomain::new(name)),
        Attribute::MobilityTicket(ticket) => {
            write(&RawAttribute::new(AttributeType::new(kind::MOBILITY_TICKET), ticket));
        }
        Attribute::MappedAddress(address) => write(&plain(kind::MAPPED_ADDRESS, address)),
        Attribute::ResponseOrigin(address) => write(&plain(kind::RESPONSE_ORIGIN, address)),
        Attribute::OtherAddress(address) => write(&plain(kind::OTHER_ADDRESS, address)),
        Attribute::Padding(bytes) => {
            write(&RawAttribute::new(AttributeType::new(kind::PADDING), &vec![0; bytes]).into_owned());
        }
        Attribute::ConnectionId(id) => write(&ConnectionId::new(id)),
        Attribute::XorPeerAddress(address) => write(&XorPeerAddress::new(address, id)),
        Attribute::ThirdPartyAuthorization(name) => {
            let attribute = AttributeType::new(kind::THIRD_PARTY_AUTHORIZATION);
            write(&RawAttribute::new(attribute, name.as_bytes()));
        }
    }
}

/// The layout of MAPPED-ADDRESS (RFC 8489 section 14.1), which those of RFC 5780 share.
fn plain_address(address: SocketAddr) -> Vec<u8> {
    let [high, low] = address.port().to_be_bytes();
    match address.ip() {
        std::net::IpAddr::V4(ip) => [&[0, 1, high, low][..], &ip.octets()].concat(),
        std::net::IpAddr::V6(ip) => [&[0, 2, high, low][..], &ip.octets()].concat(),
    }
}
