//! The way down: newcomers are sent elsewhere, who is here may finish.

use std::time::{Duration, Instant};

use super::Control;
use crate::relay::Drain;

impl Control {
    /// Sends newcomers elsewhere from now on, as the settings say, and grants no lifetime beyond the deadline. How long the
    /// allocations that stand may run on.
    pub fn start_drain(&self) -> Duration {
        let rules = self.settings().drain.clone();
        self.drain(Some(Drain {
            alternate_v4: rules.alternate_v4,
            alternate_v6: rules.alternate_v6,
            alternate_domain: rules.alternate_domain,
            until: Instant::now().checked_add(rules.deadline),
        }));
        rules.deadline
    }

    /// Allocations that stand, are being opened, or have a port in reserve.
    #[must_use]
    pub fn allocations(&self) -> u32 {
        self.reins().allocations()
    }

    /// Resolves when no allocation is left or `deadline` has passed. Must run inside a tokio runtime.
    pub async fn drained(&self, deadline: Duration) {
        let ends = tokio::time::Instant::now() + deadline;
        while self.allocations() > 0 && tokio::time::Instant::now() < ends {
            tokio::time::sleep_until(ends.min(tokio::time::Instant::now() + LOOK)).await;
        }
    }
}

/// How often to look whether somebody is left: nobody notices a tenth of a second at the end of a process.
const LOOK: Duration = Duration::from_millis(100);
