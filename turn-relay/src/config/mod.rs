//! `Config` is what the operator wrote (file, environment, flags); `Settings` is what it means.
//!
//! Everything that can be wrong is wrong here, once, in one line; [`Settings`] cannot be wrong later. Only what
//! the operating system may still refuse (a taken port) is found by `Server::start`.

mod access;
mod addresses;
mod changes;
mod discovery;
mod drain;
mod external;
mod hooks;
mod limits;
mod transports;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::credentials::{Credential, Credentials, Secret, ThirdParty};
use crate::listen::admission::Rules;
use crate::listen::dtls::offer::Offer;
use crate::operation::access::Access;
use crate::operation::certificate::Identity;
use crate::operation::console::{self, one_or_many};
use crate::operation::{AdminAddress, StartError, settings};
use crate::relay::{Limits, NatDiscovery, RelayAddress};
pub use access::networks;
use access::{UserKey, realm, secret_file, third_party, user_keys, users};
use addresses::{listen_addresses, port_range, relay_addresses, shown};
pub(crate) use changes::Changes;
pub(crate) use drain::DrainRules;
use external::External;
pub(crate) use hooks::Hooks;
pub(crate) use transports::load;
use transports::{identities, rules};

/// The configuration as written. Each field is a flag, a TOML key and an environment variable (`TURN_RELAY_...`).
#[derive(Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to serve, UDP and TCP alike, TLS and DTLS too with --tls-cert; repeatable [default: 0.0.0.0:3478 and [::]:3478,
    /// with --tls-cert also port 5349]
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Local address on which relayed transport addresses are opened; repeatable [default: the listen addresses,
    /// or this machine's primary addresses where those are wildcards]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub relay_address: Vec<String>,

    /// Address to advertise instead of the relay address of its family, when behind a 1:1 NAT: IP; IP/RELAY_IP where there are
    /// several; stun:HOST[:PORT] to ask that server; interface:NAME for that interface's. The last two are asked again every minute
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub external_address: Vec<String>,

    /// Realm of the long-term credentials [default: turn-relay]
    #[arg(long, value_name = "REALM")]
    pub realm: Option<String>,

    /// A static user; repeatable. Prefer --secret-file: flags show up in the process list
    #[arg(long, value_name = "NAME:PASSWORD")]
    pub user: Vec<String>,

    /// File with the secrets, one a line, that time-limited users are derived from; every one is accepted
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,

    /// Peers that clients may reach although they are in a special-purpose range; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub allow_peer: Vec<String>,

    /// Peers that no client may reach; wins over --allow-peer; repeatable
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub deny_peer: Vec<String>,

    /// Ports for relayed transport addresses, both ends included [default: 49152-65535]
    #[arg(long, value_name = "A-B")]
    pub port_range: Option<String>,

    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Where /metrics, /healthz, /readyz and the admin API are answered; repeatable [default: none]
    #[arg(long, value_name = "IP:PORT or unix:PATH", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_many")]
    pub admin: Vec<String>,

    /// How log lines are written: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Write client and relayed addresses into the lines about allocations, whatever the level [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub log_addresses: Option<bool>,

    /// Second address and port, for NAT behaviour discovery (RFC 5780); both differ from the first listen address [default: none]
    #[arg(long, value_name = "IP:PORT")]
    pub nat_discovery: Option<String>,

    /// Allocations of all users together [default: 16384]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_allocations: Option<u32>,

    /// Allocations of one user [default: 1024]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_allocations_per_user: Option<u32>,

    /// Allocations of one client address, an IPv4 address or an IPv6 /56 [default: 4096]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_allocations_per_address: Option<u32>,

    /// Peer addresses that one allocation may have permissions for [default: 128]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_permissions: Option<u16>,

    /// Channels that one allocation may have bound [default: 128]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_channels: Option<u16>,

    /// Lifetime of an allocation that asks for none, and the least that is granted [default: 600]
    #[arg(long, value_name = "SECONDS", help_heading = LIMITS)]
    pub default_lifetime: Option<u32>,

    /// The longest lifetime that is granted [default: 3600]
    #[arg(long, value_name = "SECONDS", help_heading = LIMITS)]
    pub max_lifetime: Option<u32>,

    /// Answers per second, worker and /24 or /56 to requests that proved no address; 0: no limit [default: 200]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub unauthenticated_answers: Option<u32>,

    /// Bytes per second through one allocation in each direction: datagrams above it are dropped, streams (RFC 6062) slowed down;
    /// 0: no limit [default: 12500000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub allocation_bytes_per_second: Option<u64>,

    /// Packets per second through one allocation in each direction; 0: no limit [default: 10000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub allocation_packets_per_second: Option<u32>,

    /// Bytes per second of all allocations of one user in each direction; 0: no limit [default: 125000000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub user_bytes_per_second: Option<u64>,

    /// Packets per second of all allocations of one user in each direction; 0: no limit [default: 100000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub user_packets_per_second: Option<u32>,

    /// Peers that one allocation may turn to for the first time in a minute; 0: no limit [default: 300]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub allocation_new_peers_per_minute: Option<u32>,

    /// The same of all allocations of one user; 0: no limit [default: 12000]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub user_new_peers_per_minute: Option<u32>,

    /// TCP connections with peers of one TCP allocation [default: 32]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_peer_connections: Option<u16>,

    /// The same of all allocations of one user [default: 1024]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_peer_connections_per_user: Option<u32>,

    /// PEM certificate chain for TLS and DTLS, leaf first; repeatable, the one that fits the client is chosen [default: no TLS]
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub tls_cert: Vec<PathBuf>,

    /// PEM private key of --tls-cert; as many, in the same order
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    pub tls_key: Vec<PathBuf>,

    /// Proxies whose connections begin with a PROXY header, version 1 or 2, that says who the client is; repeatable [default: none]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub proxy_protocol_from: Vec<String>,

    /// Connections that one client address (one /56 for IPv6) may have [default: 512]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_connections_per_address: Option<usize>,

    /// Seconds in which a connection must bring its first STUN message, the TLS handshake included [default: 10]
    #[arg(long, value_name = "SECONDS", help_heading = LIMITS)]
    pub first_message_deadline: Option<u64>,
    /// Allocations of one id of time-limited users [default: 128]
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    pub max_allocations_per_minted_user: Option<u32>,

    /// A static user by its key, which openssl makes of the password (the configuration file says how); repeatable
    #[arg(long, value_name = "NAME:md5|sha256:HEX", value_delimiter = ',')]
    pub user_key: Vec<String>,

    /// End the allocations of a time-limited user when its time is over, instead of refusing new ones [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub expire_with_credential: Option<bool>,

    /// File with the token that opens the admin API on ports [default: none, and it is closed there]
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Name by which the admin port may be called, beside its address and localhost; repeatable
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub admin_host: Vec<String>,

    /// Refuse channel numbers above 0x4FFF, as RFC 8656 has it; clients of RFC 5766 use them up to 0x7FFF [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub strict_channels: Option<bool>,

    /// File with the keys of authorization servers, KEY-ID and base64 a line: bearers of their tokens are users (RFC 7635)
    #[arg(long, value_name = "FILE")]
    pub oauth_key_file: Option<PathBuf>,

    /// The name of this server that clients ask tokens for and tokens are sealed with
    #[arg(long, value_name = "NAME")]
    pub oauth_server_name: Option<String>,

    /// Where newcomers are sent while this server drains (300, ALTERNATE-SERVER); one per address family [default: none, 508]
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub alternate_server: Vec<String>,

    /// The name in the certificate of the alternate servers, where it is not ours
    #[arg(long, value_name = "NAME")]
    pub alternate_domain: Option<String>,

    /// Seconds that live allocations may run on after SIGTERM; 0 ends them at once [default: 60]
    #[arg(long, value_name = "SECONDS")]
    pub drain_deadline: Option<u64>,

    /// Where usage events are posted: start and end of every allocation, and in between [default: nowhere]
    #[arg(long, value_name = "URL")]
    pub usage_hook: Option<String>,

    /// Seconds between the usage events of an allocation that goes on; 0: none in between [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub usage_interval: Option<u32>,

    /// File with the secret that requests to hooks are signed with
    #[arg(long, value_name = "FILE")]
    pub hook_secret_file: Option<PathBuf>,

    /// Let clients take their allocation along to another address (RFC 8016) [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub mobility: Option<bool>,

    /// Whom to ask about users that are neither static nor time-limited [default: nobody]
    #[arg(long, value_name = "URL")]
    pub auth_hook: Option<String>,

    /// Interface where channel data is relayed in the driver (XDP), IPv4 and IPv6; repeatable; takes root, and a build with the
    /// feature xdp [default: none]
    #[arg(long, value_name = "INTERFACE", value_delimiter = ',')]
    pub xdp: Vec<String>,

    /// Seconds for which an answer of --auth-hook is remembered at the longest [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub auth_cache: Option<u32>,
}

