//! A client's connection and a peer's as one (RFC 6062 section 5.4): bytes as they are, both ways.
//!
//! Reads from one side only when the other has taken everything that was read before, so each direction holds the rest of
//! one read at most and a slow reader slows the sender down; nothing is dropped. The end of one side's stream is forwarded
//! when everything before it was; the pair is over when both directions are.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::listen::stream::Detached;
use crate::listen::wire::Came;

/// The two connections, and what of either was read and is not written yet.
#[derive(Debug)]
pub(super) struct Pair {
    client: Detached,
    peer: TcpStream,
    /// Of the client's bytes.
    held: Vec<u8>,
    to_peer: Direction,
    to_client: Direction,
    /// Until when nothing is read for the peer, and for the client.
    rests: [Option<Instant>; 2],
}

/// How far one direction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// There may be more to read.
    Open,
    /// Everything was read; what is held must still go out.
    Ended,
    /// Everything went out and so did the end of it, or nobody is there any more to take it.
    Done,
}

/// Payload bytes that were read in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) to_peer: usize,
    pub(super) to_client: usize,
}

/// What to do with a pair after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Wait for an event.
    Wait,
    /// There may be more: another turn.
    Again,
    /// Both directions are done: close both.
    Over,
}

impl Pair {
    /// `client` with what was read of it behind its ConnectionBind.
    pub(super) fn new(mut client: Detached, peer: TcpStream) -> Self {
        let held = std::mem::take(&mut client.unread);
        Self { client, peer, held, to_peer: Direction::Open, to_client: Direction::Open, rests: [None; 2] }
    }

    /// For the event loop.
    pub(super) fn streams(&mut self) -> [&mut TcpStream; 2] {
        [self.client.wire.stream_mut(), &mut self.peer]
    }

    /// Reads nothing for the peer, and for the client, for that long; tells when to turn it again.
    pub(super) fn rest(&mut self, now: Instant, pauses: [Duration; 2]) -> Option<Instant> {
        for (rest, pause) in self.rests.iter_mut().zip(pauses) {
            if !pause.is_zero() {
                *rest = now.checked_add(pause);
            }
        }
        self.rests.into_iter().flatten().min()
    }

    /// Moves bytes until both directions wait for an event, or for `budget` reads each. `room` is where they lie meanwhile.
    pub(super) fn turn(&mut self, now: Instant, room: &mut [u8], budget: usize) -> (After, Moved) {
        for rest in &mut self.rests {
            *rest = rest.filter(|until| *until > now);
        }
        let mut moved = Moved::default();
        let more_to_peer = self.turn_to_peer(room, budget, &mut moved.to_peer);
        let more_to_client = self.turn_to_client(room, budget, &mut moved.to_client);
        let after = match (self.to_peer, self.to_client) {
            (Direction::Done, Direction::Done) => After::Over,
            _ if more_to_peer || more_to_client => After::Again,
            _ => After::Wait,
        };
        (after, moved)
    }

    /// Tells whether there may be more.
    fn turn_to_peer(&mut self, room: &mut [u8], budget: usize, moved: &mut usize) -> bool {
        // What came with the ConnectionBind was not counted yet.
        for reads in 0..=budget {
            if self.to_peer == Direction::Done || !self.write_held() {
                return false;
            }
            if self.to_peer == Direction::Ended {
                // Whoever is gone need not be told.
                let _ = self.peer.shutdown(Shutdown::Write);
                self.to_peer = Direction::Done;
                return false;
            }
            if reads == budget || self.rests[0].is_some() {
                return reads == budget;
            }
            match self.client.wire.read(room) {
                Came::Bytes(len) => {
                    *moved += len;
                    self.held.extend_from_slice(room.get(..len).unwrap_or_default());
                }
                Came::Overhead => {}
                Came::Nothing => return false,
                // A connection is joined by a message of its client, behind the introduction.
                Came::End | Came::Unintroduced => {
                    self.to_peer = Direction::Ended;
                    if is_reset(self.client.wire.stream_mut()) {
                        self.to_client = Direction::Done;
                    }
                }
            }
        }
        false
    }

