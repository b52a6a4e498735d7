//! What an operator reads: a line when an allocation begins, a line when it ends, and why clients are turned away.
//!
//! No network address goes into a line above debug level unless the operator asked for them (`log_addresses`).
//! Lines that a client can cause at will are limited in rate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::address::FiveTuple;
use crate::credentials::Unauthenticated;
use crate::hook::usage::{Addresses, UsageEvent, UsageKind, UsageQueue};
use crate::metrics::{CHALLENGED, Counters, Families};
use crate::operation::hook::milliseconds;
use crate::relay::{AllocationId, AllocationView, EndReason, Event, RequestMethod, Traffic};

/// Turns one worker's events into log lines and counts.
#[derive(Debug)]
pub(crate) struct Journal {
    counters: Arc<Counters>,
    /// Where usage events go, if anywhere.
    usage: Option<UsageQueue>,
    /// Write addresses into lines above debug level.
    log_addresses: bool,
    /// Per reason (they are literals, so this is bounded): when it was last said, and how often it was not said since.
    refusals: HashMap<&'static str, (Instant, u64)>,
}

impl Journal {
    pub(crate) fn new(counters: Arc<Counters>, log_addresses: bool) -> Self {
        Self { counters, log_addresses, usage: None, refusals: HashMap::new() }
    }

    /// Writes usage events too.
    pub(crate) fn with_usage(self, usage: Option<UsageQueue>) -> Self {
        Self { usage, ..self }
    }

    /// Writes a usage event about an allocation that goes on.
    pub(crate) fn interim(&self, view: &AllocationView) {
        let relayed = (view.relayed, view.additional);
        self.tell(UsageKind::Interim, view.id, &view.client, &view.username, relayed, |event| UsageEvent {
            seconds: view.age.as_secs(),
            ..event.with_traffic(view.traffic)
        });
    }

    /// Puts a usage event into the queue, where there is one.
    fn tell(
        &self,
        event: UsageKind,
        id: AllocationId,
        client: &FiveTuple,
        username: &str,
        relayed: (SocketAddr, Option<SocketAddr>),
        complete: impl FnOnce(UsageEvent) -> UsageEvent,
    ) {
        let Some(usage) = &self.usage else { return };
        let addresses =
            Addresses { client: client.client.0, relayed: relayed.0, relayed_additional: relayed.1 };
        usage.put(complete(UsageEvent {
            event,
            id,
            time: milliseconds(SystemTime::now()),
            user: username.into(),
            transport: client.transport.label(),
            family: Families::of(relayed).label(),
            seconds: 0,
            to_peer_bytes: 0,
            to_peer_packets: 0,
            to_client_bytes: 0,
            to_client_packets: 0,
            reason: None,
            addresses: self.log_addresses.then_some(addresses),
        }));
    }

    /// Whether addresses belong into lines above debug level from now on.
    pub(crate) fn set_log_addresses(&mut self, log_addresses: bool) {
        self.log_addresses = log_addresses;
    }

    /// Records one event.
    pub(crate) fn record(&mut self, now: Instant, event: Event) {
        match event {
            Event::AllocationStarted { id, client, username, relayed, lifetime, additional } => {
                let relayed = (relayed, additional);
                self.counters.allocation_started(client.transport, Families::of(relayed));
                self.started(id, &client, &username, relayed, lifetime);
                self.tell(UsageKind::Start, id, &client, &username, relayed, |event| event);
            }
            Event::AllocationEnded {
                id,
                client,
                username,
                relayed,
                reason,
                duration,
                traffic,
                additional,
            } => {
                let relayed = (relayed, additional);
                self.counters.allocation_ended(client.transport, Families::of(relayed), reason, duration);
                self.ended(id, &client, &username, relayed, (reason, duration), traffic);
                self.tell(UsageKind::End, id, &client, &username, relayed, |event| UsageEvent {
                    seconds: duration.as_secs(),
                    reason: Some(reason.label()),
                    ..event.with_traffic(traffic)
                });
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
            // By the clock: binding a socket takes time that the turn of the loop, which is `now`, does not show.
            Event::AllocateAnswered { asked } => self.counters.durations.answered.record(asked.elapsed()),
            Event::AllocationMoved { id, from, to, relayed, additional } => {
                self.counters.allocation_moved(
                    from.transport,
                    to.transport,
                    Families::of((relayed, additional)),
                );
                tracing::debug!(allocation = %id, from = %from.client.0, to = %to.client.0, "allocation moved");
            }
            Event::Dropped(reason) => self.counters.dropped(reason),
        }
    }

    fn started(
        &self,
        id: AllocationId,
        client: &FiveTuple,
        username: &str,
        relayed: (SocketAddr, Option<SocketAddr>),
        lifetime: Duration,
    ) {
        tracing::info!(
            allocation = %id,
            user = username,
            transport = %client.transport,
            family = Families::of(relayed).label(),
            lifetime_s = lifetime.as_secs(),
            client = self.log_addresses.then(|| tracing::field::display(client.client.0)),
            relayed = self.log_addresses.then(|| tracing::field::display(relayed.0)),
            relayed_additional = relayed.1.filter(|_| self.log_addresses).map(tracing::field::display),
            "allocation started"
        );
        if !self.log_addresses {
            tracing::debug!(allocation = %id, client = %client.client.0, relayed = %relayed.0, relayed_additional = relayed.1.map(tracing::field::display), "allocation addresses");
        }
    }

    fn ended(
        &self,
        id: AllocationId,
        client: &FiveTuple,
        username: &str,
        relayed: (SocketAddr, Option<SocketAddr>),
        (reason, duration): (EndReason, Duration),
        traffic: Traffic,
    ) {
        tracing::info!(
            allocation = %id,
            user = username,
            transport = %client.transport,
            family = Families::of(relayed).label(),
            seconds = duration.as_secs(),
            to_peer_bytes = traffic.to_peer_bytes,
            to_peer_packets = traffic.to_peer_packets,
            to_client_bytes = traffic.to_client_bytes,
            to_client_packets = traffic.to_client_packets,
            reason = reason.label(),
            client = self.log_addresses.then(|| tracing::field::display(client.client.0)),
            relayed = self.log_addresses.then(|| tracing::field::display(relayed.0)),
            relayed_additional = relayed.1.filter(|_| self.log_addresses).map(tracing::field::display),
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
}

/// The short form of a reason, for the metrics.
fn auth_failure_label(reason: &str) -> &'static str {
    let known = Unauthenticated::ALL.into_iter().find(|why| why.reason() == reason);
    known.map_or("other_users_allocation", Unauthenticated::label)
}

/// Often enough to see a misconfigured signaling server at once, rarely enough that a flood of wrong passwords fills no disk.
const QUIET: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
