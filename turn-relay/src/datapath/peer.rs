//! From peers: datagrams on relayed sockets, wrapped in place and sent to the client, and what ICMP says about those that
//! went the other way.

use std::io;
use std::ops::Range;
use std::time::Instant;

use super::client::not_taken;
use super::outgoing::{Packet, To, Way};
use super::relayed::FromPeer;
use super::{BUDGET, Source, Worker, in_batches};
use crate::address::{FiveTuple, PeerAddr, Transport};
use crate::frame::HEADROOM;
use crate::listen::stream::Refused;
use crate::relay::{DropReason, Icmp, SocketSlot, Verdict};
use crate::sys::batch::{Batch, Taken};
use crate::sys::error_queue::SendError;

impl Worker {
    pub(super) fn serve_relayed(&mut self, now: Instant, slot: SocketSlot) -> bool {
        // Errors first: while they lie in their queue they take room from datagrams.
        let mut buffer = std::mem::take(&mut self.buffer);
        let more_errors = (0..BUDGET).all(|_| self.receive_error(now, slot, &mut buffer));
        self.buffer = buffer;
        let mut batch = std::mem::take(&mut self.batch);
        let more = in_batches(|want| self.receive_relayed(now, slot, &mut batch, want));
        self.batch = batch;
        more || more_errors
    }

    /// Datagrams, or runs of them, as many as wanted if there are so many.
    fn receive_relayed(
        &mut self,
        now: Instant,
        slot: SocketSlot,
        batch: &mut Batch,
        want: usize,
    ) -> io::Result<Taken> {
        let taken = self.relayed.receive(slot, batch, want)?;
        let mut corked = None;
        for place in 0..taken.datagrams {
            self.take_relayed(now, slot, batch, place, &mut corked);
            if self.outgoing.is_full() {
                self.flush(batch);
            }
        }
        self.flush(batch);
        self.uncork(corked);
        Ok(taken)
    }

    /// One datagram from a peer. What is for a client over UDP, TCP or TLS waits for the end of the batch; `corked` is the
    /// connection on which something does.
    fn take_relayed(
        &mut self,
        now: Instant,
        slot: SocketSlot,
        batch: &mut Batch,
        place: usize,
        corked: &mut Option<usize>,
    ) {
        let Some(FromPeer { len, from, traffic_class, overflows }) = self.relayed.from(slot, batch, place)
        else {
            return;
        };
        self.counters.overflowed_relayed.add(overflows);
        let verdict = self.relay.route_peer(now, slot, from, len);
        let Some((to, frame)) = self.wrap(verdict, batch.place(place), len) else { return };
        if to.transport == Transport::Udp {
            let way = Way { to: To::Client(to), traffic_class };
            let packet = Packet { way, place, start: frame.start, len: frame.len(), payload: len };
            return self.outgoing.push(packet);
        }
        let frame = batch.bytes(place, frame);
        match to.transport {
            Transport::Tcp | Transport::Tls => self.cork(&to, frame, len, corked),
            Transport::Udp | Transport::Dtls => self.deliver(now, &to, frame, len, traffic_class),
        }
    }

    /// Puts a frame with `len` bytes of a peer's on its client's connection.
    fn cork(&mut self, to: &FiveTuple, frame: &[u8], len: usize, corked: &mut Option<usize>) {
        let slot = self.connections.slot_of(to);
        if *corked != slot {
            self.uncork(std::mem::replace(corked, slot));
        }
        let taken = slot.map_or(Err(Refused::Gone), |slot| self.connections.cork(slot, frame));
        match taken {
            Ok(()) => self.counters.to_client.add(len),
            Err(refused) => self.counters.not_sent(not_taken(refused)),
        }
    }

    /// Writes what waits on a connection. One that failed, or that was to close after this, is looked at in the next turn.
    fn uncork(&mut self, slot: Option<usize>) {
        if let Some(slot) = slot
            && self.connections.flush(slot).is_err()
        {
            self.again.push(Source::Connection(slot).token());
        }
    }

    /// One ICMP message about a datagram that was sent; tells whether there may be another.
    fn receive_error(&mut self, now: Instant, slot: SocketSlot, buffer: &mut [u8]) -> bool {
        let Some(taken) = self.relayed.take_error(slot) else { return false };
        if let Some(SendError { to, kind, code, mtu }) = taken {
            let verdict = self.relay.route_icmp(now, slot, PeerAddr(to), Icmp { kind, code, mtu });
            if let Some((to, frame)) = self.wrap(verdict, buffer, 0) {
                self.deliver(now, &to, buffer.get(frame).unwrap_or_default(), 0, 0);
            }
        }
        true
    }

    /// Puts the header that the core decided on in front of a peer's `len` bytes at [`HEADROOM`]; tells for whom it is, and where
    /// the frame lies. `None`: it goes no further, and was counted.
    fn wrap(&mut self, verdict: Verdict, buffer: &mut [u8], len: usize) -> Option<(FiveTuple, Range<usize>)> {
        match verdict {
            Verdict::ToClient { to, header } => {
                let frame = header.write(to.transport, buffer, HEADROOM..HEADROOM + len);
                if frame.is_none() {
                    self.counters.dropped(DropReason::TooLarge);
                }
                Some((to, frame?))
            }
            Verdict::Drop(reason) => {
                self.counters.dropped(reason);
                None
            }
            // Only a client's frame goes to a peer or to the control path.
            Verdict::ToPeer { .. } | Verdict::Control => None,
        }
    }

    /// Sends a frame with `len` bytes of a peer's to a client, now.
    fn deliver(&mut self, now: Instant, to: &FiveTuple, frame: &[u8], len: usize, traffic_class: u8) {
        match self.send_to_client(now, to, frame, traffic_class) {
            Ok(()) => self.counters.to_client.add(len),
            Err(failure) => self.counters.not_sent(failure),
        }
    }
}
