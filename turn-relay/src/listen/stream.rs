//! TCP and TLS clients of one worker: a bounded number of connections, each with bounded memory and bounded patience.
//!
//! Knows frames only as far as `frame::split` tells where one ends. A connection that speaks something else, that does not
//! speak at all, or that does not read what it was asked to be sent, is closed. One without an allocation, which is to say
//! of somebody who has proved nothing, gets a few KiB and a minute.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mio::net::TcpStream;
use slab::Slab;

use super::admission::{Admission, Place};
use super::wire::{Came, Wire};
use crate::address::{ClientAddr, FiveTuple, Transport};
use crate::frame::{MAX_FRAME_BYTES, Split, split};
use crate::stun::MAX_REQUEST_BYTES;

/// Why bytes for a client were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No such connection.
    Gone,
    /// What waits already is all that may wait.
    Full,
    /// The connection failed; it must be closed.
    Broken,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// This many bytes are at the front of the buffer, those left from before included.
    Bytes(usize),
    /// Nothing yet, but there may be more: ask again. It costs as much as a read.
    Again,
    /// Nothing now.
    Nothing,
    /// The client closed, or the connection failed, or speaks something else.
    Closed,
    /// A proxy spoke for a client that has all the connections it may have, or that is here with the same port by another way.
    Refused,
    /// A proxy spoke for a client whose connection in this slot is gone at its own end: close that one, then ask again.
    Replaces(usize),
    /// A proxy did not say whom it speaks for.
    Unintroduced,
}

/// The TCP and TLS clients of one worker.
#[derive(Debug)]
pub(crate) struct Connections {
    admission: Arc<Admission>,
    slab: Slab<Connection>,
    by_tuple: HashMap<FiveTuple, usize, RandomState>,
    /// When to look at a connection again: one entry each, and a second one while closing. Stale ones are told by `serial`.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    next_serial: u64,
}

#[derive(Debug)]
struct Connection {
    wire: Wire,
    tuple: FiveTuple,
    serial: u64,
    /// `None` while a proxy has not said whom it speaks for: then only [`MAX_CONNECTIONS`] and its first deadline bound it.
    place: Option<Place>,
    first_message: Duration,
    /// Frames that the last turn had no budget for, and then the beginning of one that is not complete yet.
    unread: Vec<u8>,
    phase: Phase,
    /// When the connection came, its allocation ended, or its closing began.
    since: Instant,
}

/// A connection that has left its worker's care, with all that belongs to it: for another worker, or to be joined with a peer's.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) wire: Wire,
    pub(crate) tuple: FiveTuple,
    /// What was read and not worked off.
    pub(crate) unread: Vec<u8>,
    place: Option<Place>,
    first_message: Duration,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No whole frame has come yet.
    Silent,
    /// It has spoken, but holds no allocation.
    Idle,
    /// It holds an allocation, whose own lifetime bounds it.
    Allocated,
    /// To be closed as soon as everything is sent.
    Closing,
}

impl Connections {
    pub(crate) fn new(admission: Arc<Admission>) -> Self {
        Self {
            admission,
            slab: Slab::new(),
            by_tuple: HashMap::default(),
            due: BinaryHeap::new(),
            next_serial: 0,
        }
    }

    /// Takes an accepted connection, unless it is one too many of its address or of all. No other connection may be on its
    /// five-tuple: the caller closes such a one first.
    pub(crate) fn insert(&mut self, now: Instant, stream: TcpStream, tuple: FiveTuple) -> Option<usize> {
        if self.slab.len() >= MAX_CONNECTIONS {
            return None;
        }
        let rules = self.admission.rules();
        let proxied = rules.is_proxy(tuple.client.0.ip());
        let place = if proxied { None } else { Some(self.admission.admit(tuple.client.0.ip())?) };
        let first_message = rules.first_message;
        // A relay delays nothing on purpose; media over TCP suffers enough.
        let _ = stream.set_nodelay(true);
        let serial = self.next_serial;
        self.next_serial += 1;
        let tls = self.admission.certificates().current();
        let slot = self.slab.insert(Connection {
            wire: if proxied { Wire::behind_proxy(stream, tls) } else { Wire::new(stream, tls) },
            tuple,
            serial,
            place,
            first_message,
            unread: Vec::new(),
            phase: Phase::Silent,
            since: now,
        });
        self.by_tuple.insert(tuple, slot);
        self.due.push(Reverse((now + first_message, slot, serial)));
        Some(slot)
    }

