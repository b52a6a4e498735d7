//! Does what the core's control path asks for: answers, sockets, hand-offs between workers.

use std::time::Instant;

use super::inbox::{Done, Order, Parcel, Question, RelayedSocketParcel};
use super::secured::Marks;
use super::{BUDGET, Worker};
use crate::address::{FiveTuple, Transport};
use crate::credentials::Authorization;
use crate::hook::authorization::Query;
use crate::metrics::SendFailure;
use crate::relay::{
    AskId, ClaimedSocket, EndReason, Event, Input, Moving, NotMoved, OpenId, Output, SocketSlot, WorkerIndex,
};

impl Worker {
    /// Feeds one input to the core and does everything that follows from it, in order.
    pub(super) fn control(&mut self, now: Instant, input: Input<'_>) {
        self.handle(now, input);
        while let Some(output) = self.outputs.pop_front() {
            if let Some(answer) = self.execute(now, output) {
                self.handle(now, answer);
            }
        }
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        if let (Input::Summon(_), Some(mirror)) = (&input, &mut self.mirror) {
            // What was carried so far goes along.
            mirror.look(now, &mut self.relay, &self.counters);
        }
        self.outputs.extend(self.relay.handle(now, input));
        self.follow(now);
    }

    /// What is no route any more must be out of the driver before a port can be another's, or an answer is out.
    pub(super) fn follow(&mut self, now: Instant) {
        if let Some(mirror) = &mut self.mirror {
            mirror.follow(now, &mut self.relay, &self.counters);
        }
    }

    /// Takes what other workers left.
    pub(super) fn serve_inbox(&mut self, now: Instant) -> bool {
        while let Some((order, done)) = self.inbox.errand() {
            // A server that does not wait for the answer any more needs none.
            let _ = done.send(self.obey(now, order));
        }
        for _ in 0..BUDGET {
            match self.inbox.take() {
                Some(Parcel::Claim(claim)) => self.control(now, Input::Claim(claim)),
                Some(Parcel::Authorized { ask, authorization }) => {
                    self.control(now, Input::Authorized { ask, authorization });
                }
                Some(Parcel::Claimed { open, socket }) => {
                    let outcome = socket.and_then(|parcel| self.unpack(parcel));
                    self.control(now, Input::Claimed { open, outcome });
                }
                Some(Parcel::Client { client, message }) => self.take_in(now, *client, &message),
                Some(Parcel::Summon(summons)) => self.control(now, Input::Summon(summons)),
                Some(Parcel::Summoned { open, outcome }) => {
                    let outcome = outcome.map(|(moving, sockets)| self.unpack_all(moving, sockets));
                    self.control(now, Input::Summoned { open, outcome });
                }
                None => return self.serve_operator(now),
            }
        }
        true
    }

    fn obey(&mut self, now: Instant, order: Order) -> Done {
        let before = self.relay.allocations();
        match order {
            Order::Settings { relay, log_addresses, listen } => {
                self.journal.set_log_addresses(log_addresses);
                self.control(now, Input::Settings(relay));
                self.change_listeners(now, listen);
            }
            Order::Drain(drain) => self.control(now, Input::Drain(drain)),
            Order::Answer => self.close_left(now),
        }
        Done { ended: before.saturating_sub(self.relay.allocations()) }
    }

    /// Answers one question per turn of the loop; packets come in between.
    fn serve_operator(&mut self, now: Instant) -> bool {
        // Who asked may have given up waiting for the answer.
        match self.inbox.question() {
            Some(Question::Page { from, user, limit, answer }) => {
                let _ = answer.send(self.relay.page(now, from, user.as_deref(), limit));
            }
            Some(Question::Report { from, min_age, answer }) => {
                let page = self.relay.page(now, from, None, REPORT);
                for view in page.allocations.iter().filter(|view| view.age >= min_age) {
                    self.journal.interim(view);
                }
                let _ = answer.send(page.next);
            }
            Some(Question::Find { id, answer }) => drop(answer.send(self.relay.find(now, id))),
            Some(Question::End { ids, reason, answer }) => {
                let before = self.relay.allocations();
                for id in ids {
                    self.control(now, Input::End { id, reason });
                }
                let _ = answer.send(before.saturating_sub(self.relay.allocations()));
            }
            None => return false,
        }
        true
    }

