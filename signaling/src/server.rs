//! Puts the parts together, opens everything or nothing, and ends it in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use prometheus_client::registry::Registry;
use rustls::server::ResolvesServerCert;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use turn_relay::{
    config as relay_config,
    credentials::Secret,
    operation::{Admin, Readiness, StartError, supervisor, telemetry::Levels},
    server::Server as Relay,
};

use crate::{
    acme,
    admin::{Console, Operator},
    authority::CurrentAuthority,
    config::{RelayChoice, Settings, Tls},
    metrics::Metrics,
    origin::Origin,
    otlp::{self, Export},
    outbox::Budget,
    reload::{Control, Reins, Reloader},
    report::Reports,
    revocation::{self, CurrentReach, Hand, Reach},
    routes::{self, App},
    rules::Rules,
    shard::{Shards, Surroundings},
    tls::{self, ServedCertificate},
    transport::{
        admission::Admission,
        keyed::KeyedConnections,
        listen::{self, Listener},
    },
    turn::{self, IceIssuer},
    watchdog,
    webhook::{self, CurrentHook},
};

/// A running signaling server, with its embedded relay if it has one.
pub struct Server {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    relay: Option<Relay>,
    summary: Vec<String>,
    reloader: Reloader,
    /// Posts what is left for the webhook, to its end.
    posting: JoinHandle<()>,
    export: Export,
    tasks: TaskTracker,
    drivers: JoinSet<()>,
}

/// Where a running server reads its configuration again.
pub type Source = Box<dyn Fn() -> Result<Settings, StartError> + Send + Sync>;

impl Server {
    /// Opens every socket, then starts. Must run inside a multi-threaded tokio runtime. Its configuration cannot be reloaded.
    ///
    /// # Errors
    /// One line that says what to do: a taken port, an unusable certificate, an address that is not ours.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let nowhere = || Err(StartError::new("there is no configuration to read again"));
        Self::start_reloadable(settings, None, Box::new(nowhere))
    }

    /// The same for a server whose configuration can be read again from `source`; `levels` are those of the process's log.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_reloadable(
        settings: Settings,
        levels: Option<Levels>,
        source: Source,
    ) -> Result<Self, StartError> {
        raise_limit();
        let certificate = certificate(&settings.tls, settings.listen.ip())?;
        let (socket, address) = bind(settings.listen)?;
        let admin = settings.admin.address.clone().map(Admin::bind).transpose()?;
        let mut registry = Registry::default();
        let metrics = Arc::new(Metrics::register(&mut registry));
        // What may still be wrong with a file comes before the relay, which says in its log that it runs.
        let authority: CurrentAuthority = Arc::new(ArcSwap::from_pointee(settings.access.open()?));
        let (relay, ice) = relay(&settings, &mut registry)?;
        let webhook: CurrentHook = Arc::new(ArcSwapOption::new(webhook::ready(settings.webhook.as_ref())?));
        let reach = reach(&settings, relay.as_ref())?;
        let summary = summary(&settings, address, certificate.as_ref(), relay.as_ref(), admin.as_ref());

        let ice = Arc::new(IceIssuer::new(ice, settings.credential_lifetime));
        let (events, posting) = webhook::open(&webhook, &mut registry);
        let posting = tokio::spawn(posting);
        let registry = Arc::new(registry);
        let (export, spans) = otlp::open(settings.otlp.as_ref(), &registry)?;
        let (revoker, revoking) = revocation::open(reach.clone());
        // It ends with the shards.
        tokio::spawn(revoking);
        let around = Surroundings {
            ice: ice.clone(),
            authority: authority.clone(),
            metrics: metrics.clone(),
            events,
            spans,
            revoker,
        };
        let (shards, drivers) = Shards::new(settings.shards, &settings.limits, &around);
        let shards = Arc::new(shards);
        let (tasks, stop, ready) = (TaskTracker::new(), CancellationToken::new(), Readiness::default());
        let access = Arc::new(ArcSwap::from_pointee(settings.admin.access.clone()));
        let certificate = certificate.map(|certificate| Arc::new(ServedCertificate::new(certificate)));
        let tls = acceptor(&settings, certificate.clone(), &metrics, &stop)?;
        let reins = Arc::new(Reins {
            rules: Arc::new(ArcSwap::from_pointee(Rules::new(&settings))),
            authority: authority.clone(),
            webhook,
            reach,
            access: access.clone(),
            admission: Admission::new(settings.connections),
            budget: Arc::new(Budget::new(settings.outbox_total(), settings.outbox_reserve())),
            settings: Mutex::new(settings),
            ice: ice.clone(),
            shards: shards.clone(),
            certificate,
            ready: ready.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        });
        let app = Arc::new(App {
            authority,
            rules: reins.rules.clone(),
            ready: ready.clone(),
            shards: shards.clone(),
            metrics: metrics.clone(),
            reports: Arc::new(Reports::new(ice, metrics.clone())),
            budget: reins.budget.clone(),
            keyed: KeyedConnections::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let listener = Listener {
            routes: routes::router(app),
            tls,
            admission: reins.admission.clone(),
            rules: reins.rules.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(listener.serve(socket));
        let reloader = Reloader::new(Control(reins), levels, source);
        let operator = Operator { shards: shards.clone(), metrics, since: std::time::Instant::now() };
        let console =
            Console { operator, reloader: reloader.clone(), access, registry, ready: ready.clone() };
        let admin = admin.and_then(|admin| serve_admin(admin, console, &stop, &tasks));
        tokio::spawn(stop.run_until_cancelled_owned(watchdog::guard(shards)));
        let drivers = drivers.into_iter().collect();
        ready.set(true);
        Ok(Self { address, admin, relay, summary, reloader, posting, export, tasks, drivers })
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

    /// For whoever reads the configuration again: SIGHUP, renewed certificates.
    #[must_use]
    pub const fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    /// Turns newcomers away and asks every client to leave, one after the other (`goaway`). Resolves when the last has left or
    /// the time for it is over; to give up waiting is to drop it.
    pub async fn drain(&self) {
        let control = self.reloader.control();
        let window = control.send_away().await;
        let sessions = control.sessions_here();
        let status = format!("draining: {sessions} clients have {} s to leave", window.as_secs());
        info!("{status}; a second signal closes them now");
        supervisor::stopping(&status);
        let ends = Instant::now() + window + LAST_DEPARTURE;
        while !window.is_zero() && control.sessions_here() > 0 && Instant::now() < ends {
            sleep(LOOK).await;
        }
    }

    /// Closes every connection with 4000, waits a moment for them, and stops the relay.
    pub async fn stop(mut self) {
        supervisor::stopping("closing");
        self.reloader.control().end().await;
        self.tasks.close();
        if timeout(STOP_DEADLINE, self.tasks.wait()).await.is_err() {
            warn!(connections = self.tasks.len(), "some connections did not take their leave in time");
        }
        self.drivers.shutdown().await;
        if let Some(relay) = self.relay {
            // It joins threads.
            let _ = tokio::task::spawn_blocking(move || relay.shutdown()).await;
        }
        // Its queue has ended with the shards.
        let (posted, ()) = tokio::join!(timeout(STOP_DEADLINE, self.posting), self.export.flush());
        if posted.is_err() {
            warn!("the webhook did not take the last events in time and they are lost");
        }
        info!("stopped");
    }
}

/// Every connection is a file. What the system refuses is said when it is missed.
fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(%error, "the limit of open files stays low");
    }
}

fn certificate(tls: &Tls, listen: IpAddr) -> Result<Option<tls::Certificate>, StartError> {
    let certificate = match tls {
        Tls::Off | Tls::Acme(_) => return Ok(None),
        Tls::SelfSigned => tls::self_signed(&reachable(listen)),
        Tls::Files { cert, key } => tls::load(cert, key),
    };
    certificate.map(Some).map_err(|error| StartError::new(format!("tls: {error}")))
}

fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let socket = listen::bind(listen).map_err(|error| {
        StartError::bind("signaling", listen, &error, "choose another address with --listen IP:PORT")
    })?;
    let address = socket
        .local_addr()
        .map_err(|error| StartError::new(format!("cannot tell the address of the listener: {error}")))?;
    Ok((socket, address))
}

