//! Asks the authorization hook about users whom the configuration does not know.
//!
//! ```text
//! relay -- Output::Authorize --> queue --> cache --> hook
//!   ^----- Input::Authorized <-- inbox <-----+---------+
//! ```
//!
//! Invariants: closed on failure, nobody comes in because the hook is down; one call per username at a time, [`CALLS`] at once,
//! [`WAITING`] users waiting for theirs; the cache is bounded and remembers a refusal for a few seconds, so that the wrong
//! guess of a loop does not reach the hook each time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::address::Transport;
use crate::credentials::{Authorization, Guest, PasswordAlgorithm, PasswordDigest};
use crate::datapath::inbox::{Mailbox, Parcel};
use crate::operation::hook::{Called, Hook};
use crate::relay::AskId;

/// What a worker wants to know.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) by: Mailbox,
    pub(crate) ask: AskId,
    pub(crate) username: Box<str>,
    pub(crate) transport: Transport,
}

/// The workers' end. A query that does not fit is answered with [`Authorization::Unavailable`] at once.
pub(crate) type AskQueue = mpsc::Sender<Query>;

/// Has the authorizer ask anew about everybody: a reload is where an operator expects changes to be seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forget(Arc<AtomicU64>);

impl Forget {
    pub(crate) fn all(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn times(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Serialize)]
struct Asked<'a> {
    username: &'a str,
    realm: &'a str,
    transport: &'static str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    allowed: bool,
    password: Option<String>,
    md5: Option<String>,
    sha256: Option<String>,
    expires_in: Option<u64>,
}

/// An answer, and for how long it holds.
#[derive(Clone, Debug)]
struct Verdict {
    authorization: Authorization,
    until: Instant,
}

/// What became of questions: five label values.
#[derive(Clone, Debug)]
struct Counts {
    cached: Counter,
    allowed: Counter,
    refused: Counter,
    failed: Counter,
    busy: Counter,
    seconds: Histogram,
}

impl Counts {
    fn registered(registry: &mut Registry) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        let help = "Questions to the authorization hook by what became of them";
        registry.register("auth_hook_questions", help, family.clone());
        // The hook may take ten seconds; one that takes more than a few tenths is felt by callers.
        let seconds = Histogram::new([0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]);
        registry.register(
            "auth_hook_seconds",
            "How long calls of the authorization hook took",
            seconds.clone(),
        );
        let of = |outcome| family.get_or_create_owned(&[("outcome", outcome)]);
        Self {
            cached: of("cached"),
            allowed: of("allowed"),
            refused: of("refused"),
            failed: of("failed"),
            busy: of("busy"),
            seconds,
        }
    }
}

/// When a call began, and how often everything had been forgotten by then.
struct Begun {
    at: Instant,
    forgotten: u64,
}

/// Answers the workers, from its cache or from the hook.
#[derive(Debug)]
pub(crate) struct Authorizer {
    queries: mpsc::Receiver<Query>,
    realm: String,
    /// The longest that an answer is kept.
    keep: Duration,
    counts: Counts,
    cache: Cache,
    forget: Forget,
    /// How often everything was forgotten when the cache was last emptied.
    forgotten: u64,
    /// Who waits for the answer about a user.
    waiting: HashMap<Box<str>, Vec<(Mailbox, AskId)>>,
    /// Users whose call has not begun.
    queue: VecDeque<(Box<str>, Transport)>,
}

/// A queue to an authorizer for `realm` that keeps answers for `keep` at the longest, and until it is to forget them.
pub(crate) fn open(
    realm: &str,
    keep: Duration,
    forget: Forget,
    registry: &mut Registry,
) -> (AskQueue, Authorizer) {
    let (sender, queries) = mpsc::channel(QUERIES);
    let authorizer = Authorizer {
        queries,
        realm: realm.to_owned(),
        keep,
        counts: Counts::registered(registry),
        cache: Cache::default(),
        forgotten: forget.times(),
        forget,
        waiting: HashMap::new(),
        queue: VecDeque::new(),
    };
    (sender, authorizer)
}

impl Authorizer {
    /// Answers until the workers are gone.
    pub(crate) async fn run(self, hook: Hook) {
        let hook = Arc::new(hook);
        self.ask_with(move |body| {
            let hook = Arc::clone(&hook);
            async move { hook.call(body).await }
        })
        .await;
    }

    async fn ask_with<F>(mut self, call: impl Fn(Vec<u8>) -> F)
    where
        F: Future<Output = Called> + Send + 'static,
    {
        let mut calls: JoinSet<(Box<str>, Begun, Called)> = JoinSet::new();
        loop {
            while calls.len() < CALLS
                && let Some((username, transport)) = self.queue.pop_front()
            {
                let answer = call(self.body(&username, transport));
                let begun = Begun { at: Instant::now(), forgotten: self.forget.times() };
                calls.spawn(async move { (username, begun, answer.await) });
            }
            tokio::select! {
                query = self.queries.recv() => match query {
                    Some(query) => self.queried(query),
                    None => return,
                },
                Some(Ok((username, begun, called))) = calls.join_next() => {
                    self.counts.seconds.observe(begun.at.elapsed().as_secs_f64());
                    self.called(username, &begun, called);
                }
            }
        }
    }

