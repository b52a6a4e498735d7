//! A driver's copy of the routes, which must be what the core would say without being asked about what it did not name.

use std::collections::HashMap;
use std::time::Instant;

use super::super::*;

/// What one worker's driver knows.
#[derive(Debug, Default)]
pub(crate) struct RouteBook {
    known: HashMap<AllocationId, Vec<Route>>,
    changed: Vec<AllocationId>,
}

impl RouteBook {
    /// Asks about what has changed, as a driver does, and checks that nothing else has.
    pub(crate) fn follow(&mut self, now: Instant, relay: &mut Relay) {
        relay.take_changed(&mut self.changed);
        for id in self.changed.drain(..) {
            match routes(relay, now, id) {
                routes if routes.is_empty() => drop(self.known.remove(&id)),
                routes => drop(self.known.insert(id, routes)),
            }
        }
        let all: Vec<AllocationId> = relay.ids.keys().copied().collect();
        for id in all.iter().chain(self.known.keys()) {
            assert_eq!(routes(relay, now, *id), self.now(now, *id), "nobody said that {id:?} has changed");
        }
    }

    /// The routes of one allocation that have not ended.
    pub(crate) fn now(&self, now: Instant, id: AllocationId) -> Vec<Route> {
        let known = self.known.get(&id).into_iter().flatten();
        known.filter(|route| now < route.until).copied().collect()
    }

    /// The routes of all allocations that have not ended.
    pub(crate) fn all(&self, now: Instant) -> Vec<Route> {
        self.known.values().flatten().filter(|route| now < route.until).copied().collect()
    }
}

fn routes(relay: &Relay, now: Instant, id: AllocationId) -> Vec<Route> {
    let mut routes = Vec::new();
    relay.routes(now, id, &mut routes);
    routes
}
