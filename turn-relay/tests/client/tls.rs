//! One certificate for all tests of a binary, in files as an operator has it, and clients that trust nothing else.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

/// PEM files of a certificate for `localhost` and the loopback addresses.
pub(crate) struct Files {
    _dir: TempDir,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    leaf: CertificateDer<'static>,
    key_der: Vec<u8>,
}

/// The certificate that relays of these tests serve.
pub(crate) static SERVED: LazyLock<Files> = LazyLock::new(Files::generate);

impl Files {
    pub(crate) fn generate() -> Self {
        let names = ["localhost", "127.0.0.1", "127.0.0.21", "127.0.0.22", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self {
            _dir: dir,
            cert,
            key,
            leaf: made.cert.der().clone(),
            key_der: made.signing_key.serialize_der(),
        }
    }

    /// A client that trusts this certificate alone, and offers these protocols.
    pub(crate) fn client(&self, alpn: &[&[u8]]) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    pub(crate) fn leaf(&self) -> &CertificateDer<'static> {
        &self.leaf
    }

    pub(crate) fn key_der(&self) -> Vec<u8> {
        self.key_der.clone()
    }

    /// This certificate alone.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.leaf.clone()).unwrap();
        roots
    }
}
