//! Allocate (RFC 8656 section 7): what a client may ask for, and the first step towards it.
//!
//! An allocation needs a socket, and the core has none: `allocate` decides and asks ([`Output::Open`] or
//! [`Output::ClaimAt`]), an [`Opening`] keeps the five-tuple meanwhile, and the answer completes it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Relay;
use super::allocation::Protocol;
use super::contract::{Claim, ClaimedSocket, DropReason, Output};
use super::deadlines::Timer;
use super::opening::{NO_RESERVATION, Opening, Source};
use super::refusal::Refusal;
use super::relayed::Relayed;
use super::requests::Asker;
use super::shared::Want;
use super::tcp::{self, TCP};
use crate::address::FiveTuple;
use crate::credentials::holder;
use crate::stun::{Allocate, Family};

/// IP protocol number of UDP (RFC 8656 section 7.2).
const UDP: u8 = 17;
/// How long another worker may take to hand over a socket; it needs microseconds.
const CLAIM_PATIENCE: Duration = Duration::from_secs(2);

/// The relay addresses that an allocation is to have sockets on.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    first: IpAddr,
    /// The other family of a dual allocation.
    second: Option<IpAddr>,
    /// The family that was asked for and cannot be had, and why.
    lacking: Option<(Family, Refusal)>,
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
        let protocol = check(&asker.from, request)?;
        if request.mobility.is_some() {
            self.may_move()?;
        }
        if self.draining.is_some() {
            return self.turn_away(now, asker);
        }
        if let Some(token) = request.reservation {
            return self.allocate_reserved(now, asker, request, token);
        }
        let want = match request.even_port {
            None => Want::Any,
            Some(false) => Want::Even,
            Some(true) => Want::EvenPair,
        };
        let addresses = self.relay_addresses(request)?;
        let (mut addresses, places) = self.admit(now, asker, addresses, want)?;
        let mut source = self.draw(addresses.first, want, 1);
        let mut places = places;
        if source.is_none()
            && let Some(second) = addresses.second.take()
        {
            // The ports of IPv4 are used up; those of IPv6 may not be.
            self.shared.dismiss(holder(&asker.username), asker.subscriber(), 1);
            places -= 1;
            addresses.lacking = Some((Family::V4, Refusal::Capacity("no port is free")));
            source = self.draw(second, want, 1);
        }
        let Some(source) = source else {
            self.shared.dismiss(holder(&asker.username), asker.subscriber(), places);
            return Err(Refusal::Capacity("no port is free"));
        };
        let (next, lacking) = (addresses.second, addresses.lacking);
        // Connections with peers belong to the control connection: a TCP allocation stays where it is.
        let mobile = request.mobility.is_some() && protocol == Protocol::Udp;
        let lifetime = self.lifetime(now, asker, request.lifetime);
        self.begin(Opening {
            places,
            next,
            lacking,
            mobile,
            protocol,
            ..Opening::new(asker, lifetime, source)
        });
        Ok(())
    }

    /// The first relay address of the family, or of each. RFC 8656 section 7.2: IPv4 unless asked otherwise; but where there is
    /// none, a client that does not ask (no browser does) gets what there is rather than nothing.
    fn relay_addresses(&self, request: &Allocate) -> Result<Addresses, Refusal> {
        let addresses = &self.settings.relay_addresses;
        let first = |v4: bool| addresses.iter().map(|address| address.ip).find(|ip| ip.is_ipv4() == v4);
        if request.additional_family {
            // Step 9: partially met with ADDRESS-ERROR-CODE.
            let (first, second, lacking) = match (first(true), first(false)) {
                (Some(v4), Some(v6)) => (v4, Some(v6), None),
                (Some(v4), None) => (v4, None, Some(Family::V6)),
                (None, Some(v6)) => (v6, None, Some(Family::V4)),
                (None, None) => return Err(Refusal::FamilyUnsupported),
            };
            let lacking = lacking.map(|family| (family, Refusal::FamilyUnsupported));
            return Ok(Addresses { first, second, lacking });
        }
        let found = match request.family {
            None => first(true).or_else(|| first(false)),
            Some(Family::V4) => first(true),
            Some(Family::V6) => first(false),
            Some(Family::Unknown) => None,
        };
        let first = found.ok_or(Refusal::FamilyUnsupported)?;
        Ok(Addresses { first, second: None, lacking: None })
    }

    /// Counts the allocation, and each relayed address of a dual one; where there is room for one only, that is IPv4.
    fn admit(
        &self,
        now: Instant,
        asker: &Asker,
        addresses: Addresses,
        want: Want,
    ) -> Result<(Addresses, u32), Refusal> {
        let (holder, client) = (holder(&asker.username), asker.subscriber());
        let Addresses { first, second, .. } = addresses;
        if second.is_some() && self.shared.admit(now, holder, client, 2 * want.places()).is_ok() {
            return Ok((addresses, 2 * want.places()));
        }
        self.shared.admit(now, holder, client, want.places())?;
        let full = Refusal::Capacity("there is room for one more allocation only");
        let lacking = second.map(|_| (Family::V6, full)).or(addresses.lacking);
        Ok((Addresses { first, second: None, lacking }, want.places()))
    }

    /// The port is bound already, here or at another worker, and counted.
    fn allocate_reserved(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &Allocate,
        token: u64,
    ) -> Result<(), Refusal> {
        let lifetime = self.lifetime(now, asker, request.lifetime);
        let until = now + CLAIM_PATIENCE;
        let mut opening = Opening {
            mobile: request.mobility.is_some(),
            ..Opening::new(asker, lifetime, Source::Claim { until })
        };
        let holder = self.reservations.holder(token);
        if holder == self.worker {
            let reserved = self.take_reservation(token, &asker.username).ok_or(NO_RESERVATION)?;
            let socket = ClaimedSocket { slot: reserved.slot, ip: reserved.ip, port: reserved.port };
            opening.relayed.insert(Relayed::new(socket, now + lifetime));
            self.establish(now, opening, None);
            return Ok(());
        }
        let open = self.begin(opening);
        self.deadlines.set(until, Timer::Claim(open));
        let claim = Claim { by: self.worker, open, token, username: asker.username.clone() };
        self.outputs.push(Output::ClaimAt { at: holder, claim });
        Ok(())
    }
}

/// RFC 8656 section 7.2, steps 3 to 9: what an Allocate must have and what excludes each other.
fn check(from: &FiveTuple, request: &Allocate) -> Result<Protocol, Refusal> {
    let protocol = match request.transport {
        Some(UDP) => Protocol::Udp,
        Some(TCP) => tcp::check(from, request)?,
        Some(_) => return Err(Refusal::TransportUnsupported),
        None => return Err(Refusal::ClientMalformed("Allocate without REQUESTED-TRANSPORT")),
    };
    // RFC 8016 section 3.1.2.
    if request.mobility.as_ref().is_some_and(|ticket| !ticket.is_empty()) {
        return Err(Refusal::ClientMalformed("Allocate with a mobility ticket that is not empty"));
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
    Ok(protocol)
}
