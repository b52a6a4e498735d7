//! The way down: newcomers are sent elsewhere, who is here may finish.

use std::time::{Duration, Instant};

use super::Control;
use crate::config::Settings;
use crate::relay::Drain;

/// The process is on its way out: newcomers cannot be welcomed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is stopping, and that cannot be called off")]
pub struct Stopping;

impl Control {
    /// The last drain: sends newcomers elsewhere from now on, as the settings say, and grants no lifetime beyond the deadline.
    /// How long the allocations that stand may run on. `announce` as for [`Control::send_elsewhere`].
    pub fn start_drain(&self, announce: impl FnOnce()) -> Duration {
        let mut phase = self.phase();
        *phase = Phase::Stopping;
        announce();
        let (drain, deadline) = {
            let settings = self.settings();
            let deadline = settings.drain.deadline;
            (Drain { until: Instant::now().checked_add(deadline), ..elsewhere(&settings) }, deadline)
        };
        self.drain(Some(drain));
        deadline
    }

    /// Sends newcomers elsewhere until [`Control::welcome`]; who is here runs on for as long as it wishes, and the process
    /// stays. `announce` is called before anybody is sent away, for what keeps newcomers from coming at all.
    ///
    /// # Errors
    /// Once the last drain has begun: it is more than this.
    pub fn send_elsewhere(&self, announce: impl FnOnce()) -> Result<(), Stopping> {
        let mut phase = self.phase();
        if *phase == Phase::Stopping {
            return Err(Stopping);
        }
        announce();
        *phase = Phase::Draining;
        let drain = elsewhere(&self.settings());
        self.drain(Some(drain));
        Ok(())
    }

    /// Takes [`Control::send_elsewhere`] back; `announce` is called when newcomers are welcome again.
    ///
    /// # Errors
    /// Once the last drain has begun.
    pub fn welcome(&self, announce: impl FnOnce()) -> Result<(), Stopping> {
        let mut phase = self.phase();
        if *phase == Phase::Stopping {
            return Err(Stopping);
        }
        *phase = Phase::Serving;
        self.drain(None);
        announce();
        Ok(())
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

/// Where newcomers are sent.
fn elsewhere(settings: &Settings) -> Drain {
    let rules = settings.drain.clone();
    Drain {
        alternate_v4: rules.alternate_v4,
        alternate_v6: rules.alternate_v6,
        alternate_domain: rules.alternate_domain,
        until: None,
    }
}

/// What becomes of newcomers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    #[default]
    Serving,
    /// The operator wishes so, for now.
    Draining,
    /// For good.
    Stopping,
}

/// How often to look whether somebody is left: nobody notices a tenth of a second at the end of a process.
const LOOK: Duration = Duration::from_millis(100);
