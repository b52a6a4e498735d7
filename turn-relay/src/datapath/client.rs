//! From clients: datagrams, connections and their frames, and what is sent back to them.

use std::io::{self, IoSlice};
use std::time::{Instant, SystemTime};

use mio::Interest;

use super::outgoing::{Packet, To, Way};
use super::{BUDGET, Source, Worker, in_batches};
use crate::address::{ClientAddr, FiveTuple, Transport};
use crate::frame::{HEADROOM, Split, is_connection_bind, split};
use crate::listen::dtls::Sessions;
use crate::listen::listeners::Change;
use crate::listen::stream::{Reading, Refused};
use crate::listen::udp::FromClient;
use crate::metrics::SendFailure;
use crate::relay::{DropReason, Input, Verdict};
use crate::sys::batch::{Batch, Taken};

impl Worker {
    pub(super) fn serve_udp(&mut self, now: Instant, index: usize) -> bool {
        let mut batch = std::mem::take(&mut self.batch);
        let more = in_batches(|want| self.receive_udp(now, index, &mut batch, want));
        self.batch = batch;
        more
    }

    /// Datagrams, or runs of them, as many as wanted if there are so many.
    fn receive_udp(
        &mut self,
        now: Instant,
        index: usize,
        batch: &mut Batch,
        want: usize,
    ) -> io::Result<Taken> {
        let Some((listener, _)) = self.listeners.get_mut(index) else {
            return Ok(Taken { datagrams: 0, more: false });
        };
        let taken = listener.udp.receive(batch, want)?;
        for place in 0..taken.datagrams {
            self.take_udp(now, index, batch, place);
            if self.outgoing.is_full() {
                self.flush(batch);
            }
        }
        self.flush(batch);
        Ok(taken)
    }

    /// One datagram from a client. What is for a peer waits for the end of the batch.
    fn take_udp(&mut self, now: Instant, index: usize, batch: &Batch, place: usize) {
        let Some((listener, is_leaving)) = self.listeners.get_mut(index) else { return };
        let Some(FromClient { client, server, traffic_class, overflows }) = listener.udp.from(batch, place)
        else {
            return;
        };
        self.counters.overflowed_listeners.add(overflows);
        let datagram = batch.datagram(place);
        if is_leaving && !self.is_here(client, server) {
            return self.counters.dropped(DropReason::NoAllocation);
        }
        if Sessions::is_for(datagram) {
            // It may carry a request, which must not overtake what came before it; so with one in the clear below.
            self.flush(batch);
            return self.receive_dtls(now, (client, server), datagram, traffic_class);
        }
        let from = FiveTuple { transport: Transport::Udp, client: ClientAddr(client), server };
        match self.relay.route_client(now, &from, datagram) {
            Verdict::ToPeer { via, to: peer, start, len, dont_fragment } => {
                let way = Way { to: To::Peer { via, peer, dont_fragment }, traffic_class };
                let (start, len) = (HEADROOM + usize::from(start), usize::from(len));
                self.outgoing.push(Packet { way, place, start, len, payload: len });
            }
            Verdict::Control => {
                self.flush(batch);
                self.control(now, Input::Message { from, bytes: datagram, wall: SystemTime::now() });
            }
            Verdict::Drop(reason) => self.counters.dropped(reason),
            // Only a peer's datagram goes to a client.
            Verdict::ToClient { .. } => {}
        }
    }

    /// Whether this is somebody's who may stay on a listener that serves no newcomers.
    fn is_here(&self, client: std::net::SocketAddr, server: std::net::SocketAddr) -> bool {
        let tuple = |transport| FiveTuple { transport, client: ClientAddr(client), server };
        self.relay.knows(&tuple(Transport::Udp)) || self.sessions.slot_of(&tuple(Transport::Dtls)).is_some()
    }

    /// Takes listeners in and takes others out of service.
    pub(super) fn change_listeners(&mut self, now: Instant, change: Change) {
        for leaving in &change.leaving {
            // Who is connected already is in, not out.
            let index = self.listeners.index_of(leaving.address());
            let waits = |worker: &mut Self| index.is_some_and(|index| worker.serve_accept(now, index));
            for _ in 0..ACCEPT_TURNS {
                if !waits(self) {
                    break;
                }
            }
        }
        if let Err(error) = self.listeners.apply(now, self.poll.registry(), change) {
            tracing::error!("a new listen address is not served by one of the workers: {error}");
        }
        self.close_left(now);
    }

    /// Closes listeners out of service that nobody is left on.
    pub(super) fn close_left(&mut self, now: Instant) {
        let (relay, sessions) = (&self.relay, &self.sessions);
        self.listeners.close_left(now, |is_there| {
            relay.servers(Transport::is_datagram).chain(sessions.servers()).any(is_there)
        });
    }

