//! The server, and people in a room of it whose connections are real sockets: the same schedules, with the time that it takes.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use signaling_client::{Input, Output};
use signaling_protocol::{AccessToken, RoomName};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};

use super::person::{Person, Tally, audit};
use super::schedule::{Schedule, Step, Way};
use super::wire::{Ear, Heard, Wire};
use crate::{PATIENCE, admission::token};

/// How long it takes the others to be told when a bye is lost: a ping, its deadline and the grace. A client waits a second for the
/// answer to its bye and then lets go of the connection, which on a busy machine may not have sent it by then.
pub(super) const BYE_IS_LOST: Duration = Duration::from_secs(10 + 5 + 30);

/// 2100.
const FAR: u64 = 4_102_444_800;

pub(super) struct Sockets<'a> {
    server: &'a signaling::Server,
    room: String,
    rng: ChaCha8Rng,
    people: Vec<Person>,
    ways: Vec<Way>,
    wanted: Vec<(Instant, usize, signaling_client::ConnId)>,
    /// Of each, the one that it listens to.
    wires: Vec<Option<Wire>>,
    /// Those that were given up and that the server may still believe in.
    ghosts: Vec<Wire>,
    next_wire: u64,
    ear: Ear,
    heard: mpsc::UnboundedReceiver<(u64, Heard)>,
}

impl<'a> Sockets<'a> {
    /// Plays the schedule, lets everything arrive, and checks what is promised. Reloads and removals are the only ways to lose anything here.
    pub(super) async fn play(server: &'a signaling::Server, schedule: &Schedule) -> Tally {
        let mut sockets = Self::new(server, schedule);
        for who in 0..sockets.people.len() {
            sockets.tell(who, Input::Connect);
        }
        sockets.settle().await;
        for step in &schedule.steps {
            sockets.step(*step).await;
        }
        sockets.settle().await;
        let tally = Tally::of(&sockets.people, sockets.next_wire);
        if !schedule.restless {
            assert_eq!((tally.lost, tally.resynced), (0, 0), "no session ended, so nothing may be lost");
        }
        sockets.everyone_leaves().await;
        tally
    }

