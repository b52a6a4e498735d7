//! What a client may do, as the driver has verified it. The hub believes it and asks nobody.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use signaling_protocol::{
    AccessToken, CloseCode, DisplayName, ErrorCode, Granted, LeaveReason, Role, ServerMessage, SessionId,
};

use super::contract::Output;
use super::frame::Body;
use super::moderate::Farewell;
use super::session::Slot;
use super::{Hub, millis};

/// What a client was granted in the room that it says hello to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who the client is to whoever granted it; `None` where nobody says so.
    pub subject: Option<Subject>,
    /// What it is, for the others to see.
    pub role: Option<Role>,
    /// What it is called, whatever it calls itself.
    pub name: Option<DisplayName>,
    /// When its session ends, unless another grant follows.
    pub expires: Option<Instant>,
    /// It may send signals.
    pub may_publish: bool,
    /// It may remove peers and keep them out.
    pub may_kick: bool,
    /// It may open and close the room's door, and come in through a closed one.
    pub may_lock: bool,
    /// It gets credentials for the relay.
    pub turn: bool,
    /// By how many devices its subject may be in the room.
    pub identity: Identity,
}

/// What happens when a user comes who is in the room already by another device, one with another secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// Both are there.
    #[default]
    Several,
    /// The new one takes the place of the former.
    Replace,
    /// The new one is turned away.
    Reject,
}

impl Default for Grant {
    /// What everybody may where nobody is asked.
    fn default() -> Self {
        Self {
            subject: None,
            role: None,
            name: None,
            expires: None,
            may_publish: true,
            may_kick: false,
            may_lock: false,
            turn: true,
            identity: Identity::Several,
        }
    }
}

impl Grant {
    pub(super) fn notice(&self, now: Instant) -> Granted {
        Granted {
            role: self.role.clone(),
            may_publish: self.may_publish,
            may_kick: self.may_kick,
            may_lock: self.may_lock,
            expires_in_ms: self.expires.map(|expires| millis(expires.saturating_duration_since(now))),
        }
    }
}

/// Why there is no grant for a further token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// The token is not good, or not for this room.
    Refused,
    /// Whoever verifies it could not be asked.
    Unverified,
}

impl Hub {
    /// A client shows a further token; one at a time is verified, so that what it costs is bounded.
    pub(super) fn show_token(&mut self, slot: Slot, token: AccessToken) {
        let session = &mut self.sessions[slot];
        if std::mem::replace(&mut session.verifying, true) {
            let message = "the token before this one is being verified";
            return self.refuse(slot, 0, ErrorCode::TokenUnverified, message);
        }
        let room = self.rooms[session.room].name.clone();
        self.outputs.push_back(Output::Verify { session: session.id, room, token });
    }

    /// What became of the token.
    pub(super) fn grant(&mut self, now: Instant, session: SessionId, verdict: Result<Grant, Unproven>) {
        let Some(&slot) = self.sessions_by_id.get(&session) else { return };
        let session = &mut self.sessions[slot];
        session.verifying = false;
        let refused = match verdict {
            Ok(grant) if grant.subject == session.grant.subject => return self.renew(now, slot, grant),
            Ok(_) => (ErrorCode::TokenRefused, "the token is of another user"),
            Err(Unproven::Refused) => (ErrorCode::TokenRefused, "the token does not open this room"),
            Err(Unproven::Unverified) => (ErrorCode::TokenUnverified, "the token cannot be verified for now"),
        };
        self.refuse(slot, 0, refused.0, refused.1);
    }

    fn renew(&mut self, now: Instant, slot: Slot, grant: Grant) {
        let notice = grant.notice(now);
        let session = &mut self.sessions[slot];
        let turn = grant.turn && !session.grant.turn;
        let doorkeeper = grant.may_lock && !session.grant.may_lock;
        session.grant = grant;
        let (id, conn) = (session.id, session.conn());
        self.deliver(slot, Body::of(&ServerMessage::Granted(notice)));
        if doorkeeper {
            self.tell_who_waits(slot);
        }
        if let Some(conn) = conn.filter(|_| turn) {
            self.outputs.push_back(Output::RefreshIce { session: id, conn, turn });
        }
        self.reschedule(slot);
    }

    /// Ends a session whose grant has run out.
    pub(super) fn run_out(&mut self, now: Instant, slot: Slot) {
        let message = "the token expired and no other was shown";
        let farewell = Farewell { code: CloseCode::TokenExpired, message, retry_after: None };
        self.part(now, slot, LeaveReason::TokenExpired, &farewell);
    }
}

/// Name of a user at the one who grants, at most [`Self::MAX_BYTES`] bytes. It may be a person's, so it does not show
/// itself in `Debug`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// `None` if the name is empty or too long.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        (1..=Self::MAX_BYTES).contains(&name.len()).then(|| Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject(..)")
    }
}
