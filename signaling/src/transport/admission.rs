//! Who may have how many connections, handshakes, sessions and frames, by address. Counted before a byte is read.
//!
//! A connection that has not said hello costs something and has shown nothing, so these have bounds of their own: for one
//! address, and for all, which is what a crowd of half-open connections can make the server hold. Numbers go down when the
//! [`Admitted`] or the [`Place`] is dropped; what an address has used of a rate is remembered until it is forgiven.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::{
    hub::{Bucket, Rate},
    metrics::Refusal,
};

/// How many connections are held, how fast they come, and what one address may do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// All connections of the listener.
    pub(crate) total: usize,
    /// Of these, the ones that have not said hello yet.
    pub(crate) pending: usize,
    /// Connections of one address (IPv6: one /64).
    pub(crate) per_address: usize,
    /// Of these, the ones that have not said hello yet.
    pub(crate) pending_per_address: usize,
    /// Connections that are accepted in a second. More wait.
    pub(crate) handshakes: Rate,
    /// Connections that one address may make in a second, and WebSockets and hellos that are no connection of their own. More
    /// are refused.
    pub(crate) handshakes_per_address: Rate,
    /// Sessions of one address, those that are away included.
    pub(crate) sessions_per_address: usize,
    /// Frames that all clients of one address may send in a second.
    pub(crate) frames_per_address: Rate,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 20_000,
            pending: 1_000,
            per_address: 1_000,
            pending_per_address: 64,
            handshakes: Rate { per_second: 4_000, burst: 1_000 },
            handshakes_per_address: Rate { per_second: 100, burst: 500 },
            sessions_per_address: 2_000,
            frames_per_address: Rate { per_second: 5_000, burst: 20_000 },
        }
    }
}

/// Counts; cheap to clone.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Inner>);

struct Inner {
    limits: ArcSwap<ConnectionLimits>,
    counts: Mutex<Counts>,
    /// One of those that had not said hello did, or is gone.
    freed: Notify,
}

struct Counts {
    total: usize,
    pending: usize,
    arrivals: Bucket,
    /// Addresses that have a connection or a session, and some that are still to be forgiven their rates.
    addresses: HashMap<IpAddr, Arc<Mutex<Address>>, foldhash::fast::RandomState>,
    /// With so many addresses it is looked for some that can be forgotten.
    look_at: usize,
}

#[derive(Debug)]
struct Address {
    open: usize,
    pending: usize,
    sessions: usize,
    arrivals: Bucket,
    frames: Bucket,
}

impl Admission {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let counts = Counts {
            total: 0,
            pending: 0,
            arrivals: Bucket::full(Instant::now()),
            addresses: HashMap::default(),
            look_at: FEW_ADDRESSES,
        };
        Self(Arc::new(Inner {
            limits: ArcSwap::from_pointee(limits),
            counts: Mutex::new(counts),
            freed: Notify::new(),
        }))
    }

    /// Other limits from now on. Connections that are there already stay.
    pub(crate) fn limit(&self, limits: ConnectionLimits) {
        self.0.limits.store(Arc::new(limits));
    }

    /// Takes a token of the rate at which connections are accepted, or says how long that takes.
    pub(crate) fn pace(&self) -> Result<(), Duration> {
        self.0.lock().arrivals.take_one(Instant::now(), self.0.limits.load().handshakes)
    }

    /// Whether as many connections that have not said hello are held as may be.
    pub(crate) fn is_crowded(&self) -> bool {
        self.0.lock().pending >= self.0.limits.load().pending
    }

    /// Waits until it is not.
    pub(crate) async fn room(&self) {
        while self.is_crowded() {
            self.0.freed.notified().await;
        }
    }

    /// Without an address it counts in total alone.
    pub(crate) fn count(&self, address: Option<IpAddr>, in_total: InTotal) -> Result<Admitted, Refusal> {
        let (limits, now) = (self.0.limits.load(), Instant::now());
        let mut counts = self.0.lock();
        if in_total == InTotal::OneMore {
            if counts.total >= limits.total {
                return Err(Refusal::Total);
            }
            // Proxies of ours say no hello of their own.
            if address.is_some() && counts.pending >= limits.pending {
                return Err(Refusal::Pending);
            }
        }
        let address = address.map(|ip| counts.address(ip, now));
        if let Some(address) = &address {
            lock(address).enter(now, in_total, &limits)?;
        }
        let pending = AtomicBool::new(address.is_some());
        if in_total == InTotal::OneMore {
            counts.total += 1;
            counts.pending += usize::from(address.is_some());
        }
        let arrived = AtomicBool::new(in_total == InTotal::OneMore);
        Ok(Admitted { admission: self.clone(), address, in_total, pending, arrived })
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn address(&mut self, ip: IpAddr, now: Instant) -> Arc<Mutex<Address>> {
        if self.addresses.len() >= self.look_at {
            self.addresses.retain(|_, address| !lock(address).can_be_forgotten(now));
            self.look_at = FEW_ADDRESSES.max(2 * self.addresses.len());
        }
        let fresh = || {
            let (arrivals, frames) = (Bucket::full(now), Bucket::full(now));
            Arc::new(Mutex::new(Address { open: 0, pending: 0, sessions: 0, arrivals, frames }))
        };
        self.addresses.entry(ip).or_insert_with(fresh).clone()
    }
}

