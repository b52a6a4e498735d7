//! Keeps the routes in the XDP program as the core would have them, and tells the core what they carried.
//!
//! Decides nothing. Invariants: before anything that the core said is done, what is no route any more is out of the
//! program; a route passes for [`LEASE`] at most unless it is renewed, so that nothing outlives a worker that
//! hangs; every packet is counted once, by the core or here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::metrics::Counters;
use crate::relay::{AllocationId, ByFlow, DropReason, Levels, Relay, Route, ScaledPace, Traffic};
use crate::sys::xdp::monotonic;
use crate::xdp::{Count, Driver, MeterSlot, Placed};

/// One worker's routes in the program.
#[derive(Debug)]
pub(crate) struct Mirror {
    driver: Driver,
    clock: Clock,
    paces: (ByFlow<ScaledPace>, ByFlow<ScaledPace>),
    allocations: HashMap<AllocationId, Mirrored, RandomState>,
    users: Users,
    /// What the routes of allocations that the core does not know any more had carried since it was told last.
    ended: Vec<(AllocationId, Traffic)>,
    /// When to look next; nothing to look at without.
    next_look: Option<Instant>,
    changed: Vec<AllocationId>,
    routes: Vec<Route>,
}

/// An allocation with routes in the program.
#[derive(Debug)]
struct Mirrored {
    meter: MeterSlot,
    user: usize,
    routes: Vec<(Route, Placed, [Count; 2])>,
}

/// Buckets of the users that have routes, with how many allocations share them.
#[derive(Debug, Default)]
struct Users(HashMap<usize, (MeterSlot, usize), RandomState>);

/// The program's clock.
#[derive(Clone, Copy, Debug)]
struct Clock {
    epoch: Instant,
    at_epoch: u64,
}

impl Mirror {
    /// From now on the core keeps what changes.
    pub(crate) fn new(driver: Driver, relay: &mut Relay) -> Self {
        relay.keep_changes();
        Self {
            driver,
            clock: Clock::new(relay.epoch()),
            paces: Default::default(),
            allocations: HashMap::default(),
            users: Users::default(),
            ended: Vec::new(),
            next_look: None,
            changed: Vec::new(),
            routes: Vec::new(),
        }
    }

