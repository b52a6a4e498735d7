//! What hostile clients do to a server: what it holds at most, whether it lives, and what two others notice meanwhile.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bench::{Better, Report, cost};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::client::{Client, Seat, Target};
use crate::contender::Server;
use crate::crowd::Pair;

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    StalledReader,
    Nobody,
    Huge,
    NotJson,
    HalfOpen,
    Connects,
}

pub(crate) const ALL: [Abuse; 6] =
    [Abuse::StalledReader, Abuse::Nobody, Abuse::Huge, Abuse::NotJson, Abuse::HalfOpen, Abuse::Connects];

impl Abuse {
    /// What `--only` calls it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::StalledReader => "stalled",
            Self::Nobody => "nobody",
            Self::Huge => "huge",
            Self::NotJson => "not-json",
            Self::HalfOpen => "half-open",
            Self::Connects => "connects",
        }
    }
}

impl fmt::Display for Abuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StalledReader => "256 MiB to a reader that stalls",
            Self::Nobody => "256 MiB to nobody",
            Self::Huge => "one message of 50 MiB",
            Self::NotJson => "`not json`",
            Self::HalfOpen => "10,000 half-open handshakes",
            Self::Connects => "5,000 connects a second for 10 s",
        })
    }
}

/// Lets it happen, and notes what it did.
pub(crate) async fn suffer(
    abuse: Abuse,
    server: &mut Server,
    index: usize,
    report: &mut Report,
) -> Result<()> {
    let target = Target::of(server);
    let bystanders = Bystanders::start(&target)?;
    sleep(SETTLE).await;
    let idle = cost::resident(server.id())?;
    cost::forget_peak(server.id())?;
    bystanders.begin();
    let said = match timeout(PATIENCE, commit(abuse, &target)).await {
        Ok(said) => said,
        Err(_) => Ok(format!("not over after {PATIENCE:?}")),
    };
    sleep(SETTLE).await;
    let alive = server.alive();
    let noticed = bystanders.end();
    let memory = format!("{abuse}: peak above idle, MiB");
    if alive {
        let grown = cost::peak(server.id())?.saturating_sub(idle) as f64 / (1024.0 * 1024.0);
        report.add(&memory, Better::Low, index, grown);
    } else {
        report.add(&memory, Better::Low, index, f64::NAN);
        report.note(&memory, index, "DEAD: the server's process ended");
    }
    match said {
        Ok(said) if said.is_empty() => {}
        Ok(said) => report.note(&memory, index, &said),
        Err(error) => report.note(&memory, index, &format!("the abuser: {error:#}")),
    }
    let latency = format!("{abuse}: two others, latency");
    for (name, value) in
        [("p50", noticed.percentile(50)), ("p99", noticed.percentile(99)), ("max", noticed.percentile(100))]
    {
        report.add(&format!("{latency} {name}, ms"), Better::Low, index, value);
    }
    if let Some(why) = noticed.lost {
        report.note(&format!("{latency} max, ms"), index, &format!("the two others were cut off: {why}"));
    }
    Ok(())
}

async fn commit(abuse: Abuse, target: &Target) -> Result<String> {
    match abuse {
        Abuse::StalledReader => flood(target, true).await,
        Abuse::Nobody => flood(target, false).await,
        Abuse::Huge => {
            let mut pair = Pair::enter(target, 1).await?;
            let huge = "x".repeat(50 * 1024 * 1024);
            let relayed = timeout(Duration::from_secs(20), pair.relay(&huge, 1)).await;
            Ok(if matches!(relayed, Ok(Ok(_))) { "it was relayed" } else { "it was not relayed" }.to_owned())
        }
        Abuse::NotJson => {
            let mut client = Client::join(target, Seat { room: 1, member: 0, number: 5_000 }).await?;
            client.say("not json".into()).await?;
            Ok(String::new())
        }
        Abuse::HalfOpen => half_open(target).await,
        Abuse::Connects => connects(target).await,
    }
}

/// Sends 256 MiB to a member of its room that reads nothing, or to nobody. Who is thrown out comes back and goes on.
async fn flood(target: &Target, to_somebody: bool) -> Result<String> {
    let description = "x".repeat(32 * 1024);
    let (mut sent, mut thrown_out) = (0, 0);
    let mut pair = enter(target, to_somebody).await?;
    let end = Instant::now() + Duration::from_secs(60);
    while sent < 256 * 1024 * 1024 && Instant::now() < end {
        let (from, _stalled) = &mut pair;
        let offer = from.offer(&description);
        let told = timeout(Duration::from_secs(5), from.send([offer])).await;
        if matches!(told, Ok(Ok(()))) && from.drain().is_ok() {
            sent += description.len();
            tokio::task::yield_now().await;
        } else {
            thrown_out += 1;
            pair = enter(target, to_somebody).await?;
        }
    }
    Ok(format!("{} MiB were taken; the sender came back {thrown_out} times", sent >> 20))
}

