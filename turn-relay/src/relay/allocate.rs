//! Allocate and Refresh (RFC 8656 sections 7 and 8): how an allocation begins, goes on and is given back.
//!
//! An allocation needs a socket, and the core has none: `allocate` decides and asks ([`Output::Open`] or
//! [`Output::ClaimAt`]), an [`Opening`] keeps the five-tuple meanwhile, and the answer completes it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use super::allocation::{Allocation, Parts};
use super::allocation_id::AllocationId;
use super::contract::{
    Claim, ClaimedSocket, DropReason, EndReason, Event, OpenFailure, OpenId, Opened, Output, SocketSlot,
};
use super::deadlines::Timer;
use super::refusal::Refusal;
use super::requests::Asker;
use super::reservation::{HOLD, Reservation};
use super::shared::Want;
use super::{Relay, Seat};
use crate::address::{PeerAddr, RelayedPort};
use crate::credentials::account;
use crate::stun::{Allocate, Attribute, Family, Refresh};

/// IP protocol number of UDP, the only transport that is relayed (RFC 8656 section 7.2).
const UDP: u8 = 17;
/// Ports tried before 508 when other processes hold the ones we drew.
const MAX_ATTEMPTS: u8 = 16;
/// How long another worker may take to hand over a socket; it needs microseconds.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// An allocation that waits for its socket.
#[derive(Debug)]
pub(super) struct Opening {
    asker: Asker,
    lifetime: Duration,
    source: Source,
    /// The client is gone: what comes is closed again.
    abandoned: bool,
}

/// Where the socket comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// The driver binds it.
    Bind { address: usize, ip: IpAddr, port: RelayedPort, want: Want, attempts: u8 },
    /// Another worker hands it over, until then.
    Claim { until: Instant },
}

impl Source {
    /// How many allocations were admitted for it: the pair's second port counts from the beginning, and what is reserved
    /// was counted when it was.
    fn places(self) -> u32 {
        match self {
            Self::Bind { want, .. } => want.places(),
            Self::Claim { .. } => 0,
        }
    }
}

impl Opening {
    /// Whether this is the very request that is being worked on.
    pub(super) fn is_for(&self, asker: &Asker) -> bool {
        self.asker.reply_to == asker.reply_to
    }
}

impl Relay {
    pub(super) fn allocate(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &Allocate,
    ) -> Result<(), Refusal> {
        if self.opening_of(&asker.from).is_some_and(|opening| opening.is_for(asker)) {
            self.dropped(DropReason::InProgress);
            return Ok(());
        }
        if self.seats.contains_key(&asker.from.key()) {
            return Err(Refusal::AllocationMismatch("there is an allocation on this five-tuple"));
        }
        check(request)?;
        if let Some(token) = request.reservation {
            return self.allocate_reserved(now, asker, request, token);
        }
        let address = self.relay_address(request.family)?;
        let want = match request.even_port {
            None => Want::Any,
            Some(false) => Want::Even,
            Some(true) => Want::EvenPair,
        };
        self.shared.admit(account(&asker.username), want.places())?;
        let lifetime = self.lifetime(request.lifetime);
        let Some(source) = self.draw(address, want, 1) else {
            self.shared.dismiss(account(&asker.username), want.places());
            return Err(Refusal::Capacity("no port is free"));
        };
        self.begin(asker, lifetime, source);
        Ok(())
    }

    /// The first relay address of the family. RFC 8656 section 7.2: IPv4 unless asked otherwise; but where there is none, a client
    /// that does not ask (no browser does) gets what there is rather than nothing.
    fn relay_address(&self, family: Option<Family>) -> Result<usize, Refusal> {
        let addresses = &self.settings.relay_addresses;
        let first = |v4: bool| addresses.iter().position(|address| address.ip.is_ipv4() == v4);
        let found = match family {
            None => first(true).or_else(|| first(false)),
            Some(Family::V4) => first(true),
            Some(Family::V6) => first(false),
            Some(Family::Unknown) => None,
        };
        found.ok_or(Refusal::FamilyUnsupported)
    }

    /// RFC 8656 section 7.2: the larger of what is asked for and the default, at most the maximum.
    fn lifetime(&self, asked: Option<u32>) -> Duration {
        let limits = &self.settings.limits;
        let asked = Duration::from_secs(asked.unwrap_or(0).into());
        asked.max(limits.default_lifetime).min(limits.max_lifetime)
    }

    fn draw(&mut self, address: usize, want: Want, attempts: u8) -> Option<Source> {
        let ip = self.settings.relay_addresses.get(address)?.ip;
        let port = self.shared.claim(address, want, &mut self.rng)?;
        Some(Source::Bind { address, ip, port, want, attempts })
    }

