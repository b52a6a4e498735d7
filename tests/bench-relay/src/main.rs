//! turn-relay and coturn side by side: three hosts in network namespaces, the servers on one core, the load on another, every load
//! on each server in turn, several rounds of it. What counts is the ratio within a round: both saw the same machine.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is what this program is for")]

mod ends;
mod lab;
mod load;
mod machine;
mod server;
mod turn;
mod wire;
mod workers;

use std::ops::RangeFrom;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bench::{Better, Certificate, Report, cost};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use lab::Lab;
use load::{Direction, Fleet, Outcome, Plan};
use server::{Contender, Kind, Server};
use turn::Way;
use wire::Leg;

/// Compares turn-relay with coturn: server CPU per packet, packets per second, latency, memory and CPU per allocation.
///
/// Takes root (network namespaces), two cores and some 130 seconds a round. Writes results.txt and results.json.
#[derive(Parser)]
struct Arguments {
    /// Rounds; figures are medians over them, ratios are taken within each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Datagrams per second of the video loads, all allocations together
    #[arg(long, default_value_t = 40_000.0)]
    rate: f64,
    /// Seconds that each load plays on each server
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// Only these parts: audio, video, capacity, bulk (one stream of 1,200 bytes, back to back), indications, ipv6, streams (clients over TCP
    /// and TLS), growth, allocation, workers (two, and two processes, beside one), xdp
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = PARTS, hide_possible_values = true)]
    only: Vec<String>,
    /// The turn-relay to compare
    #[arg(long, default_value = "target/release/turn-relay", value_name = "PROGRAM")]
    relay: PathBuf,
    /// More arguments for turn-relay, one each
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    relay_arg: Vec<String>,
    /// Another turn-relay, an earlier one say, to compare with as well
    #[arg(long, value_name = "PROGRAM")]
    earlier: Option<PathBuf>,
    /// The coturn to compare with
    #[arg(long, default_value = "turnserver", value_name = "PROGRAM")]
    turnserver: PathBuf,
    /// More arguments for coturn, one each
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    turnserver_arg: Vec<String>,
    /// The core that servers run on
    #[arg(long, default_value_t = 1)]
    server_cpu: usize,
    /// The core that makes the load
    #[arg(long, default_value_t = 0)]
    load_cpu: usize,
    /// Measure turn-relay in the network driver too, and beside it what all that the machine does for a packet costs
    #[arg(long)]
    xdp: bool,
    /// The relay's network cards cannot segment UDP: the kernel does it before the card
    #[arg(long)]
    no_segmentation_offload: bool,
    /// Links work as network cards do: what came is fetched by the receiving host's own core, equal datagrams of a flow put together (GRO). The server's CPU
    /// includes that of fetching
    #[arg(long)]
    cards: bool,
    /// Where the results go
    #[arg(long, default_value = "tests/.cache/bench-relay", value_name = "FOLDER")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-relay: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn compare() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(arguments.rounds > 0, "--rounds must be at least 1");
    ensure!((0.1..=60.0).contains(&arguments.seconds), "--seconds must be between 0.1 and 60");
    ensure!((100.0..=1e6).contains(&arguments.rate), "--rate must be between 100 and 1,000,000");
    ensure!(arguments.server_cpu != arguments.load_cpu, "the servers and the load need a core each");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;

    let contenders = contenders(&arguments);
    let mut versions = Vec::new();
    for contender in &contenders {
        versions.push((contender.name.clone(), contender.version()?));
        println!("{}: {}, {}", contender.name, versions[versions.len() - 1].1, contender.program.display());
    }
    cost::pin(arguments.load_cpu)?;
    let mut lab = Lab::new(arguments.no_segmentation_offload)?;
    if arguments.cards {
        lab = lab.with_cards(arguments.server_cpu, arguments.load_cpu)?;
    }
    let certificate = Certificate::new(&lab::RELAY.to_string())?;
    let mut bench = Bench { report: Report::new(versions), lab, certificate, contenders, arguments };
    for round in 0..bench.arguments.rounds {
        println!("round {} of {}", round + 1, bench.arguments.rounds);
        bench.round(round).context("the round could not be finished")?;
    }
    bench.report.write(&bench.arguments.out)?;
    print!("\n{}", bench.report.text());
    println!("\nwritten to {}", bench.arguments.out.join("results.json").display());
    Ok(())
}

