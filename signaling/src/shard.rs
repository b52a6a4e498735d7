//! Shards: the tasks that drive the hubs.
//!
//! ```text
//! transport --Letter--> inbox (bounded) --> Shard { Hub } --Frame--> Outbox (bounded) --> transport
//! ```
//!
//! A room lives in one shard, one task owns one hub, and nothing is locked. A shard never waits for a connection:
//! what does not fit an outbox ends that connection. A connection may wait for its shard; that is the only
//! back-pressure, and it reaches the client through TCP.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use signaling_protocol::{ClientFrame, CloseCode, FrameError, Hello, ResyncReason, RoomName, SessionId};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep_until,
};
use tracing::{debug, info};

use crate::{
    admin::Question,
    authority::CurrentAuthority,
    hub::{
        ConnId, Counts, EndReason, Event, Frame, GoneReason, Grant, Hub, Input, Limits, Output, Traffic,
        Unproven,
    },
    metrics::{Metrics, Refusal},
    origin::Host,
    otlp::SessionSpans,
    outbox::Outbox,
    revocation::Revoker,
    transport::{
        admission::{Admitted, Place},
        guest::Transport,
    },
    turn::IceIssuer,
    webhook::{self, RoomEvents},
};

/// All shards, as the transports see them.
pub(crate) struct Shards {
    inboxes: Box<[mpsc::Sender<Letter>]>,
    placement: foldhash::fast::RandomState,
    next_connection: AtomicU64,
}

/// One shard's inbox, held by a connection.
#[derive(Clone)]
pub(crate) struct Shard(mpsc::Sender<Letter>);

/// What a transport tells a shard.
pub(crate) enum Letter {
    /// A connection said hello.
    Attach(Box<Attach>),
    /// A connection sent a frame.
    Frame(ConnId, ClientFrame),
    /// A connection sent what is no frame.
    Malformed(ConnId, FrameError),
    /// A connection's address sends too much; when it may go on.
    TooMany(ConnId, Duration),
    /// A connection is gone.
    Gone(ConnId, GoneReason),
    /// Clients are asked to leave within this time, to the server of this origin.
    GoAway(Duration, Option<Box<str>>),
    /// That was called off.
    Stay,
    /// Other limits hold.
    Limits(Box<Limits>),
    /// The operator wants to know something.
    Question(Question),
    /// The operator wants something.
    Order(Box<Input>),
    /// Whoever asks wants to see that the shard works.
    Answer(oneshot::Sender<()>),
    /// What became of a further token of a session.
    Verified(SessionId, Result<Grant, Unproven>),
    /// The server stops.
    Drain,
}

/// A connection that said hello.
pub(crate) struct Attach {
    pub(crate) conn: ConnId,
    pub(crate) room: RoomName,
    pub(crate) ack: u64,
    pub(crate) hello: Hello,
    /// What it may do; `None`: resume what it has.
    pub(crate) grant: Option<Grant>,
    /// How the client reached us, for the addresses of the embedded relay.
    pub(crate) host: Host,
    pub(crate) transport: Transport,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) admitted: Arc<Admitted>,
}

/// The shard has ended, which it does only with the server.
#[derive(Debug)]
pub(crate) struct Stopped;

impl Shards {
    /// Makes `count` shards and the futures that run them until every sender is gone.
    pub(crate) fn new(
        count: usize,
        limits: &Limits,
        around: &Surroundings,
    ) -> (Self, Vec<impl Future<Output = ()> + Send + 'static>) {
        let (inboxes, drivers) = (0..count)
            .map(|_| {
                let (sender, inbox) = mpsc::channel(INBOX_LETTERS);
                let driver = Driver {
                    hub: Hub::new(limits.clone(), ChaCha20Rng::from_rng(&mut rand::rng())),
                    links: HashMap::default(),
                    around: around.clone(),
                    places: HashMap::default(),
                    entering: None,
                    inbox: sender.downgrade(),
                    transports: HashMap::default(),
                    counted: Counts::default(),
                };
                (sender, driver.run(inbox))
            })
            .unzip::<_, _, Vec<_>, Vec<_>>();
        let shards = Self {
            inboxes: inboxes.into(),
            placement: foldhash::fast::RandomState::default(),
            next_connection: AtomicU64::new(0),
        };
        (shards, drivers)
    }

