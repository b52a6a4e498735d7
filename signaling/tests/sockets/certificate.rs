//! A server with a certificate of its own, and clients that trust it.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use signaling::Config;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Of `localhost`. Its files last as long as this.
pub(super) struct Certificate {
    der: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

impl Certificate {
    pub(super) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self { der: made.cert.der().clone(), folder }
    }

    /// The flags of a server that shows it.
    pub(super) fn flags(&self) -> [String; 4] {
        let path = |name| self.folder.path().join(name).to_str().expect("UTF-8").to_owned();
        ["--tls-cert".into(), path("cert.pem"), "--tls-key".into(), path("key.pem")]
    }

    /// The configuration of a server that shows it.
    pub(super) fn served_by(&self, config: Config) -> Config {
        let path = |name| Some(self.folder.path().join(name));
        Config { tls_cert: path("cert.pem"), tls_key: path("key.pem"), ..config }
    }

    /// TLS over a connection to such a server, for one of these protocols. `None`: it is closed instead.
    pub(super) async fn secure(&self, tcp: TcpStream, alpn: &[&str]) -> Option<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(client)).connect(name, tcp).await.ok()
    }
}
