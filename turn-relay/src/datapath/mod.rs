//! One worker: a thread with its own listeners, relayed sockets, TCP connections and [`Relay`], and an event loop that
//! moves bytes between them as the core says.
//!
//! Decides nothing about TURN. Nothing that a client, a peer or the kernel's error queue sends ends the loop.
//!
//! Invariants: a source of packets is served for at most [`BUDGET`] packets (of a stream: frames and reads) per turn of the loop, and one that has more is
//! served again in the next turn, so no client can starve another; a packet that cannot be sent at once is dropped, never
//! waited for (a TCP client has a bounded buffer); per datagram nothing is allocated and no lock is taken.

mod client;
mod control;
pub(crate) mod inbox;
#[cfg(feature = "xdp")]
mod mirror;
#[cfg(not(feature = "xdp"))]
#[path = "mirror/absent.rs"]
mod mirror;
pub(crate) mod outgoing;
mod peer;
mod relayed;
mod secured;
mod tcp;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};

use crate::frame::{HEADROOM, MAX_FRAME_BYTES, TAILROOM};
use crate::hook::authorization::AskQueue;
use crate::journal::Journal;
use crate::listen::Listener;
use crate::listen::admission::Admission;
use crate::listen::dtls::Sessions;
use crate::listen::listeners::{Listeners, Side};
use crate::listen::stream::{Connections, READ_BYTES};
use crate::metrics::Counters;
use crate::relay::{Input, Output, Relay, Shared, SocketSlot};
use crate::sys::batch::{Batch, MESSAGES, Taken};
use crate::sys::datagram;
use crate::xdp::Driver;
use inbox::{Inbox, Mailbox};
use mirror::Mirror;
use outgoing::Outgoing;
use relayed::RelayedSockets;
use tcp::PeerSockets;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Another worker, or the server, has something for this one.
    Inbox,
    /// The UDP side of the listener with this index.
    Udp(usize),
    /// The TCP side of the listener with this index.
    Tcp(usize),
    /// A relayed socket.
    Relayed(SocketSlot),
    /// A TCP client.
    Connection(usize),
    /// A connection with a peer, and the client's that it is joined with.
    Peer(usize),
    /// The listening socket of a TCP allocation.
    Listening(SocketSlot),
}

impl Source {
    /// Kind in the low three bits, index above.
    pub(crate) fn token(self) -> Token {
        let (index, kind) = match self {
            Self::Inbox => (0, 0),
            Self::Udp(index) => (index, 1),
            Self::Tcp(index) => (index, 2),
            Self::Relayed(slot) => (slot.0 as usize, 3),
            Self::Connection(slot) => (slot, 4),
            Self::Peer(slot) => (slot, 5),
            Self::Listening(slot) => (slot.0 as usize, 6),
        };
        Token(index << 3 | kind)
    }

    fn of(token: Token) -> Option<Self> {
        let index = token.0 >> 3;
        match token.0 & 7 {
            0 => Some(Self::Inbox),
            1 => Some(Self::Udp(index)),
            2 => Some(Self::Tcp(index)),
            3 => u32::try_from(index).ok().map(|slot| Self::Relayed(SocketSlot(slot))),
            4 => Some(Self::Connection(index)),
            5 => Some(Self::Peer(index)),
            6 => u32::try_from(index).ok().map(|slot| Self::Listening(SocketSlot(slot))),
            _ => None,
        }
    }
}

/// What a worker is made from, on the thread that starts the server, so that whatever fails does so before anything runs.
#[derive(Debug)]
pub(crate) struct Workplace {
    poll: Poll,
    listeners: Listeners,
    connections: Connections,
    sessions: Sessions,
    inbox: Inbox,
    mailbox: Mailbox,
}