    /// Shards of which nobody need work.
    #[cfg(test)]
    pub(crate) fn with_inboxes(inboxes: Vec<mpsc::Sender<Letter>>) -> Self {
        Self { inboxes: inboxes.into(), placement: Default::default(), next_connection: AtomicU64::new(0) }
    }

    /// The shard in which a room lives.
    pub(crate) fn of(&self, room: &RoomName) -> Shard {
        let hash = self.placement.hash_one(room);
        // The remainder is below a length that is a usize, so it is one.
        let at = usize::try_from(hash % self.inboxes.len() as u64).unwrap_or(0);
        Shard(self.inboxes[at].clone())
    }

    /// A number that no connection had before.
    pub(crate) fn number(&self) -> ConnId {
        ConnId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// One of them by its number.
    pub(crate) fn get(&self, number: usize) -> Option<Shard> {
        self.inboxes.get(number).cloned().map(Shard)
    }

    /// Tells every shard; one that has ended has nothing to do any more.
    pub(crate) async fn tell(&self, mut letter: impl FnMut() -> Letter) {
        for inbox in &self.inboxes {
            let _ = inbox.send(letter()).await;
        }
    }

    /// The same on a thread that is not the runtime's.
    pub(crate) fn tell_blocking(&self, letter: impl Fn() -> Letter) {
        for inbox in &self.inboxes {
            let _ = inbox.blocking_send(letter());
        }
    }
}

impl Shard {
    /// Waits while the inbox is full.
    pub(crate) async fn send(&self, letter: Letter) -> Result<(), Stopped> {
        self.0.send(letter).await.map_err(|_| Stopped)
    }
}

/// What every shard works with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) ice: Arc<IceIssuer>,
    pub(crate) authority: CurrentAuthority,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) events: RoomEvents,
    pub(crate) spans: SessionSpans,
    pub(crate) revoker: Revoker,
}

/// The task that owns a hub.
struct Driver {
    hub: Hub,
    links: HashMap<ConnId, Link, foldhash::fast::RandomState>,
    around: Surroundings,
    /// The sessions, counted for their addresses.
    places: HashMap<SessionId, Place, foldhash::fast::RandomState>,
    /// The place of the session that the present input may begin.
    entering: Option<Place>,
    /// For what is found out beside the shard.
    inbox: mpsc::WeakSender<Letter>,
    /// How the client of each session came last.
    transports: Transports,
    /// What this shard has added to the gauges.
    counted: Counts,
}

type Transports = HashMap<SessionId, Transport, foldhash::fast::RandomState>;

