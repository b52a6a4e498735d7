//! The signaling server and others side by side: the servers on one core, the load on another, every load on each server in turn,
//! several rounds of it. What counts is the ratio within a round: all saw the same machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

mod abuse;
mod client;
mod contender;
mod crowd;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bench::{Better, Report, cost};
use clap::{Parser, builder::PossibleValuesParser};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{task::LocalSet, time::sleep};

use abuse::Abuse;
use client::Target;
use contender::{Contender, Cpus, Kind, Places, Server};
use crowd::{Crowd, Pair};

/// Compares the signaling server with ws, peer and socket.io (npm), matchbox_server and apprtc (crates): what an idle connection costs,
/// what relaying an offer costs and how long it takes, joins, and everybody coming back after a kill.
///
/// Takes two cores, some 5 minutes a round, and as many open files for each process as --clients and some. Clients come from many
/// addresses of 127.1.0.0/16. Writes results.txt and results.json. Read the ratios, not the figures.
#[derive(Parser)]
struct Arguments {
    /// Rounds; figures are medians over them, ratios are taken within each
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Idle clients, in rooms of two; all of them come back after the server is killed
    #[arg(long, default_value_t = 15_000)]
    clients: usize,
    /// Seconds for which the CPU of idle connections is measured; pings come every ten
    #[arg(long, default_value_t = 20.0)]
    idle: f64,
    /// Seconds for which offers are relayed
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only these parts, the first four without --abuse and the others with it
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = parts())]
    only: Vec<String>,
    /// Instead of all this, what hostile clients do to ours, peer, y-webrtc and socket.io: memory above idle, dead or alive, and the
    /// latency between two others meanwhile
    #[arg(long)]
    abuse: bool,
    /// Only these servers beside ours, or `none`
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    against: Vec<String>,
    /// The signaling server to compare
    #[arg(long, default_value = "target/release/signaling", value_name = "PROGRAM")]
    signaling: PathBuf,
    /// Another one, an earlier one say, to compare with as well
    #[arg(long, value_name = "PROGRAM")]
    earlier: Option<PathBuf>,
    /// Where the npm servers are
    #[arg(long, default_value = "tests/bench-signaling/servers", value_name = "FOLDER")]
    servers: PathBuf,
    /// Where cargo installed the others
    #[arg(long, default_value = "tests/.cache/bench-signaling/cargo", value_name = "FOLDER")]
    cargo: PathBuf,
    /// The core that servers run on
    #[arg(long, default_value_t = 1)]
    server_cpu: usize,
    /// The core that makes the load
    #[arg(long, default_value_t = 0)]
    load_cpu: usize,
    /// Where the results go
    #[arg(long, default_value = "tests/.cache/bench-signaling", value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-signaling: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn compare() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "--rounds must be at least 1");
    ensure!(arguments.clients >= 2, "--clients must be at least 2");
    ensure!(arguments.server_cpu != arguments.load_cpu, "the servers and the load need a core each");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let files = usize::try_from(hard).unwrap_or(usize::MAX);
    ensure!(
        files > arguments.clients + 500,
        "a process may open {files} files here: choose fewer --clients, or raise the limit (ulimit -n)"
    );
    let places = Places {
        signaling: &arguments.signaling,
        earlier: arguments.earlier.as_deref(),
        servers: &arguments.servers,
        cargo: &arguments.cargo,
    };
    let mut contenders = Contender::ours(&places)?;
    let others = if arguments.abuse { &ABUSED[..] } else { &OTHERS };
    for other in Contender::others(&places, others) {
        match other {
            Ok(other) if wanted(&arguments.against, other.name) => contenders.push(other),
            Ok(_) => {}
            Err(why) => println!("!!! NOT COMPARED {why}"),
        }
    }
    let cpus = Cpus { server: arguments.server_cpu, load: arguments.load_cpu };
    cost::pin(cpus.load)?;
    let names = contenders.iter().map(|contender| (contender.name.to_owned(), String::new())).collect();
    let mut bench = Bench {
        report: Report::new(names),
        failed: vec![false; contenders.len()],
        contenders,
        cpus,
        arguments,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let out = if bench.arguments.abuse {
        runtime.block_on(LocalSet::new().run_until(bench.abuse()))?;
        bench.arguments.out.join("abuse")
    } else {
        runtime.block_on(LocalSet::new().run_until(bench.rounds()))?;
        bench.arguments.out.clone()
    };
    bench.report.write(&out)?;
    print!("\n{}", bench.report.text());
    println!("\nwritten to {}", out.join("results.json").display());
    Ok(())
}