    fn body(&self, username: &str, transport: Transport) -> Vec<u8> {
        let asked = Asked { username, realm: &self.realm, transport: transport.label() };
        serde_json::to_vec(&asked).unwrap_or_default()
    }

    fn queried(&mut self, query: Query) {
        let Query { by, ask, username, transport } = query;
        let forgotten = self.forget.times();
        if self.forgotten != forgotten {
            (self.cache, self.forgotten) = (Cache::default(), forgotten);
        }
        if let Some(authorization) = self.cache.get(&username) {
            self.counts.cached.inc();
            return answer(&by, ask, authorization);
        }
        if let Some(waiting) = self.waiting.get_mut(&username) {
            return waiting.push((by, ask));
        }
        if self.queue.len() >= WAITING {
            self.counts.busy.inc();
            return answer(&by, ask, Authorization::Unavailable);
        }
        self.queue.push_back((username.clone(), transport));
        self.waiting.insert(username, vec![(by, ask)]);
    }

    fn called(&mut self, username: Box<str>, begun: &Begun, called: Called) {
        let verdict = match called {
            Called::Accepted(body) => self.verdict(&username, &body),
            Called::Refused(status) => Err(format!("status {status}")),
            Called::Failed(why) => Err(why),
        };
        let authorization = match verdict {
            Ok(verdict) => {
                let allowed = matches!(verdict.authorization, Authorization::Allowed(_));
                if allowed {
                    self.counts.allowed.inc()
                } else {
                    self.counts.refused.inc()
                };
                // Whoever waits has asked before it was to be forgotten, or a moment later.
                if begun.forgotten == self.forget.times() {
                    self.cache.put(username.clone(), verdict.clone());
                }
                verdict.authorization
            }
            Err(why) => {
                self.counts.failed.inc();
                tracing::warn!("the authorization hook gives no answer and nobody is let in by it: {why}");
                Authorization::Unavailable
            }
        };
        for (by, ask) in self.waiting.remove(&username).unwrap_or_default() {
            answer(&by, ask, authorization.clone());
        }
    }

    /// Reads an answer; what is wrong with it is said without its content.
    fn verdict(&self, username: &str, body: &[u8]) -> Result<Verdict, String> {
        let answer: Answer = serde_json::from_slice(body).map_err(|error| {
            format!("its answer is not understood (line {}, column {})", error.line(), error.column())
        })?;
        if !answer.allowed {
            let until = Instant::now() + self.keep.min(KEEP_REFUSAL);
            return Ok(Verdict { authorization: Authorization::Refused, until });
        }
        let guest = match (answer.password, answer.md5, answer.sha256) {
            (Some(password), None, None) => Some(Guest::with_password(username, &self.realm, &password)),
            (None, md5, sha256) => Guest::with_digests(
                md5.map(|hex| stored(PasswordAlgorithm::Md5, &hex)).transpose()?,
                sha256.map(|hex| stored(PasswordAlgorithm::Sha256, &hex)).transpose()?,
            ),
            (Some(_), ..) => None,
        };
        let guest = guest.ok_or("its answer allows a user without one of password, or md5 and sha256")?;
        let keep = answer.expires_in.map_or(self.keep, |seconds| self.keep.min(Duration::from_secs(seconds)));
        Ok(Verdict { authorization: Authorization::Allowed(guest), until: Instant::now() + keep })
    }
}

fn stored(algorithm: PasswordAlgorithm, hex: &str) -> Result<PasswordDigest, String> {
    let refused = || "its answer has a key that is not the hexadecimal of a hash".to_owned();
    let digits = hex.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(refused());
    }
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes.and_then(|bytes| PasswordDigest::from_stored(algorithm, &bytes)).ok_or_else(refused)
}

/// A worker whose inbox is full gives the request up by itself.
fn answer(by: &Mailbox, ask: AskId, authorization: Authorization) {
    drop(by.deliver(Parcel::Authorized { ask, authorization }));
}

/// Answers that still hold; the oldest goes first when there are too many.
#[derive(Debug, Default)]
struct Cache {
    verdicts: HashMap<Box<str>, Verdict>,
    order: VecDeque<Box<str>>,
}

impl Cache {
    fn get(&mut self, username: &str) -> Option<Authorization> {
        let verdict = self.verdicts.get(username)?;
        (Instant::now() < verdict.until).then(|| verdict.authorization.clone())
    }

    fn put(&mut self, username: Box<str>, verdict: Verdict) {
        if self.verdicts.insert(username.clone(), verdict).is_none() {
            self.order.push_back(username);
        }
        if self.order.len() > CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.verdicts.remove(&oldest);
        }
    }
}

/// Queries on their way from the workers.
const QUERIES: usize = 1024;
/// Calls at one time.
const CALLS: usize = 32;
/// Users whose call has not begun: with 32 calls of 100 ms each, three seconds' worth.
const WAITING: usize = 1024;
/// Users remembered: some 10 MB.
const CACHED: usize = 10_000;
/// Long enough to stop a loop, short enough that a user who has just been created does not notice.
const KEEP_REFUSAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