    /// Forgets and closes a connection.
    pub(crate) fn remove(&mut self, slot: usize) -> Option<FiveTuple> {
        let mut connection = self.slab.try_remove(slot)?;
        connection.wire.close();
        if self.by_tuple.get(&connection.tuple) == Some(&slot) {
            self.by_tuple.remove(&connection.tuple);
        }
        Some(connection.tuple)
    }

    /// Hands a connection out. It goes on counting for its client's address.
    pub(crate) fn take(&mut self, slot: usize) -> Option<Detached> {
        let connection = self.slab.try_remove(slot)?;
        if self.by_tuple.get(&connection.tuple) == Some(&slot) {
            self.by_tuple.remove(&connection.tuple);
        }
        let Connection { wire, tuple, unread, place, first_message, since, .. } = connection;
        Some(Detached { wire, tuple, unread, place, first_message, since })
    }

    /// Takes a connection that another worker handed out; it has spoken, and holds no allocation. Its minute goes on.
    pub(crate) fn adopt(&mut self, detached: Detached) -> Option<usize> {
        if self.slab.len() >= MAX_CONNECTIONS {
            return None;
        }
        let Detached { wire, tuple, unread, place, first_message, since } = detached;
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.slab.insert(Connection {
            wire,
            tuple,
            serial,
            place,
            first_message,
            unread,
            phase: Phase::Idle,
            since,
        });
        self.by_tuple.insert(tuple, slot);
        self.due.push(Reverse((since + IDLE, slot, serial)));
        Some(slot)
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.slab.len()
    }

    /// The connection is TLS and its handshake is not complete.
    pub(crate) fn is_handshaking(&self, slot: usize) -> bool {
        self.slab.get(slot).is_some_and(|connection| connection.wire.is_handshaking())
    }

    pub(crate) fn slot_of(&self, tuple: &FiveTuple) -> Option<usize> {
        self.by_tuple.get(tuple).copied()
    }

    pub(crate) fn tuple_of(&self, slot: usize) -> Option<FiveTuple> {
        self.slab.get(slot).map(|connection| connection.tuple)
    }

    pub(crate) fn stream_mut(&mut self, slot: usize) -> Option<&mut TcpStream> {
        self.slab.get_mut(slot).map(|connection| connection.wire.stream_mut())
    }

    /// The longest frame that the connection may send.
    pub(crate) fn longest_frame(&self, slot: usize) -> usize {
        match self.slab.get(slot).map(|connection| connection.phase) {
            Some(Phase::Allocated) => MAX_FRAME_BYTES,
            _ => MAX_REQUEST_BYTES,
        }
    }

