//! Time-limited credentials, derived from a shared secret exactly as coturn's `use-auth-secret` does it, so that the
//! signaling server mints what the relay verifies.
//!
//! Refuses to do: print a secret.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// A secret shared with whoever mints credentials. Its content is never printed.
#[derive(Clone)]
pub struct Secret(pub(super) Box<[u8]>);

/// What a secret file may not be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Only blank lines and comments.
    #[error("holds no secret: write one secret per line (for example the output of `openssl rand -hex 32`)")]
    Empty,
}

impl Secret {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into().into_boxed_slice())
    }

    /// Reads a secret file: one secret per line, blanks around it trimmed, empty lines and lines that begin with `#` skipped.
    /// The first secret is the one to mint with; all of them verify, so a secret is replaced without a gap.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, SecretError> {
        let secrets: Vec<Self> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(Self::new)
            .collect();
        if secrets.is_empty() { Err(SecretError::Empty) } else { Ok(secrets) }
    }
}

/// Not in constant time: for comparing one configuration with another.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
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
    /// `expiry:id`, the expiry in seconds since 1970.
    pub username: String,
    /// Base64 of HMAC-SHA1 over the username.
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
    let username = format!("{expiry}:{id}");
    let password = password_for(secret, &username);
    Credential { username, password }
}

pub(super) fn password_for(secret: &Secret, username: &str) -> String {
    let mac: Hmac<Sha1> = Hmac::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    let mac = mac.chain_update(username.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

/// The time that a username `expiry` or `expiry:id` names.
pub(super) fn expiry(username: &str) -> Option<SystemTime> {
    let digits = username.split_once(':').map_or(username, |(expiry, _)| expiry);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    UNIX_EPOCH.checked_add(Duration::from_secs(digits.parse().ok()?))
}

/// Whom a username counts for in quotas: the id of a time-limited one, otherwise the whole name.
pub fn account(username: &str) -> &str {
    match username.split_once(':') {
        Some((_, id)) if !id.is_empty() && expiry(username).is_some() => id,
        _ => username,
    }
}