/// What `--only` takes.
fn parts() -> PossibleValuesParser {
    ["idle", "back", "relay", "joins"].into_iter().chain(abuse::ALL.map(Abuse::word)).into()
}

fn wanted(words: &[String], name: &str) -> bool {
    words.is_empty() || words.iter().any(|word| word == name)
}

struct Bench {
    arguments: Arguments,
    contenders: Vec<Contender>,
    /// Who failed once is left out from then on.
    failed: Vec<bool>,
    cpus: Cpus,
    report: Report,
}

impl Bench {
    async fn rounds(&mut self) -> Result<()> {
        let mut port = FIRST_PORT;
        for round in 0..self.arguments.rounds {
            println!("round {} of {}", round + 1, self.arguments.rounds);
            // Nobody is always the first.
            let mut order: Vec<usize> = (0..self.contenders.len()).collect();
            order.rotate_left(round % self.contenders.len());
            for index in order {
                if self.failed[index] {
                    continue;
                }
                port += 10;
                if let Err(error) = self.measure(index, port).await {
                    println!("!!! {}: {error:#}; it is left out from here on", self.contenders[index].name);
                    ensure!(self.contenders[index].kind != Kind::Signaling, "ours failed");
                    self.failed[index] = true;
                }
                // So that an end before the end loses nothing.
                self.report.write(&self.arguments.out)?;
            }
        }
        Ok(())
    }

    async fn abuse(&mut self) -> Result<()> {
        let mut port = FIRST_PORT;
        for abuse in abuse::ALL {
            if !self.part(abuse.word()) {
                continue;
            }
            println!("{abuse}");
            for index in 0..self.contenders.len() {
                port += 10;
                let mut server = self.contenders[index].start(port, self.cpus)?;
                abuse::suffer(abuse, &mut server, index, &mut self.report).await?;
                self.report.write(&self.arguments.out.join("abuse"))?;
                println!("  {}", self.contenders[index].name);
            }
        }
        Ok(())
    }

