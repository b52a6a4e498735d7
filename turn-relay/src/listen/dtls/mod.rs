//! DTLS clients of one worker (RFC 7350), on the same UDP ports as everybody else: RFC 7983 tells them by their first byte.
//!
//! No session without a cookie: a first ClientHello costs an HMAC and an answer smaller than itself. Sessions are bounded in
//! number, in number per client address, and in patience, exactly like connections. What is not a session's and not a
//! ClientHello is forgotten. Sends nothing itself: [`Sessions::poll`] says what must be sent or worked off.

pub(crate) mod cookie;
pub(crate) mod offer;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Dtls, Output};
use foldhash::fast::RandomState;
use slab::Slab;

use super::admission::{Admission, Place};
use super::stream::{IDLE, Refused};
use crate::address::{ClientAddr, FiveTuple, Transport};
use crate::frame::TransactionId;
use cookie::{CHALLENGE_BYTES, ClientHello, Cookies};

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Send this back, if its prefix may have it, and keep nothing. A client that repeats itself makes the same attempt.
    Challenge([u8; CHALLENGE_BYTES], TransactionId),
    /// It belongs to this session: ask [`Sessions::poll`] what follows.
    Session(usize),
    /// A session begins, in place of the one that the client had before, if it had one.
    Begins { slot: usize, instead_of: Option<usize> },
    /// No room for another session: of this address, or at all.
    Full,
    /// The session failed and must be removed.
    Broken(usize),
    /// Nobody's.
    Nothing,
}

/// What a session wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Send this many bytes of the buffer to the client.
    Sent(usize),
    /// This many bytes of the buffer are a frame from the client.
    Heard(usize),
    /// The client closed: remove the session.
    Removed,
    /// Nothing more for now.
    Nothing,
}

/// The DTLS sessions of one worker.
#[derive(Debug)]
pub(crate) struct Sessions {
    admission: Arc<Admission>,
    cookies: Cookies,
    slab: Slab<Session>,
    by_ends: HashMap<(SocketAddr, SocketAddr), usize, RandomState>,
    /// When to look at a session again; entries that are no longer the session's next are skipped.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    next_serial: u64,
}

struct Session {
    dtls: Dtls,
    client: SocketAddr,
    server: SocketAddr,
    serial: u64,
    _place: Place,
    phase: Phase,
    /// When it began, or its allocation ended.
    since: Instant,
    first_message: Duration,
    /// When the library wants to be woken.
    wake: Option<Instant>,
    /// The entry of `due` that counts.
    looked_at: Instant,
    /// Frames that were sent since everything was polled.
    unsent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The handshake is under way.
    Handshaking,
    /// No frame has come yet.
    Silent,
    /// It has spoken, but holds no allocation.
    Idle,
    /// It holds an allocation, whose own lifetime bounds it.
    Allocated,
}

impl Sessions {
    /// `epoch` is any instant not after the first datagram; `key` is what cookies are sealed with.
    pub(crate) fn new(admission: Arc<Admission>, epoch: Instant, key: [u8; 32]) -> Self {
        Self {
            admission,
            cookies: Cookies::new(epoch, key),
            slab: Slab::new(),
            by_ends: HashMap::default(),
            due: BinaryHeap::new(),
            next_serial: 0,
        }
    }

    /// Whether a datagram is for here (RFC 7983 section 7).
    pub(crate) fn is_for(datagram: &[u8]) -> bool {
        matches!(datagram.first(), Some(20..=63))
    }