impl Workplace {
    /// Registers the listeners in an event loop of their own.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(crate) fn new(listeners: Vec<Listener>, admission: Arc<Admission>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let token = |side, index| match side {
            Side::Udp => Source::Udp(index).token(),
            Side::Tcp => Source::Tcp(index).token(),
        };
        let listeners = Listeners::new(poll.registry(), listeners, token)?;
        let (mailbox, inbox) = inbox::open(Waker::new(poll.registry(), Source::Inbox.token())?);
        let sessions = Sessions::new(Arc::clone(&admission), Instant::now(), rand::random());
        let connections = Connections::new(admission);
        Ok(Self { poll, listeners, connections, sessions, inbox, mailbox })
    }

    pub(crate) fn mailbox(&self) -> Mailbox {
        self.mailbox.clone()
    }
}

/// One worker. Lives on its thread.
#[derive(Debug)]
pub(crate) struct Worker {
    poll: Poll,
    listeners: Listeners,
    inbox: Inbox,
    /// One per worker, this one included.
    mailboxes: Vec<Mailbox>,
    relay: Relay,
    shared: Arc<Shared>,
    relayed: RelayedSockets,
    connections: Connections,
    peers: PeerSockets,
    sessions: Sessions,
    counters: Arc<Counters>,
    journal: Journal,
    /// Where to ask about users, and where the answer goes.
    asks: Option<(AskQueue, Mailbox)>,
    /// Where frames of streams lie while they are worked on: headroom, the packet, tailroom.
    buffer: Box<[u8]>,
    /// Where datagrams of plain UDP lie, and which of them are to be sent.
    batch: Batch,
    outgoing: Outgoing,
    /// Where a DTLS session's datagrams and frames lie; empty while somebody works with it.
    secured: Box<[u8]>,
    /// DTLS sessions that may want something.
    wanting: Vec<(usize, secured::Marks)>,
    /// Where the XDP path is on.
    mirror: Option<Mirror>,
    /// What the core said and the worker has not done yet.
    outputs: VecDeque<Output>,
    /// Sources that had more than their budget, and listeners whose pause is over.
    again: Vec<Token>,
    /// Until when no connection is accepted, after the process ran out of descriptors.
    accepting_from: Option<Instant>,
}

impl Worker {
    pub(crate) fn new(
        workplace: Workplace,
        mailboxes: Vec<Mailbox>,
        relay: Relay,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        journal: Journal,
        asks: Option<AskQueue>,
    ) -> Self {
        let Workplace { poll, listeners, connections, sessions, inbox, mailbox } = workplace;
        Self {
            poll,
            listeners,
            inbox,
            mailboxes,
            mirror: None,
            relay,
            shared,
            relayed: RelayedSockets::default(),
            connections,
            peers: PeerSockets::default(),
            sessions,
            secured: vec![0; SECURED_BYTES].into_boxed_slice(),
            wanting: Vec::new(),
            journal,
            asks: asks.map(|queue| (queue, mailbox)),
            counters,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            batch: Batch::new(HEADROOM, TAILROOM),
            outgoing: Outgoing::new(datagram::takes_runs()),
            outputs: VecDeque::new(),
            again: Vec::new(),
            accepting_from: None,
        }
    }

    /// Lets a driver relay what it can.
    pub(crate) fn with_driver(mut self, driver: Option<Driver>) -> Self {
        self.mirror = driver.map(|driver| Mirror::new(driver, &mut self.relay));
        self
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the event loop itself fails, which nothing from the network can cause.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        let mut ready: Vec<Token> = Vec::with_capacity(EVENTS);
        while !self.inbox.is_stopped() {
            self.turn(&mut events, &mut ready)?;
        }
        self.end_all(Instant::now());
        Ok(())
    }

