//! STUN requests and responses (RFC 8489, RFC 8656, RFC 6062): bytes to [`Request`], attributes to bytes.
//!
//! The only folder that imports the codec library (`stun-types`, `turn-types`), and only its attributes: the walk over the
//! message is ours, because it must be bounded, must ignore what follows the integrity and must not log what strangers send.
//!
//! Refuses to do: state, policy, authentication. [`Message::is_signed_with`] says whether a key fits; whose key is the core's question.

mod discovery;
mod kind;
mod request;
mod response;

use stun_types::attribute::{AttributeFromRaw, AttributeType, Fingerprint, RawAttribute as Raw};

use crate::credentials::{Integrity, Key, Tag};
use crate::frame::{self, RawAttribute, TransactionId};
pub use discovery::Discovery;
use request::method;
pub use request::{Allocate, ChannelBind, Family, Refresh, Request};
pub use response::{Attribute, Outcome, ReplyTo, connection_attempt, respond};

/// Longer requests are dropped. The longest USERNAME, REALM and NONCE together are some 2 KiB, the rest is for peers.
pub const MAX_REQUEST_BYTES: usize = 4096;
/// Requests with more attributes are dropped.
const MAX_ATTRIBUTES: usize = 64;
/// UNKNOWN-ATTRIBUTES names no more than this many: the answer must not outgrow the question.
const MAX_UNKNOWN: usize = 8;
/// RFC 8489 section 14.3.
const MAX_USERNAME_BYTES: usize = 508;
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
    /// The integrity attribute that decides.
    signature: Option<Signature>,
    /// USERHASH.
    pub userhash: Option<&'a [u8; 32]>,
    /// PASSWORD-ALGORITHM: the whole value.
    pub password_algorithm: Option<&'a [u8]>,
    /// PASSWORD-ALGORITHMS: the whole value.
    pub password_algorithms: Option<&'a [u8]>,
    /// What a Binding request asks for by RFC 5780.
    pub discovery: Discovery,
    /// ACCESS-TOKEN: the whole value.
    pub access_token: Option<&'a [u8]>,
}

/// MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256.
#[derive(Clone, Copy, Debug)]
struct Signature {
    integrity: Integrity,
    /// Where the attribute begins, counted from the start of the message.
    offset: usize,
    tag: Tag,
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
        signature: None,
        userhash: None,
        password_algorithm: None,
        password_algorithms: None,
        discovery: Discovery::default(),
        access_token: None,
    };
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
            kind::MESSAGE_INTEGRITY => message.seal(Integrity::Sha1, attribute),
            kind::MESSAGE_INTEGRITY_SHA256 => message.seal(Integrity::Sha256, attribute),
            // RFC 8489 section 9: what follows the integrity was not signed, so it is ignored.
            _ if message.is_signed() => {}
            _ => message.read(attribute),
        }
    }
    if attributes.complete() { Ok(message) } else { Err(NotARequest::Malformed) }
}

impl<'a> Message<'a> {
    /// Whether MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 is there at all.
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Which of the two decides; `None`: neither is there.
    pub fn integrity(&self) -> Option<Integrity> {
        self.signature.map(|signature| signature.integrity)
    }

    /// Whether the integrity attribute that decides is made with `key`. Constant time.
    #[must_use]
    pub fn is_signed_with(&self, key: &Key) -> bool {
        let Some(Signature { integrity, offset, tag }) = self.signature else { return false };
        if key.integrity() != integrity {
            return false;
        }
        let (Some(kind), Some(rest)) = (self.bytes.get(..2), self.bytes.get(4..offset)) else { return false };
        // The length that was signed ends with the attribute itself (RFC 8489 sections 14.5 and 14.6).
        let end = offset + 4 + integrity.tag_bytes();
        let Ok(length) = u16::try_from(end - 20) else { return false };
        key.verify(&[kind, &length.to_be_bytes(), rest], &tag)
    }

    /// Where no token is good, ACCESS-TOKEN is an attribute like any other that is not known here.
    pub fn without_access_token(&mut self) {
        if self.access_token.take().is_some() && self.unknown.len() < MAX_UNKNOWN {
            self.unknown.push(kind::ACCESS_TOKEN);
        }
    }

    /// RFC 8489 section 9.2.4: where both are there MESSAGE-INTEGRITY-SHA256 decides, in whichever order they come.
    fn seal(&mut self, integrity: Integrity, attribute: RawAttribute<'_>) {
        match (self.integrity(), integrity) {
            (None, _) | (Some(Integrity::Sha1), Integrity::Sha256) => {
                let tag = Tag::received(attribute.value);
                self.signature = Some(Signature { integrity, offset: attribute.start - 4, tag });
            }
            (Some(_), _) => {}
        }
    }

    /// The message as it came.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What a response, now or later, needs to know of this request.
    pub fn reply_to(&self) -> ReplyTo {
        let kind = self.bytes.get(..2).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_be_bytes);
        ReplyTo { kind, transaction: self.transaction, fingerprint: self.fingerprint }
    }

    /// Keeps one attribute. Of a repeated attribute the first counts (RFC 8489 section 14), XOR-PEER-ADDRESS excepted.
    fn read(&mut self, attribute: RawAttribute<'a>) {
        if self.request == Request::Binding && self.discovery.read(attribute) {
            return;
        }
        match attribute.kind {
            kind::USERNAME if self.username.is_none() => match std::str::from_utf8(attribute.value) {
                Ok(name) if name.len() <= MAX_USERNAME_BYTES => self.username = Some(name),
                Ok(_) | Err(_) => self.malformed = true,
            },
            kind::REALM => self.has_realm = true,
            kind::NONCE if self.nonce.is_none() => self.nonce = Some(attribute.value),
            kind::USERHASH if self.userhash.is_none() => match attribute.value.try_into() {
                Ok(hash) => self.userhash = Some(hash),
                Err(_) => self.malformed = true,
            },
            kind::PASSWORD_ALGORITHM if self.password_algorithm.is_none() => {
                self.password_algorithm = Some(attribute.value);
            }
            kind::PASSWORD_ALGORITHMS if self.password_algorithms.is_none() => {
                self.password_algorithms = Some(attribute.value);
            }
            kind::ACCESS_TOKEN if self.access_token.is_none() => self.access_token = Some(attribute.value),
            kind::USERNAME
            | kind::NONCE
            | kind::USERHASH
            | kind::ACCESS_TOKEN
            | kind::PASSWORD_ALGORITHM
            | kind::PASSWORD_ALGORITHMS
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
            | kind::CONNECTION_ID
            | kind::MOBILITY_TICKET
            | kind::ADDITIONAL_ADDRESS_FAMILY
            | kind::DRAFT_ADDITIONAL_ADDRESS_FAMILY => {
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

fn decode<'a, A: AttributeFromRaw<'a>>(kind: u16, value: &'a [u8]) -> Option<A> {
    A::from_raw(Raw::new(AttributeType::new(kind), value)).ok()
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

#[cfg(test)]
mod tests;