    /// Accepts connections.
    pub(super) fn serve_accept(&mut self, now: Instant, index: usize) -> bool {
        if self.accepting_from.is_some() {
            return false;
        }
        for _ in 0..BUDGET {
            let tcp = self.listeners.get(index).and_then(|listener| listener.tcp.as_ref());
            let Some(tcp) = tcp else { return false };
            match tcp.accept() {
                Ok((stream, peer)) => self.accepted(now, stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!("cannot accept connections for a moment: {error}");
                    self.accepting_from = Some(now + ACCEPT_PAUSE);
                    return false;
                }
                // The client went away before it was accepted.
                Err(_) => {}
            }
        }
        true
    }

    fn accepted(&mut self, now: Instant, stream: mio::net::TcpStream, peer: std::net::SocketAddr) {
        // Only of a connection that is gone already there is nothing to learn.
        let Ok(server) = stream.local_addr() else { return };
        let tuple = FiveTuple { transport: Transport::Tcp, client: ClientAddr(peer), server };
        self.replace(now, &tuple);
        let Some(slot) = self.connections.insert(now, stream, tuple) else {
            self.counters.connections_refused.add(1);
            return;
        };
        self.counters.connections(1);
        self.listen_to(now, slot);
    }

    /// The kernel reuses a five-tuple when it is done with the connection; its end may still wait to be read here.
    pub(super) fn replace(&mut self, now: Instant, tuple: &FiveTuple) {
        for transport in [Transport::Tcp, Transport::Tls] {
            if let Some(old) = self.connections.slot_of(&FiveTuple { transport, ..*tuple }) {
                self.close_connection(now, old);
            }
        }
    }

    /// Registers a new connection in the event loop.
    pub(super) fn listen_to(&mut self, now: Instant, slot: usize) {
        let token = Source::Connection(slot).token();
        let registry = self.poll.registry();
        let registered = self
            .connections
            .stream_mut(slot)
            .map(|stream| registry.register(stream, token, Interest::READABLE | Interest::WRITABLE));
        if !matches!(registered, Some(Ok(()))) {
            self.close_connection(now, slot);
        }
    }