impl settings::Config for Config {
    const ENVIRONMENT: &'static str = "TURN_RELAY";
    const TEMPLATE: &'static str = include_str!("../turn-relay.toml");
    const CONFIDENTIAL: &'static [&'static str] = &["user", "user_key"];
}

impl std::fmt::Debug for Config {
    /// Says nothing: `user` holds passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Config(..)")
    }
}

/// The configuration, parsed: every address is one, every file was read, families agree, somebody can log in.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) listen: Vec<SocketAddr>,
    /// Nobody asked for `listen`: a family that this host lacks is left out instead of refused.
    pub(crate) listen_is_default: bool,
    pub(crate) relay_addresses: Vec<RelayAddress>,
    /// Where their external addresses come from.
    external: Vec<External>,
    pub(crate) realm: String,
    pub(crate) users: Vec<Credential>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) allow_peers: Vec<IpNet>,
    pub(crate) deny_peers: Vec<IpNet>,
    pub(crate) ports: PortRange,
    pub(crate) threads: NonZeroUsize,
    pub(crate) admin: Vec<AdminAddress>,
    pub(crate) admin_access: Access,
    pub(crate) hooks: Hooks,
    pub(crate) log_addresses: bool,
    pub(crate) limits: Limits,
    pub(crate) nat_discovery: Option<NatDiscovery>,
    /// Certificates with their keys, the default one first; none: no TLS.
    pub(crate) identities: Vec<Arc<Identity>>,
    pub(crate) rules: Rules,
    user_keys: Vec<UserKey>,
    expire_with_credential: bool,
    pub(crate) strict_channels: bool,
    third_party: Option<ThirdParty>,
    /// Where `identities` come from.
    pub(crate) certificate_files: Vec<(PathBuf, PathBuf)>,
    pub(crate) drain: DrainRules,
    pub(crate) mobility: bool,
    /// Interfaces.
    pub(crate) xdp: Vec<String>,
}

