//! Random schedules: people, connections that fail in every way, and a hub between them.
//!
//! `HUB_SEED` repeats a run (the seed is printed), `HUB_STEPS` makes it longer.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use signaling_protocol::{ClientFrame, ClientMessage, Door, Kick, PeerId, PeerState, SessionId};

use super::model::Person;
use super::{credentials, ms, secs, start};
use crate::hub::{ConnId, Counts, GoneReason, Grant, Hub, Input, Limits, Output, Unproven, Whom};

/// A connection as the network sees it.
#[derive(Debug, Default)]
struct Link {
    person: usize,
    up: VecDeque<String>,
    down: VecDeque<Down>,
    /// The server has read the hello.
    greeted: bool,
    /// Nothing new gets in; what is in the queues may still arrive.
    cut: bool,
    /// The server reads no more of it.
    deaf: bool,
    /// What goes up is held up on the way, for now.
    stalled: bool,
}

#[derive(Debug)]
enum Down {
    Frame(String),
    Close(u16),
}

struct Network {
    hub: Hub,
    now: Instant,
    rng: ChaCha20Rng,
    people: Vec<Person>,
    names: BTreeMap<PeerId, char>,
    links: BTreeMap<u64, Link>,
    next_link: u64,
    /// Sessions may end: pages are loaded anew, graces run out, buffers overflow.
    harsh: bool,
    delivered: usize,
    /// Removed, banned, locked out, without a token, with one that expired, denied.
    sent_away: [u32; 6],
    /// Tokens that are being verified.
    shown: Vec<SessionId>,
    renewed: u32,
    /// Of those who knocked.
    answered: u32,
    reported: usize,
}

#[test]
fn through_cuts_and_takeovers_every_signal_of_a_living_session_arrives_exactly_once_and_in_order() {
    let (seed, steps) = seed_and_steps("gentle");
    let limits = Limits {
        messages_per_second: 1_000_000,
        message_burst: 1_000_000,
        replay_messages: 1_000_000,
        replay_bytes: 1 << 30,
        grace: Duration::from_secs(24 * 3600),
        ..Limits::default()
    };
    let mut network = Network::new(limits, seed, false);
    for person in 0..network.people.len() {
        network.connect(person);
    }
    network.settle();
    for step in 1..=steps {
        network.step();
        if step % 1000 == 0 || step == steps {
            network.settle();
            network.check();
        }
    }
    let resumed: u32 = network.people.iter().map(|person| person.resumed).sum();
    let resynced: u32 = network.people.iter().map(|person| person.resynced).sum();
    println!(
        "{} signals arrived over {} connections, {resumed} resumes",
        network.delivered, network.next_link
    );
    assert_eq!((resynced, network.reported), (0, 0), "no session ended, so nothing may be lost");
    assert!(network.delivered > steps / 20 && resumed > 100, "the schedule did too little to prove anything");
    network.everyone_leaves();
}

#[test]
fn through_reloads_expiry_and_overflow_a_signal_arrives_once_or_its_sender_is_told() {
    let (seed, steps) = seed_and_steps("harsh");
    let limits = Limits {
        messages_per_second: 50,
        message_burst: 40,
        replay_messages: 24,
        replay_bytes: 4 * 1024,
        replay_total_bytes: 8 * 1024,
        replay_reserve: 1024,
        peers_per_room: 5,
        kick_memory: secs(60),
        knock_again: ms(200),
        ..Limits::default()
    };
    let mut network = Network::new(limits, seed, true);
    for step in 1..=steps {
        network.step();
        if step % 1000 == 0 || step == steps {
            network.settle();
            network.check();
        }
        if step % 10_000 == 0 {
            network.everyone_leaves();
        }
    }
    let resumed: u32 = network.people.iter().map(|person| person.resumed).sum();
    let resynced: u32 = network.people.iter().map(|person| person.resynced).sum();
    println!(
        "{} signals arrived, the loss of {} was told, {} connections, {resumed} resumes, {resynced} resyncs",
        network.delivered, network.reported, network.next_link
    );
    println!(
        "removed, banned, locked out, without a token, expired, denied: {:?}; renewed: {}, answered: {}",
        network.sent_away, network.renewed, network.answered
    );
    let enough = network.delivered > steps / 40
        && network.reported > 20
        && resumed > 100
        && resynced > 100
        && network.renewed > 50
        && network.answered + network.sent_away[2] > 5
        && [0, 1, 3, 4].iter().all(|&why| network.sent_away[why] > 5);
    assert!(enough, "the schedule did too little to prove anything");
    network.everyone_leaves();
}

