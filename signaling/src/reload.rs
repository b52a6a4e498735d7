//! New settings for a running server, all of them or none. Connections and sessions stay.
//!
//! Only what can fail comes first (files, the TLS library), so a reload that fails has changed nothing. The parts then switch one
//! after the other within a moment: a newcomer of that moment may be met by either.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use turn_relay::operation::{
    Readiness, StartError, access::CurrentAccess, certificate_watch, changes, hook::Hook, telemetry::Levels,
};

use crate::{
    authority::{Authority, CurrentAuthority},
    config::{Changes, DrainRules, RelayChoice, Settings, Tls},
    metrics::Metrics,
    outbox::Budget,
    revocation::{CurrentReach, Hand, Reach},
    rules::{CurrentRules, Rules},
    shard::{Letter, Shards},
    tls::{self, ServedCertificate},
    transport::admission::Admission,
    turn::{self, IceIssuer},
    watchdog,
    webhook::{self, CurrentHook},
};

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// What changed, for a person: one entry per key, without secrets.
    pub changed: Vec<String>,
    /// Keys that were changed and need a restart; their old values stay in force.
    pub needs_restart: Vec<&'static str>,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        changes::summary(f, &self.changed, &self.needs_restart)
    }
}

/// The parts of a running server that a reload changes.
pub(crate) struct Reins {
    /// What holds now. Locked for the whole of a change, so that changes come one after the other.
    pub(crate) settings: Mutex<Settings>,
    pub(crate) rules: CurrentRules,
    pub(crate) authority: CurrentAuthority,
    pub(crate) webhook: CurrentHook,
    pub(crate) reach: CurrentReach,
    pub(crate) access: CurrentAccess,
    pub(crate) admission: Admission,
    pub(crate) budget: Arc<Budget>,
    pub(crate) ice: Arc<IceIssuer>,
    pub(crate) shards: Arc<Shards>,
    /// `None` without TLS.
    pub(crate) certificate: Option<Arc<ServedCertificate>>,
    /// Cleared while newcomers are turned away.
    pub(crate) ready: Readiness,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled at the end.
    pub(crate) stop: CancellationToken,
}

/// Changes the server while it runs. Clones control the same server; after its end they change nothing any more.
#[derive(Clone)]
pub struct Control(pub(crate) Arc<Reins>);

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control(..)")
    }
}

impl Control {
    /// Puts `new` into force. Blocks until every shard has heard of it: not for a thread of the runtime.
    ///
    /// # Errors
    /// One line; nothing has changed then.
    pub fn reload(&self, new: Settings, levels: Option<&Levels>) -> Result<Reloaded, StartError> {
        let mut settings = self.settings();
        let Changes { mut changed, needs_restart, new } = settings.changes_to(new);
        let certificate = self.load(&new.tls)?;
        let Opened { authority, webhook, hand } = Opened::of(&settings, &new)?;
        if let Some(levels) = levels {
            levels.set(new.log.level.as_deref())?;
        }
        changed.extend(certificate.and_then(|certificate| self.serve(certificate)));
        let Reins { rules, admission, budget, ice, shards, reach, access, .. } = &*self.0;
        if let Some(authority) = authority {
            self.0.authority.store(Arc::new(authority));
        }
        if let Some(webhook) = webhook {
            self.0.webhook.store(webhook);
        }
        let hand = hand.map_or_else(|| reach.load().hand.clone(), Arc::new);
        reach.store(Arc::new(Reach { hand, lifetime: new.credential_lifetime }));
        access.store(Arc::new(new.admin.access.clone()));
        rules.store(Arc::new(Rules::new(&new)));
        admission.limit(new.connections);
        budget.limit(new.outbox_total(), new.outbox_reserve());
        let relay = match &new.relay {
            RelayChoice::External { urls, secret } => {
                Some(turn::Relay::External { urls: urls.clone(), secret: secret.clone() })
            }
            RelayChoice::None | RelayChoice::Embedded { .. } => None,
        };
        ice.change(relay, new.credential_lifetime);
        shards.tell_blocking(|| Letter::Limits(Box::new(new.limits.clone())));
        *settings = new;
        Ok(Reloaded { changed, needs_restart })
    }

    /// Reads the certificate again, and nothing else; tells whether it is another one.
    ///
    /// # Errors
    /// One line; then nothing has changed.
    pub fn reload_certificate(&self) -> Result<bool, StartError> {
        let settings = self.settings();
        let certificate = self.load(&settings.tls)?;
        Ok(certificate.and_then(|certificate| self.serve(certificate)).is_some())
    }