    /// What was kept, if that holds a whole frame; otherwise reads once. `buffer` must hold the longest frame and [`READ_BYTES`].
    pub(crate) fn read(&mut self, slot: usize, buffer: &mut [u8]) -> Reading {
        let Some(connection) = self.slab.get_mut(slot) else { return Reading::Nothing };
        if connection.phase == Phase::Closing {
            connection.unread = Vec::new();
        }
        let kept = connection.unread.len();
        if connection.place.is_none()
            && kept > 0
            && let Err(reading) = self.recognise(slot)
        {
            return reading;
        }
        let Some(connection) = self.slab.get_mut(slot) else { return Reading::Nothing };
        let missing = match split(&connection.unread) {
            Split::Incomplete { needed } => needed.saturating_sub(kept),
            // No event will announce what is here already.
            Split::Frame { .. } | Split::Invalid => 0,
        };
        let end = if missing == 0 { kept } else { kept + missing.max(READ_BYTES) };
        let Some(room) = buffer.get_mut(kept..end) else { return Reading::Closed };
        if room.is_empty() {
            buffer[..kept].copy_from_slice(&connection.unread);
            connection.unread.clear();
            return Reading::Bytes(kept);
        }
        let came = connection.wire.read(room);
        let recognised = self.recognise(slot);
        let Some(connection) = self.slab.get_mut(slot) else { return Reading::Closed };
        if let Err(reading) = recognised {
            if let Came::Bytes(read) = came {
                connection.unread.extend_from_slice(room.get(..read).unwrap_or_default());
            }
            return reading;
        }
        match came {
            Came::Bytes(read) => {
                buffer[..kept].copy_from_slice(&connection.unread);
                connection.unread.clear();
                match connection.phase {
                    Phase::Closing => Reading::Bytes(0),
                    // No channel can be bound before the first request, so data on one is another protocol: an HTTP
                    // request looks like the beginning of a long ChannelData message, and would be waited for.
                    Phase::Silent if buffer.first().is_some_and(|first| *first >= 0x40) => Reading::Closed,
                    Phase::Silent | Phase::Idle | Phase::Allocated => Reading::Bytes(kept + read),
                }
            }
            Came::Overhead => Reading::Again,
            Came::Nothing => Reading::Nothing,
            Came::End => Reading::Closed,
            Came::Unintroduced => Reading::Unintroduced,
        }
    }

    /// The first bytes told who the client is, where a proxy speaks for it, and what carries the connection: its five-tuple is
    /// another one from here on. An error where there is no place for that client, or where a connection of that five-tuple stands
    /// already. That one is to be replaced if it was to the same destination, and it is not if it was to another one, which is
    /// another proxy: a client may have the same port towards both, and who came first stays.
    fn recognise(&mut self, slot: usize) -> Result<(), Reading> {
        let Some(connection) = self.slab.get(slot) else { return Ok(()) };
        let (mut tuple, transport) = (connection.tuple, connection.wire.transport());
        let introduced = connection.place.is_none() && !connection.wire.awaits_introduction();
        if introduced {
            tuple.client = connection.wire.client().map_or(tuple.client, ClientAddr);
            let carried = [Transport::Tcp, Transport::Tls].map(|transport| FiveTuple { transport, ..tuple });
            let standing =
                carried.iter().filter_map(|tuple| self.slot_of(tuple)).find(|other| *other != slot);
            if let Some(other) = standing {
                let gone =
                    self.slab.get(other).is_some_and(|other| connection.wire.is_successor_of(&other.wire));
                return Err(if gone { Reading::Replaces(other) } else { Reading::Refused });
            }
        }
        let Some(connection) = self.slab.get_mut(slot) else { return Ok(()) };
        if introduced {
            let place = self.admission.admit(tuple.client.0.ip()).ok_or(Reading::Refused)?;
            connection.place = Some(place);
        }
        tuple.transport = transport;
        if tuple != connection.tuple {
            if self.by_tuple.get(&connection.tuple) == Some(&slot) {
                self.by_tuple.remove(&connection.tuple);
            }
            connection.tuple = tuple;
            self.by_tuple.insert(tuple, slot);
        }
        Ok(())
    }

    /// Keeps what was not worked off, for the next read; `frames` tells whether whole frames came before it.
    pub(crate) fn keep(&mut self, slot: usize, unread: &[u8], frames: bool) {
        let Some(connection) = self.slab.get_mut(slot) else { return };
        if unread.is_empty() {
            // An idle connection costs no buffer.
            connection.unread = Vec::new();
        } else {
            connection.unread.extend_from_slice(unread);
        }
        if frames && connection.phase == Phase::Silent {
            connection.phase = Phase::Idle;
        }
    }

