//! Listen addresses that come and go with a reload.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use super::handover;
use crate::listen::inherited::{self, Inherited};
use crate::listen::listeners::{Change, Leaving};
use crate::listen::{self, Listener};
use crate::operation::{StartError, supervisor};

/// What is served now.
#[derive(Debug)]
pub(super) struct Listening {
    /// As asked for, and where it is.
    served: Vec<(SocketAddr, SocketAddr)>,
    /// What serves its last clients.
    leaving: Vec<Arc<Leaving>>,
    /// Asked for, of a family that this host lacks.
    absent: Vec<SocketAddr>,
    /// What was handed over is served in the place of the default addresses.
    pub(super) is_handed_over: bool,
}

/// A change that cannot fail any more: its sockets are open.
#[derive(Debug)]
pub(super) struct Plan {
    after: Listening,
    /// One per worker.
    pub(super) changes: Vec<Change>,
    copies: Vec<(String, OwnedFd)>,
    closing: Vec<SocketAddr>,
    workers: usize,
}

impl Listening {
    /// What the workers' listeners are, and what was asked for.
    pub(super) fn new(workers: &[Vec<Listener>], asked: &[SocketAddr], is_handed_over: bool) -> Self {
        let served = addresses(workers);
        let absent = absent(&served, asked);
        Self { served, leaving: Vec::new(), absent, is_handed_over }
    }

    /// Where clients are served, and where the last ones are.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        let leaving = self.leaving.iter().map(|leaving| leaving.address());
        self.served.iter().map(|(_, real)| *real).chain(leaving).collect()
    }

    /// Addresses that are on their way out.
    pub(super) fn leaving(&self) -> Vec<Arc<Leaving>> {
        self.leaving.clone()
    }

    /// Opens what `listen` has beyond what is served. The caller holds what is leaving, and has had closed what is over.
    ///
    /// # Errors
    /// One line: taken, not ours, not permitted.
    pub(super) fn plan(
        &self,
        listen: &[SocketAddr],
        skip_missing: bool,
        workers: NonZeroUsize,
    ) -> Result<Plan, StartError> {
        let mut gone = self.served.clone();
        let (mut served, mut new) = (Vec::new(), Vec::new());
        for address in listen.iter().filter(|at| !self.absent.contains(at)) {
            // What was any port may be written out by now.
            match gone.iter().position(|(asked, real)| asked == address || real == address) {
                Some(at) => served.push((*address, gone.remove(at).1)),
                None => new.push(*address),
            }
        }
        let (back, new): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|at| self.leaving.iter().any(|leaving| leaving.address() == *at));
        self.refuse_overlap(&new)?;
        let opened = listen::open(&new, skip_missing, workers, Inherited::default())?;
        served.extend(addresses(&opened));
        let mut copies = handover::copies(&opened);
        let leaving: Vec<Arc<Leaving>> =
            gone.iter().map(|(_, real)| Leaving::new(*real, workers.get())).collect();
        let mut changes: Vec<Change> = opened
            .into_iter()
            .map(|new| Change { new, leaving: leaving.clone(), back: Vec::new() })
            .collect();
        for address in &back {
            let sockets = listen::open_tcp(*address, workers)?;
            for (worker, (change, socket)) in changes.iter_mut().zip(sockets).enumerate() {
                copies.extend(handover::copy(inherited::name(*address, true, worker), socket.as_fd()));
                change.back.push((*address, socket));
            }
            served.push((*address, *address));
        }
        let stay = self.leaving.iter().filter(|leaving| !back.contains(&leaving.address())).cloned();
        let absent = absent(&served, listen);
        let leaving = stay.chain(leaving).collect();
        let after = Self { served, leaving, absent, is_handed_over: self.is_handed_over };
        let closing = gone.into_iter().map(|(_, real)| real).collect();
        Ok(Plan { after, changes, copies, closing, workers: workers.get() })
    }

    /// A wildcard and an address of the same port: the kernel spreads clients over the sockets of one otherwise than over
    /// those of the other, so clients that are here would arrive at workers that do not know them.
    fn refuse_overlap(&self, new: &[SocketAddr]) -> Result<(), StartError> {
        let overlap = |one: SocketAddr, other: SocketAddr| {
            let is_wildcard = one.ip().is_unspecified() != other.ip().is_unspecified();
            is_wildcard && one.port() == other.port() && one.is_ipv4() == other.is_ipv4()
        };
        for address in new {
            if let Some(here) = self.all().iter().find(|here| overlap(**here, *address)) {
                return Err(StartError::new(format!(
                    "listen: {address} cannot take the place of {here} or stand beside it under live clients; restart for that"
                )));
            }
        }
        Ok(())
    }

    /// Forgets what is over.
    pub(super) fn forget_closed(&mut self) {
        self.leaving.retain(|leaving| *leaving.hold() > 0);
    }

    /// What the plan says is so from now on: the workers have their changes.
    pub(super) fn follow(&mut self, plan: Plan) {
        for address in plan.closing {
            for worker in 0..plan.workers {
                supervisor::forget(&inherited::name(address, true, worker));
            }
        }
        for (name, socket) in plan.copies {
            supervisor::store(&name, &socket);
        }
        *self = plan.after;
    }
}

impl Plan {
    /// What is served after it.
    pub(super) fn all(&self) -> Vec<SocketAddr> {
        self.after.all()
    }
}

fn absent(served: &[(SocketAddr, SocketAddr)], asked: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_served = |at: &SocketAddr| served.iter().any(|(asked, _)| asked == at);
    asked.iter().copied().filter(|at| !is_served(at)).collect()
}

fn addresses(workers: &[Vec<Listener>]) -> Vec<(SocketAddr, SocketAddr)> {
    workers.first().into_iter().flatten().map(|listener| (listener.asked, listener.address)).collect()
}
