//! The public keys of whoever signs tokens (RFC 7517), from a file or over HTTPS.
//!
//! They are kept and read again from time to time, and when a token names a key that is not among them; never more often than
//! every [`BETWEEN`], one reading at a time, bounded in size and time. While that fails the keys of before count, for
//! [`TRUSTED`] at most.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::{Url, redirect::Policy};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::{Denial, PATIENCE};

/// Where keys come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum KeySource {
    File(PathBuf),
    Web(Url),
}

/// Public keys, kept and renewed.
pub(crate) struct KeySet {
    source: KeySource,
    client: reqwest::Client,
    current: ArcSwapOption<Loaded>,
    /// Held while they are read.
    reading: Mutex<Option<Attempt>>,
}

struct Loaded {
    keys: Vec<PublicKey>,
    at: Instant,
}

struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: Arc<DecodingKey>,
}

#[derive(Clone, Copy)]
struct Attempt {
    at: Instant,
    failed: bool,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeySet").field(&self.source).finish()
    }
}

impl KeySet {
    /// Nothing is read yet.
    ///
    /// # Errors
    /// When no HTTP client can be made: the system has no certificates.
    pub(crate) fn new(source: KeySource) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("signaling/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(|error| format!("no HTTP client can be made: {error}"))?;
        Ok(Self { source, client, current: ArcSwapOption::empty(), reading: Mutex::new(None) })
    }

    /// The key that verifies a token whose header says this.
    pub(super) async fn find(
        &self,
        now: Instant,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Arc<DecodingKey>, Denial> {
        let known = self.lookup(now, id, algorithm);
        let age = self.current.load().as_ref().map(|loaded| now.saturating_duration_since(loaded.at));
        let mut last = match known {
            Some(key) if age.is_some_and(|age| age < KEPT) => return Ok(key),
            // Somebody reads them already, and what is known will do.
            Some(key) => match self.reading.try_lock() {
                Ok(last) => last,
                Err(_) => return Ok(key),
            },
            None => self.reading.lock().await,
        };
        if last.is_none_or(|last| now.saturating_duration_since(last.at) >= BETWEEN) {
            *last = Some(Attempt { at: now, failed: !self.read(now).await });
        }
        self.lookup(now, id, algorithm).ok_or_else(|| match *last {
            Some(Attempt { failed: false, .. }) => {
                Denial::Refused("the token is signed by a key that is not known")
            }
            Some(_) | None => Denial::Unverified,
        })
    }

    /// With a key id, the key of that name; without, the only one of that algorithm.
    fn lookup(&self, now: Instant, id: Option<&str>, algorithm: Algorithm) -> Option<Arc<DecodingKey>> {
        let loaded = self.current.load_full()?;
        if now.saturating_duration_since(loaded.at) >= TRUSTED {
            return None;
        }
        let mut fitting = loaded
            .keys
            .iter()
            .filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id));
        let first = fitting.next()?;
        (id.is_some() || fitting.next().is_none()).then(|| first.key.clone())
    }

    async fn read(&self, now: Instant) -> bool {
        let read = match &self.source {
            KeySource::File(path) => read_file(path),
            KeySource::Web(url) => self.fetch(url).await,
        };
        match read.and_then(|bytes| parse(&bytes)) {
            Ok(keys) => {
                info!(keys = keys.len(), "the keys that verify tokens were read");
                self.current.store(Some(Arc::new(Loaded { keys, at: now })));
                true
            }
            Err(why) => {
                warn!("the keys that verify tokens cannot be read: {why}");
                false
            }
        }
    }

    async fn fetch(&self, url: &Url) -> Result<Vec<u8>, String> {
        let in_words = |error: reqwest::Error| error.without_url().to_string();
        let mut response = self.client.get(url.clone()).send().await.map_err(in_words)?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(in_words)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BYTES {
                return Err(too_large());
            }
        }
        Ok(body)
    }
}

/// SHA-256 of a file of keys; says what is wrong with it, if something is.
pub(crate) fn digest_of_file(path: &PathBuf) -> Result<[u8; 32], String> {
    let bytes = read_file(path)?;
    parse(&bytes).map(|_keys| Sha256::digest(&bytes).into())
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut body));
    read.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    if body.len() > MAX_BYTES { Err(too_large()) } else { Ok(body) }
}

fn too_large() -> String {
    format!("a set of keys is at most {MAX_BYTES} bytes")
}

/// The keys of a set that can verify a token; others are skipped, above all secret ones.
fn parse(bytes: &[u8]) -> Result<Vec<PublicKey>, String> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| {
        format!("it is no JSON Web Key Set (line {}, column {})", error.line(), error.column())
    })?;
    let keys: Vec<_> = set.keys.iter().filter_map(usable).take(MAX_KEYS).collect();
    if keys.is_empty() { Err("it holds no public key for RS256, ES256 or EdDSA".into()) } else { Ok(keys) }
}

fn usable(jwk: &Jwk) -> Option<PublicKey> {
    let algorithm = algorithm(&jwk.algorithm)?;
    let other_use =
        matches!(&jwk.common.public_key_use, Some(purpose) if *purpose != PublicKeyUse::Signature);
    let other_algorithm =
        jwk.common.key_algorithm.is_some_and(|named| named != KeyAlgorithm::from(algorithm));
    if other_use || other_algorithm {
        return None;
    }
    let key = Arc::new(DecodingKey::from_jwk(jwk).ok()?);
    Some(PublicKey { id: jwk.common.key_id.clone(), algorithm, key })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enum grows with the library, and what is new is not asked for"
)]
fn algorithm(key: &AlgorithmParameters) -> Option<Algorithm> {
    match key {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Some(Algorithm::EdDSA)
        }
        // Above all: a secret that everybody can read is none.
        _ => None,
    }
}

/// After so long they are read again when they are needed.
const KEPT: Duration = Duration::from_secs(600);
/// They are not read again sooner, whatever key a token names.
pub(super) const BETWEEN: Duration = Duration::from_secs(10);
/// They count no longer, whatever keeps us from reading them again.
const TRUSTED: Duration = Duration::from_secs(24 * 3600);
/// Providers publish a handful of keys of up to 2 KiB.
const MAX_BYTES: usize = 256 * 1024;
/// Looked through for each token.
const MAX_KEYS: usize = 64;
