//! Certificates from an authority that speaks ACME (RFC 8555), which proves the server's names on its own listener (TLS-ALPN-01, RFC 8737).
//!
//! ```text
//! cache --certificate--> resolver <--challenge, certificate-- order <--> authority
//!                           ^ handshake of a client, or of the authority
//! ```
//!
//! `rustls-acme` does it: it takes a certificate from the cache as long as that is good, orders another when two thirds of its time
//! are over, and after a failure again with growing pauses (1 s to 18 h). Without a certificate handshakes fail and all else goes on.
//! It sets no deadline for an answer of the authority: one that takes a request and never answers it delays the order until a restart.

use std::{io, sync::Arc};

use futures_util::StreamExt as _;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider, server::ResolvesServerCert};
use rustls_acme::{AcmeConfig, Event, EventOk, caches::DirCache};
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
    let contact = rules.contact.iter().map(|address| format!("mailto:{address}"));
    let mut orders = AcmeConfig::new_with_client_config(&rules.domains, Arc::new(client()?))
        .contact(contact)
        .directory(&rules.directory)
        .cache(DirCache::new(rules.cache.clone()))
        .state();
    let resolver = orders.resolver();
    let renewal = async move {
        let mut before = false;
        while let Some(event) = orders.next().await {
            note(&metrics, event, &mut before);
        }
    };
    Ok((resolver, renewal))
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
            *before = true;
            info!("the certificate is the one that was kept");
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
