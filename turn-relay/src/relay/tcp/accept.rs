//! Connections that peers make to a relayed address (RFC 6062 section 5.3).

use std::time::Instant;

use super::{BIND_PATIENCE, PeerConnection, Stage};
use crate::address::PeerAddr;
use crate::frame::TransactionId;
use crate::relay::contract::{DropReason, Output, PeerConnectionId, SocketSlot};
use crate::relay::{Relay, next_transaction};
use crate::stun;

impl Relay {
    /// The client is told of a peer that has a permission; any other is closed at once.
    pub(in crate::relay) fn peer_accepted(
        &mut self,
        now: Instant,
        on: SocketSlot,
        connection: PeerConnectionId,
        from: PeerAddr,
    ) {
        if let Err(reason) = self.take_peer(now, on, connection, from) {
            self.dropped(reason);
            self.outputs.push(Output::ClosePeer(connection));
        }
    }

    fn take_peer(
        &mut self,
        now: Instant,
        on: SocketSlot,
        connection: PeerConnectionId,
        from: PeerAddr,
    ) -> Result<(), DropReason> {
        let index = self.relayed_by(on).ok_or(DropReason::NoAllocation)?;
        if self.allocations[index].permitted(now, from.ip()).is_none() {
            return Err(DropReason::NoPermission);
        }
        self.check_tcp_peer(index, from).map_err(|_| DropReason::PeerForbidden)?;
        self.admit_connection(index).map_err(|_| DropReason::TooManyConnections)?;
        let until = now + BIND_PATIENCE;
        let id = self.offer_connection(connection, until);
        let stage = Stage::Unbound { id, until };
        self.keep_connection(connection, PeerConnection { allocation: index, peer: from, stage });
        let transaction: TransactionId = next_transaction(&mut self.next_indication);
        let message = stun::connection_attempt(transaction, self.outward_of(from), id);
        self.outputs.push(Output::Send { to: self.allocations[index].from, message });
        Ok(())
    }
}