    /// When to call [`Mirror::look`] at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next_look
    }

    /// Does what has changed in the core.
    pub(crate) fn follow(&mut self, now: Instant, relay: &mut Relay, counters: &Counters) {
        relay.take_changed(&mut self.changed);
        if self.changed.is_empty() {
            return;
        }
        let paces = relay.paces();
        if self.paces != paces {
            self.paces = paces;
            self.driver.set_paces(paces);
        }
        let mut changed = std::mem::take(&mut self.changed);
        for id in changed.drain(..) {
            self.follow_one(now, id, relay, counters);
        }
        self.changed = changed;
        let is_idle = self.allocations.is_empty();
        self.next_look = if is_idle { None } else { self.next_look.or(Some(now + LOOK)) };
    }

    fn follow_one(&mut self, now: Instant, id: AllocationId, relay: &mut Relay, counters: &Counters) {
        self.routes.clear();
        relay.routes(now, id, &mut self.routes);
        let known = self.allocations.remove(&id);
        let is_new = known.is_none();
        let user = self.routes.first().map(|route| route.user);
        let Some(mut mirrored) = known.or_else(|| self.begin(user?)) else { return };
        let mut carried = [Count::default(); 2];
        for (route, placed, seen) in std::mem::take(&mut mirrored.routes) {
            match self.routes.iter().position(|wanted| Route { until: route.until, ..*wanted } == route) {
                Some(at) => mirrored.routes.push((self.routes.swap_remove(at), placed, seen)),
                None => add(&mut carried, &self.driver.remove(placed), &seen),
            }
        }
        for route in self.routes.drain(..) {
            let Some(user) = self.users.meter(mirrored.user) else { continue };
            if let Some(placed) = self.driver.insert(&route, &mirrored.meter, user) {
                mirrored.routes.push((route, placed, [Count::default(); 2]));
            }
        }
        if is_new || carried != [Count::default(); 2] {
            self.tell(now, (id, &mirrored), carried, relay, counters);
        }
        for (route, placed, _) in &mirrored.routes {
            self.driver.pass_until(placed, self.clock.lease(now, route.until));
        }
        if mirrored.routes.is_empty() {
            self.end(mirrored);
        } else {
            self.allocations.insert(id, mirrored);
        }
    }

    fn begin(&mut self, user: usize) -> Option<Mirrored> {
        let meter = self.driver.meter()?;
        if self.users.enter(user, &mut self.driver) {
            return Some(Mirrored { meter, user, routes: Vec::new() });
        }
        self.driver.give_back(meter);
        None
    }

    fn end(&mut self, mirrored: Mirrored) {
        self.users.leave(mirrored.user, &mut self.driver);
        self.driver.give_back(mirrored.meter);
    }

    /// Reads what the program counted, renews the routes, and takes out those whose time is over.
    pub(crate) fn look(&mut self, now: Instant, relay: &mut Relay, counters: &Counters) {
        self.ended.clear();
        let mut allocations = std::mem::take(&mut self.allocations);
        for (id, mirrored) in &mut allocations {
            let mut carried = [Count::default(); 2];
            for (route, placed, seen) in std::mem::take(&mut mirrored.routes) {
                if now < route.until {
                    let counts = self.driver.counts(&placed);
                    self.driver.pass_until(&placed, self.clock.lease(now, route.until));
                    add(&mut carried, &counts, &seen);
                    mirrored.routes.push((route, placed, counts));
                } else {
                    add(&mut carried, &self.driver.remove(placed), &seen);
                }
            }
            if carried != [Count::default(); 2] {
                self.tell(now, (*id, mirrored), carried, relay, counters);
            }
        }
        for (_, over) in allocations.extract_if(|_, mirrored| mirrored.routes.is_empty()) {
            self.end(over);
        }
        self.allocations = allocations;
        self.next_look = (!self.allocations.is_empty()).then(|| now + LOOK);
    }

    /// Counts what routes of an allocation carried, and brings its buckets in the program up to date.
    fn tell(
        &mut self,
        now: Instant,
        (id, mirrored): (AllocationId, &Mirrored),
        carried: [Count; 2],
        relay: &mut Relay,
        counters: &Counters,
    ) {
        let [to_peer, to_client] = carried;
        let traffic = Traffic {
            to_peer_bytes: to_peer.bytes,
            to_peer_packets: to_peer.packets,
            to_client_bytes: to_client.bytes,
            to_client_packets: to_client.packets,
        };
        counters.carried_in_driver(&traffic);
        for (rate, reason) in [DropReason::AllocationRate, DropReason::UserRate].into_iter().enumerate() {
            counters.dropped_in_driver(reason, to_peer.over[rate] + to_client.over[rate]);
        }
        match relay.carried(now, id, &traffic) {
            Some(levels) => {
                self.driver.level(
                    &mirrored.meter,
                    levels.map(|Levels { allocation, .. }| self.clock.times(allocation)),
                );
                if let Some(user) = self.users.meter(mirrored.user) {
                    self.driver.level(user, levels.map(|Levels { user, .. }| self.clock.times(user)));
                }
            }
            None => self.ended.push((id, traffic)),
        }
    }

    /// What the routes of an allocation that is over carried that the core was not told of.
    pub(crate) fn rest_of(&mut self, id: AllocationId) -> Traffic {
        let mut rest = Traffic::default();
        self.ended.retain(|(ended, traffic)| {
            let is_it = *ended == id;
            if is_it {
                rest.add(traffic);
            }
            !is_it
        });
        rest
    }
}

impl Users {
    fn meter(&self, user: usize) -> Option<&MeterSlot> {
        self.0.get(&user).map(|(meter, _)| meter)
    }

    /// False: the program has no more buckets.
    fn enter(&mut self, user: usize, driver: &mut Driver) -> bool {
        if let Some((_, allocations)) = self.0.get_mut(&user) {
            *allocations += 1;
            return true;
        }
        let Some(meter) = driver.meter() else { return false };
        self.0.insert(user, (meter, 1));
        true
    }

    fn leave(&mut self, user: usize, driver: &mut Driver) {
        let Some((_, allocations)) = self.0.get_mut(&user) else { return };
        *allocations -= 1;
        if *allocations == 0
            && let Some((meter, _)) = self.0.remove(&user)
        {
            driver.give_back(meter);
        }
    }
}

impl Clock {
    fn new(epoch: Instant) -> Self {
        let since = Instant::now().saturating_duration_since(epoch);
        Self { epoch, at_epoch: monotonic().saturating_sub(nanoseconds(since)) }
    }

    fn at(self, instant: Instant) -> u64 {
        self.at_epoch + nanoseconds(instant.saturating_duration_since(self.epoch))
    }

    /// Until when a route may pass that ends at `until`, if it is not looked after any more.
    fn lease(self, now: Instant, until: Instant) -> u64 {
        self.at(until.min(now + LEASE))
    }

    /// Times since the epoch.
    fn times(self, since_epoch: ByFlow<u64>) -> ByFlow<u64> {
        since_epoch.map(|nanoseconds| self.at_epoch.saturating_add(nanoseconds))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Adds what was counted since then.
fn add(sum: &mut [Count; 2], counts: &[Count; 2], seen: &[Count; 2]) {
    for ((sum, count), seen) in sum.iter_mut().zip(counts).zip(seen) {
        sum.add(&count.since(seen));
    }
}

/// How often counts are read and routes renewed: at most so much goes past rates that user space keeps meanwhile.
const LOOK: Duration = Duration::from_millis(500);
/// A worker that is away for longer has its packets come through user space, where they wait for it.
const LEASE: Duration = Duration::from_secs(2);