async fn enter(target: &Target, to_somebody: bool) -> Result<(Client, Option<Client>)> {
    let seat = |member| Seat { room: 1, member, number: 5_000 + 100 * member };
    let mut from = Client::join(target, seat(0)).await?;
    let stalled = if to_somebody { Some(Client::join(target, seat(1)).await?) } else { None };
    let _ = timeout(Duration::from_millis(200), from.hear()).await;
    Ok((from, stalled))
}

/// Opens connections that say half of a request and no more, and holds them for ten seconds.
async fn half_open(target: &Target) -> Result<String> {
    let (mut held, mut refused) = (vec![], 0);
    for number in 0..10_000 {
        match knock(target, number, half(target)).await {
            Ok(stream) => held.push(stream),
            Err(_) => refused += 1,
        }
    }
    sleep(Duration::from_secs(10)).await;
    let open = held.iter().filter(|stream| is_open(stream)).count();
    Ok(format!("{open} were still open after ten seconds; {refused} got no connection"))
}

/// The beginning of what a server waits for: a request, or a ClientHello of 508 bytes.
fn half(target: &Target) -> &'static [u8] {
    match target.tls {
        None => b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        Some(_) => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdefghijklmnopqrstuvwxyz",
    }
}

/// Whole handshakes (half of one where there is TLS), each of which is left after a second.
async fn connects(target: &Target) -> Result<String> {
    let mut visits = JoinSet::new();
    let mut beat = interval(Duration::from_millis(1));
    let began = Instant::now();
    let mut made = 0;
    while began.elapsed() < Duration::from_secs(10) {
        beat.tick().await;
        let due = usize::try_from(began.elapsed().as_millis())? * 5;
        while made < due {
            made += 1;
            let request = match target.tls {
                None => target.handshake().into_bytes(),
                Some(_) => half(target).to_vec(),
            };
            let target = target.clone();
            visits.spawn_local(async move {
                if let Ok(_open) = timeout(Duration::from_secs(5), knock(&target, made, &request)).await {
                    sleep(Duration::from_secs(1)).await;
                }
            });
        }
        while visits.try_join_next().is_some() {}
    }
    visits.shutdown().await;
    Ok(format!("{made} were made"))
}

/// From addresses that nobody else has.
async fn knock(target: &Target, number: usize, words: &[u8]) -> Result<TcpStream> {
    let mut stream = target.connect(10_000 + number).await?;
    stream.write_all(words).await?;
    Ok(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// Two clients in a thread of their own, of which one sends the other an offer every ten milliseconds.
struct Bystanders {
    measuring: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Noticed>,
}

/// Milliseconds from one to the other, and why there are no more.
#[derive(Default)]
struct Noticed {
    latencies: Vec<f64>,
    lost: Option<String>,
}

impl Bystanders {
    fn start(target: &Target) -> Result<Self> {
        let (measuring, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (target, during, until) = (target.clone(), measuring.clone(), stop.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().spawn(move || {
            let mut noticed = Noticed::default();
            if let Err(error) = runtime.block_on(talk(&target, &during, &until, &mut noticed.latencies)) {
                noticed.lost = Some(format!("{error:#}"));
            }
            noticed.latencies.sort_by(f64::total_cmp);
            noticed
        })?;
        Ok(Self { measuring, stop, thread })
    }

    fn begin(&self) {
        self.measuring.store(true, Ordering::Relaxed);
    }

    fn end(self) -> Noticed {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

async fn talk(
    target: &Target,
    during: &AtomicBool,
    until: &AtomicBool,
    latencies: &mut Vec<f64>,
) -> Result<()> {
    let mut pair = Pair::enter(target, 0).await?;
    let description = "x".repeat(2_000);
    while !until.load(Ordering::Relaxed) {
        let took =
            timeout(CUT_OFF, pair.relay(&description, 1)).await.context("nothing came for ten seconds")??;
        if during.load(Ordering::Relaxed) {
            latencies.push(took.as_secs_f64() * 1e3);
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

impl Noticed {
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(last * percent / 100).copied().unwrap_or(f64::NAN)
    }
}

const SETTLE: Duration = Duration::from_secs(2);
const CUT_OFF: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(90);
