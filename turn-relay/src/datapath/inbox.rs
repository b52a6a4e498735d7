//! How workers talk to each other, which they do only when a client's second five-tuple arrives at another worker than its
//! first (a reservation token): bounded channels, and a wake-up for the other event loop.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use mio::Waker;

use crate::address::RelayedPort;
use crate::relay::{Claim, OpenId};

/// What one worker hands to another.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// Asks for a reserved socket.
    Claim(Claim),
    /// Answers with it, or with nothing.
    Claimed { open: OpenId, socket: Option<RelayedSocketParcel> },
}

/// A relayed socket on its way to another worker; the port stays claimed.
#[derive(Debug)]
pub(crate) struct RelayedSocketParcel {
    pub(crate) socket: UdpSocket,
    pub(crate) ip: IpAddr,
    pub(crate) port: RelayedPort,
}

/// The sending side; every worker has one for every worker.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    parcels: SyncSender<Parcel>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Inbox {
    parcels: Receiver<Parcel>,
    stop: Arc<AtomicBool>,
}

/// A pair for the worker whose event loop `waker` wakes.
pub(crate) fn open(waker: Waker) -> (Mailbox, Inbox) {
    let (sender, receiver) = sync_channel(CAPACITY);
    let stop = Arc::new(AtomicBool::new(false));
    let mailbox = Mailbox { parcels: sender, waker: Arc::new(waker), stop: Arc::clone(&stop) };
    (mailbox, Inbox { parcels: receiver, stop })
}

impl Mailbox {
    /// Delivers without waiting; gives the parcel back where that cannot be done.
    pub(crate) fn deliver(&self, parcel: Parcel) -> Result<(), Parcel> {
        match self.parcels.try_send(parcel) {
            Ok(()) => {
                // A wake-up that fails leaves the parcel until the loop turns for another reason.
                let _ = self.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(parcel) | TrySendError::Disconnected(parcel)) => Err(parcel),
        }
    }

    /// Tells the worker to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let _ = self.waker.wake();
    }
}

impl Inbox {
    pub(crate) fn take(&self) -> Option<Parcel> {
        self.parcels.try_recv().ok()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Parcels that wait for one worker. Each comes from one Allocate request; a worker answers far more than that per wake-up.
const CAPACITY: usize = 1024;
