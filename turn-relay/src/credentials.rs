//! Long-term credentials (RFC 8489 section 9.2): who may allocate, and under which key a request is theirs.
//!
//! Refuses to do: print a secret or a key, compare a tag in variable time, keep state for a client.

mod guest;
mod key;
mod origin;
mod secret;
mod token;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::SystemTime;

use foldhash::fast::RandomState;

pub use guest::{Authorization, Guest};
pub use key::{Integrity, Key, PasswordAlgorithm, PasswordDigest, Tag, digest};
pub use secret::{Credential, MAX_SECRETS, Secret, SecretError, account, holder, is_minted, mint};

pub use token::{MAX_SERVER_NAME_BYTES, ThirdParty, TokenKey, TokenKeyError, goes_by, is_same_user};

use key::userhash;
use origin::Origin;
use secret::expiry;

/// RFC 8489 section 14.9.
pub const MAX_REALM_BYTES: usize = 763;

/// How a request names its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimant<'a> {
    /// USERNAME.
    Name(&'a str),
    /// USERHASH.
    Hash(&'a [u8; 32]),
}

/// Which hashes a request is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashes {
    /// From the password to the key: PASSWORD-ALGORITHM, or MD5 without it.
    pub password: PasswordAlgorithm,
    /// From the key to the tag: which integrity attribute it carries.
    pub integrity: Integrity,
}

/// Somebody who proved to be a user.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The whole username, also where the request carried its hash.
    pub username: Box<str>,
    /// What the request was signed with, and what its answer is signed with.
    pub key: Key,
    /// When whatever is granted must end: the credential's own time, if that ends allocations.
    pub until: Option<SystemTime>,
}

/// What a user is known by. A missing digest was not stored, and cannot be made.
#[derive(Clone)]
struct StaticUser {
    /// Of the password; a stored key has its own.
    origin: Option<Origin>,
    md5: Option<PasswordDigest>,
    sha256: Option<PasswordDigest>,
}

impl StaticUser {
    fn digest(&self, algorithm: PasswordAlgorithm) -> Option<&PasswordDigest> {
        match algorithm {
            PasswordAlgorithm::Md5 => self.md5.as_ref(),
            PasswordAlgorithm::Sha256 => self.sha256.as_ref(),
        }
    }
}

/// What every source of credentials can serve, and so what may be offered to a client that has not said who it is
/// (RFC 8489 section 9.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// PASSWORD-ALGORITHMS, the preferred one first. Empty: the attribute is not sent, and MD5 is what everybody does.
    pub password_algorithms: &'static [PasswordAlgorithm],
    /// USERHASH can be looked up.
    pub username_anonymity: bool,
}

impl Features {
    /// The 24 security feature bits in base64, bit 0 being the most significant (RFC 8489 sections 9.2 and 18.1).
    #[must_use]
    pub fn cookie(self) -> &'static str {
        match (self.password_algorithms.is_empty(), self.username_anonymity) {
            (true, false) => "AAAA",
            (true, true) => "QAAA",
            (false, false) => "gAAA",
            (false, true) => "wAAA",
        }
    }
}

/// Everyone who may allocate.
#[derive(Clone)]
pub struct Credentials {
    realm: String,
    users: HashMap<Box<str>, StaticUser, RandomState>,
    /// USERHASH to the name.
    hashes: HashMap<[u8; 32], Box<str>, RandomState>,
    secrets: Vec<Secret>,
    /// A time-limited credential ends what it allowed when its time is over.
    expiry_ends_allocations: bool,
    third_party: Option<ThirdParty>,
    features: Features,
    /// Of all users, secrets and keys of authorization servers.
    origins: HashSet<Origin, RandomState>,
    /// Verified against when there is no such user, so that the answer takes as long as for a wrong password.
    decoy: PasswordDigest,
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
    /// A token of no authorization server that is known here, or sealed for another server, or no token at all.
    WrongToken,
    /// A token that is too old, or from the future.
    ExpiredToken,
    /// A good token in the hands of somebody who does not have its key.
    StolenToken,
}

