//! HTTPS for the listener: a certificate from files, or one made at start for a second device on the same desk.
//!
//! Browsers hand out camera and microphone only in a secure context, and `http://192.168.x.y` is none. The
//! certificate made here is trusted by nobody: the browser warns once, and the printed fingerprint is what a
//! careful person compares. It lives as long as the process. HTTP/1.1 only; TLS 1.2 and 1.3.

use std::{fmt::Write as _, net::IpAddr, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        pem::{Error as PemError, PemObject},
    },
};
use sha2::{Digest, Sha256};

/// Why there is no usable certificate; each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {what} {path}: {reason}")]
    Unreadable {
        /// Which of the two files.
        what: &'static str,
        /// Its path as given.
        path: String,
        /// What the system or the parser said.
        reason: String,
    },
    /// A file without the object that it should hold.
    #[error("{path} holds no {what} in PEM form")]
    Missing {
        /// Which object was looked for.
        what: &'static str,
        /// The file's path as given.
        path: String,
    },
    /// The two files do not belong together, or are of a kind that cannot be used.
    #[error("the certificate in {cert} cannot be used with the key in {key}: {reason}")]
    Unusable {
        /// The certificate's path as given.
        cert: String,
        /// The key's path as given.
        key: String,
        /// What the TLS library said.
        reason: String,
    },
    /// The certificate could not be made.
    #[error("cannot make a self-signed certificate: {0}")]
    NotMade(String),
}

/// A certificate chain with its key, ready to serve.
pub(crate) struct Identity {
    /// For `tokio_rustls::TlsAcceptor`.
    pub(crate) config: Arc<ServerConfig>,
    /// SHA-256 of the leaf certificate, as browsers show it: `AB:CD:..`.
    pub(crate) fingerprint: String,
}

/// Loads a PEM certificate chain and its PEM key (PKCS#8, PKCS#1 or SEC1).
pub(crate) fn from_files(cert: &Path, key: &Path) -> Result<Identity, TlsError> {
    let shown = |path: &Path| path.display().to_string();
    let unreadable = |what, path: &Path, reason: PemError| {
        if matches!(reason, PemError::NoItemsFound) {
            return TlsError::Missing { what, path: shown(path) };
        }
        TlsError::Unreadable { what, path: shown(path), reason: reason.to_string() }
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable("certificate", cert, e))?;
    if chain.is_empty() {
        return Err(TlsError::Missing { what: "certificate", path: shown(cert) });
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("private key", key, e))?;
    build(chain, secret).map_err(|e| TlsError::Unusable {
        cert: shown(cert),
        key: shown(key),
        reason: e.to_string(),
    })
}

/// Makes a certificate for `localhost` and the given addresses.
pub(crate) fn self_signed(addresses: &[IpAddr]) -> Result<Identity, TlsError> {
    let names = std::iter::once("localhost".to_owned()).chain(addresses.iter().map(IpAddr::to_string));
    let made = rcgen::generate_simple_self_signed(names.collect::<Vec<_>>())
        .map_err(|e| TlsError::NotMade(e.to_string()))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    build(vec![made.cert.der().clone()], key.into()).map_err(|e| TlsError::NotMade(e.to_string()))
}

fn build(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Identity, rustls::Error> {
    let fingerprint = chain.first().map(|leaf| fingerprint(leaf)).unwrap_or_default();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Identity { config: Arc::new(config), fingerprint })
}

fn fingerprint(leaf: &[u8]) -> String {
    let mut text = String::new();
    for (at, byte) in Sha256::digest(leaf).iter().enumerate() {
        let _ = write!(text, "{}{byte:02X}", if at == 0 { "" } else { ":" });
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_in_result, reason = "a helper of tests panics where a test would")]
mod tests {
    use super::*;

    fn pem_pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load(cert: &str, key: &str) -> Result<Identity, TlsError> {
        let dir = tempfile::tempdir().unwrap();
        let paths = [("cert.pem", cert), ("key.pem", key)].map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        });
        from_files(&paths[0], &paths[1])
    }

    #[test]
    fn a_matching_pair_loads() {
        let (cert, key) = pem_pair();
        let identity = load(&cert, &key).expect("usable");
        assert_eq!(identity.fingerprint.len(), 32 * 3 - 1);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_at_start() {
        let error = load(&pem_pair().0, &pem_pair().1).err().expect("refused").to_string();
        assert!(error.contains("cannot be used with the key"), "{error}");
    }

    #[test]
    fn swapped_and_empty_files_name_what_is_missing() {
        let (cert, key) = pem_pair();
        let error = load(&key, &cert).err().expect("refused").to_string();
        assert!(error.contains("cert.pem holds no certificate"), "{error}");
        let error = load(&cert, "").err().expect("refused").to_string();
        assert!(error.contains("key.pem holds no private key"), "{error}");
    }

    #[test]
    fn a_certificate_can_be_made_for_addresses() {
        assert!(
            self_signed(&["192.0.2.7".parse().expect("an address"), "::1".parse().expect("an address")])
                .is_ok()
        );
    }
}
