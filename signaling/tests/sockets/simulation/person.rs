//! Somebody in a room: a client of the SDK's core, and the checks of what the server promises to it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use signaling_client::{Client, Event, Identity, Input, Output};
use signaling_protocol::{
    Instance, Outcome, Payload, PeerId, PeerState, RelayedSignal, RoomName, Secret, ServerMessage, Welcome,
};

/// What a signal carries: who really sent it, in which session of theirs, the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    sender: usize,
    life: u32,
    n: u32,
}

/// A signal, until it is known what became of it.
#[derive(Debug)]
struct Sent {
    to: PeerId,
    seq: u64,
    mark: Mark,
    /// The sender was told of its loss: by the addressee's resync or leaving.
    told: bool,
    /// The sender was told by an error that it will never arrive.
    refused: bool,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) index: usize,
    pub(super) client: Client,
    /// Said bye, or wanted to.
    leaving: bool,
    pub(super) ended: bool,
    /// What the server said before a close.
    farewell: String,
    pub(super) peer: PeerId,
    secret: Secret,
    run: u32,
    /// Sessions, over all runs.
    life: u32,
    count: u32,
    /// The signal that is being handed to the client.
    saying: Option<(PeerId, Mark)>,
    sent: Vec<Sent>,
    refused: Vec<Mark>,
    latest: BTreeMap<PeerId, Mark>,
    got: BTreeSet<Mark>,
    view: BTreeMap<PeerId, (Instance, PeerState)>,
    version: u64,
    pub(super) resumed: u64,
    pub(super) resynced: u64,
}

impl Person {
    pub(super) fn new(index: usize, room: &RoomName) -> Self {
        let letter = char::from(b'a' + u8::try_from(index).expect("few people"));
        let secret: Secret = (letter.to_string().repeat(42) + "A").parse().expect("43 characters");
        let peer = PeerId::derive(room, &secret);
        Self {
            index,
            client: Client::new(identity(&secret, 0)),
            leaving: false,
            ended: false,
            farewell: String::new(),
            peer,
            secret,
            run: 0,
            life: 0,
            count: 0,
            saying: None,
            sent: Vec::new(),
            refused: Vec::new(),
            latest: BTreeMap::new(),
            got: BTreeSet::new(),
            view: BTreeMap::new(),
            version: 0,
            resumed: 0,
            resynced: 0,
        }
    }

    /// The page is loaded anew. The caller forgets the connections of the one before.
    pub(super) fn reload(&mut self) {
        self.run += 1;
        self.client = Client::new(identity(&self.secret, self.run));
        (self.leaving, self.ended) = (false, false);
        self.sent.clear();
        self.view.clear();
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Leaves for good.
    pub(super) fn leave(&mut self, now: Instant) -> Vec<Output> {
        self.leaving = true;
        self.handle(now, Input::Bye)
    }

    /// Hands the input to the client and gives what is to be done with connections.
    pub(super) fn handle(&mut self, now: Instant, input: Input<'_>) -> Vec<Output> {
        let outputs: Vec<Output> = self.client.handle(now, input).collect();
        let (events, others): (Vec<_>, Vec<_>) =
            outputs.into_iter().partition(|output| matches!(output, Output::Event(_)));
        for output in events {
            let Output::Event(event) = output else { continue };
            self.note(event);
        }
        others
    }

    /// Says one thing to the `to`th of those that it sees.
    pub(super) fn say(&mut self, now: Instant, to: usize) -> Vec<Output> {
        let Some(&to) = self.view.keys().nth(to % self.view.len().max(1)) else { return Vec::new() };
        self.count += 1;
        let mark = Mark { sender: self.index, life: self.life, n: self.count };
        self.saying = Some((to, mark));
        let negotiation = "n".parse().expect("a name");
        let payload = Payload::Description(to_raw_value(&mark).expect("numbers"));
        let outputs = self.handle(now, Input::Signal { to, negotiation, payload });
        // A client that is over keeps nothing.
        self.saying = None;
        outputs
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Welcome(welcome) => self.enter(*welcome),
            Event::Frame { seq, message } => self.hear(seq, message),
            Event::Kept(seq) => {
                if let Some((to, mark)) = self.saying.take() {
                    self.sent.push(Sent { to, seq, mark, told: false, refused: false });
                }
            }
            Event::Ended(code) => {
                assert!(self.leaving, "{}: {code:?} to an honest client: {}", self.index, self.farewell);
                self.ended = true;
                self.sent.clear();
            }
        }
    }

