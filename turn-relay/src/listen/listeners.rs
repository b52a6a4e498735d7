//! One worker's listeners. A reload adds some and takes others away; those stay for as long as their clients.
//!
//! What TCP and TLS clients need is their connection, so a listening TCP socket closes at once. UDP and DTLS clients need the
//! socket that they came in through: it serves those who are there and nobody else, and closes when no worker has any left. All
//! workers close at once, for the kernel spreads clients by the number of sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::{Listener, inherited};
use crate::operation::supervisor;

/// An address on its way out, as all workers see it.
#[derive(Debug)]
pub(crate) struct Leaving {
    address: SocketAddr,
    /// Workers with clients on it. At 0 everybody closes, and there is no way back.
    needed_by: Mutex<usize>,
}

impl Leaving {
    pub(crate) fn new(address: SocketAddr, workers: usize) -> Arc<Self> {
        Arc::new(Self { address, needed_by: Mutex::new(workers) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many workers need it. As long as this is held, that does not change.
    pub(crate) fn hold(&self) -> MutexGuard<'_, usize> {
        self.needed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is over. `done` tells that one worker fewer needs it. Waits for nobody: who holds it is asked another time.
    fn is_over(&self, done: &mut bool, is_needed: impl FnOnce() -> bool) -> bool {
        let mut needed_by = match self.needed_by.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !*done && !is_needed() {
            *done = true;
            *needed_by = needed_by.saturating_sub(1);
            if *needed_by == 0 {
                tracing::info!("no client is left on {}; it is closed", self.address);
            }
        }
        *needed_by == 0
    }
}

/// What a reload changes for one worker.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) new: Vec<Listener>,
    pub(crate) leaving: Vec<Arc<Leaving>>,
    /// Addresses that were on their way out and are not any more.
    pub(crate) back: Vec<(SocketAddr, mio::net::TcpListener)>,
}

/// Which socket of the listener with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Udp,
    Tcp,
}

/// One worker's listeners, each with an index that stays.
#[derive(Debug)]
pub(crate) struct Listeners {
    places: Vec<Option<Place>>,
    /// Indices, wildcards last: a specific address wins.
    order: Vec<usize>,
    token: fn(Side, usize) -> Token,
    look: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    listener: Listener,
    leaving: Option<Arc<Leaving>>,
    /// This worker does not need it any more.
    done: bool,
}

impl Listeners {
    /// Registers the sockets of all of them under what `token` makes of their index.
    ///
    /// # Errors
    /// When the kernel has no room.
    pub(crate) fn new(
        registry: &Registry,
        listeners: Vec<Listener>,
        token: fn(Side, usize) -> Token,
    ) -> io::Result<Self> {
        let mut all = Self { places: Vec::new(), order: Vec::new(), token, look: None };
        for listener in listeners {
            all.add(registry, listener)?;
        }
        Ok(all)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Listener> {
        self.places.get(index)?.as_ref().map(|place| &place.listener)
    }

    /// With whether it serves only those who are there.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<(&mut Listener, bool)> {
        let place = self.places.get_mut(index)?.as_mut()?;
        Some((&mut place.listener, place.leaving.is_some()))
    }

    /// The one that sends what the client gets from `server`.
    pub(crate) fn serving(&self, server: SocketAddr) -> Option<&Listener> {
        self.order.iter().filter_map(|&index| self.get(index)).find(|listener| listener.serves(server))
    }

    /// The TCP sides.
    pub(crate) fn tcp_tokens(&self) -> impl Iterator<Item = Token> {
        self.order.iter().map(|&index| (self.token)(Side::Tcp, index))
    }

    /// The index of the listener bound to `address`.
    pub(crate) fn index_of(&self, address: SocketAddr) -> Option<usize> {
        self.order.iter().copied().find(|&index| self.get(index).is_some_and(|at| at.address == address))
    }

    /// # Errors
    /// When the kernel has no room for one; the others are served.
    pub(crate) fn apply(&mut self, now: Instant, registry: &Registry, change: Change) -> io::Result<()> {
        for leaving in change.leaving {
            let place = self.index_of(leaving.address()).and_then(|index| self.places[index].as_mut());
            if let Some(place) = place {
                place.listener.tcp = None;
                place.leaving = Some(leaving);
                self.look = Some(now);
            }
        }
        let mut outcome = Ok(());
        for (address, mut tcp) in change.back {
            let Some(index) = self.index_of(address) else { continue };
            let registered = registry.register(&mut tcp, (self.token)(Side::Tcp, index), Interest::READABLE);
            outcome = outcome.and(registered);
            if let Some(place) = &mut self.places[index] {
                place.listener.tcp = Some(tcp);
                place.leaving = None;
                place.done = false;
            }
        }
        for listener in change.new {
            let added = self.add(registry, listener);
            outcome = outcome.and(added);
        }
        outcome
    }

    fn add(&mut self, registry: &Registry, mut listener: Listener) -> io::Result<()> {
        let free = self.places.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let udp = listener.udp.as_raw_fd();
        registry.register(&mut SourceFd(&udp), (self.token)(Side::Udp, index), Interest::READABLE)?;
        if let Some(tcp) = &mut listener.tcp {
            registry.register(tcp, (self.token)(Side::Tcp, index), Interest::READABLE)?;
        }
        self.places[index] = Some(Place { listener, leaving: None, done: false });
        self.order.push(index);
        self.sort();
        Ok(())
    }

    fn sort(&mut self) {
        let places = &self.places;
        let is_wildcard = |index: &usize| {
            places[*index].as_ref().is_none_or(|place| place.listener.address.ip().is_unspecified())
        };
        self.order.sort_by_key(is_wildcard);
    }

    /// When to call [`Listeners::close_left`], if ever.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look
    }

    /// Closes what nobody needs any more. `is_needed` tells whether a UDP or DTLS client's address of the server is one
    /// for which the closure that it is given is true.
    pub(crate) fn close_left(
        &mut self,
        now: Instant,
        mut is_needed: impl FnMut(&dyn Fn(SocketAddr) -> bool) -> bool,
    ) {
        if self.look.take().is_none() {
            return;
        }
        for index in 0..self.places.len() {
            let Some(place) = &self.places[index] else { continue };
            let Some(leaving) = place.leaving.clone() else { continue };
            let address = place.listener.address;
            let mut done = place.done;
            let is_here = |server| self.serving(server).is_some_and(|at| at.address == address);
            let over = leaving.is_over(&mut done, || is_needed(&is_here));
            if over {
                self.close(index);
                continue;
            }
            if let Some(place) = &mut self.places[index] {
                place.done = done;
            }
            self.look = Some(now + LOOK);
        }
    }

    fn close(&mut self, index: usize) {
        self.order.retain(|at| *at != index);
        // Closing deregisters: nobody else has these sockets, but for the supervisor's copy.
        if let Some(Place { listener, .. }) = self.places[index].take() {
            supervisor::forget(&inherited::name(listener.address, false, listener.worker));
        }
    }
}

/// How often to look whether the last client has left: whoever waits for the port to be free can wait for that.
const LOOK: Duration = Duration::from_secs(1);
