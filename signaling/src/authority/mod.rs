//! Who may enter a room, and what they may do there.
//!
//! ```text
//! transport --token, room--> Authority --> Grant --> shard --> hub
//!                             |  open: everybody
//!                             |  tokens: HS256 with a shared secret, or RS256, ES256, EdDSA with a key set
//!                             +- hook: a program of the operator's, over HTTP
//! ```
//!
//! It is asked before the hub hears of a client, and again when one shows a further token. It holds no session. Whatever it
//! cannot verify it refuses; it tells a client why in words that quote nothing, and logs no token.

mod claims;
mod hook;
mod key_set;
mod token;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use signaling_protocol::{AccessToken, CloseCode, RoomName};

pub(crate) use hook::HookAuthority;
pub(crate) use key_set::{KeySet, KeySource, digest_of_file as digest_of_keys};
pub(crate) use token::{Keys, TokenAuthority};

use crate::hub::{Grant, Unproven};

/// Who says it.
#[derive(Debug)]
pub(crate) enum Authority {
    /// Nobody: whoever knows a room's name enters.
    Open,
    /// Whoever signs tokens.
    Tokens(Box<TokenAuthority>),
    /// A program of the operator's.
    Hook(Box<HookAuthority>),
}

/// Whoever says it now. A reload exchanges it; what was granted before stays granted.
pub(crate) type CurrentAuthority = Arc<ArcSwap<Authority>>;

/// Why there is no grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The token is not good, or not for this room; in words for whoever debugs the client.
    Refused(&'static str),
    /// It was good.
    Expired,
    /// Nobody can tell for now.
    Unverified,
}

impl Authority {
    /// What a client may do in a room by what it shows; `None` if it shows nothing and that is not enough.
    ///
    /// # Errors
    /// A [`Denial`]. It takes [`PATIENCE`] at most.
    pub(crate) async fn grant(
        &self,
        room: &RoomName,
        token: Option<&AccessToken>,
    ) -> Result<Option<Grant>, Denial> {
        match (self, token) {
            (Self::Open, _) => Ok(Some(Grant::default())),
            (_, None) => Ok(None),
            (Self::Tokens(tokens), Some(token)) => tokens.grant(room, token).await.map(Some),
            (Self::Hook(hook), Some(token)) => hook.grant(room, token).await.map(Some),
        }
    }

    /// Says the same of a further token.
    pub(crate) async fn renew(&self, room: &RoomName, token: &AccessToken) -> Result<Grant, Unproven> {
        match self.grant(room, Some(token)).await {
            Ok(Some(grant)) => Ok(grant),
            Ok(None) | Err(Denial::Refused(_) | Denial::Expired) => Err(Unproven::Refused),
            Err(Denial::Unverified) => Err(Unproven::Unverified),
        }
    }
}

impl Denial {
    /// How the connection is closed that showed the token.
    pub(crate) fn close(self) -> (CloseCode, String) {
        match self {
            Self::Refused(why) => (CloseCode::Unauthorized, why.into()),
            Self::Expired => (CloseCode::TokenExpired, "the token has expired".into()),
            Self::Unverified => (CloseCode::Unverified, "the token cannot be verified for now".into()),
        }
    }
}

/// A client waits for its `welcome` meanwhile.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
