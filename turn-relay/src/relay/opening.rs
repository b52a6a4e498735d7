//! Allocations that wait for their sockets, and what becomes of them when the driver, or another worker, answers.
//!
//! A dual allocation (RFC 8656 section 7.2, step 9) binds one family after the other, and stands with what it could get.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use super::allocation::{Allocation, Parts, Protocol};
use super::allocation_id::AllocationId;
use super::contract::{ClaimedSocket, Event, OpenFailure, OpenId, Opened, Output};
use super::deadlines::Timer;
use super::refresh::seconds;
use super::refusal::Refusal;
use super::relayed::{Relayed, RelayedSet};
use super::requests::Asker;
use super::reservation::{HOLD, Reservation};
use super::shared::Want;
use super::{Relay, Seat};
use crate::address::{PeerAddr, RelayedPort};
use crate::credentials::holder;
use crate::stun::{Attribute, Family, Refresh};

/// Ports tried before 508 when other processes hold the ones we drew.
const MAX_ATTEMPTS: u8 = 16;

/// An allocation that waits for its sockets.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) asker: Asker,
    pub(super) lifetime: Duration,
    /// What was asked for and is not answered yet.
    pub(super) source: Source,
    /// How many allocations `Shared` counts for it. A pair's second port counts from the beginning; what is reserved was
    /// counted when it was.
    pub(super) places: u32,
    /// The relay address of the other family, to be bound after this one.
    pub(super) next: Option<IpAddr>,
    /// What came so far.
    pub(super) relayed: RelayedSet,
    /// Which family cannot be had, and why: 440 or 508.
    pub(super) lacking: Option<(Family, Refusal)>,
    pub(super) protocol: Protocol,
    /// The client is gone: what comes is closed again.
    pub(super) abandoned: bool,
    /// A mobility ticket was asked for.
    pub(super) mobile: bool,
    /// What the client asked of the allocation that comes.
    pub(super) refresh: Option<Refresh>,
}

/// Where the socket comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// The driver binds it.
    Bind { ip: IpAddr, port: RelayedPort, want: Want, attempts: u8 },
    /// Another worker hands it over, until then.
    Claim { until: Instant },
    /// Another worker hands a whole allocation over (RFC 8016), until then.
    Summon { until: Instant },
}

impl Opening {
    /// Nothing has come, nothing is counted.
    pub(super) fn new(asker: &Asker, lifetime: Duration, source: Source) -> Self {
        Self {
            asker: asker.clone(),
            lifetime,
            source,
            places: 0,
            next: None,
            relayed: RelayedSet::default(),
            lacking: None,
            protocol: Protocol::Udp,
            abandoned: false,
            mobile: false,
            refresh: None,
        }
    }

    /// Whether this is the very request that is being worked on.
    pub(super) fn is_for(&self, asker: &Asker) -> bool {
        self.asker.reply_to == asker.reply_to
    }
}

impl Relay {
    /// Takes the five-tuple and asks for a socket.
    pub(super) fn begin(&mut self, opening: Opening) -> OpenId {
        let open = OpenId(self.next_open);
        self.next_open += 1;
        self.seats.insert(opening.asker.from.key(), Seat::Opening(open));
        self.ask(open, opening);
        open
    }

    fn ask(&mut self, open: OpenId, opening: Opening) {
        if let Source::Bind { ip, port, want, .. } = opening.source {
            self.outputs.push(match opening.protocol {
                Protocol::Udp => Output::Open { open, ip, port, reserve_next: want == Want::EvenPair },
                Protocol::Tcp => Output::ListenTcp { open, ip, port },
            });
        }
        self.openings.insert(open, opening);
    }

    pub(super) fn draw(&mut self, ip: IpAddr, want: Want, attempts: u8) -> Option<Source> {
        let port = self.shared.claim(ip, want, &mut self.rng)?;
        Some(Source::Bind { ip, port, want, attempts })
    }

