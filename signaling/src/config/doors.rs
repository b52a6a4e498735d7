//! Where the server listens, how that is secured, and whom it believes about the addresses of clients.

use std::{net::SocketAddr, path::PathBuf};

use turn_relay::{config::networks, operation::StartError};

use super::{
    Config,
    acme::{self, AcmeRules},
};
use crate::{
    origin::Origin,
    transport::forwarded::{ForwardedHeader, Forwarding},
};

/// How the listener is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tls {
    /// Plain HTTP: enough for this machine, or behind a proxy that speaks TLS.
    Off,
    /// A certificate made at start.
    SelfSigned,
    /// A certificate from files.
    Files { cert: PathBuf, key: PathBuf },
    /// Certificates of an authority that is asked for them.
    Acme(AcmeRules),
}

pub(super) fn address(key: &str, text: &str) -> Result<SocketAddr, StartError> {
    text.parse().map_err(|_| {
        StartError::new(format!(
            "{key}: {text:?} is not an address; write IP:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080"
        ))
    })
}

pub(super) fn origin(key: &str, text: &str) -> Result<Origin, StartError> {
    text.parse().map_err(|why| StartError::new(format!("{key}: {text:?} is no origin: {why}")))
}

pub(super) fn forwarding(config: &Config) -> Result<Forwarding, StartError> {
    let proxies = networks("forwarded_from", &config.forwarded_from)?;
    let header = match config.forwarded_header.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("x-forwarded-for") => ForwardedHeader::XForwardedFor,
        Some("forwarded") => ForwardedHeader::Forwarded,
        Some(other) => {
            return Err(StartError::new(format!(
                "forwarded_header: {other:?} is not known; write x-forwarded-for or forwarded"
            )));
        }
    };
    if config.forwarded_header.is_some() && proxies.is_empty() {
        return Err(StartError::new(
            "forwarded_header: nobody is believed without forwarded_from; name the proxies",
        ));
    }
    Ok(Forwarding { proxies, header })
}

pub(super) fn http2(config: &Config) -> Result<bool, StartError> {
    let wanted = config.http2.unwrap_or(false);
    let secured = config.tls.is_some() || config.tls_cert.is_some() || !config.acme_domain.is_empty();
    if wanted && !secured {
        return Err(StartError::new(
            "http2: clients find it in the TLS handshake; give tls, or tls_cert and tls_key, or acme_domain",
        ));
    }
    Ok(wanted)
}

pub(super) fn security(config: &Config, public: Option<&Origin>) -> Result<Tls, StartError> {
    if let Some(rules) = acme::rules(config, public)? {
        return Ok(Tls::Acme(rules));
    }
    match (config.tls.as_deref(), &config.tls_cert, &config.tls_key) {
        (None, None, None) => Ok(Tls::Off),
        (Some("self-signed"), None, None) => Ok(Tls::SelfSigned),
        (None, Some(cert), Some(key)) => Ok(Tls::Files { cert: cert.clone(), key: key.clone() }),
        (Some("self-signed"), _, _) => {
            Err(StartError::new("tls: give either --tls self-signed or --tls-cert with --tls-key, not both"))
        }
        (Some(other), _, _) => Err(StartError::new(format!(
            "tls: {other:?} is not known; write self-signed, or use --tls-cert and --tls-key"
        ))),
        (None, _, _) => Err(StartError::new("tls_cert and tls_key: one needs the other; give both files")),
    }
}