/// Where a connection's frames go.
struct Link {
    outbox: Arc<Outbox>,
    host: Host,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Letter>) {
        let mut letters = Vec::with_capacity(BATCH_LETTERS);
        let mut rested = Instant::now();
        loop {
            let alarm = async {
                match due(self.hub.deadline(), rested) {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = inbox.recv_many(&mut letters, BATCH_LETTERS) => if received == 0 { return },
                () = alarm => {}
            }
            let now = Instant::now();
            for letter in letters.drain(..) {
                if let Some(input) = self.open(now, letter) {
                    self.apply(now, input);
                }
                self.entering = None;
            }
            if due(self.hub.deadline(), rested).is_some_and(|due| due <= now) {
                self.apply(now, Input::Timeout);
                rested = now + REST;
            }
            self.count();
        }
    }

    /// What the hub is to hear of a letter; some are answered without it.
    fn open(&mut self, now: Instant, letter: Letter) -> Option<Input> {
        let input = match letter {
            Letter::Attach(attach) => {
                let Attach { conn, room, ack, hello, grant, host, transport, outbox, admitted } = *attach;
                let session = self.hub.session_for(&room, ack, &hello);
                if !self.places.contains_key(&session) {
                    self.entering = admitted.place();
                    if self.entering.is_none() {
                        self.around.metrics.refused(Refusal::Sessions);
                        turn_away(&outbox, self.hub.limits().retry_after_full);
                        return None;
                    }
                }
                let turn = grant.as_ref().map_or_else(|| self.hub.may_relay(session), |grant| grant.turn);
                let ice = self.around.ice.issue(SystemTime::now(), &host, &session.to_string(), turn);
                self.transports.insert(session, transport);
                self.links.insert(conn, Link { outbox, host });
                Input::Attach { conn, room, ack, hello, grant, ice }
            }
            Letter::TooMany(conn, retry_after) => Input::TooMany { conn, retry_after },
            Letter::Frame(conn, frame) => {
                self.around.metrics.frames_received.inc();
                Input::Frame { conn, frame }
            }
            Letter::Malformed(conn, error) => Input::Malformed { conn, error },
            Letter::Gone(conn, why) => {
                self.links.remove(&conn);
                Input::Gone { conn, why }
            }
            Letter::GoAway(window, url) => Input::GoAway { window, url },
            Letter::Stay => Input::Stay,
            Letter::Limits(limits) => Input::Limits(limits),
            Letter::Order(input) => *input,
            Letter::Verified(session, verdict) => Input::Grant { session, verdict },
            Letter::Drain => Input::Drain,
            Letter::Question(question) => {
                question.answer(&self.hub, now);
                return None;
            }
            Letter::Answer(answer) => {
                let _ = answer.send(());
                return None;
            }
        };
        Some(input)
    }

    /// Hands the hub an input and carries out what comes back, and what comes back of that.
    fn apply(&mut self, now: Instant, input: Input) {
        let Self { hub, links, places, entering, around, inbox, transports, .. } = self;
        let Surroundings { ice, authority, metrics, events, spans, revoker } = around;
        let (mut next, mut inputs) = (Some(input), VecDeque::new());
        while let Some(input) = next.take().or_else(|| inputs.pop_front()) {
            for output in hub.handle(now, input) {
                match output {
                    Output::Send { conn, frame } => {
                        let Some(link) = links.get(&conn) else { continue };
                        if link.outbox.push(frame).is_err() {
                            give_up(&link.outbox);
                            links.remove(&conn);
                            inputs.push_back(Input::Gone { conn, why: GoneReason::SlowReader });
                        }
                    }
                    Output::Close { conn, code } => {
                        let Some(link) = links.remove(&conn) else { continue };
                        if code == CloseCode::SlowReader {
                            // The session keeps the rest.
                            link.outbox.discard_before_last();
                        }
                        link.outbox.close(code);
                    }
                    Output::RefreshIce { session, conn, turn } => {
                        let Some(link) = links.get(&conn) else { continue };
                        let fresh = ice.issue(SystemTime::now(), &link.host, &session.to_string(), turn);
                        inputs.push_back(Input::Ice { session, ice: fresh });
                    }
                    Output::Verify { session, room, token } => {
                        let (authority, inbox) = (authority.load_full(), inbox.clone());
                        tokio::spawn(async move {
                            let verdict = authority.renew(&room, &token).await;
                            if let Some(inbox) = inbox.upgrade() {
                                let _ = inbox.send(Letter::Verified(session, verdict)).await;
                            }
                        });
                    }
                    Output::Event(event) => {
                        if let Event::Ended {
                            session,
                            reason: EndReason::Kicked | EndReason::TokenExpired,
                            ..
                        } = event
                        {
                            revoker.revoke(session);
                        }
                        events.tell(&event);
                        if let Event::Started { session, .. } = &event {
                            places.extend(entering.take().map(|place| (*session, place)));
                        } else if let Event::Ended { session, .. } = &event {
                            places.remove(session);
                        }
                        note(metrics, spans, transports, event);
                    }
                }
            }
        }
    }

    /// Moves the gauges by what changed since the last time.
    fn count(&mut self) {
        let (now, before) = (self.hub.counts(), self.counted);
        let moved = |now: usize, before: usize| {
            i64::try_from(now).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX)
        };
        self.around.metrics.rooms.inc_by(moved(now.rooms, before.rooms));
        self.around.metrics.sessions.inc_by(moved(now.sessions, before.sessions));
        self.around.metrics.sessions_here.inc_by(moved(now.attached, before.attached));
        self.around.metrics.replay_bytes.inc_by(moved(now.buffered_bytes, before.buffered_bytes));
        self.counted = now;
    }
}