    /// Takes the five-tuple and asks for a socket.
    fn begin(&mut self, asker: &Asker, lifetime: Duration, source: Source) -> OpenId {
        let open = OpenId(self.next_open);
        self.next_open += 1;
        self.seats.insert(asker.from.key(), Seat::Opening(open));
        self.openings.insert(open, Opening { asker: asker.clone(), lifetime, source, abandoned: false });
        self.ask(open, source);
        open
    }

    fn ask(&mut self, open: OpenId, source: Source) {
        if let Source::Bind { ip, port, want, .. } = source {
            self.outputs.push(Output::Open { open, ip, port, reserve_next: want == Want::EvenPair });
        }
    }

    /// The port is bound already, here or at another worker, and counted.
    fn allocate_reserved(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &Allocate,
        token: u64,
    ) -> Result<(), Refusal> {
        let lifetime = self.lifetime(request.lifetime);
        let holder = self.reservations.holder(token);
        if holder == self.worker {
            let reservation = self.take_reservation(token, &asker.username).ok_or(NO_RESERVATION)?;
            self.establish(now, asker, lifetime, reservation.slot, (reservation.ip, reservation.port), None);
            return Ok(());
        }
        let until = now + CLAIM_PATIENCE;
        let open = self.begin(asker, lifetime, Source::Claim { until });
        self.deadlines.set(until, Timer::Claim(open));
        let claim = Claim { by: self.worker, open, token, username: asker.username.clone() };
        self.outputs.push(Output::ClaimAt { at: holder, claim });
        Ok(())
    }

    pub(super) fn opened(&mut self, now: Instant, open: OpenId, outcome: Result<Opened, OpenFailure>) {
        let Some(mut opening) = self.openings.remove(&open) else {
            debug_assert!(false, "the driver answered a request that was not made");
            return;
        };
        let Source::Bind { address, ip, port, want, attempts } = opening.source else {
            debug_assert!(false, "the driver opened what another worker was asked for");
            return;
        };
        let reserved_port = RelayedPort(port.0.saturating_add(u16::from(want == Want::EvenPair)));
        let opened = match outcome {
            Ok(opened) if opened.reserved.is_some() == (want == Want::EvenPair) => opened,
            Ok(_) | Err(_) => {
                self.shared.release(ip, port);
                if want == Want::EvenPair {
                    self.shared.release(ip, reserved_port);
                }
                let again =
                    outcome == Err(OpenFailure::PortTaken) && attempts < MAX_ATTEMPTS && !opening.abandoned;
                match again.then(|| self.draw(address, want, attempts + 1)).flatten() {
                    Some(source) => {
                        opening.source = source;
                        self.openings.insert(open, opening);
                        self.ask(open, source);
                    }
                    None => self.give_up(now, &opening, Refusal::Capacity("no port could be bound")),
                }
                return;
            }
        };
        if opening.abandoned {
            self.close(opened.slot, ip, port);
            if let Some(slot) = opened.reserved {
                self.close(slot, ip, reserved_port);
            }
            self.shared.dismiss(account(&opening.asker.username), want.places());
            return;
        }
        let token = opened.reserved.map(|slot| {
            let username = opening.asker.username.clone();
            self.shared.reserve(ip, reserved_port, account(&username));
            let until = now + HOLD;
            let reservation = Reservation { slot, ip, port: reserved_port, username, until };
            let token = self.reservations.hold(&mut self.rng, reservation);
            self.deadlines.set(until, Timer::Reservation(token));
            token
        });
        self.establish(now, &opening.asker, opening.lifetime, opened.slot, (ip, port), token);
    }

    pub(super) fn claimed(&mut self, now: Instant, open: OpenId, outcome: Option<ClaimedSocket>) {
        let Some(opening) = self.openings.remove(&open) else {
            // Our patience ended before the other worker answered.
            if let Some(ClaimedSocket { slot, ip, port }) = outcome {
                self.close(slot, ip, port);
            }
            return;
        };
        if let Source::Claim { until } = opening.source {
            self.deadlines.cancel(until, Timer::Claim(open));
        }
        match outcome {
            Some(ClaimedSocket { slot, ip, port }) => {
                self.establish(now, &opening.asker, opening.lifetime, slot, (ip, port), None);
            }
            None => self.give_up(now, &opening, NO_RESERVATION),
        }
    }

    pub(super) fn claim_timed_out(&mut self, now: Instant, open: OpenId) {
        if let Some(opening) = self.openings.remove(&open) {
            self.give_up(
                now,
                &opening,
                Refusal::Capacity("another worker did not hand over the reserved port"),
            );
        }
    }