    /// The files of the certificate and its key, if it is from files.
    #[must_use]
    pub fn certificate_files(&self) -> Vec<(PathBuf, PathBuf)> {
        match &self.settings().tls {
            Tls::Files { cert, key } => vec![(cert.clone(), key.clone())],
            Tls::Off | Tls::SelfSigned | Tls::Acme(_) => Vec::new(),
        }
    }

    /// Turns newcomers away and asks every client to leave; tells over which time they do.
    pub async fn send_away(&self) -> Duration {
        let DrainRules { window, url } = self.settings().drain.clone();
        let Reins { ready, shards, .. } = &*self.0;
        ready.set(false);
        let url = url.map(|url| url.to_string().into_boxed_str());
        shards.tell(|| Letter::GoAway(window, url.clone())).await;
        window
    }

    /// Calls that off: newcomers are welcome again. Who was asked to leave still may. False once the server ends.
    pub async fn call_off_drain(&self) -> bool {
        let Reins { ready, shards, stop, .. } = &*self.0;
        if stop.is_cancelled() {
            return false;
        }
        shards.tell(|| Letter::Stay).await;
        ready.set(true);
        if stop.is_cancelled() {
            ready.set(false);
        }
        !stop.is_cancelled()
    }

    /// Closes every connection, for good.
    pub(crate) async fn end(&self) {
        let Reins { ready, shards, stop, .. } = &*self.0;
        // In this order, so that a drain that is called off meanwhile leaves it at that.
        stop.cancel();
        ready.set(false);
        shards.tell(|| Letter::Drain).await;
        // Until they have done so: what they have to tell the webhook is in its queue then.
        watchdog::all_answer(shards, END_DEADLINE).await;
    }

    /// Sessions with a connection.
    pub(crate) fn sessions_here(&self) -> i64 {
        self.0.metrics.sessions_here.get()
    }

    fn load(&self, tls: &Tls) -> Result<Option<tls::Certificate>, StartError> {
        match tls {
            Tls::Files { cert, key } => {
                tls::load(cert, key).map(Some).map_err(|error| StartError::new(format!("tls: {error}")))
            }
            Tls::Off | Tls::SelfSigned | Tls::Acme(_) => Ok(None),
        }
    }

    /// Says so if it is another one.
    fn serve(&self, certificate: tls::Certificate) -> Option<String> {
        let served = self.0.certificate.as_ref()?;
        served.exchange(certificate).then(|| "certificate".to_owned())
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a reload opens anew, where it is another one: what stays keeps what it knows (keys that were read, answers of the hook).
struct Opened {
    authority: Option<Authority>,
    webhook: Option<Option<Arc<Hook>>>,
    hand: Option<Hand>,
}

impl Opened {
    fn of(old: &Settings, new: &Settings) -> Result<Self, StartError> {
        let authority = (old.access != new.access).then(|| new.access.open()).transpose()?;
        let webhook =
            (old.webhook != new.webhook).then(|| webhook::ready(new.webhook.as_ref())).transpose()?;
        let hand = (old.turn_admin != new.turn_admin)
            .then(|| Hand::of_other_relay(new.turn_admin.as_ref()))
            .transpose()?;
        Ok(Self { authority, webhook, hand })
    }
}

/// A shard has at most an inbox of letters before it.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Reads the configuration again and puts it into force: what SIGHUP and the admin API call.
#[derive(Clone)]
pub struct Reloader {
    control: Control,
    levels: Option<Levels>,
    read: Arc<dyn Fn() -> Result<Settings, StartError> + Send + Sync>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").field(&self.control).finish()
    }
}

impl Reloader {
    /// `read` gives the settings as they are written now: file, environment and flags. `levels` are those of the process's log.
    pub fn new(
        control: Control,
        levels: Option<Levels>,
        read: impl Fn() -> Result<Settings, StartError> + Send + Sync + 'static,
    ) -> Self {
        Self { control, levels, read: Arc::new(read) }
    }

    /// What it reloads.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Takes renewed certificates from their files without being told, until the process ends.
    pub fn watch_certificates(&self) {
        let (files, renewing) = (self.control.clone(), self.control.clone());
        certificate_watch::watch(move || files.certificate_files(), move || renewing.reload_certificate());
    }

    /// Reads and applies; says in one log line what came of it.
    ///
    /// # Errors
    /// One line that says what is wrong with the new configuration; everything stays as it was.
    pub async fn reload(&self) -> Result<Reloaded, StartError> {
        let Self { control, levels, read } = self.clone();
        let reload = move || changes::reload(|| control.reload(read()?, levels.as_ref()));
        let broken = |_| StartError::new("the reload broke off; see the log");
        tokio::task::spawn_blocking(reload).await.map_err(broken)?
    }
}
