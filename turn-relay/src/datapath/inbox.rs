//! How workers talk to each other, which they do only when a client's second five-tuple arrives at another worker than its
//! first (a reservation token, a ConnectionBind): bounded channels, and a wake-up for the other event loop. And how the server tells its
//! workers what to do: orders, which are never refused, since all workers must carry them out or none.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use mio::Waker;
use tokio::sync::oneshot;

use crate::address::RelayedPort;
use crate::credentials::Authorization;
use crate::listen::listeners::Change;
use crate::listen::stream::Detached;
use crate::relay::{
    AllocationId, AllocationPage, AllocationView, AskId, Claim, Drain, EndReason, Moving, NotMoved, OpenId,
    RelaySettings, SocketSlot, Summons,
};

/// What one worker hands to another.
#[derive(Debug)]
pub(crate) enum Parcel {
    /// Asks for a reserved socket.
    Claim(Claim),
    /// Answers with it, or with nothing.
    Claimed { open: OpenId, socket: Option<RelayedSocketParcel> },
    /// A client's connection and the message that it is handed over for (RFC 6062).
    Client { client: Box<Detached>, message: Vec<u8> },
    /// Asks for an allocation.
    Summon(Summons),
    /// Answers with it and its sockets, by their old slots, or with a reason.
    Summoned { open: OpenId, outcome: Result<(Moving, Vec<(SocketSlot, RelayedSocketParcel)>), NotMoved> },
    /// The authorization hook's answer.
    Authorized { ask: AskId, authorization: Authorization },
}

/// What the operator asks of one worker. Nobody may listen for the answer any more.
#[derive(Debug)]
pub(crate) enum Question {
    /// A part of the worker's allocations.
    Page { from: usize, user: Option<Box<str>>, limit: usize, answer: oneshot::Sender<AllocationPage> },
    /// One allocation.
    Find { id: AllocationId, answer: oneshot::Sender<Option<AllocationView>> },
    /// Writes a usage event about each of a part of the allocations that have stood that long, and tells where to go on.
    Report { from: usize, min_age: Duration, answer: oneshot::Sender<Option<usize>> },
    /// Ends these, and tells how many of them stood. At most as many as were on a page.
    End { ids: Vec<AllocationId>, reason: EndReason, answer: oneshot::Sender<usize> },
}

/// A relayed socket on its way to another worker; the port stays claimed.
#[derive(Debug)]
pub(crate) struct RelayedSocketParcel {
    pub(crate) socket: UdpSocket,
    pub(crate) ip: IpAddr,
    pub(crate) port: RelayedPort,
}

/// What the server wants of a worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// These settings hold from now on.
    Settings { relay: Arc<RelaySettings>, log_addresses: bool, listen: Change },
    /// The server is about to end, or is not any more.
    Drain(Option<Arc<Drain>>),
    /// Nothing: the answer tells that the loop turns.
    Answer,
}

/// What came of an order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Allocations that ended by it.
    pub(crate) ended: usize,
}

/// An order and where its answer goes.
pub(crate) type Errand = (Order, Sender<Done>);

/// The sending side; every worker has one for every worker.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    parcels: SyncSender<Parcel>,
    /// Not bounded: the server waits for the answer before it gives the next order.
    errands: Sender<Errand>,
    questions: SyncSender<Question>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

/// The receiving side.
#[derive(Debug)]
pub(crate) struct Inbox {
    parcels: Receiver<Parcel>,
    errands: Receiver<Errand>,
    questions: Receiver<Question>,
    stop: Arc<AtomicBool>,
}

/// A pair for the worker whose event loop `waker` wakes.
pub(crate) fn open(waker: Waker) -> (Mailbox, Inbox) {
    let (sender, receiver) = sync_channel(CAPACITY);
    let (errands, to_do) = channel();
    let (questions, asked) = sync_channel(QUESTIONS);
    let stop = Arc::new(AtomicBool::new(false));
    let mailbox =
        Mailbox { parcels: sender, errands, questions, waker: Arc::new(waker), stop: Arc::clone(&stop) };
    (mailbox, Inbox { parcels: receiver, errands: to_do, questions: asked, stop })
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

    /// Gives an order; what came of it is sent to `done`, which is dropped by a worker that has ended.
    pub(crate) fn order(&self, order: Order, done: Sender<Done>) {
        let _ = self.errands.send((order, done));
        let _ = self.waker.wake();
    }

    /// Asks without waiting; `false` where the worker has enough questions already, or has ended.
    pub(crate) fn ask(&self, question: Question) -> bool {
        let asked = self.questions.try_send(question).is_ok();
        let _ = self.waker.wake();
        asked
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

    pub(crate) fn errand(&self) -> Option<Errand> {
        self.errands.try_recv().ok()
    }

    pub(crate) fn question(&self) -> Option<Question> {
        self.questions.try_recv().ok()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Parcels that wait for one worker. Each comes from one request; a worker answers far more than that per wake-up.
const CAPACITY: usize = 1024;
/// Questions that wait for one worker. Each is one call of the admin API, which waits for the answer.
const QUESTIONS: usize = 64;
