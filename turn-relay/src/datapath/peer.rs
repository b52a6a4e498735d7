//! From peers: datagrams on relayed sockets, wrapped in place and sent to the client, and what ICMP says about those that
//! went the other way.

use std::io;
use std::time::Instant;

use super::{BUDGET, Worker};
use crate::address::PeerAddr;
use crate::frame::{HEADROOM, TAILROOM};
use crate::relay::{DropReason, Icmp, SocketSlot, Verdict};
use crate::sys::error_queue::SendError;

impl Worker {
    pub(super) fn serve_relayed(&mut self, now: Instant, slot: SocketSlot) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        // Errors first: while they lie in their queue they take room from datagrams.
        let more_errors = (0..BUDGET).all(|_| self.receive_error(now, slot, &mut buffer));
        let more = (0..BUDGET).all(|_| self.receive_relayed(now, slot, &mut buffer));
        self.buffer = buffer;
        more || more_errors
    }

    /// One datagram; tells whether there may be another.
    fn receive_relayed(&mut self, now: Instant, slot: SocketSlot, buffer: &mut [u8]) -> bool {
        let room = HEADROOM..buffer.len().saturating_sub(TAILROOM);
        let Some(received) = buffer.get_mut(room).and_then(|room| self.relayed.receive(slot, room)) else {
            return false;
        };
        let received = match received {
            Ok(received) => received,
            // Whatever else the socket reports (an ICMP error, say) is about one datagram of the past.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        let len = received.len;
        self.counters.overflowed_relayed.add(received.overflows);
        let verdict = self.relay.route_peer(now, slot, received.from, len);
        self.deliver(now, verdict, buffer, len, received.traffic_class);
        true
    }

    /// One ICMP message about a datagram that was sent; tells whether there may be another.
    fn receive_error(&mut self, now: Instant, slot: SocketSlot, buffer: &mut [u8]) -> bool {
        let Some(taken) = self.relayed.take_error(slot) else { return false };
        if let Some(SendError { to, kind, code, mtu }) = taken {
            let verdict = self.relay.route_icmp(now, slot, PeerAddr(to), Icmp { kind, code, mtu });
            self.deliver(now, verdict, buffer, 0, 0);
        }
        true
    }

    /// Does with a peer's `len` bytes at [`HEADROOM`] what the core decided.
    fn deliver(&mut self, now: Instant, verdict: Verdict, buffer: &mut [u8], len: usize, traffic_class: u8) {
        match verdict {
            Verdict::ToClient { to, header } => {
                let Some(frame) = header.write(to.transport, buffer, HEADROOM..HEADROOM + len) else {
                    return self.counters.dropped(DropReason::TooLarge);
                };
                match self.send_to_client(now, &to, buffer.get(frame).unwrap_or_default(), traffic_class) {
                    Ok(()) => self.counters.to_client.add(len),
                    Err(failure) => self.counters.not_sent(failure),
                }
            }
            Verdict::Drop(reason) => self.counters.dropped(reason),
            // Only a client's frame goes to a peer or to the control path.
            Verdict::ToPeer { .. } | Verdict::Control => {}
        }
    }
}