/// Its address, if that is a port.
fn serve_admin(
    admin: Admin,
    console: Console,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Option<SocketAddr> {
    let (address, routes) = (admin.address().tcp(), console.routes(&admin));
    tasks.spawn(admin.serve(routes, stop.clone().cancelled_owned()));
    address
}

fn acceptor(
    settings: &Settings,
    certificate: Option<Arc<ServedCertificate>>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> Result<Option<TlsAcceptor>, StartError> {
    let certificates: Arc<dyn ResolvesServerCert> = match (&settings.tls, certificate) {
        (Tls::Acme(rules), _) => {
            let (certificates, renewal) = acme::open(rules, metrics.clone())?;
            tokio::spawn(stop.clone().run_until_cancelled_owned(renewal));
            certificates
        }
        (_, Some(certificate)) => certificate,
        (_, None) => return Ok(None),
    };
    let acme = matches!(settings.tls, Tls::Acme(_));
    let config = tls::config(certificates, settings.http2, acme)
        .map_err(|error| StartError::new(format!("tls: {error}")))?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// What takes the relay from sessions that are put out.
fn reach(settings: &Settings, relay: Option<&Relay>) -> Result<CurrentReach, StartError> {
    let hand = match relay {
        Some(relay) => Hand::Embedded(relay.operator()),
        None => Hand::of_other_relay(settings.turn_admin.as_ref())?,
    };
    let reach = Reach { hand: Arc::new(hand), lifetime: settings.credential_lifetime };
    Ok(Arc::new(ArcSwap::from_pointee(reach)))
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
    certificate: Option<&tls::Certificate>,
    relay: Option<&Relay>,
    admin: Option<&Admin>,
) -> Vec<String> {
    let scheme = if settings.tls == Tls::Off { "http" } else { "https" };
    let mut lines = vec!["signaling is ready".to_owned()];
    for link in links(scheme, settings.public.as_ref(), address) {
        lines.push(format!("  open     {link}"));
    }
    match (certificate, &settings.tls) {
        (Some(certificate), Tls::SelfSigned) => {
            lines.push(
                "  tls      self-signed: the browser warns once; compare the SHA-256 fingerprint".to_owned(),
            );
            lines.push(format!("           {}", certificate.fingerprint));
        }
        (_, Tls::Acme(rules)) => lines.push(format!("  tls      {}", rules.summary())),
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
pub(crate) const OUTBOX_EXTRA_FRAMES: usize = 128;
pub(crate) const OUTBOX_EXTRA_BYTES: usize = 256 * 1024;
/// For the client whose time comes last to be welcomed elsewhere before it is closed here.
const LAST_DEPARTURE: Duration = Duration::from_secs(2);
/// How often to look whether somebody is left: nobody notices a tenth of a second at the end of a process.
const LOOK: Duration = Duration::from_millis(100);
/// A goodbye takes at most twice two seconds.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
