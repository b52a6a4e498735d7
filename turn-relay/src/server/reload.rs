//! New settings for a running server, all of them or none.
//!
//! In this order, one reload at a time: the new settings are read and parsed, new listeners are opened, [`Shared`] takes the
//! settings in, then each worker switches between two packets and says so. Only what can fail comes first, so a reload that fails has changed nothing. Workers
//! switch within microseconds of each other and not in one instant: for that long a newcomer may be met by the old settings at
//! one worker and by the new ones at another, as it may be met by either if it comes a moment earlier or later.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::drain::Phase;
use super::listening::Listening;
use super::{StartError, relay_settings};
use crate::config::{Changes, Settings};
use crate::datapath::inbox::{Done, Mailbox, Order};
use crate::hook::authorization::Forget;
use crate::listen::admission::Admission;
use crate::operation::access::CurrentAccess;
use crate::operation::changes;
use crate::relay::{Drain, Shared};

/// Changes the server while it runs. Clones control the same server; after its end they change nothing any more.
#[derive(Clone)]
pub struct Control(Arc<Reins>);

pub(super) struct Reins {
    mailboxes: Vec<Mailbox>,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    answers: Forget,
    access: CurrentAccess,
    /// Locked after `settings`.
    listening: Mutex<Listening>,
    /// What holds now. Locked for the whole of a change, so that changes come one after the other.
    settings: Mutex<Settings>,
    /// Locked for the whole of a change, and before `settings`.
    phase: Mutex<Phase>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("workers", &self.0.mailboxes.len()).finish_non_exhaustive()
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reloaded {
    /// What changed, for a person: one entry per key, without secrets and passwords.
    pub changed: Vec<String>,
    /// Keys that were changed and need a restart; their old values stay in force.
    pub needs_restart: Vec<&'static str>,
    /// Allocations that ended because what authorised them is gone.
    pub ended_allocations: usize,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        changes::summary(f, &self.changed, &self.needs_restart)?;
        if self.ended_allocations > 0 {
            write!(f, "; allocations ended by it: {}", self.ended_allocations)?;
        }
        Ok(())
    }
}

impl Control {
    pub(super) fn new(
        settings: Settings,
        listening: Listening,
        mailboxes: Vec<Mailbox>,
        shared: Arc<Shared>,
        admission: Arc<Admission>,
        answers: Forget,
    ) -> Self {
        let access = Arc::new(ArcSwap::from_pointee(settings.admin_access.clone()));
        let (settings, phase) = (Mutex::new(settings), Mutex::default());
        let listening = Mutex::new(listening);
        Self(Arc::new(Reins { mailboxes, shared, admission, answers, access, listening, settings, phase }))
    }

    /// Who may use the admin API on ports, now and after every reload.
    pub(crate) fn access(&self) -> &CurrentAccess {
        &self.0.access
    }

    /// Puts `new` into force. Blocks until every worker has switched.
    ///
    /// # Errors
    /// One line; nothing has changed then.
    pub fn reload(&self, new: Settings) -> Result<Reloaded, StartError> {
        self.change(&mut self.settings(), new)
    }

    pub(super) fn change(&self, settings: &mut Settings, mut new: Settings) -> Result<Reloaded, StartError> {
        let mut listening = self.0.listening();
        if new.listen_is_default && listening.is_handed_over {
            new.listen.clone_from(&settings.listen);
        }
        let Changes { changed, needs_restart, new } = settings.changes_to(new);
        // What is over closes now at the latest, and what is not can be taken back as long as it is held.
        self.0.order(|| Order::Answer);
        listening.forget_closed();
        let leaving = listening.leaving();
        let held: Vec<_> = leaving.iter().map(|leaving| leaving.hold()).collect();
        let mut plan = listening.plan(&new.listen, new.listen_is_default, self.0.workers())?;
        // Addresses of this host may have changed although no key has: the workers always get what was read.
        let relay = Arc::new(relay_settings(&new, &plan.all()));
        let certificates = self.0.admission.certificates();
        let served = certificates.prepare(&new.identities)?;
        let refused = |error| StartError::new(format!("relay_address: {error}; restart to use others"));
        self.0.shared.apply(&relay).map_err(refused)?;
        certificates.install(served);
        self.0.admission.install(new.rules.clone());
        self.0.answers.all();
        self.0.access.store(Arc::new(new.admin_access.clone()));
        let log_addresses = new.log_addresses;
        let mut listen = std::mem::take(&mut plan.changes).into_iter();
        let done = self.0.order(|| {
            let listen = listen.next().unwrap_or_default();
            Order::Settings { relay: Arc::clone(&relay), log_addresses, listen }
        });
        drop(held);
        listening.follow(plan);
        *settings = new;
        Ok(Reloaded { changed, needs_restart, ended_allocations: done.iter().map(|done| done.ended).sum() })
    }

