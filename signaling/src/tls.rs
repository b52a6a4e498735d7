//! HTTPS for the listener: a certificate from files, or one made at start for a second device on the same desk.
//!
//! Browsers hand out camera and microphone only in a secure context, and `http://192.168.x.y` is none. The
//! certificate made here is trusted by nobody: the browser warns once, and the printed fingerprint is what a
//! careful person compares. It lives as long as the process.
//! One from files is exchanged while the server runs. TLS 1.2 and 1.3.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    pki_types::PrivatePkcs8KeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use turn_relay::operation::certificate::{self, CertificateError};

use crate::{acme::CHALLENGE, transport::http2};

/// Why there is no usable certificate; each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// The files are no use.
    #[error(transparent)]
    Files(#[from] CertificateError),
    /// The TLS library refuses what it was given.
    #[error("cannot be used: {0}")]
    Unusable(String),
    /// The certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    NotMade(String),
}

/// A certificate chain with its key, ready to serve.
pub(crate) struct Certificate {
    certified: Arc<CertifiedKey>,
    /// SHA-256 of the leaf certificate, as browsers show it: `AB:CD:..`.
    pub(crate) fingerprint: String,
}

/// What new connections are shown; a connection keeps what it began with.
pub(crate) struct ServedCertificate(ArcSwap<Certificate>);

impl ServedCertificate {
    pub(crate) fn new(certificate: Certificate) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// Serves another one from the next connection on; false if it is the same.
    pub(crate) fn exchange(&self, certificate: Certificate) -> bool {
        let former = self.0.swap(Arc::new(certificate));
        former.fingerprint != self.0.load().fingerprint
    }
}

/// For `tokio_rustls::TlsAcceptor`; with HTTP/2 before HTTP/1.1, or without. Behind both the challenges of ACME: they are no
/// protocol that anything but a proof is asked for in.
pub(crate) fn config(
    certificates: Arc<dyn ResolvesServerCert>,
    http2: bool,
    acme: bool,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Unusable(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    let offered = [(http2, http2::ALPN), (true, b"http/1.1"), (acme, CHALLENGE)];
    config.alpn_protocols =
        offered.into_iter().filter(|(offered, _)| *offered).map(|(_, name)| name.to_vec()).collect();
    Ok(config)
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }
}

impl fmt::Debug for ServedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServedCertificate").field(&self.0.load().fingerprint).finish()
    }
}

/// Loads a PEM certificate chain and its PEM key (PKCS#8, PKCS#1 or SEC1).
pub(crate) fn load(cert: &Path, key: &Path) -> Result<Certificate, TlsError> {
    Ok(ready(&certificate::Identity::from_files(cert, key)?))
}

/// Makes a certificate for `localhost` and the given addresses.
pub(crate) fn self_signed(addresses: &[IpAddr]) -> Result<Certificate, TlsError> {
    let names = std::iter::once("localhost".to_owned()).chain(addresses.iter().map(IpAddr::to_string));
    let made = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>())
        .map_err(|e| TlsError::NotMade(e.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    certificate::Identity::new(vec![made.cert.der().clone()], key.into())
        .map(|identity| ready(&identity))
        .map_err(|e| TlsError::NotMade(e.to_string()))
}

fn ready(identity: &certificate::Identity) -> Certificate {
    let fingerprint = identity.chain().first().map(|leaf| fingerprint(leaf)).unwrap_or_default();
    Certificate { certified: Arc::clone(identity.certified()), fingerprint }
}

fn fingerprint(leaf: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in Sha256::digest(leaf).iter().enumerate() {
        let _ = write!(text, "{}{byte:02X}", if at == 0 { "" } else { ":" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_the_fingerprint_of_their_leaf_are_served() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        let dir = tempfile::tempdir().expect("a directory");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).expect("writes");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
        assert_eq!(load(&cert, &key).expect("usable").fingerprint.len(), 32 * 3 - 1);
        // What is wrong with files is the relay's to say (`operation::certificate`); here it must not get lost.
        let error = load(&key, &cert).err().expect("refused").to_string();
        assert!(error.contains("key.pem holds no certificate"), "{error}");
    }

    #[test]
    fn a_certificate_can_be_made_for_addresses() {
        assert!(
            self_signed(&["192.0.2.7".parse().expect("an address"), "::1".parse().expect("an address")])
                .is_ok()
        );
    }
}
