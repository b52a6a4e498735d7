//! A certificate that a server shows, and clients that trust it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

/// Files that last as long as this, and what clients need to know of them.
#[derive(Clone, Debug)]
pub struct Certificate {
    folder: Arc<tempfile::TempDir>,
    /// Trusts this certificate alone, and resumes nothing: what a server does for newcomers is measured.
    pub trust: Arc<rustls::ClientConfig>,
}

impl Certificate {
    /// One for a name or an address.
    ///
    /// # Errors
    /// There is no room for its files.
    pub fn new(name: &str) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem())?;
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut trust = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Tickets of thousands of clients would be memory of the load, too.
        trust.resumption = rustls::client::Resumption::disabled();
        Ok(Self { folder: Arc::new(folder), trust: Arc::new(trust) })
    }

    /// In PEM form.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The private key, in PEM form.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