    pub(super) fn opened(&mut self, now: Instant, open: OpenId, outcome: Result<Opened, OpenFailure>) {
        let Some(mut opening) = self.openings.remove(&open) else {
            debug_assert!(false, "the driver answered a request that was not made");
            return;
        };
        let Source::Bind { ip, port, want, attempts } = opening.source else {
            debug_assert!(false, "the driver opened what another worker was asked for");
            return;
        };
        let reserved_port = RelayedPort(port.0.saturating_add(u16::from(want == Want::EvenPair)));
        match outcome {
            Ok(Opened { slot, reserved }) if reserved.is_some() == (want == Want::EvenPair) => {
                opening
                    .relayed
                    .insert(Relayed::new(ClaimedSocket { slot, ip, port }, now + opening.lifetime));
                let reserved = reserved.map(|slot| ClaimedSocket { slot, ip, port: reserved_port });
                self.go_on(now, open, opening, want, reserved);
            }
            Ok(_) | Err(_) => {
                self.shared.release(ip, port);
                if want == Want::EvenPair {
                    self.shared.release(ip, reserved_port);
                }
                let again =
                    outcome == Err(OpenFailure::PortTaken) && attempts < MAX_ATTEMPTS && !opening.abandoned;
                match again.then(|| self.draw(ip, want, attempts + 1)).flatten() {
                    Some(source) => self.ask(open, Opening { source, ..opening }),
                    None => {
                        self.do_without(&mut opening, ip.is_ipv4());
                        self.go_on(now, open, opening, want, None);
                    }
                }
            }
        }
    }

    /// One family is decided: goes on to the other, or ends with what there is.
    fn go_on(
        &mut self,
        now: Instant,
        open: OpenId,
        mut opening: Opening,
        want: Want,
        reserved: Option<ClaimedSocket>,
    ) {
        if let Some(ip) = opening.next.take() {
            let source = if opening.abandoned { None } else { self.draw(ip, want, 1) };
            match source {
                Some(source) => return self.ask(open, Opening { source, ..opening }),
                None => self.do_without(&mut opening, ip.is_ipv4()),
            }
        }
        if opening.abandoned {
            for relayed in opening.relayed.iter() {
                self.close_relayed(relayed);
            }
            if let Some(reserved) = reserved {
                self.close(reserved);
            }
            return self.dismiss(&opening.asker, opening.places);
        }
        if opening.relayed.places() == 0 {
            return self.give_up(now, &opening, Refusal::Capacity("no port could be bound"));
        }
        let token = reserved.map(|socket| self.reserve(now, &opening.asker, socket));
        self.establish(now, opening, token);
    }

    /// One of two families cannot be had. Where it was the only one, nothing is given back yet: the whole is refused.
    fn do_without(&mut self, opening: &mut Opening, ipv4: bool) {
        if opening.relayed.places() == 0 && opening.next.is_none() {
            return;
        }
        opening.places -= 1;
        self.dismiss(&opening.asker, 1);
        let family = if ipv4 { Family::V4 } else { Family::V6 };
        opening.lacking = Some((family, Refusal::Capacity("no port could be bound")));
    }

    /// Holds the next port for whoever has the token.
    fn reserve(&mut self, now: Instant, asker: &Asker, socket: ClaimedSocket) -> u64 {
        let ClaimedSocket { slot, ip, port } = socket;
        let username = asker.username.clone();
        self.shared.reserve(ip, port, holder(&username), asker.subscriber());
        let until = now + HOLD;
        let token = self.reservations.hold(&mut self.rng, Reservation { slot, ip, port, username, until });
        self.deadlines.set(until, Timer::Reservation(token));
        token
    }

    pub(super) fn claimed(&mut self, now: Instant, open: OpenId, outcome: Option<ClaimedSocket>) {
        let Some(mut opening) = self.openings.remove(&open) else {
            // Our patience ended before the other worker answered.
            if let Some(socket) = outcome {
                self.close(socket);
            }
            return;
        };
        if let Source::Claim { until } = opening.source {
            self.deadlines.cancel(until, Timer::Claim(open));
        }
        match outcome {
            Some(socket) if self.shared.revocations().holds(now, &opening.asker.username) => {
                self.close(socket);
                self.give_up(now, &opening, Refusal::Revoked);
            }
            Some(socket) => {
                opening.relayed.insert(Relayed::new(socket, now + opening.lifetime));
                self.establish(now, opening, None);
            }
            None => self.give_up(now, &opening, NO_RESERVATION),
        }
    }

