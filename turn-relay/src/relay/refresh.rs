//! Refresh (RFC 8656 section 8): an allocation goes on or is given back, whole or one address family of it.

use std::time::{Duration, Instant};

use super::Relay;
use super::contract::EndReason;
use super::deadlines::Timer;
use super::refusal::Refusal;
use super::relayed::RelayedSet;
use super::requests::Asker;
use crate::credentials::holder;
use crate::stun::{Attribute, Refresh};

impl Relay {
    pub(super) fn refresh(&mut self, now: Instant, asker: &Asker, request: &Refresh) -> Result<(), Refusal> {
        if let Some(ticket) = &request.mobility {
            return self.refresh_moved(now, asker, request, ticket);
        }
        let index = self.own_allocation(now, asker)?;
        let named = self.allocations[index].relayed.of(request.family);
        if named.places() == 0 {
            return Err(Refusal::PeerFamilyMismatch);
        }
        if request.lifetime == Some(0) {
            self.succeed(now, asker, &[Attribute::Lifetime(0)]);
            self.give_back(now, index, &named, EndReason::Released);
            return Ok(());
        }
        let lifetime = self.lifetime(now, asker, request.lifetime);
        self.reschedule(index, |relayed| relayed.renew(&named, now + lifetime));
        self.succeed(now, asker, &[Attribute::Lifetime(seconds(lifetime))]);
        Ok(())
    }

    /// RFC 8656 section 7.2: the larger of what is asked for and the default, at most the maximum, and never beyond the time
    /// of a credential that ends what it allowed, nor beyond the end of the server.
    pub(super) fn lifetime(&self, now: Instant, asker: &Asker, asked: Option<u32>) -> Duration {
        let limits = &self.settings.limits;
        let asked = Duration::from_secs(asked.unwrap_or(0).into());
        let granted = asked.max(limits.default_lifetime).min(limits.max_lifetime);
        self.until_drained(now, asker.at_most(now, granted))
    }

    /// The timer of an allocation came due: ends the relayed addresses whose time has come, and with the last the allocation.
    pub(super) fn lapse(&mut self, now: Instant, index: usize) {
        // Whatever changes the addresses finds the timer by them.
        self.schedule(index);
        let mut ended = RelayedSet::default();
        for relayed in self.allocations[index].relayed.iter().filter(|relayed| relayed.expires <= now) {
            ended.insert(*relayed);
        }
        let credential = self.allocations[index].until.is_some_and(|until| until <= now);
        let reason = if credential { EndReason::CredentialExpired } else { EndReason::Expired };
        if ended.places() > 0 {
            self.give_back(now, index, &ended, reason);
        }
    }

    /// Ends some of an allocation's relayed addresses; with the last of them the allocation, for that reason.
    pub(super) fn give_back(&mut self, now: Instant, index: usize, ended: &RelayedSet, reason: EndReason) {
        let allocation = &self.allocations[index];
        if ended.places() == allocation.relayed.places() {
            self.unschedule(index);
            return self.end(now, index, reason);
        }
        let (username, counted_for) = (allocation.username.clone(), allocation.counted_for);
        for relayed in ended.iter() {
            self.reschedule(index, |set| set.remove(relayed.ip));
            self.end_connections_of(now, index, relayed.ip, reason);
            self.close_relayed(relayed);
        }
        self.shared.dismiss(holder(&username), counted_for, ended.places());
    }

    /// Changes an allocation's relayed addresses and moves its timer to where the first of them now ends.
    pub(super) fn reschedule(&mut self, index: usize, change: impl FnOnce(&mut RelayedSet)) {
        self.unschedule(index);
        change(&mut self.allocations[index].relayed);
        self.touch(index);
        self.schedule(index);
    }

    /// Sets the timer of an allocation.
    pub(super) fn schedule(&mut self, index: usize) {
        if let Some(at) = self.allocations[index].relayed.next_end() {
            self.deadlines.set(at, Timer::Allocation(index));
        }
    }

    /// Cancels the timer of an allocation.
    pub(super) fn unschedule(&mut self, index: usize) {
        if let Some(at) = self.allocations[index].relayed.next_end() {
            self.deadlines.cancel(at, Timer::Allocation(index));
        }
    }
}

/// A lifetime as it goes on the wire.
pub(super) fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}
