//! The configuration: [`Config`] as it is written in file, environment and flags, and [`Settings`], which it parses into.
//!
//! Everything that can be wrong is found out while parsing, before anything is opened; `Settings` cannot be wrong later.

mod access;
mod acme;
mod changes;
mod doors;
mod drain;
mod limits;
mod numbers;
mod operation;
mod relay;
mod written;

use std::{net::SocketAddr, time::Duration};

use ipnet::IpNet;
use reqwest::Url;
use turn_relay::{config::networks, operation::StartError};

pub(crate) use self::{
    access::Access,
    acme::AcmeRules,
    changes::Changes,
    doors::Tls,
    drain::DrainRules,
    operation::{AdminRules, Log, Webhook},
    relay::{RelayChoice, TurnAdmin},
};
use crate::{
    hub::Limits,
    origin::Origin,
    tls,
    transport::{admission::ConnectionLimits, forwarded::Forwarding},
};
pub use written::Config;

/// What the server runs with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: AdminRules,
    pub(crate) webhook: Option<Webhook>,
    /// The collector that metrics and spans go to.
    pub(crate) otlp: Option<Url>,
    pub(crate) public: Option<Origin>,
    pub(crate) allowed: Vec<Origin>,
    pub(crate) forwarding: Forwarding,
    /// Whose connections begin with a PROXY header.
    pub(crate) introducers: Vec<IpNet>,
    pub(crate) access: Access,
    pub(crate) tls: Tls,
    /// HTTP/2 is offered beside HTTP/1.1.
    pub(crate) http2: bool,
    pub(crate) relay: RelayChoice,
    pub(crate) turn_admin: Option<TurnAdmin>,
    pub(crate) credential_lifetime: Duration,
    pub(crate) shards: usize,
    pub(crate) connections: ConnectionLimits,
    pub(crate) limits: Limits,
    pub(crate) drain: DrainRules,
    pub(crate) log: Log,
}

impl Settings {
    /// Looks also at what only a start would find: whether the certificate can be used.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn check(&self) -> Result<(), StartError> {
        match &self.tls {
            Tls::Off | Tls::SelfSigned => Ok(()),
            Tls::Acme(rules) => rules.check(),
            Tls::Files { cert, key } => tls::load(cert, key)
                .map(|_usable| ())
                .map_err(|error| StartError::new(format!("tls: {error}"))),
        }
    }
}

impl Settings {
    /// What all outboxes may hold together.
    pub(crate) const fn outbox_total(&self) -> usize {
        self.limits.replay_total_bytes.saturating_mul(self.shards)
    }

    /// What each outbox may hold in any case: a reserve, and the `welcome` of a full room.
    pub(crate) const fn outbox_reserve(&self) -> usize {
        self.limits.replay_reserve + self.limits.peers_per_room * crate::server::SNAPSHOT_BYTES
    }
}

impl TryFrom<Config> for Settings {
    type Error = StartError;

    fn try_from(config: Config) -> Result<Self, StartError> {
        let listen = doors::address("listen", config.listen.as_deref().unwrap_or(DEFAULT_LISTEN))?;
        let relay = relay::relay(&config, listen)?;
        let public =
            config.public_url.as_deref().map(|text| doors::origin("public_url", text)).transpose()?;
        relay::reachable(public.as_ref(), &relay)?;
        Ok(Self {
            listen,
            admin: operation::admin(&config)?,
            webhook: operation::webhook(&config)?,
            otlp: operation::otlp(&config)?,
            allowed: config
                .allow_origin
                .iter()
                .map(|text| doors::origin("allow_origin", text))
                .collect::<Result<_, _>>()?,
            forwarding: doors::forwarding(&config)?,
            introducers: networks("proxy_protocol_from", &config.proxy_protocol_from)?,
            access: access::access(&config)?,
            tls: doors::security(&config, public.as_ref())?,
            http2: doors::http2(&config)?,
            turn_admin: relay::turn_admin(&config, &relay)?,
            relay,
            public,
            credential_lifetime: relay::credential_lifetime(&config)?,
            shards: limits::shards(&config)?,
            connections: limits::connections(&config)?,
            limits: limits::limits(&config)?,
            drain: drain::rules(&config)?,
            log: operation::log(&config)?,
        })
    }
}

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use turn_relay::operation::settings;

    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_hub_and_those_that_the_template_shows() {
        let settings = Settings::try_from(Config::default()).expect("the defaults are good");
        assert_eq!(settings.limits, Limits::default());

        let template = <Config as settings::Config>::TEMPLATE;
        let numbers: String = template
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.split_once(" = ").is_some_and(|(_, value)| value.parse::<u64>().is_ok()))
            .filter(|line| !line.starts_with("shards"))
            .fold(String::new(), |all, line| all + line + "\n");
        let shown = settings::parse::<Config>(&numbers, Path::new("template")).expect("it loads");
        assert!(shown.replay_kib.is_some() && shown.max_connections.is_some(), "{numbers}");
        let shown = Settings::try_from(shown).expect("its values are good");
        assert_eq!(format!("{shown:?}"), format!("{settings:?}"));
    }
}