/// When the hub is to be told that its deadline has come. What else comes due until `rested` is done with the first of it, so that
/// thousands of idle sessions wake the shard for their pings forty times a second at most.
fn due(deadline: Option<Instant>, rested: Instant) -> Option<Instant> {
    deadline.map(|deadline| deadline.max(rested))
}

/// Ends a connection whose reader is too slow: what is queued is dropped, the session keeps what it must replay.
fn give_up(outbox: &Outbox) {
    outbox.discard();
    if let Some(farewell) =
        Frame::farewell(CloseCode::SlowReader, "read faster: too much was waiting for you", None)
    {
        // It was emptied just now, so there is room.
        let _ = outbox.push(farewell);
    }
    outbox.close(CloseCode::SlowReader);
}

/// Refuses a client whose address has as many sessions as it may.
fn turn_away(outbox: &Outbox, retry_after: Duration) {
    let why = "this address has as many sessions as it may";
    if let Some(farewell) = Frame::farewell(CloseCode::RateLimited, why, Some(retry_after)) {
        let _ = outbox.push(farewell);
    }
    outbox.close(CloseCode::RateLimited);
}

fn note(metrics: &Metrics, spans: &SessionSpans, transports: &mut Transports, event: Event) {
    match event {
        Event::Started { session, resync } => {
            metrics.welcomed(if resync.is_some() { "resync" } else { "new" }, reason(resync));
            info!(%session, ?resync, "session started");
        }
        Event::Resumed { session, takeover, replayed } => {
            metrics.welcomed("resumed", if takeover { "takeover" } else { "" });
            debug!(%session, takeover, replayed, "session resumed");
        }
        Event::Away { session, why } => debug!(%session, ?why, "session lost its connection"),
        Event::Overflowed { session } => {
            metrics.overflows.inc();
            info!(%session, "session cannot be resumed any more: too much was sent to it meanwhile");
        }
        Event::Ended { session, reason, lived, traffic } => {
            let transport = transports.remove(&session).map_or("none", Transport::name);
            let (reason, seconds) = (webhook::word(reason), lived.as_secs());
            metrics.ended(reason);
            spans.ended(lived, transport, reason);
            let Traffic { received, sent } = traffic;
            info!(%session, reason, seconds, transport, received, sent, "session ended");
        }
        // For the webhook: a room's name may be a secret, so no line tells it.
        Event::RoomStarted { .. } | Event::RoomEnded { .. } | Event::Joined { .. } | Event::Left { .. } => {}
        Event::TurnedAway { code } => debug!(code = code.name(), "a client was turned away"),
        Event::Relayed { bytes } => {
            metrics.signals.inc();
            metrics.signal_bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        Event::Refused { code } => {
            metrics.frame_refused(code);
        }
    }
}

const fn reason(resync: Option<ResyncReason>) -> &'static str {
    match resync {
        None => "",
        Some(ResyncReason::Unknown) => "unknown",
        Some(ResyncReason::Expired) => "expired",
        Some(ResyncReason::Overflow) => "overflow",
        Some(ResyncReason::Replaced) => "replaced",
    }
}

/// Frames are up to 64 KiB, so this is up to 16 MiB of them per shard, and a few milliseconds of work.
const INBOX_LETTERS: usize = 256;
/// Between two looks at the clock.
const BATCH_LETTERS: usize = 64;
/// How long after something came due nothing else does, as PROTOCOL.md says.
const REST: Duration = Duration::from_millis(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_due_soon_after_something_else_waits_for_the_rest() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(due(None, after(25)), None);
        assert_eq!(due(Some(after(1)), after(25)), Some(after(25)));
        assert_eq!(due(Some(after(26)), after(25)), Some(after(26)));
    }
}
