//! What becomes of clients when the server is told to end.

use std::time::Duration;

use turn_relay::operation::StartError;

use super::{Config, doors::origin, numbers::within};
use crate::origin::Origin;

/// How the server drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainRules {
    /// Departures are spread over it.
    pub(crate) window: Duration,
    /// Where clients are sent; without it they come back to the address that they know.
    pub(crate) url: Option<Origin>,
}

pub(super) fn rules(config: &Config) -> Result<DrainRules, StartError> {
    let seconds = within("drain_seconds", config.drain_seconds, DEFAULT_SECONDS, 0..=MOST_SECONDS)?;
    let url = config.drain_url.as_deref().map(|text| origin("drain_url", text)).transpose()?;
    Ok(DrainRules { window: Duration::from_secs(seconds), url })
}

/// With the goodbyes behind it less than the 30 s after which Kubernetes kills, and the 90 s of systemd.
const DEFAULT_SECONDS: u64 = 20;
/// Longer than any load balancer takes to notice.
const MOST_SECONDS: u64 = 3_600;
