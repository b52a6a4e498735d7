//! The ICE servers that a session is given, and the credentials in them.
//!
//! Credentials are ephemeral (`turn_relay::credentials`): bound to one session, worth nothing after their
//! expiry. The secret they are derived from never leaves this process.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use signaling_protocol::{IceServer, IceServers};
use turn_relay::credentials::{self, Secret};

use crate::origin::{Host, parse_authority};

/// Issues the ICE servers of a session.
pub(crate) struct IceIssuer(ArcSwap<Terms>);

/// What credentials are made for.
struct Terms {
    relay: Arc<Relay>,
    lifetime: Duration,
}

/// Where the relay is that sessions are sent to.
pub(crate) enum Relay {
    /// There is none: host candidates only.
    None,
    /// One or more servers of somebody's, as their URLs were configured.
    External {
        /// `stun:`, `turn:` and `turns:` URLs.
        urls: Vec<String>,
        /// Shared with those servers.
        secret: Secret,
    },
    /// The relay in this process.
    Embedded {
        /// Where it listens, UDP and TCP alike.
        ip: IpAddr,
        /// See `ip`.
        port: u16,
        /// The host of the public address, where one is configured.
        public: Option<Host>,
        /// Made at start, known to this process alone.
        secret: Secret,
    },
}

impl IceIssuer {
    /// Credentials will hold for `lifetime`.
    pub(crate) fn new(relay: Relay, lifetime: Duration) -> Self {
        Self(ArcSwap::from_pointee(Terms { relay: Arc::new(relay), lifetime }))
    }

    /// Issues for another relay, if one is given, and another time from now on. What was issued before holds as long as it held.
    pub(crate) fn change(&self, relay: Option<Relay>, lifetime: Duration) {
        let relay = relay.map_or_else(|| self.0.load().relay.clone(), Arc::new);
        self.0.store(Arc::new(Terms { relay, lifetime }));
    }

    /// Whether clients are sent to this URL of somebody's server: only then is it not a client's invention.
    pub(crate) fn names(&self, url: &str) -> bool {
        matches!(&*self.0.load().relay, Relay::External { urls, .. } if urls.iter().any(|known| known == url))
    }

    /// The servers for one session; without `turn`, those that need no credentials. `host` is how its client reached us: an
    /// embedded relay is named the same way.
    pub(crate) fn issue(&self, now: SystemTime, host: &Host, id: &str, turn: bool) -> IceServers {
        let terms = self.0.load();
        let (stun, relays, secret) = match &*terms.relay {
            Relay::None => return IceServers::default(),
            Relay::External { urls, secret } => {
                let (relays, stun) = urls.iter().cloned().partition(|url| !url.starts_with("stun"));
                (stun, relays, secret)
            }
            Relay::Embedded { ip, port, public, secret } => {
                let name = embedded_host(*ip, public.as_ref(), host);
                let relays =
                    ["udp", "tcp"].map(|transport| format!("turn:{name}:{port}?transport={transport}"));
                (vec![format!("stun:{name}:{port}")], relays.to_vec(), secret)
            }
        };
        let open = IceServer { urls: stun, username: None, credential: None };
        if !turn {
            let servers = [open].into_iter().filter(|server| !server.urls.is_empty()).collect();
            return IceServers { servers, expires_in: None };
        }
        let credential = credentials::mint(secret, id, now + terms.lifetime);
        let relays = IceServer {
            urls: relays,
            username: Some(credential.username),
            credential: Some(credential.password),
        };
        IceServers {
            servers: [open, relays].into_iter().filter(|server| !server.urls.is_empty()).collect(),
            expires_in: Some(terms.lifetime),
        }
    }
}

/// The public host if there is one; else the one address on which the relay listens; else what the client used.
/// `localhost` is spelled as an address, since the relay listens on one of its two only.
fn embedded_host(ip: IpAddr, public: Option<&Host>, used: &Host) -> String {
    match public {
        Some(public) => public.to_string(),
        None if !ip.is_unspecified() => Host::Ip(ip).to_string(),
        None if used.is_loopback_name() => "127.0.0.1".to_owned(),
        None => used.to_string(),
    }
}

