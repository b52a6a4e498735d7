//! What DTLS clients are offered: DTLS 1.2 with the first certificate that the library can use.
//!
//! `dimpl` knows ECDSA keys on P-256 and P-384 and sends the leaf alone, without its chain. Its own cookie is bound to no
//! address and needs a session to exist, so ours stands in its place: see [`expect_cookie`].

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use dimpl::crypto::{CryptoProvider, HashAlgorithm, HmacProvider, aws_lc_rs};
use dimpl::{Config, CryptoError, Dtls, DtlsCertificate};
use rustls::SignatureAlgorithm;

use super::cookie::Cookie;
use crate::operation::certificate::Identity;

/// A configuration and a certificate that are known to work together.
#[derive(Clone)]
pub(crate) struct Offer {
    config: Arc<Config>,
    certificate: DtlsCertificate,
}

impl Offer {
    /// `None` where no certificate has a key that the library can use.
    pub(crate) fn of(identities: &[Arc<Identity>]) -> Option<Self> {
        let provider = CryptoProvider { hmac_provider: &CookiesOfOurs, ..aws_lc_rs::default_provider() };
        let certificate = identities.iter().find_map(|identity| {
            let key = identity.key().secret_der();
            let ecdsa = identity.certified().key.algorithm() == SignatureAlgorithm::ECDSA;
            // The library panics on a key that it cannot read, so it is asked first.
            let usable = ecdsa && provider.key_provider.load_private_key(key).is_ok();
            let leaf = identity.chain().first().filter(|_| usable)?;
            Some(DtlsCertificate { certificate: leaf.to_vec(), private_key: key.to_vec() })
        })?;
        let config = Config::builder()
            .with_crypto_provider(provider)
            .require_client_certificate(false)
            .max_queue_tx(MAX_QUEUED_DATAGRAMS)
            .build();
        match config {
            Ok(config) => Some(Self { config: Arc::new(config), certificate }),
            Err(error) => {
                tracing::warn!("DTLS is off: {error}");
                None
            }
        }
    }

    /// The server's side of a session that is about to begin.
    pub(crate) fn begin(&self, now: Instant) -> Dtls {
        Dtls::new_12(Arc::clone(&self.config), self.certificate.clone(), now)
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").finish_non_exhaustive()
    }
}

/// While `work` runs, the library takes `cookie` for the one that it gave out.
pub(crate) fn expect_cookie<T>(cookie: Cookie, work: impl FnOnce() -> T) -> T {
    EXPECTED.set(Some(cookie));
    let done = work();
    EXPECTED.set(None);
    done
}

thread_local! {
    static EXPECTED: Cell<Option<Cookie>> = const { Cell::new(None) };
}

/// The library computes its cookie, and in DTLS 1.2 nothing else, with `hmac_sha256`; here that is ours, which was verified
/// before the library saw it. All else is the library's own.
#[derive(Debug)]
struct CookiesOfOurs;

impl HmacProvider for CookiesOfOurs {
    fn hmac_sha256(&self, key: &[u8], data: &[u8]) -> Result<[u8; 32], CryptoError> {
        if let Some(cookie) = EXPECTED.get() {
            return Ok(cookie);
        }
        aws_lc_rs::default_provider().hmac_provider.hmac_sha256(key, data)
    }

    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        aws_lc_rs::default_provider().hmac_provider.hmac(hash, key, data, out)
    }
}

/// Datagrams that one turn of work may leave to be sent; the session's own bound ([`super::MAX_UNSENT`]) is lower.
pub(super) const MAX_QUEUED_DATAGRAMS: usize = 64;
