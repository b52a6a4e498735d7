use std::{fs, path::Path, time::SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, ServerName},
};
use rustls_acme::CertCache as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const NAME: &str = "call.example.test";

#[tokio::test]
async fn an_authority_that_does_not_answer_is_asked_again_and_clients_get_the_old_certificate_meanwhile() {
    let authority = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let folder = tempfile::tempdir().expect("a folder");
    let directory = format!("https://{}/", authority.local_addr().expect("bound"));
    let rules = AcmeRules {
        domains: vec![NAME.to_owned()],
        contact: None,
        directory: directory.parse().expect("a URL"),
        cache: folder.path().to_owned(),
    };
    let (key, root) = due();
    DirCache::new(folder.path())
        .store_cert(&rules.domains, rules.directory.as_str(), key.as_bytes())
        .await
        .expect("kept");
    let client = config(&root);
    let asking = Asking { rules, client: Arc::clone(&client) };
    let (certificates, renewal) = asking.keep_good(Arc::default(), Duration::from_millis(50));
    tokio::spawn(renewal);

    let mut unanswered = Vec::new();
    for _ in 0..4 {
        let asked = timeout(PATIENCE, authority.accept()).await.expect("it is asked");
        unanswered.push(asked.expect("accepts"));
        shake_hands(&certificates, &client).await;
        // Who is begun anew has none.
        empty(folder.path());
    }
}

/// A certificate of which more than two thirds are over, with its key before it, and what it leads to.
fn due() -> (String, CertificateDer<'static>) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([NAME.to_owned()]).expect("a name");
    params.not_before = (SystemTime::now() - 80 * DAY).into();
    params.not_after = (SystemTime::now() + 10 * DAY).into();
    let certificate = params.self_signed(&key).expect("signed");
    (key.serialize_pem() + &certificate.pem(), certificate.der().clone())
}

fn config(root: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

async fn shake_hands(certificates: &Arc<Certificates>, client: &Arc<ClientConfig>) {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (accepted, _) = listener.accept().await.expect("accepts");
    let name = ServerName::try_from(NAME).expect("a name");
    let (served, connected) = tokio::join!(
        TlsAcceptor::from(Arc::new(config)).accept(accepted),
        TlsConnector::from(Arc::clone(client)).connect(name, stream)
    );
    connected.expect("the certificate is shown");
    served.expect("it is taken");
}

fn empty(folder: &Path) {
    for file in fs::read_dir(folder).expect("read") {
        fs::remove_file(file.expect("read").path()).expect("removed");
    }
}

const PATIENCE: Duration = Duration::from_secs(20);