impl Network {
    fn new(limits: Limits, seed: u64, harsh: bool) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let hub = Hub::new(limits, ChaCha20Rng::seed_from_u64(rng.next_u64()));
        let people = "abcdefgh".chars().zip(["lobby", "hall"].into_iter().cycle());
        let people: Vec<_> = people.map(|(letter, room)| Person::new(letter, room)).collect();
        let name = |person: &Person| {
            let secret = (person.letter.to_string().repeat(42) + "A").parse().unwrap();
            (PeerId::derive(&person.room.parse().unwrap(), &secret), person.letter)
        };
        let names = people.iter().map(name).collect();
        let links = BTreeMap::new();
        Self {
            hub,
            now: start(),
            rng,
            people,
            names,
            links,
            next_link: 0,
            harsh,
            delivered: 0,
            sent_away: [0; 6],
            shown: Vec::new(),
            renewed: 0,
            answered: 0,
            reported: 0,
        }
    }

    /// One thing happens.
    fn step(&mut self) {
        let person = self.rng.random_range(0..self.people.len());
        match self.rng.random_range(0..1000) {
            0..300 => self.some_link_carries_up(),
            300..620 => self.some_link_carries_down(),
            620..780 => self.speak(person),
            780..800 => self.repeat(person),
            800..830 => self.cut(person),
            830..860 => self.forget_some_link(),
            860..880 => self.notice(person),
            880..920 if self.people[person].link.is_none() => self.connect(person),
            // A second connection while the first stands: a takeover.
            880..888 => self.connect(person),
            888..892 => self.release_some_link(),
            892..960 => {
                let time = ms(self.rng.random_range(0..100));
                self.pass(time);
            }
            960..964 => {
                let time = secs(self.rng.random_range(0..20));
                self.pass(time);
            }
            964..967 if self.harsh => {
                self.people[person].reload();
                self.connect(person);
            }
            967..969 if self.harsh => self.bye(person),
            969..970 if self.harsh => self.pass(secs(40)),
            970..975 if self.harsh => self.moderate(person),
            975..980 if self.harsh => {
                let token = self.people[person].show_token();
                self.write(person, token);
            }
            980..985 if self.harsh => self.verify_some(person),
            985..995 if self.harsh => self.answer_some(),
            _ => self.some_link_carries_up(),
        }
    }

    fn connect(&mut self, person: usize) {
        let now = self.now;
        let someone = &mut self.people[person];
        if someone.left && !self.harsh || someone.wait_until.is_some_and(|until| now < until) {
            return;
        }
        if someone.left {
            someone.reload();
        }
        someone.wait_until = None;
        someone.welcomed = false;
        self.next_link += 1;
        someone.link = Some(self.next_link);
        let up = VecDeque::from([someone.hello()]);
        // The connection before stays as it is: what it holds may yet arrive.
        let stalled = self.rng.random_bool(0.3);
        self.links.insert(self.next_link, Link { person, up, stalled, ..Link::default() });
    }

    fn speak(&mut self, person: usize) {
        let others: Vec<PeerId> = self.people[person].view.keys().copied().collect();
        if others.is_empty() || self.people[person].left || self.people[person].peer.is_none() {
            return;
        }
        let to = others[self.rng.random_range(0..others.len())];
        let forge = self.rng.random_bool(0.1).then_some(to);
        let frame = self.people[person].signal(to, forge);
        self.write(person, frame);
    }

    fn repeat(&mut self, person: usize) {
        if let Some(frame) = self.people[person].repeat() {
            self.write(person, frame);
        }
    }

    /// Somebody who knocked is answered.
    fn answer_some(&mut self) {
        let asked = |person: &Person| person.welcomed && !person.left && !person.knocks.is_empty();
        let Some(person) = self.people.iter().position(asked) else { return };
        let someone = &mut self.people[person];
        let Some(&to) = someone.knocks.first() else { return };
        let frame = someone.answer(to, self.rng.random_bool(0.5));
        self.answered += 1;
        self.write(person, frame);
    }

    /// What a token says comes at some time, or it is not good.
    fn verify_some(&mut self, person: usize) {
        if self.shown.is_empty() {
            return;
        }
        let session = self.shown.swap_remove(self.rng.random_range(0..self.shown.len()));
        let expires = Some(self.now + secs(self.rng.random_range(1..100)));
        // Of some user: perhaps not of that of the session.
        let grant = Grant { expires, ..self.people[person].grant() };
        let verdict = match self.rng.random_range(0..10) {
            0 => Err(Unproven::Refused),
            1 => Err(Unproven::Unverified),
            _ => Ok(grant),
        };
        self.renewed += 1;
        self.input(Input::Grant { session, verdict });
    }

    /// A moderator, or the operator, does something to the room.
    fn moderate(&mut self, person: usize) {
        let ban = self.rng.random_bool(0.5).then(|| secs(self.rng.random_range(1..60)));
        let others: Vec<PeerId> = self.people[person].view.keys().copied().collect();
        let door = ["locked", "knock", "knock", "open", "open"][self.rng.random_range(0..5)];
        let someone = &mut self.people[person];
        if !someone.welcomed || someone.left {
            return;
        }
        let all: Vec<PeerId> = self.people.iter().filter_map(|someone| someone.peer).collect();
        let anybody = all[self.rng.random_range(0..all.len())];
        let someone = &mut self.people[person];
        let frame = match self.rng.random_range(0..6) {
            4 => someone.lift(anybody),
            5 => someone.ask_for_bans(),
            0 if !others.is_empty() => someone.kick(others[self.rng.random_range(0..others.len())], ban),
            0 | 1 => someone.set_door(door),
            2 => {
                let (room, peer) = (someone.room.parse().unwrap(), someone.peer.expect("it was welcomed"));
                if ban.is_some() {
                    self.another_ban(peer);
                }
                return self.input(Input::Kick { whom: Whom::Peer(room, peer), ban, reason: None });
            }
            _ => {
                let (room, door) =
                    (someone.room.parse().unwrap(), serde_json::from_value(door.into()).unwrap());
                return self.input(Input::Door { room, door });
            }
        };
        self.write(person, frame);
    }

    fn bye(&mut self, person: usize) {
        if self.people[person].welcomed {
            let frame = self.people[person].bye();
            self.write(person, frame);
        }
    }

    /// Writes to the person's connection, if it has one that was welcomed. A frame that is not written now is
    /// written after the next welcome.
    fn write(&mut self, person: usize, frame: String) {
        let someone = &self.people[person];
        let Some(link) = someone.link.filter(|_| someone.welcomed) else { return };
        if let Some(link) = self.links.get_mut(&link).filter(|link| !link.cut) {
            link.up.push_back(frame);
        }
    }

    /// The connection breaks: of what is under way some is lost, at either end, and nobody is told.
    fn cut(&mut self, person: usize) {
        let Some(link) = self.people[person].link else { return };
        let link = self.links.get_mut(&link).expect("links of people exist");
        link.cut = true;
        link.up.truncate(self.rng.random_range(0..=link.up.len()));
        link.down.truncate(self.rng.random_range(0..=link.down.len()));
    }

    /// The client notices that its connection is broken.
    fn notice(&mut self, person: usize) {
        let Some(link) = self.people[person].link else { return };
        if self.links[&link].cut {
            self.people[person].link = None;
            self.people[person].welcomed = false;
        }
    }

    /// The server notices that a connection is broken that nobody uses, or never does.
    fn forget_some_link(&mut self) {
        let candidates = self.links.iter().filter(|(id, link)| self.people[link.person].link != Some(**id));
        let Some(id) = pick(&mut self.rng, candidates.map(|(id, _)| *id)) else { return };
        self.links.remove(&id);
        if self.rng.random_bool(0.7) {
            let why = if self.rng.random() { GoneReason::Closed } else { GoneReason::SlowReader };
            self.input(Input::Gone { conn: ConnId(id), why });
        }
    }

    fn release_some_link(&mut self) {
        let stalled = self.links.iter().filter(|(_, link)| link.stalled);
        let Some(id) = pick(&mut self.rng, stalled.map(|(id, _)| *id)) else { return };
        self.links.entry(id).and_modify(|link| link.stalled = false);
    }

    fn some_link_carries_up(&mut self) {
        let busy = self.links.iter().filter(|(_, link)| !link.up.is_empty() && !link.stalled);
        if let Some(id) = pick(&mut self.rng, busy.map(|(id, _)| *id)) {
            self.carry_up(id);
        }
    }

    fn some_link_carries_down(&mut self) {
        let busy = self.links.iter().filter(|(_, link)| !link.down.is_empty());
        if let Some(id) = pick(&mut self.rng, busy.map(|(id, _)| *id)) {
            self.carry_down(id);
        }
    }

    fn carry_up(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(text) = link.up.pop_front().filter(|_| !link.deaf) else { return };
        let conn = ConnId(id);
        let frame = ClientFrame::parse(text.as_bytes()).expect("the model's frames parse");
        if link.greeted {
            if let ClientMessage::Kick(Kick { to: Some(peer), ban: Some(_), .. })
            | ClientMessage::Lift(Some(peer)) = &frame.message
            {
                self.another_ban(*peer);
            }
            return self.input(Input::Frame { conn, frame });
        }
        link.greeted = true;
        let room = self.people[link.person].room.parse().unwrap();
        let ClientMessage::Hello(hello) = frame.message else { panic!("the first frame is a hello") };
        let expected = self.hub.session_for(&room, frame.ack, &hello);
        let someone = &self.people[link.person];
        let mut grant = someone.grant();
        if self.harsh && self.rng.random_bool(0.3) {
            grant.expires = Some(self.now + secs(self.rng.random_range(1..100)));
        }
        // Whoever comes back may leave it at the session that it has.
        let grant = Some(grant).filter(|_| hello.resume.is_none() || self.rng.random_bool(0.8));
        let banned = someone.banned_until.is_some_and(|until| self.now < until);
        let ice = credentials(secs(20));
        self.input(Input::Attach { conn, room, ack: frame.ack, hello, grant, ice });
        let welcome = self.links[&id].down.back();
        if let Some(Down::Frame(text)) = welcome
            && text.contains("welcome")
        {
            assert!(text.contains(&expected.to_string()), "the session was announced beforehand");
            assert!(!banned, "a ban holds");
        }
    }

    fn carry_down(&mut self, id: u64) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(down) = link.down.pop_front() else { return };
        let index = link.person;
        let someone = &mut self.people[index];
        if someone.link != Some(id) {
            return;
        }
        match down {
            Down::Frame(text) => {
                let before = someone.got.len();
                let answers = someone.read(&text, &self.names, self.now);
                self.delivered += someone.got.len() - before;
                for answer in answers {
                    self.write(index, answer);
                }
            }
            Down::Close(code) => {
                let come_back = [4001, 4002, 4101, 4102, 4104].contains(&code);
                let sent_away = self.harsh && [4204, 4205, 4206, 4207, 4208, 4209].contains(&code);
                assert!(
                    come_back || sent_away || code == 1000 && someone.left,
                    "{}: {code} to an honest client",
                    someone.letter
                );
                someone.link = None;
                someone.welcomed = false;
                someone.left |= sent_away;
                if sent_away {
                    self.sent_away[usize::from(code - 4204)] += 1;
                }
                self.links.remove(&id);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) = self.hub.deadline().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
        }
        self.now = until;
    }

    fn input(&mut self, input: Input) {
        let outputs: Vec<Output> = self.hub.handle(self.now, input).collect();
        let mut refreshes = Vec::new();
        for output in outputs {
            match output {
                Output::Send { conn, frame } => self.push(conn, Down::Frame(frame.to_text())),
                Output::Close { conn, code } => {
                    self.push(conn, Down::Close(code.code()));
                    if let Some(link) = self.links.get_mut(&conn.0) {
                        link.deaf = true;
                    }
                }
                Output::RefreshIce { session, .. } => refreshes.push(session),
                Output::Verify { session, .. } => self.shown.push(session),
                Output::Event(_) => {}
            }
        }
        for session in refreshes {
            self.input(Input::Ice { session, ice: credentials(secs(20)) });
        }
    }

    /// It takes the place of the one that the peer was told, and may end sooner.
    fn another_ban(&mut self, peer: PeerId) {
        self.people
            .iter_mut()
            .filter(|someone| someone.peer == Some(peer))
            .for_each(|someone| someone.banned_until = None);
    }

    fn push(&mut self, conn: ConnId, down: Down) {
        if let Some(link) = self.links.get_mut(&conn.0)
            && let Down::Frame(text) = &down
            && text.contains(r#""code":"banned""#)
        {
            let error: serde_json::Value = serde_json::from_str(text).unwrap();
            let rest = error["retry_after_ms"].as_u64().expect("a ban says how long it is");
            self.people[link.person].banned_until = Some(self.now + ms(rest));
        }
        if let Some(link) = self.links.get_mut(&conn.0).filter(|link| !link.cut) {
            assert!(!link.deaf, "something after the close");
            link.down.push_back(down);
        }
    }

    /// The network heals: whoever has not left connects, and everything arrives. It takes 50 seconds, in which the
    /// sessions of those who will not come back end (ping interval, deadline and grace are 45).
    fn settle(&mut self) {
        for _ in 0..20 {
            // A moderator's word that was under way may have moved one since.
            for room in ["lobby", "hall"] {
                self.input(Input::Door { room: room.parse().unwrap(), door: Door::Open });
            }
            for person in 0..self.people.len() {
                self.notice(person);
                if self.people[person].link.is_none() && !self.people[person].left {
                    self.connect(person);
                }
            }
            self.pass(ms(2500));
            self.carry_everything();
        }
        for person in 0..self.people.len() {
            let ack = self.people[person].unsequenced("ack");
            self.write(person, ack);
        }
        self.carry_everything();
    }

    fn carry_everything(&mut self) {
        self.links.values_mut().for_each(|link| link.stalled = false);
        while self.links.values().any(|link| !link.up.is_empty() || !link.down.is_empty()) {
            for id in self.links.keys().copied().collect::<Vec<_>>() {
                self.carry_up(id);
                self.carry_down(id);
            }
        }
    }

    /// What holds once everything has arrived.
    fn check(&mut self) {
        super::assert_consistent(&self.hub);
        let got = |to: &PeerId, mark: &_| {
            self.people.iter().any(|person| person.peer == Some(*to) && person.got.contains(mark))
        };
        for person in self.people.iter().filter(|person| !person.left) {
            assert!(person.welcomed, "{} is not back: {person:?}", person.letter);
            let missing: Vec<_> = person.missing(got).collect();
            assert!(missing.is_empty(), "{} was not told of the loss of {missing:?}", person.letter);

            let others = self
                .people
                .iter()
                .filter(|other| other.room == person.room && other.letter != person.letter && !other.left);
            let present: BTreeMap<_, _> =
                others.map(|other| (other.peer.unwrap(), (other.instance(), PeerState::Here))).collect();
            assert_eq!(person.view, present, "{} sees the room as it is", person.letter);
        }
        assert_eq!(self.hub.counts().buffered_frames, 0, "what was seen is not kept");
        for person in &mut self.people {
            let (_, told) = person.tally();
            self.reported += told;
            person.forget_sent();
        }
    }

    /// Some say bye, some just go. Nothing may remain.
    fn everyone_leaves(&mut self) {
        for person in 0..self.people.len() {
            if self.rng.random() {
                self.bye(person);
            }
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            while self.links.get(&id).is_some_and(|link| !link.up.is_empty()) {
                self.carry_up(id);
            }
        }
        self.links.clear();
        let patience = self.hub.limits().ping_interval + self.hub.limits().ping_deadline;
        self.pass(patience + self.hub.limits().grace + self.hub.limits().kick_memory);
        assert_eq!(self.hub.counts(), Counts::default());
        assert_eq!(self.hub.deadline(), None);
        for person in &mut self.people {
            person.reload();
        }
    }
}

fn pick(rng: &mut ChaCha20Rng, candidates: impl Iterator<Item = u64>) -> Option<u64> {
    let candidates: Vec<_> = candidates.collect();
    (!candidates.is_empty()).then(|| candidates[rng.random_range(0..candidates.len())])
}

fn seed_and_steps(what: &str) -> (u64, usize) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("HUB_SEED").unwrap_or_else(|| RandomState::new().hash_one(what));
    let steps = number("HUB_STEPS").unwrap_or(100_000);
    println!("{what}: HUB_SEED={seed} HUB_STEPS={steps}");
    (seed, usize::try_from(steps).unwrap())
}
