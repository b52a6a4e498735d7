//! A hub, people, and a virtual network between them in which a schedule is played.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, seq::IteratorRandom as _};
use rand_chacha::{ChaCha8Rng, ChaCha20Rng};
use signaling::hub::{ConnId, Counts, GoneReason, Grant, Hub, Input, Limits, Output};
use signaling_client::{Input as ClientInput, Output as ClientOutput};
use signaling_protocol::{ClientFrame, ClientMessage, IceServer, IceServers, RoomName};

use super::link::{Down, Link};
use super::person::{Person, Tally, audit};
use super::schedule::{Schedule, Step, Way};

pub(super) struct Network {
    hub: Hub,
    now: Instant,
    rng: ChaCha8Rng,
    room: RoomName,
    people: Vec<Person>,
    /// How the next connection of each travels.
    ways: Vec<Way>,
    /// Connections that clients asked for and that are not there yet.
    wanted: Vec<(Instant, usize, signaling_client::ConnId)>,
    links: Vec<Link>,
    next_conn: u64,
    /// Prints what happens.
    aloud: bool,
}

impl Network {
    /// Plays the schedule, heals the network, and checks what is promised.
    pub(super) fn play(schedule: &Schedule, start: Instant, aloud: bool) -> Tally {
        let mut network = Self { aloud, ..Self::new(schedule, start) };
        for who in 0..network.people.len() {
            network.tell(who, ClientInput::Connect);
        }
        network.settle();
        for step in &schedule.steps {
            network.step(*step);
        }
        network.settle();
        let tally = Tally::of(&network.people, network.next_conn);
        if !schedule.may_lose() {
            assert_eq!((tally.lost, tally.resynced), (0, 0), "no session ended, so nothing may be lost");
        }
        network.everyone_leaves();
        tally
    }

