//! Certificates from PEM files: a chain and the private key that belongs to it.
//!
//! Everything that can be wrong with the two files is said here, in one line. Knows nothing of names, clocks and trust:
//! an expired certificate loads, since a clock that is wrong must not keep a relay from starting.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Why there is no usable certificate; each text is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
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
}

/// A certificate chain, leaf first, and its key.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Loads a PEM certificate chain and its PEM key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    /// One line that names the file.
    pub fn from_files(cert: &Path, key: &Path) -> Result<Self, CertificateError> {
        let shown = |path: &Path| path.display().to_string();
        let unreadable = |what, path: &Path, reason: PemError| {
            if matches!(reason, PemError::NoItemsFound) {
                return CertificateError::Missing { what, path: shown(path) };
            }
            CertificateError::Unreadable { what, path: shown(path), reason: reason.to_string() }
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable("certificate", cert, error))?;
        if chain.is_empty() {
            return Err(CertificateError::Missing { what: "certificate", path: shown(cert) });
        }
        let secret =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("private key", key, error))?;
        Self::new(chain, secret).map_err(|error| CertificateError::Unusable {
            cert: shown(cert),
            key: shown(key),
            reason: error.to_string(),
        })
    }

    /// A chain, leaf first, with the leaf's key.
    ///
    /// # Errors
    /// When the key is of an unknown kind or another certificate's.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let certified = CertifiedKey::from_der(chain, key.clone_key(), &default_provider())?;
        // `from_der` lets a leaf pass that it could not compare; what is no certificate must not.
        certified.end_entity_cert().and_then(rustls::server::ParsedCertificate::try_from)?;
        Ok(Self { certified: Arc::new(certified), key })
    }

    /// For the TLS library.
    #[must_use]
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The chain, leaf first; never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The leaf's private key.
    #[must_use]
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.chain() == other.chain() && self.key == other.key
    }
}

impl fmt::Debug for Identity {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_in_result, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;

    fn pem_pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load(cert: &str, key: &str) -> Result<Identity, CertificateError> {
        let dir = tempfile::tempdir().expect("a directory");
        let paths = [("cert.pem", cert), ("key.pem", key)].map(|(name, text)| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        });
        Identity::from_files(&paths[0], &paths[1])
    }

    fn refusal(cert: &str, key: &str) -> String {
        load(cert, key).expect_err("refused").to_string()
    }

    #[test]
    fn a_matching_pair_loads_with_its_whole_chain() {
        let (cert, key) = pem_pair();
        let issuer = pem_pair().0;
        assert_eq!(load(&(cert + &issuer), &key).expect("usable").chain().len(), 2);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let error = refusal(&pem_pair().0, &pem_pair().1);
        assert!(error.contains("cannot be used with the key"), "{error}");
    }

    #[test]
    fn swapped_empty_and_absent_files_name_what_is_missing() {
        let (cert, key) = pem_pair();
        let error = refusal(&key, &cert);
        assert!(error.contains("cert.pem holds no certificate"), "{error}");
        let error = refusal(&cert, "");
        assert!(error.contains("key.pem holds no private key"), "{error}");
        let gone = Identity::from_files(Path::new("/nowhere/cert.pem"), Path::new("/nowhere/key.pem"));
        let error = gone.expect_err("refused").to_string();
        assert!(error.contains("cannot read certificate /nowhere/cert.pem"), "{error}");
    }

    #[test]
    fn pem_around_something_else_is_refused() {
        let (_, key) = pem_pair();
        let error = refusal("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key);
        assert!(error.contains("cannot be used"), "{error}");
    }
}
