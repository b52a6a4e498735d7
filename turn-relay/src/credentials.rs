//! Long-term credentials (RFC 8489 section 9.2): static users, and time-limited ones derived from a shared secret
//! exactly as coturn's `use-auth-secret` does it, so that the signaling server mints what the relay verifies.
//!
//! Refuses to do: print a secret or a key, compare a tag in variable time, keep state for a client.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Digest as _;
use sha1::Sha1;

/// RFC 8489 section 14.9.
pub const MAX_REALM_BYTES: usize = 763;

/// A secret shared with whoever mints credentials. Its content is never printed.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

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

fn password_for(secret: &Secret, username: &str) -> String {
    let mac = hmac_sha1(&secret.0).chain_update(username.as_bytes());
    BASE64.encode(mac.finalize().into_bytes())
}

fn hmac_sha1(key: &[u8]) -> Hmac<Sha1> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The key of one long-term credential, as keyed HMAC-SHA1 state: made once per allocation, cloned per message.
#[derive(Clone)]
pub struct Key(Hmac<Sha1>);

impl Key {
    /// `MD5(username ":" realm ":" password)` (RFC 8489 section 9.2.2).
    pub fn long_term(username: &str, realm: &str, password: &str) -> Self {
        let mut digest = md5::Md5::new();
        for part in [username, ":", realm, ":", password] {
            digest.update(part.as_bytes());
        }
        Self(hmac_sha1(&digest.finalize()))
    }

    /// The password itself (RFC 8489 section 9.1.1); only test vectors use it.
    pub fn short_term(password: &str) -> Self {
        Self(hmac_sha1(password.as_bytes()))
    }

    /// The tag over the parts, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 20] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` is the tag over the parts; takes as long for a wrong tag as for a right one.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.over(parts).verify_slice(tag).is_ok()
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha1> {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A user named in the configuration.
#[derive(Clone)]
struct StaticUser {
    name: String,
    key: Key,
}

/// Everyone who may allocate.
#[derive(Clone)]
pub struct Credentials {
    realm: String,
    users: Vec<StaticUser>,
    secrets: Vec<Secret>,
    /// Verified against when there is no such user, so that the answer takes as long as for a wrong password.
    decoy: Key,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials {{ users: {}, secrets: {} }}", self.users.len(), self.secrets.len())
    }
}

/// Why nobody was authenticated. All look alike on the wire (401); the log and the metrics tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// A time-limited username whose time has passed.
    Expired,
    /// A time-limited username whose password no secret gives: the minting side has another secret, or there is none here.
    WrongSecret,
    /// A user of the configuration with another password.
    WrongPassword,
    /// Neither a user of the configuration nor a time-limited username.
    UnknownUser,
}

impl Unauthenticated {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Expired, Self::WrongSecret, Self::WrongPassword, Self::UnknownUser];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::WrongSecret => "wrong_secret",
            Self::WrongPassword => "wrong_password",
            Self::UnknownUser => "unknown_user",
        }
    }

    /// For the log: what the operator may look at.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "the time of a time-limited user has passed (do the clocks agree?)",
            Self::WrongSecret => {
                "wrong credentials for a time-limited user: none of the configured secrets matches"
            }
            Self::WrongPassword => "wrong password for a static user",
            Self::UnknownUser => "unknown user: neither a static nor a time-limited one",
        }
    }
}

impl Credentials {
    /// `users` are name and password; `secrets` verify time-limited credentials, any of them.
    ///
    /// # Panics
    /// If the realm is longer than [`MAX_REALM_BYTES`]: settings check it.
    pub fn new(realm: &str, users: impl IntoIterator<Item = (String, String)>, secrets: Vec<Secret>) -> Self {
        assert!(realm.len() <= MAX_REALM_BYTES, "the realm is longer than {MAX_REALM_BYTES} bytes");
        let users = users
            .into_iter()
            .map(|(name, password)| StaticUser { key: Key::long_term(&name, realm, &password), name })
            .collect();
        Self { realm: realm.to_owned(), users, secrets, decoy: Key::long_term("", realm, "") }
    }

    /// Whether nobody could ever be authenticated: a server with such credentials must not start.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.secrets.is_empty()
    }

    /// The realm that every key is made for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Finds the key of `username` under which `verifies` holds. `wall` decides whether a time-limited username is still good.
    pub fn authenticate(
        &self,
        username: &str,
        wall: SystemTime,
        verifies: impl Fn(&Key) -> bool,
    ) -> Result<Key, Unauthenticated> {
        if let Some(user) = self.users.iter().find(|user| user.name == username) {
            return if verifies(&user.key) {
                Ok(user.key.clone())
            } else {
                Err(Unauthenticated::WrongPassword)
            };
        }
        let derived = self
            .secrets
            .iter()
            .map(|secret| Key::long_term(username, &self.realm, &password_for(secret, username)));
        let mut found = None;
        for key in derived {
            if verifies(&key) {
                found = Some(key);
            }
        }
        let Some(key) = found else {
            let _ = verifies(&self.decoy);
            let time_limited = expiry(username).is_some();
            return Err(if time_limited {
                Unauthenticated::WrongSecret
            } else {
                Unauthenticated::UnknownUser
            });
        };
        match expiry(username) {
            Some(expires) if wall < expires => Ok(key),
            Some(_) => Err(Unauthenticated::Expired),
            None => Err(Unauthenticated::UnknownUser),
        }
    }
}

/// The time that a username `expiry` or `expiry:id` names.
fn expiry(username: &str) -> Option<SystemTime> {
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

#[cfg(test)]
mod tests;