    fn new(server: &'a signaling::Server, schedule: &Schedule) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(!schedule.seed);
        let room = format!("room-{}", schedule.seed);
        let name: RoomName = room.parse().expect("a room");
        let token = token(&json!({"room": "room-*", "exp": FAR, "may_kick": true}));
        let token: AccessToken = token.parse().expect("a token");
        let people =
            (0..schedule.people).map(|index| Person::new(index, &name, Some(token.clone()))).collect();
        let ways = (0..schedule.people).map(|_| Way::any(&mut rng)).collect();
        let wires = (0..schedule.people).map(|_| None).collect();
        let (ear, heard) = mpsc::unbounded_channel();
        let (wanted, ghosts) = (Vec::new(), Vec::new());
        Self { server, room, rng, people, ways, wanted, wires, ghosts, next_wire: 0, ear, heard }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Say { who, to, count } => {
                for n in 0..count {
                    let outputs = self.people[who].say(Instant::now(), to + usize::from(n / 3));
                    self.carry_out(who, outputs);
                }
            }
            Step::Ask { who } => {
                let outputs = self.people[who].ask(Instant::now());
                self.carry_out(who, outputs);
            }
            Step::Kick { who, to } => {
                let outputs = self.people[who].kick(Instant::now(), to);
                self.carry_out(who, outputs);
            }
            Step::Carry(count) => self.carry(count, Duration::from_millis(2)).await,
            Step::Wait(millis) => self.carry(u8::MAX, Duration::from_millis(u64::from(millis % 16))).await,
            Step::Cut { who, .. } => self.on_wire(who, Wire::cut),
            Step::HalfOpen { who } => self.on_wire(who, Wire::go_silent),
            Step::Notice { who } => self.notice(who),
            Step::Move { who, way } => {
                self.ways[who] = way;
                if !self.people[who].is_leaving() {
                    self.tell(who, Input::Connect);
                }
            }
            Step::Stall { who } => self.on_wire(who, Wire::stall),
            Step::Release => {
                for wire in self.wires.iter_mut().flatten().chain(&mut self.ghosts) {
                    wire.release();
                }
            }
            Step::LoseAnswer { who, told } => self.on_wire(who, |wire| wire.lose_answer(told)),
            Step::Repeat { who } => self.on_wire(who, |wire| wire.repeat()),
            // A page that is left takes its requests back, of which there is none that the server has not heard.
            Step::Reload { who } => {
                if self.is_settled(who) {
                    self.give_up(who);
                    self.people[who].reload();
                    self.tell(who, Input::Connect);
                }
            }
            // A bye that is lost takes the whole grace to become known, which only virtual time has.
            Step::Bye { who } => {
                if self.is_settled(who) {
                    self.leave(who);
                }
            }
        }
    }

    fn is_settled(&self, who: usize) -> bool {
        self.people[who].client.is_open() && self.wires[who].as_ref().is_some_and(Wire::is_sound)
    }

    fn on_wire(&mut self, who: usize, act: impl FnOnce(&mut Wire)) {
        if let Some(wire) = self.wires[who].as_mut().filter(|_| !self.people[who].is_leaving()) {
            act(wire);
        }
    }

    fn notice(&mut self, who: usize) {
        if let Some(wire) = self.wires[who].as_ref().filter(|wire| wire.broken) {
            let conn = wire.client;
            self.tell(who, Input::Closed { conn, code: None });
        }
    }

    fn leave(&mut self, who: usize) {
        let outputs = self.people[who].leave(Instant::now());
        self.carry_out(who, outputs);
    }

    fn tell(&mut self, who: usize, input: Input<'_>) {
        let outputs = self.people[who].handle(Instant::now(), input);
        self.carry_out(who, outputs);
    }

    fn carry_out(&mut self, who: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Connect { conn, after, within } => {
                    let jitter = within.mul_f64(self.rng.random());
                    self.wanted.push((Instant::now() + after + jitter, who, conn));
                }
                Output::Send { conn, text } => {
                    if let Some(wire) = self.wires[who].as_mut().filter(|wire| wire.client == conn) {
                        wire.write(text);
                    }
                }
                Output::Disconnect(_) => self.give_up(who),
                Output::Event(_) => {}
            }
        }
    }

    fn give_up(&mut self, who: usize) {
        self.wanted.retain(|(_, wanting, _)| *wanting != who);
        if let Some(wire) = self.wires[who].take()
            && self.rng.random_bool(0.5)
        {
            self.ghosts.push(wire);
        }
    }

    /// Connects whoever wants to and may, and tells clients the time.
    fn tick(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.wanted.iter().position(|(at, ..)| *at <= now) {
            let (_, who, client) = self.wanted.swap_remove(at);
            self.next_wire += 1;
            let (address, ear) = (self.server.address(), self.ear.clone());
            self.wires[who] =
                Some(Wire::open(address, &self.room, self.ways[who], self.next_wire, client, ear));
        }
        for who in 0..self.people.len() {
            if self.people[who].client.deadline().is_some_and(|due| due <= now) {
                self.tell(who, Input::Timeout);
            }
        }
    }

    /// Lets so much arrive, if it comes within the time.
    async fn carry(&mut self, count: u8, time: Duration) {
        for _ in 0..count {
            self.tick();
            match timeout(time, self.heard.recv()).await {
                Ok(Some((number, heard))) => self.hear(number, heard),
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn hear(&mut self, number: u64, heard: Heard) {
        let of =
            |wire: &Option<Wire>| wire.as_ref().is_some_and(|wire| wire.number == number && wire.is_heard());
        let Some(who) = self.wires.iter().position(of) else { return };
        let Some(conn) = self.wires[who].as_ref().map(|wire| wire.client) else { return };
        match heard {
            Heard::Opened => self.tell(who, Input::Opened(conn)),
            Heard::Text(text) => self.tell(who, Input::Text { conn, text: &text }),
            Heard::Closed(code) => self.tell(who, Input::Closed { conn, code }),
        }
    }

    /// Something happens: a wire speaks, or a time has come.
    async fn next(&mut self) {
        let clients = self.people.iter().filter_map(|person| person.client.deadline());
        let due = clients.chain(self.wanted.iter().map(|(at, ..)| *at)).min();
        let due = due.unwrap_or_else(|| Instant::now() + PATIENCE);
        tokio::select! {
            heard = self.heard.recv() => {
                let (number, heard) = heard.expect("an ear is kept here");
                self.hear(number, heard);
            }
            () = sleep_until(due.into()) => {}
        }
        self.tick();
    }

    /// The network heals, and everything arrives, or is told to be lost with those who left.
    async fn settle(&mut self) {
        for who in 0..self.people.len() {
            self.notice(who);
            self.on_wire(who, Wire::release);
        }
        self.tick();
        let healed = async {
            while !audit(&self.people).is_empty() {
                self.next().await;
            }
        };
        if timeout(BYE_IS_LOST + PATIENCE, healed).await.is_err() {
            panic!("{:?}", audit(&self.people));
        }
    }

    async fn everyone_leaves(&mut self) {
        for who in 0..self.people.len() {
            if !self.people[who].is_leaving() {
                self.leave(who);
            }
        }
        let left = async {
            while !self.people.iter().all(|person| person.ended) {
                self.next().await;
            }
        };
        if timeout(PATIENCE, left).await.is_err() {
            panic!("not all are let go: {:?}", self.people);
        }
    }
}
