//! What a token or a hook says about a client, and the grant that follows.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use signaling_protocol::{DisplayName, Role, RoomName};

use super::Denial;
use crate::hub::{Grant, Identity, Subject};

/// The claims of a token that count here.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    sub: Option<String>,
    exp: f64,
    room: Rooms,
    #[serde(flatten)]
    permissions: Permissions,
}

/// What is granted, whoever grants it.
#[derive(Debug, Deserialize)]
pub(super) struct Permissions {
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "yes")]
    may_publish: bool,
    #[serde(default)]
    may_kick: bool,
    #[serde(default)]
    may_lock: bool,
    #[serde(default = "yes")]
    turn: bool,
    #[serde(default)]
    identity: Option<Identity>,
}

const fn yes() -> bool {
    true
}

/// Names of rooms; a `*` at the end of one stands for anything.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Rooms {
    One(String),
    Several(Vec<String>),
}

impl Rooms {
    fn include(&self, room: &RoomName) -> bool {
        let patterns = match self {
            Self::One(pattern) => std::slice::from_ref(pattern),
            Self::Several(patterns) => patterns,
        };
        patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => room.as_str().starts_with(beginning),
            None => room.as_str() == pattern,
        })
    }
}

impl Claims {
    /// The claims have been verified; `leeway` is how much longer than `exp` they count.
    pub(super) fn grant(
        self,
        room: &RoomName,
        wall: SystemTime,
        leeway: Duration,
        identity: Identity,
    ) -> Result<Grant, Denial> {
        if !self.room.include(room) {
            return Err(Denial::Refused("the token does not open this room"));
        }
        let exp = Duration::try_from_secs_f64(self.exp.clamp(0.0, LATEST)).unwrap_or(Duration::ZERO);
        let rest = (UNIX_EPOCH + exp + leeway).duration_since(wall).map_err(|_| Denial::Expired)?;
        self.permissions.grant(self.sub.as_deref(), Some(rest), identity)
    }
}

impl Permissions {
    /// `rest` is how long the grant lasts, if that is bounded; `identity` counts where nothing is said.
    pub(super) fn grant(
        self,
        subject: Option<&str>,
        rest: Option<Duration>,
        identity: Identity,
    ) -> Result<Grant, Denial> {
        let subject = match subject {
            None => None,
            Some(name) => {
                let why = "the subject is empty or longer than 256 bytes";
                Some(Subject::new(name).ok_or(Denial::Refused(why))?)
            }
        };
        Ok(Grant {
            subject,
            role: self.role,
            name: self.name.as_deref().and_then(shown),
            expires: rest.map(|rest| Instant::now() + rest.min(LONGEST)),
            may_publish: self.may_publish,
            may_kick: self.may_kick,
            may_lock: self.may_lock,
            turn: self.turn,
            identity: self.identity.unwrap_or(identity),
        })
    }
}

/// As much of a name as can be shown: whoever signs tokens knows no bound of ours, and nobody should be kept out by theirs.
fn shown(name: &str) -> Option<DisplayName> {
    let kept: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    kept.parse().ok().filter(|name: &DisplayName| !name.as_str().is_empty())
}

/// The year 9999, in seconds.
const LATEST: f64 = 253_402_300_799.0;
/// A clock can be added to for so long.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
