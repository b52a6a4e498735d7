//! What an operator reads: a line when an allocation begins, a line when it ends, and why clients are turned away.
//!
//! No network address goes into a line above debug level. Lines that a client can cause at will are limited in rate.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::address::{FiveTuple, Transport};
use crate::credentials::Unauthenticated;
use crate::metrics::{CHALLENGED, Counters};
use crate::relay::{Event, RequestMethod, Traffic, WorkerIndex};

/// Turns one worker's events into log lines and counts.
#[derive(Debug)]
pub(crate) struct Journal {
    worker: WorkerIndex,
    counters: Arc<Counters>,
    /// Allocations that stand.
    standing: HashMap<FiveTuple, Standing, RandomState>,
    started: u64,
    /// Per reason (they are literals, so this is bounded): when it was last said, and how often it was not said since.
    refusals: HashMap<&'static str, (Instant, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    id: u64,
    ipv4: bool,
}

impl Journal {
    pub(crate) fn new(worker: WorkerIndex, counters: Arc<Counters>) -> Self {
        Self { worker, counters, standing: HashMap::default(), started: 0, refusals: HashMap::new() }
    }

    /// Records one event.
    pub(crate) fn record(&mut self, now: Instant, event: Event) {
        match event {
            Event::AllocationStarted { client, username, relayed, lifetime } => {
                self.started += 1;
                let standing = Standing { id: self.started, ipv4: relayed.is_ipv4() };
                self.standing.insert(client, standing);
                self.counters.allocation_started(client.transport, standing.ipv4);
                let allocation = self.name(standing.id);
                let seconds = lifetime.as_secs();
                tracing::info!(%allocation, user = %username, transport = %client.transport, family = family(standing.ipv4), lifetime_s = seconds, "allocation started");
                tracing::debug!(%allocation, client = %client.client.0, %relayed, "allocation addresses");
            }
            Event::AllocationEnded { client, username, reason, duration, traffic } => {
                let Some(standing) = self.standing.remove(&client) else { return };
                self.counters.allocation_ended(client.transport, standing.ipv4, reason);
                self.ended(standing, client.transport, &username, reason.label(), duration, traffic);
            }
            Event::Refused { client, method, code, reason } => {
                self.counters.request(method, Some(code));
                if matches!(code, 401 | 441) {
                    self.counters.auth_failure(auth_failure_label(reason));
                }
                tracing::debug!(client = %client.client.0, method = method.label(), code, reason, "refused");
                self.refused(now, method, code, reason);
            }
            Event::Challenged(method) => self.counters.request(method, Some(CHALLENGED)),
            Event::Granted(method) => self.counters.request(method, None),
            Event::Dropped(reason) => self.counters.dropped(reason),
        }
    }

    fn ended(
        &self,
        standing: Standing,
        transport: Transport,
        username: &str,
        reason: &str,
        duration: Duration,
        traffic: Traffic,
    ) {
        tracing::info!(
            allocation = %self.name(standing.id),
            user = %username,
            %transport,
            family = family(standing.ipv4),
            seconds = duration.as_secs(),
            to_peer_bytes = traffic.to_peer_bytes,
            to_peer_packets = traffic.to_peer_packets,
            to_client_bytes = traffic.to_client_bytes,
            to_client_packets = traffic.to_client_packets,
            reason,
            "allocation ended"
        );
    }

    /// Says why somebody was refused; the same reason at most once in [`QUIET`].
    fn refused(&mut self, now: Instant, method: RequestMethod, code: u16, reason: &'static str) {
        let suppressed = match self.refusals.get_mut(reason) {
            Some((said, suppressed)) if now.saturating_duration_since(*said) < QUIET => {
                *suppressed += 1;
                return;
            }
            Some((_, suppressed)) => *suppressed,
            None => 0,
        };
        self.refusals.insert(reason, (now, 0));
        // A nonce grows stale in every long call; that is not news.
        if code == 438 {
            tracing::debug!(method = method.label(), code, suppressed, "refused: {reason}");
        } else {
            tracing::info!(method = method.label(), code, suppressed, "refused: {reason}");
        }
    }

    /// Unique in this process: which worker, and its how many-th.
    fn name(&self, id: u64) -> String {
        format!("{}-{id}", self.worker.0)
    }
}

/// The short form of a reason, for the metrics.
fn auth_failure_label(reason: &str) -> &'static str {
    let known = Unauthenticated::ALL.into_iter().find(|why| why.reason() == reason);
    known.map_or("other_users_allocation", Unauthenticated::label)
}

fn family(ipv4: bool) -> &'static str {
    if ipv4 { "ipv4" } else { "ipv6" }
}

/// Often enough to see a misconfigured signaling server at once, rarely enough that a flood of wrong passwords fills no disk.
const QUIET: Duration = Duration::from_secs(10);
