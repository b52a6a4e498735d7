//! Frames that were sent in a session and not yet acknowledged, in the order of their `seq`.
//!
//! Holds nothing while everything is acknowledged, which is how an idle session is. A ring that overflowed is empty
//! for good: what it lost cannot be sent again, so its session cannot be resumed.

use std::collections::VecDeque;

use super::frame::Body;
use super::limits::Limits;

/// What one frame is charged beyond its text: the pointer in the ring, the counts of the shared body, and where its two parts are.
const FRAME_OVERHEAD: usize = 96;

/// Frames and bytes of all rings of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Highest `seq` that the client acknowledged; the first frame held is the next one.
    acked: u64,
    frames: VecDeque<Body>,
    bytes: usize,
    overflowed: bool,
}

/// The frame does not fit and the ring has given up.
#[derive(Debug)]
pub(super) struct Overflow;

impl Ring {
    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }

    /// `seq` of the last frame; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.acked + self.frames.len() as u64
    }

    pub(super) const fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Appends a frame and gives its `seq`.
    pub(super) fn push(&mut self, body: Body, limits: &Limits, held: &mut Held) -> Result<u64, Overflow> {
        let cost = body.len() + FRAME_OVERHEAD;
        let bytes = self.bytes + cost;
        let scarce = held.bytes + cost > limits.replay_total_bytes;
        let full = self.frames.len() >= limits.replay_messages
            || bytes > limits.replay_bytes
            || scarce && bytes > limits.replay_reserve;
        if full || self.overflowed {
            self.clear(held);
            self.overflowed = true;
            return Err(Overflow);
        }
        self.frames.push_back(body);
        self.bytes = bytes;
        held.frames += 1;
        held.bytes += cost;
        Ok(self.last())
    }

    /// Drops what the client has seen. An `ack` that is behind changes nothing; one ahead of [`Self::last`] is the
    /// caller's to refuse.
    pub(super) fn acknowledge(&mut self, ack: u64, held: &mut Held) {
        while self.acked < ack
            && let Some(body) = self.frames.pop_front()
        {
            let cost = body.len() + FRAME_OVERHEAD;
            self.acked += 1;
            self.bytes -= cost;
            held.frames -= 1;
            held.bytes -= cost;
        }
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }

    /// The frames with their `seq`.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Body)> {
        (self.acked + 1..).zip(&self.frames)
    }

    /// Gives back what the ring holds.
    pub(super) fn clear(&mut self, held: &mut Held) {
        held.frames -= self.frames.len();
        held.bytes -= self.bytes;
        self.frames = VecDeque::new();
        self.bytes = 0;
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> Held {
        Held { frames: self.frames.len(), bytes: self.bytes }
    }
}
