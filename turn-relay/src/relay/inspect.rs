//! What the operator sees of the allocations of one worker, and how the operator ends one.
//!
//! Refuses to do: unbounded work. A page looks at [`SCAN`] places at most, however few of them match.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::allocation::Allocation;
use super::{AllocationId, EndReason, Relay, Traffic};
use crate::address::FiveTuple;
use crate::credentials::account;

/// One allocation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllocationView {
    /// Its name.
    pub id: AllocationId,
    /// Whose credential made it, as the client wrote it.
    pub username: Box<str>,
    /// The client.
    pub client: FiveTuple,
    /// The relayed transport address, as the client knows it.
    pub relayed: SocketAddr,
    /// The IPv6 address of a dual allocation; `relayed` is then the IPv4 one.
    pub additional: Option<SocketAddr>,
    /// How long it has stood.
    pub age: Duration,
    /// How long it will stand if nobody refreshes it.
    pub expires_in: Duration,
    /// What has flowed through it so far.
    pub traffic: Traffic,
}

/// A part of a worker's allocations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllocationPage {
    /// Those that matched.
    pub allocations: Vec<AllocationView>,
    /// Where to go on; nothing after the last.
    pub next: Option<usize>,
}

/// Places looked at per page: some ten microseconds, during which no packet is relayed.
const SCAN: usize = 1024;

/// Whether `name` means the user: the whole username, or the id of a time-limited one.
pub(super) fn is_user(username: &str, name: &str) -> bool {
    username == name || account(username) == name
}

impl Relay {
    /// At most `limit` allocations from the place `from` on, those of `user` alone if one is named. An allocation keeps its place:
    /// who follows `next` to the end sees every allocation that stood all the while exactly once.
    pub fn page(&self, now: Instant, from: usize, user: Option<&str>, limit: usize) -> AllocationPage {
        let end = self.allocations.capacity();
        let mut page = AllocationPage::default();
        for place in from..end.min(from.saturating_add(SCAN)) {
            let Some(allocation) = self.allocations.get(place) else { continue };
            if user.is_some_and(|user| !is_user(&allocation.username, user)) {
                continue;
            }
            if page.allocations.len() >= limit {
                page.next = Some(place);
                return page;
            }
            page.allocations.push(self.view(now, allocation));
        }
        page.next = from.checked_add(SCAN).filter(|next| *next < end);
        page
    }

    /// The allocation of that name, if it stands at this worker.
    pub fn find(&self, now: Instant, id: AllocationId) -> Option<AllocationView> {
        Some(self.view(now, self.allocations.get(*self.ids.get(&id)?)?))
    }

    fn view(&self, now: Instant, allocation: &Allocation) -> AllocationView {
        let (relayed, additional) = allocation.advertised;
        let expires = allocation.relayed.iter().map(|relayed| relayed.expires).max().unwrap_or(now);
        AllocationView {
            id: allocation.id,
            username: allocation.username.clone(),
            client: allocation.from,
            relayed,
            additional,
            age: now.saturating_duration_since(allocation.started),
            expires_in: expires.saturating_duration_since(now),
            traffic: allocation.traffic,
        }
    }

    /// Ends an allocation because the operator says so; one that does not stand (any more) is ended already.
    pub(super) fn end_named(&mut self, now: Instant, id: AllocationId, reason: EndReason) {
        let Some(&index) = self.ids.get(&id) else { return };
        self.unschedule(index);
        self.end(now, index, reason);
    }
}
