//! The relay's core (RFC 8656): allocations, permissions, channels, and what becomes of each packet.
//!
//! Refuses to do: sockets, clocks, threads, randomness that was not handed in, logging.
//! `now` comes first in every entry point; results are values. One `Relay` belongs to one worker thread; what
//! workers have in common is in [`Shared`].
//!
//! Invariants: nothing is forwarded without an unexpired permission, in either direction; an allocation does not outlive
//! its lifetime; every claimed port is released exactly once.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod contract;
mod settings;
mod shared;

use std::sync::Arc;
use std::time::Instant;

use rand_chacha::ChaCha20Rng;

pub use crate::frame::Header;
pub use contract::{
    Claim, ClaimedSocket, DropReason, EndReason, Event, Input, OpenFailure, OpenId, Opened, Output,
    RequestMethod, SocketSlot, Traffic, Verdict, WorkerIndex,
};
pub use settings::{Limits, RelayAddress, RelaySettings};
pub use shared::Shared;

use crate::address::{FiveTuple, PeerAddr};

/// One worker's core.
#[derive(Debug)]
pub struct Relay {
    outputs: Vec<Output>,
}

impl Relay {
    /// A core without allocations. `rng` must be seeded from the system's entropy (or from a seed, in tests).
    pub fn new(
        settings: Arc<RelaySettings>,
        shared: Arc<Shared>,
        worker: WorkerIndex,
        rng: ChaCha20Rng,
    ) -> Self {
        let _ = (settings, shared, worker, rng);
        Self { outputs: Vec::new() }
    }

    /// Decides about one datagram, or one whole frame of a stream (padding included or not), from a client. Allocates nothing.
    pub fn route_client(&mut self, now: Instant, from: &FiveTuple, frame: &[u8]) -> Verdict {
        let _ = (now, from, frame);
        Verdict::Drop(DropReason::Malformed)
    }

    /// Decides about a datagram of `len` bytes that arrived on a relayed socket. Allocates nothing.
    pub fn route_peer(&mut self, now: Instant, on: SocketSlot, from: PeerAddr, len: usize) -> Verdict {
        let _ = (now, on, from, len);
        Verdict::Drop(DropReason::NoAllocation)
    }

    /// Applies one input and lends out everything that must now happen, in order. Drain it: what is not taken is lost.
    #[must_use = "outputs are the only way the core acts"]
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Outputs<'_> {
        let _ = (now, input);
        Outputs(self.outputs.drain(..))
    }

    /// When to call with [`Input::Timeout`] at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// What must now happen, in order.
#[derive(Debug)]
pub struct Outputs<'a>(std::vec::Drain<'a, Output>);

impl Iterator for Outputs<'_> {
    type Item = Output;

    fn next(&mut self) -> Option<Output> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
