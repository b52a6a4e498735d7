//! The keys: what an operator may write in file, environment and flags. What each means, and what is wrong, is said elsewhere.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use turn_relay::operation::settings;

/// The configuration as written; a missing key means its default, which `--print-config` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Serve the page and the signaling on this address [default: 127.0.0.1:8080]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,

    /// Answer /metrics, /healthz, /readyz and the admin API here, or `off` [default: 127.0.0.1:8081]
    #[arg(long, value_name = "IP:PORT or unix:PATH")]
    pub admin: Option<String>,

    /// Holds the token that opens the admin API on a port; without it the API is closed there
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Name by which the admin port may be called, beside addresses and localhost (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub admin_host: Vec<String>,

    /// Post an event to this URL when a room begins or ends and when a peer comes or goes
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,

    /// Holds the secret that requests to --webhook are signed with
    #[arg(long, value_name = "FILE")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Send metrics, and a span for each session, to the OpenTelemetry collector at this URL; takes a build with the feature otel
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,

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

    /// Proxies in front whose connections begin with a PROXY header, version 1 or 2, that says who the client is (repeatable)
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub proxy_protocol_from: Vec<String>,

    /// Let in whoever shows a token signed (HS256) with a secret of this file, instead of everybody
    #[arg(long, value_name = "FILE")]
    pub token_secret_file: Option<PathBuf>,

    /// Let in whoever shows a token signed (RS256, ES256, EdDSA) with a key of this JSON Web Key Set
    #[arg(long, value_name = "URL|FILE")]
    pub token_keys: Option<String>,

    /// Ask this program of yours what a token opens, by a signed POST
    #[arg(long, value_name = "URL")]
    pub auth_hook: Option<String>,

    /// Holds the secret that requests to --auth-hook are signed with
    #[arg(long, value_name = "FILE")]
    pub auth_hook_secret_file: Option<PathBuf>,

    /// How long an answer of --auth-hook is kept, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub auth_hook_cache_seconds: Option<u64>,

    /// Tokens have to be for this audience, their `aud`; needed with --token-keys (repeatable: one of them)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub token_audience: Vec<String>,

    /// Tokens have to be of this issuer, their `iss`
    #[arg(long, value_name = "NAME")]
    pub token_issuer: Option<String>,

    /// A user who is in a room by one device and comes by another: several, replace or reject [default: several]
    #[arg(long, value_name = "POLICY")]
    pub identity: Option<String>,

    /// The door of a room that begins, for those who may not open it: open, knock or locked [default: open]
    #[arg(long, value_name = "DOOR")]
    pub room_door: Option<String>,

    /// `self-signed`: HTTPS with a certificate made at start; browsers warn, cameras of other devices work
    #[arg(long, value_name = "self-signed")]
    pub tls: Option<String>,

    /// HTTPS with this PEM certificate chain
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The PEM private key of --tls-cert
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// HTTPS with certificates for this name of the server, from an authority that speaks ACME; it connects to port 443 of it (repeatable)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub acme_domain: Vec<String>,

    /// Folder where certificates, their keys and the account are kept, for this user alone
    #[arg(long, value_name = "DIR")]
    pub acme_cache: Option<PathBuf>,

    /// Where the authority writes to if something is wrong with the certificates
    #[arg(long, value_name = "EMAIL")]
    pub acme_contact: Option<String>,

    /// The authority [default: https://acme-v02.api.letsencrypt.org/directory]
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,

    /// Offer HTTP/2 beside HTTP/1.1, also for WebSockets; needs TLS, and more memory for each client
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub http2: Option<bool>,

    /// Send clients to this TURN server, such as turn:relay.example:3478?transport=udp, instead of the embedded relay (repeatable)
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub turn_url: Vec<String>,

    /// Holds the secret shared with the server of --turn-url (its --secret-file; coturn: static-auth-secret)
    #[arg(long, value_name = "FILE")]
    pub turn_secret_file: Option<PathBuf>,

    /// The admin API of the turn-relay of --turn-url: sessions that are put out of their rooms lose the relay too
    #[arg(long, value_name = "URL")]
    pub turn_admin_url: Option<String>,

    /// Holds the token of --turn-admin-url (its --admin-token-file)
    #[arg(long, value_name = "FILE")]
    pub turn_admin_token_file: Option<PathBuf>,

    /// Run no relay: calls between networks that need one will not connect
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pub no_embedded_relay: Option<bool>,

    /// Where the embedded relay listens, UDP and TCP [default: the address of --listen, port 3478]
    #[arg(long, value_name = "IP:PORT")]
    pub relay_listen: Option<String>,

    /// Lifetime of TURN credentials in seconds; fresh ones are pushed at half of it, or 15 s before its end if that is sooner [default: 43200]
    #[arg(long, value_name = "SECONDS")]
    pub turn_credential_seconds: Option<u64>,

    /// Number of tasks that the rooms are spread over [default: one per core]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,

    /// Connections held at once, of any kind [default: 20000]
    #[arg(long, value_name = "N")]
    pub max_connections: Option<u32>,

    /// Connections of one address (IPv6: one /64); behind a proxy see --forwarded-from and --proxy-protocol-from [default: 1000]
    #[arg(long, value_name = "N")]
    pub max_connections_per_address: Option<u32>,

    /// Connections that have not said hello yet, all together; more wait a moment [default: 1000]
    #[arg(long, value_name = "N")]
    pub max_pending: Option<u32>,

    /// Connections accepted per second, and a quarter of that at once; more wait [default: 4000]
    #[arg(long, value_name = "N")]
    pub handshakes_per_second: Option<u32>,

    /// Connections that one address may make per second, further hellos on them included, and five times that at once [default: 100]
    #[arg(long, value_name = "N")]
    pub handshakes_per_second_per_address: Option<u32>,

    /// Sessions of one address, those without a connection included [default: 2000]
    #[arg(long, value_name = "N")]
    pub max_sessions_per_address: Option<u32>,

    /// Frames that all clients of one address may send per second, and four times that at once [default: 5000]
    #[arg(long, value_name = "N")]
    pub messages_per_second_per_address: Option<u32>,

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

    /// After SIGTERM, clients are asked to leave one after the other over this time; 0: all are closed at once [default: 20]
    #[arg(long, value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,

    /// The server that they are sent to, when the address that they know does not lead to another one by itself
    #[arg(long, value_name = "URL")]
    pub drain_url: Option<String>,

    /// Log level: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl settings::Config for Config {
    const ENVIRONMENT: &'static str = "SIGNALING";
    const TEMPLATE: &'static str = include_str!("../config.toml");
}