fn contenders(arguments: &Arguments) -> Vec<Contender> {
    let relay = |name: &str, program: &PathBuf| Contender {
        name: name.into(),
        program: program.clone(),
        kind: Kind::TurnRelay,
        workers: 1,
        arguments: arguments.relay_arg.clone(),
    };
    let coturn = Contender {
        name: "coturn".into(),
        program: arguments.turnserver.clone(),
        kind: Kind::Coturn,
        workers: 1,
        arguments: arguments.turnserver_arg.clone(),
    };
    let mut contenders = vec![relay("turn-relay", &arguments.relay), coturn];
    contenders.extend(arguments.earlier.as_ref().map(|program| relay("earlier", program)));
    contenders
}

struct Bench {
    arguments: Arguments,
    contenders: Vec<Contender>,
    lab: Lab,
    /// What clients over TLS meet.
    certificate: Certificate,
    report: Report,
}

impl Bench {
    /// Everything once on every server. All of them run all the time; those whose turn it is not do nothing.
    fn round(&mut self, round: usize) -> Result<()> {
        let Arguments { server_cpu, load_cpu, .. } = self.arguments;
        let mut servers = Vec::new();
        for (contender, index) in self.contenders.iter().zip(0..) {
            servers.push(Server::start(
                &self.lab,
                contender,
                index,
                server_cpu,
                load_cpu,
                &self.certificate,
            )?);
        }
        // Nobody is always the first.
        let mut order: Vec<usize> = (0..servers.len()).collect();
        order.rotate_left(round % servers.len());
        self.direct()?;
        let mut ports = 10_000..;
        self.many(&servers, &order, &mut ports)?;
        self.few(&servers, &order, &mut ports)?;
        self.other_ways(&servers, &order, &mut ports)?;
        self.growing(&servers, &order, &mut ports)?;
        let wants_xdp = self.arguments.xdp && self.wants("xdp");
        if wants_xdp {
            self.whole_machine(&servers, &mut ports)?;
        }
        drop(servers);
        if self.wants("workers") {
            self.workers(&mut ports)?;
        }
        if wants_xdp {
            self.in_driver(&mut ports)?;
        }
        Ok(())
    }

    /// A thousand allocations: what they cost, and audio through them.
    fn many(&mut self, servers: &[Server], order: &[usize], ports: &mut RangeFrom<u16>) -> Result<()> {
        if !(self.wants("audio") || self.wants("allocation")) {
            return Ok(());
        }
        let mut fleets: Vec<Option<Fleet>> = servers.iter().map(|_| None).collect();
        for &index in order {
            let server = &servers[index];
            // What a server takes once, for whoever comes first, is no allocation's.
            let udp = Way::by(Leg::Udp);
            Fleet::allocate(&self.lab, server, &udp, WARM, ports)?.release()?;
            let (cpu, resident) = (cost::cpu(server.id())?, cost::resident(server.id())?);
            let mut fleet = Fleet::allocate(&self.lab, server, &udp, MANY, ports)?;
            let cpu = (cost::cpu(server.id())? - cpu) as f64 / 1e9;
            let grown = cost::resident(server.id())?.saturating_sub(resident) as f64;
            self.report.add("allocations per second of server CPU", Better::High, index, MANY as f64 / cpu);
            self.report.add("resident bytes per idle allocation", Better::Low, index, grown / MANY as f64);
            fleet.bind()?;
            fleets[index] = Some(fleet);
        }
        if self.wants("audio") {
            for direction in [Direction::ToPeer, Direction::ToClient] {
                let plan = self.plan(direction, 1, AUDIO_BYTES, AUDIO_RATE * MANY as f64);
                self.compare("audio, 1,000 allocations", &plan, servers, &mut fleets, order)?;
            }
        }
        fleets.into_iter().flatten().try_for_each(Fleet::release)
    }

    /// Twenty allocations: video through them, and how much of it.
    fn few(&mut self, servers: &[Server], order: &[usize], ports: &mut RangeFrom<u16>) -> Result<()> {
        if !(self.wants("video") || self.wants("capacity")) {
            return Ok(());
        }
        let mut fleets = Vec::new();
        for server in servers {
            fleets.push(Some(self.fleet(server, &Way::by(Leg::Udp), FEW, ports)?));
        }
        for direction in [Direction::ToPeer, Direction::ToClient] {
            for burst in [8, 4, 1] {
                let name = format!("video, bursts of {burst}, 20 allocations");
                if self.wants("video") {
                    let plan = self.plan(direction, burst, VIDEO_BYTES, self.arguments.rate);
                    self.compare(&name, &plan, servers, &mut fleets, order)?;
                }
            }
            for &index in order {
                if self.wants("capacity")
                    && let Some(fleet) = &mut fleets[index]
                {
                    let (packets, bound) = capacity(fleet, direction)?;
                    let name = format!("capacity, {}, video, bursts of 8: packets/s", towards(direction));
                    self.report.add(&name, Better::High, index, packets);
                    if bound {
                        self.report.note(&name, index, "the load's core was the limit: at least so many");
                    }
                }
            }
        }
        Ok(())
    }

