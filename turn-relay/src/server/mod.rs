//! Opens the listeners and starts one worker thread per core; the only place that knows all of them.

mod addresses;
mod certificates;
mod drain;
mod handover;
mod listening;
mod reload;
mod watchdog;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use prometheus_client::registry::Registry;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::admin::Operator;
use crate::config::Settings;
use crate::datapath::inbox::Mailbox;
use crate::datapath::outgoing;
use crate::datapath::{Worker, Workplace};
use crate::hook::{self, HookWork};
use crate::journal::Journal;
use crate::listen::admission::Admission;
use crate::listen::inherited::Inherited;
use crate::listen::tls::Certificates;
use crate::listen::{self, Listener};
use crate::metrics::{Counters, Totals};
pub use crate::operation::StartError;
use crate::operation::supervisor;
use crate::policy::PeerPolicy;
use crate::relay::{Relay, RelaySettings, Shared, WorkerIndex};
use crate::sys::{descriptors, inherited};
use crate::xdp;
pub use addresses::watch_addresses;
pub use certificates::watch_certificates;
pub use drain::Stopping;
use listening::Listening;
pub use reload::{Control, Reloaded, Reloader};
pub use watchdog::guard;

/// A running relay. Dropping it stops it, as [`Server::shutdown`] does.
#[derive(Debug)]
pub struct Server {
    listen: Vec<SocketAddr>,
    relay_addresses: Vec<IpAddr>,
    control: Control,
    operator: Operator,
    hook_work: Option<HookWork>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens every listener, then starts the workers; either all of it runs or none. Metrics are registered in `registry`
    /// under the prefix `turn_relay_`. The threads are the server's own: no async runtime is needed around it.
    ///
    /// A worker that dies of a bug takes the whole process down: half a relay is worse than a restarted one.
    ///
    /// # Errors
    /// One line: a port that is taken (also by another copy of this program), an address that this host does not have.
    pub fn start(settings: Settings, registry: &mut Registry) -> Result<Self, StartError> {
        Self::open(settings, registry, Inherited::default(), false)
    }

    /// The same for a program that is a service of its own: takes the listening sockets that it was handed over (`LISTEN_FDS`),
    /// and hands its own to the supervisor (`NOTIFY_SOCKET`) for the process that comes after it.
    ///
    /// # Errors
    /// As [`Server::start`], and for sockets that cannot be served as they are.
    pub fn start_supervised(mut settings: Settings, registry: &mut Registry) -> Result<Self, StartError> {
        let refused = |error| StartError::new(format!("cannot take the sockets of LISTEN_FDS: {error}"));
        let inherited = Inherited::new(inherited::take().map_err(refused)?)?;
        let is_handed_over = settings.listen_is_default && !inherited.addresses().is_empty();
        if is_handed_over {
            settings.listen = inherited.addresses();
        }
        Self::open(settings, registry, inherited, is_handed_over)
    }

    fn open(
        settings: Settings,
        registry: &mut Registry,
        inherited: Inherited,
        is_handed_over: bool,
    ) -> Result<Self, StartError> {
        match descriptors::raise_limit() {
            Ok(limit) => tracing::debug!(limit, "open descriptors"),
            Err(error) => tracing::warn!("the limit on open descriptors stays low: {error}"),
        }
        let listeners =
            listen::open(&settings.listen, settings.listen_is_default, settings.threads, inherited)?;
        tracing::info!("{}", outgoing::features());
        let handover = handover::copies(&listeners);
        let listening = Listening::new(&listeners, &settings.listen, is_handed_over);
        let listen = listening.all();
        let drivers = xdp::open(&settings.xdp, settings.threads)?;
        let relay_settings = Arc::new(relay_settings(&settings, &listen));
        let shared = Arc::new(Shared::new(&relay_settings, Instant::now(), &mut rand::rng()));

        let certificates = Certificates::new(&settings.identities)?;
        let admission = Arc::new(Admission::new(settings.rules.clone(), certificates));
        let workplaces = listeners
            .into_iter()
            .map(|listeners| workplace(listeners, &admission))
            .collect::<Result<Vec<_>, _>>()?;
        let mailboxes: Vec<Mailbox> = workplaces.iter().map(Workplace::mailbox).collect();
        let counters: Vec<Arc<Counters>> = workplaces.iter().map(|_| Arc::default()).collect();
        registry
            .sub_registry_with_prefix("turn_relay")
            .register_collector(Box::new(Totals(counters.clone())));
        let operator = Operator::new(mailboxes.clone(), Arc::clone(&shared), Totals(counters.clone()));

        let relay_metrics = registry.sub_registry_with_prefix("turn_relay");
        let (queues, hook_work) = hook::open(&settings.hooks, &settings.realm, &operator, relay_metrics)?;
        let log_addresses = settings.log_addresses;
        let mut server = Self {
            listen,
            relay_addresses: relay_settings.relay_addresses.iter().map(|address| address.ip).collect(),
            control: Control::new(
                settings,
                listening,
                mailboxes.clone(),
                Arc::clone(&shared),
                admission,
                queues.forget.clone(),
            ),
            operator,
            hook_work: Some(hook_work),
            threads: Vec::new(),
        };
        let mut drivers = drivers.into_iter();
        for ((number, workplace), counters) in (0..).zip(workplaces).zip(counters) {
            let index = WorkerIndex(number);
            let rng = ChaCha20Rng::from_rng(&mut rand::rng());
            let relay = Relay::new(Arc::clone(&relay_settings), Arc::clone(&shared), index, rng);
            let journal = Journal::new(Arc::clone(&counters), log_addresses).with_usage(queues.usage.clone());
            let worker = Worker::new(
                workplace,
                mailboxes.clone(),
                relay,
                Arc::clone(&shared),
                counters,
                journal,
                queues.asks.clone(),
            )
            .with_driver(drivers.next());
            // Dropping `server` on an error stops the workers that already run.
            server.threads.push(spawn(index, worker)?);
        }
        for (name, socket) in handover {
            supervisor::store(&name, &socket);
        }
        Ok(server)
    }

