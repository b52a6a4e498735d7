//! Third-party authorization (RFC 7635): tokens that an authorization server seals for this relay, each with a key for the
//! messages of its bearer.
//!
//! ```text
//! nonce length, 2 bytes (12) | nonce | AES-GCM of: key length, 2 bytes | key | timestamp, 8 bytes | lifetime, 4 bytes | tag, 16 bytes
//! ```
//!
//! Refuses to do: decrypt anything whose lengths do not add up to a token of ours, believe anything before the tag, print a key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::Integrity;
use super::origin::Origin;

/// RFC 7635 section 6.1: the server name is at most 253 bytes, as a domain name is.
pub const MAX_SERVER_NAME_BYTES: usize = 253;
/// Longer key ids are refused: they travel as USERNAME.
const MAX_KEY_ID_BYTES: usize = 128;
/// What an HMAC-SHA1 key has (RFC 7635 section 6.2), and twice what an HMAC-SHA256 key has.
const MAC_KEY_BYTES: std::ops::RangeInclusive<usize> = 20..=64;
const TAG_BYTES: usize = 16;
/// Everything but the key: both lengths, the nonce, the timestamp, the lifetime, the tag.
const FRAME_BYTES: usize = 2 + NONCE_LEN + 2 + 8 + 4 + TAG_BYTES;
/// No token of ours is longer: it fits on the stack, and nothing longer is looked into.
const MAX_TOKEN_BYTES: usize = FRAME_BYTES + *MAC_KEY_BYTES.end();
/// RFC 7635 section 7: what clocks may differ.
const DELTA: Duration = Duration::from_secs(5);
/// In front of the username of a token's bearer. Names of static users have no colon, time-limited ones begin with digits.
const PREFIX: &str = "token:";

/// What a file of authorization server keys may not be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// Only blank lines and comments.
    #[error("holds no key: write KEY-ID and the key in base64 on one line, with a blank between them")]
    Empty,
    /// A line is none of its kind.
    #[error("line {line}: {what}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong; never the line itself.
        what: &'static str,
    },
}

/// A key shared with an authorization server.
#[derive(Clone)]
pub struct TokenKey {
    key_id: Box<str>,
    sealed_with: Arc<LessSafeKey>,
    origin: Origin,
}

impl TokenKey {
    /// Reads a key file: a key id, a blank, and 32 bytes (AES-256-GCM) or 16 bytes (AES-128-GCM) in base64 on each line; empty
    /// lines and lines that begin with `#` are skipped.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, TokenKeyError> {
        let mut keys: Vec<Self> = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let key = Self::parse_line(text).map_err(|what| TokenKeyError::Line { line, what })?;
            if keys.iter().any(|other| other.key_id == key.key_id) {
                return Err(TokenKeyError::Line { line, what: "the key id is given twice" });
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(TokenKeyError::Empty) } else { Ok(keys) }
    }

    fn parse_line(text: &str) -> Result<Self, &'static str> {
        const NO_KEY: &str = "not a key id, a blank, and 32 or 16 bytes in base64";
        let (key_id, key) = text.split_once(char::is_whitespace).ok_or(NO_KEY)?;
        if key_id.len() > MAX_KEY_ID_BYTES || key_id.chars().any(|c| c.is_control() || c == ':') {
            return Err("the key id is longer than 128 bytes, or has a colon");
        }
        let bytes = BASE64.decode(key.trim_start()).map_err(|_| NO_KEY)?;
        let algorithm = match bytes.len() {
            32 => &AES_256_GCM,
            16 => &AES_128_GCM,
            _ => return Err(NO_KEY),
        };
        let key = UnboundKey::new(algorithm, &bytes).map_err(|_| NO_KEY)?;
        Ok(Self {
            key_id: key_id.into(),
            sealed_with: Arc::new(LessSafeKey::new(key)),
            origin: Origin::of_token_key(key_id, &bytes),
        })
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }
}

/// For comparing one configuration with another.
impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        self.origin == other.origin
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Whose tokens are good here.
#[derive(Clone, Debug, PartialEq)]
pub struct ThirdParty {
    server_name: Box<str>,
    keys: Vec<TokenKey>,
}

/// What a token says, once it was opened.
pub(super) struct Token {
    pub(super) mac_key: MacKey,
    issued: SystemTime,
    lifetime: Duration,
    pub(super) origin: Origin,
}

/// The key for the messages of a token's bearer.
pub(super) struct MacKey {
    bytes: [u8; *MAC_KEY_BYTES.end()],
    len: usize,
}

