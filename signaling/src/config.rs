//! The configuration: [`Config`] as it is written in file, environment and flags, and [`Settings`], which it parses into.
//!
//! Everything that can be wrong is found out while parsing, before anything is opened; `Settings` cannot be wrong later.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use turn_relay::{
    config::networks,
    credentials::Secret,
    operation::{StartError, settings},
};

use crate::{
    hub::Limits,
    origin::Origin,
    tls,
    transport::forwarded::{ForwardedHeader, Forwarding},
    turn::is_ice_url,
};

/// The configuration as written; a missing key means its default, which `--print-config` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Serve the page and the signaling on this address [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,

    /// Serve /metrics, /healthz and /readyz here, or `off` [default: 127.0.0.1:8081]
    #[arg(long, value_name = "IP:PORT")]
    pub admin: Option<String>,

    /// The address that people open, when it differs from --listen: a domain name, or a proxy in front (an embedded relay is looked for there too)
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,

    /// Let pages of this further origin connect, such as https://app.example (repeatable)
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<String>,

    /// Proxies in front (addresses or networks) that say for whom they ask: limits count their clients then, not them (repeatable)
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub forwarded_from: Vec<String>,

    /// The header that they write it into, x-forwarded-for or forwarded (RFC 7239) [default: x-forwarded-for]
    #[arg(long, value_name = "HEADER")]
    pub forwarded_header: Option<String>,

    /// `self-signed`: HTTPS with a certificate made at start; browsers warn, cameras of other devices work
    #[arg(long, value_name = "self-signed")]
    pub tls: Option<String>,

    /// HTTPS with this PEM certificate chain
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The PEM private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Send clients to this TURN server, such as turn:relay.example:3478?transport=udp, instead of the embedded relay (repeatable)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub turn_url: Vec<String>,

    /// Holds the secret shared with the server of --turn-url (its --secret-file; coturn: static-auth-secret)
    #[arg(long, value_name = "FILE")]
    pub turn_secret_file: Option<PathBuf>,

    /// Run no relay: calls between networks that need one will not connect
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub no_embedded_relay: Option<bool>,

    /// Where the embedded relay listens, UDP and TCP [default: the address of --listen, port 3478]
    #[arg(long, value_name = "IP:PORT")]
    pub relay_listen: Option<String>,

    /// Lifetime of TURN credentials in seconds; fresh ones are pushed at half of it [default: 43200]
    #[arg(long, value_name = "SECONDS")]
    pub turn_credential_seconds: Option<u64>,

    /// Number of tasks that the rooms are spread over [default: one per core]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,

    /// Connections held at once, of any kind [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,

    /// Connections of one address (IPv6: one /64); behind a proxy see --forwarded-from [default: 1000]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<u32>,

    /// Connections of one address that have not said hello yet [default: 64]
    #[arg(long, value_name = "N")]
    pub max_pending_per_address: Option<u32>,

    /// Rooms that exist at once, in each shard [default: 10000]
    #[arg(long, value_name = "N")]
    pub max_rooms: Option<u32>,

    /// Sessions that exist at once, in each shard [default: 50000]
    #[arg(long, value_name = "N")]
    pub max_sessions: Option<u32>,

    /// Peers in one room, 400 at most [default: 50]
    #[arg(long, value_name = "N")]
    pub max_room_peers: Option<u32>,

    /// Frames that one client may send per second, on average [default: 100]
    #[arg(long, value_name = "N")]
    pub messages_per_second: Option<u32>,

    /// Frames that one client may send at once [default: 200]
    #[arg(long, value_name = "N")]
    pub message_burst: Option<u32>,

    /// Unacknowledged frames kept for one session [default: 1024]
    #[arg(long, value_name = "N")]
    pub replay_messages: Option<u32>,

    /// Unacknowledged bytes kept for one session, in KiB [default: 256]
    #[arg(long, value_name = "KIB")]
    pub replay_kib: Option<u32>,

    /// Unacknowledged bytes kept for all sessions of a shard, in MiB [default: 128]
    #[arg(long, value_name = "MIB")]
    pub replay_total_mib: Option<u32>,

    /// How long a lost client may take to come back before the others are told that it left [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub grace_seconds: Option<u64>,

    /// How often a client is asked whether it is there [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub ping_interval_seconds: Option<u64>,

    /// How long it may take to answer [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub ping_deadline_seconds: Option<u64>,

    /// Log level: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl settings::Config for Config {
    const ENVIRONMENT: &'static str = "SIGNALING";
    const TEMPLATE: &'static str = include_str!("config.toml");
}

