//! Asks a program of the operator's over HTTP what a token opens.
//!
//! Closed on failure: nobody comes in because it is down. [`CALLS`] calls at once; answers are kept for a short time, in bounded
//! number, so that a client that comes back again and again does not reach it each time. It is asked by signed requests, see
//! [`turn_relay::operation::hook`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use signaling_protocol::{AccessToken, RoomName};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;
use turn_relay::operation::hook::{Called, Hook};

use super::claims::Permissions;
use super::{Denial, PATIENCE};
use crate::hub::{Grant, Identity};

/// Asks the hook, or remembers what it said.
pub(crate) struct HookAuthority {
    hook: Hook,
    calls: Semaphore,
    keep: Duration,
    /// For answers that do not say.
    identity: Identity,
    answers: Mutex<Answers>,
}

#[derive(Serialize)]
struct Question<'a> {
    room: &'a RoomName,
    token: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    allowed: bool,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(flatten)]
    permissions: Permissions,
}

/// SHA-256 of room and token: no token is kept.
type Key = [u8; 32];

/// The latest answers; the oldest goes when there are too many.
#[derive(Default)]
struct Answers {
    by_key: HashMap<Key, (Instant, Result<Grant, Denial>)>,
    order: VecDeque<Key>,
}

impl fmt::Debug for HookAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hook.fmt(f)
    }
}

impl HookAuthority {
    /// Answers are kept for `keep`, refusals for [`KEEP_REFUSAL`] at most.
    pub(crate) fn new(hook: Hook, keep: Duration, identity: Identity) -> Self {
        Self { hook, calls: Semaphore::new(CALLS), keep, identity, answers: Mutex::default() }
    }

    pub(super) async fn grant(&self, room: &RoomName, token: &AccessToken) -> Result<Grant, Denial> {
        let key = Sha256::new()
            .chain_update(room.as_str())
            .chain_update(b"\0")
            .chain_update(token.as_str())
            .finalize()
            .into();
        if let Some(answer) = self.remember(&key) {
            return answer;
        }
        let ask = async {
            let _call = self.calls.acquire().await;
            // Somebody with the same token may have asked meanwhile.
            match self.remember(&key) {
                Some(answer) => answer,
                None => self.ask(key, room, token).await,
            }
        };
        timeout(PATIENCE, ask).await.unwrap_or_else(|_elapsed| {
            warn!("the authorization hook takes too long, nobody is let in by it");
            Err(Denial::Unverified)
        })
    }

    fn remember(&self, key: &Key) -> Option<Result<Grant, Denial>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, answer) = answers.by_key.get(key)?;
        (Instant::now() < *until).then(|| answer.clone())
    }

    async fn ask(&self, key: Key, room: &RoomName, token: &AccessToken) -> Result<Grant, Denial> {
        let question = Question { room, token: token.as_str() };
        let body = serde_json::to_vec(&question).map_err(|_| Denial::Unverified)?;
        let answer = match self.hook.call(body).await {
            Called::Accepted(body) => read(&body, self.identity),
            Called::Refused(status) => Err(format!("status {status}")),
            Called::Failed(why) => Err(why),
        };
        let answer = answer.map_err(|why| {
            warn!("the authorization hook gives no answer, nobody is let in by it: {why}");
            Denial::Unverified
        })?;
        let now = Instant::now();
        let until = match &answer {
            Ok(grant) => grant.expires.map_or(now + self.keep, |expires| expires.min(now + self.keep)),
            Err(_) => now + self.keep.min(KEEP_REFUSAL),
        };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).put(key, (until, answer.clone()));
        answer
    }
}

/// Reads an answer; what is wrong with it is said without its content.
fn read(body: &[u8], identity: Identity) -> Result<Result<Grant, Denial>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        format!("its answer is not understood (line {}, column {})", error.line(), error.column())
    })?;
    if !answer.allowed {
        return Ok(Err(Denial::Refused("the token does not open this room")));
    }
    Ok(answer.permissions.grant(
        answer.subject.as_deref(),
        answer.expires_in.map(Duration::from_secs),
        identity,
    ))
}

impl Answers {
    fn put(&mut self, key: Key, answer: (Instant, Result<Grant, Denial>)) {
        if self.by_key.insert(key, answer).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > KEPT_ANSWERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_key.remove(&oldest);
        }
    }
}

/// Calls at one time.
const CALLS: usize = 32;
/// Some 5 MB.
const KEPT_ANSWERS: usize = 10_000;
/// Long enough to stop a loop, short enough that somebody who has just been let in does not notice.
const KEEP_REFUSAL: Duration = Duration::from_secs(5);
