//! The relayed transport addresses of one allocation: at most one per family (RFC 8656 section 7.2), each with a lifetime of
//! its own, because Refresh may name one of the two (section 8).

use std::net::IpAddr;
use std::time::Instant;

use super::contract::{ClaimedSocket, SocketSlot};
use crate::address::{RelayedPort, same_family};
use crate::stun::Family;

/// One relayed transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Relayed {
    /// The socket.
    pub(super) slot: SocketSlot,
    /// What it is bound to, inside.
    pub(super) ip: IpAddr,
    /// The port, claimed in `Shared`.
    pub(super) port: RelayedPort,
    /// Nothing passes from here on.
    pub(super) expires: Instant,
}

impl Relayed {
    pub(super) fn new(socket: ClaimedSocket, expires: Instant) -> Self {
        let ClaimedSocket { slot, ip, port } = socket;
        Self { slot, ip, port, expires }
    }
}

/// One relayed address, or one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RelayedSet {
    v4: Option<Relayed>,
    v6: Option<Relayed>,
    /// Sockets that did not arrive with the others, and are still counted.
    lost: u32,
}

impl RelayedSet {
    /// The address that sends to `ip`: that of its family.
    pub(super) fn towards(&self, ip: IpAddr) -> Option<&Relayed> {
        if ip.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }

    /// Puts an address in the place of its family, which must be empty.
    pub(super) fn insert(&mut self, relayed: Relayed) {
        let place = if relayed.ip.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        debug_assert!(place.is_none(), "two relayed addresses of one family");
        *place = Some(relayed);
    }

    /// Takes the address of the same family as `ip` out.
    pub(super) fn remove(&mut self, ip: IpAddr) {
        *(if ip.is_ipv4() { &mut self.v4 } else { &mut self.v6 }) = None;
    }

    /// IPv4 first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Relayed> {
        self.v4.iter().chain(&self.v6)
    }

    /// How many there are, which is how many allocations it counts for.
    pub(super) fn places(&self) -> u32 {
        u32::from(self.v4.is_some()) + u32::from(self.v6.is_some())
    }

    /// Those of `family`, or all without one.
    pub(super) fn of(&self, family: Option<Family>) -> Self {
        match family {
            None => *self,
            Some(Family::V4) => Self { v4: self.v4, v6: None, lost: 0 },
            Some(Family::V6) => Self { v4: None, v6: self.v6, lost: 0 },
            Some(Family::Unknown) => Self::default(),
        }
    }

    /// Moves the end of those that `which` has too.
    pub(super) fn renew(&mut self, which: &Self, expires: Instant) {
        for relayed in self.v4.iter_mut().chain(&mut self.v6) {
            if which.iter().any(|other| same_family(other.ip, relayed.ip)) {
                relayed.expires = expires;
            }
        }
    }

    /// Gives every socket another slot; one for which there is none is lost.
    pub(super) fn replace_slots(&mut self, exchange: &mut impl FnMut(SocketSlot) -> Option<SocketSlot>) {
        for place in [&mut self.v4, &mut self.v6] {
            if let Some(relayed) = place {
                match exchange(relayed.slot) {
                    Some(slot) => relayed.slot = slot,
                    None => {
                        *place = None;
                        self.lost += 1;
                    }
                }
            }
        }
    }

    /// How many sockets were lost since this was asked last.
    pub(super) fn take_lost(&mut self) -> u32 {
        std::mem::take(&mut self.lost)
    }

    /// When the first of them ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.iter().map(|relayed| relayed.expires).min()
    }
}