    /// Tells whether everything that was read of the client's went out.
    fn write_held(&mut self) -> bool {
        let mut written = 0;
        while written < self.held.len() {
            match self.peer.write(&self.held[written..]) {
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.to_peer = Direction::Done;
                    break;
                }
            }
        }
        if written == self.held.len() || self.to_peer == Direction::Done {
            // A pair that is idle costs no buffer.
            self.held = Vec::new();
        } else {
            self.held.drain(..written);
        }
        self.held.is_empty()
    }

    /// Tells whether there may be more.
    fn turn_to_client(&mut self, room: &mut [u8], budget: usize, moved: &mut usize) -> bool {
        for reads in 0..=budget {
            if self.to_client == Direction::Done {
                return false;
            }
            if self.client.wire.flush().is_err() {
                self.to_client = Direction::Done;
                return false;
            }
            if self.client.wire.unsent() > 0 {
                return false;
            }
            if self.to_client == Direction::Ended {
                if self.client.wire.close() {
                    self.to_client = Direction::Done;
                }
                return false;
            }
            if reads == budget || self.rests[1].is_some() {
                return reads == budget;
            }
            match self.peer.read(room) {
                Ok(0) => self.to_client = Direction::Ended,
                Ok(len) => {
                    *moved += len;
                    if self.client.wire.send(room.get(..len).unwrap_or_default()).is_err() {
                        self.to_client = Direction::Done;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => {
                    self.to_client = Direction::Ended;
                    self.to_peer = Direction::Done;
                }
            }
        }
        false
    }
}

/// Whether the other side will take nothing more: a connection that only ended in its direction still has a far end.
fn is_reset(stream: &TcpStream) -> bool {
    stream.peer_addr().is_err()
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;

    use super::*;
    use crate::address::{ClientAddr, FiveTuple, Transport};
    use crate::listen::admission::{Admission, Rules};
    use crate::listen::stream::{Connections, READ_BYTES};
    use crate::listen::tls::Certificates;

    type Far = std::net::TcpStream;

    /// A pair and the far ends of its two connections.
    fn pair() -> (Pair, Far, Far) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let connected = || {
            let far = Far::connect(listener.local_addr().expect("bound")).expect("connects");
            far.set_nonblocking(true).expect("sets");
            let (near, from) = listener.accept().expect("accepts");
            near.set_nonblocking(true).expect("sets");
            (far, TcpStream::from_std(near), from)
        };
        let ((client, near_client, from), (peer, near_peer, _)) = (connected(), connected());
        let certificates = Certificates::new(&[]).expect("randomness");
        let mut connections = Connections::new(Arc::new(Admission::new(Rules::default(), certificates)));
        let server: SocketAddr = listener.local_addr().expect("bound");
        let tuple = FiveTuple { transport: Transport::Tcp, client: ClientAddr(from), server };
        let slot = connections.insert(Instant::now(), near_client, tuple).expect("a place");
        (Pair::new(connections.take(slot).expect("is there"), near_peer), client, peer)
    }

    #[test]
    fn a_direction_that_rests_is_not_read_what_was_read_goes_out_and_the_other_goes_on() {
        let (mut pair, mut client, mut peer) = pair();
        let (mut room, now, mut got) = (vec![0; READ_BYTES], Instant::now(), [0; 64]);
        let (until, begun) = (now + Duration::from_secs(1), now);
        let arrives = |pair: &mut Pair, now, room: &mut [u8], far: &mut Far, got: &mut [u8]| loop {
            pair.turn(now, room, 1);
            match far.read(got) {
                Ok(len) => break len,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "nothing arrives");
        };
        assert_eq!(pair.rest(now, [Duration::from_secs(1), Duration::ZERO]), Some(until));
        // Read before the rest began.
        pair.held = b"held".to_vec();
        assert_eq!(client.write(b" and more").expect("sends"), 9);
        assert_eq!(arrives(&mut pair, now, &mut room, &mut peer, &mut got), 4);
        assert_eq!(peer.write(b"down").expect("sends"), 4);
        assert_eq!(arrives(&mut pair, now, &mut room, &mut client, &mut got), 4);
        // What the client sent is there by now, and no turn of the time before takes it.
        assert_eq!(pair.client.wire.stream_mut().peek(&mut got).expect("is there"), 9);
        assert_eq!(pair.turn(until - Duration::from_millis(1), &mut room, 1).1, Moved::default());
        assert_eq!(arrives(&mut pair, until, &mut room, &mut peer, &mut got), 9);
    }

    #[test]
    fn pair_holds_one_read_at_most_in_each_direction() {
        let (mut pair, mut client, mut peer) = pair();
        let mut room = vec![0; READ_BYTES];
        let (mut sent, mut idle) = ([0; 2], 0);
        // Nobody reads at either end, until three turns in a row moved nothing and nothing more could be sent.
        while idle < 3 {
            let taken: [usize; 2] = [&mut client, &mut peer].map(|end| end.write(&[7; 50_000]).unwrap_or(0));
            let (after, moved) = pair.turn(Instant::now(), &mut room, 8);
            sent = [sent[0] + taken[0], sent[1] + taken[1]];
            let nothing = taken == [0, 0] && moved == Moved::default() && after == After::Wait;
            idle = if nothing { idle + 1 } else { 0 };
            assert!(pair.held.len() <= READ_BYTES, "{} bytes held", pair.held.len());
            assert!(pair.client.wire.unsent() <= READ_BYTES, "{} bytes unsent", pair.client.wire.unsent());
        }
        assert!(!pair.held.is_empty() && pair.client.wire.unsent() > 0, "both ends are full");
        let mut got = [0; 2];
        while got != [sent[1], sent[0]] {
            for (end, got) in [&mut client, &mut peer].into_iter().zip(&mut got) {
                *got += end.read(&mut [0; 4096]).unwrap_or(0);
            }
            pair.turn(Instant::now(), &mut room, 8);
        }
        assert!(pair.held.is_empty() && pair.client.wire.unsent() == 0);
    }
}