/// Relayed ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Settings {
    /// Parses `config`. `secrets` are accepted beside those of `config.secret_file`; a program that mints credentials
    /// itself hands its own secret in here.
    ///
    /// # Errors
    /// One line that names the key, the value, and what would be right.
    pub fn new(config: &Config, secrets: Vec<Secret>) -> Result<Self, StartError> {
        let identities = identities(&config.tls_cert, &config.tls_key)?;
        let mut listen = listen_addresses(&config.listen, !identities.is_empty())?;
        let users = users(&config.user)?;
        let external: Vec<External> =
            config.external_address.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let relay_addresses = relay_addresses(config, &listen, &external)?;
        let nat_discovery = discovery::nat_discovery(config, &mut listen, &relay_addresses)?;
        let settings = Self {
            user_keys: user_keys(&config.user_key, &users)?,
            expire_with_credential: config.expire_with_credential.unwrap_or(false),
            third_party: third_party(config.oauth_key_file.as_deref(), config.oauth_server_name.as_deref())?,
            relay_addresses,
            external,
            nat_discovery,
            listen,
            listen_is_default: config.listen.is_empty(),
            realm: realm(config.realm.as_deref())?,
            users,
            secrets: secrets.into_iter().chain(secret_file(config.secret_file.as_deref())?).collect(),
            allow_peers: networks("allow_peer", &config.allow_peer)?,
            deny_peers: networks("deny_peer", &config.deny_peer)?,
            ports: port_range(config.port_range.as_deref())?,
            threads: threads(config.threads)?,
            admin: config.admin.iter().map(|text| console::address(text)).collect::<Result<_, _>>()?,
            admin_access: console::access(config.admin_token_file.as_deref(), &config.admin_host)?,
            hooks: hooks::hooks(config)?,
            identities,
            rules: rules(config)?,
            log_addresses: config.log_addresses.unwrap_or(false),
            limits: limits::limits(config)?,
            strict_channels: config.strict_channels.unwrap_or(false),
            certificate_files: config.tls_cert.iter().cloned().zip(config.tls_key.iter().cloned()).collect(),
            drain: drain::rules(config)?,
            mobility: config.mobility.unwrap_or(false),
            xdp: transports::xdp(&config.xdp)?,
        };
        if settings.credentials().is_empty() && settings.hooks.auth.is_none() {
            return Err(StartError::new(
                "no credentials are configured, and a relay without them would serve anybody: give --secret-file FILE \
                 (time-limited users), --user NAME:PASSWORD, --user-key, --oauth-key-file or --auth-hook",
            ));
        }
        Ok(settings)
    }

    /// Everyone who may allocate.
    pub(crate) fn credentials(&self) -> Credentials {
        let users = self.users.iter().map(|user| (user.username.clone(), user.password.clone()));
        let credentials = Credentials::new(&self.realm, users, self.secrets.clone())
            .with_stored_keys(self.user_keys.iter().cloned())
            .with_expiry_ending_allocations(self.expire_with_credential)
            .with_third_party(self.third_party.clone());
        if self.hooks.auth.is_some() { credentials.offering_nothing() } else { credentials }
    }

    /// Whether external addresses were found out, and may change.
    pub(crate) fn finds_addresses_out(&self) -> bool {
        self.external.iter().any(External::is_found_out)
    }

    /// The relay addresses with what they are known as by now. Waits for answers.
    ///
    /// # Errors
    /// One line.
    pub(crate) fn addresses_again(&self) -> Result<Vec<RelayAddress>, StartError> {
        let locals: Vec<_> = self.relay_addresses.iter().map(|address| address.ip).collect();
        external::advertise(&locals, &self.external)
    }

    /// Whether [`Settings::addresses_again`] of both is about the same.
    pub(crate) fn has_the_sources_of(&self, other: &Self) -> bool {
        let locals =
            |settings: &Self| -> Vec<_> { settings.relay_addresses.iter().map(|at| at.ip).collect() };
        self.external == other.external && locals(self) == locals(other)
    }

    /// Where the admin listeners belong, if any were asked for.
    #[must_use]
    pub fn admin(&self) -> &[AdminAddress] {
        &self.admin
    }

    /// What every listen address serves, in words.
    #[must_use]
    pub fn transports(&self) -> &'static str {
        match (self.identities.is_empty(), Offer::of(&self.identities).is_some()) {
            (true, _) => "UDP and TCP",
            (false, false) => "UDP, TCP and TLS",
            (false, true) => "UDP, TCP, TLS and DTLS",
        }
    }

    /// The settings in a few lines for a person: what is served, for whom, from which ports, towards which peers.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let relays = self.relay_addresses.iter().map(shown).collect::<Vec<_>>();
        let mut kinds = Vec::new();
        if !self.secrets.is_empty() {
            kinds.push(format!("time-limited users from {}", plural(self.secrets.len(), "secret")));
        }
        let mut names: Vec<&str> = self.users.iter().map(|user| &*user.username).collect();
        names.extend(self.user_keys.iter().map(|(name, ..)| &**name));
        names.sort_unstable();
        names.dedup();
        if !names.is_empty() {
            kinds.push(plural(names.len(), "static user"));
        }
        if let Some(third_party) = &self.third_party {
            kinds.push(format!("bearers of tokens for {}", third_party.server_name()));
        }
        if self.hooks.auth.is_some() {
            kinds.push("users that the authorization hook knows".to_owned());
        }
        let policy = if self.allow_peers.is_empty() {
            "public addresses only".to_owned()
        } else {
            format!("public addresses and {}", joined(&self.allow_peers))
        };
        let denied = if self.deny_peers.is_empty() {
            String::new()
        } else {
            format!(", never {}", joined(&self.deny_peers))
        };
        let mut lines = vec![
            format!("relaying from {}, ports {}-{}", relays.join(", "), self.ports.first, self.ports.last),
            format!("credentials: {} (realm {}){}", kinds.join(" and "), self.realm, self.without_sha256()),
            format!("peers: {policy}{denied}, and other clients of this relay"),
        ];
        if !self.identities.is_empty() {
            lines.push(format!("TLS: {}", plural(self.identities.len(), "certificate")));
        }
        lines
    }
}

impl Settings {
    /// Why clients are not offered SHA-256, if they are not.
    fn without_sha256(&self) -> String {
        if !self.credentials().features().password_algorithms.is_empty() {
            return String::new();
        }
        ", without SHA-256: a user_key is there in md5 alone".to_owned()
    }
}

fn threads(written: Option<usize>) -> Result<NonZeroUsize, StartError> {
    let Some(threads) = written else {
        return Ok(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    };
    NonZeroUsize::new(threads)
        .filter(|threads| threads.get() <= MAX_THREADS)
        .ok_or_else(|| StartError::new(format!("threads: {threads} is not between 1 and {MAX_THREADS}")))
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn joined(networks: &[IpNet]) -> String {
    networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

/// More workers than cores only cost memory; the core counts them in 12 bits.
const MAX_THREADS: usize = 256;
/// Where `--help` lists the limits.
const LIMITS: &str = "Limits";

#[cfg(test)]
mod tests;