/// Whether a text is a `stun:`, `turn:` or `turns:` URL (RFC 7064 section 3.1, RFC 7065 section 3.1).
pub(crate) fn is_ice_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let (address, query) =
        rest.split_once('?').map_or((rest, None), |(address, query)| (address, Some(query)));
    let query_fits = match query {
        None => true,
        Some("transport=udp" | "transport=tcp") => scheme != "stun" && scheme != "stuns",
        Some(_) => false,
    };
    let address_fits = parse_authority(address).is_some();
    matches!(scheme, "stun" | "stuns" | "turn" | "turns") && query_fits && address_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Gate, Scheme};

    fn host(text: &str) -> Host {
        let gate = Gate::new(Some(format!("http://{text}").parse().expect("an origin")), Vec::new());
        gate.admit_host(Scheme::Http, Some(text)).expect("admitted").host().clone()
    }

    fn embedded(ip: &str, public: Option<&str>) -> IceIssuer {
        let relay = Relay::Embedded {
            ip: ip.parse().expect("an address"),
            port: 3478,
            public: public.map(host),
            secret: Secret::new("secret"),
        };
        IceIssuer::new(relay, Duration::from_secs(60))
    }

    fn turn_url(issuer: &IceIssuer, used: &str) -> String {
        let ice = issuer.issue(SystemTime::UNIX_EPOCH, &host(used), "id", true);
        ice.servers[1].urls[0].clone()
    }

    #[test]
    fn an_embedded_relay_is_named_as_the_client_can_reach_it() {
        assert_eq!(
            turn_url(&embedded("127.0.0.1", None), "localhost:8080"),
            "turn:127.0.0.1:3478?transport=udp"
        );
        assert_eq!(turn_url(&embedded("0.0.0.0", None), "localhost"), "turn:127.0.0.1:3478?transport=udp");
        assert_eq!(
            turn_url(&embedded("0.0.0.0", None), "192.0.2.7:8080"),
            "turn:192.0.2.7:3478?transport=udp"
        );
        assert_eq!(turn_url(&embedded("::", None), "[2001:db8::1]"), "turn:[2001:db8::1]:3478?transport=udp");
        assert_eq!(
            turn_url(&embedded("0.0.0.0", Some("call.example")), "10.0.0.1"),
            "turn:call.example:3478?transport=udp"
        );
    }

    #[test]
    fn credentials_are_in_the_turn_entry_only_and_expire() {
        let ice =
            embedded("127.0.0.1", None).issue(SystemTime::UNIX_EPOCH, &host("127.0.0.1"), "session", true);
        assert_eq!(ice.servers[0].urls, ["stun:127.0.0.1:3478"]);
        assert_eq!((&ice.servers[0].username, &ice.servers[0].credential), (&None, &None));
        assert_eq!(ice.servers[1].username.as_deref(), Some("60:session"));
        assert_eq!(ice.expires_in, Some(Duration::from_secs(60)));
    }

    #[test]
    fn without_the_relay_there_are_no_credentials() {
        let ice =
            embedded("127.0.0.1", None).issue(SystemTime::UNIX_EPOCH, &host("127.0.0.1"), "session", false);
        assert_eq!(
            ice.servers.iter().flat_map(|server| &server.urls).collect::<Vec<_>>(),
            ["stun:127.0.0.1:3478"]
        );
        assert_eq!((&ice.servers[0].credential, ice.expires_in), (&None, None));
    }

    #[test]
    fn external_urls_are_passed_on_as_configured() {
        let urls = ["turns:relay.example:443?transport=tcp", "stun:relay.example", "turn:[::1]:3478"]
            .map(str::to_owned);
        let relay = Relay::External { urls: urls.to_vec(), secret: Secret::new("secret") };
        let ice = IceIssuer::new(relay, Duration::from_secs(60)).issue(
            SystemTime::UNIX_EPOCH,
            &host("127.0.0.1"),
            "id",
            true,
        );
        assert_eq!(ice.servers[0].urls, ["stun:relay.example"]);
        assert_eq!(ice.servers[1].urls, ["turns:relay.example:443?transport=tcp", "turn:[::1]:3478"]);
    }

    #[test]
    fn urls_are_checked_before_they_are_handed_to_browsers() {
        for good in [
            "turn:relay.example",
            "turn:192.0.2.1:3478?transport=udp",
            "turns:[::1]:5349",
            "stun:relay.example:3478",
        ] {
            assert!(is_ice_url(good), "{good}");
        }
        for bad in [
            "relay.example",
            "turn:",
            "turn://relay.example",
            "turn:relay.example:port",
            "turn:a?transport=sctp",
            "http:relay.example",
            "stun:a?transport=udp",
            "turn:u@a",
        ] {
            assert!(!is_ice_url(bad), "{bad}");
        }
    }
}
