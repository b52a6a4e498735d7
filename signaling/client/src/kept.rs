//! Sequenced frames that the server has not acknowledged, oldest first, and how fast they may go out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use signaling_protocol::LimitsNotice;

/// Share of the server's rate that sequenced frames use; acknowledgements and pongs count there as well.
const SHARE: (u32, u32) = (4, 5);

#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// `seq` of the newest frame.
    last: u64,
    /// Frames without their envelope: the text between the braces.
    frames: VecDeque<String>,
    bytes: usize,
    /// How many of them went out over the present connection.
    flushed: usize,
}

/// The server takes so many frames at once and so many a second; this side of the same bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    full_at: Instant,
}

impl Kept {
    pub(crate) fn push(&mut self, fields: String) -> u64 {
        self.last += 1;
        self.bytes += fields.len();
        self.frames.push_back(fields);
        self.last
    }

    /// Whether it holds more than the server would keep for the other direction.
    pub(crate) fn exceeds(&self, limits: &LimitsNotice) -> bool {
        self.frames.len() as u64 > limits.replay_messages || self.bytes as u64 > limits.replay_bytes
    }

    pub(crate) fn acknowledge(&mut self, ack: u64) {
        while self.last - (self.frames.len() as u64) < ack
            && let Some(fields) = self.frames.pop_front()
        {
            self.bytes -= fields.len();
            self.flushed = self.flushed.saturating_sub(1);
        }
    }

    /// A new connection: everything goes out again.
    pub(crate) const fn rewind(&mut self) {
        self.flushed = 0;
    }

    /// The next frame to go out.
    pub(crate) fn next(&mut self) -> Option<(u64, &str)> {
        let fields = self.frames.get(self.flushed)?;
        self.flushed += 1;
        Some((self.last - (self.frames.len() - self.flushed) as u64, fields))
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed == self.frames.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }
}

impl Pace {
    pub(crate) const fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one token, or says when there will be one.
    pub(crate) fn take(&mut self, now: Instant, limits: &LimitsNotice) -> Result<(), Instant> {
        let number = |notice: u64| u32::try_from(notice).unwrap_or(u32::MAX).max(1);
        let one = Duration::from_secs(1) * SHARE.1 / SHARE.0 / number(limits.messages_per_second);
        let burst = (number(limits.message_burst) / SHARE.1 * SHARE.0).max(1);
        let full_at = self.full_at.max(now) + one;
        let most = now + one * burst;
        if full_at > most {
            return Err(now + (full_at - most));
        }
        self.full_at = full_at;
        Ok(())
    }
}
