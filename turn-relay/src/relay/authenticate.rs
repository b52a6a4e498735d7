//! Who asks (RFC 8489 section 9.2.4): the nonce, what was agreed about algorithms, the user, the signature.
//!
//! Refuses to do: change anything. What fails here leaves no trace but an event.

use std::time::{Instant, SystemTime};

use super::Relay;
use super::refusal::Refusal;
use crate::address::FiveTuple;
use crate::credentials::Authorization;
use crate::credentials::{
    Authenticated, Claimant, Features, Hashes, Key, PasswordAlgorithm, Unauthenticated, goes_by, is_same_user,
};
use crate::stun::Message;

/// Who asks, as far as the core has to know.
#[derive(Debug)]
pub(super) struct Proved {
    pub(super) username: Box<str>,
    pub(super) key: Key,
    /// When its credential ends what is granted.
    pub(super) until: Option<Instant>,
}

impl Relay {
    /// RFC 8489 section 9.2.4, except that the nonce is looked at before the user: a nonce that is not this client's tells
    /// that the address may be forged, and then no key is worth deriving.
    pub(super) fn authenticate(
        &mut self,
        now: Instant,
        from: &FiveTuple,
        message: &Message<'_>,
        wall: SystemTime,
        authorization: Option<&Authorization>,
    ) -> Result<Proved, Refusal> {
        let Some(integrity) = message.integrity() else { return Err(Refusal::Challenge) };
        let (Some(claimant), true, Some(nonce)) = (claimant(message)?, message.has_realm, message.nonce)
        else {
            return Err(Refusal::ClientMalformed(
                "a signature without USERNAME or USERHASH, REALM and NONCE",
            ));
        };
        let features = self.settings.credentials.features();
        if !self.nonces.accepts(now, from, features, nonce) {
            return Err(Refusal::StaleNonce);
        }
        let hashes = Hashes { password: agreed_algorithm(features, message)?, integrity };
        let credentials = &self.settings.credentials;
        if let Some(token) = message.access_token {
            let Claimant::Name(key_id) = claimant else {
                return Err(Refusal::ClientMalformed("ACCESS-TOKEN without the key id as USERNAME"));
            };
            let bearer = credentials
                .authorize((key_id, token), integrity, wall, |key| message.is_signed_with(key))
                .map_err(Refusal::Unauthorized)?;
            return Ok(proved(now, wall, bearer));
        }
        let Some(username) = credentials.name_of(claimant) else {
            credentials.refuse_stranger(hashes, |key| message.is_signed_with(key));
            return Err(Refusal::Unauthorized(Unauthenticated::UnknownUser));
        };
        // The user of a standing allocation proved itself when it began; its key is at hand.
        if let Some(index) = self.standing(now, from) {
            let allocation = &self.allocations[index];
            if goes_by(&allocation.username, username) && message.is_signed_with(&allocation.key) {
                let (username, key) = (allocation.username.clone(), allocation.key.clone());
                return Ok(Proved { username, key, until: allocation.until });
            }
        }
        let known = credentials.authenticate(username, hashes, wall, |key| message.is_signed_with(key));
        let user = match known {
            Err(why) if self.settings.authorization_hook && credentials.may_be_a_guest(why) => {
                guest(authorization, why, username, hashes, message)?
            }
            known => known.map_err(Refusal::Unauthorized)?,
        };
        Ok(proved(now, wall, user))
    }

    /// RFC 7635 section 7: the bearer of a token comes to its allocation with another one. From here on that one's key and time
    /// hold; whom the allocation counts for stays.
    pub(super) fn adopt(&mut self, now: Instant, from: &FiveTuple, bearer: &Proved) {
        let Some(index) = self.standing(now, from) else { return };
        let allocation = &mut self.allocations[index];
        if is_same_user(&allocation.username, &bearer.username) {
            allocation.key = bearer.key.clone();
            allocation.until = bearer.until;
        }
    }
}

fn proved(now: Instant, wall: SystemTime, user: Authenticated) -> Proved {
    let Authenticated { username, key, until } = user;
    let left = |until: SystemTime| until.duration_since(wall).unwrap_or_default();
    Proved { username, key, until: until.map(|until| now + left(until)) }
}

/// A user whom the configuration does not know, as the authorization hook says.
fn guest(
    authorization: Option<&Authorization>,
    why: Unauthenticated,
    username: &str,
    hashes: Hashes,
    message: &Message<'_>,
) -> Result<Authenticated, Refusal> {
    match authorization {
        None => Err(Refusal::AskHook),
        Some(Authorization::Allowed(guest)) => guest
            .authenticate(username, hashes, |key| message.is_signed_with(key))
            .map_err(Refusal::Unauthorized),
        Some(Authorization::Refused) => Err(Refusal::Unauthorized(why)),
        Some(Authorization::Unavailable) => Err(Refusal::HookUnavailable),
    }
}

/// By whom the request says it is signed. `None`: it does not say.
fn claimant<'a>(message: &Message<'a>) -> Result<Option<Claimant<'a>>, Refusal> {
    match (message.username, message.userhash) {
        (Some(name), None) => Ok(Some(Claimant::Name(name))),
        (None, Some(hash)) => Ok(Some(Claimant::Hash(hash))),
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Refusal::ClientMalformed("USERNAME and USERHASH in one request")),
    }
}

/// RFC 8489 section 9.2.4: a client that knows of PASSWORD-ALGORITHMS repeats what it was offered, under its signature. If
/// somebody on the way took the better ones out of the offer, it is noticed here. (If the feature bits were taken out of the
/// nonce too, the nonce is no longer ours.)
fn agreed_algorithm(features: Features, message: &Message<'_>) -> Result<PasswordAlgorithm, Refusal> {
    const NOT_OFFERED: Refusal =
        Refusal::ClientMalformed("PASSWORD-ALGORITHM(S) other than what was offered");
    let offered = features.password_algorithms;
    match (message.password_algorithm, message.password_algorithms) {
        (None, None) => Ok(PasswordAlgorithm::Md5),
        // Nothing was offered, so nothing can have been taken out: MD5 by name is what it would be without.
        (Some(chosen), _) if offered.is_empty() => {
            (chosen == encoded(PasswordAlgorithm::Md5)).then_some(PasswordAlgorithm::Md5).ok_or(NOT_OFFERED)
        }
        (Some(chosen), Some(repeated)) => {
            let same = offered.iter().flat_map(|algorithm| encoded(*algorithm)).eq(repeated.iter().copied());
            let found = offered.iter().copied().find(|algorithm| chosen == encoded(*algorithm));
            found.filter(|_| same).ok_or(NOT_OFFERED)
        }
        (None, Some(_)) if offered.is_empty() => Ok(PasswordAlgorithm::Md5),
        (Some(_), None) | (None, Some(_)) => Err(NOT_OFFERED),
    }
}

/// An algorithm as it stands in the attributes: its number, and the length of its parameters, which are empty.
fn encoded(algorithm: PasswordAlgorithm) -> [u8; 4] {
    let [high, low] = algorithm.number().to_be_bytes();
    [high, low, 0, 0]
}