impl Address {
    fn enter(&mut self, now: Instant, in_total: InTotal, limits: &ConnectionLimits) -> Result<(), Refusal> {
        if self.open >= limits.per_address || self.pending >= limits.pending_per_address {
            return Err(Refusal::Address);
        }
        // A request that a proxy brings is no handshake: a client that polls makes many.
        self.arrive(now, in_total, limits)?;
        self.open += 1;
        self.pending += 1;
        Ok(())
    }

    fn arrive(&mut self, now: Instant, in_total: InTotal, limits: &ConnectionLimits) -> Result<(), Refusal> {
        if in_total == InTotal::OneMore && self.arrivals.take_one(now, limits.handshakes_per_address).is_err()
        {
            return Err(Refusal::Rate);
        }
        Ok(())
    }

    fn can_be_forgotten(&self, now: Instant) -> bool {
        self.open == 0 && self.sessions == 0 && self.arrivals.is_full(now) && self.frames.is_full(now)
    }
}

fn lock(address: &Mutex<Address>) -> MutexGuard<'_, Address> {
    address.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something is a connection more, or a part of one that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InTotal {
    OneMore,
    Already,
}

/// A counted connection.
pub(crate) struct Admitted {
    admission: Admission,
    address: Option<Arc<Mutex<Address>>>,
    in_total: InTotal,
    pending: AtomicBool,
    /// Its arrival was counted, and no handshake needed that yet.
    arrived: AtomicBool,
}

/// A counted session.
pub(crate) struct Place(Option<Arc<Mutex<Address>>>);

impl Admitted {
    /// Counts one more of the same address, which begins with a handshake on this connection. One beside a connection that
    /// waited for its own turn need not wait for another, so that those of a rush do not keep each other out.
    pub(crate) fn another(&self) -> Result<Self, Refusal> {
        let (limits, now) = (self.admission.0.limits.load(), Instant::now());
        let mut counts = self.admission.0.lock();
        if counts.total >= limits.total {
            return Err(Refusal::Total);
        }
        let arrives = self.arrives();
        if let Some(address) = &self.address {
            if arrives == InTotal::OneMore && counts.pending >= limits.pending {
                return Err(Refusal::Pending);
            }
            lock(address).enter(now, arrives, &limits)?;
        }
        counts.total += 1;
        counts.pending += usize::from(self.address.is_some());
        Ok(Self {
            admission: self.admission.clone(),
            address: self.address.clone(),
            in_total: InTotal::OneMore,
            pending: AtomicBool::new(self.address.is_some()),
            arrived: AtomicBool::new(false),
        })
    }

    /// A handshake that makes this very connection a client's: of those that a proxy brings each counts.
    pub(crate) fn handshake(&self) -> Result<(), Refusal> {
        let (arrives, Some(address)) = (self.arrives(), &self.address) else { return Ok(()) };
        let limits = self.admission.0.limits.load();
        lock(address).arrive(Instant::now(), arrives, &limits)
    }

    /// Whether a handshake is an arrival of its own: the first one is part of that of the connection which brings it.
    fn arrives(&self) -> InTotal {
        if self.arrived.swap(false, Ordering::Relaxed) { InTotal::Already } else { InTotal::OneMore }
    }

