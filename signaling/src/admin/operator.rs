//! What the operator sees and does: asks the shards, and waits for their answers.
//!
//! A shard answers between two letters of its inbox and looks at a bounded number of rooms for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use signaling_protocol::{Door, Notice, PeerId, RoomName};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    hub::{BanView, Hub, Input, KeptOut, PeerView, RoomPage, RoomView, Whom},
    metrics::Metrics,
    shard::{Letter, Shard, Shards},
};

/// What a shard is asked by the operator.
pub(crate) enum Question {
    Rooms { from: usize, limit: usize, answer: oneshot::Sender<RoomPage> },
    Room { room: RoomName, answer: oneshot::Sender<Option<(RoomView, Vec<PeerView>)>> },
    Bans { room: RoomName, answer: oneshot::Sender<Vec<BanView>> },
}

/// What the operator does to a room.
#[derive(Debug)]
pub(crate) enum Order {
    Notice(Notice),
    Door(Door),
    Kick { peer: PeerId, ban: Option<Duration>, reason: Option<Box<str>> },
    Lift(KeptOut),
}

impl Question {
    /// Looks it up. Nobody is told if the one who asked has gone.
    pub(crate) fn answer(self, hub: &Hub, now: Instant) {
        match self {
            Self::Rooms { from, limit, answer } => {
                let _ = answer.send(hub.rooms_from(now, from, limit));
            }
            Self::Room { room, answer } => {
                let _ = answer.send(hub.room(now, &room));
            }
            Self::Bans { room, answer } => {
                let _ = answer.send(hub.bans(now, &room));
            }
        }
    }
}

impl Order {
    pub(crate) fn input(self, room: RoomName) -> Input {
        match self {
            Self::Notice(notice) => Input::Notice { room, notice },
            Self::Door(door) => Input::Door { room, door },
            Self::Lift(whom) => Input::Lift { room, whom },
            Self::Kick { peer, ban, reason } => Input::Kick { whom: Whom::Peer(room, peer), ban, reason },
        }
    }
}

/// A shard has ended, or has too much to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unanswered;

/// Where a list goes on: a place in a shard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    pub(crate) shard: usize,
    pub(crate) place: usize,
}

/// The operator's hand on a running server.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) since: Instant,
}

impl Operator {
    /// At most `limit` rooms from `cursor` on.
    pub(crate) async fn rooms(
        &self,
        cursor: Cursor,
        limit: usize,
    ) -> Result<(Vec<RoomView>, Option<Cursor>), Unanswered> {
        let (mut rooms, mut at) = (Vec::new(), cursor);
        for _ in 0..QUESTIONS_PER_PAGE {
            let left = limit.saturating_sub(rooms.len());
            let Some(shard) = self.shards.get(at.shard).filter(|_| left > 0) else { break };
            let page = ask(&shard, |answer| Question::Rooms { from: at.place, limit: left, answer }).await?;
            rooms.extend(page.rooms);
            at = match page.next {
                Some(place) => Cursor { place, ..at },
                None => Cursor { shard: at.shard + 1, place: 0 },
            };
        }
        Ok((rooms, self.shards.get(at.shard).is_some().then_some(at)))
    }

    pub(crate) async fn room(
        &self,
        room: &RoomName,
    ) -> Result<Option<(RoomView, Vec<PeerView>)>, Unanswered> {
        let room = room.clone();
        ask(&self.shards.of(&room.clone()), |answer| Question::Room { room, answer }).await
    }

    /// Who is kept out of a room, which need not exist.
    pub(crate) async fn bans(&self, room: &RoomName) -> Result<Vec<BanView>, Unanswered> {
        let room = room.clone();
        ask(&self.shards.of(&room.clone()), |answer| Question::Bans { room, answer }).await
    }

    /// Carries out an order; whatever was asked before it is answered before.
    pub(crate) async fn order(&self, room: &RoomName, order: Order) -> Result<(), Unanswered> {
        let letter = Letter::Order(Box::new(order.input(room.clone())));
        let sent = timeout(PATIENCE, self.shards.of(room).send(letter)).await;
        if matches!(sent, Ok(Ok(()))) { Ok(()) } else { Err(Unanswered) }
    }
}

async fn ask<T>(
    shard: &Shard,
    question: impl FnOnce(oneshot::Sender<T>) -> Question,
) -> Result<T, Unanswered> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        shard.send(Letter::Question(question(answer))).await.ok()?;
        answered.await.ok()
    };
    timeout(PATIENCE, asked).await.ok().flatten().ok_or(Unanswered)
}

/// For one page of a list: a list of very many empty places goes on with `next`.
const QUESTIONS_PER_PAGE: usize = 64;
/// A shard's turn takes milliseconds at the worst.
const PATIENCE: Duration = Duration::from_secs(5);