    pub(super) fn claim_timed_out(&mut self, now: Instant, open: OpenId) {
        if let Some(opening) = self.openings.remove(&open) {
            self.give_up(now, &opening, Refusal::Capacity("another worker did not hand over what it holds"));
        }
    }

    /// The client went away before its socket came.
    pub(super) fn abandon(&mut self, open: OpenId) {
        let Some(opening) = self.openings.get_mut(&open) else { return };
        self.seats.remove(&opening.asker.from.key());
        match opening.source {
            // The port is known here only, so the opening stays until the driver has answered; an allocation may be on its way.
            Source::Bind { .. } | Source::Summon { .. } => opening.abandoned = true,
            Source::Claim { until } => {
                self.deadlines.cancel(until, Timer::Claim(open));
                self.openings.remove(&open);
            }
        }
    }

    pub(super) fn give_up(&mut self, now: Instant, opening: &Opening, refusal: Refusal) {
        self.dismiss(&opening.asker, opening.places);
        if !opening.abandoned {
            self.seats.remove(&opening.asker.from.key());
            self.refuse(now, &opening.asker, refusal, &[]);
        }
    }

    /// Of what was counted for an opening, so much was for nothing.
    fn dismiss(&self, asker: &Asker, places: u32) {
        self.shared.dismiss(holder(&asker.username), asker.subscriber(), places);
    }

    /// The allocation stands from here on, over the relayed addresses of the opening.
    pub(super) fn establish(&mut self, now: Instant, opening: Opening, token: Option<u64>) {
        let Opening { asker, lifetime, mut relayed, lacking, protocol, mobile, .. } = opening;
        let lifetime = asker.at_most(now, lifetime);
        relayed.renew(&relayed.clone(), now + lifetime);
        let mut addresses =
            relayed.iter().map(|relayed| self.peers.outward(PeerAddr((relayed.ip, relayed.port.0).into())).0);
        let (Some(first), additional) = (addresses.next(), addresses.next()) else {
            debug_assert!(false, "an allocation without a relayed address");
            return;
        };
        drop(addresses);
        let (from, username, key) = (asker.from, asker.username.clone(), asker.key.clone());
        let id = AllocationId(self.rng.random());
        let counted_for = asker.subscriber();
        for relayed in relayed.iter() {
            self.shared.set_live(relayed.ip, relayed.port, protocol, counted_for);
        }
        let user = self.rates.enter(holder(&username), self.shared.budget(holder(&username)));
        let advertised = (first, additional);
        let until = asker.until;
        let parts =
            Parts { id, from, username, key, relayed, advertised, user, counted_for, until, protocol };
        let index = self.allocations.insert(Allocation::new(now, parts));
        self.seats.insert(from.key(), Seat::Allocation(index));
        self.ids.insert(id, index);
        self.schedule(index);
        for relayed in relayed.iter() {
            self.set_relayed(relayed.slot, Some(index));
        }
        let mut attributes = vec![Attribute::XorRelayedAddress(first)];
        attributes.extend(additional.map(Attribute::XorRelayedAddress));
        attributes.push(Attribute::Lifetime(seconds(lifetime)));
        attributes.push(Attribute::XorMappedAddress(from.client.0));
        attributes.extend(token.map(Attribute::ReservationToken));
        attributes.extend(lacking.map(|(family, why)| Attribute::AddressErrorCode {
            ipv4: family == Family::V4,
            code: why.code(),
            phrase: why.phrase(),
        }));
        let ticket = mobile.then(|| self.issue_ticket(index));
        attributes.extend(ticket.as_ref().map(|ticket| Attribute::MobilityTicket(ticket.as_bytes())));
        self.succeed(now, &asker, &attributes);
        self.outputs.push(Output::Event(Event::AllocationStarted {
            id,
            client: from,
            username: asker.username,
            relayed: first,
            lifetime,
            additional,
        }));
    }
}

pub(super) const NO_RESERVATION: Refusal = Refusal::Capacity("no such reservation");
