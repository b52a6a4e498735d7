//! New settings for a running core: what changes at once, and what ends because of it.
//!
//! Each worker switches between two inputs, so no packet sees half of the old settings and half of the new ones; workers
//! switch one after the other, and [`super::Shared`] before all of them.

use std::sync::Arc;
use std::time::Instant;

use super::Relay;
use super::contract::{EndReason, OpenId};
use super::peers::Peers;
use super::settings::RelaySettings;

impl Relay {
    pub(super) fn apply(&mut self, now: Instant, settings: Arc<RelaySettings>) {
        self.peers = Peers::new(&settings, &self.shared);
        self.limiter.set_rate(settings.limits.unauthenticated_answers);
        self.rates.set_limits(&settings.limits);
        self.settings = settings;
        self.revoke(now);
        for (_, allocation) in &mut self.allocations {
            allocation.review(|ip| self.peers.reach(ip));
        }
        self.touch_all();
        self.review_connections(now);
    }

    /// Ends what nobody stands behind any more. A reserved port stays until its hold is over: only credentials that are still
    /// good get it.
    fn revoke(&mut self, now: Instant) {
        let credentials = &self.settings.credentials;
        let allocations: Vec<usize> = self
            .allocations
            .iter()
            .filter(|(_, allocation)| !credentials.stand_behind(&allocation.key))
            .map(|(index, _)| index)
            .collect();
        let openings: Vec<OpenId> = self
            .openings
            .iter()
            .filter(|(_, opening)| !credentials.stand_behind(&opening.asker.key))
            .map(|(open, _)| *open)
            .collect();
        for index in allocations {
            self.unschedule(index);
            self.end(now, index, EndReason::Revoked);
        }
        for open in openings {
            self.abandon(open);
        }
    }
}
