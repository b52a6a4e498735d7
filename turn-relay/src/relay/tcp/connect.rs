//! Connect (RFC 6062 section 5.2): a connection from the relayed address to a peer.

use std::net::SocketAddr;
use std::time::Instant;

use super::{CONNECT_PATIENCE, PeerConnection, Stage};
use crate::address::PeerAddr;
use crate::relay::Relay;
use crate::relay::allocation::Protocol;
use crate::relay::contract::{Output, PeerConnectionId};
use crate::relay::deadlines::Timer;
use crate::relay::refusal::Refusal;
use crate::relay::requests::Asker;
use crate::stun::Attribute;

impl Relay {
    /// The answer comes when the connection stands, or does not. Naming the peer is the client's consent, so no permission is
    /// needed besides; the policy is asked as if one were installed.
    pub(in crate::relay) fn connect(
        &mut self,
        now: Instant,
        asker: &Asker,
        to: Option<SocketAddr>,
    ) -> Result<(), Refusal> {
        let index = self.own_allocation(now, asker)?;
        if self.allocations[index].protocol != Protocol::Tcp {
            return Err(Refusal::AllocationMismatch("the allocation does not relay TCP"));
        }
        let to = to.ok_or(Refusal::ClientMalformed("Connect without XOR-PEER-ADDRESS"))?;
        let peer = self.peers.inward(to);
        self.check_tcp_peer(index, peer)?;
        if self.is_connected_to(index, peer) {
            return Err(Refusal::ConnectionExists);
        }
        let from = self.relayed_address(index, peer).ok_or(Refusal::PeerFamilyMismatch)?;
        self.meet(now, index, [(peer.ip(), peer.port())].into_iter())?;
        self.admit_connection(index)?;
        let connection = PeerConnectionId::Outgoing(self.peer_connections.next_outgoing);
        self.peer_connections.next_outgoing += 1;
        let until = now + CONNECT_PATIENCE;
        self.deadlines.set(until, Timer::PeerConnection(connection));
        let stage = Stage::Connecting { asker: Box::new(asker.clone()), until };
        self.keep_connection(connection, PeerConnection { allocation: index, peer, stage });
        self.outputs.push(Output::ConnectPeer { connection, from, to: peer });
        Ok(())
    }

    /// Also by a connection that the peer made: the kernel could not tell the two apart.
    fn is_connected_to(&self, index: usize, peer: PeerAddr) -> bool {
        let connections = &self.peer_connections.all;
        self.allocations[index]
            .connections
            .iter()
            .any(|connection| connections.get(connection).is_some_and(|known| known.peer == peer))
    }

    /// The driver says that it stands.
    pub(in crate::relay) fn peer_connected(&mut self, now: Instant, connection: PeerConnectionId) {
        let Some(known) = self.peer_connections.all.get(&connection) else {
            // Its allocation ended meanwhile; the driver was told to close it.
            return;
        };
        let Stage::Connecting { asker, until } = &known.stage else {
            debug_assert!(false, "the driver connected what was connected");
            return;
        };
        let (asker, until) = (asker.clone(), *until);
        self.deadlines.cancel(until, Timer::PeerConnection(connection));
        let until = now + super::BIND_PATIENCE;
        let id = self.offer_connection(connection, until);
        if let Some(known) = self.peer_connections.all.get_mut(&connection) {
            known.stage = Stage::Unbound { id, until };
        }
        self.succeed(now, &asker, &[Attribute::ConnectionId(id)]);
    }
}