/// What the server runs with.
#[derive(Debug)]
pub struct Settings {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) public: Option<Origin>,
    pub(crate) allowed: Vec<Origin>,
    pub(crate) forwarding: Forwarding,
    pub(crate) tls: Tls,
    pub(crate) relay: RelayChoice,
    pub(crate) credential_lifetime: Duration,
    pub(crate) shards: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) max_pending_per_address: usize,
    pub(crate) limits: Limits,
}

/// How the listener is secured.
#[derive(Debug)]
pub(crate) enum Tls {
    /// Plain HTTP: enough for this machine, or behind a proxy that speaks TLS.
    Off,
    /// A certificate made at start.
    SelfSigned,
    /// A certificate from files.
    Files { cert: PathBuf, key: PathBuf },
}

/// Which relay clients are sent to.
#[derive(Debug)]
pub(crate) enum RelayChoice {
    None,
    External { urls: Vec<String>, secret: Secret },
    Embedded { listen: SocketAddr },
}

impl Settings {
    /// Looks also at what only a start would find: whether the certificate can be used.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn check(&self) -> Result<(), StartError> {
        match &self.tls {
            Tls::Off | Tls::SelfSigned => Ok(()),
            Tls::Files { cert, key } => tls::from_files(cert, key)
                .map(|_usable| ())
                .map_err(|error| StartError::new(format!("tls: {error}"))),
        }
    }
}

impl TryFrom<Config> for Settings {
    type Error = StartError;

    fn try_from(config: Config) -> Result<Self, StartError> {
        let listen = address("listen", config.listen.as_deref().unwrap_or(DEFAULT_LISTEN))?;
        let admin = match config.admin.as_deref().unwrap_or(DEFAULT_ADMIN) {
            "off" => None,
            given => Some(address("admin", given)?),
        };
        let relay = relay(&config, listen)?;
        let origin = |key, text: &str| {
            text.parse::<Origin>()
                .map_err(|why| StartError::new(format!("{key}: {text:?} is no origin: {why}")))
        };
        let public = config.public_url.as_deref().map(|text| origin("public_url", text)).transpose()?;
        reachable(public.as_ref(), &relay)?;
        Ok(Self {
            listen,
            admin,
            public,
            allowed: config
                .allow_origin
                .iter()
                .map(|text| origin("allow_origin", text))
                .collect::<Result<_, _>>()?,
            forwarding: forwarding(&config)?,
            tls: security(&config)?,
            relay,
            credential_lifetime: Duration::from_secs(within(
                "turn_credential_seconds",
                config.turn_credential_seconds,
                43_200,
                10..=604_800,
            )?),
            shards: shards(&config)?,
            max_connections: count("max_connections", config.max_connections, 20_000, 1_000_000)?,
            max_connections_per_address: count(
                "max_connections_per_address",
                config.max_connections_per_address,
                1_000,
                1_000_000,
            )?,
            max_pending_per_address: count(
                "max_pending_per_address",
                config.max_pending_per_address,
                64,
                100_000,
            )?,
            limits: limits(&config)?,
        })
    }
}

fn address(key: &str, text: &str) -> Result<SocketAddr, StartError> {
    text.parse().map_err(|_| {
        StartError::new(format!(
            "{key}: {text:?} is not an address; write IP:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::]:8080"
        ))
    })
}

