//! ICMP messages about datagrams that went to a peer (RFC 8656 section 11.5).
//!
//! Whoever knows a relayed address can forge them, so they are believed no further than they must be: they tell the client
//! something and change nothing here, only about addresses with a permission, and few a second.

use std::time::Instant;

use super::Relay;
use super::contract::{DropReason, SocketSlot, Verdict};
use super::next_transaction;
use crate::address::PeerAddr;
use crate::frame::{Header, Icmp};

impl Relay {
    /// Decides about an ICMP message that quotes a datagram from a relayed socket to `peer`. Allocates nothing.
    pub fn route_icmp(&mut self, now: Instant, on: SocketSlot, peer: PeerAddr, icmp: Icmp) -> Verdict {
        self.pass_icmp(now, on, peer, icmp).unwrap_or_else(Verdict::Drop)
    }

    fn pass_icmp(
        &mut self,
        now: Instant,
        on: SocketSlot,
        peer: PeerAddr,
        icmp: Icmp,
    ) -> Result<Verdict, DropReason> {
        let known = match peer.0 {
            std::net::SocketAddr::V4(_) => matches!(icmp.kind, UNREACHABLE_V4 | TIME_EXCEEDED_V4),
            std::net::SocketAddr::V6(_) => matches!(icmp.kind, UNREACHABLE_V6..=TIME_EXCEEDED_V6),
        };
        if !known {
            return Err(DropReason::Unexpected);
        }
        let index = self.relayed_by(on).ok_or(DropReason::NoAllocation)?;
        let allocation = &mut self.allocations[index];
        if allocation.relayed.towards(peer.ip()).is_none_or(|relayed| relayed.expires <= now) {
            return Err(DropReason::NoAllocation);
        }
        // Addresses are compared, ports are not.
        allocation.permitted(now, peer.ip()).ok_or(DropReason::NoPermission)?;
        if !self.rates.may_tell_icmp(now, &mut allocation.meter) {
            return Err(DropReason::IcmpRate);
        }
        let transaction = next_transaction(&mut self.next_indication);
        let header = Header::Icmp { peer: self.peers.outward(peer), transaction, icmp };
        Ok(Verdict::ToClient { to: allocation.from, header })
    }
}

/// RFC 792: Destination Unreachable, fragmentation needed among them.
const UNREACHABLE_V4: u8 = 3;
/// RFC 792.
const TIME_EXCEEDED_V4: u8 = 11;
/// RFC 4443; Packet Too Big, 2, lies between.
const UNREACHABLE_V6: u8 = 1;
/// RFC 4443.
const TIME_EXCEEDED_V6: u8 = 3;

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    const UNREACHABLE: Icmp = Icmp { kind: 3, code: 3, mtu: 0 };

    fn told(verdict: Verdict) -> Option<(PeerAddr, Icmp)> {
        match verdict {
            Verdict::ToClient { header: Header::Icmp { peer, icmp, .. }, .. } => Some((peer, icmp)),
            Verdict::Drop(_) => None,
            Verdict::ToPeer { .. } | Verdict::ToClient { .. } | Verdict::Control => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn icmp_about_a_permitted_peer_is_told_and_about_others_is_not() {
        let mut world = World::new();
        let relayed = world.allocate(&tuple(1)).relayed();
        let slot = world.slot(0, relayed);
        let icmp = |world: &mut World, about: &str| {
            world.workers[0].route_icmp(world.now, slot, peer(about), UNREACHABLE)
        };
        assert_eq!(icmp(&mut world, "8.8.8.8:7"), Verdict::Drop(DropReason::NoPermission));
        world.permit(&tuple(1), "8.8.8.8:1");
        assert_eq!(told(icmp(&mut world, "8.8.8.8:7")), Some((peer("8.8.8.8:7"), UNREACHABLE)));
        assert_eq!(icmp(&mut world, "8.8.4.4:7"), Verdict::Drop(DropReason::NoPermission));
        assert_eq!(icmp(&mut world, "[2001:db8::1]:7"), Verdict::Drop(DropReason::NoAllocation));
        world.advance(secs(300));
        assert_eq!(icmp(&mut world, "8.8.8.8:7"), Verdict::Drop(DropReason::NoPermission));
    }

    #[test]
    fn only_unreachable_too_big_and_time_exceeded_are_told() {
        let mut world = World::new();
        let v4 = world.allocate(&tuple(1)).relayed();
        let draft = Draft::new(ALLOCATE, 1).udp().with(0x0017, &[2, 0, 0, 0]);
        let v6 = world.ask(&tuple(2), &Account::alice(), draft).relayed();
        world.permit(&tuple(1), "8.8.8.8:1");
        world.permit(&tuple(2), "[2a00:9::1]:1");
        for (relayed, about, kinds) in
            [(v4, "8.8.8.8:1", &[3, 11][..]), (v6, "[2a00:9::1]:1", &[1, 2, 3][..])]
        {
            let slot = world.slot(0, relayed);
            for kind in 0..=255 {
                world.advance(secs(1));
                // The permission must not be what decides.
                if kind % 100 == 0 {
                    world.permit(&tuple(if about.starts_with('[') { 2 } else { 1 }), about);
                }
                let icmp = Icmp { kind, code: 0, mtu: 0 };
                let verdict = world.workers[0].route_icmp(world.now, slot, peer(about), icmp);
                assert_eq!(told(verdict).is_some(), kinds.contains(&kind), "{about} {kind}");
            }
        }
    }

    #[test]
    fn a_flood_of_icmp_is_told_ten_times_a_second() {
        let mut world = World::new();
        let relayed = world.allocate(&tuple(1)).relayed();
        let slot = world.slot(0, relayed);
        world.permit(&tuple(1), "8.8.8.8:1");
        let flood = |world: &mut World| {
            let verdicts = (0..1000)
                .map(|_| world.workers[0].route_icmp(world.now, slot, peer("8.8.8.8:1"), UNREACHABLE));
            verdicts.filter(|verdict| told(*verdict).is_some()).count()
        };
        assert_eq!(flood(&mut world), 10);
        world.advance(secs(1) / 2);
        assert_eq!(flood(&mut world), 5);
    }
}
