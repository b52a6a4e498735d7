//! Somebody in a room: a client of the SDK's core, and the checks of what the server promises to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use signaling_client::{Client, Event, Identity, Input, Moderation, Output};
use signaling_protocol::{
    AccessToken, CloseCode, ErrorCode, Instance, Outcome, Payload, PeerId, PeerState, RelayedSignal,
    RoomName, Secret, ServerMessage, Welcome,
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

/// A kick, until it is known what became of it.
#[derive(Debug)]
struct Removal {
    to: PeerId,
    seq: u64,
    /// They were seen to leave since, or an error said that they had already.
    done: bool,
}

/// A frame that is being handed to the client.
#[derive(Debug)]
enum Saying {
    Signal(PeerId, Mark),
    Question,
    Kick(PeerId),
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
    token: Option<AccessToken>,
    run: u32,
    /// Sessions, over all runs.
    life: u32,
    count: u32,
    saying: Option<Saying>,
    sent: Vec<Sent>,
    /// Questions without an answer yet, by their `seq`.
    asked: VecDeque<u64>,
    pub(super) answered: u64,
    kicks: Vec<Removal>,
    /// Whom it ever wanted to be removed.
    kicked: Vec<PeerId>,
    /// How often it was removed.
    removed: u64,
    refused: Vec<Mark>,
    latest: BTreeMap<PeerId, Mark>,
    got: BTreeSet<Mark>,
    view: BTreeMap<PeerId, (Instance, PeerState)>,
    version: u64,
    pub(super) resumed: u64,
    pub(super) resynced: u64,
}

impl Person {
    pub(super) fn new(index: usize, room: &RoomName, token: Option<AccessToken>) -> Self {
        let letter = char::from(b'a' + u8::try_from(index).expect("few people"));
        let secret: Secret = (letter.to_string().repeat(42) + "A").parse().expect("43 characters");
        let peer = PeerId::derive(room, &secret);
        Self {
            index,
            client: Client::new(identity(&secret, token.clone(), 0)),
            leaving: false,
            ended: false,
            farewell: String::new(),
            peer,
            secret,
            token,
            run: 0,
            life: 0,
            count: 0,
            saying: None,
            sent: Vec::new(),
            asked: VecDeque::new(),
            answered: 0,
            kicks: Vec::new(),
            kicked: Vec::new(),
            removed: 0,
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
        self.client = Client::new(identity(&self.secret, self.token.clone(), self.run));
        (self.leaving, self.ended) = (false, false);
        self.forget();
        self.view.clear();
    }

    /// Whether it wants to be there no longer, or must not.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaving || self.ended
    }

    /// What was said in a session that is over gets no answer any more.
    fn forget(&mut self) {
        self.sent.clear();
        self.asked.clear();
        self.kicks.clear();
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
        let Some(to) = self.seen(to) else { return Vec::new() };
        self.count += 1;
        let mark = Mark { sender: self.index, life: self.life, n: self.count };
        let negotiation = "n".parse().expect("a name");
        let payload = Payload::Description(to_raw_value(&mark).expect("numbers"));
        self.hand_in(now, Saying::Signal(to, mark), Input::Signal { to, negotiation, payload })
    }

    /// Asks who is kept out.
    pub(super) fn ask(&mut self, now: Instant) -> Vec<Output> {
        self.hand_in(now, Saying::Question, Input::Moderate(&Moderation::Bans))
    }

    /// Removes the `to`th of those that it sees.
    pub(super) fn kick(&mut self, now: Instant, to: usize) -> Vec<Output> {
        let Some(to) = self.seen(to) else { return Vec::new() };
        let kick = Moderation::Kick { to, ban: None, reason: None };
        self.hand_in(now, Saying::Kick(to), Input::Moderate(&kick))
    }

    fn seen(&self, to: usize) -> Option<PeerId> {
        self.view.keys().nth(to % self.view.len().max(1)).copied()
    }

    fn hand_in(&mut self, now: Instant, saying: Saying, input: Input<'_>) -> Vec<Output> {
        self.saying = Some(saying);
        let outputs = self.handle(now, input);
        // A client that is over keeps nothing.
        self.saying = None;
        outputs
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Welcome(welcome) => self.enter(*welcome),
            Event::Frame { seq, message } => self.hear(seq, message),
            Event::Kept(seq) => match self.saying.take() {
                Some(Saying::Signal(to, mark)) => {
                    self.sent.push(Sent { to, seq, mark, told: false, refused: false });
                }
                Some(Saying::Question) => self.asked.push_back(seq),
                Some(Saying::Kick(to)) => {
                    self.kicks.push(Removal { to, seq, done: false });
                    self.kicked.push(to);
                }
                None => {}
            },
            Event::Ended(code) => {
                let is_removed = code == Some(CloseCode::Kicked.code());
                assert!(
                    self.leaving || is_removed,
                    "{}: {code:?} to an honest client: {}",
                    self.index,
                    self.farewell
                );
                self.removed += u64::from(is_removed);
                self.ended = true;
                self.forget();
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
        self.forget();
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
                    self.refuse(re, error.code);
                } else {
                    self.farewell = error.message.into_owned();
                }
            }
            ServerMessage::Bans(_) => {
                self.asked.pop_front().expect("an answer answers a question");
                self.answered += 1;
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
                for kick in self.kicks.iter_mut().filter(|kick| kick.to == left.peer) {
                    kick.done = true;
                }
            }
            ServerMessage::RoomChanged(changed) => self.changed(changed.version),
            ServerMessage::Ice(_) => {}
            other => panic!("{other:?}"),
        }
    }

    /// An error answers what was sent.
    fn refuse(&mut self, re: u64, code: ErrorCode) {
        if let Some(kick) = self.kicks.iter_mut().find(|kick| kick.seq == re) {
            assert_eq!(code, ErrorCode::NoSuchPeer, "everybody may do this");
            kick.done = true;
            return;
        }
        let sent = self.sent.iter_mut().find(|sent| sent.seq == re).expect("it was sent");
        sent.refused = true;
        self.refused.push(sent.mark);
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
        instance(self.run)
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
        if !person.asked.is_empty() || person.kicks.iter().any(|kick| !kick.done) {
            wrong.push(format!("{who} was not answered: {:?}, {:?}", person.asked, person.kicks));
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
    for person in people {
        let kicks = people.iter().flat_map(|other| &other.kicked).filter(|kicked| **kicked == person.peer);
        if person.removed > kicks.count() as u64 {
            wrong.push(format!("{} was removed more often than anybody wanted", person.index));
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
    /// Questions that were answered, and people who were removed.
    pub(super) answered: u64,
    pub(super) removed: u64,
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
            tally.answered += person.answered;
            tally.removed += person.removed;
        }
        tally
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.signals += other.signals;
        self.lost += other.lost;
        self.connections += other.connections;
        self.resumed += other.resumed;
        self.resynced += other.resynced;
        self.answered += other.answered;
        self.removed += other.removed;
    }
}

fn identity(secret: &Secret, token: Option<AccessToken>, run: u32) -> Identity {
    Identity { secret: secret.clone(), instance: instance(run), name: None, token, password: None }
}

fn instance(run: u32) -> Instance {
    format!("run-{run}").parse().expect("an instance")
}
