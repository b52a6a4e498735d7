//! Peer connections on paper: what a driver would have open, and the messages of RFC 6062.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![cfg_attr(not(test), allow(dead_code, reason = "the fuzz targets use a part of it"))]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::address::{FiveTuple, PeerAddr};
use crate::relay::testing::{Answer, Draft, World};
use crate::relay::{Input, Output, PeerConnectionId};

pub(crate) const CONNECT: u16 = 0x000A;
pub(crate) const CONNECTION_BIND: u16 = 0x000B;
pub(crate) const CONNECTION_ATTEMPT: u16 = 0x001C;

impl Draft {
    /// REQUESTED-TRANSPORT TCP (RFC 6062).
    pub(crate) fn tcp(self) -> Self {
        self.with(0x0019, &[6, 0, 0, 0])
    }

    /// CONNECTION-ID.
    pub(crate) fn connection(self, id: u32) -> Self {
        self.with(0x002A, &id.to_be_bytes())
    }
}

impl Answer {
    /// CONNECTION-ID.
    pub(crate) fn connection(&self) -> u32 {
        u32::from_be_bytes(self.attribute(0x002A).expect("CONNECTION-ID").try_into().unwrap())
    }

    /// XOR-PEER-ADDRESS.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.xored(0x0012)
    }
}

/// A peer connection, by the worker that has it.
pub(crate) type Held = (usize, PeerConnectionId);

#[derive(Debug, Default)]
pub(crate) struct PaperPeers {
    /// Sockets that exist: connecting, waiting or joined.
    pub(crate) open: BTreeSet<Held>,
    /// Connects that have no answer yet: from where, to whom.
    pub(crate) connecting: BTreeMap<Held, (SocketAddr, PeerAddr)>,
    /// Whose connection each was joined with.
    pub(crate) joined: BTreeMap<Held, FiveTuple>,
    /// Clients that were moved, to which worker.
    pub(crate) moved: Vec<(FiveTuple, usize)>,
    next_incoming: u64,
}

impl PaperPeers {
    /// Closes one, if it is there.
    fn close(&mut self, held: Held) -> bool {
        self.connecting.remove(&held);
        self.joined.remove(&held);
        self.open.remove(&held)
    }
}

impl World {
    /// The outputs of RFC 6062.
    pub(crate) fn carry_out_tcp(&mut self, worker: usize, output: Output) {
        match output {
            Output::ConnectPeer { connection, from, to } => {
                assert!(self.peers.open.insert((worker, connection)), "{connection:?} is named twice");
                self.peers.connecting.insert((worker, connection), (from, to));
            }
            Output::ClosePeer(connection) => drop(self.peers.close((worker, connection))),
            Output::Join { connection, client } => {
                assert!(
                    !self.peers.connecting.contains_key(&(worker, connection)),
                    "joined before it stands"
                );
                if self.peers.open.contains(&(worker, connection)) {
                    let before = self.peers.joined.insert((worker, connection), client);
                    assert_eq!(before, None, "joined twice");
                }
            }
            Output::MoveClient { client, to, message } => {
                self.peers.moved.push((client, to.0.into()));
                let wall = self.wall();
                self.input(to.0.into(), Input::Message { from: client, bytes: &message, wall });
            }
            Output::Send { .. }
            | Output::Open { .. }
            | Output::Close(_)
            | Output::Disconnect(_)
            | Output::ClaimAt { .. }
            | Output::Surrender { .. }
            | Output::DenyClaim { .. }
            | Output::SummonAt { .. }
            | Output::HandOver { .. }
            | Output::DenySummons { .. }
            | Output::Authorize { .. }
            | Output::Event(_)
            | Output::ListenTcp { .. } => panic!("not about peer connections: {output:?}"),
        }
    }

    /// A peer connects to a relayed address.
    pub(crate) fn peer_connects(&mut self, worker: usize, to: SocketAddr, from: &str) -> PeerConnectionId {
        let connection = PeerConnectionId::Incoming(self.peers.next_incoming);
        self.peers.next_incoming += 1;
        self.peers.open.insert((worker, connection));
        let (on, from) = (self.slot(worker, to), crate::relay::testing::peer(from));
        self.input(worker, Input::PeerAccepted { on, connection, from });
        self.settle();
        connection
    }

    /// The one connect under way gets through, or does not.
    pub(crate) fn peer_answers(&mut self, accepts: bool) -> PeerConnectionId {
        let ((worker, connection), _) = self.peers.connecting.pop_first().expect("a connect");
        if accepts {
            self.input(worker, Input::PeerConnected(connection));
        } else {
            self.peer_closes(worker, connection);
        }
        self.settle();
        connection
    }

    /// The peer, or the joined client, closes.
    pub(crate) fn peer_closes(&mut self, worker: usize, connection: PeerConnectionId) {
        self.peers.close((worker, connection));
        self.input(worker, Input::PeerGone(connection));
        self.settle();
    }
}
