//! ConnectionBind (RFC 6062 section 5.4): a client's new connection becomes the other half of a peer connection.

use std::time::Instant;

use super::Stage;
use crate::relay::Relay;
use crate::relay::contract::Output;
use crate::relay::deadlines::Timer;
use crate::relay::refusal::Refusal;
use crate::relay::requests::Asker;

impl Relay {
    /// `message` is the whole request: where another worker has the peer connection, the client's connection goes there and
    /// asks again. A wrong id costs the connection that it came on: guessing one of 2^32 needs as many handshakes.
    pub(in crate::relay) fn connection_bind(
        &mut self,
        now: Instant,
        asker: &Asker,
        id: Option<u32>,
        message: &[u8],
    ) -> Result<(), Refusal> {
        if !asker.from.transport.is_stream() {
            return Err(Refusal::ClientMalformed("ConnectionBind over a transport without connections"));
        }
        if self.seats.contains_key(&asker.from.key()) {
            return Err(Refusal::ClientMalformed("ConnectionBind on a connection that has an allocation"));
        }
        let id = id.ok_or(Refusal::ClientMalformed("ConnectionBind without CONNECTION-ID"))?;
        match self.shared.connections.worker_of(id) {
            Some(worker) if worker != self.worker => {
                self.outputs.push(Output::MoveClient {
                    client: asker.from,
                    to: worker,
                    message: message.to_vec(),
                });
            }
            Some(_) | None => {
                if self.join(now, asker, id).is_none() {
                    self.refuse(now, asker, UNKNOWN, &[]);
                    self.outputs.push(Output::Disconnect(asker.from));
                }
            }
        }
        Ok(())
    }

    /// Only for the user of the allocation; to others an id is as unknown as any.
    fn join(&mut self, now: Instant, asker: &Asker, id: u32) -> Option<()> {
        let connection = *self.peer_connections.unbound.get(&id)?;
        let known = self.peer_connections.all.get_mut(&connection)?;
        let allocation = self.allocations.get(known.allocation)?;
        if allocation.username != asker.username {
            return None;
        }
        let Stage::Unbound { until, .. } = known.stage else { return None };
        known.stage = Stage::Joined;
        self.deadlines.cancel(until, Timer::PeerConnection(connection));
        self.withdraw(id);
        self.succeed(now, asker, &[]);
        self.outputs.push(Output::Join { connection, client: asker.from });
        Some(())
    }
}

const UNKNOWN: Refusal = Refusal::ClientMalformed("CONNECTION-ID of no peer connection that waits");