    /// What comes otherwise than by a channel over UDP and IPv4, and all of it in one allocation.
    fn other_ways(&mut self, servers: &[Server], order: &[usize], ports: &mut RangeFrom<u16>) -> Result<()> {
        let (udp, tls) = (Way::by(Leg::Udp), Leg::Tls(Arc::clone(&self.certificate.trust)));
        let indications = Way { indications: true, ..udp.clone() };
        let ipv6 = Way { ipv6: true, ..udp.clone() };
        let rate = self.arguments.rate;
        for (word, name, way, allocations, (burst, bytes, rate)) in [
            ("bulk", "bulk, bursts of 32, 1 allocation", udp, 1, (32, BULK_BYTES, rate)),
            (
                "indications",
                "indications, bursts of 8, 20 allocations",
                indications,
                FEW,
                (8, VIDEO_BYTES, rate),
            ),
            ("ipv6", "IPv6, bursts of 8, 20 allocations", ipv6, FEW, (8, VIDEO_BYTES, rate)),
            (
                "streams",
                "streams, clients over TCP, bursts of 8, 20 allocations",
                Way::by(Leg::Tcp),
                FEW,
                (8, VIDEO_BYTES, rate / 2.0),
            ),
            (
                "streams",
                "streams, clients over TLS, bursts of 8, 20 allocations",
                Way::by(tls),
                FEW,
                (8, VIDEO_BYTES, rate / 2.0),
            ),
        ] {
            if !self.wants(word) {
                continue;
            }
            let mut fleets = Vec::new();
            for server in servers {
                fleets.push(Some(self.fleet(server, &way, allocations, ports)?));
            }
            for direction in [Direction::ToPeer, Direction::ToClient] {
                let plan = self.plan(direction, burst, bytes, rate);
                self.compare(name, &plan, servers, &mut fleets, order)?;
            }
            fleets.into_iter().flatten().try_for_each(Fleet::release)?;
        }
        Ok(())
    }

    /// As much video as before through more and more allocations: what those cost that do not send at the moment. One server has
    /// them at a time, since the load may open no more sockets.
    fn growing(&mut self, servers: &[Server], order: &[usize], ports: &mut RangeFrom<u16>) -> Result<()> {
        if !self.wants("growth") {
            return Ok(());
        }
        let mut few = vec![[f64::NAN; 2]; servers.len()];
        for allocations in GROWING {
            for &index in order {
                let mut fleets: Vec<Option<Fleet>> = servers.iter().map(|_| None).collect();
                fleets[index] = Some(self.fleet(&servers[index], &Way::by(Leg::Udp), allocations, ports)?);
                for (way, direction) in [Direction::ToPeer, Direction::ToClient].into_iter().enumerate() {
                    let plan = self.plan(direction, 8, VIDEO_BYTES, self.arguments.rate);
                    let name = format!("growth, bursts of 8, {allocations} allocations");
                    let cpu = self.compare(&name, &plan, servers, &mut fleets, &[index])?[index];
                    if allocations == GROWING[0] {
                        few[index][way] = cpu;
                    } else if allocations == GROWING[GROWING.len() - 1] {
                        let name =
                            format!("growth of CPU per packet from 10 to 10,000, {}", towards(direction));
                        self.report.add(&name, Better::Low, index, cpu / few[index][way]);
                    }
                }
                fleets.into_iter().flatten().try_for_each(Fleet::release)?;
            }
        }
        Ok(())
    }

    /// So many allocations with a peer each.
    fn fleet(
        &self,
        server: &Server,
        way: &Way,
        allocations: usize,
        ports: &mut RangeFrom<u16>,
    ) -> Result<Fleet> {
        let mut fleet = Fleet::allocate(&self.lab, server, way, allocations, ports)?;
        fleet.bind()?;
        Ok(fleet)
    }

