//! A client that keeps its side of PROTOCOL.md, and checks what the server promises as it goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use signaling_protocol::{Door, ErrorCode, Outcome, PeerId, PeerState, ServerFrame, ServerMessage, Welcome};

use crate::hub::{Grant, Subject};

/// What a signal of the model carries: who really sent it, in which life of theirs, the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) sender: char,
    pub(super) life: u32,
    pub(super) n: u32,
}

/// A signal that was sent, until it is known what became of it.
#[derive(Debug)]
struct Sent {
    to: PeerId,
    seq: u64,
    mark: Mark,
    /// The sender was told of its loss: by an error, or by the addressee's resync or leaving.
    told: bool,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) letter: char,
    pub(super) room: &'static str,
    /// Page loads.
    pub(super) run: u32,
    /// Said bye and did not come again.
    pub(super) left: bool,
    /// The connection in use.
    pub(super) link: Option<u64>,
    pub(super) welcomed: bool,
    /// Does not connect before.
    pub(super) wait_until: Option<Instant>,
    pub(super) peer: Option<PeerId>,
    token: Option<String>,
    /// Sessions, over all page loads.
    life: u32,
    seq: u64,
    received: u64,
    acked: u64,
    /// Sequenced frames without their envelope, until they are acknowledged.
    unacked: VecDeque<(u64, String)>,
    count: u32,
    sent: Vec<Sent>,
    /// The `seq` of what it asked for as a moderator.
    orders: BTreeSet<u64>,
    /// The server said so.
    pub(super) banned_until: Option<Instant>,
    /// The latest signal of each sender.
    latest: BTreeMap<char, Mark>,
    pub(super) got: BTreeSet<Mark>,
    pub(super) view: BTreeMap<PeerId, (String, PeerState)>,
    version: u64,
    pub(super) door: Door,
    /// Who waits before the door, as far as it was told.
    pub(super) knocks: BTreeSet<PeerId>,
    pub(super) resumed: u32,
    pub(super) resynced: u32,
}

impl Person {
    pub(super) fn new(letter: char, room: &'static str) -> Self {
        Self {
            letter,
            room,
            run: 0,
            left: false,
            link: None,
            welcomed: false,
            wait_until: None,
            peer: None,
            token: None,
            life: 0,
            seq: 0,
            received: 0,
            acked: 0,
            unacked: VecDeque::new(),
            count: 0,
            sent: Vec::new(),
            orders: BTreeSet::new(),
            banned_until: None,
            latest: BTreeMap::new(),
            got: BTreeSet::new(),
            view: BTreeMap::new(),
            version: 0,
            door: Door::Open,
            knocks: BTreeSet::new(),
            resumed: 0,
            resynced: 0,
        }
    }

    pub(super) fn instance(&self) -> String {
        format!("{}-{}", self.letter, self.run)
    }

    /// Half of them moderate their room, and two are one user.
    pub(super) fn grant(&self) -> Grant {
        let moderates = self.letter < 'e';
        let subject = ['e', 'g'].contains(&self.letter).then(|| Subject::new("eg").unwrap());
        Grant { subject, may_kick: moderates, may_lock: moderates, ..Grant::default() }
    }