    /// A connection that a proxy of ours introduced: it counts for its client from now on.
    pub(crate) fn identify(&mut self, client: IpAddr) -> Result<(), Refusal> {
        let (limits, now) = (self.admission.0.limits.load(), Instant::now());
        let mut counts = self.admission.0.lock();
        if counts.pending >= limits.pending {
            return Err(Refusal::Pending);
        }
        let address = counts.address(client, now);
        lock(&address).enter(now, self.in_total, &limits)?;
        counts.pending += 1;
        drop(counts);
        (self.address, self.pending) = (Some(address), AtomicBool::new(true));
        Ok(())
    }

    /// A part of this connection that a proxy brings for a client of its own.
    pub(crate) fn for_client(&self, client: IpAddr) -> Result<Self, Refusal> {
        self.admission.count(Some(client), InTotal::Already)
    }

    /// The client said a good hello: it is no longer one of those that have shown us nothing.
    pub(crate) fn greeted(&self) {
        if !self.pending.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.in_total == InTotal::OneMore {
            self.admission.0.lock().pending -= 1;
            self.admission.0.freed.notify_one();
        }
        if let Some(address) = &self.address {
            lock(address).pending -= 1;
        }
    }

    /// Counts a session, unless the address has as many as it may.
    pub(crate) fn place(&self) -> Option<Place> {
        let Some(address) = &self.address else { return Some(Place(None)) };
        let mut counts = lock(address);
        if counts.sessions >= self.admission.0.limits.load().sessions_per_address {
            return None;
        }
        counts.sessions += 1;
        Some(Place(Some(address.clone())))
    }

    /// Counts a frame, or says how long it takes until the address may send as it likes again.
    pub(crate) fn frame(&self) -> Result<(), Duration> {
        let Some(address) = &self.address else { return Ok(()) };
        lock(address)
            .frames
            .take_or_wait_for_all(Instant::now(), self.admission.0.limits.load().frames_per_address)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.greeted();
        if self.in_total == InTotal::OneMore {
            self.admission.0.lock().total -= 1;
        }
        if let Some(address) = &self.address {
            lock(address).open -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            lock(address).sessions -= 1;
        }
    }
}