    /// The client went away before its socket came.
    pub(super) fn abandon(&mut self, open: OpenId) {
        let Some(opening) = self.openings.get_mut(&open) else { return };
        self.seats.remove(&opening.asker.from.key());
        match opening.source {
            // The port is known here only, so the opening stays until the driver has answered.
            Source::Bind { .. } => opening.abandoned = true,
            Source::Claim { until } => {
                self.deadlines.cancel(until, Timer::Claim(open));
                self.openings.remove(&open);
            }
        }
    }

    fn give_up(&mut self, now: Instant, opening: &Opening, refusal: Refusal) {
        self.shared.dismiss(account(&opening.asker.username), opening.source.places());
        if !opening.abandoned {
            self.seats.remove(&opening.asker.from.key());
            self.refuse(now, &opening.asker, refusal, &[]);
        }
    }

    /// The allocation stands from here on.
    fn establish(
        &mut self,
        now: Instant,
        asker: &Asker,
        lifetime: Duration,
        slot: SocketSlot,
        (relayed_ip, relayed_port): (IpAddr, RelayedPort),
        token: Option<u64>,
    ) {
        let (from, username, key) = (asker.from, asker.username.clone(), asker.key.clone());
        let id = AllocationId(self.rng.random());
        let parts = Parts { id, from, username, key, slot, relayed_ip, relayed_port, lifetime };
        let allocation = Allocation::new(now, parts);
        let expires = allocation.expires;
        let index = self.allocations.insert(allocation);
        self.seats.insert(from.key(), Seat::Allocation(index));
        self.set_relayed(slot, Some(index));
        self.deadlines.set(expires, Timer::Allocation(index));
        self.shared.set_live(relayed_ip, relayed_port);
        let relayed = self.peers.outward(PeerAddr((relayed_ip, relayed_port.0).into())).0;
        let mut attributes = vec![
            Attribute::XorRelayedAddress(relayed),
            Attribute::Lifetime(seconds(lifetime)),
            Attribute::XorMappedAddress(from.client.0),
        ];
        attributes.extend(token.map(Attribute::ReservationToken));
        self.succeed(now, asker, &attributes);
        let username = asker.username.clone();
        self.outputs.push(Output::Event(Event::AllocationStarted {
            id,
            client: from,
            username,
            relayed,
            lifetime,
        }));
    }

    pub(super) fn refresh(&mut self, now: Instant, asker: &Asker, request: &Refresh) -> Result<(), Refusal> {
        let index = self.own_allocation(now, asker)?;
        let allocation = &self.allocations[index];
        match request.family {
            Some(Family::V4) if !allocation.relayed_ip.is_ipv4() => return Err(Refusal::PeerFamilyMismatch),
            Some(Family::V6) if !allocation.relayed_ip.is_ipv6() => return Err(Refusal::PeerFamilyMismatch),
            Some(Family::Unknown) => return Err(Refusal::PeerFamilyMismatch),
            Some(Family::V4 | Family::V6) | None => {}
        }
        let old = allocation.expires;
        self.deadlines.cancel(old, Timer::Allocation(index));
        if request.lifetime == Some(0) {
            self.succeed(now, asker, &[Attribute::Lifetime(0)]);
            self.end(now, index, EndReason::Released);
            return Ok(());
        }
        let lifetime = self.lifetime(request.lifetime);
        let expires = now + lifetime;
        self.allocations[index].expires = expires;
        self.deadlines.set(expires, Timer::Allocation(index));
        self.succeed(now, asker, &[Attribute::Lifetime(seconds(lifetime))]);
        Ok(())
    }
}

const NO_RESERVATION: Refusal = Refusal::Capacity("no such reservation");

/// RFC 8656 section 7.2, steps 3 to 9: what an Allocate must have and what excludes each other.
fn check(request: &Allocate) -> Result<(), Refusal> {
    match request.transport {
        Some(UDP) => {}
        Some(_) => return Err(Refusal::TransportUnsupported),
        None => return Err(Refusal::ClientMalformed("Allocate without REQUESTED-TRANSPORT")),
    }
    let family = request.family.is_some() || request.additional_family;
    if request.reservation.is_some() && (request.even_port.is_some() || family) {
        return Err(Refusal::ClientMalformed("RESERVATION-TOKEN with EVEN-PORT or an address family"));
    }
    if request.family.is_some() && request.additional_family {
        return Err(Refusal::ClientMalformed("REQUESTED-ADDRESS-FAMILY with ADDITIONAL-ADDRESS-FAMILY"));
    }
    if request.even_port == Some(true) && request.additional_family {
        return Err(Refusal::ClientMalformed("EVEN-PORT with the R bit with ADDITIONAL-ADDRESS-FAMILY"));
    }
    Ok(())
}

fn seconds(lifetime: Duration) -> u32 {
    u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
}
