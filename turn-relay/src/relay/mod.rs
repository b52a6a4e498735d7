//! The relay's core (RFC 8656): allocations, permissions, channels, and what becomes of each packet.
//!
//! Refuses to do: sockets, clocks, threads, randomness that was not handed in, logging.
//! `now` comes first in every entry point; results are values. One `Relay` belongs to one worker thread; what
//! workers have in common is in [`Shared`].
//!
//! Invariants: nothing is forwarded without an unexpired permission, in either direction; an allocation does not outlive
//! its lifetime; every claimed port is released exactly once; who has not proved an address costs no memory.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod allocate;
mod allocation;
mod allocation_id;
mod answers;
mod authenticate;
mod contract;
mod deadlines;
mod discovery;
mod drain;
mod icmp;
mod inspect;
mod limiter;
mod mobility;
mod nonce;
mod opening;
mod pace;
mod parked;
mod peers;
mod permit;
mod rates;
mod refresh;
mod refusal;
mod relayed;
mod reload;
mod requests;
mod reservation;
mod revocation;
mod routes;
mod settings;
mod shared;
mod tcp;

#[cfg(test)]
mod allocate_tests;
#[cfg(test)]
mod auth_tests;
#[cfg(test)]
mod drain_tests;
#[cfg(any(test, feature = "fuzz"))]
mod drive;
#[cfg(test)]
mod dual_tests;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod inspect_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod mobility_tests;
#[cfg(any(test, feature = "fuzz"))]
mod model;
#[cfg(any(test, feature = "fuzz"))]
mod moves_model;
#[cfg(test)]
mod parked_tests;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod reload_tests;
#[cfg(test)]
mod route_tests;
#[cfg(test)]
mod sha256_tests;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod testing;
#[cfg(test)]
mod token_tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState;
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use slab::Slab;

pub use crate::frame::{Header, Icmp};
pub use allocation_id::{AllocationId, NoAllocationId};
pub use contract::{
    Claim, ClaimedSocket, DropReason, EndReason, Event, Input, OpenFailure, OpenId, Opened, Output,
    PeerConnectionId, RequestMethod, SocketSlot, Traffic, Verdict, WorkerIndex,
};
pub use drain::Drain;
#[cfg(any(test, feature = "fuzz"))]
pub use drive::drive;
pub use inspect::{AllocationPage, AllocationView};
pub use mobility::{Moving, NotMoved, Summons};
pub use parked::AskId;
pub use revocation::{MAX_REVOKED, Revocations, TooManyRevoked};
pub use routes::{ByFlow, Levels, Route, ScaledPace};
pub use settings::{Limits, NatDiscovery, Rate, RelayAddress, RelaySettings};
pub use shared::{Shared, TooManyAddresses};

use allocation::{Allocation, Protocol};
use answers::Answers;
use deadlines::{Deadlines, Timer};
use limiter::Limiter;
use mobility::Tickets;
use nonce::Nonces;
use opening::Opening;
use parked::ParkedRequests;
use peers::Peers;
use rates::{Direction, Rates};
use relayed::Relayed;
use requests::Arrival;
use reservation::Reservations;
use tcp::PeerConnections;

use crate::address::{FiveTuple, PeerAddr, Transport, TupleKey, same_family};
use crate::credentials::holder;
use crate::frame::{self, ChannelData, Kind, SendIndication, TransactionId};

/// One worker's core.
pub struct Relay {
    settings: Arc<RelaySettings>,
    shared: Arc<Shared>,
    worker: WorkerIndex,
    rng: ChaCha20Rng,
    peers: Peers,
    nonces: Nonces,
    /// Requests whose user the authorization hook is asked about, and a bound on such questions.
    parked: ParkedRequests,
    asks: Limiter,
    limiter: Limiter,
    answers: Answers,
    /// Who sits on a five-tuple.
    seats: HashMap<TupleKey, Seat, RandomState>,
    allocations: Slab<Allocation>,
    /// Where in the slab each one is.
    ids: HashMap<AllocationId, usize, RandomState>,
    /// Which allocation a relayed socket belongs to, by slot.
    relayed: Vec<Option<usize>>,
    /// Allocations that wait for their socket.
    openings: HashMap<OpenId, Opening, RandomState>,
    next_open: u64,
    reservations: Reservations,
    tickets: Tickets,
    deadlines: Deadlines,
    rates: Rates,
    peer_connections: PeerConnections,
    /// Transaction ids of Data indications: they need to be different, not secret.
    next_indication: [u8; 12],
    /// The server is about to end.
    draining: Option<Arc<Drain>>,
    outputs: Vec<Output>,
    /// Allocations whose routes may be others than before; not kept where nobody asks.
    changed: Option<Vec<AllocationId>>,
}

