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
    /// Time after which fresh credentials are pushed: half of what remains.
    #[must_use]
    pub fn refresh_in(&self) -> Option<Duration> {
        self.expires_in.map(|expires_in| expires_in / 2)
    }
}
