//! From peers: datagrams on relayed sockets, wrapped in place and sent to the client.

use std::io;
use std::time::Instant;

use super::{BUDGET, Worker};
use crate::frame::{HEADROOM, TAILROOM};
use crate::relay::{DropReason, SocketSlot, Verdict};

impl Worker {
    pub(super) fn serve_relayed(&mut self, now: Instant, slot: SocketSlot) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let more = (0..BUDGET).all(|_| self.receive_relayed(now, slot, &mut buffer));
        self.buffer = buffer;
        more
    }

    /// One datagram; tells whether there may be another.
    fn receive_relayed(&mut self, now: Instant, slot: SocketSlot, buffer: &mut [u8]) -> bool {
        let room = HEADROOM..buffer.len().saturating_sub(TAILROOM);
        let Some(received) = buffer.get_mut(room).and_then(|room| self.relayed.receive(slot, room)) else {
            return false;
        };
        let (len, from) = match received {
            Ok(received) => received,
            // Whatever else the socket reports (an ICMP error, say) is about one datagram of the past.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        match self.relay.route_peer(now, slot, from, len) {
            Verdict::ToClient { to, header } => {
                let Some(frame) = header.write(to.transport, buffer, HEADROOM..HEADROOM + len) else {
                    self.counters.dropped(DropReason::TooLarge);
                    return true;
                };
                match self.send_to_client(&to, buffer.get(frame).unwrap_or_default()) {
                    Ok(()) => self.counters.to_client.add(len),
                    Err(failure) => self.counters.not_sent(failure),
                }
            }
            Verdict::Drop(reason) => self.counters.dropped(reason),
            // Only a client's frame goes to a peer or to the control path.
            Verdict::ToPeer { .. } | Verdict::Control => {}
        }
        true
    }
}
