//! Time-limited credentials, derived from a shared secret exactly as coturn's `use-auth-secret` does it, so that the
//! signaling server mints what the relay verifies.
//!
//! Refuses to do: print a secret.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::Hmac;
use sha1::Sha1;
use sha2::Sha256;

use super::token::is_bearer;

/// More secrets are refused: a username that names no key id is tried with each of them.
pub const MAX_SECRETS: usize = 16;
/// Longer key ids are refused: they travel in every username.
const MAX_KEY_ID_BYTES: usize = 64;

/// A secret shared with whoever mints credentials. Its content is never printed.
#[derive(Clone)]
pub struct Secret {
    bytes: Box<[u8]>,
    /// What usernames name it by.
    key_id: Option<Box<str>>,
    hash: SecretHash,
}

/// How a password is derived from a secret. A secret has one, so that no username is tried with two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SecretHash {
    /// As coturn does.
    Sha1,
    Sha256,
}

/// What a secret file may not be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Only blank lines and comments.
    #[error("holds no secret: write one secret per line (for example the output of `openssl rand -hex 32`)")]
    Empty,
    /// More than [`MAX_SECRETS`].
    #[error("holds more than {MAX_SECRETS} secrets; remove those that nobody mints with any more")]
    TooMany,
    /// A line that begins with `@` is none of its kind.
    #[error(
        "line {line}: {what}; a line is SECRET, @KEY-ID SECRET, @KEY-ID:sha256 SECRET or @:sha256 SECRET"
    )]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong; never the line itself.
        what: &'static str,
    },
}

impl Secret {
    /// Takes the bytes as they are: a secret without a key id, for HMAC-SHA1.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into().into_boxed_slice(), key_id: None, hash: SecretHash::Sha1 }
    }

    /// Reads a secret file: one secret per line, blanks around it trimmed, empty lines and lines that begin with `#` skipped.
    /// In front of a secret may stand `@`, a key id, `:sha1` or `:sha256`, and a blank. The first secret is the one to mint
    /// with; all of them verify, so a secret is replaced without a gap.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, SecretError> {
        let mut secrets: Vec<Self> = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let secret = Self::parse_line(text).map_err(|what| SecretError::Line { line, what })?;
            if secret.key_id.is_some() && secrets.iter().any(|other| other.key_id == secret.key_id) {
                return Err(SecretError::Line { line, what: "the key id is given twice" });
            }
            secrets.push(secret);
        }
        match secrets.len() {
            0 => Err(SecretError::Empty),
            1..=MAX_SECRETS => Ok(secrets),
            _ => Err(SecretError::TooMany),
        }
    }

    fn parse_line(text: &str) -> Result<Self, &'static str> {
        let Some(marked) = text.strip_prefix('@') else { return Ok(Self::new(text)) };
        let (mark, secret) =
            marked.split_once(char::is_whitespace).ok_or("there is no secret behind the key id")?;
        let (key_id, hash) = match mark.split_once(':') {
            None => (mark, SecretHash::Sha1),
            Some((key_id, "sha1")) => (key_id, SecretHash::Sha1),
            Some((key_id, "sha256")) => (key_id, SecretHash::Sha256),
            Some(_) => return Err("the hash is neither sha1 nor sha256"),
        };
        if key_id.len() > MAX_KEY_ID_BYTES
            || !key_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        {
            return Err("the key id is longer than 64 or has other characters than letters, digits, - _ .");
        }
        let key_id = (!key_id.is_empty()).then(|| key_id.into());
        if key_id.is_none() && !mark.contains(':') {
            return Err("there is neither a key id nor a hash");
        }
        Ok(Self { key_id, hash, ..Self::new(secret.trim_start()) })
    }

    /// Tells this secret from others, whatever it is called.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The password of a username.
    pub(super) fn password(&self, username: &str) -> String {
        match self.hash {
            SecretHash::Sha1 => BASE64.encode(mac::<Hmac<Sha1>>(&self.bytes, username)),
            SecretHash::Sha256 => BASE64.encode(mac::<Hmac<Sha256>>(&self.bytes, username)),
        }
    }

    /// Whether a username may come from this secret: it names no key id, or the one of this secret.
    pub(super) fn may_have_minted(&self, username: &str) -> bool {
        match TimeLimited::parse(username).and_then(|parsed| parsed.key_id) {
            None => true,
            named => self.key_id.as_deref() == named,
        }
    }
}

fn mac<M: hmac::KeyInit + hmac::Mac>(secret: &[u8], username: &str) -> hmac::digest::Output<M> {
    let keyed = <M as hmac::KeyInit>::new_from_slice(secret).expect("HMAC takes a key of any length");
    keyed.chain_update(username.as_bytes()).finalize().into_bytes()
}

/// Not in constant time: for comparing one configuration with another.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.key_id == other.key_id && self.hash == other.hash && self.bytes == other.bytes
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A username and its password, as an ICE server entry carries them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `expiry:id`, the expiry in seconds since 1970; `expiry#key-id:id` if the secret has a key id.
    pub username: String,
    /// Base64 of HMAC-SHA1 (or HMAC-SHA256, if the secret is for that) over the username.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).field("password", &"..").finish()
    }
}

/// Derives the credential of `id` that new allocations accept until `expires` (rounded down to a second).
pub fn mint(secret: &Secret, id: &str, expires: SystemTime) -> Credential {
    let expiry = expires.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let username = match &secret.key_id {
        None => format!("{expiry}:{id}"),
        Some(key_id) => format!("{expiry}#{key_id}:{id}"),
    };
    let password = secret.password(&username);
    Credential { username, password }
}

/// A username `expiry`, `expiry:id`, `expiry#key-id` or `expiry#key-id:id`, taken apart.
struct TimeLimited<'a> {
    expires: SystemTime,
    key_id: Option<&'a str>,
    /// Without its colon; empty if there is none.
    id: &'a str,
}

impl<'a> TimeLimited<'a> {
    fn parse(username: &'a str) -> Option<Self> {
        let (head, id) = username.split_once(':').unwrap_or((username, ""));
        let (digits, key_id) = match head.split_once('#') {
            Some((digits, key_id)) => (digits, Some(key_id)),
            None => (head, None),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(digits.parse().ok()?))?;
        Some(Self { expires, key_id, id })
    }
}

/// The time that a time-limited username names.
pub(super) fn expiry(username: &str) -> Option<SystemTime> {
    TimeLimited::parse(username).map(|parsed| parsed.expires)
}

/// Whom a username stands for: the id of a time-limited one, otherwise the whole name.
pub fn account(username: &str) -> &str {
    match TimeLimited::parse(username) {
        Some(parsed) if !parsed.id.is_empty() => parsed.id,
        _ => username,
    }
}

/// Whom a username counts for in quotas. An id keeps its colon, which no static user's name has, so that whoever chooses ids
/// cannot choose to use up the quota of a static user.
pub fn holder(username: &str) -> &str {
    match (username.find(':'), TimeLimited::parse(username)) {
        (Some(colon), Some(_)) => &username[colon..],
        _ => username,
    }
}

/// Whether a [`holder`] is somebody whose credentials are minted, or the bearer of a token.
pub fn is_minted(holder: &str) -> bool {
    holder.starts_with(':') || is_bearer(holder)
}