    /// Where clients are served, over every transport alike, wildcard addresses last; real ports where port 0 was asked for.
    #[must_use]
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where relayed transport addresses are opened.
    #[must_use]
    pub fn relay_addresses(&self) -> &[IpAddr] {
        &self.relay_addresses
    }

    /// For whoever changes the running server: signals, the admin listener.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What the hooks have to do, once: run it on an async runtime. Until then nobody hears of anything.
    #[must_use]
    pub fn take_hook_work(&mut self) -> HookWork {
        self.hook_work.take().unwrap_or_default()
    }

    /// For the admin API: sees and ends allocations.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator.clone()
    }

    /// Stops serving, closes every socket, and waits for the workers to end.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control.stop();
        for thread in self.threads.drain(..) {
            // A worker that failed has taken the process with it; there is nothing to hear here.
            let _ = thread.join();
        }
    }
}

fn relay_settings(settings: &Settings, listen: &[SocketAddr]) -> RelaySettings {
    RelaySettings {
        credentials: settings.credentials(),
        policy: PeerPolicy::new(settings.allow_peers.clone(), settings.deny_peers.clone()),
        relay_addresses: settings.relay_addresses.clone(),
        own_addresses: listen::host_addresses(),
        listeners: listen.to_vec(),
        ports: (settings.ports.first, settings.ports.last),
        limits: settings.limits,
        strict_channels: settings.strict_channels,
        nat_discovery: settings.nat_discovery,
        mobility: settings.mobility,
        authorization_hook: settings.hooks.auth.is_some(),
    }
}

fn workplace(listeners: Vec<Listener>, admission: &Arc<Admission>) -> Result<Workplace, StartError> {
    Workplace::new(listeners, Arc::clone(admission))
        .map_err(|error| StartError::new(format!("cannot start a worker: {error}")))
}

fn spawn(index: WorkerIndex, worker: Worker) -> Result<JoinHandle<()>, StartError> {
    let body = move || {
        let ended = std::panic::catch_unwind(AssertUnwindSafe(|| worker.run()));
        if !matches!(ended, Ok(Ok(()))) {
            fail(index, ended);
        }
    };
    let name = format!("turn-relay-{}", index.0);
    let refused = |error: io::Error| StartError::new(format!("cannot start a worker thread: {error}"));
    std::thread::Builder::new().name(name).spawn(body).map_err(refused)
}

/// Ends the process: clients of the dead worker would hang until their allocations expire, and nobody would know.
fn fail(index: WorkerIndex, ended: std::thread::Result<io::Result<()>>) -> ! {
    let cause = match ended {
        Ok(Ok(())) => "no cause".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a panic, reported above".to_owned(),
    };
    tracing::error!(worker = index.0, "a relay worker died and the process ends: {cause}");
    std::process::exit(EXIT_WORKER_DIED)
}

/// `EX_SOFTWARE` of sysexits.h: an internal error, as opposed to a refused start.
const EXIT_WORKER_DIED: i32 = 70;