fn forwarding(config: &Config) -> Result<Forwarding, StartError> {
    let proxies = networks("forwarded_from", &config.forwarded_from)?;
    let header = match config.forwarded_header.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("x-forwarded-for") => ForwardedHeader::XForwardedFor,
        Some("forwarded") => ForwardedHeader::Forwarded,
        Some(other) => {
            return Err(StartError::new(format!(
                "forwarded_header: {other:?} is not known; write x-forwarded-for or forwarded"
            )));
        }
    };
    if config.forwarded_header.is_some() && proxies.is_empty() {
        return Err(StartError::new(
            "forwarded_header: nobody is believed without forwarded_from; name the proxies",
        ));
    }
    Ok(Forwarding { proxies, header })
}

fn security(config: &Config) -> Result<Tls, StartError> {
    match (config.tls.as_deref(), &config.tls_cert, &config.tls_key) {
        (None, None, None) => Ok(Tls::Off),
        (Some("self-signed"), None, None) => Ok(Tls::SelfSigned),
        (None, Some(cert), Some(key)) => Ok(Tls::Files { cert: cert.clone(), key: key.clone() }),
        (Some("self-signed"), _, _) => {
            Err(StartError::new("tls: give either --tls self-signed or --tls-cert with --tls-key, not both"))
        }
        (Some(other), _, _) => Err(StartError::new(format!(
            "tls: {other:?} is not known; write self-signed, or use --tls-cert and --tls-key"
        ))),
        (None, _, _) => Err(StartError::new("tls_cert and tls_key: one needs the other; give both files")),
    }
}

fn relay(config: &Config, listen: SocketAddr) -> Result<RelayChoice, StartError> {
    let unwanted = config.no_embedded_relay.unwrap_or(false);
    let listen_given = config.relay_listen.as_deref();
    if config.turn_url.is_empty() {
        if config.turn_secret_file.is_some() {
            return Err(StartError::new(
                "turn_secret_file: it is for the server of --turn-url, which is missing",
            ));
        }
        return match (unwanted, listen_given) {
            (true, Some(_)) => {
                Err(StartError::new("relay_listen: there is no relay to listen with --no-embedded-relay"))
            }
            (true, None) => Ok(RelayChoice::None),
            (false, Some(given)) => Ok(RelayChoice::Embedded { listen: address("relay_listen", given)? }),
            (false, None) => Ok(RelayChoice::Embedded { listen: SocketAddr::new(listen.ip(), TURN_PORT) }),
        };
    }
    if listen_given.is_some() {
        return Err(StartError::new(
            "relay_listen: with --turn-url no relay is embedded; leave one of the two out",
        ));
    }
    if let Some(bad) = config.turn_url.iter().find(|url| !is_ice_url(url)) {
        return Err(StartError::new(format!(
            "turn_url: {bad:?} is not a TURN address; write it like turn:relay.example:3478?transport=udp"
        )));
    }
    let Some(file) = &config.turn_secret_file else {
        return Err(StartError::new(
            "turn_url: it needs --turn-secret-file FILE with the secret shared with that server",
        ));
    };
    Ok(RelayChoice::External { urls: config.turn_url.clone(), secret: secret(file)? })
}

/// Clients of a public address are sent to the relay at its host, where one on loopback is not to be found.
fn reachable(public: Option<&Origin>, relay: &RelayChoice) -> Result<(), StartError> {
    let RelayChoice::Embedded { listen } = relay else { return Ok(()) };
    match public.map(Origin::host) {
        Some(host) if listen.ip().is_loopback() && !host.is_loopback() => Err(StartError::new(format!(
            "public_url: clients would look for the embedded relay at {host}, but it listens on {}: give \
             --relay-listen 0.0.0.0:{TURN_PORT}, or --turn-url for another relay, or --no-embedded-relay",
            listen.ip()
        ))),
        Some(_) | None => Ok(()),
    }
}

