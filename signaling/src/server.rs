//! Puts the parts together, opens everything or nothing, and ends it in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use turn_relay::{
    config as relay_config,
    credentials::Secret,
    operation::{Admin, Readiness, StartError, admin},
    server::Server as Relay,
};

use crate::{
    config::{RelayChoice, Settings, Tls},
    metrics::Metrics,
    origin::{Gate, Origin},
    outbox::{Budget, OutboxLimits},
    report::Reports,
    routes::{self, App},
    shard::Shards,
    tls::{self, Identity},
    transport::{
        keyed::KeyedConnections,
        listen::{self, Admission, Listener},
    },
    turn::{self, IceIssuer},
};

/// A running signaling server, with its embedded relay if it has one.
pub struct Server {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    relay: Option<Relay>,
    summary: Vec<String>,
    ready: Readiness,
    shards: Arc<Shards>,
    tasks: TaskTracker,
    stop: CancellationToken,
    drivers: JoinSet<()>,
}

impl Server {
    /// Opens every socket, then starts. Must run inside a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// One line that says what to do: a taken port, an unusable certificate, an address that is not ours.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let identity = identity(&settings.tls, settings.listen.ip())?;
        let socket = listen::bind(settings.listen).map_err(|error| {
            StartError::bind(
                "signaling",
                settings.listen,
                &error,
                "choose another address with --listen IP:PORT",
            )
        })?;
        let address = local_address(&socket)?;
        let admin = settings.admin.map(Admin::bind).transpose()?;
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        let authority = Arc::new(settings.access.open()?);
        let (relay, ice) = relay(&settings, &mut registry)?;
        let summary = summary(&settings, address, &identity, relay.as_ref(), admin.as_ref());

