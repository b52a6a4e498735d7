//! Who may come in by a connection, and with what patience: one for all workers, changed as a whole at run time.
//!
//! Asked when a connection begins, never per packet. Counts connections by client address, over all workers and over TCP,
//! TLS and DTLS together.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use ipnet::IpNet;

use super::tls::Certificates;

/// What a connection is measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Connections of one client address (of one /56 for IPv6); those that stand when this shrinks stay.
    pub(crate) per_address: usize,
    /// From the connection's beginning to its first whole STUN message; the TLS handshake is in it.
    pub(crate) first_message: Duration,
    /// Proxies that say with a PROXY header whom they speak for; nobody else is believed.
    pub(crate) proxies: Vec<IpNet>,
}

impl Rules {
    /// Whether a connection from there begins with a PROXY header.
    pub(crate) fn is_proxy(&self, other_end: IpAddr) -> bool {
        let other_end = other_end.to_canonical();
        self.proxies.iter().any(|network| network.contains(&other_end))
    }
}

impl Default for Rules {
    /// 512: an office behind one address with a hundred calls over TCP fits; one client cannot take all.
    /// Ten seconds: a client connects in order to speak.
    fn default() -> Self {
        Self { per_address: 512, first_message: Duration::from_secs(10), proxies: Vec::new() }
    }
}

/// The rules, the certificates, and how many connections every client address has.
#[derive(Debug)]
pub(crate) struct Admission {
    rules: ArcSwap<Rules>,
    certificates: Certificates,
    taken: Mutex<HashMap<IpAddr, usize, RandomState>>,
}

/// One connection's place; given back when dropped, at whichever worker.
#[derive(Debug)]
pub(crate) struct Place {
    of: Arc<Admission>,
    key: IpAddr,
}

impl Admission {
    pub(crate) fn new(rules: Rules, certificates: Certificates) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), certificates, taken: Mutex::default() }
    }

    /// What is in force now.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// Other rules, from the next connection on.
    pub(crate) fn install(&self, rules: Rules) {
        self.rules.store(Arc::new(rules));
    }

    pub(crate) fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// A place for one more connection of `client`, if there is one.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let key = counted_as(client);
        let limit = self.rules.load().per_address;
        let mut taken = self.taken();
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= limit {
            return None;
        }
        taken.insert(key, count + 1);
        Some(Place { of: Arc::clone(self), key })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize, RandomState>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn counts_nobody(&self) -> bool {
        self.taken().is_empty()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        match taken.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            Some(_) | None => drop(taken.remove(&self.key)),
        }
    }
}

/// Whom a connection counts for: an IPv4 address, or the /56 that one IPv6 customer has.
fn counted_as(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 72 << 72).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(per_address: usize) -> Arc<Admission> {
        let rules = Rules { per_address, ..Rules::default() };
        Arc::new(Admission::new(rules, Certificates::new(&[]).expect("randomness")))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_cannot_take_every_connection() {
        let admission = admission(2);
        let first = admission.admit(ip("192.0.2.1")).expect("one");
        let _second = admission.admit(ip("192.0.2.1")).expect("two");
        assert!(admission.admit(ip("192.0.2.1")).is_none());
        assert!(admission.admit(ip("192.0.2.2")).is_some());
        drop(first);
        assert!(admission.admit(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn an_ipv6_client_counts_with_its_whole_56() {
        let admission = admission(1);
        let _place = admission.admit(ip("2001:db8::1")).expect("one");
        assert!(admission.admit(ip("2001:db8:0:ff::1")).is_none());
        assert!(admission.admit(ip("2001:db8:0:100::1")).is_some());
    }

    #[test]
    fn nothing_is_kept_of_connections_that_are_gone() {
        let admission = admission(8);
        let places: Vec<_> = (0..8).map(|_| admission.admit(ip("192.0.2.1")).expect("fits")).collect();
        drop(places);
        assert!(admission.counts_nobody());
    }

    #[test]
    fn other_rules_hold_from_the_next_connection_on() {
        let admission = admission(1);
        let _place = admission.admit(ip("192.0.2.1")).expect("one");
        admission.install(Rules { per_address: 2, ..Rules::default() });
        let _second = admission.admit(ip("192.0.2.1")).expect("two are allowed now");
        admission.install(Rules { per_address: 1, ..Rules::default() });
        assert!(admission.admit(ip("192.0.2.1")).is_none());
    }
}
