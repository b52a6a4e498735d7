//! Where a model takes its decisions from: a seed, or the bytes of a fuzzer.

use std::collections::VecDeque;
use std::convert::Infallible;

use rand::{SeedableRng as _, TryRng};
use rand_chacha::ChaCha20Rng;

/// A random source for what a model decides. Read off bytes, one decision takes two of them, so that changing a byte changes
/// one decision; when they have run out all decisions are 0.
pub(crate) enum Choices {
    Drawn(Box<ChaCha20Rng>),
    Read(VecDeque<u8>),
}

impl Choices {
    pub(crate) fn drawn(seed: u64) -> Self {
        Self::Drawn(Box::new(ChaCha20Rng::seed_from_u64(seed)))
    }

    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self::Read(bytes.iter().copied().collect())
    }

    /// Whether there is nothing left to decide by.
    pub(crate) fn are_over(&self) -> bool {
        matches!(self, Self::Read(bytes) if bytes.is_empty())
    }
}

impl TryRng for Choices {
    type Error = Infallible;

    /// Ranges are drawn from the upper bits.
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match self {
            Self::Drawn(rng) => rng.try_next_u32(),
            Self::Read(bytes) => {
                let [high, low] = [(); 2].map(|()| bytes.pop_front().unwrap_or(0));
                Ok(u32::from_be_bytes([high, low, 0, 0]))
            }
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match self {
            Self::Drawn(rng) => rng.try_next_u64(),
            Self::Read(_) => self.try_next_u32().map(|upper| u64::from(upper) << 32),
        }
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::Drawn(rng) => rng.try_fill_bytes(into),
            Self::Read(bytes) => {
                into.fill_with(|| bytes.pop_front().unwrap_or(0));
                Ok(())
            }
        }
    }
}