impl Unauthenticated {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Expired,
        Self::WrongSecret,
        Self::WrongPassword,
        Self::UnknownUser,
        Self::WrongToken,
        Self::ExpiredToken,
        Self::StolenToken,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::WrongSecret => "wrong_secret",
            Self::WrongPassword => "wrong_password",
            Self::UnknownUser => "unknown_user",
            Self::WrongToken => "wrong_token",
            Self::ExpiredToken => "expired_token",
            Self::StolenToken => "stolen_token",
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
            Self::WrongToken => {
                "a token that no configured key opens (is oauth_server_name the same at both ends?)"
            }
            Self::ExpiredToken => "the time of a token has passed, or not come (do the clocks agree?)",
            Self::StolenToken => "a token whose bearer does not have its key",
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
        let mut credentials = Self {
            realm: realm.to_owned(),
            users: HashMap::default(),
            hashes: HashMap::default(),
            origins: secrets.iter().map(Origin::of_secret).collect(),
            secrets,
            expiry_ends_allocations: false,
            third_party: None,
            features: Features { password_algorithms: &[], username_anonymity: false },
            decoy: digest(PasswordAlgorithm::Md5, "", realm, ""),
        };
        for (name, password) in users {
            let made = |algorithm| Some(digest(algorithm, &name, realm, &password));
            let user = StaticUser {
                origin: Some(Origin::of_user(&name, &password)),
                md5: made(PasswordAlgorithm::Md5),
                sha256: made(PasswordAlgorithm::Sha256),
            };
            credentials.add(&name, user);
        }
        credentials.features = credentials.common_features();
        credentials
    }

    /// Users whose password is not here, only what it becomes in this realm.
    #[must_use]
    pub fn with_stored_keys(
        mut self,
        keys: impl IntoIterator<Item = (String, PasswordAlgorithm, PasswordDigest)>,
    ) -> Self {
        for (name, algorithm, digest) in keys {
            self.origins.insert(Origin::of_stored(&name, &digest));
            let known = self.users.remove(&*name);
            let mut user = known.unwrap_or(StaticUser { origin: None, md5: None, sha256: None });
            match algorithm {
                PasswordAlgorithm::Md5 => user.md5 = Some(digest),
                PasswordAlgorithm::Sha256 => user.sha256 = Some(digest),
            }
            self.add(&name, user);
        }
        self.features = self.common_features();
        self
    }

    /// Bearers of tokens are users too.
    #[must_use]
    pub fn with_third_party(mut self, third_party: Option<ThirdParty>) -> Self {
        self.origins.extend(third_party.iter().flat_map(ThirdParty::origins));
        self.third_party = third_party;
        self.features = self.common_features();
        self
    }

    /// Whose tokens are good, if anybody's.
    pub fn third_party(&self) -> Option<&ThirdParty> {
        self.third_party.as_ref()
    }

    /// Whether the end of a time-limited credential ends the allocations that it made.
    #[must_use]
    pub fn with_expiry_ending_allocations(self, expiry_ends_allocations: bool) -> Self {
        Self { expiry_ends_allocations, ..self }
    }

    fn add(&mut self, name: &str, user: StaticUser) {
        self.hashes.insert(userhash(name, &self.realm), name.into());
        self.origins.extend(user.origin);
        self.users.insert(name.into(), user);
    }

    /// A secret gives a password, and with it every key, but its users are known by name alone, and so are bearers of tokens.
    fn common_features(&self) -> Features {
        let serve = |algorithm| self.users.values().all(|user| user.digest(algorithm).is_some());
        let password_algorithms: &[PasswordAlgorithm] =
            match (serve(PasswordAlgorithm::Sha256), serve(PasswordAlgorithm::Md5)) {
                (true, true) => &[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5],
                (true, false) => &[PasswordAlgorithm::Sha256],
                (false, _) => &[],
            };
        let named_only = self.secrets.is_empty() && self.third_party.is_none();
        Features { password_algorithms, username_anonymity: named_only && !self.users.is_empty() }
    }

    /// What may be offered to everybody.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether nobody could ever be authenticated: a server with such credentials must not start.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.secrets.is_empty() && self.third_party.is_none()
    }

    /// Whether what `key` comes from is still here. A key of another source than these credentials is not theirs to revoke.
    #[must_use]
    pub fn stand_behind(&self, key: &Key) -> bool {
        key.origin().is_none_or(|origin| self.origins.contains(&origin))
    }

    /// The realm that every key is made for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The name that a request's user goes by. `None`: a hash of nobody whom we know by name.
    #[must_use]
    pub fn name_of<'a>(&'a self, claimant: Claimant<'a>) -> Option<&'a str> {
        match claimant {
            Claimant::Name(name) => Some(name),
            Claimant::Hash(hash) => self.hashes.get(hash).map(|name| &**name),
        }
    }

    /// Finds the key of `username` under which `verifies` holds. `wall` decides whether a time-limited username is still good.
    pub fn authenticate(
        &self,
        username: &str,
        hashes: Hashes,
        wall: SystemTime,
        verifies: impl Fn(&Key) -> bool,
    ) -> Result<Authenticated, Unauthenticated> {
        if let Some(user) = self.users.get(username) {
            // Without such a digest the answer takes as long as for a wrong password.
            let digest = user.digest(hashes.password);
            let key = Key::stored(digest.unwrap_or(&self.decoy), hashes.integrity);
            let verified = verifies(&key);
            let Some(digest) = digest.filter(|_| verified) else {
                return Err(Unauthenticated::WrongPassword);
            };
            let key = key.with_origin(user.origin.unwrap_or_else(|| Origin::of_stored(username, digest)));
            return Ok(Authenticated { username: username.into(), key, until: None });
        }
        let Some(expires) = expiry(username) else {
            self.refuse_stranger(hashes, verifies);
            return Err(Unauthenticated::UnknownUser);
        };
        // Each secret has one hash, and a key id leaves one secret: what a stranger makes us derive is bounded by their number.
        let candidates = self.secrets.iter().filter(|secret| secret.may_have_minted(username));
        let derived = candidates.map(|secret| {
            let password = secret.password(username);
            (Key::derive(hashes.password, hashes.integrity, username, &self.realm, &password), secret)
        });
        let mut found = None;
        for (key, secret) in derived {
            if verifies(&key) {
                found = Some(key.with_origin(Origin::of_secret(secret)));
            }
        }
        let Some(key) = found else {
            self.refuse_stranger(hashes, verifies);
            return Err(Unauthenticated::WrongSecret);
        };
        if expires <= wall {
            return Err(Unauthenticated::Expired);
        }
        let until = self.expiry_ends_allocations.then_some(expires);
        Ok(Authenticated { username: username.into(), key, until })
    }

    /// Finds the key in a token (RFC 7635 section 7); `key_id` is what the request has as USERNAME.
    pub fn authorize(
        &self,
        (key_id, token): (&str, &[u8]),
        integrity: Integrity,
        wall: SystemTime,
        verifies: impl Fn(&Key) -> bool,
    ) -> Result<Authenticated, Unauthenticated> {
        let third_party = self.third_party.as_ref().ok_or(Unauthenticated::WrongToken)?;
        let token = third_party.open(key_id, token).ok_or(Unauthenticated::WrongToken)?;
        let until = token.until(wall).ok_or(Unauthenticated::ExpiredToken)?;
        let keys = token.mac_key.as_signed_with(integrity).map(|key| Key::from_bytes(key, integrity));
        let key = keys.into_iter().find(verifies).ok_or(Unauthenticated::StolenToken)?;
        let username = token::bearer(key_id, &token.mac_key);
        Ok(Authenticated { username, key: key.with_origin(token.origin), until: Some(until) })
    }

    /// Whether a user that was refused for this reason is nobody's here, so that somebody else may know it: a name that looks
    /// time-limited is ours as long as there are secrets.
    pub(crate) fn may_be_a_guest(&self, why: Unauthenticated) -> bool {
        why == Unauthenticated::UnknownUser
            || (why == Unauthenticated::WrongSecret && self.secrets.is_empty())
    }

    /// Nothing is offered that only some users can do: what a hook will answer is not known before it is asked.
    #[must_use]
    pub(crate) fn offering_nothing(self) -> Self {
        Self { features: Features { password_algorithms: &[], username_anonymity: false }, ..self }
    }

    /// Takes as long as a wrong password does.
    pub fn refuse_stranger(&self, hashes: Hashes, verifies: impl Fn(&Key) -> bool) {
        let _ = verifies(&Key::stored(&self.decoy, hashes.integrity));
    }
}

#[cfg(test)]
mod tests;