    /// One load on every server in turn; gives the CPU for a packet in microseconds, by server.
    fn compare(
        &mut self,
        name: &str,
        plan: &Plan,
        servers: &[Server],
        fleets: &mut [Option<Fleet>],
        order: &[usize],
    ) -> Result<Vec<f64>> {
        let mut costs = vec![f64::NAN; servers.len()];
        for &index in order {
            let Some(fleet) = &mut fleets[index] else { continue };
            let before = self.cpu(&servers[index])?;
            let outcome = fleet.play(plan)?;
            let cpu = (self.cpu(&servers[index])? - before) as f64;
            let name = format!("{name}, {}", towards(plan.direction));
            costs[index] = cpu / outcome.received.max(1) as f64 / 1000.0;
            self.report.add(&format!("{name}: server CPU, us/packet"), Better::Low, index, costs[index]);
            self.latencies(&name, index, &outcome);
            self.report.add(&format!("{name}: lost, %"), Better::Low, index, 100.0 * outcome.loss());
        }
        Ok(costs)
    }

    /// Nanoseconds so far, with what its host spent on fetching.
    fn cpu(&self, server: &Server) -> Result<u64> {
        Ok(cost::cpu(server.id())? + self.lab.cards_cpu()?)
    }

    fn latencies(&mut self, name: &str, index: usize, outcome: &Outcome) {
        for percent in [50.0, 99.0, 99.9] {
            let figure = format!("{name}: latency p{percent}, us");
            self.report.add(&figure, Better::Low, index, outcome.percentile(percent) / 1000.0);
        }
    }

    /// What the same way takes without a server, which every latency contains.
    fn direct(&mut self) -> Result<()> {
        let plan = self.plan(Direction::ToPeer, 8, VIDEO_BYTES, self.arguments.rate);
        let outcome = load::direct(&self.lab, &plan, lab::CLIENT, lab::PEER)?;
        for percent in [50.0, 99.0, 99.9] {
            self.report.direct(&format!("p{percent}"), outcome.percentile(percent) / 1000.0);
        }
        Ok(())
    }

    fn plan(&self, direction: Direction, burst: usize, bytes: usize, rate: f64) -> Plan {
        let time = Duration::from_secs_f64(self.arguments.seconds);
        Plan { direction, burst, bytes, rate, time, gives_way: false }
    }

    fn wants(&self, what: &str) -> bool {
        let only = &self.arguments.only;
        only.is_empty() || only.iter().any(|part| part == what)
    }
}

/// The most that came through with less than a thousandth lost, and whether the load could not make more.
fn capacity(fleet: &mut Fleet, direction: Direction) -> Result<(f64, bool)> {
    let (mut best, mut bound, mut failed) = (0.0_f64, false, 0);
    let mut rate = FIRST_RATE;
    while failed < 3 {
        let plan = Plan { direction, burst: 8, bytes: VIDEO_BYTES, rate, time: STEP, gives_way: false };
        let outcome = fleet.play(&plan)?;
        let (lost, kept_up) = (outcome.loss() >= 0.001, outcome.kept_up(&plan));
        if !lost {
            best = best.max(outcome.delivered_per_second());
        }
        // Of the steps that end it the first tells why it ends.
        if lost || !kept_up {
            bound = if failed == 0 { !lost } else { bound };
            failed += 1;
        } else {
            failed = 0;
        }
        rate *= GROWTH;
    }
    Ok((best, bound))
}

fn towards(direction: Direction) -> &'static str {
    match direction {
        Direction::ToPeer => "to the peer",
        Direction::ToClient => "to the client",
    }
}

/// What `--only` takes.
const PARTS: [&str; 11] = [
    "audio",
    "video",
    "capacity",
    "bulk",
    "indications",
    "ipv6",
    "streams",
    "growth",
    "allocation",
    "workers",
    "xdp",
];
const MANY: usize = 1000;
const WARM: usize = 100;
const FEW: usize = 20;
const GROWING: [usize; 4] = [10, 100, 1000, 10_000];
/// 20 ms of Opus at 64 kbit/s.
const AUDIO_BYTES: usize = 160;
/// Packets per second of one stream.
const AUDIO_RATE: f64 = 50.0;
const VIDEO_BYTES: usize = 1100;
/// What SCTP of browsers puts into a datagram at most, about.
const BULK_BYTES: usize = 1200;
const FIRST_RATE: f64 = 50_000.0;
const GROWTH: f64 = 1.12;
const STEP: Duration = Duration::from_millis(400);