    /// Reads and writes what a connection is ready for.
    pub(super) fn serve_connection(&mut self, now: Instant, slot: usize) -> bool {
        match self.connections.flush(slot) {
            Ok(()) => {}
            Err(Refused::Gone | Refused::Broken | Refused::Full) => {
                self.close_connection(now, slot);
                return false;
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let more = self.read_connection(now, slot, &mut buffer);
        self.buffer = buffer;
        more
    }

    /// Reads and works off frames within the budget; tells whether there may be more.
    fn read_connection(&mut self, now: Instant, slot: usize, buffer: &mut [u8]) -> bool {
        let mut budget = BUDGET;
        while budget > 0 {
            let unread = match self.connections.read(slot, buffer) {
                Reading::Bytes(len) => buffer.get(..len).unwrap_or_default(),
                Reading::Again => {
                    budget -= 1;
                    continue;
                }
                Reading::Nothing => return false,
                Reading::Closed => {
                    self.close_connection(now, slot);
                    return false;
                }
                Reading::Refused => {
                    self.counters.connections_refused.add(1);
                    self.close_connection(now, slot);
                    return false;
                }
                Reading::Replaces(old) => {
                    budget -= 1;
                    self.close_connection(now, old);
                    continue;
                }
                Reading::Unintroduced => {
                    self.counters.connections_unintroduced.add(1);
                    self.close_connection(now, slot);
                    return false;
                }
            };
            // A read costs something too, whatever it brings.
            budget -= 1;
            if !self.work_off(now, slot, unread, &mut budget) {
                return false;
            }
        }
        true
    }

    /// As many frames as the budget allows; the rest is kept. Tells whether the connection still stands.
    fn work_off(&mut self, now: Instant, slot: usize, unread: &[u8], budget: &mut usize) -> bool {
        let stands = self.work_off_frames(now, slot, unread, budget);
        self.flush(unread);
        stands
    }

    /// The same; what is for peers waits for the end of it, or for a frame that must not overtake it.
    fn work_off_frames(&mut self, now: Instant, slot: usize, unread: &[u8], budget: &mut usize) -> bool {
        let Some(tuple) = self.connections.tuple_of(slot) else { return false };
        let mut rest = unread;
        loop {
            let (frame, whole) = match split(rest) {
                Split::Frame { len, consumed } => (rest.get(..len), consumed),
                Split::Incomplete { needed } => (None, needed),
                Split::Invalid => (None, usize::MAX),
            };
            if whole > self.connections.longest_frame(slot) {
                self.flush(unread);
                self.counters.dropped(DropReason::Malformed);
                self.close_connection(now, slot);
                return false;
            }
            let Some(frame) = frame.filter(|_| *budget > 0) else {
                self.connections.keep(slot, rest, rest.len() < unread.len());
                return true;
            };
            *budget -= 1;
            if is_connection_bind(frame) {
                // What lies behind it may be the peer's, or another worker's to read: it goes where the connection goes.
                self.connections.keep(slot, rest.get(whole..).unwrap_or_default(), true);
                self.flush(unread);
                self.frame(now, &tuple, frame, 0);
                return self.connections.tuple_of(slot) == Some(tuple);
            }
            let offset = unread.len() - rest.len();
            match self.relay.route_client(now, &tuple, frame) {
                Verdict::ToPeer { via, to: peer, start, len, dont_fragment } => {
                    // RFC 8656 section 15: Not-ECT, and best effort.
                    let way = Way { to: To::Peer { via, peer, dont_fragment }, traffic_class: 0 };
                    let (start, len) = (offset + usize::from(start), usize::from(len));
                    self.outgoing.push(Packet { way, place: 0, start, len, payload: len });
                }
                verdict @ (Verdict::Control | Verdict::Drop(_) | Verdict::ToClient { .. }) => {
                    self.flush(unread);
                    self.not_relayed(now, &tuple, frame, verdict);
                }
            }
            // Answering may have found the connection broken: what came behind is nobody's.
            if self.connections.tuple_of(slot) != Some(tuple) {
                return false;
            }
            rest = rest.get(whole..).unwrap_or_default();
        }
    }

    /// One frame from a client: the data path, or the control path.
    pub(super) fn frame(&mut self, now: Instant, from: &FiveTuple, frame: &[u8], traffic_class: u8) {
        match self.relay.route_client(now, from, frame) {
            Verdict::ToPeer { via, to, start, len, dont_fragment } => {
                let start = usize::from(start);
                let payload = frame.get(start..start + usize::from(len)).unwrap_or_default();
                match self.relayed.send(via, &[IoSlice::new(payload)], to, dont_fragment, traffic_class) {
                    Ok(()) => self.counters.to_peer.add(payload.len()),
                    Err(error) => self.counters.not_sent(failure(&error)),
                }
            }
            verdict @ (Verdict::Control | Verdict::Drop(_) | Verdict::ToClient { .. }) => {
                self.not_relayed(now, from, frame, verdict);
            }
        }
    }

    /// A frame that goes to no peer: to the control path, or nowhere.
    fn not_relayed(&mut self, now: Instant, from: &FiveTuple, frame: &[u8], verdict: Verdict) {
        match verdict {
            Verdict::Control => {
                self.control(now, Input::Message { from: *from, bytes: frame, wall: SystemTime::now() });
            }
            Verdict::Drop(reason) => self.counters.dropped(reason),
            // Only a client's frame goes to a peer, and only a peer's datagram to a client.
            Verdict::ToPeer { .. } | Verdict::ToClient { .. } => {}
        }
    }

    /// Sends a whole frame to a client, over UDP and DTLS with this DSCP and ECN. A TCP connection that failed is closed at its next event.
    pub(super) fn send_to_client(
        &mut self,
        now: Instant,
        to: &FiveTuple,
        frame: &[u8],
        traffic_class: u8,
    ) -> Result<(), SendFailure> {
        match to.transport {
            Transport::Udp => {
                let listener = self.listeners.serving(to.server).ok_or(SendFailure::ClientGone)?;
                listener
                    .udp
                    .send(&[IoSlice::new(frame)], to.client.0, to.server, traffic_class)
                    .map_err(|error| failure(&error))
            }
            Transport::Tcp | Transport::Tls => {
                let slot = self.connections.slot_of(to).ok_or(SendFailure::ClientGone)?;
                self.connections.send(slot, frame).map_err(not_taken)
            }
            Transport::Dtls => self.send_to_session(now, to, frame, traffic_class),
        }
    }
}

/// How a frame is counted that a connection did not take.
pub(super) fn not_taken(refused: Refused) -> SendFailure {
    match refused {
        Refused::Full => SendFailure::SlowClient,
        Refused::Gone | Refused::Broken => SendFailure::ClientGone,
    }
}

/// How a failed send is counted.
pub(super) fn failure(error: &io::Error) -> SendFailure {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => SendFailure::BufferFull,
        _ => SendFailure::Refused,
    }
}

pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// The backlog of a listener is worked off in as many turns.
const ACCEPT_TURNS: usize = 16;
/// Long enough not to spin, short enough that a client's connect does not time out.
pub(super) const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