/// What a five-tuple is taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// An allocation that waits for its socket.
    Opening(OpenId),
    /// An allocation that stands: its place in the slab.
    Allocation(usize),
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("worker", &self.worker)
            .field("allocations", &self.allocations.len())
            .field("openings", &self.openings.len())
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A core without allocations. `rng` must be seeded from the system's entropy (or from a seed, in tests), and `shared`
    /// made from the same settings.
    pub fn new(
        settings: Arc<RelaySettings>,
        shared: Arc<Shared>,
        worker: WorkerIndex,
        mut rng: ChaCha20Rng,
    ) -> Self {
        let mut next_indication = [0; 12];
        rng.fill_bytes(&mut next_indication);
        Self {
            peers: Peers::new(&settings, &shared),
            nonces: Nonces::new(shared.epoch(), shared.master()),
            limiter: Limiter::new(shared.epoch(), settings.limits.unauthenticated_answers),
            parked: ParkedRequests::default(),
            asks: Limiter::new(shared.epoch(), parked::ASKS_PER_SECOND),
            answers: Answers::default(),
            seats: HashMap::default(),
            allocations: Slab::new(),
            ids: HashMap::default(),
            relayed: Vec::new(),
            openings: HashMap::default(),
            next_open: 0,
            reservations: Reservations::new(worker, shared.master()),
            tickets: Tickets::new(&shared.master()),
            deadlines: Deadlines::default(),
            rates: Rates::new(shared.epoch(), &settings.limits),
            peer_connections: PeerConnections::default(),
            next_indication,
            draining: None,
            outputs: Vec::new(),
            changed: None,
            settings,
            shared,
            worker,
            rng,
        }
    }

    /// Decides about one datagram, or one whole frame of a stream (padding included or not), from a client. Allocates nothing.
    pub fn route_client(&mut self, now: Instant, from: &FiveTuple, frame: &[u8]) -> Verdict {
        let routed = match frame::classify(frame) {
            Kind::ChannelData(data) => self.channel_data(now, from, data),
            Kind::Send(indication) => self.send_indication(now, from, indication),
            Kind::Request => return Verdict::Control,
            Kind::OtherStun => Err(DropReason::Unexpected),
            Kind::Malformed => Err(DropReason::Malformed),
        };
        routed.unwrap_or_else(Verdict::Drop)
    }

    /// Decides about a datagram of `len` bytes that arrived on a relayed socket. Allocates nothing.
    pub fn route_peer(&mut self, now: Instant, on: SocketSlot, from: PeerAddr, len: usize) -> Verdict {
        self.pass_to_client(now, on, from, len).unwrap_or_else(Verdict::Drop)
    }

    /// Applies one input and lends out everything that must now happen, in order. Drain it: what is not taken is lost.
    #[must_use = "outputs are the only way the core acts"]
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Outputs<'_> {
        self.expire(now);
        match input {
            Input::Message { from, bytes, wall } => {
                self.message(now, &from, bytes, Arrival { at: now, wall }, None);
            }
            Input::Opened { open, outcome } => self.opened(now, open, outcome),
            Input::Claim(claim) => self.claim(claim),
            Input::Claimed { open, outcome } => self.claimed(now, open, outcome),
            Input::ClientGone(from) => self.client_gone(now, &from),
            Input::Timeout => self.answers.forget(now),
            Input::Settings(settings) => self.apply(now, settings),
            Input::Authorized { ask, authorization } => self.authorized(now, ask, &authorization),
            Input::End { id, reason } => self.end_named(now, id, reason),
            Input::Drain(drain) => self.draining = drain,
            Input::PeerConnected(connection) => self.peer_connected(now, connection),
            Input::PeerAccepted { on, connection, from } => self.peer_accepted(now, on, connection, from),
            Input::PeerGone(connection) => self.peer_gone(now, connection),
            Input::Summon(summons) => self.summon(now, summons),
            Input::Summoned { open, outcome } => self.summoned(now, open, outcome),
        }
        Outputs(self.outputs.drain(..))
    }

    /// When to call with [`Input::Timeout`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Allocations that stand on this worker.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Whether it has an allocation, or one on its way.
    pub fn knows(&self, client: &FiveTuple) -> bool {
        self.seats.contains_key(&client.key())
    }

    /// The server's address of each client that has an allocation, or one on its way, over a transport of which `of` is true.
    pub(crate) fn servers(&self, of: fn(Transport) -> bool) -> impl Iterator<Item = SocketAddr> {
        self.seats.keys().filter(move |tuple| of(tuple.transport())).map(TupleKey::server)
    }

    fn channel_data(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        data: ChannelData<'_>,
    ) -> Result<Verdict, DropReason> {
        let index = self.standing(now, from).ok_or(DropReason::NoAllocation)?;
        self.settle_in_from(index, from);
        let peer = self.allocations[index].channel_peer(now, data.channel).ok_or(DropReason::NoChannel)?;
        // RFC 8656 section 14: ChannelData cannot ask for DF.
        self.pass_to_peer(now, index, peer, data.start(), data.data.len(), false)
    }

    fn send_indication(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        indication: SendIndication<'_>,
    ) -> Result<Verdict, DropReason> {
        let index = self.standing(now, from).ok_or(DropReason::NoAllocation)?;
        self.settle_in_from(index, from);
        let peer = self.peers.inward(indication.peer.0);
        let allocation = &mut self.allocations[index];
        // Only where it is permitted: who may not send there has not met anybody.
        if allocation.permitted(now, peer.ip()).is_some()
            && !self.rates.may_meet(
                now,
                &mut allocation.meter,
                allocation.user,
                [(peer.ip(), peer.port())].into_iter(),
            )
        {
            return Err(DropReason::NewPeers);
        }
        // RFC 8656 section 13: between the families DONT-FRAGMENT is ignored; section 15: behind a stream it is not.
        let dont_fragment = indication.dont_fragment
            && (from.transport.is_stream() || same_family(from.client.0.ip(), peer.ip()));
        self.pass_to_peer(now, index, peer, indication.start, indication.data.len(), dont_fragment)
    }

    fn pass_to_peer(
        &mut self,
        now: Instant,
        index: usize,
        to: PeerAddr,
        start: usize,
        len: usize,
        dont_fragment: bool,
    ) -> Result<Verdict, DropReason> {
        let allocation = &mut self.allocations[index];
        if allocation.protocol != Protocol::Udp {
            return Err(DropReason::TcpAllocation);
        }
        let relayed = allocation.relayed.towards(to.ip()).filter(|relayed| now < relayed.expires);
        let via = relayed.ok_or(DropReason::PeerFamily)?.slot;
        let reach = allocation.permitted(now, to.ip()).ok_or(DropReason::NoPermission)?;
        if !self.peers.may_reach(reach, to, Protocol::Udp, &self.shared) {
            return Err(DropReason::PeerForbidden);
        }
        let too_large = |_| DropReason::TooLarge;
        let (start, len) = (u16::try_from(start).map_err(too_large)?, u16::try_from(len).map_err(too_large)?);
        self.rates.pass(now, Direction::ToPeer, &mut allocation.meter, allocation.user, len.into())?;
        allocation.traffic.to_peer_packets += 1;
        allocation.traffic.to_peer_bytes += u64::from(len);
        Ok(Verdict::ToPeer { via, to, start, len, dont_fragment })
    }

    fn pass_to_client(
        &mut self,
        now: Instant,
        on: SocketSlot,
        from: PeerAddr,
        len: usize,
    ) -> Result<Verdict, DropReason> {
        let index = self.relayed_by(on).ok_or(DropReason::NoAllocation)?;
        let allocation = &mut self.allocations[index];
        // A socket has one family, so its datagrams come from that family.
        if allocation.relayed.towards(from.ip()).is_none_or(|relayed| relayed.expires <= now) {
            return Err(DropReason::NoAllocation);
        }
        if allocation.protocol != Protocol::Udp {
            return Err(DropReason::TcpAllocation);
        }
        let reach = allocation.permitted(now, from.ip()).ok_or(DropReason::NoPermission)?;
        if !self.peers.may_reach(reach, from, Protocol::Udp, &self.shared) {
            return Err(DropReason::PeerForbidden);
        }
        if len > frame::MAX_PEER_PAYLOAD {
            return Err(DropReason::TooLarge);
        }
        self.rates.pass(now, Direction::ToClient, &mut allocation.meter, allocation.user, len)?;
        let header = match allocation.peer_channel(now, from) {
            Some(channel) => Header::Channel(channel),
            None => {
                let transaction = next_transaction(&mut self.next_indication);
                Header::DataIndication { peer: self.peers.outward(from), transaction }
            }
        };
        allocation.traffic.to_client_packets += 1;
        allocation.traffic.to_client_bytes += len as u64;
        Ok(Verdict::ToClient { to: allocation.from, header })
    }

    /// The allocation that stands on a five-tuple.
    fn standing(&self, now: Instant, from: &FiveTuple) -> Option<usize> {
        match *self.seats.get(&from.key())? {
            Seat::Allocation(index) => self.allocations.get(index)?.stands(now).then_some(index),
            Seat::Opening(_) => None,
        }
    }

    fn relayed_by(&self, slot: SocketSlot) -> Option<usize> {
        *self.relayed.get(usize::try_from(slot.0).ok()?)?
    }

    fn set_relayed(&mut self, slot: SocketSlot, allocation: Option<usize>) {
        let Ok(slot) = usize::try_from(slot.0) else { return };
        if self.relayed.len() <= slot {
            self.relayed.resize(slot + 1, None);
        }
        self.relayed[slot] = allocation;
    }

    /// Ends everything whose time has come.
    fn expire(&mut self, now: Instant) {
        while let Some(timer) = self.deadlines.pop_due(now) {
            match timer {
                Timer::Allocation(index) => self.lapse(now, index),
                Timer::Reservation(token) => self.drop_reservation(token),
                Timer::Claim(open) => self.claim_timed_out(now, open),
                Timer::PeerConnection(connection) => self.peer_connection_timed_out(now, connection),
                Timer::Parked(ask) => self.parked_timed_out(ask),
            }
        }
    }

    fn client_gone(&mut self, now: Instant, from: &FiveTuple) {
        self.unpark(from);
        match self.seats.get(&from.key()).copied() {
            Some(Seat::Allocation(index)) if self.waits_for_its_client(index, from) => {}
            Some(Seat::Allocation(index)) => {
                self.unschedule(index);
                self.end(now, index, EndReason::ConnectionClosed);
            }
            Some(Seat::Opening(open)) => self.abandon(open),
            None => {}
        }
    }

    /// Takes an allocation apart. Its timer is already gone.
    fn end(&mut self, now: Instant, index: usize, reason: EndReason) {
        self.touch(index);
        let allocation = self.allocations.remove(index);
        self.ids.remove(&allocation.id);
        self.end_connections(now, &allocation.username, &allocation.connections, reason);
        for relayed in allocation.relayed.iter() {
            self.close_relayed(relayed);
        }
        let holder = holder(&allocation.username);
        self.shared.dismiss(holder, allocation.counted_for, allocation.relayed.places());
        self.rates.leave(allocation.user);
        // Released and closed: the client did it. Otherwise nobody is there any more, and without an allocation the connection
        // is a socket held for nothing; or it learns at once that it has to come again.
        let unasked = !matches!(reason, EndReason::Released | EndReason::ConnectionClosed);
        for tuple in [Some(allocation.from), allocation.next].into_iter().flatten() {
            if self.vacate(&tuple, index) && unasked && tuple.transport.is_connected() {
                self.outputs.push(Output::Disconnect(tuple));
            }
        }
        let (relayed, additional) = allocation.advertised;
        self.outputs.push(Output::Event(Event::AllocationEnded {
            id: allocation.id,
            client: allocation.seen_at,
            relayed,
            username: allocation.username,
            reason,
            duration: now.saturating_duration_since(allocation.started),
            traffic: allocation.traffic,
            additional,
        }));
    }

    /// Closes the socket behind a relayed address.
    fn close_relayed(&mut self, relayed: &Relayed) {
        self.set_relayed(relayed.slot, None);
        self.close(ClaimedSocket { slot: relayed.slot, ip: relayed.ip, port: relayed.port });
    }

    fn close(&mut self, socket: ClaimedSocket) {
        self.shared.set_dead(socket.ip, socket.port);
        self.outputs.push(Output::Close(socket));
    }
}

fn next_transaction(counter: &mut [u8; 12]) -> TransactionId {
    for byte in counter.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    TransactionId(*counter)
}

/// What must now happen, in order.
#[derive(Debug)]
pub struct Outputs<'a>(std::vec::Drain<'a, Output>);

impl Iterator for Outputs<'_> {
    type Item = Output;

    fn next(&mut self) -> Option<Output> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

#[cfg(test)]
mod rfc_table {
    /// The Rust sources that may hold the tests.
    fn sources(folder: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_test_that_the_rfc_table_names_exists() {
        let mut all = String::new();
        sources(concat!(env!("CARGO_MANIFEST_DIR"), "/src").as_ref(), &mut all);
        sources(concat!(env!("CARGO_MANIFEST_DIR"), "/tests").as_ref(), &mut all);
        let table = include_str!("../../RFC.md");
        let is_test = |word: &&str| word.matches('_').count() >= 4 && !word.contains(char::is_uppercase);
        let named: Vec<&str> = table.split('`').skip(1).step_by(2).filter(is_test).collect();
        assert!(named.len() > 60, "{} names", named.len());
        for name in named {
            assert!(all.contains(&format!("fn {name}(")), "{name}");
        }
    }
}
