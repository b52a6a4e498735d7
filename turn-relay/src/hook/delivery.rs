//! Takes usage events out of their queue and posts them in batches until the hook has taken them.
//!
//! At least once and in order: a batch that failed is posted again, unchanged and under the same batch id, before
//! the next. What waits meanwhile waits in the bounded queue. Only a batch that the hook refuses for its
//! content (400, 410, 413, 422) is given up.

use std::time::Duration;

use rand::RngExt as _;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

use super::usage::{UsageCounts, UsageEvent};
use super::{Called, Hook};
use crate::admin::Operator;

/// One request to the hook.
#[derive(Debug, Serialize)]
struct Batch<'a> {
    /// The same when the batch is posted again.
    batch: String,
    events: &'a [UsageEvent],
}

/// The other end of the workers' queue.
#[derive(Debug)]
pub(super) struct Delivery {
    events: Receiver<UsageEvent>,
    counts: UsageCounts,
}

impl Delivery {
    pub(super) fn new(events: Receiver<UsageEvent>, counts: UsageCounts) -> Self {
        Self { events, counts }
    }

    /// Posts until the workers are gone and nothing is left.
    pub(super) async fn run(self, hook: Hook) {
        self.post_with(move |body| {
            let hook = hook.clone();
            async move { hook.call(body).await }
        })
        .await;
    }

    async fn post_with<F: Future<Output = Called>>(mut self, post: impl Fn(Vec<u8>) -> F) {
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

    async fn deliver<F: Future<Output = Called>>(&self, events: &[UsageEvent], post: &impl Fn(Vec<u8>) -> F) {
        let count = events.len() as u64;
        let batch = Batch { batch: format!("{:032x}", rand::rng().random::<u128>()), events };
        let Ok(body) = serde_json::to_vec(&batch) else {
            debug_assert!(false, "an event is always JSON");
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            match post(body.clone()).await {
                Called::Accepted(_) => {
                    self.counts.delivered.inc_by(count);
                    return;
                }
                Called::Refused(status) => {
                    tracing::warn!(status, events = count, "the usage hook refuses a batch and it is lost");
                    self.counts.rejected.inc_by(count);
                    return;
                }
                Called::Failed(why) => {
                    tracing::warn!(
                        events = count,
                        "the usage hook does not answer and is tried again: {why}"
                    );
                }
            }
            // Half to the whole of it, so that many relays do not come back in step.
            let share = rand::rng().random_range(0.5..=1.0);
            sleep(pause.mul_f64(share)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Has the workers report on what stands, every so often, for as long as they answer.
pub(super) async fn report_every(interval: Duration, operator: Operator) {
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    loop {
        ticks.tick().await;
        operator.report(interval / 2).await;
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