impl MacKey {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The keys that bearers sign with: the whole, and what coturn's clients make of it, which is as long as the key of a
    /// password would be.
    pub(super) fn as_signed_with(&self, integrity: Integrity) -> [&[u8]; 2] {
        let whole = self.as_bytes();
        let of_password = match integrity {
            Integrity::Sha1 => 16,
            Integrity::Sha256 => 32,
        };
        [whole, &whole[..of_password.min(whole.len())]]
    }
}

impl Token {
    /// Until when it is good; `None`: it is not (RFC 7635 section 7).
    pub(super) fn until(&self, wall: SystemTime) -> Option<SystemTime> {
        let apart = wall.duration_since(self.issued).unwrap_or_else(|ahead| ahead.duration());
        let until = self.issued.checked_add(self.lifetime + DELTA)?;
        (apart < self.lifetime + DELTA).then_some(until)
    }
}

impl ThirdParty {
    /// `server_name` is what clients are told, and what tokens are sealed for.
    ///
    /// # Panics
    /// If the name is longer than [`MAX_SERVER_NAME_BYTES`]: settings check it.
    #[must_use]
    pub fn new(server_name: &str, keys: Vec<TokenKey>) -> Self {
        assert!(server_name.len() <= MAX_SERVER_NAME_BYTES, "the server name is too long");
        Self { server_name: server_name.into(), keys }
    }

    /// THIRD-PARTY-AUTHORIZATION.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    pub(super) fn origins(&self) -> impl Iterator<Item = Origin> {
        self.keys.iter().map(TokenKey::origin)
    }

    /// Opens a token. `None`: no such key id, or not sealed with that key for this server, or not a token at all.
    pub(super) fn open(&self, key_id: &str, token: &[u8]) -> Option<Token> {
        let key = self.keys.iter().find(|key| *key.key_id == *key_id)?;
        if !(FRAME_BYTES + MAC_KEY_BYTES.start()..=MAX_TOKEN_BYTES).contains(&token.len()) {
            return None;
        }
        let (nonce_length, rest) = token.split_first_chunk::<2>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if usize::from(u16::from_be_bytes(*nonce_length)) != NONCE_LEN {
            return None;
        }
        let mut block = [0; MAX_TOKEN_BYTES];
        let block = block.get_mut(..sealed.len())?;
        block.copy_from_slice(sealed);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain =
            key.sealed_with.open_in_place(nonce, Aad::from(self.server_name.as_bytes()), block).ok()?;
        read(plain, key.origin)
    }
}

/// The encrypted block after its tag was verified: what an authorization server wrote, which may be nonsense all the same.
fn read(plain: &[u8], origin: Origin) -> Option<Token> {
    let (key_length, rest) = plain.split_first_chunk::<2>()?;
    let len = usize::from(u16::from_be_bytes(*key_length));
    let (key, rest) = rest.split_at_checked(len)?;
    let (timestamp, lifetime) = rest.split_first_chunk::<8>()?;
    let lifetime = u32::from_be_bytes(lifetime.try_into().ok()?);
    // 48 bits of seconds, 16 bits of their fraction (RFC 7635 section 6.2); a fraction of a second decides nothing.
    let seconds = u64::from_be_bytes(*timestamp) >> 16;
    let mut mac_key = MacKey { bytes: [0; *MAC_KEY_BYTES.end()], len };
    if len < *MAC_KEY_BYTES.start() {
        return None;
    }
    mac_key.bytes.get_mut(..len)?.copy_from_slice(key);
    let issued = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some(Token { mac_key, issued, lifetime: Duration::from_secs(lifetime.into()), origin })
}

/// What the bearer of a token goes by: the key id, and a part of a digest of its token, for a key id stands for everybody whom
/// that authorization server let in.
pub(super) fn bearer(key_id: &str, mac_key: &MacKey) -> Box<str> {
    use std::fmt::Write as _;

    let digest = md5::Digest::finalize(<sha2::Sha256 as md5::Digest>::new_with_prefix(mac_key.as_bytes()));
    let mut name = format!("{PREFIX}{key_id}:");
    for byte in &digest[..8] {
        let _ = write!(name, "{byte:02x}");
    }
    name.into()
}

/// Whether `username` is the bearer of some token.
pub(super) fn is_bearer(username: &str) -> bool {
    username.starts_with(PREFIX)
}

/// Whether a request that names `wire` may come from `username`: it is the same name. A bearer goes by the key id of whichever
/// token it brought last, so there only its key can tell.
#[must_use]
pub fn goes_by(username: &str, wire: &str) -> bool {
    username == wire || is_bearer(username)
}

/// Whether both are the same user. A bearer may have another token by now, and of another key: authorization servers renew theirs.
#[must_use]
pub fn is_same_user(one: &str, other: &str) -> bool {
    one == other || (is_bearer(one) && is_bearer(other))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