    pub(super) fn hello(&self) -> String {
        let secret = self.letter.to_string().repeat(42) + "A";
        let resume = self.token.as_ref().map_or(String::new(), |token| format!(r#","resume":"{token}""#));
        let ack = if self.token.is_some() { self.received } else { 0 };
        let instance = self.instance();
        format!(
            r#"{{"type":"hello","seq":0,"ack":{ack},"secret":"{secret}","instance":"{instance}"{resume}}}"#
        )
    }

    /// The page is loaded anew: all is forgotten but the secret.
    pub(super) fn reload(&mut self) {
        self.run += 1;
        self.left = false;
        self.link = None;
        self.welcomed = false;
        self.wait_until = None;
        self.token = None;
        self.sent.clear();
        self.unacked.clear();
        self.view.clear();
    }

    /// Queues a signal and gives the frame to write, if there is a welcomed connection to write it to. `forge` claims
    /// to be somebody else.
    pub(super) fn signal(&mut self, to: PeerId, forge: Option<PeerId>) -> String {
        self.count += 1;
        let mark = Mark { sender: self.letter, life: self.life, n: self.count };
        let payload = serde_json::to_string(&mark).unwrap();
        let from = forge.map_or(String::new(), |from| format!(r#""from":"{from}","#));
        let frame = self.sequenced(format!(
            r#""type":"signal",{from}"to":"{to}","negotiation":"n","description":{payload}"#
        ));
        self.sent.push(Sent { to, seq: self.seq, mark, told: false });
        frame
    }

    pub(super) fn bye(&mut self) -> String {
        self.left = true;
        self.sequenced(r#""type":"bye""#.to_owned())
    }

    pub(super) fn kick(&mut self, to: PeerId, ban: Option<Duration>) -> String {
        let ban = ban.map_or(String::new(), |ban| format!(r#","ban_ms":{}"#, ban.as_millis()));
        self.orders.insert(self.seq + 1);
        self.sequenced(format!(r#""type":"kick","to":"{to}"{ban}"#))
    }

    pub(super) fn lift(&mut self, to: PeerId) -> String {
        self.orders.insert(self.seq + 1);
        self.sequenced(format!(r#""type":"lift","to":"{to}""#))
    }

    pub(super) fn ask_for_bans(&mut self) -> String {
        self.orders.insert(self.seq + 1);
        self.sequenced(r#""type":"bans""#.to_owned())
    }

    pub(super) fn answer(&mut self, to: PeerId, admit: bool) -> String {
        self.orders.insert(self.seq + 1);
        let answer = if admit { "admit" } else { "deny" };
        self.sequenced(format!(r#""type":"{answer}","to":"{to}""#))
    }

    pub(super) fn set_door(&mut self, door: &str) -> String {
        self.orders.insert(self.seq + 1);
        self.sequenced(format!(r#""type":"door","door":"{door}""#))
    }

    pub(super) fn show_token(&mut self) -> String {
        format!(r#"{{"type":"token","seq":0,"ack":{},"token":"another"}}"#, self.received)
    }

    pub(super) fn unsequenced(&mut self, kind: &str) -> String {
        self.acked = self.received;
        format!(r#"{{"type":"{kind}","seq":0,"ack":{}}}"#, self.received)
    }

    fn sequenced(&mut self, fields: String) -> String {
        self.seq += 1;
        let text = self.envelope(self.seq, &fields);
        self.unacked.push_back((self.seq, fields));
        text
    }

    fn envelope(&self, seq: u64, fields: &str) -> String {
        format!(r#"{{"seq":{seq},"ack":{},{fields}}}"#, self.received)
    }

    /// The frame that was sent last and is not acknowledged: what a confused client may send twice.
    pub(super) fn repeat(&self) -> Option<String> {
        self.unacked.back().map(|(seq, fields)| self.envelope(*seq, fields))
    }

    /// Reads one frame and gives the frames to answer with.
    pub(super) fn read(&mut self, text: &str, people: &BTreeMap<PeerId, char>, now: Instant) -> Vec<String> {
        let frame = ServerFrame::parse(text).expect("the server's frames parse");
        while self.unacked.front().is_some_and(|(seq, _)| *seq <= frame.ack) {
            self.unacked.pop_front();
        }
        if frame.seq != 0 {
            assert_eq!(frame.seq, self.received + 1, "{}: a gap or a repetition: {text}", self.letter);
            self.received = frame.seq;
        }
        match frame.message {
            ServerMessage::Welcome(welcome) => return self.enter(*welcome),
            ServerMessage::Ping => return vec![self.unsequenced("pong")],
            ServerMessage::Ack
            | ServerMessage::Ice(_)
            | ServerMessage::Notice(_)
            | ServerMessage::Bans(_)
            | ServerMessage::Granted(_)
            | ServerMessage::GoAway(_) => {}
            ServerMessage::Knock(knock) => _ = self.knocks.insert(knock.peer),
            ServerMessage::KnockEnded(ended) => _ = self.knocks.remove(&ended.peer),
            ServerMessage::Signal(signal) => {
                let mark: Mark = serde_json::from_str(signal.payload.raw().get()).unwrap();
                assert_eq!(people.get(&signal.from), Some(&mark.sender), "the sender was forged");
                let before = self.latest.insert(mark.sender, mark);
                assert!(before < Some(mark), "{}: {mark:?} after {before:?}", self.letter);
                self.got.insert(mark);
            }
            ServerMessage::Error(error) => {
                if let Some(re) = error.re {
                    match self.sent.iter_mut().find(|sent| sent.seq == re && frame.seq != 0) {
                        Some(sent) => sent.told = true,
                        None => assert!(self.orders.contains(&re), "an error answers a frame that was sent"),
                    }
                }
                if matches!(
                    error.code,
                    ErrorCode::Kicked
                        | ErrorCode::Banned
                        | ErrorCode::Locked
                        | ErrorCode::TokenExpired
                        | ErrorCode::Denied
                ) {
                    // The close may get lost.
                    self.left = true;
                } else if let Some(after) = error.retry_after_ms {
                    self.wait_until = Some(now + super::ms(after));
                }
            }
            ServerMessage::PeerJoined(joined) => {
                self.changed(joined.version);
                assert_eq!(joined.polite, self.peer.unwrap() < joined.peer);
                let seen = (joined.instance.as_str().to_owned(), PeerState::Here);
                let before = self.view.insert(joined.peer, seen);
                assert_eq!(before.is_some(), joined.resync, "a peer joins once, or again");
                self.told_about(joined.peer);
            }
            ServerMessage::PeerChanged(changed) => {
                self.changed(changed.version);
                let (_, state) = self.view.get_mut(&changed.peer).expect("a known peer");
                assert_ne!(
                    std::mem::replace(state, changed.state),
                    changed.state,
                    "a change changes something"
                );
            }
            ServerMessage::RoomChanged(changed) => {
                self.changed(changed.version);
                assert_ne!(
                    std::mem::replace(&mut self.door, changed.door),
                    changed.door,
                    "a change changes something"
                );
            }
            ServerMessage::PeerLeft(left) => {
                self.changed(left.version);
                self.view.remove(&left.peer).expect("a known peer leaves");
                self.told_about(left.peer);
            }
        }
        if self.received >= self.acked + 8 { vec![self.unsequenced("ack")] } else { Vec::new() }
    }

    /// What is sent at once after a welcome: an acknowledgement, and all that the server has not processed.
    fn enter(&mut self, welcome: Welcome) -> Vec<String> {
        assert_eq!(welcome.outcome == Outcome::New, self.token.is_none());
        assert_eq!(welcome.reason.is_some(), welcome.outcome == Outcome::Resync);
        self.peer = Some(welcome.peer);
        self.token = Some(welcome.resume.as_str().to_owned());
        self.welcomed = true;
        if welcome.outcome == Outcome::Resumed {
            self.resumed += 1;
        } else {
            self.resynced += u32::from(welcome.outcome == Outcome::Resync);
            self.life += 1;
            (self.seq, self.received, self.acked) = (0, 0, 0);
            self.unacked.clear();
            self.sent.clear();
            self.orders.clear();
            self.version = welcome.room.version;
            self.door = welcome.room.door;
            self.knocks.clear();
            let peers = welcome.room.peers.into_iter();
            self.view =
                peers.map(|peer| (peer.peer, (peer.instance.as_str().to_owned(), peer.state))).collect();
        }
        let again: Vec<_> = self.unacked.iter().map(|(seq, fields)| self.envelope(*seq, fields)).collect();
        [vec![self.unsequenced("ack")], again].concat()
    }

    fn changed(&mut self, version: u64) {
        assert!(self.version < version, "{}: version {version} after {}", self.letter, self.version);
        self.version = version;
    }

    fn told_about(&mut self, peer: PeerId) {
        for sent in self.sent.iter_mut().filter(|sent| sent.to == peer) {
            sent.told = true;
        }
    }

    /// The signals of this life that have neither arrived nor been reported.
    pub(super) fn missing<'a>(
        &'a self,
        got: impl Fn(&PeerId, &Mark) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Mark> + 'a {
        self.sent.iter().filter(move |sent| !sent.told && !got(&sent.to, &sent.mark)).map(|sent| &sent.mark)
    }

    /// Signals of this life, and how many of them were reported as lost.
    pub(super) fn tally(&self) -> (usize, usize) {
        (self.sent.len(), self.sent.iter().filter(|sent| sent.told).count())
    }

    pub(super) fn forget_sent(&mut self) {
        self.sent.clear();
    }
}
