//! What one batch of received datagrams, or of frames, sends: put in runs that the kernel takes as one, in the order of each flow.
//!
//! Nothing waits here for datagrams that are still to come: a batch is sent before the worker looks at anything else.

use std::io::{self, IoSlice};

use super::Worker;
use super::client::failure;
use crate::address::{FiveTuple, PeerAddr};
use crate::metrics::SendFailure;
use crate::relay::SocketSlot;
use crate::sys::batch::Batch;
use crate::sys::datagram::{self, RUN, RUN_BYTES};

/// Where a datagram goes, and what lies beside it on the wire: datagrams that have all of it in common may make a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: To,
    /// DSCP and ECN.
    pub(super) traffic_class: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Peer {
        via: SocketSlot,
        peer: PeerAddr,
        dont_fragment: bool,
    },
    /// Over UDP.
    Client(FiveTuple),
}

/// Where the bytes lie of what is to be sent.
pub(super) trait Places {
    fn bytes(&self, packet: &Packet) -> &[u8];
}

impl Places for Batch {
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.bytes(packet.place, packet.start..packet.start + packet.len)
    }
}

/// What was read from a stream, which is one place.
impl Places for [u8] {
    fn bytes(&self, packet: &Packet) -> &[u8] {
        self.get(packet.start..packet.start + packet.len).unwrap_or_default()
    }
}

/// One datagram to be sent, where it lies in the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) way: Way,
    /// Its place in the batch.
    pub(super) place: usize,
    /// Where it begins in the place, headroom counted.
    pub(super) start: usize,
    pub(super) len: usize,
    /// What is counted of it.
    pub(super) payload: usize,
}

/// The datagrams of one batch that wait for its end.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// In the order in which they came; those that were taken are `None`.
    packets: Vec<Option<Packet>>,
    /// Before this one all were taken.
    first: usize,
    run: Vec<Packet>,
    runs: bool,
}

impl Outgoing {
    /// With `runs` datagrams are put together where they can be.
    pub(super) fn new(runs: bool) -> Self {
        Self { packets: Vec::with_capacity(WAITING), first: 0, run: Vec::with_capacity(RUN), runs }
    }

    pub(super) fn push(&mut self, packet: Packet) {
        self.packets.push(Some(packet));
    }

    /// No more should wait: runs that came as one may make many datagrams of a batch, and each run that leaves looks at all of them.
    pub(super) fn is_full(&self) -> bool {
        self.packets.len() >= WAITING
    }

    /// Takes what is to be sent next: the oldest datagram and as many of its flow behind it as go with it, none of which overtakes
    /// another. Empty when there is nothing left.
    fn take_run(&mut self) -> &[Packet] {
        self.run.clear();
        let Some(first) = self.packets.iter_mut().skip(self.first).find_map(|packet| {
            self.first += 1;
            packet.take()
        }) else {
            self.packets.clear();
            self.first = 0;
            return &self.run;
        };
        self.run.push(first);
        if !self.runs || first.len == 0 || first.len > LONGEST_OF_A_RUN {
            return &self.run;
        }
        let mut bytes = first.len;
        for waiting in &mut self.packets[self.first..] {
            let Some(packet) = waiting.filter(|packet| packet.way == first.way) else { continue };
            bytes += packet.len;
            if packet.len == 0 || packet.len > first.len || bytes > RUN_BYTES || self.run.len() == RUN {
                break;
            }
            self.run.push(packet);
            *waiting = None;
            if packet.len < first.len {
                break;
            }
        }
        &self.run
    }
}

impl Worker {
    /// Sends what waits in `outgoing`, of which the bytes lie in `places`.
    pub(super) fn flush(&mut self, places: &(impl Places + ?Sized)) {
        if self.outgoing.packets.is_empty() {
            return;
        }
        let mut outgoing = std::mem::take(&mut self.outgoing);
        loop {
            let run = outgoing.take_run();
            let refused = match run {
                [] => break,
                [packet] => {
                    self.send_alone(places, packet);
                    None
                }
                run => self.send_together(places, run).err(),
            };
            if refused.is_some_and(|error| is_incapable(&error)) {
                outgoing.runs = false;
                tracing::warn!(
                    "the network device or the kernel sends no runs of datagrams: they are sent one by one from now on"
                );
            }
        }
        self.outgoing = outgoing;
    }

    fn send_alone(&mut self, places: &(impl Places + ?Sized), packet: &Packet) {
        match self.transmit(packet.way, &[IoSlice::new(places.bytes(packet))]) {
            Ok(()) => self.sent(packet),
            Err((failure, _)) => self.counters.not_sent(failure),
        }
    }

    /// Several as one; where that is refused each by itself, so that each meets its own fate. The error is that of the run.
    fn send_together(&mut self, places: &(impl Places + ?Sized), run: &[Packet]) -> Result<(), io::Error> {
        let mut slices = [IoSlice::new(&[]); RUN];
        for (slice, packet) in slices.iter_mut().zip(run) {
            *slice = IoSlice::new(places.bytes(packet));
        }
        let Some(first) = run.first() else { return Ok(()) };
        match self.transmit(first.way, slices.get(..run.len()).unwrap_or_default()) {
            Ok(()) => {
                run.iter().for_each(|packet| self.sent(packet));
                Ok(())
            }
            Err((_, error)) => {
                run.iter().for_each(|packet| self.send_alone(places, packet));
                Err(error)
            }
        }
    }

    fn transmit(&mut self, way: Way, datagrams: &[IoSlice<'_>]) -> Result<(), (SendFailure, io::Error)> {
        let sent = match way.to {
            To::Peer { via, peer, dont_fragment } => {
                self.relayed.send(via, datagrams, peer, dont_fragment, way.traffic_class)
            }
            To::Client(to) => {
                let Some(listener) = self.listeners.serving(to.server) else {
                    return Err((SendFailure::ClientGone, io::ErrorKind::NotConnected.into()));
                };
                listener.udp.send(datagrams, to.client.0, to.server, way.traffic_class)
            }
        };
        sent.map_err(|error| (failure(&error), error))
    }

    fn sent(&self, packet: &Packet) {
        match packet.way.to {
            To::Peer { .. } => self.counters.to_peer.add(packet.payload),
            To::Client(_) => self.counters.to_client.add(packet.payload),
        }
    }
}

/// It will not be different the next time: no checksum offload (EIO), no such option.
fn is_incapable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOPROTOOPT))
}

/// Says what of the kernel's the data path uses.
pub(crate) fn features() -> &'static str {
    match (datagram::gives_runs(), datagram::takes_runs()) {
        (true, true) => "datagrams are received and sent in runs (recvmmsg, UDP_GRO, UDP_SEGMENT)",
        (true, false) => {
            "datagrams are received in runs and sent one by one (recvmmsg, UDP_GRO; this kernel has no UDP_SEGMENT)"
        }
        (false, true) => {
            "datagrams are received in batches and sent in runs (recvmmsg, UDP_SEGMENT; this kernel has no UDP_GRO)"
        }
        (false, false) => {
            "datagrams are received in batches and sent one by one (recvmmsg; this kernel has neither UDP_GRO nor UDP_SEGMENT)"
        }
    }
}

/// Datagrams that wait at most.
const WAITING: usize = 256;
/// What an Ethernet frame holds behind the headers of IPv4 and UDP. Longer ones are cut into fragments, which is nothing for a run.
const LONGEST_OF_A_RUN: usize = 1472;

#[cfg(test)]
mod tests;
