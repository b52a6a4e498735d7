//! ICE servers as a browser's `RTCPeerConnection` takes them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One entry of `RTCConfiguration.iceServers`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065) that share the credential.
    pub urls: Vec<String>,
    /// TURN username, absent for STUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// TURN password, absent for STUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// The servers that a session is given, and for how long their credentials hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceServers {
    /// Entries in the order in which a client should list them; empty means host candidates only.
    pub servers: Vec<IceServer>,
    /// Time until the credentials expire; `None` when they do not.
    pub expires_in: Option<Duration>,
}

impl IceServers {
    /// Time after which fresh credentials are pushed: half of what remains, and sooner if less than [`Self::MARGIN`] would be
    /// left then, but not before a quarter.
    #[must_use]
    pub fn refresh_in(&self) -> Option<Duration> {
        let sooner = |expires_in: Duration| expires_in.saturating_sub(Self::MARGIN).max(expires_in / 4);
        self.expires_in.map(|expires_in| sooner(expires_in).min(expires_in / 2))
    }

    /// A relay may end allocations with their credentials. Firefox makes no allocation that has 10 s or less to live, and
    /// gives one up that has no more left; by then another one has to stand, with time to get there.
    pub const MARGIN: Duration = Duration::from_secs(15);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_credentials_are_refreshed_while_a_margin_is_left_and_others_at_half_life() {
        let refresh_ms = |seconds| {
            let expires_in = Some(Duration::from_secs(seconds));
            IceServers { expires_in, ..IceServers::default() }.refresh_in().map(|at| at.as_millis())
        };
        assert_eq!(
            [43_200, 60, 30, 29, 20, 10].map(refresh_ms),
            [21_600_000, 30_000, 15_000, 14_000, 5_000, 2_500].map(Some)
        );
        assert_eq!(IceServers::default().refresh_in(), None);
    }
}
