//! TCP allocations (RFC 6062): listening sockets, connections with peers, and pairs of a client's and a peer's connection.
//!
//! Decides nothing about who may connect. Reads nothing from a peer until its connection is joined: the kernel's buffer is
//! the bound of what an unbound one can send. No byte crosses threads: where a client binds at another worker than the one
//! that has the peer, its connection goes there, once, with all that belongs to it.

mod listening;
mod pair;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::client::{ACCEPT_PAUSE, is_exhaustion};
use super::inbox::Parcel;
use super::{BUDGET, Source, Worker};
use crate::address::{FiveTuple, PeerAddr};
use crate::listen::stream::{Detached, READ_BYTES};
use crate::relay::{Input, PeerConnectionId, SocketSlot, WorkerIndex};
use pair::{After, Pair};
pub(super) use sockets::PeerSockets;
use sockets::{PeerSocket, outgoing};

impl Worker {
    /// Accepts peers.
    pub(super) fn serve_listening(&mut self, now: Instant, slot: SocketSlot) -> bool {
        if self.accepting_from.is_some() {
            return false;
        }
        for _ in 0..BUDGET {
            match self.relayed.accept(slot) {
                Some(Ok((stream, from))) => self.peer_came(now, slot, stream, PeerAddr(from)),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Some(Err(error)) if is_exhaustion(&error) => {
                    tracing::warn!("cannot accept peers for a moment: {error}");
                    self.accepting_from = Some(now + ACCEPT_PAUSE);
                    return false;
                }
                // The peer went away before it was accepted.
                Some(Err(_)) => {}
                None => return false,
            }
        }
        true
    }

    fn peer_came(&mut self, now: Instant, on: SocketSlot, stream: mio::net::TcpStream, from: PeerAddr) {
        if let Some(connection) = self.peers.insert_incoming(self.poll.registry(), stream) {
            self.control(now, Input::PeerAccepted { on, connection, from });
        }
    }

    pub(super) fn connect_peer(
        &mut self,
        connection: PeerConnectionId,
        from: SocketAddr,
        to: PeerAddr,
    ) -> Option<Input<'static>> {
        let begun = outgoing(from, to.0).ok();
        let kept = begun.and_then(|stream| self.peers.insert(self.poll.registry(), connection, stream));
        kept.is_none().then_some(Input::PeerGone(connection))
    }

    pub(super) fn close_peer(&mut self, connection: PeerConnectionId) {
        if let Some(PeerSocket::Joined(..)) = self.peers.remove(self.poll.registry(), connection) {
            self.counters.connections(-1);
        }
    }

    /// Something happened to a connection with a peer, or to the client's that it is joined with.
    pub(super) fn serve_peer(&mut self, now: Instant, slot: usize) -> bool {
        let Some((connection, socket)) = self.peers.get_mut(slot) else { return false };
        match socket {
            PeerSocket::Connecting(stream) => {
                match sockets::connected(stream) {
                    None => {}
                    Some(true) => {
                        self.peers.now_waiting(slot);
                        self.control(now, Input::PeerConnected(connection));
                    }
                    Some(false) => self.peer_gone(now, connection),
                }
                false
            }
            // Whoever binds it will read what there is.
            PeerSocket::Waiting(_) => false,
            PeerSocket::Joined(pair) => {
                let room = self.buffer.get_mut(..READ_BYTES).unwrap_or_default();
                let (after, moved) = pair.turn(now, room, JOINED_READS);
                let (to_peer, to_client) = (moved.to_peer as u64, moved.to_client as u64);
                let pauses = self.relay.count_joined(now, connection, to_peer, to_client);
                if let Some(until) = pair.rest(now, pauses) {
                    self.peers.wake_at(until, connection);
                }
                self.counters.to_peer.add_bytes(moved.to_peer);
                self.counters.to_client.add_bytes(moved.to_client);
                if after == After::Over {
                    self.peer_gone(now, connection);
                }
                after == After::Again
            }
        }
    }

    /// Turns the pairs again whose rest is over.
    pub(super) fn wake_pairs(&mut self, now: Instant) {
        while let Some(slot) = self.peers.awake(now) {
            self.again.push(Source::Peer(slot).token());
        }
    }

    fn peer_gone(&mut self, now: Instant, connection: PeerConnectionId) {
        self.close_peer(connection);
        self.control(now, Input::PeerGone(connection));
    }

    /// Makes one of the client's connection and the peer's. Where either is gone so is the other.
    pub(super) fn join(
        &mut self,
        connection: PeerConnectionId,
        client: &FiveTuple,
    ) -> Option<Input<'static>> {
        let taken = self.connections.slot_of(client).and_then(|slot| self.connections.take(slot));
        let Some(client) = taken else {
            self.close_peer(connection);
            return Some(Input::PeerGone(connection));
        };
        let registry = self.poll.registry();
        match self.peers.join(registry, connection, |peer| Pair::new(client, peer)) {
            Some(slot) => {
                // What came before this is not announced again.
                self.again.push(Source::Peer(slot).token());
                None
            }
            None => {
                self.counters.connections(-1);
                Some(Input::PeerGone(connection))
            }
        }
    }

    /// Sends a client's connection to the worker that has its peer.
    pub(super) fn move_client(&mut self, client: &FiveTuple, to: WorkerIndex, message: Vec<u8>) {
        let Some(mut client) = self.connections.slot_of(client).and_then(|slot| self.connections.take(slot))
        else {
            return;
        };
        self.counters.connections(-1);
        let _ = self.poll.registry().deregister(client.wire.stream_mut());
        // Nobody there to take it: dropping it closes it.
        if self.post(to, Parcel::Client { client: Box::new(client), message }).is_ok() {
            self.counters.handed_over.add(1);
        }
    }

    /// Takes a client's connection from another worker and goes on where that one stopped.
    pub(super) fn take_in(&mut self, now: Instant, client: Detached, message: &[u8]) {
        let tuple = client.tuple;
        self.replace(now, &tuple);
        let Some(slot) = self.connections.adopt(client) else {
            self.counters.connections_refused.add(1);
            return;
        };
        self.counters.connections(1);
        self.listen_to(now, slot);
        // What it sent behind the message lies here, and no event will say so.
        self.again.push(Source::Connection(slot).token());
        self.frame(now, &tuple, message, 0);
    }
}

/// Reads of a pair in each direction per turn: as many bytes as the least burst of a rate, which is how far one may be exceeded.
const JOINED_READS: usize = 4;
