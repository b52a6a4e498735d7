//! What a client that was granted it may do to its room: remove a peer, keep it out, let it in again, close the door.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{DisplayName, Password, PeerId};

/// Longest ban that a client may ask for: seven days.
pub const MAX_BAN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes a peer from the room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kick {
    /// Whom; `None` if what the client wrote is no peer id and therefore nobody's.
    pub to: Option<PeerId>,
    /// How long it is kept out, [`MAX_BAN`] at most; it may come back at once if absent.
    pub ban: Option<Duration>,
    /// What it is told: at most 64 characters.
    pub reason: Option<DisplayName>,
}

/// Who may come into a room that is not in it yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    /// Everybody who may enter at all.
    #[default]
    Open,
    /// Those whom somebody inside admits.
    Knock,
    /// Nobody but those who may open it.
    Locked,
}

/// Opens or closes the room to newcomers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDoor {
    /// Who may come in.
    pub door: Door,
    /// What newcomers have to know from now on; an empty one is none, and if it is absent nothing changes.
    pub password: Option<Password>,
}

/// Who is kept out of the room, for those who may remove peers.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Bans {
    /// In the order of their ids; 200 at most.
    pub bans: Vec<Ban>,
}

/// A peer that is kept out.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Ban {
    /// Who it is.
    pub peer: PeerId,
    /// Name that it had when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DisplayName>,
    /// How much longer, in milliseconds.
    pub ends_in_ms: u64,
}

/// The fields of a `kick`.
#[derive(Deserialize)]
pub(crate) struct KickFields {
    to: String,
    #[serde(default)]
    ban_ms: Option<u64>,
    #[serde(default)]
    reason: Option<DisplayName>,
}

/// The fields of a `door`.
#[derive(Deserialize)]
pub(crate) struct DoorFields {
    door: Door,
    #[serde(default)]
    password: Option<Password>,
}

/// The fields of an `admit`, a `deny` or a `lift`.
#[derive(Deserialize)]
pub(crate) struct AnswerFields {
    to: String,
}

impl DoorFields {
    pub(crate) fn checked(self) -> SetDoor {
        SetDoor { door: self.door, password: self.password }
    }
}

impl AnswerFields {
    /// Nobody if what the client wrote is no peer id.
    pub(crate) fn to(&self) -> Option<PeerId> {
        self.to.parse().ok()
    }
}

impl KickFields {
    /// `None` if the ban is longer than [`MAX_BAN`].
    pub(crate) fn checked(self) -> Option<Kick> {
        let ban = self.ban_ms.map(Duration::from_millis);
        let reason = self.reason.filter(|reason| !reason.as_str().is_empty());
        (ban <= Some(MAX_BAN)).then(|| Kick { to: self.to.parse().ok(), ban, reason })
    }
}
