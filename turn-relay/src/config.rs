//! `Config` is what the operator wrote (file, environment, flags); `Settings` is what it means.
//!
//! Everything that can be wrong is wrong here, once, in one line; [`Settings`] cannot be wrong later. Only what
//! the operating system may still refuse (a taken port) is found by `Server::start`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::credentials::{Credential, MAX_REALM_BYTES, Secret};
use crate::operation::{StartError, settings};
use crate::relay::RelayAddress;

/// The configuration as written. Each field is a flag, a TOML key and an environment variable (`TURN_RELAY_...`).
#[derive(Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to serve, UDP and TCP alike; repeatable [default: 0.0.0.0:3478 and [::]:3478]
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Local address on which relayed transport addresses are opened; repeatable [default: the listen addresses,
    /// or this machine's primary addresses where those are wildcards]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub relay_address: Vec<String>,

    /// Address to advertise instead of the relay address of its family, when behind a 1:1 NAT; one per family
    #[arg(long, value_name = "IP", value_delimiter = ',')]
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

    /// Where /metrics, /healthz and /readyz are answered [default: none]
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<String>,

    /// How log lines are written: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl settings::Config for Config {
    const ENVIRONMENT: &'static str = "TURN_RELAY";
    const TEMPLATE: &'static str = include_str!("turn-relay.toml");
    const CONFIDENTIAL: &'static [&'static str] = &["user"];
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
    pub(crate) realm: String,
    pub(crate) users: Vec<Credential>,
    pub(crate) secrets: Vec<Secret>,
    pub(crate) allow_peers: Vec<IpNet>,
    pub(crate) deny_peers: Vec<IpNet>,
    pub(crate) ports: PortRange,
    pub(crate) threads: NonZeroUsize,
    pub(crate) admin: Option<SocketAddr>,
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
        let listen = listen_addresses(&config.listen)?;
        let settings = Self {
            relay_addresses: relay_addresses(config, &listen)?,
            listen,
            listen_is_default: config.listen.is_empty(),
            realm: realm(config.realm.as_deref())?,
            users: users(&config.user)?,
            secrets: secrets.into_iter().chain(secret_file(config.secret_file.as_deref())?).collect(),
            allow_peers: networks("allow_peer", &config.allow_peer)?,
            deny_peers: networks("deny_peer", &config.deny_peer)?,
            ports: port_range(config.port_range.as_deref())?,
            threads: threads(config.threads)?,
            admin: config.admin.as_deref().map(|text| socket_address("admin", text)).transpose()?,
        };
        if settings.users.is_empty() && settings.secrets.is_empty() {
            return Err(StartError::new(
                "no credentials are configured, and a relay without them would serve anybody: give --secret-file FILE \
                 (time-limited users) or --user NAME:PASSWORD",
            ));
        }
        Ok(settings)
    }

    /// Where the admin listener belongs, if one was asked for.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The settings in a few lines for a person: what is served, for whom, from which ports, towards which peers.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let relays = self.relay_addresses.iter().map(shown).collect::<Vec<_>>();
        let mut kinds = Vec::new();
        if !self.secrets.is_empty() {
            kinds.push(format!("time-limited users from {}", plural(self.secrets.len(), "secret")));
        }
        if !self.users.is_empty() {
            kinds.push(plural(self.users.len(), "static user"));
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
        vec![
            format!("relaying from {}, ports {}-{}", relays.join(", "), self.ports.first, self.ports.last),
            format!("credentials: {} (realm {})", kinds.join(" and "), self.realm),
            format!("peers: {policy}{denied}, and other clients of this relay"),
        ]
    }
}

fn shown(address: &RelayAddress) -> String {
    match address.external {
        Some(external) => format!("{} (advertised as {external})", address.ip),
        None => address.ip.to_string(),
    }
}