/// Whoever has one IPv6 address has the whole /64.
pub(crate) fn accountable(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Some hundred KiB.
const FEW_ADDRESSES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    impl Admission {
        fn admit(&self, ip: IpAddr) -> Result<Admitted, Refusal> {
            self.count(Some(accountable(ip)), InTotal::OneMore)
        }
    }

    fn admission(total: usize, pending_per_address: usize) -> Admission {
        Admission::new(ConnectionLimits {
            total,
            per_address: 3,
            pending_per_address,
            ..ConnectionLimits::default()
        })
    }

    #[test]
    fn a_request_that_a_proxy_brings_takes_a_place_of_its_client_and_none_in_total() {
        let admission = admission(1, 8);
        let client = "203.0.113.7".parse().expect("an address");
        let connection = admission.count(None, InTotal::OneMore).expect("there is room");
        let requests: Vec<Admitted> =
            (0..3).map(|_| admission.count(Some(client), InTotal::Already).expect("there is room")).collect();
        assert_eq!(admission.count(Some(client), InTotal::Already).err(), Some(Refusal::Address));
        drop(requests);
        assert!(admission.count(Some(client), InTotal::Already).is_ok());
        assert_eq!(admission.count(None, InTotal::OneMore).err(), Some(Refusal::Total));
        drop(connection);
        assert!(admission.count(None, InTotal::OneMore).is_ok());
    }

    #[test]
    fn one_address_holds_only_so_many_connections_whatever_they_said() {
        let admission = admission(100, 2);
        let here = "192.0.2.1".parse().expect("an address");
        let mut held: Vec<Admitted> = (0..3)
            .map(|_| {
                let admitted = admission.admit(here).expect("admitted");
                admitted.greeted();
                admitted
            })
            .collect();
        assert_eq!(admission.admit(here).err(), Some(Refusal::Address));
        assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
        held.pop();
        assert!(admission.admit(here).is_ok());
    }

    #[test]
    fn one_address_holds_only_so_many_connections_without_a_hello() {
        let admission = admission(100, 2);
        let here = "192.0.2.1".parse().expect("an address");
        let first = admission.admit(here).expect("admitted");
        let _second = admission.admit(here).expect("admitted");
        assert_eq!(admission.admit(here).err(), Some(Refusal::Address));
        assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
        first.greeted();
        assert!(admission.admit(here).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_and_mapped_ipv4_is_ipv4() {
        let admission = admission(100, 1);
        let _held = admission.admit("2001:db8::1".parse().expect("an address")).expect("admitted");
        assert!(admission.admit("2001:db8::ffff".parse().expect("an address")).is_err());
        let _held = admission.admit("::ffff:192.0.2.1".parse().expect("an address")).expect("admitted");
        assert!(admission.admit("192.0.2.1".parse().expect("an address")).is_err());
    }

    #[test]
    fn a_dropped_connection_gives_both_counts_back() {
        let admission = admission(1, 1);
        let here = "192.0.2.1".parse().expect("an address");
        let greeted = admission.admit(here).expect("admitted");
        greeted.greeted();
        assert_eq!(admission.admit(here).err(), Some(Refusal::Total));
        drop(greeted);
        drop(admission.admit(here).expect("admitted again"));
        let counts = admission.0.lock();
        let address = lock(&counts.addresses[&here]);
        let counted = [counts.total, counts.pending, address.open, address.pending, address.sessions];
        assert_eq!(counted, [0; 5]);
    }

    #[test]
    fn connections_that_say_nothing_are_bounded_for_all_addresses_together() {
        let admission = Admission::new(ConnectionLimits { pending: 2, ..ConnectionLimits::default() });
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let first = admission.admit(address(1)).expect("admitted");
        let _second = admission.admit(address(2)).expect("admitted");
        assert_eq!(admission.admit(address(3)).err(), Some(Refusal::Pending));
        first.greeted();
        drop(admission.admit(address(3)).expect("one of them said hello"));
        let _proxy = [(); 3].map(|()| admission.count(None, InTotal::OneMore).expect("a proxy of ours"));
        assert!(admission.admit(address(4)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_room_goes_on_as_soon_as_there_is_some() {
        let admission = Admission::new(ConnectionLimits { pending: 1, ..ConnectionLimits::default() });
        admission.room().await;
        let first = admission.admit(IpAddr::from([192, 0, 2, 1])).expect("admitted");
        let waiting = tokio::spawn({
            let admission = admission.clone();
            async move { admission.room().await }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!waiting.is_finished());
        first.greeted();
        waiting.await.expect("no panic");
    }

    #[test]
    fn an_address_that_connects_too_often_is_refused_also_if_it_holds_nothing() {
        let handshakes_per_address = Rate { per_second: 1, burst: 3 };
        let admission =
            Admission::new(ConnectionLimits { handshakes_per_address, ..ConnectionLimits::default() });
        let here = "192.0.2.1".parse().expect("an address");
        for _ in 0..3 {
            drop(admission.admit(here).expect("admitted"));
        }
        assert_eq!(admission.admit(here).err(), Some(Refusal::Rate));
        assert!(admission.admit("192.0.2.2".parse().expect("an address")).is_ok());
        let brought = admission.count(Some(here), InTotal::Already);
        assert!(brought.is_ok(), "requests that a proxy brings are no handshakes");
    }

    #[test]
    fn a_connection_that_a_proxy_introduces_counts_like_one_of_its_client() {
        let limits = ConnectionLimits { pending: 2, pending_per_address: 1, ..ConnectionLimits::default() };
        let admission = Admission::new(limits);
        let client = |last: u8| IpAddr::from([203, 0, 113, last]);
        let mut introduced = [(); 4].map(|()| admission.count(None, InTotal::OneMore).expect("a proxy's"));
        let [first, second, third, fourth] = &mut introduced;
        assert_eq!(first.identify(client(1)), Ok(()));
        assert_eq!(second.identify(client(1)), Err(Refusal::Address));
        assert_eq!(third.identify(client(2)), Ok(()));
        assert_eq!(fourth.identify(client(3)), Err(Refusal::Pending));
        first.greeted();
        assert_eq!(second.identify(client(1)), Ok(()));
        drop(introduced);
        let counts = admission.0.lock();
        let open: usize = counts.addresses.values().map(|address| lock(address).open).sum();
        let pending: usize = counts.addresses.values().map(|address| lock(address).pending).sum();
        assert_eq!((counts.total, counts.pending, open, pending), (0, 0, 0, 0));
    }

    #[test]
    fn connections_within_one_that_say_nothing_are_bounded_like_others() {
        let admission = Admission::new(ConnectionLimits { pending: 2, ..ConnectionLimits::default() });
        let here = "192.0.2.1".parse().expect("an address");
        let connection = admission.admit(here).expect("admitted");
        let _waits = admission.admit("192.0.2.2".parse().expect("an address")).expect("admitted");
        let first = connection.another().expect("it has waited with its connection");
        assert_eq!(connection.another().err(), Some(Refusal::Pending));
        first.greeted();
        connection.greeted();
        assert!(connection.another().is_ok());
    }

    #[test]
    fn handshakes_of_an_address_are_counted_whatever_brings_them() {
        let handshakes_per_address = Rate { per_second: 1, burst: 3 };
        let limits = ConnectionLimits { handshakes_per_address, ..ConnectionLimits::default() };
        let here = "192.0.2.1".parse().expect("an address");

        let connection = Admission::new(limits).admit(here).expect("admitted");
        assert_eq!(connection.handshake(), Ok(()), "this one is counted already");
        for _ in 0..2 {
            assert!(connection.another().is_ok());
        }
        assert_eq!(connection.another().err(), Some(Refusal::Rate));

        let proxy = Admission::new(limits).count(None, InTotal::OneMore).expect("a proxy of ours");
        let brought = || proxy.for_client(here).expect("no handshake");
        for _ in 0..3 {
            assert_eq!(brought().handshake(), Ok(()));
        }
        assert_eq!(brought().handshake(), Err(Refusal::Rate));
        assert_eq!(brought().another().err(), Some(Refusal::Rate));
    }

    #[test]
    fn handshakes_beyond_the_rate_wait() {
        let handshakes = Rate { per_second: 1, burst: 2 };
        let admission = Admission::new(ConnectionLimits { handshakes, ..ConnectionLimits::default() });
        assert_eq!([admission.pace(), admission.pace()], [Ok(()), Ok(())]);
        assert!(admission.pace().is_err_and(|wait| wait <= Duration::from_secs(1)));
    }

    #[test]
    fn an_address_holds_only_so_many_sessions() {
        let admission =
            Admission::new(ConnectionLimits { sessions_per_address: 1, ..ConnectionLimits::default() });
        let here = "192.0.2.1".parse().expect("an address");
        let (one, two) = (admission.admit(here).expect("admitted"), admission.admit(here).expect("admitted"));
        let place = one.place();
        assert!(place.is_some() && two.place().is_none());
        drop(one);
        assert!(two.place().is_none(), "the session stands without its connection");
        drop(place);
        assert!(two.place().is_some());
    }

    #[test]
    fn all_clients_of_an_address_share_its_rate_of_frames() {
        let frames_per_address = Rate { per_second: 1, burst: 2 };
        let admission =
            Admission::new(ConnectionLimits { frames_per_address, ..ConnectionLimits::default() });
        let here = "192.0.2.1".parse().expect("an address");
        let (one, two) = (admission.admit(here).expect("admitted"), admission.admit(here).expect("admitted"));
        assert_eq!([one.frame(), two.frame()], [Ok(()), Ok(())]);
        assert!(one.frame().is_err() && two.frame().is_err());
        drop((one, two));
        let again = admission.admit(here).expect("admitted");
        assert!(again.frame().is_err(), "coming back does not fill the bucket");
    }

    #[test]
    fn addresses_that_are_forgiven_are_forgotten() {
        let admission = Admission::new(ConnectionLimits {
            handshakes_per_address: Rate { per_second: 1_000_000, burst: 1 },
            ..ConnectionLimits::default()
        });
        let held = admission.admit(IpAddr::from([198, 51, 100, 1])).expect("admitted");
        for number in 0..20_000_u32 {
            drop(admission.admit(Ipv4Addr::from_bits(0x0a00_0000 + number).into()).expect("admitted"));
        }
        let counts = admission.0.lock();
        assert!(counts.addresses.len() <= 2 * FEW_ADDRESSES, "{}", counts.addresses.len());
        assert!(counts.addresses.contains_key(&IpAddr::from([198, 51, 100, 1])));
        drop((counts, held));
    }
}