    /// Ends what stands when the server does, so that the log and the account of every allocation are closed.
    pub(super) fn end_all(&mut self, now: Instant) {
        let mut from = Some(0);
        while let Some(place) = from {
            let page = self.relay.page(now, place, None, REPORT);
            for view in page.allocations {
                self.control(now, Input::End { id: view.id, reason: EndReason::Shutdown });
            }
            from = page.next;
        }
    }

    /// Closes a connection and tells the core.
    pub(super) fn close_connection(&mut self, now: Instant, slot: usize) {
        if let Some(tuple) = self.forget_connection(slot) {
            self.control(now, Input::ClientGone(tuple));
        }
    }

    fn forget_connection(&mut self, slot: usize) -> Option<FiveTuple> {
        if self.connections.is_handshaking(slot) {
            self.counters.handshakes_failed.add(1);
        }
        let tuple = self.connections.remove(slot)?;
        self.counters.connections(-1);
        Some(tuple)
    }

    /// One output; what the core must hear at once is returned.
    fn execute(&mut self, now: Instant, output: Output) -> Option<Input<'static>> {
        match output {
            Output::Send { to, message } => return self.answer(now, &to, &message),
            Output::Open { open, ip, port, reserve_next } => {
                let outcome = self.relayed.open(self.poll.registry(), ip, port, reserve_next);
                return Some(Input::Opened { open, outcome });
            }
            Output::Close(ClaimedSocket { slot, ip, port }) => {
                drop(self.relayed.release(self.poll.registry(), slot));
                self.shared.release(ip, port);
            }
            Output::Disconnect(tuple) if tuple.transport == Transport::Dtls => {
                let slot = self.sessions.slot_of(&tuple)?;
                self.sessions.close(slot);
                let driven = self.is_driving_sessions();
                self.drive_session(now, slot, Marks::default());
                if driven {
                    // What was to be sent is sent afterwards; the session then goes with the client's close_notify or its minute.
                    return None;
                }
                return self.forget_session(slot).map(Input::ClientGone);
            }
            Output::Disconnect(tuple) => {
                let slot = self.connections.slot_of(&tuple)?;
                if self.connections.finish(now, slot) {
                    return self.forget_connection(slot).map(Input::ClientGone);
                }
            }
            Output::ClaimAt { at, claim } => {
                let open = claim.open;
                if self.post(at, Parcel::Claim(claim)).is_err() {
                    return Some(Input::Claimed { open, outcome: None });
                }
            }
            Output::Surrender { to, open, slot, ip, port } => {
                let socket = self.relayed.release(self.poll.registry(), slot);
                let socket = socket.map(|socket| RelayedSocketParcel { socket, ip, port });
                self.surrender(to, open, socket, (ip, port));
            }
            // An answer that cannot be delivered is as good as none: the asking core gives up by itself.
            Output::DenyClaim { to, open } => drop(self.post(to, Parcel::Claimed { open, socket: None })),
            Output::SummonAt { at, summons } => {
                let open = summons.open;
                if self.post(at, Parcel::Summon(summons)).is_err() {
                    return Some(Input::Summoned { open, outcome: Err(NotMoved::Lost) });
                }
            }
            Output::HandOver { to, open, moving } => return self.hand_over(to, open, moving),
            Output::DenySummons { to, open, why } => {
                drop(self.post(to, Parcel::Summoned { open, outcome: Err(why) }));
            }
            Output::Event(event) => self.event(now, event),
            Output::ListenTcp { open, ip, port } => {
                let outcome = self.relayed.listen(self.poll.registry(), ip, port);
                return Some(Input::Opened { open, outcome });
            }
            Output::ConnectPeer { connection, from, to } => return self.connect_peer(connection, from, to),
            Output::ClosePeer(connection) => self.close_peer(connection),
            Output::Join { connection, client } => return self.join(connection, &client),
            Output::MoveClient { client, to, message } => self.move_client(&client, to, message),
            Output::Authorize { ask, username, transport } => {
                return self.authorize(ask, username, transport);
            }
        }
        None
    }

    /// Asks the hook; where that cannot be done the answer is at hand.
    fn authorize(&self, ask: AskId, username: Box<str>, transport: Transport) -> Option<Input<'static>> {
        let asked = self.asks.as_ref().is_some_and(|(queue, mailbox)| {
            queue.try_send(Query { by: mailbox.clone(), ask, username, transport }).is_ok()
        });
        (!asked).then_some(Input::Authorized { ask, authorization: Authorization::Unavailable })
    }

    fn answer(&mut self, now: Instant, to: &FiveTuple, message: &[u8]) -> Option<Input<'static>> {
        let failure = self.send_to_client(now, to, message, 0).err()?;
        self.counters.not_sent(failure);
        // Responses must not be lost on a stream: a client that does not read them is not coming back.
        let broken = matches!(failure, SendFailure::SlowClient | SendFailure::ClientGone);
        if broken && to.transport.is_stream() {
            // A core that answers somebody who is gone must hear of it, also the second time.
            if let Some(slot) = self.connections.slot_of(to) {
                self.forget_connection(slot);
            }
            return Some(Input::ClientGone(*to));
        }
        None
    }

    fn surrender(
        &self,
        to: WorkerIndex,
        open: OpenId,
        socket: Option<RelayedSocketParcel>,
        (ip, port): (std::net::IpAddr, crate::address::RelayedPort),
    ) {
        let lost = match self.post(to, Parcel::Claimed { open, socket }) {
            Ok(()) => return self.counters.handed_over.add(1),
            Err(parcel) => parcel,
        };
        // Closed first, so that nobody finds the port free and cannot bind it.
        drop(lost);
        self.shared.release(ip, port);
    }

    /// Gives an allocation away with its sockets; what cannot be delivered comes back to the core.
    fn hand_over(&mut self, to: WorkerIndex, open: OpenId, moving: Moving) -> Option<Input<'static>> {
        let sockets: Vec<ClaimedSocket> = moving.sockets().collect();
        let mut parcels = Vec::with_capacity(sockets.len());
        for ClaimedSocket { slot, ip, port } in sockets {
            let socket = self.relayed.release(self.poll.registry(), slot);
            parcels.extend(socket.map(|socket| (slot, RelayedSocketParcel { socket, ip, port })));
        }
        let count = parcels.len();
        match self.post(to, Parcel::Summoned { open, outcome: Ok((moving, parcels)) }) {
            Err(Parcel::Summoned { outcome: Ok((moving, parcels)), .. }) => {
                let moving = self.unpack_all(moving, parcels);
                // No request of this worker: the allocation stays where it was.
                Some(Input::Summoned { open: OpenId(u64::MAX), outcome: Ok(moving) })
            }
            Err(_) | Ok(()) => {
                self.counters.handed_over.add(count);
                None
            }
        }
    }

    fn unpack_all(
        &mut self,
        mut moving: Moving,
        mut parcels: Vec<(SocketSlot, RelayedSocketParcel)>,
    ) -> Moving {
        moving.exchange(|old| {
            let at = parcels.iter().position(|(slot, _)| *slot == old)?;
            let (_, parcel) = parcels.swap_remove(at);
            self.unpack(parcel).map(|socket| socket.slot)
        });
        moving
    }

    /// Puts a socket that another worker handed over into this worker's slab.
    fn unpack(&mut self, parcel: RelayedSocketParcel) -> Option<ClaimedSocket> {
        let RelayedSocketParcel { socket, ip, port } = parcel;
        let slot = self.relayed.adopt(self.poll.registry(), socket);
        if slot.is_none() {
            self.shared.release(ip, port);
        }
        slot.map(|slot| ClaimedSocket { slot, ip, port })
    }

    pub(super) fn post(&self, to: WorkerIndex, parcel: Parcel) -> Result<(), Parcel> {
        match self.mailboxes.get(usize::from(to.0)) {
            Some(mailbox) => mailbox.deliver(parcel),
            None => Err(parcel),
        }
    }

    fn event(&mut self, now: Instant, mut event: Event) {
        if let (Event::AllocationEnded { id, traffic, .. }, Some(mirror)) = (&mut event, &mut self.mirror) {
            traffic.add(&mirror.rest_of(*id));
        }
        if let Event::AllocationStarted { client, .. } | Event::AllocationEnded { client, .. } = &event
            && client.transport.is_connected()
        {
            // A connection is patient exactly as long as it holds an allocation.
            let allocated = matches!(event, Event::AllocationStarted { .. });
            self.connections.set_allocated(now, client, allocated);
            self.sessions.set_allocated(now, client, allocated);
        }
        if let Event::AllocationMoved { from, to, .. } = &event {
            for (tuple, allocated) in [(from, false), (to, true)] {
                if tuple.transport.is_connected() {
                    self.connections.set_allocated(now, tuple, allocated);
                }
            }
        }
        self.journal.record(now, event);
    }
}

/// Usage events per turn of the loop: each is a few strings and a place in a queue.
const REPORT: usize = 256;