    fn new(schedule: &Schedule, start: Instant) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(!schedule.seed);
        let hub = Hub::new(limits(schedule), ChaCha20Rng::seed_from_u64(schedule.seed));
        let room: RoomName = "lobby".parse().expect("a room");
        let people = (0..schedule.people).map(|index| Person::new(index, &room, None)).collect();
        let ways = (0..schedule.people).map(|_| Way::any(&mut rng)).collect();
        Self {
            hub,
            now: start,
            rng,
            room,
            people,
            ways,
            wanted: Vec::new(),
            links: Vec::new(),
            next_conn: 0,
            aloud: false,
        }
    }

    fn step(&mut self, step: Step) {
        self.say(format_args!("{step:?}"));
        match step {
            Step::Say { who, to, count } => {
                for n in 0..count {
                    let outputs = self.people[who].say(self.now, to + usize::from(n / 3));
                    self.carry_out(who, outputs);
                }
            }
            Step::Ask { who } => {
                let outputs = self.people[who].ask(self.now);
                self.carry_out(who, outputs);
            }
            Step::Kick { who, to } => {
                let outputs = self.people[who].kick(self.now, to);
                self.carry_out(who, outputs);
            }
            Step::Carry(count) => (0..count).for_each(|_| self.carry()),
            Step::Wait(millis) => self.pass(Duration::from_millis(millis.into())),
            Step::Cut { who, arrives } => self.on_link(who, |link| link.cut(arrives)),
            Step::HalfOpen { who } => self.on_link(who, |link| {
                link.cut(0);
                link.half_open = true;
            }),
            Step::Notice { who } => self.notice(who),
            Step::Move { who, way } => {
                self.ways[who] = way;
                if !self.people[who].ended {
                    self.tell(who, ClientInput::Connect);
                }
            }
            Step::Stall { who } => self.on_link(who, |link| link.stalled = true),
            Step::Release => self.links.iter_mut().for_each(|link| link.stalled = false),
            Step::LoseAnswer { who, told } => self.on_link(who, |link| link.lose = Some(told)),
            Step::Repeat { who } => self.on_link(who, Link::repeat),
            Step::Reload { who } => {
                self.give_up(who);
                // A page that is left takes back the requests that did not get out.
                self.links
                    .iter_mut()
                    .filter(|link| link.who == who && !link.greeted)
                    .for_each(|link| link.cut(0));
                self.people[who].reload();
                self.tell(who, ClientInput::Connect);
            }
            Step::Bye { who } => self.leave(who),
        }
    }

    fn leave(&mut self, who: usize) {
        let outputs = self.people[who].leave(self.now);
        self.carry_out(who, outputs);
    }

    const fn number(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    fn on_link(&mut self, who: usize, act: impl FnOnce(&mut Link)) {
        if let Some(link) = self.links.iter_mut().rfind(|link| link.who == who && link.live) {
            act(link);
        }
    }

    fn notice(&mut self, who: usize) {
        let broken = |link: &&mut Link| link.who == who && link.live && link.cut && !link.half_open;
        let Some(link) = self.links.iter_mut().find(broken) else { return };
        link.live = false;
        let conn = link.client;
        self.tell(who, ClientInput::Closed { conn, code: None });
    }

    fn give_up(&mut self, who: usize) {
        self.wanted.retain(|(_, wanting, _)| *wanting != who);
        self.links.iter_mut().filter(|link| link.who == who).for_each(|link| link.live = false);
    }

    fn tell(&mut self, who: usize, input: ClientInput<'_>) {
        self.say(format_args!("    {who} <- {input:?}"));
        let outputs = self.people[who].handle(self.now, input);
        self.carry_out(who, outputs);
    }

    fn carry_out(&mut self, who: usize, outputs: Vec<ClientOutput>) {
        for output in outputs {
            match output {
                ClientOutput::Connect { conn, after, within } => {
                    let jitter = within.mul_f64(self.rng.random());
                    self.wanted.push((self.now + after + jitter, who, conn));
                }
                ClientOutput::Send { conn, text } => {
                    if let Some(link) =
                        self.links.iter_mut().rfind(|link| link.who == who && link.client == conn)
                    {
                        link.write(text);
                    }
                }
                ClientOutput::Disconnect(_) => self.give_up(who),
                ClientOutput::Event(_) => {}
            }
        }
        self.connect_wanted();
    }

    fn connect_wanted(&mut self) {
        while let Some(at) = self.wanted.iter().position(|(at, ..)| *at <= self.now) {
            let (_, who, client) = self.wanted.swap_remove(at);
            let stalled = self.rng.random_bool(0.15);
            let hub = self.number();
            self.links.push(Link::new(who, client, hub, self.ways[who], stalled));
            self.tell(who, ClientInput::Opened(client));
        }
    }

    /// The network does one thing.
    fn carry(&mut self) {
        let candidates = 0..self.links.len();
        let some = candidates.filter(|&id| self.links[id].has_up() || self.links[id].has_down());
        let Some(id) = some.choose(&mut self.rng) else { return self.forget() };
        match self.rng.random_range(0..20) {
            0 => self.forget(),
            1..10 => self.carry_up(id),
            _ => self.carry_down(id),
        }
    }

    /// The server notices that a connection is gone that nobody uses, or does not even hear of it.
    fn forget(&mut self) {
        let gone = |link: &Link| !link.deaf && !link.half_open && (link.cut || !link.live);
        let candidates = (0..self.links.len()).filter(|&id| gone(&self.links[id]));
        let Some(id) = candidates.choose(&mut self.rng) else { return };
        let why = if self.rng.random() { GoneReason::Closed } else { GoneReason::SlowReader };
        self.links[id].deaf = true;
        self.links[id].cut = true;
        let conn = self.links[id].hub;
        self.input(Input::Gone { conn, why });
    }

    fn carry_up(&mut self, id: usize) {
        if !self.links[id].has_up() {
            return;
        }
        for text in self.links[id].carry_up() {
            if self.links[id].deaf {
                return;
            }
            let frame = ClientFrame::parse(text.as_bytes()).expect("the client's frames parse");
            if std::mem::replace(&mut self.links[id].greeted, true) {
                let conn = self.links[id].hub;
                self.input(Input::Frame { conn, frame });
                continue;
            }
            if self.links[id].way != Way::Socket {
                // It is a connection from this request on.
                self.links[id].hub = self.number();
            }
            if self.links[id].hello_twice {
                // The browser had no answer to the first one and gets that to the second; both reach the server.
                let first = ClientFrame::parse(text.as_bytes()).expect("the client's frames parse");
                let second = self.number();
                let earlier = std::mem::replace(&mut self.links[id].hub, second);
                self.attach(earlier, first);
            }
            self.attach(self.links[id].hub, frame);
        }
    }

    fn attach(&mut self, conn: ConnId, frame: ClientFrame) {
        let ClientMessage::Hello(hello) = frame.message else { panic!("the first frame is a hello") };
        let room = self.room.clone();
        self.input(Input::Attach {
            conn,
            room,
            ack: frame.ack,
            hello,
            grant: Some(Grant { may_kick: true, ..Grant::default() }),
            ice: credentials(),
        });
    }

    fn carry_down(&mut self, id: usize) {
        if !self.links[id].has_down() {
            return;
        }
        let (downs, failed) = self.links[id].carry_down();
        let (who, conn) = (self.links[id].who, self.links[id].client);
        for down in downs {
            if !self.links[id].live {
                return;
            }
            match down {
                Down::Frame(text) => self.tell(who, ClientInput::Text { conn, text: &text }),
                Down::Close(code) => {
                    self.links[id].live = false;
                    self.tell(who, ClientInput::Closed { conn, code: Some(code) });
                }
            }
        }
        if failed && self.links[id].live {
            self.links[id].live = false;
            self.tell(who, ClientInput::Closed { conn, code: None });
        }
    }

    /// Lets the time pass, deadline by deadline of everybody.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let clients = self.people.iter().filter_map(|person| person.client.deadline());
            let wanted = self.wanted.iter().map(|(at, ..)| *at);
            let Some(due) =
                clients.chain(wanted).chain(self.hub.deadline()).min().filter(|due| *due <= until)
            else {
                break;
            };
            self.now = self.now.max(due);
            self.connect_wanted();
            for who in 0..self.people.len() {
                if self.people[who].client.deadline().is_some_and(|due| due <= self.now) {
                    self.tell(who, ClientInput::Timeout);
                }
            }
            if self.hub.deadline().is_some_and(|due| due <= self.now) {
                self.input(Input::Timeout);
            }
        }
        self.now = until;
    }

    #[expect(clippy::print_stdout, reason = "it is asked for by the seed")]
    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.aloud {
            println!("{what}");
        }
    }

    fn input(&mut self, input: Input) {
        self.say(format_args!("    hub <- {input:?}"));
        let outputs: Vec<Output> = self.hub.handle(self.now, input).collect();
        let mut refreshes = Vec::new();
        for output in outputs {
            match output {
                Output::Send { conn, frame } => self.push(conn, Down::Frame(frame.to_text())),
                Output::Close { conn, code } => {
                    self.push(conn, Down::Close(code.code()));
                    if let Some(link) = self.links.iter_mut().rfind(|link| link.hub == conn) {
                        link.deaf = true;
                    }
                }
                Output::RefreshIce { session, .. } => refreshes.push(session),
                Output::Verify { .. } | Output::Event(_) => {}
            }
        }
        for session in refreshes {
            self.input(Input::Ice { session, ice: credentials() });
        }
    }

    fn push(&mut self, conn: ConnId, down: Down) {
        self.say(format_args!("    hub -> {conn:?} {down:?}"));
        if let Some(link) = self.links.iter_mut().rfind(|link| link.hub == conn) {
            link.push(down);
        }
    }

    /// The network heals, and everything arrives. Within a minute the sessions of those who do not come back end too
    /// (ping interval, deadline and grace are 45 s).
    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS {
            for who in 0..self.people.len() {
                self.notice(who);
            }
            self.carry_everything();
            if audit(&self.people).is_empty() && self.nothing_is_kept() {
                return;
            }
            self.pass(Duration::from_millis(2_300));
        }
        panic!("{:?} {:?}", audit(&self.people), self.hub.counts());
    }

    fn nothing_is_kept(&self) -> bool {
        let unacknowledged: usize = self.people.iter().map(|person| person.client.unacknowledged()).sum();
        (self.hub.counts().buffered_frames, self.hub.counts().buffered_bytes, unacknowledged) == (0, 0, 0)
    }

    fn carry_everything(&mut self) {
        self.links.iter_mut().for_each(|link| link.stalled = false);
        while let Some(id) = self.links.iter().position(|link| link.has_up() || link.has_down()) {
            self.carry_up(id);
            self.carry_down(id);
        }
        self.links.retain(|link| link.live || !link.deaf);
    }

    /// Some say bye, some just go. Nothing may remain.
    fn everyone_leaves(&mut self) {
        for who in 0..self.people.len() {
            if self.rng.random() {
                self.leave(who);
            }
        }
        self.carry_everything();
        self.links.clear();
        let limits = self.hub.limits();
        let until =
            self.now + limits.ping_interval + limits.ping_deadline + limits.grace + limits.kick_memory;
        while let Some(due) = self.hub.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
        }
        assert_eq!((self.hub.counts(), self.hub.deadline()), (Counts::default(), None), "nothing remains");
    }
}

fn limits(schedule: &Schedule) -> Limits {
    if schedule.tight {
        return Limits {
            messages_per_second: 50,
            message_burst: 40,
            replay_messages: 24,
            replay_bytes: 4 * 1024,
            replay_total_bytes: 8 * 1024,
            replay_reserve: 1024,
            grace: Duration::from_secs(10),
            ..Limits::default()
        };
    }
    let grace = if schedule.may_lose() { 30 } else { 24 * 3600 };
    Limits {
        messages_per_second: 1_000_000,
        message_burst: 1_000_000,
        grace: Duration::from_secs(grace),
        ..Limits::default()
    }
}

fn credentials() -> IceServers {
    let server = IceServer {
        urls: vec!["turn:turn.example".into()],
        username: Some("1:x".into()),
        credential: Some("p".into()),
    };
    IceServers { servers: vec![server], expires_in: Some(Duration::from_secs(60)) }
}

const SETTLE_ROUNDS: usize = 40;
