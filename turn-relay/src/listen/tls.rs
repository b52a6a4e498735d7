//! What TLS clients are shown: certificates by name and key type, ALPN, session tickets; swapped as a whole at run time.
//!
//! TLS 1.2 and 1.3 without client certificates, early data or renegotiation (rustls has no renegotiation at all). A
//! connection keeps what it began with; the next one gets what is current.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::ServerName;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};

use super::dtls::offer::Offer;
use crate::operation::StartError;
use crate::operation::certificate::Identity;

/// RFC 7443 section 4. A client that offers protocols and neither of these is refused (RFC 7301 section 3.2): it takes this
/// for another server, or somebody wants it to. One that offers nothing is served.
pub(crate) const ALPN: [&[u8]; 2] = [b"stun.turn", b"stun.nat-discovery"];

/// What one set of certificates is good for.
pub(crate) struct Served {
    tls: Arc<ServerConfig>,
    /// Not with every kind of key.
    dtls: Option<Arc<Offer>>,
}

/// What new TLS connections and DTLS sessions of all workers are served with.
pub(crate) struct Certificates {
    current: ArcSwapOption<Served>,
    /// Outlives a change of certificates, so that clients resume; its keys change every six hours by themselves.
    tickets: Arc<dyn ProducesTickets>,
}

impl Certificates {
    /// Serves `identities`; none means that TLS is off.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn new(identities: &[Arc<Identity>]) -> Result<Self, StartError> {
        let refused = |error: rustls::Error| StartError::new(format!("cannot start TLS: {error}"));
        let certificates =
            Self { current: ArcSwapOption::empty(), tickets: Ticketer::new().map_err(refused)? };
        certificates.install(certificates.prepare(identities)?);
        Ok(certificates)
    }

    /// What [`Certificates::install`] takes: none turns TLS off.
    ///
    /// # Errors
    /// One line, when the TLS library refuses.
    pub(crate) fn prepare(&self, identities: &[Arc<Identity>]) -> Result<Option<Arc<Served>>, StartError> {
        if identities.is_empty() {
            return Ok(None);
        }
        let refused =
            |error: rustls::Error| StartError::new(format!("cannot serve the certificates: {error}"));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ByNameAndKey::new(identities)));
        config.alpn_protocols = ALPN.iter().map(|protocol| protocol.to_vec()).collect();
        // The state of a session is with the client, sealed; none of it is kept here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.tickets);
        config.send_tls13_tickets = 1;
        let dtls = Offer::of(identities).map(Arc::new);
        if dtls.is_none() {
            tracing::warn!(
                "DTLS is off: it needs a certificate with an ECDSA key on P-256 or P-384 (TLS is on)"
            );
        }
        Ok(Some(Arc::new(Served { tls: Arc::new(config), dtls })))
    }

    /// Serves what was prepared, from the next connection on.
    pub(crate) fn install(&self, prepared: Option<Arc<Served>>) {
        self.current.store(prepared);
    }

    /// What a TLS connection that begins now is served with; `None` while TLS is off.
    pub(crate) fn current(&self) -> Option<Arc<ServerConfig>> {
        self.current.load().as_ref().map(|served| Arc::clone(&served.tls))
    }

    /// What a DTLS session that begins now is offered; `None` while DTLS is off.
    pub(crate) fn dtls(&self) -> Option<Arc<Offer>> {
        self.current.load().as_ref().and_then(|served| served.dtls.clone())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// The first certificate that has the name which the client asks for and a key that it can verify; without such a one, the
/// first whose key it can verify.
#[derive(Debug)]
struct ByNameAndKey(Vec<Arc<CertifiedKey>>);

impl ByNameAndKey {
    fn new(identities: &[Arc<Identity>]) -> Self {
        Self(identities.iter().map(|identity| Arc::clone(identity.certified())).collect())
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| usable().find(|key| is_for(key, &name)));
        named.or_else(|| usable().next()).map(Arc::clone)
    }
}

impl ResolvesServerCert for ByNameAndKey {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = key.end_entity_cert().and_then(ParsedCertificate::try_from);
    leaf.is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm};
    use rustls::pki_types::PrivatePkcs8KeyDer;

    use super::*;

    fn identity(name: &str, algorithm: &'static SignatureAlgorithm) -> Arc<Identity> {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let cert = params.self_signed(&key).expect("signed");
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Arc::new(Identity::new(vec![cert.der().clone()], key.into()).expect("a pair"))
    }

    #[test]
    fn the_certificate_of_the_name_is_chosen_and_otherwise_the_first_that_the_client_can_verify() {
        let identities = [
            identity("one.example", &PKCS_ED25519),
            identity("*.two.example", &PKCS_ECDSA_P256_SHA256),
            identity("one.example", &PKCS_ECDSA_P256_SHA256),
        ];
        let resolver = ByNameAndKey::new(&identities);
        let chosen = |name, schemes: &[SignatureScheme]| {
            let key = resolver.choose(name, schemes)?;
            identities.iter().position(|identity| Arc::ptr_eq(identity.certified(), &key))
        };
        let (ed, ec) = (SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256);
        assert_eq!(chosen(Some("one.example"), &[ec, ed]), Some(0));
        assert_eq!(chosen(Some("one.example"), &[ec]), Some(2));
        assert_eq!(chosen(Some("turn.two.example"), &[ec, ed]), Some(1));
        assert_eq!(chosen(Some("elsewhere.example"), &[ec]), Some(1));
        assert_eq!(chosen(None, &[ec, ed]), Some(0));
        assert_eq!(chosen(None, &[SignatureScheme::RSA_PSS_SHA256]), None);
    }

    #[test]
    fn installing_nothing_turns_tls_off() {
        let certificates = Certificates::new(&[]).expect("randomness");
        assert!(certificates.current().is_none());
        let install = |identities: &[Arc<Identity>]| {
            certificates.install(certificates.prepare(identities).expect("good ones"));
        };
        install(&[identity("a.example", &PKCS_ED25519)]);
        let first = certificates.current().expect("on");
        install(&[identity("a.example", &PKCS_ED25519)]);
        assert!(!Arc::ptr_eq(&first, &certificates.current().expect("on")));
        install(&[]);
        assert!(certificates.current().is_none());
    }
}
