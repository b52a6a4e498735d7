//! Keys of long-term credentials and the tags that they make (RFC 8489 sections 9.2.2, 14.5, 14.6, 18.5).
//!
//! Two choices are independent on the wire: which hash made the key from the password ([`PasswordAlgorithm`]), and which
//! hash makes the tag ([`Integrity`]). A [`Key`] has made both.
//!
//! Refuses to do: compare a tag in variable time. A [`Tag`] has no `==`; only [`Key::verify`] looks into one.

use std::fmt;
use std::ops::Deref;

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Digest as _;
use sha1::Sha1;
use sha2::Sha256;

use super::origin::Origin;

/// How a password becomes a key (RFC 8489 section 18.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PasswordAlgorithm {
    /// What RFC 5389 did, and what a request without PASSWORD-ALGORITHM means.
    Md5,
    /// RFC 8489 section 18.5.1.2.
    Sha256,
}

impl PasswordAlgorithm {
    /// The number in PASSWORD-ALGORITHM; its parameters are empty.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Md5 => 1,
            Self::Sha256 => 2,
        }
    }
}

/// Which attribute carries the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY: HMAC-SHA1.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256.
    Sha256,
}

impl Integrity {
    /// Bytes of a tag. RFC 8656 does not allow truncation, so the SHA-256 one is whole (RFC 8489 section 14.6).
    #[must_use]
    pub fn tag_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// A tag, ours or received. Not comparable: ask [`Key::verify`].
#[derive(Clone, Copy)]
pub struct Tag {
    bytes: [u8; 32],
    len: usize,
}

impl Tag {
    /// What a message carries; more than 32 bytes never verify, so the rest is dropped and the length is made wrong.
    #[must_use]
    pub fn received(value: &[u8]) -> Self {
        let mut tag = Self { bytes: [0; 32], len: 0 };
        if let Some(bytes) = tag.bytes.get_mut(..value.len()) {
            bytes.copy_from_slice(value);
            tag.len = value.len();
        }
        tag
    }
}

impl Deref for Tag {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag(..)")
    }
}

/// The key of one long-term credential, as keyed HMAC state: made once per allocation, cloned per message.
#[derive(Clone)]
pub struct Key {
    keyed: Keyed,
    origin: Option<Origin>,
}

#[derive(Clone)]
enum Keyed {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
}

impl Key {
    /// The classic one: `MD5(username ":" realm ":" password)` for MESSAGE-INTEGRITY.
    #[must_use]
    pub fn long_term(username: &str, realm: &str, password: &str) -> Self {
        Self::derive(PasswordAlgorithm::Md5, Integrity::Sha1, username, realm, password)
    }

    /// RFC 8489 section 9.2.2 with the hash of `algorithm`, for tags of `integrity`.
    #[must_use]
    pub fn derive(
        algorithm: PasswordAlgorithm,
        integrity: Integrity,
        username: &str,
        realm: &str,
        password: &str,
    ) -> Self {
        Self::stored(&digest(algorithm, username, realm, password), integrity)
    }

    /// The password itself (RFC 8489 section 9.1.1); only test vectors use it.
    #[must_use]
    pub fn short_term(password: &str) -> Self {
        Self::from_bytes(password.as_bytes(), Integrity::Sha1)
    }

    /// A key that was derived before.
    #[must_use]
    pub fn stored(digest: &PasswordDigest, integrity: Integrity) -> Self {
        Self::from_bytes(&digest.0, integrity)
    }

    /// Any bytes as an HMAC key.
    #[must_use]
    pub(crate) fn from_bytes(key: &[u8], integrity: Integrity) -> Self {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        let keyed = match integrity {
            Integrity::Sha1 => Keyed::Sha1(Hmac::new_from_slice(key).expect(ANY_LENGTH)),
            Integrity::Sha256 => Keyed::Sha256(Hmac::new_from_slice(key).expect(ANY_LENGTH)),
        };
        Self { keyed, origin: None }
    }

    /// The same key, remembering what it comes from.
    pub(super) fn with_origin(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// What it comes from, if that is an entry of the configuration.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Which attribute this key makes and verifies.
    #[must_use]
    pub fn integrity(&self) -> Integrity {
        match self.keyed {
            Keyed::Sha1(_) => Integrity::Sha1,
            Keyed::Sha256(_) => Integrity::Sha256,
        }
    }

    /// The tag over the parts, one after the other.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> Tag {
        match &self.keyed {
            Keyed::Sha1(mac) => Tag::received(&over(mac, parts).finalize().into_bytes()),
            Keyed::Sha256(mac) => Tag::received(&over(mac, parts).finalize().into_bytes()),
        }
    }

    /// Whether `tag` is the whole tag over the parts; takes as long for a wrong tag as for a right one.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &Tag) -> bool {
        match &self.keyed {
            Keyed::Sha1(mac) => over(mac, parts).verify_slice(tag).is_ok(),
            Keyed::Sha256(mac) => over(mac, parts).verify_slice(tag).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

fn over<M: hmac::Mac + Clone>(keyed: &M, parts: &[&[u8]]) -> M {
    let mut mac = keyed.clone();
    for part in parts {
        mac.update(part);
    }
    mac
}

/// What a password becomes: 16 or 32 bytes, as good as the password itself for one username and realm.
#[derive(Clone)]
pub struct PasswordDigest(Box<[u8]>);

impl PasswordDigest {
    /// Bytes that were stored. `None`: the length is not the algorithm's.
    #[must_use]
    pub fn from_stored(algorithm: PasswordAlgorithm, bytes: &[u8]) -> Option<Self> {
        let expected = match algorithm {
            PasswordAlgorithm::Md5 => 16,
            PasswordAlgorithm::Sha256 => 32,
        };
        (bytes.len() == expected).then(|| Self(bytes.into()))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// To be stored: in hexadecimal.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordDigest(..)")
    }
}

/// `H(username ":" realm ":" password)`.
#[must_use]
pub fn digest(algorithm: PasswordAlgorithm, username: &str, realm: &str, password: &str) -> PasswordDigest {
    let parts = [username, ":", realm, ":", password];
    PasswordDigest(match algorithm {
        PasswordAlgorithm::Md5 => hash::<md5::Md5>(&parts),
        PasswordAlgorithm::Sha256 => hash::<Sha256>(&parts),
    })
}

/// USERHASH: `SHA-256(username ":" realm)` (RFC 8489 section 14.4).
pub(super) fn userhash(username: &str, realm: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in [username, ":", realm] {
        digest.update(part.as_bytes());
    }
    digest.finalize().into()
}

fn hash<D: md5::Digest>(parts: &[&str]) -> Box<[u8]> {
    let mut digest = D::new();
    for part in parts {
        digest.update(part.as_bytes());
    }
    digest.finalize().as_slice().into()
}