fn listen_addresses(written: &[String]) -> Result<Vec<SocketAddr>, StartError> {
    if written.is_empty() {
        return DEFAULT_LISTEN.iter().map(|text| socket_address("listen", text)).collect();
    }
    let mut addresses = Vec::new();
    for text in written {
        let address = socket_address("listen", text)?;
        if address.port() != 0 && addresses.contains(&address) {
            return Err(StartError::new(format!("listen: {address} is given twice; give it once")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Given addresses must be ours; otherwise each listen address relays from itself, a wildcard from the machine's
/// primary address of its family.
fn relay_addresses(config: &Config, listen: &[SocketAddr]) -> Result<Vec<RelayAddress>, StartError> {
    let mut locals: Vec<IpAddr> = Vec::new();
    for text in &config.relay_address {
        locals.push(owned_address(text)?);
    }
    if locals.is_empty() {
        locals = default_relay_addresses(listen, primary_address);
    }
    let mut seen = std::collections::HashSet::new();
    locals.retain(|ip| seen.insert(*ip));
    if locals.is_empty() {
        return Err(StartError::new(
            "this machine has no address to relay from; give one with --relay-address IP",
        ));
    }
    advertise(&locals, &config.external_address)
}

fn advertise(locals: &[IpAddr], external: &[String]) -> Result<Vec<RelayAddress>, StartError> {
    let mut by_family: BTreeMap<bool, IpAddr> = BTreeMap::new();
    for text in external {
        let ip = ip_address("external_address", text)?;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err(StartError::new(format!(
                "external_address: {ip} cannot be reached by anybody; give the public address"
            )));
        }
        let family = family(ip);
        match locals.iter().filter(|local| local.is_ipv4() == ip.is_ipv4()).count() {
            0 => {
                return Err(StartError::new(format!(
                    "external_address: {ip} is {family}, but no relay address is; give one with --relay-address IP"
                )));
            }
            1 => {}
            _ => {
                return Err(StartError::new(format!(
                    "external_address: {ip} could stand for several {family} relay addresses; keep one with --relay-address IP"
                )));
            }
        }
        if by_family.insert(ip.is_ipv4(), ip).is_some() {
            return Err(StartError::new(format!(
                "external_address: more than one {family} address is given; keep one"
            )));
        }
    }
    Ok(locals
        .iter()
        .map(|&local| RelayAddress { ip: local, external: by_family.get(&local.is_ipv4()).copied() })
        .collect())
}

fn owned_address(text: &str) -> Result<IpAddr, StartError> {
    let ip = ip_address("relay_address", text)?;
    if ip.is_unspecified() {
        return Err(StartError::new(format!(
            "relay_address: {ip} is a wildcard; give an address of this host (without the key its primary ones are taken)"
        )));
    }
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(ip),
        Err(error) => Err(StartError::new(format!(
            "relay_address: cannot relay from {ip} ({error}); give an address of this host, and the public one of a 1:1 NAT as --external-address"
        ))),
    }
}

/// Each listen address itself, and for a wildcard what `primary` knows. A family without any address is left out: loopback
/// is no address to advertise, unless there is nothing else.
fn default_relay_addresses(
    listen: &[SocketAddr],
    primary: impl Fn(IpAddr, Scope) -> Option<IpAddr>,
) -> Vec<IpAddr> {
    let of = |scope| {
        let address = |at: &SocketAddr| match at.ip() {
            ip if ip.is_unspecified() => primary(ip, scope),
            ip => Some(ip),
        };
        listen.iter().filter_map(address).collect::<Vec<_>>()
    };
    let reachable = of(Scope::Network);
    if reachable.is_empty() { of(Scope::Loopback) } else { reachable }
}

/// Which of this machine's addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Network,
    Loopback,
}

/// The address that the kernel would use towards the internet, or else the first of the scope.
fn primary_address(wildcard: IpAddr, scope: Scope) -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing: it only asks the routing table. The targets are the resolvers of a
    // well-known operator, chosen because documentation ranges are commonly null-routed.
    let towards = if wildcard.is_ipv4() { "1.1.1.1:53" } else { "[2606:4700:4700::1111]:53" };
    let routed = std::net::UdpSocket::bind((wildcard, 0))
        .and_then(|socket| socket.connect(towards).and_then(|()| socket.local_addr()))
        .map(|address| address.ip());
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses =
        interfaces.iter().filter(|interface| !interface.is_link_local()).map(if_addrs::Interface::ip);
    let mut candidates = routed.ok().into_iter().chain(addresses);
    candidates.find(|ip| {
        ip.is_ipv4() == wildcard.is_ipv4()
            && !ip.is_unspecified()
            && ip.is_loopback() == (scope == Scope::Loopback)
    })
}

fn realm(written: Option<&str>) -> Result<String, StartError> {
    let realm = written.unwrap_or(DEFAULT_REALM);
    // Quotes and control characters survive neither a client's quoting nor a log line.
    if realm.is_empty() || realm.len() > MAX_REALM_BYTES || realm.chars().any(|c| c.is_control() || c == '"')
    {
        return Err(StartError::new(format!(
            "realm: {realm:?} must be 1 to {MAX_REALM_BYTES} bytes without quotes; use your domain name"
        )));
    }
    Ok(realm.to_owned())
}

fn users(written: &[String]) -> Result<Vec<Credential>, StartError> {
    let mut users: Vec<Credential> = Vec::new();
    for text in written {
        // The value is a password: it is never repeated in the message.
        let Some((username, password)) =
            text.split_once(':').filter(|(name, word)| !name.is_empty() && !word.is_empty())
        else {
            return Err(StartError::new("user: an entry is not NAME:PASSWORD with both parts present"));
        };
        // RFC 8489 section 14.3: USERNAME is shorter than 509 bytes.
        if username.len() >= 509 {
            return Err(StartError::new("user: a name is longer than 508 bytes"));
        }
        if users.iter().any(|user| user.username == username) {
            return Err(StartError::new(format!("user: {username:?} is given twice; give it once")));
        }
        users.push(Credential { username: username.to_owned(), password: password.to_owned() });
    }
    Ok(users)
}

fn secret_file(path: Option<&Path>) -> Result<Vec<Secret>, StartError> {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(path) = path else { return Ok(Vec::new()) };
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("secret_file: cannot read {shown}: {error}")))?;
    let secrets = Secret::parse_file(&text)
        .map_err(|error| StartError::new(format!("secret_file: {shown} {error}")))?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        tracing::warn!("secret_file: {shown} can be read by every user of this machine; chmod 640 it");
    }
    Ok(secrets)
}

