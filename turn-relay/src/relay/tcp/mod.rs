//! TCP allocations (RFC 6062): connections to peers, from peers, and whose client connection belongs to which.
//!
//! Refuses to do: bytes. What crosses a joined pair is the driver's; the core only counts it. A peer is checked at both
//! doors, Connect and the accepted connection, against the same policy and on the same canonical address as every datagram.
//!
//! Invariants: every peer connection belongs to one allocation of this worker and ends with it; one that nobody binds ends
//! after 30 s; its CONNECTION-ID is in [`connections::ConnectionTable`] exactly while it waits to be bound; it is counted for
//! its user exactly while it is known here. Clients that present a CONNECTION-ID at another worker are moved here, once,
//! connection and all: nothing crosses threads afterwards.

mod accept;
mod bind;
mod connect;
pub(super) mod connections;

#[cfg(any(test, feature = "fuzz"))]
pub(super) mod model;
#[cfg(any(test, feature = "fuzz"))]
pub(super) mod paper;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::Relay;
use super::allocation::Protocol;
use super::contract::{EndReason, Output, PeerConnectionId};
use super::deadlines::Timer;
use super::rates::Direction;
use super::refusal::Refusal;
use super::requests::Asker;
use crate::address::{FiveTuple, PeerAddr, same_family};
use crate::credentials::holder;
use crate::stun::Allocate;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;
/// RFC 6062 section 5.2: at least 30 s for a connection to a peer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// RFC 6062 sections 5.2 and 5.3: a peer connection that is not bound within 30 s is closed.
const BIND_PATIENCE: Duration = Duration::from_secs(30);

/// The peer connections of one worker.
#[derive(Debug, Default)]
pub(super) struct PeerConnections {
    all: HashMap<PeerConnectionId, PeerConnection, RandomState>,
    /// Those that wait to be bound, by CONNECTION-ID.
    unbound: HashMap<u32, PeerConnectionId, RandomState>,
    next_outgoing: u64,
}

#[derive(Debug)]
struct PeerConnection {
    /// Its place in the slab.
    allocation: usize,
    peer: PeerAddr,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The driver connects; whoever sent Connect waits until then.
    Connecting { asker: Box<Asker>, until: Instant },
    /// Waits for ConnectionBind until then.
    Unbound { id: u32, until: Instant },
    /// Joined with a client's connection.
    Joined,
}

impl PeerConnections {
    /// Peer connections of all allocations of this worker.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn len(&self) -> usize {
        debug_assert!(self.unbound.len() <= self.all.len(), "a name without a connection");
        self.all.len()
    }
}

/// RFC 6062 section 5.1: what an Allocate for TCP must not have, and what it must come over.
pub(super) fn check(from: &FiveTuple, request: &Allocate) -> Result<Protocol, Refusal> {
    if !from.transport.is_stream() {
        return Err(Refusal::ClientMalformed("a TCP allocation is asked for over TCP or TLS"));
    }
    if request.even_port.is_some() || request.reservation.is_some() || request.dont_fragment {
        return Err(Refusal::ClientMalformed(
            "a TCP allocation with EVEN-PORT, RESERVATION-TOKEN or DONT-FRAGMENT",
        ));
    }
    Ok(Protocol::Tcp)
}

impl Relay {
    /// Adds to the traffic of the allocation that a joined connection belongs to: payload bytes. Cheap enough for every read.
    /// For how long to read nothing more for the peer, and for the client: what was read is more than their rate allows by now.
    #[must_use = "a rate holds because somebody waits"]
    pub fn count_joined(
        &mut self,
        now: Instant,
        connection: PeerConnectionId,
        to_peer: u64,
        to_client: u64,
    ) -> [Duration; 2] {
        let Some(known) = self.peer_connections.all.get(&connection) else { return [Duration::ZERO; 2] };
        let allocation = &mut self.allocations[known.allocation];
        allocation.traffic.to_peer_bytes += to_peer;
        allocation.traffic.to_client_bytes += to_client;
        [(Direction::ToPeer, to_peer), (Direction::ToClient, to_client)].map(|(direction, len)| {
            self.rates.charge(now, direction, &mut allocation.meter, allocation.user, len)
        })
    }

    /// Whether `peer` may be reached by, or come in through, a TCP allocation: 443 and 403 as for datagrams.
    fn check_tcp_peer(&self, index: usize, peer: PeerAddr) -> Result<(), Refusal> {
        let reach = self.reach(index, peer)?;
        // A connection of a relayed address to itself would be one socket that talks to itself.
        let itself = self.relayed_address(index, peer) == Some(peer.0);
        if itself || !self.peers.may_reach(reach, peer, Protocol::Tcp, &self.shared) {
            return Err(Refusal::PeerForbidden);
        }
        Ok(())
    }

    /// Counts one more connection of an allocation and its user, or says why there may be none.
    fn admit_connection(&mut self, index: usize) -> Result<(), Refusal> {
        let limits = &self.settings.limits;
        let allocation = &self.allocations[index];
        if allocation.connections.len() >= usize::from(limits.connections_per_allocation) {
            return Err(Refusal::Capacity("the allocation has as many peer connections as one may have"));
        }
        if !self.shared.connections.admit(holder(&allocation.username), limits.connections_per_user) {
            return Err(Refusal::ConnectionQuota);
        }
        Ok(())
    }