    /// Waits until there is something to do, and does a part of it.
    fn turn(&mut self, events: &mut Events, ready: &mut Vec<Token>) -> io::Result<()> {
        match self.poll.poll(events, self.patience()) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let now = Instant::now();
        self.deadlines(now);
        ready.clear();
        ready.append(&mut self.again);
        for event in events.iter() {
            if event.is_error()
                && let Some(Source::Relayed(slot)) = Source::of(event.token())
            {
                self.relayed.expect_errors(slot);
            }
            ready.push(event.token());
        }
        // A source may be there twice, with packets left over and with new ones.
        ready.sort_unstable();
        ready.dedup();
        for &token in ready.iter() {
            if self.serve(now, token) {
                self.again.push(token);
            }
        }
        self.follow(now);
        Ok(())
    }

    /// Serves one source within its budget; tells whether there may be more.
    fn serve(&mut self, now: Instant, token: Token) -> bool {
        match Source::of(token) {
            Some(Source::Inbox) => self.serve_inbox(now),
            Some(Source::Udp(index)) => self.serve_udp(now, index),
            Some(Source::Tcp(index)) => self.serve_accept(now, index),
            Some(Source::Relayed(slot)) => self.serve_relayed(now, slot),
            Some(Source::Connection(slot)) => self.serve_connection(now, slot),
            Some(Source::Peer(slot)) => self.serve_peer(now, slot),
            Some(Source::Listening(slot)) => self.serve_listening(now, slot),
            None => false,
        }
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let next = [
            self.relay.deadline(),
            self.connections.deadline(),
            self.sessions.deadline(),
            self.accepting_from,
            self.listeners.deadline(),
            self.peers.deadline(),
            self.mirror.as_ref().and_then(Mirror::deadline),
        ];
        let next = next.into_iter().flatten().min()?;
        // epoll counts whole milliseconds and rounds down: without the extra one the loop would spin through the last.
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    fn deadlines(&mut self, now: Instant) {
        if self.relay.deadline().is_some_and(|at| at <= now) {
            self.control(now, Input::Timeout);
        }
        if let Some(mirror) =
            self.mirror.as_mut().filter(|mirror| mirror.deadline().is_some_and(|at| at <= now))
        {
            mirror.look(now, &mut self.relay, &self.counters);
        }
        while let Some(slot) = self.connections.overdue(now) {
            self.close_connection(now, slot);
        }
        self.sessions_overdue(now);
        self.wake_pairs(now);
        if self.listeners.deadline().is_some_and(|at| at <= now) {
            self.close_left(now);
        }
        if self.accepting_from.is_some_and(|at| at <= now) {
            self.accepting_from = None;
            // Edge-triggered: connections that came in the meantime are not announced again.
            self.again.extend(self.listeners.tcp_tokens());
            self.again.extend(self.relayed.listening().map(|slot| Source::Listening(slot).token()));
        }
    }
}

/// Receives batches until the budget is spent or nothing is left; tells whether there may be more. A run that came as one is taken whole.
fn in_batches(mut receive: impl FnMut(usize) -> io::Result<Taken>) -> bool {
    let (mut budget, mut want) = (BUDGET, FIRST_BATCH);
    while budget > 0 {
        match receive(want.min(budget)) {
            Ok(Taken { more: false, .. }) => return false,
            Ok(Taken { datagrams, .. }) => budget = budget.saturating_sub(datagrams),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Whatever else the socket reports (an ICMP error, say) is about one datagram of the past.
            Err(_) => budget -= 1,
        }
        want = MESSAGES;
    }
    true
}

/// Asked for at first: places that stay empty cost something too.
const FIRST_BATCH: usize = 8;
/// Packets per source and turn of the loop.
const BUDGET: usize = 64;
/// Events per system call.
const EVENTS: usize = 1024;
/// Room for the largest frame of a stream and a read behind its beginning, between headroom and tailroom.
const BUFFER_BYTES: usize = HEADROOM + MAX_FRAME_BYTES + TAILROOM + READ_BYTES + TAILROOM;

/// A DTLS record is no larger than the datagram that it comes in.
const SECURED_BYTES: usize = 65_536;

#[cfg(test)]
mod tests;