fn networks(key: &str, written: &[String]) -> Result<Vec<IpNet>, StartError> {
    let network = |text: &String| {
        let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(network) = parsed else {
            return Err(StartError::new(format!(
                "{key}: {text:?} is not a network; write it as 10.0.0.0/8, fd00::/8 or a single address"
            )));
        };
        if network.trunc() != network {
            return Err(StartError::new(format!(
                "{key}: {text} has bits set behind its prefix; did you mean {}?",
                network.trunc()
            )));
        }
        // The policy knows addresses by their IPv4 form; in this one the entry would never apply.
        if let IpNet::V6(mapped) = network
            && let (Some(v4), Some(prefix)) =
                (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96))
        {
            return Err(StartError::new(format!(
                "{key}: {text} is IPv4 in disguise; write it as {v4}/{prefix}"
            )));
        }
        Ok(network)
    };
    written.iter().map(network).collect()
}

fn port_range(written: Option<&str>) -> Result<PortRange, StartError> {
    let text = written.unwrap_or(DEFAULT_PORTS);
    let wrong = || {
        StartError::new(format!(
            "port_range: {text:?} is not a range of ports from 1024 to 65535; write it as {DEFAULT_PORTS}"
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.trim().parse().map_err(|_| wrong())?;
    let last = last.trim().parse().map_err(|_| wrong())?;
    if first < 1024 || first > last {
        return Err(wrong());
    }
    Ok(PortRange { first, last })
}

fn threads(written: Option<usize>) -> Result<NonZeroUsize, StartError> {
    let Some(threads) = written else {
        return Ok(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    };
    NonZeroUsize::new(threads)
        .filter(|threads| threads.get() <= MAX_THREADS)
        .ok_or_else(|| StartError::new(format!("threads: {threads} is not between 1 and {MAX_THREADS}")))
}

fn socket_address(key: &str, text: &str) -> Result<SocketAddr, StartError> {
    text.parse().map_err(|_| {
        StartError::new(format!("{key}: {text:?} is not IP:PORT; write it as 0.0.0.0:3478 or [::]:3478"))
    })
}

fn ip_address(key: &str, text: &str) -> Result<IpAddr, StartError> {
    let ip: IpAddr = text.parse().map_err(|_| {
        StartError::new(format!("{key}: {text:?} is not an IP address; host names are not resolved"))
    })?;
    let plain = ip.to_canonical();
    if plain != ip {
        return Err(StartError::new(format!("{key}: {text} is IPv4 in disguise; write it as {plain}")));
    }
    Ok(ip)
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn joined(networks: &[IpNet]) -> String {
    networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(", ")
}

const DEFAULT_LISTEN: [&str; 2] = ["0.0.0.0:3478", "[::]:3478"];
const DEFAULT_REALM: &str = "turn-relay";
/// RFC 8656 section 7.2 names the dynamic range.
const DEFAULT_PORTS: &str = "49152-65535";
/// More workers than cores only cost memory; the core counts them in 12 bits.
const MAX_THREADS: usize = 256;

#[cfg(test)]
mod tests;
