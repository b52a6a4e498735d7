//! Mobility (RFC 8016): a client whose address changed takes its allocation along, with a ticket.
//!
//! ```text
//! base64url(worker, 2 bytes | allocation, 8 | serial, 4 | HMAC-SHA256 of these, first 10 bytes)
//! ```
//!
//! It is text of 32 bytes because coturn's client keeps no more and reads it as a string; that leaves 80 bits for the tag,
//! which can be guessed at with an account only. A ticket opens nothing by itself: the request must be signed by the user
//! of the allocation. The serial begins at random and goes up, and the allocation knows the one that is good, so that a
//! ticket moves an allocation once; the lost answer of a move is given again from the stored answers. A move makes no second allocation anywhere: every count goes along unchanged.
//!
//! At one worker the old five-tuple serves until data, or another request, comes from the new one (RFC 8016 section 3.2.2). Between workers the
//! allocation moves with its sockets at once, and what still comes from the old five-tuple is dropped.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::Rng as _;
use sha2::Sha256;

use super::allocation::Allocation;
use super::allocation_id::AllocationId;
use super::contract::{ClaimedSocket, DropReason, EndReason, Event, OpenId, Output, SocketSlot, WorkerIndex};
use super::deadlines::Timer;
use super::nonce::derive;
use super::opening::{Opening, Source};
use super::refresh::seconds;
use super::refusal::Refusal;
use super::relayed::RelayedSet;
use super::requests::Asker;
use super::{Relay, Seat};
use crate::address::FiveTuple;
use crate::credentials::holder;
use crate::stun::{Attribute, Refresh};

const NAMED_BYTES: usize = 14;
const TAG_BYTES: usize = 10;
/// How long another worker may take to hand over an allocation; it needs microseconds.
const SUMMON_PATIENCE: Duration = Duration::from_secs(2);

/// RFC 8016 section 3.2.2: a used ticket is recognised in a repeated request for at least 30 s.
const REPEATABLE: Duration = Duration::from_secs(30);

const NOT_MOVED: Refusal = Refusal::ClientMalformed("a mobility ticket on the five-tuple of an allocation");
const NO_TICKET: Refusal = Refusal::ClientMalformed("the mobility ticket is not good, or not any more");

/// What a worker asks of the one where an allocation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summons {
    /// Who asks; the answer goes there.
    pub by: WorkerIndex,
    /// The asking worker's name for the request.
    pub open: OpenId,
    /// Which allocation.
    pub id: AllocationId,
    /// What the ticket says.
    pub serial: u32,
    /// An allocation moves for its own user.
    pub username: Box<str>,
}

/// Why an allocation does not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMoved {
    /// It is over, or the ticket was used.
    NoTicket,
    /// It is another user's.
    OtherUser,
    /// The other worker could not be asked or could not hand it over.
    Lost,
}

/// An allocation on its way between workers. Whoever holds it must give it to a core.
#[derive(Debug)]
pub struct Moving {
    allocation: Box<Allocation>,
    stood_at: WorkerIndex,
}

impl Moving {
    /// Takes every socket along: `exchange` gives the slot at the new worker for the slot at the old one. `None`: that socket is
    /// lost, its port with it, and the core gives back what it counted for.
    pub fn exchange(&mut self, mut exchange: impl FnMut(SocketSlot) -> Option<SocketSlot>) {
        self.allocation.relayed.replace_slots(&mut exchange);
    }

    /// Its sockets.
    pub fn sockets(&self) -> impl Iterator<Item = ClaimedSocket> {
        self.allocation.relayed.iter().map(|relayed| ClaimedSocket {
            slot: relayed.slot,
            ip: relayed.ip,
            port: relayed.port,
        })
    }
}