    /// Sends newcomers elsewhere from now on (RFC 8489 section 10) while clients that are here run on; with `None`, takes that
    /// back. Blocks until every worker knows.
    pub fn drain(&self, drain: Option<Drain>) {
        let drain = drain.map(Arc::new);
        // One change at a time.
        let _settings = self.settings();
        self.0.order(|| Order::Drain(drain.clone()));
    }

    /// Tells the workers to end.
    pub(super) fn stop(&self) {
        for mailbox in &self.0.mailboxes {
            mailbox.stop();
        }
    }

    pub(super) fn reins(&self) -> &Reins {
        &self.0
    }

    /// The same server with one worker more.
    #[cfg(test)]
    pub(super) fn with_worker(&self, settings: Settings, mailbox: Mailbox) -> Self {
        let listening = Listening::new(&[], &[], false);
        let mut mailboxes = self.0.mailboxes.clone();
        mailboxes.push(mailbox);
        let (admission, answers) = (Arc::clone(&self.0.admission), self.0.answers.clone());
        Self::new(settings, listening, mailboxes, Arc::clone(&self.0.shared), admission, answers)
    }

    pub(super) fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.0.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reins {
    pub(super) fn allocations(&self) -> u32 {
        self.shared.allocations()
    }

    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.mailboxes.len()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Gives every worker its order, the first one first, and waits for all of them.
    fn order(&self, mut order: impl FnMut() -> Order) -> Vec<Done> {
        let (sender, answers) = channel();
        for mailbox in &self.mailboxes {
            mailbox.order(order(), sender.clone());
        }
        drop(sender);
        // Ends when the last worker has answered, or has ended, which drops its sender.
        answers.into_iter().collect()
    }

    /// Whether all of them carry out an order that is none, within `patience`.
    pub(super) fn all_answer(&self, patience: Duration) -> bool {
        let (sender, answers) = channel();
        for mailbox in &self.mailboxes {
            mailbox.order(Order::Answer, sender.clone());
        }
        let until = Instant::now() + patience;
        let in_time = || answers.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok();
        self.mailboxes.iter().all(|_| in_time())
    }
}

/// Reads the configuration again and puts it into force: what SIGHUP and the admin listener call.
#[derive(Clone)]
pub struct Reloader {
    control: Control,
    read: Arc<dyn Fn() -> Result<Settings, StartError> + Send + Sync>,
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reloader").field(&self.control).finish()
    }
}

impl Reloader {
    /// `read` gives the settings as they are written now: file, environment and flags.
    pub fn new(
        control: Control,
        read: impl Fn() -> Result<Settings, StartError> + Send + Sync + 'static,
    ) -> Self {
        Self { control, read: Arc::new(read) }
    }

    /// What it reloads.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Reads and applies; says in one log line what came of it. Blocks for as long as files take to read and workers to switch.
    ///
    /// # Errors
    /// One line that says what is wrong with the new configuration; everything stays as it was.
    pub fn reload(&self) -> Result<Reloaded, StartError> {
        changes::reload(|| (self.read)().and_then(|settings| self.control.reload(settings)))
    }
}