    /// Sends `bytes` whole, now or when the client reads; or refuses them whole.
    pub(crate) fn send(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Refused> {
        self.with_room(slot, bytes)?.send(bytes).map_err(|_| Refused::Broken)
    }

    /// The same, but it may wait for the next [`Connections::flush`], with what follows it.
    pub(crate) fn cork(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Refused> {
        self.with_room(slot, bytes)?.cork(bytes).map_err(|_| Refused::Broken)
    }

    fn with_room(&mut self, slot: usize, bytes: &[u8]) -> Result<&mut Wire, Refused> {
        let connection = self.slab.get_mut(slot).ok_or(Refused::Gone)?;
        let limit = if connection.phase == Phase::Allocated { MAX_UNSENT } else { MAX_UNSENT_OF_STRANGER };
        let waiting = connection.wire.unsent();
        if waiting > 0 && waiting + bytes.len() > limit {
            return Err(Refused::Full);
        }
        Ok(&mut connection.wire)
    }

    /// Writes what waits. `Err` means that the connection must be removed: it failed, or it was to be closed after this.
    pub(crate) fn flush(&mut self, slot: usize) -> Result<(), Refused> {
        let connection = self.slab.get_mut(slot).ok_or(Refused::Gone)?;
        connection.wire.flush().map_err(|_| Refused::Broken)?;
        if connection.phase == Phase::Closing && connection.wire.unsent() == 0 {
            Err(Refused::Gone)
        } else {
            Ok(())
        }
    }

    /// Closes after what waits was sent, and tells whether that is now: then the caller removes it.
    pub(crate) fn finish(&mut self, now: Instant, slot: usize) -> bool {
        let Some(connection) = self.slab.get_mut(slot) else { return false };
        if connection.wire.close() {
            return true;
        }
        connection.phase = Phase::Closing;
        connection.since = now;
        self.due.push(Reverse((now + LINGER, slot, connection.serial)));
        false
    }

    /// An allocation bounds the connection from now on, or no longer does.
    pub(crate) fn set_allocated(&mut self, now: Instant, tuple: &FiveTuple, allocated: bool) {
        let Some(connection) = self.by_tuple.get(tuple).and_then(|slot| self.slab.get_mut(*slot)) else {
            return;
        };
        if connection.phase == Phase::Closing {
            return;
        }
        if allocated {
            connection.phase = Phase::Allocated;
        } else {
            connection.phase = Phase::Idle;
            connection.since = now;
        }
    }

    /// When [`Connections::overdue`] may find something, at the earliest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, _, _))| *at)
    }

    /// The next connection whose patience is used up.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<usize> {
        while let Some(&Reverse((at, slot, serial))) = self.due.peek() {
            if at > now {
                return None;
            }
            self.due.pop();
            let Some(connection) = self.slab.get(slot).filter(|connection| connection.serial == serial)
            else {
                continue;
            };
            let until = match connection.phase {
                Phase::Silent => connection.since + connection.first_message,
                Phase::Closing => connection.since + LINGER,
                Phase::Idle => connection.since + IDLE,
                // Looked at again and again, rarely, so that there is always exactly one entry.
                Phase::Allocated => now + IDLE,
            };
            if until <= now {
                return Some(slot);
            }
            self.due.push(Reverse((until, slot, serial)));
        }
        None
    }
}

/// Per worker. Each costs a descriptor and, unread and unsent bytes apart, some 300 bytes.
const MAX_CONNECTIONS: usize = 16_384;
/// Bytes that wait for a client that reads slowly: a quarter of a second at 8 Mbit/s. More would only be late media.
const MAX_UNSENT: usize = 256 * 1024;
/// The same before there is an allocation: some answers to requests, and nobody has proved anything yet.
const MAX_UNSENT_OF_STRANGER: usize = 8 * 1024;
/// Bytes per read, unless a frame that has begun needs more: some turn's work of media, and not thousands of short requests.
pub(crate) const READ_BYTES: usize = 16 * 1024;
/// Without an allocation there is nothing to wait for. In total: requests do not buy more time, only an allocation does.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// How long a connection that is to be closed may take to read the rest.
const LINGER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