/// Seals and opens tickets; all workers of a server alike.
#[derive(Debug)]
pub(super) struct Tickets(Hmac<Sha256>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket {
    worker: WorkerIndex,
    id: AllocationId,
    serial: u32,
}

impl Tickets {
    pub(super) fn new(master: &[u8; 32]) -> Self {
        let key = derive(master, b"mobility", 0);
        Self(Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"))
    }

    fn seal(&self, ticket: Ticket) -> String {
        let mut sealed = [0; NAMED_BYTES + TAG_BYTES];
        let (named, tag) = sealed.split_at_mut(NAMED_BYTES);
        named[..2].copy_from_slice(&ticket.worker.0.to_be_bytes());
        named[2..10].copy_from_slice(&ticket.id.0.to_be_bytes());
        named[10..].copy_from_slice(&ticket.serial.to_be_bytes());
        let full = self.0.clone().chain_update(&*named).finalize().into_bytes();
        tag.copy_from_slice(&full[..TAG_BYTES]);
        URL_SAFE_NO_PAD.encode(sealed)
    }

    fn open(&self, text: &[u8]) -> Option<Ticket> {
        let mut sealed = [0; NAMED_BYTES + TAG_BYTES];
        if URL_SAFE_NO_PAD.decode_slice(text, &mut sealed) != Ok(sealed.len()) {
            return None;
        }
        let (worker, rest) = sealed.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (serial, _) = rest.split_first_chunk()?;
        let ticket = Ticket {
            worker: WorkerIndex(u16::from_be_bytes(*worker)),
            id: AllocationId(u64::from_be_bytes(*id)),
            serial: u32::from_be_bytes(*serial),
        };
        bool::from(subtle::ConstantTimeEq::ct_eq(self.seal(ticket).as_bytes(), text)).then_some(ticket)
    }
}

impl Relay {
    /// Whether a client may ask for mobility: 405 where the operator does not want it.
    pub(super) fn may_move(&self) -> Result<(), Refusal> {
        if self.settings.mobility { Ok(()) } else { Err(Refusal::MobilityForbidden) }
    }

    /// A new ticket for an allocation; the one before it is worth nothing any more.
    pub(super) fn issue_ticket(&mut self, index: usize) -> String {
        let allocation = &mut self.allocations[index];
        let serial = allocation.ticket.map_or_else(|| self.rng.next_u32(), |last| last.wrapping_add(1));
        allocation.ticket = Some(serial);
        self.tickets.seal(Ticket { worker: self.worker, id: allocation.id, serial })
    }

    /// Refresh with MOBILITY-TICKET (RFC 8016 section 3.2.2).
    pub(super) fn refresh_moved(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &Refresh,
        ticket: &[u8],
    ) -> Result<(), Refusal> {
        self.may_move()?;
        if self.opening_of(&asker.from).is_some_and(|opening| opening.is_for(asker)) {
            self.dropped(DropReason::InProgress);
            return Ok(());
        }
        if self.seats.contains_key(&asker.from.key()) {
            return self.refresh_repeated(now, asker, request, ticket);
        }
        let ticket = self.tickets.open(ticket).ok_or(NO_TICKET)?;
        if ticket.worker == self.worker {
            let index =
                self.ticket_holder(now, ticket.id, ticket.serial, &asker.username).map_err(refusal)?;
            return self.move_here(now, index, asker, request);
        }
        let until = now + SUMMON_PATIENCE;
        let open = self.begin(Opening {
            refresh: Some(request.clone()),
            ..Opening::new(asker, Duration::ZERO, Source::Summon { until })
        });
        self.deadlines.set(until, Timer::Claim(open));
        let Ticket { worker, id, serial } = ticket;
        let summons = Summons { by: self.worker, open, id, serial, username: asker.username.clone() };
        self.outputs.push(Output::SummonAt { at: worker, summons });
        Ok(())
    }

    /// A ticket on the five-tuple of an allocation is wrong, unless it is the one that led there a moment ago: its answer may have
    /// been lost, or the client asks twice. Then it is a Refresh, and the answer has the same next ticket.
    fn refresh_repeated(
        &mut self,
        now: Instant,
        asker: &Asker,
        request: &Refresh,
        ticket: &[u8],
    ) -> Result<(), Refusal> {
        let index = self.own_allocation(now, asker)?;
        let Allocation { id, ticket: serial, moved_at, seen_at, .. } = self.allocations[index];
        let (Some(serial), Some(moved_at)) = (serial, moved_at) else { return Err(NOT_MOVED) };
        let used = self.tickets.open(ticket).ok_or(NO_TICKET)?;
        let led_here = used.id == id && used.serial == serial.wrapping_sub(1) && seen_at == asker.from;
        if !led_here || now >= moved_at + REPEATABLE {
            return Err(NOT_MOVED);
        }
        let named = self.allocations[index].relayed.of(request.family);
        if named.places() == 0 {
            return Err(Refusal::PeerFamilyMismatch);
        }
        if request.lifetime == Some(0) {
            self.succeed(now, asker, &[Attribute::Lifetime(0)]);
            self.give_back(now, index, &named, EndReason::Released);
            return Ok(());
        }
        let lifetime = self.lifetime(now, asker, request.lifetime);
        self.reschedule(index, |relayed| relayed.renew(&named, now + lifetime));
        let next = self.tickets.seal(Ticket { worker: self.worker, id, serial });
        let answer = [Attribute::Lifetime(seconds(lifetime)), Attribute::MobilityTicket(next.as_bytes())];
        self.succeed(now, asker, &answer);
        Ok(())
    }

    fn ticket_holder(
        &self,
        now: Instant,
        id: AllocationId,
        serial: u32,
        username: &str,
    ) -> Result<usize, NotMoved> {
        let index = *self.ids.get(&id).ok_or(NotMoved::NoTicket)?;
        let allocation = &self.allocations[index];
        if !allocation.stands(now) || allocation.ticket != Some(serial) {
            return Err(NotMoved::NoTicket);
        }
        if *allocation.username == *username { Ok(index) } else { Err(NotMoved::OtherUser) }
    }

    /// The allocation stands here: from now on on both five-tuples, until data comes from the new one.
    fn move_here(
        &mut self,
        now: Instant,
        index: usize,
        asker: &Asker,
        request: &Refresh,
    ) -> Result<(), Refusal> {
        if self.allocations[index].relayed.of(request.family).places() == 0 {
            return Err(Refusal::PeerFamilyMismatch);
        }
        // A new five-tuple that never spoke makes room for the next.
        if let Some(unused) = self.allocations[index].next.replace(asker.from) {
            self.vacate(&unused, index);
        }
        self.seats.insert(asker.from.key(), Seat::Allocation(index));
        let allocation = &self.allocations[index];
        // Who has no way back to the client any more sends on the new one at once.
        if self.seats.get(&allocation.from.key()) != Some(&Seat::Allocation(index)) {
            self.settle_in(index);
        }
        self.moved(now, index, asker, request);
        Ok(())
    }

    /// Answers a move: what Refresh does, and the next ticket.
    fn moved(&mut self, now: Instant, index: usize, asker: &Asker, request: &Refresh) {
        let allocation = &self.allocations[index];
        let (relayed, additional) = allocation.advertised;
        let (id, old) = (allocation.id, allocation.seen_at);
        self.allocations[index].seen_at = asker.from;
        self.allocations[index].moved_at = Some(now);
        self.outputs.push(Output::Event(Event::AllocationMoved {
            id,
            from: old,
            to: asker.from,
            relayed,
            additional,
        }));
        let named = self.allocations[index].relayed.of(request.family);
        if request.lifetime == Some(0) {
            self.succeed(now, asker, &[Attribute::Lifetime(0)]);
            return self.give_back(now, index, &named, EndReason::Released);
        }
        let lifetime = self.lifetime(now, asker, request.lifetime);
        self.reschedule(index, |relayed| relayed.renew(&named, now + lifetime));
        let ticket = self.issue_ticket(index);
        self.succeed(
            now,
            asker,
            &[Attribute::Lifetime(seconds(lifetime)), Attribute::MobilityTicket(ticket.as_bytes())],
        );
    }

    /// The client used a five-tuple of the allocation: if it is the new one, the old one is over.
    pub(super) fn settle_in_from(&mut self, index: usize, from: &FiveTuple) {
        if self.allocations[index].next.is_some_and(|next| next == *from) {
            self.settle_in(index);
        }
    }

    fn settle_in(&mut self, index: usize) {
        let allocation = &mut self.allocations[index];
        if let Some(next) = allocation.next.take() {
            let old = std::mem::replace(&mut allocation.from, next);
            self.vacate(&old, index);
            self.touch(index);
        }
    }

    /// Takes a five-tuple from an allocation, if it is its; says whether it was.
    pub(super) fn vacate(&mut self, tuple: &FiveTuple, index: usize) -> bool {
        let taken = self.seats.get(&tuple.key()) == Some(&Seat::Allocation(index));
        if taken {
            self.seats.remove(&tuple.key());
        }
        taken
    }

    /// The connection of a client that holds a ticket is gone: the allocation waits for it until its lifetime is over. Whether
    /// it does.
    pub(super) fn waits_for_its_client(&mut self, index: usize, gone: &FiveTuple) -> bool {
        let allocation = &mut self.allocations[index];
        if allocation.ticket.is_none() {
            return false;
        }
        if allocation.next.as_ref() == Some(gone) {
            allocation.next = None;
            self.vacate(gone, index);
            self.touch(index);
        } else {
            self.vacate(gone, index);
            self.settle_in(index);
        }
        true
    }

    /// Another worker wants an allocation that stands here.
    pub(super) fn summon(&mut self, now: Instant, summons: Summons) {
        let Summons { by: to, open, id, serial, username } = summons;
        let index = match self.ticket_holder(now, id, serial, &username) {
            Ok(index) => index,
            Err(why) => return self.outputs.push(Output::DenySummons { to, open, why }),
        };
        self.unschedule(index);
        self.touch(index);
        let allocation = self.allocations.remove(index);
        self.ids.remove(&id);
        for tuple in [Some(allocation.from), allocation.next].into_iter().flatten() {
            // Over TCP nobody can speak there any more.
            if self.vacate(&tuple, index) && tuple.transport.is_connected() {
                self.outputs.push(Output::Disconnect(tuple));
            }
        }
        for relayed in allocation.relayed.iter() {
            self.set_relayed(relayed.slot, None);
        }
        self.rates.leave(allocation.user);
        self.outputs.push(Output::HandOver {
            to,
            open,
            moving: Moving { allocation: Box::new(allocation), stood_at: self.worker },
        });
    }

    /// The answer of the other worker.
    pub(super) fn summoned(&mut self, now: Instant, open: OpenId, outcome: Result<Moving, NotMoved>) {
        let opening = self.openings.remove(&open);
        if let Some(Opening { source: Source::Summon { until }, .. }) = &opening {
            self.deadlines.cancel(*until, Timer::Claim(open));
        }
        match (outcome, opening) {
            (Ok(moving), Some(Opening { asker, refresh: Some(request), abandoned: false, .. })) => {
                self.seats.remove(&asker.from.key());
                let index = self.take_in(now, moving, asker.from);
                let Some(index) = index else {
                    return self.refuse(
                        now,
                        &asker,
                        Refusal::Capacity("the sockets were lost on the way"),
                        &[],
                    );
                };
                if self.allocations[index].relayed.of(request.family).places() == 0 {
                    let named = Refresh { family: None, ..request };
                    return self.moved(now, index, &asker, &named);
                }
                self.moved(now, index, &asker, &request);
            }
            // It comes back because the other worker could not be reached, or nobody waits for it any more.
            (Ok(moving), _) => {
                let (from, stood_here) = (moving.allocation.from, moving.stood_at == self.worker);
                let Some(index) = self.take_in(now, moving, from) else { return };
                if !stood_here {
                    self.unschedule(index);
                    self.end(now, index, EndReason::Expired);
                }
            }
            (Err(why), Some(opening)) => self.give_up(now, &opening, refusal(why)),
            (Err(_), None) => {}
        }
    }

    /// Puts an allocation that came from another worker into this one, on a five-tuple that is free. `None`: it has no socket left.
    fn take_in(&mut self, now: Instant, moving: Moving, from: FiveTuple) -> Option<usize> {
        let mut allocation = *moving.allocation;
        // A reload may have come to this worker first.
        allocation.review(|ip| self.peers.reach(ip));
        let holder = holder(&allocation.username);
        let lost = allocation.relayed.take_lost();
        self.shared.dismiss(holder, allocation.counted_for, lost);
        if allocation.relayed.places() == 0 {
            let (relayed, additional) = allocation.advertised;
            self.outputs.push(Output::Event(Event::AllocationEnded {
                id: allocation.id,
                client: allocation.seen_at,
                relayed,
                username: allocation.username,
                reason: EndReason::Expired,
                duration: now.saturating_duration_since(allocation.started),
                traffic: allocation.traffic,
                additional,
            }));
            return None;
        }
        allocation.user = self.rates.enter(holder, self.shared.budget(holder));
        (allocation.from, allocation.next) = (from, None);
        let (id, relayed): (AllocationId, RelayedSet) = (allocation.id, allocation.relayed);
        let index = self.allocations.insert(allocation);
        self.seats.entry(from.key()).or_insert(Seat::Allocation(index));
        self.ids.insert(id, index);
        for relayed in relayed.iter() {
            self.set_relayed(relayed.slot, Some(index));
        }
        self.schedule(index);
        self.touch(index);
        Some(index)
    }
}

fn refusal(why: NotMoved) -> Refusal {
    match why {
        NotMoved::NoTicket => NO_TICKET,
        NotMoved::OtherUser => Refusal::WrongCredentials,
        NotMoved::Lost => Refusal::Capacity("another worker did not hand over the allocation"),
    }
}
