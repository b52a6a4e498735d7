//! Events for a hook: put into a bounded queue by whoever must not wait, posted in batches until the hook has taken them.
//!
//! At least once and in order: a batch that failed is posted again, unchanged and under the same batch id, before
//! the next. What waits meanwhile waits in the bounded queue, and what does not fit is counted and lost. Only a batch that the
//! hook refuses for its content (400, 410, 413, 422) is given up.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rand::RngExt as _;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Called, Hook};

/// One request to the hook.
#[derive(Debug, Serialize)]
struct Batch<'a, E> {
    /// The same when the batch is posted again.
    batch: String,
    events: &'a [E],
}

/// What became of events. Three label values, however many events there are.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    delivered: Counter,
    /// The hook said that it will never take them.
    rejected: Counter,
    /// The queue was full, or there was no hook any more.
    dropped: Counter,
}

impl Outcomes {
    /// Counted under this name, with the label `outcome`.
    pub fn registered(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
        registry.register(name, help, family.clone());
        let of = |outcome| family.get_or_create_owned(&[("outcome", outcome)]);
        Self { delivered: of("delivered"), rejected: of("rejected"), dropped: of("dropped") }
    }
}

/// The end of a queue that events are put into.
#[derive(Debug)]
pub struct Events<E> {
    events: Sender<E>,
    dropped: Counter,
}

impl<E> Clone for Events<E> {
    fn clone(&self) -> Self {
        Self { events: self.events.clone(), dropped: self.dropped.clone() }
    }
}

impl<E> Events<E> {
    /// Puts an event into the queue, or counts it as lost.
    pub fn put(&self, event: E) {
        if self.events.try_send(event).is_err() {
            self.dropped.inc();
        }
    }

    /// The same for an event that others are preferred to: it is left out when half of the queue is taken.
    pub fn put_if_roomy(&self, event: E) {
        if self.events.capacity() < self.events.max_capacity() / 2 {
            self.dropped.inc();
        } else {
            self.put(event);
        }
    }
}

/// A queue for `capacity` events of the hook with this name.
pub fn queue<E>(hook: &'static str, capacity: usize, outcomes: Outcomes) -> (Events<E>, Delivery<E>) {
    let (sender, events) = channel(capacity);
    let dropped = outcomes.dropped.clone();
    (Events { events: sender, dropped }, Delivery { hook, events, outcomes })
}

/// The other end: what posts the events.
#[derive(Debug)]
pub struct Delivery<E> {
    hook: &'static str,
    events: Receiver<E>,
    outcomes: Outcomes,
}

impl<E: Serialize> Delivery<E> {
    /// Posts until nobody can put in any more and nothing is left.
    pub async fn run(self, hook: Hook) {
        self.run_with(move || Some(hook.clone())).await;
    }

    /// The same where the hook may change: `hook` tells before each attempt which it is, and what finds none is counted as lost.
    pub async fn run_with(self, hook: impl Fn() -> Option<Hook>) {
        self.post_with(move |body| {
            let hook = hook();
            async move { Some(hook?.call(body).await) }
        })
        .await;
    }

    async fn post_with<F: Future<Output = Option<Called>>>(mut self, post: impl Fn(Vec<u8>) -> F) {
        loop {
            let mut events = Vec::new();
            if self.events.recv_many(&mut events, MAX_BATCH).await == 0 {
                return;
            }
            let until = Instant::now() + LINGER;
            while events.len() < MAX_BATCH {
                let room = MAX_BATCH - events.len();
                match timeout_at(until, self.events.recv_many(&mut events, room)).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
            self.deliver(&events, &post).await;
        }
    }

    async fn deliver<F: Future<Output = Option<Called>>>(&self, events: &[E], post: &impl Fn(Vec<u8>) -> F) {
        let count = events.len() as u64;
        let batch = Batch { batch: format!("{:032x}", rand::rng().random::<u128>()), events };
        let Ok(body) = serde_json::to_vec(&batch) else {
            debug_assert!(false, "an event is always JSON");
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match post(body.clone()).await {
                None => {
                    self.outcomes.dropped.inc_by(count);
                    return;
                }
                Some(Called::Accepted(_)) => {
                    self.outcomes.delivered.inc_by(count);
                    return;
                }
                Some(Called::Refused(status)) => {
                    tracing::warn!(status, events = count, "{} refuses a batch and it is lost", self.hook);
                    self.outcomes.rejected.inc_by(count);
                    return;
                }
                Some(Called::Failed(why)) => {
                    let hook = self.hook;
                    tracing::warn!(events = count, "{hook} does not answer and is tried again: {why}");
                }
            }
            // Half to the whole of it, so that many servers do not come back in step.
            let share = rand::rng().random_range(0.5..=1.0);
            sleep(pause.mul_f64(share)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Events per request: some 150 KB.
const MAX_BATCH: usize = 500;
/// How long the first event of a batch waits for others.
const LINGER: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