    fn enter(&mut self, welcome: Welcome) {
        assert_eq!(welcome.peer, self.peer);
        assert_eq!(welcome.reason.is_some(), welcome.outcome == Outcome::Resync);
        if welcome.outcome == Outcome::Resumed {
            self.resumed += 1;
            return;
        }
        self.resynced += u64::from(self.life > 0);
        self.life += 1;
        self.sent.clear();
        self.version = welcome.room.version;
        self.view =
            welcome.room.peers.into_iter().map(|peer| (peer.peer, (peer.instance, peer.state))).collect();
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is asked for here")]
    fn hear(&mut self, seq: u64, message: ServerMessage) {
        match message {
            ServerMessage::Signal(signal) => self.receive(&signal),
            ServerMessage::Error(error) => {
                if let (Some(re), 1..) = (error.re, seq) {
                    let sent = self.sent.iter_mut().find(|sent| sent.seq == re);
                    let sent = sent.expect("an error answers a signal that was sent");
                    sent.refused = true;
                    self.refused.push(sent.mark);
                } else {
                    self.farewell = error.message.into_owned();
                }
            }
            ServerMessage::PeerJoined(joined) => {
                self.changed(joined.version);
                assert_eq!(joined.polite, self.peer.is_polite_towards(&joined.peer));
                let before = self.view.insert(joined.peer, (joined.instance, PeerState::Here));
                assert_eq!(before.is_some(), joined.resync, "a peer joins once, or again");
                self.told_about(joined.peer);
            }
            ServerMessage::PeerChanged(changed) => {
                self.changed(changed.version);
                let (_, state) = self.view.get_mut(&changed.peer).expect("a known peer");
                assert_ne!(*state, changed.state, "a change changes something");
                *state = changed.state;
            }
            ServerMessage::PeerLeft(left) => {
                self.changed(left.version);
                self.view.remove(&left.peer).expect("a known peer leaves");
                self.told_about(left.peer);
            }
            ServerMessage::RoomChanged(changed) => self.changed(changed.version),
            ServerMessage::Ice(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self, signal: &RelayedSignal) {
        let mark: Mark = serde_json::from_str(signal.payload.raw().get()).expect("a mark");
        let before = self.latest.insert(signal.from, mark);
        assert!(before < Some(mark), "{}: {mark:?} after {before:?}", self.index);
        assert!(before.is_none_or(|before| before.sender == mark.sender), "the sender was forged");
        self.got.insert(mark);
    }

    fn changed(&mut self, version: u64) {
        assert!(self.version < version, "{}: version {version} after {}", self.index, self.version);
        self.version = version;
    }

    fn told_about(&mut self, peer: PeerId) {
        for sent in self.sent.iter_mut().filter(|sent| sent.to == peer) {
            sent.told = true;
        }
    }

    fn instance(&self) -> Instance {
        identity(&self.secret, self.run).instance
    }
}

/// What is wrong once everything has arrived: empty when nothing is. Counts the signals that came and those whose loss was
/// told.
pub(super) fn audit(people: &[Person]) -> Vec<String> {
    let mut wrong = Vec::new();
    for person in people.iter().filter(|person| !person.ended) {
        let who = person.index;
        if !person.client.is_open() {
            wrong.push(format!("{who} is not back"));
        }
        for sent in person.sent.iter().filter(|sent| !sent.told && !sent.refused) {
            let got = people.iter().any(|other| other.peer == sent.to && other.got.contains(&sent.mark));
            if !got {
                wrong.push(format!("{who} was not told of the loss of {:?}", sent.mark));
            }
        }
        let others = people.iter().filter(|other| other.index != who && !other.ended);
        let present: BTreeMap<_, _> =
            others.map(|other| (other.peer, (other.instance(), PeerState::Here))).collect();
        if person.view != present {
            wrong.push(format!("{who} sees {:?} instead of {present:?}", person.view));
        }
    }
    for mark in people.iter().flat_map(|person| &person.refused) {
        if people.iter().any(|person| person.got.contains(mark)) {
            wrong.push(format!("{mark:?} was refused and arrived"));
        }
    }
    wrong
}

/// What a schedule did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) signals: u64,
    pub(super) lost: u64,
    pub(super) connections: u64,
    pub(super) resumed: u64,
    pub(super) resynced: u64,
}

impl Tally {
    pub(super) fn of(people: &[Person], connections: u64) -> Self {
        let mut tally = Self { connections, ..Self::default() };
        for person in people {
            let lost = |sent: &&Sent| !people.iter().any(|other| other.got.contains(&sent.mark));
            tally.signals += person.got.len() as u64;
            tally.lost += person.sent.iter().filter(lost).count() as u64;
            tally.resumed += person.resumed;
            tally.resynced += person.resynced;
        }
        tally
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.signals += other.signals;
        self.lost += other.lost;
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.resynced += other.resynced;
    }
}

fn identity(secret: &Secret, run: u32) -> Identity {
    let instance = format!("run-{run}").parse().expect("an instance");
    Identity { secret: secret.clone(), instance, name: None }
}
