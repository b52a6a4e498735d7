//! Certificates from an authority that speaks ACME (RFC 8555), which proves the server's names on its own listener (TLS-ALPN-01, RFC 8737).
//!
//! ```text
//! cache --certificate--> resolver <--challenge, certificate-- order <--> authority
//!                           ^ handshake of a client, or of the authority
//! ```
//!
//! `rustls-acme` does it: it takes a certificate from the cache as long as that is good, orders another when two thirds of its time
//! are over, and after a failure again with growing pauses (1 s to 18 h). Without a certificate handshakes fail and all else goes on.
//! It waits for an authority's answer without a deadline, so it is begun anew once it was silent for longer than any of its pauses.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_acme::{
    AcmeConfig, AcmeState, Event, EventError, EventOk, ResolvesServerCertAcme, caches::DirCache,
    is_tls_alpn_challenge,
};
use tokio::time::timeout;
use tracing::{debug, info, warn};
use turn_relay::operation::StartError;

use crate::{config::AcmeRules, metrics::Metrics};

/// Name of the protocol in which the authority asks for its proof.
pub(crate) const CHALLENGE: &[u8] = b"acme-tls/1";

/// What handshakes are answered with, and what keeps it good, for as long as it is polled.
///
/// # Errors
/// One line: the folder cannot be used, or the system has no certificates to verify the authority with.
pub(crate) fn open(
    rules: &AcmeRules,
    metrics: Arc<Metrics>,
) -> Result<(Arc<dyn ResolvesServerCert>, impl Future<Output = ()> + Send + 'static), StartError> {
    rules.prepare()?;
    let asking = Asking { rules: rules.clone(), client: Arc::new(client()?) };
    let (certificates, renewal) = asking.keep_good(metrics, SILENCE);
    Ok((certificates, renewal))
}

/// Whom to ask for what.
struct Asking {
    rules: AcmeRules,
    client: Arc<ClientConfig>,
}

impl Asking {
    /// What handshakes are answered with, and what keeps it good; that is begun anew whenever nothing was heard of it for so long.
    fn keep_good(
        self,
        metrics: Arc<Metrics>,
        silence: Duration,
    ) -> (Arc<Certificates>, impl Future<Output = ()> + Send + 'static) {
        let mut orders = self.begin();
        let certificates = Arc::new(Certificates::of(orders.resolver()));
        let shown = Arc::clone(&certificates);
        let renewal = async move {
            let (mut before, mut kept) = (false, true);
            loop {
                match timeout(silence, orders.next()).await {
                    Ok(Some(event)) => {
                        match event {
                            Ok(EventOk::CertCacheStore) => kept = true,
                            Err(EventError::CertCacheStore(_)) => kept = false,
                            Ok(_) | Err(_) => {}
                        }
                        if matches!(event, Ok(EventOk::DeployedCachedCert | EventOk::DeployedNewCert)) {
                            shown.latest.store(orders.resolver());
                        }
                        note(&metrics, event, &mut before);
                    }
                    Ok(None) => break,
                    // The certificate is nowhere else: what the folder holds is older.
                    Err(_elapsed) if !kept => {}
                    Err(_elapsed) => {
                        orders = self.begin();
                        shown.asking.store(orders.resolver());
                    }
                }
            }
        };
        (certificates, renewal)
    }

    fn begin(&self) -> AcmeState<io::Error> {
        let Self { rules, client } = self;
        let contact = rules.contact.iter().map(|address| format!("mailto:{address}"));
        AcmeConfig::new_with_client_config(&rules.domains, Arc::clone(client))
            .contact(contact)
            .directory(&rules.directory)
            .cache(DirCache::new(rules.cache.clone()))
            .state()
    }
}

/// What is shown in handshakes.
#[derive(Debug)]
struct Certificates {
    /// To the authority, as proof.
    asking: ArcSwap<ResolvesServerCertAcme>,
    /// To clients: of who had a certificate last.
    latest: ArcSwap<ResolvesServerCertAcme>,
}

impl Certificates {
    fn of(first: Arc<ResolvesServerCertAcme>) -> Self {
        Self { asking: ArcSwap::new(Arc::clone(&first)), latest: ArcSwap::new(first) }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let whose = if is_tls_alpn_challenge(&hello) { &self.asking } else { &self.latest };
        whose.load().resolve(hello)
    }
}

/// For the requests to the authority.
fn client() -> Result<ClientConfig, StartError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(StartError::new(
            "acme_domain: the system has no certificates to verify the authority with (Debian: ca-certificates)",
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::new(format!("acme_domain: {error}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// `before` tells whether there has been a certificate before this.
fn note(metrics: &Metrics, event: Event<io::Error, io::Error>, before: &mut bool) {
    match event {
        Ok(EventOk::DeployedCachedCert) => {
            if !std::mem::replace(before, true) {
                info!("the certificate is the one that was kept");
            }
        }
        Ok(EventOk::DeployedNewCert) => {
            let outcome = if std::mem::replace(before, true) { "renewed" } else { "obtained" };
            metrics.ordered(outcome);
            info!("the certificate was {outcome}");
        }
        Ok(EventOk::CertCacheStore | EventOk::AccountCacheStore) => debug!("acme_cache was written"),
        Err(error) => {
            metrics.ordered("failed");
            let what = if *before { "the certificate stays as it is" } else { "there is no certificate yet" };
            warn!("{what}, another attempt follows: {}", one_line(&error.to_string()));
        }
    }
}

/// What an authority says may be long.
fn one_line(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(MAX_REASON).collect()
}

const MAX_REASON: usize = 400;
/// A pause is at most 2^16 s, some 18 hours. Only who waits for the end of a certificate's time is silent for longer, and that goes on from the folder.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests;