    async fn measure(&mut self, index: usize, port: u16) -> Result<()> {
        let began = std::time::Instant::now();
        let contender = self.contenders[index].clone();
        if self.part("idle") || self.part("back") {
            let server = contender.start(port, self.cpus)?;
            self.idle(index, server, &contender, port).await.context("idle clients")?;
        }
        if self.part("relay") {
            let server = contender.start(port + 2, self.cpus)?;
            self.relay(index, &server).await.context("offers")?;
        }
        // The other servers have no rooms of more than two, or tell nobody who comes.
        if self.part("joins") && !matches!(contender.kind, Kind::Peer | Kind::Apprtc) {
            let server = contender.start(port + 4, self.cpus)?;
            let cpu = cost::cpu(server.id())?;
            let took = crowd::fill(&Target::of(&server), ROOMS, PER_ROOM).await.context("joins")?;
            let cpu = (cost::cpu(server.id())? - cpu) as f64 / 1e3 / (ROOMS * PER_ROOM) as f64;
            self.report.add("5,000 joins into rooms of 50: s", Better::Low, index, took.as_secs_f64());
            self.report.add("5,000 joins into rooms of 50: server CPU, us/join", Better::Low, index, cpu);
        }
        println!("  {} took {:.0} s", contender.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    /// What connections cost that nobody uses, and what happens if all of them break at once.
    async fn idle(
        &mut self,
        index: usize,
        mut server: Server,
        contender: &Contender,
        port: u16,
    ) -> Result<()> {
        let clients = self.arguments.clients as f64;
        sleep(SETTLE).await;
        let resident = cost::resident(server.id())?;
        let crowd = Crowd::gather(&Target::of(&server), self.arguments.clients, 2).await?;
        if self.part("idle") {
            // Two rounds of pings: what coming in took is given back or reused, and what is measured is idleness.
            sleep(SETTLE_IDLE).await;
            let cpu = cost::cpu(server.id())?;
            sleep(Duration::from_secs_f64(self.arguments.idle)).await;
            let cpu = (cost::cpu(server.id())? - cpu) as f64 / 1e3;
            let grown = cost::resident(server.id())?.saturating_sub(resident) as f64;
            crowd.complete()?;
            self.report.add("idle: resident bytes/connection", Better::Low, index, grown / clients);
            let name = "idle: server CPU, us/connection and second";
            self.report.add(name, Better::Low, index, cpu / clients / self.arguments.idle);
        }
        if self.part("back") {
            server.kill();
            crowd.scattered().await?;
            sleep(DOWN).await;
            drop(server);
            let server = contender.start(port, self.cpus)?;
            let began = std::time::Instant::now();
            crowd.back().await?;
            let took = began.elapsed().as_secs_f64();
            self.report.add("all back after a kill: s", Better::Low, index, took);
            let peak = cost::peak(server.id())? as f64 / MIB;
            self.report.add("all back after a kill: peak resident, MiB", Better::Low, index, peak);
        }
        crowd.leave().await;
        Ok(())
    }

    async fn relay(&mut self, index: usize, server: &Server) -> Result<()> {
        let target = Target::of(server);
        let description = description();
        let mut pair = Pair::enter(&target, 0).await?;
        let mut latencies = Vec::with_capacity(LATENCIES);
        for attempt in 0..LATENCIES + WARM_UP {
            let took = pair.relay(&description, 1).await?;
            if attempt >= WARM_UP {
                latencies.push(took.as_secs_f64() * 1e6);
            }
        }
        latencies.sort_by(f64::total_cmp);
        self.report.add("offer of 2 KB: latency p50, us", Better::Low, index, latencies[LATENCIES / 2]);
        self.report.add(
            "offer of 2 KB: latency p99, us",
            Better::Low,
            index,
            latencies[LATENCIES * 99 / 100],
        );
        drop(pair);

        let mut pairs = Vec::new();
        for room in 1..=PAIRS {
            pairs.push(Pair::enter(&target, room).await?);
        }
        for burst in [1, 8, 32] {
            let time = Duration::from_secs_f64(self.arguments.seconds);
            (_, pairs) = crowd::relay(pairs, description.as_str().into(), burst, time / 3).await?;
            let cpu = cost::cpu(server.id())?;
            let arrived;
            (arrived, pairs) = crowd::relay(pairs, description.as_str().into(), burst, time).await?;
            let cpu = (cost::cpu(server.id())? - cpu) as f64 / 1e9;
            let name =
                format!("offers in bursts of {burst}, {PAIRS} pairs: relayed per second of server CPU");
            self.report.add(&name, Better::High, index, arrived as f64 / cpu);
        }
        Ok(())
    }

    fn part(&self, name: &str) -> bool {
        wanted(&self.arguments.only, name)
    }
}

/// An SDP of 2,000 bytes as the inside of a JSON string.
fn description() -> String {
    let mut text = "v=0\\r\\no=- 4611731400430051336 2 IN IP4 127.0.0.1\\r\\ns=-\\r\\nt=0 0\\r\\n".to_owned();
    while text.len() < 2_000 {
        text.push_str("a=rtpmap:96 VP8/90000\\r\\na=rtcp-fb:96 goog-remb\\r\\na=fmtp:97 apt=96\\r\\n");
    }
    text
}

const OTHERS: [Kind; 5] = [Kind::Ws, Kind::Peer, Kind::SocketIo, Kind::Matchbox, Kind::Apprtc];
/// Those of the same kind as ours, as they are, that a stranger would put on the internet.
const ABUSED: [Kind; 3] = [Kind::Peer, Kind::YWebrtc, Kind::SocketIo];
const FIRST_PORT: u16 = 23_000;
const SETTLE: Duration = Duration::from_secs(1);
const SETTLE_IDLE: Duration = Duration::from_secs(21);
/// How long the server is away.
const DOWN: Duration = Duration::from_secs(1);
const LATENCIES: usize = 5_000;
const WARM_UP: usize = 2_000;
const PAIRS: usize = 100;
const ROOMS: usize = 100;
const PER_ROOM: usize = 50;
const MIB: f64 = 1024.0 * 1024.0;
