//! DTLS clients: datagrams into sessions, frames out of them, and back.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Instant;

use super::Worker;
use crate::address::{ClientAddr, FiveTuple, Transport};
use crate::listen::dtls::{Heard, Wants};
use crate::listen::stream::Refused;
use crate::metrics::SendFailure;
use crate::relay::{DropReason, Input};

/// DSCP and ECN of what came and of what is to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    heard: u8,
    sent: u8,
}

impl Worker {
    /// One datagram that RFC 7983 says is DTLS.
    pub(super) fn receive_dtls(
        &mut self,
        now: Instant,
        (client, server): (SocketAddr, SocketAddr),
        datagram: &[u8],
        traffic_class: u8,
    ) {
        let marks = Marks { heard: traffic_class, sent: 0 };
        let heard = self.sessions.receive(now, client, server, datagram);
        match heard {
            Heard::Challenge(answer, attempt) => {
                let from = FiveTuple { transport: Transport::Dtls, client: ClientAddr(client), server };
                if !self.relay.may_challenge(now, &from, attempt) {
                    return self.counters.dropped(DropReason::RateLimited);
                }
                if let Some(listener) = self.listeners.serving(server) {
                    // A client that does not get it asks again.
                    let _ = listener.udp.send(&[IoSlice::new(&answer)], client, server, 0);
                }
            }
            Heard::Begins { slot, instead_of } => {
                self.counters.sessions(1);
                if let Some(old) = instead_of {
                    self.close_session(now, old);
                }
                self.drive_session(now, slot, marks);
            }
            Heard::Session(slot) => self.drive_session(now, slot, marks),
            Heard::Broken(slot) => self.close_session(now, slot),
            Heard::Full => self.counters.connections_refused.add(1),
            Heard::Nothing => self.counters.dropped(DropReason::Malformed),
        }
    }

    /// What sessions want because time has passed.
    pub(super) fn sessions_overdue(&mut self, now: Instant) {
        while let Some(heard) = self.sessions.overdue(now) {
            match heard {
                Heard::Session(slot) => self.drive_session(now, slot, Marks::default()),
                Heard::Broken(slot) => {
                    self.sessions.close(slot);
                    self.drive_session(now, slot, Marks::default());
                    self.close_session(now, slot);
                }
                Heard::Challenge(..) | Heard::Begins { .. } | Heard::Full | Heard::Nothing => {}
            }
        }
    }

    /// Forgets a session and tells the core.
    pub(super) fn close_session(&mut self, now: Instant, slot: usize) {
        if let Some(tuple) = self.forget_session(slot) {
            self.control(now, Input::ClientGone(tuple));
        }
    }

    pub(super) fn forget_session(&mut self, slot: usize) -> Option<FiveTuple> {
        if self.sessions.is_handshaking(slot) {
            self.counters.handshakes_failed.add(1);
        }
        let tuple = self.sessions.remove(slot)?;
        self.counters.sessions(-1);
        Some(tuple)
    }

    /// Sends a whole frame to a client.
    pub(super) fn send_to_session(
        &mut self,
        now: Instant,
        to: &FiveTuple,
        frame: &[u8],
        traffic_class: u8,
    ) -> Result<(), SendFailure> {
        let slot = self.sessions.slot_of(to).ok_or(SendFailure::ClientGone)?;
        self.sessions.send(slot, frame).map_err(|refused| match refused {
            Refused::Full => SendFailure::SlowClient,
            Refused::Gone | Refused::Broken => SendFailure::ClientGone,
        })?;
        self.drive_session(now, slot, Marks { heard: 0, sent: traffic_class });
        Ok(())
    }

    /// Somebody further up is at it.
    pub(super) fn is_driving_sessions(&self) -> bool {
        self.secured.is_empty()
    }

    /// Does what the session wants, until it wants nothing more. Working off a frame may make another session, or this one, want
    /// something: that is done afterwards, by whoever is at it already.
    pub(super) fn drive_session(&mut self, now: Instant, slot: usize, marks: Marks) {
        self.wanting.push((slot, marks));
        let mut buffer = std::mem::take(&mut self.secured);
        if buffer.is_empty() {
            return;
        }
        while let Some((slot, marks)) = self.wanting.pop() {
            self.satisfy(now, slot, marks, &mut buffer);
        }
        self.secured = buffer;
    }

    fn satisfy(&mut self, now: Instant, slot: usize, marks: Marks, buffer: &mut [u8]) {
        let Some(tuple) = self.sessions.tuple_of(slot) else { return };
        loop {
            match self.sessions.poll(slot, buffer) {
                Wants::Sent(len) => {
                    let listener = self.listeners.serving(tuple.server);
                    let bytes = buffer.get(..len).unwrap_or_default();
                    let (client, server) = (tuple.client.0, tuple.server);
                    let sent = listener.map(|listener| {
                        listener.udp.send(&[IoSlice::new(bytes)], client, server, marks.sent)
                    });
                    if let Some(Err(error)) = sent {
                        self.counters.not_sent(super::client::failure(&error));
                    }
                }
                Wants::Heard(len) => {
                    self.frame(now, &tuple, buffer.get(..len).unwrap_or_default(), marks.heard);
                    // Answering may have ended the session: what came behind is nobody's.
                    if self.sessions.tuple_of(slot) != Some(tuple) {
                        return;
                    }
                }
                Wants::Removed => return self.close_session(now, slot),
                Wants::Nothing => return,
            }
        }
    }
}