    fn keep_connection(&mut self, connection: PeerConnectionId, known: PeerConnection) {
        self.allocations[known.allocation].connections.push(connection);
        let before = self.peer_connections.all.insert(connection, known);
        debug_assert!(before.is_none(), "a connection id was used twice");
    }

    /// From here on a ConnectionBind may name the connection; tells how.
    fn offer_connection(&mut self, connection: PeerConnectionId, until: Instant) -> u32 {
        let id = self.shared.connections.name(self.worker, &mut self.rng);
        self.peer_connections.unbound.insert(id, connection);
        self.deadlines.set(until, Timer::PeerConnection(connection));
        id
    }

    /// The driver says that it is over.
    pub(super) fn peer_gone(&mut self, now: Instant, connection: PeerConnectionId) {
        let Some(known) = self.peer_connections.all.get(&connection) else { return };
        let allocation = &mut self.allocations[known.allocation];
        allocation.connections.retain(|other| *other != connection);
        let username = allocation.username.clone();
        if let Some(asker) = self.forget_connection(connection, &username) {
            self.refuse(now, &asker, Refusal::ConnectionFailure, &[]);
        }
    }

    /// The policy changed: ends the connections with peers that it now refuses.
    pub(super) fn review_connections(&mut self, now: Instant) {
        let refused = |(connection, known): (&PeerConnectionId, &PeerConnection)| {
            self.check_tcp_peer(known.allocation, known.peer).is_err().then_some(*connection)
        };
        let refused: Vec<PeerConnectionId> = self.peer_connections.all.iter().filter_map(refused).collect();
        for connection in refused {
            self.outputs.push(Output::ClosePeer(connection));
            self.peer_gone(now, connection);
        }
    }

    /// Nobody answered a connect, or nobody bound what came of it.
    pub(super) fn peer_connection_timed_out(&mut self, now: Instant, connection: PeerConnectionId) {
        let Some(known) = self.peer_connections.all.get_mut(&connection) else { return };
        // The timer is used up: whoever takes the connection apart must not cancel it.
        match &mut known.stage {
            Stage::Connecting { until, .. } | Stage::Unbound { until, .. } => {
                self.deadlines.set(*until, Timer::PeerConnection(connection));
            }
            Stage::Joined => return,
        }
        self.outputs.push(Output::ClosePeer(connection));
        self.peer_gone(now, connection);
    }

    /// Where connections with `peer` begin on our side: the relayed address of its family.
    fn relayed_address(&self, index: usize, peer: PeerAddr) -> Option<SocketAddr> {
        let relayed = self.allocations[index].relayed.towards(peer.ip())?;
        Some(SocketAddr::new(relayed.ip, relayed.port.0))
    }

    /// One of two relayed addresses is gone: ends the connections that went over it.
    pub(super) fn end_connections_of(&mut self, now: Instant, index: usize, ip: IpAddr, reason: EndReason) {
        let known = &self.peer_connections.all;
        let over = |connection: &PeerConnectionId| {
            known.get(connection).is_some_and(|known| same_family(known.peer.ip(), ip))
        };
        let allocation = &mut self.allocations[index];
        let ended: Vec<_> = allocation.connections.extract_if(.., |connection| over(connection)).collect();
        let username = allocation.username.clone();
        self.end_connections(now, &username, &ended, reason);
    }

    /// Ends connections that their allocation does not list any more.
    pub(super) fn end_connections(
        &mut self,
        now: Instant,
        username: &str,
        connections: &[PeerConnectionId],
        reason: EndReason,
    ) {
        for connection in connections {
            self.outputs.push(Output::ClosePeer(*connection));
            let asker = self.forget_connection(*connection, username);
            if let Some(asker) = asker.filter(|_| reason != EndReason::ConnectionClosed) {
                self.refuse(now, &asker, Refusal::ConnectionFailure, &[]);
            }
        }
    }

    /// Takes a connection apart, its place in the allocation's list excepted; gives whoever still waits for an answer.
    fn forget_connection(&mut self, connection: PeerConnectionId, username: &str) -> Option<Box<Asker>> {
        let known = self.peer_connections.all.remove(&connection)?;
        self.shared.connections.dismiss(holder(username));
        match known.stage {
            Stage::Connecting { asker, until } => {
                self.deadlines.cancel(until, Timer::PeerConnection(connection));
                Some(asker)
            }
            Stage::Unbound { id, until } => {
                self.deadlines.cancel(until, Timer::PeerConnection(connection));
                self.withdraw(id);
                None
            }
            Stage::Joined => None,
        }
    }

    /// A CONNECTION-ID means nothing any more.
    fn withdraw(&mut self, id: u32) {
        self.peer_connections.unbound.remove(&id);
        self.shared.connections.forget(id);
    }

    fn outward_of(&self, peer: PeerAddr) -> SocketAddr {
        self.peers.outward(peer).0
    }
}