fn secret(file: &Path) -> Result<Secret, StartError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        StartError::new(format!("turn_secret_file: cannot read {}: {error}", file.display()))
    })?;
    let secrets = Secret::parse_file(&text)
        .map_err(|error| StartError::new(format!("turn_secret_file: {} {error}", file.display())))?;
    secrets.into_iter().next().ok_or_else(|| StartError::new("turn_secret_file: it holds no secret"))
}

fn limits(config: &Config) -> Result<Limits, StartError> {
    let default = Limits::default();
    let seconds = |key, given, default: Duration, most| {
        within(key, given, default.as_secs(), 1..=most).map(Duration::from_secs)
    };
    Ok(Limits {
        rooms: count("max_rooms", config.max_rooms, 10_000, 10_000_000)?,
        sessions: count("max_sessions", config.max_sessions, 50_000, 10_000_000)?,
        replay_messages: count("replay_messages", config.replay_messages, 1_024, 100_000)?,
        // Below this, one frame of the largest size would be too much.
        replay_bytes: count_from(96, "replay_kib", config.replay_kib, 256, 1_048_576)?.saturating_mul(1024),
        replay_total_bytes: count("replay_total_mib", config.replay_total_mib, 128, 1_048_576)?
            .saturating_mul(1024 * 1024),
        peers_per_room: count("max_room_peers", config.max_room_peers, 50, MAX_ROOM_PEERS)?,
        messages_per_second: within(
            "messages_per_second",
            config.messages_per_second,
            default.messages_per_second,
            1..=1_000_000,
        )?,
        message_burst: within("message_burst", config.message_burst, default.message_burst, 1..=1_000_000)?,
        grace: seconds("grace_seconds", config.grace_seconds, default.grace, 3_600)?,
        ping_interval: seconds(
            "ping_interval_seconds",
            config.ping_interval_seconds,
            default.ping_interval,
            3_600,
        )?,
        ping_deadline: seconds(
            "ping_deadline_seconds",
            config.ping_deadline_seconds,
            default.ping_deadline,
            600,
        )?,
        ..default
    })
}

fn shards(config: &Config) -> Result<usize, StartError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let given = within("shards", config.shards, u16::try_from(cores).unwrap_or(1), 1..=1024)?;
    Ok(usize::from(given))
}

fn count(key: &str, given: Option<u32>, default: u32, most: u32) -> Result<usize, StartError> {
    count_from(1, key, given, default, most)
}

fn count_from(
    least: u32,
    key: &str,
    given: Option<u32>,
    default: u32,
    most: u32,
) -> Result<usize, StartError> {
    let value = within(key, given, default, least..=most)?;
    usize::try_from(value)
        .map_err(|_| StartError::new(format!("{key}: {value} is too much for this machine")))
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    key: &str,
    given: Option<T>,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, StartError> {
    let value = given.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(StartError::new(format!("{key}: {value} is outside {} to {}", range.start(), range.end())))
}

/// A `welcome` lists them all, and has to fit into an outbox, a client's memory and one message.
const MAX_ROOM_PEERS: u32 = 400;
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_ADMIN: &str = "127.0.0.1:8081";
/// RFC 8656 section 4.2, the registered port of `turn`.
const TURN_PORT: u16 = 3478;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_of_the_largest_room_fits_beside_a_replay() {
        use signaling_protocol::{PeerId, PeerSnapshot, PeerState};
        let longest = PeerSnapshot {
            peer: PeerId::derive(
                &"lobby".parse().expect("a room"),
                &"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().expect("a secret"),
            ),
            instance: "i".repeat(32).parse().expect("an instance"),
            name: Some("😀".repeat(64).parse().expect("a name")),
            polite: false,
            state: PeerState::Here,
        };
        let bytes = serde_json::to_string(&longest).expect("it serialises").len() + 1;
        assert!(bytes <= crate::server::SNAPSHOT_BYTES, "{bytes}");
        let room = bytes * usize::try_from(MAX_ROOM_PEERS).expect("a small number");
        assert!(room + 8 * 1024 <= crate::server::OUTBOX_EXTRA_BYTES, "{room}");
    }

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
