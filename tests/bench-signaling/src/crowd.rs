//! Many clients at once: they come in, stay, and come back when they are thrown out.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, Heard, Seat, Target};

/// Clients that stay in their rooms until this is dropped.
pub(crate) struct Crowd {
    clients: JoinSet<()>,
    counts: Rc<Counts>,
    size: usize,
}

#[derive(Default)]
struct Counts {
    /// How often a client came in.
    entered: Cell<usize>,
    /// How often a client was thrown out.
    lost: Cell<usize>,
    /// What the first one was told.
    why: RefCell<Option<String>>,
}

impl Crowd {
    /// Brings `size` clients into rooms of `per_room`, some hundred at a time. Whoever is thrown out comes back as PROTOCOL.md
    /// asks of a client.
    pub(crate) async fn gather(target: &Target, size: usize, per_room: usize) -> Result<Self> {
        let doors = Arc::new(Semaphore::new(ENTERING));
        let mut clients = JoinSet::new();
        let counts = Rc::new(Counts::default());
        for number in 0..size {
            let seat = Seat { room: number / per_room, member: number % per_room, number };
            let (target, counts, doors) = (target.clone(), counts.clone(), doors.clone());
            clients.spawn_local(async move {
                let door = doors.acquire().await;
                let first = Client::join(&target, seat).await;
                drop(door);
                remain(&target, seat, first, &counts).await;
            });
        }
        let this = Self { clients, counts, size };
        this.until("came in", |counts| counts.entered.get() >= size).await?;
        this.complete()?;
        Ok(this)
    }

    /// Fails if a client was thrown out.
    pub(crate) fn complete(&self) -> Result<()> {
        let (lost, why) = (self.counts.lost.get(), self.counts.why.borrow());
        ensure!(
            lost == 0,
            "{lost} clients were thrown out, the first since {}",
            why.as_deref().unwrap_or("?")
        );
        Ok(())
    }

    /// Waits until all have been thrown out and are back.
    pub(crate) async fn back(&self) -> Result<()> {
        self.until("came back", |counts| counts.entered.get() - counts.lost.get() == self.size).await
    }

    /// Waits until every client has lost its connection.
    pub(crate) async fn scattered(&self) -> Result<()> {
        self.until("noticed", |counts| counts.lost.get() >= self.size).await
    }

    async fn until(&self, what: &str, done: impl Fn(&Counts) -> bool) -> Result<()> {
        let all = async {
            while !done(&self.counts) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, all).await.with_context(|| {
            let counts = &self.counts;
            let (entered, lost) = (counts.entered.get(), counts.lost.get());
            format!(
                "not all {what} within {PATIENCE:?}: {} came in, {entered} times; lost {lost} times",
                self.size
            )
        })
    }

    /// Ends all connections.
    pub(crate) async fn leave(mut self) {
        self.clients.shutdown().await;
    }
}

async fn remain(target: &Target, seat: Seat, first: Result<Client>, counts: &Counts) {
    let mut client = first;
    let mut bound = Duration::from_millis(500);
    loop {
        match client {
            Ok(mut inside) => {
                counts.entered.set(counts.entered.get() + 1);
                if let Err(error) = inside.stay().await {
                    counts.why.borrow_mut().get_or_insert_with(|| format!("{error:#}"));
                }
                counts.lost.set(counts.lost.get() + 1);
                bound = Duration::from_millis(500);
            }
            Err(_) => {
                sleep(bound.mul_f64(rand::random::<f64>())).await;
                bound = (bound * 2).min(Duration::from_secs(10));
            }
        }
        client = timeout(ATTEMPT, Client::join(target, seat)).await.unwrap_or_else(|late| Err(late.into()));
    }
}

/// Lets `rooms` rooms fill with `per_room` clients each, all at once; gives the time until everybody heard of everybody.
pub(crate) async fn fill(target: &Target, rooms: usize, per_room: usize) -> Result<Duration> {
    let heard = Rc::new(Cell::new(0));
    let began = Instant::now();
    let mut clients = JoinSet::new();
    let doors = Arc::new(Semaphore::new(ENTERING));
    for number in 0..rooms * per_room {
        // Neighbours in time are in different rooms.
        let seat = Seat { room: number % rooms, member: number / rooms, number };
        let (target, heard, doors) = (target.clone(), heard.clone(), doors.clone());
        clients.spawn_local(async move {
            let door = doors.acquire().await;
            let mut client = Client::join(&target, seat).await?;
            drop(door);
            let error = loop {
                match client.hear().await {
                    Ok(Heard::Joined) => heard.set(heard.get() + 1),
                    Ok(Heard::Welcome | Heard::Offer | Heard::Nothing) => {}
                    Err(error) => break error,
                }
            };
            Err::<(), _>(error)
        });
    }
    let expected = rooms * per_room * (per_room - 1) / 2;
    let all = async {
        while heard.get() < expected {
            tokio::select! {
                Some(ended) = clients.join_next() => ended.context("a client")??,
                () = sleep(Duration::from_millis(2)) => {}
            }
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, all).await.with_context(|| {
        format!("{} of {expected} joins were heard of within {PATIENCE:?}", heard.get())
    })??;
    let took = began.elapsed();
    clients.shutdown().await;
    Ok(took)
}

/// Two clients in one room.
pub(crate) struct Pair {
    from: Client,
    to: Client,
}

impl Pair {
    /// Brings two clients into a room of their own.
    pub(crate) async fn enter(target: &Target, room: usize) -> Result<Self> {
        let seat = |member| Seat { room, member, number: 2 * room + member };
        let mut from = Client::join(target, seat(0)).await?;
        let to = Client::join(target, seat(1)).await?;
        // The first hears of the second, and of its name.
        let _ = timeout(Duration::from_millis(200), from.hear()).await;
        Ok(Self { from, to })
    }

    /// Sends so many offers as one write, and gives the time until all of them have arrived.
    pub(crate) async fn relay(&mut self, description: &str, burst: usize) -> Result<Duration> {
        let offers: Vec<_> = (0..burst).map(|_| self.from.offer(description)).collect();
        let began = Instant::now();
        self.from.send(offers).await?;
        let mut arrived = 0;
        while arrived < burst {
            arrived += usize::from(self.to.hear().await? == Heard::Offer);
        }
        let took = began.elapsed();
        self.from.drain()?;
        Ok(took)
    }
}

/// Lets all pairs relay, each the next burst when its last one has arrived; gives how many offers arrived.
pub(crate) async fn relay(
    pairs: Vec<Pair>,
    description: Arc<str>,
    burst: usize,
    time: Duration,
) -> Result<(usize, Vec<Pair>)> {
    let end = Instant::now() + time;
    let tasks: Vec<_> = pairs
        .into_iter()
        .map(|mut pair| {
            let description = description.clone();
            spawn_local(async move {
                let mut arrived = 0;
                while Instant::now() < end {
                    timeout(PATIENCE, pair.relay(&description, burst)).await??;
                    arrived += burst;
                }
                anyhow::Ok((arrived, pair))
            })
        })
        .collect();
    let (mut arrived, mut pairs) = (0, vec![]);
    for task in tasks {
        let (more, pair) = task.await??;
        arrived += more;
        pairs.push(pair);
    }
    Ok((arrived, pairs))
}

/// How many knock at once where it is not said otherwise.
const ENTERING: usize = 200;
/// Until an attempt to come back counts as failed.
const ATTEMPT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(90);