        let ice = Arc::new(IceIssuer::new(ice, settings.credential_lifetime));
        let (shards, drivers) = Shards::new(settings.shards, &settings.limits, &ice, &authority, &metrics);
        let shards = Arc::new(shards);
        let (tasks, stop, ready) = (TaskTracker::new(), CancellationToken::new(), Readiness::default());
        let app = Arc::new(App {
            gate: Gate::new(settings.public, settings.allowed),
            authority,
            shards: shards.clone(),
            metrics: metrics.clone(),
            reports: Arc::new(Reports::new(&settings.relay, metrics.clone())),
            outbox: OutboxLimits {
                frames: settings.limits.replay_messages + OUTBOX_EXTRA_FRAMES,
                bytes: settings.limits.replay_bytes + OUTBOX_EXTRA_BYTES,
            },
            budget: Arc::new(Budget::new(
                settings.limits.replay_total_bytes.saturating_mul(settings.shards),
                settings.limits.replay_reserve + settings.limits.peers_per_room * SNAPSHOT_BYTES,
            )),
            keyed: KeyedConnections::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let listener = Listener {
            routes: routes::router(app),
            tls: identity.map(|identity| TlsAcceptor::from(identity.config)),
            admission: Admission::new(settings.connections),
            forwarding: Arc::new(settings.forwarding),
            metrics,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(listener.serve(socket));
        let admin_address = admin.as_ref().and_then(|admin| admin.address().tcp());
        if let Some(admin) = admin {
            let routes = admin::routes(Arc::new(registry), ready.clone());
            tokio::spawn(admin.serve(routes, stop.clone().cancelled_owned()));
        }
        let drivers = drivers.into_iter().collect();
        ready.set(true);
        Ok(Self { address, admin: admin_address, relay, summary, ready, shards, tasks, stop, drivers })
    }

    /// Where the page and the signaling are served; the real port where port 0 was asked for.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics and health are answered, if anywhere.
    #[must_use]
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Where the embedded relay listens, UDP and TCP alike; empty without one.
    #[must_use]
    pub fn relay_addresses(&self) -> &[SocketAddr] {
        self.relay.as_ref().map_or(&[], Relay::listen_addresses)
    }

    /// What to open and what is running, in a few lines for a person.
    #[must_use]
    pub fn summary(&self) -> &[String] {
        &self.summary
    }

    /// Resolves if a shard ends by itself, which only a bug can bring about: its rooms are dead, so the process
    /// had better be started anew.
    pub async fn failed(&mut self) {
        if self.drivers.join_next().await.is_none() {
            std::future::pending().await
        }
    }

    /// Closes every connection with 4000, waits a moment for them, and stops the relay.
    pub async fn stop(mut self) {
        self.ready.set(false);
        self.stop.cancel();
        self.shards.drain().await;
        self.tasks.close();
        if timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            warn!(connections = self.tasks.len(), "some connections did not take their leave in time");
        }
        self.drivers.abort_all();
        if let Some(relay) = self.relay {
            // It joins threads.
            let _ = tokio::task::spawn_blocking(move || relay.shutdown()).await;
        }
        info!("stopped");
    }
}

fn identity(tls: &Tls, listen: IpAddr) -> Result<Option<Identity>, StartError> {
    let identity = match tls {
        Tls::Off => return Ok(None),
        Tls::SelfSigned => tls::self_signed(&reachable(listen)),
        Tls::Files { cert, key } => tls::from_files(cert, key),
    };
    identity.map(Some).map_err(|error| StartError::new(format!("tls: {error}")))
}

/// The addresses under which a listener can be reached: its own, or those of this machine.
fn reachable(listen: IpAddr) -> Vec<IpAddr> {
    if !listen.is_unspecified() {
        return vec![listen];
    }
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .iter()
        .filter(|interface| !interface.is_link_local() && (listen.is_ipv6() || interface.ip().is_ipv4()))
        .map(if_addrs::Interface::ip)
        .collect();
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    addresses
}

fn local_address(socket: &TcpListener) -> Result<SocketAddr, StartError> {
    socket
        .local_addr()
        .map_err(|error| StartError::new(format!("cannot tell the address of the listener: {error}")))
}

/// Starts the embedded relay if there is to be one, and says what sessions are told.
fn relay(settings: &Settings, registry: &mut Registry) -> Result<(Option<Relay>, turn::Relay), StartError> {
    let listen = match &settings.relay {
        RelayChoice::None => return Ok((None, turn::Relay::None)),
        RelayChoice::External { urls, secret } => {
            return Ok((None, turn::Relay::External { urls: urls.clone(), secret: secret.clone() }));
        }
        RelayChoice::Embedded { listen } => *listen,
    };
    let secret = Secret::new(rand::random::<[u8; 32]>());
    let config = relay_config::Config {
        listen: vec![listen.to_string()],
        realm: Some("signaling".to_owned()),
        ..relay_config::Config::default()
    };
    let relay = relay_config::Settings::new(&config, vec![secret.clone()])
        .and_then(|settings| Relay::start(settings, registry))
        .map_err(|error| {
            StartError::new(format!(
                "the embedded relay: {error} (here: --relay-listen IP:PORT to move it, --no-embedded-relay to do \
                 without, --turn-url to use another)"
            ))
        })?;
    let port = relay.listen_addresses().first().map_or_else(|| listen.port(), SocketAddr::port);
    let public = settings.public.as_ref().map(|public| public.host().clone());
    Ok((Some(relay), turn::Relay::Embedded { ip: listen.ip(), port, public, secret }))
}

fn summary(
    settings: &Settings,
    address: SocketAddr,
    identity: &Option<Identity>,
    relay: Option<&Relay>,
    admin: Option<&Admin>,
) -> Vec<String> {
    let scheme = if identity.is_some() { "https" } else { "http" };
    let mut lines = vec!["signaling is ready".to_owned()];
    for link in links(scheme, settings.public.as_ref(), address) {
        lines.push(format!("  open     {link}"));
    }
    match (identity, &settings.tls) {
        (Some(identity), Tls::SelfSigned) => {
            lines.push(
                "  tls      self-signed: the browser warns once; compare the SHA-256 fingerprint".to_owned(),
            );
            lines.push(format!("           {}", identity.fingerprint));
        }
        (Some(_), Tls::Files { .. } | Tls::Off) => lines.push("  tls      certificate from file".to_owned()),
        (None, _) if !address.ip().is_loopback() && settings.public.is_none() => lines.push(
            "  tls      off: browsers give other devices no camera over plain http (try --tls self-signed)"
                .to_owned(),
        ),
        (None, _) => {}
    }
    lines.push(format!("  enter    {}", settings.access.summary()));
    lines.push(match (&settings.relay, relay) {
        (RelayChoice::External { urls, .. }, _) => format!("  relay    {}", urls.join(", ")),
        (RelayChoice::Embedded { .. }, Some(relay)) => {
            let addresses: Vec<String> = relay.listen_addresses().iter().map(SocketAddr::to_string).collect();
            format!("  relay    embedded, {} (UDP and TCP), with a secret of this run", addresses.join(", "))
        }
        (RelayChoice::None | RelayChoice::Embedded { .. }, _) => {
            "  relay    none: peers that cannot reach each other directly will not connect".to_owned()
        }
    });
    if let Some(admin) = admin {
        lines.push(format!("  metrics  {}/metrics", admin.address()));
    }
    lines
}

/// What to type into a browser: the public address, or every address of the listener.
fn links(scheme: &str, public: Option<&Origin>, address: SocketAddr) -> Vec<String> {
    if let Some(public) = public {
        return vec![format!("{public}/")];
    }
    let mut links: Vec<String> = reachable(address.ip())
        .into_iter()
        .filter(|ip| !ip.is_loopback())
        .map(|ip| format!("{scheme}://{}/", SocketAddr::new(ip, address.port())))
        .collect();
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        // Only one of the two loopback addresses may be ours, and a browser tries both for this name.
        links.insert(0, format!("{scheme}://localhost:{}/", address.port()));
    }
    links
}

/// One peer in a `welcome` at most: 400 bytes with the longest name, and some for the keys that may be added.
pub(crate) const SNAPSHOT_BYTES: usize = 512;
/// A replay comes behind a `welcome`, and others go on talking meanwhile.
const OUTBOX_EXTRA_FRAMES: usize = 128;
pub(crate) const OUTBOX_EXTRA_BYTES: usize = 256 * 1024;
/// A goodbye takes at most twice two seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