    /// Takes a datagram from `client` to `server`.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        client: SocketAddr,
        server: SocketAddr,
        datagram: &[u8],
    ) -> Heard {
        let known = self.by_ends.get(&(client, server)).copied();
        let Some(hello) = ClientHello::parse(datagram) else {
            return known.map_or(Heard::Nothing, |slot| self.continues(now, slot, datagram));
        };
        let Some(cookie) = self.cookies.verified(now, (client, server), &hello) else {
            // Also in the middle of a session: anybody can write this address on an envelope (RFC 6347 section 4.2.8).
            return match self.admission.certificates().dtls() {
                Some(_) => {
                    Heard::Challenge(self.cookies.challenge(now, (client, server), &hello), hello.attempt())
                }
                None => Heard::Nothing,
            };
        };
        match known.filter(|slot| self.is_handshaking(*slot)) {
            Some(slot) => self.continues(now, slot, datagram),
            None => self.begin(now, (client, server), &hello, datagram, cookie),
        }
    }

    fn continues(&mut self, now: Instant, slot: usize, datagram: &[u8]) -> Heard {
        let Some(session) = self.slab.get_mut(slot) else { return Heard::Nothing };
        // Once everything is encrypted, what is not is nobody's: it must not be able to break the session.
        if session.phase != Phase::Handshaking && datagram.get(3..5) == Some(&[0, 0]) {
            return Heard::Nothing;
        }
        let taken = session.dtls.handle_timeout(now).and_then(|()| session.dtls.handle_packet(datagram));
        match taken {
            Ok(()) => Heard::Session(slot),
            Err(error) => {
                tracing::debug!("a DTLS session failed: {error}");
                Heard::Broken(slot)
            }
        }
    }

    fn begin(
        &mut self,
        now: Instant,
        ends: (SocketAddr, SocketAddr),
        hello: &ClientHello<'_>,
        datagram: &[u8],
        cookie: cookie::Cookie,
    ) -> Heard {
        let Some(offer) = self.admission.certificates().dtls() else { return Heard::Nothing };
        if self.slab.len() >= MAX_SESSIONS {
            return Heard::Full;
        }
        let Some(place) = self.admission.admit(ends.0.ip()) else { return Heard::Full };
        let mut dtls = offer.begin(now);
        // The library has to have seen the first ClientHello and to have answered it, or it counts messages otherwise than the
        // client does. What it answers was answered already, by the challenge.
        let began = offer::expect_cookie(cookie, || {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(&hello.without_cookie())?;
            let mut unneeded = [0; 2048];
            while let Output::Packet(_) = dtls.poll_output(&mut unneeded) {}
            dtls.handle_packet(datagram)
        });
        if let Err(error) = began {
            tracing::debug!("a DTLS handshake failed: {error}");
            return Heard::Nothing;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let first_message = self.admission.rules().first_message;
        let looked_at = now + first_message;
        let slot = self.slab.insert(Session {
            dtls,
            client: ends.0,
            server: ends.1,
            serial,
            _place: place,
            phase: Phase::Handshaking,
            since: now,
            first_message,
            wake: None,
            looked_at,
            unsent: 0,
        });
        self.due.push(Reverse((looked_at, slot, serial)));
        let instead_of = self.by_ends.insert(ends, slot);
        Heard::Begins { slot, instead_of }
    }

    /// What the session wants done next; `buffer` has room for the largest datagram.
    pub(crate) fn poll(&mut self, slot: usize, buffer: &mut [u8]) -> Wants {
        let Some(session) = self.slab.get_mut(slot) else { return Wants::Nothing };
        loop {
            match session.dtls.poll_output(buffer) {
                Output::Packet(bytes) => return Wants::Sent(bytes.len()),
                Output::ApplicationData(bytes) => {
                    let len = bytes.len();
                    if session.phase == Phase::Silent {
                        session.phase = Phase::Idle;
                    }
                    return Wants::Heard(len);
                }
                Output::Connected => session.phase = Phase::Silent,
                Output::CloseNotify => return Wants::Removed,
                Output::Timeout(at) => {
                    session.unsent = 0;
                    session.wake = Some(at);
                    break;
                }
                // No record is larger than the datagram that it came in or goes out in.
                Output::BufferTooSmall { .. } => return Wants::Removed,
                Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => {}
            }
        }
        let next = session.next_look();
        if next < session.looked_at {
            session.looked_at = next;
            self.due.push(Reverse((next, slot, session.serial)));
        }
        Wants::Nothing
    }

    /// Encrypts one frame; [`Sessions::poll`] then gives it out.
    pub(crate) fn send(&mut self, slot: usize, frame: &[u8]) -> Result<(), Refused> {
        let session = self.slab.get_mut(slot).ok_or(Refused::Gone)?;
        if frame.len() > MAX_RECORD || session.unsent >= MAX_UNSENT {
            return Err(Refused::Full);
        }
        session.unsent += 1;
        session.dtls.send_application_data(frame).map(drop).map_err(|_| Refused::Broken)
    }

    /// Lets the client know; [`Sessions::poll`] then gives out the last datagram.
    pub(crate) fn close(&mut self, slot: usize) {
        if let Some(session) = self.slab.get_mut(slot) {
            let _ = session.dtls.close();
        }
    }

    /// Forgets a session.
    pub(crate) fn remove(&mut self, slot: usize) -> Option<FiveTuple> {
        let session = self.slab.try_remove(slot)?;
        let ends = (session.client, session.server);
        if self.by_ends.get(&ends) == Some(&slot) {
            self.by_ends.remove(&ends);
        }
        Some(session.tuple())
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.slab.len()
    }

    /// Where each session's client sends to.
    pub(crate) fn servers(&self) -> impl Iterator<Item = SocketAddr> {
        self.slab.iter().map(|(_, session)| session.server)
    }

    pub(crate) fn slot_of(&self, tuple: &FiveTuple) -> Option<usize> {
        let is_ours = tuple.transport == Transport::Dtls;
        self.by_ends.get(&(tuple.client.0, tuple.server)).copied().filter(|_| is_ours)
    }

    pub(crate) fn tuple_of(&self, slot: usize) -> Option<FiveTuple> {
        self.slab.get(slot).map(Session::tuple)
    }

    pub(crate) fn is_handshaking(&self, slot: usize) -> bool {
        self.slab.get(slot).is_some_and(|session| session.phase == Phase::Handshaking)
    }

    /// An allocation bounds the session from now on, or no longer does.
    pub(crate) fn set_allocated(&mut self, now: Instant, tuple: &FiveTuple, allocated: bool) {
        let Some(session) = self.slot_of(tuple).and_then(|slot| self.slab.get_mut(slot)) else { return };
        session.phase = if allocated { Phase::Allocated } else { Phase::Idle };
        session.since = now;
    }

    /// When [`Sessions::overdue`] may find something, at the earliest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// The next session that has to be looked at: `Broken` for one whose patience is used up, otherwise one to be polled.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<Heard> {
        while let Some(&Reverse((at, slot, serial))) = self.due.peek() {
            if at > now {
                return None;
            }
            self.due.pop();
            let current =
                self.slab.get_mut(slot).filter(|session| session.serial == serial && session.looked_at == at);
            let Some(session) = current else { continue };
            if session.patience().is_some_and(|until| until <= now) {
                return Some(Heard::Broken(slot));
            }
            let woken = session.wake.take().is_some_and(|wake| wake <= now);
            let failed = woken && session.dtls.handle_timeout(now).is_err();
            session.looked_at = session.next_look().max(now + PAUSE);
            self.due.push(Reverse((session.looked_at, slot, serial)));
            if failed {
                return Some(Heard::Broken(slot));
            }
            if woken {
                return Some(Heard::Session(slot));
            }
        }
        None
    }
}

impl Session {
    fn tuple(&self) -> FiveTuple {
        FiveTuple { transport: Transport::Dtls, client: ClientAddr(self.client), server: self.server }
    }

    /// Until when it may go on as it is; an allocation bounds itself.
    fn patience(&self) -> Option<Instant> {
        match self.phase {
            Phase::Handshaking | Phase::Silent => Some(self.since + self.first_message),
            Phase::Idle => Some(self.since + IDLE),
            Phase::Allocated => None,
        }
    }

    fn next_look(&self) -> Instant {
        let rarely = self.since.max(self.looked_at) + IDLE;
        [self.patience(), self.wake].into_iter().flatten().min().unwrap_or(rarely)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// Per worker; see the same bound of connections. They need no descriptor, but a session holds some KiB of keys and buffers.
const MAX_SESSIONS: usize = 16_384;
/// Frames that wait while a datagram is worked off; each may need a datagram of its own.
const MAX_UNSENT: usize = offer::MAX_QUEUED_DATAGRAMS - 8;
/// RFC 6347 section 4.1: what a record may hold.
const MAX_RECORD: usize = 1 << 14;
/// The library's timers are checked no more often than this.
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests;
