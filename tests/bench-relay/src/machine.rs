//! What the whole machine does for a packet less what the load itself costs, without XDP and with it.
//!
//! On virtual links the kernel carries a datagram in the sender's system call through as many links as it can. So the cost of a packet is
//! that of the load's sending and receiving and of the server's process, and of both cores' kernel threads for
//! what was put off; and the load's own is what the same load costs on one link of the same kind between its two ends.

use std::ops::RangeFrom;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bench::{Better, cost};

use crate::lab::{CLIENT_AT_PEER, PEER_AT_CLIENT};
use crate::load::{self, Direction, Fleet, Outcome, Plan};

use crate::server::{Kind, Server};
use crate::turn::Way;
use crate::wire::Leg;
use crate::{Bench, FEW, VIDEO_BYTES, towards};

impl Bench {
    /// The servers in user space.
    pub(crate) fn whole_machine(&mut self, servers: &[Server], ports: &mut RangeFrom<u16>) -> Result<()> {
        for (index, server) in servers.iter().enumerate() {
            let mut fleet = self.fleet(server, &Way::by(Leg::Udp), FEW, ports)?;
            for plan in self.plans() {
                let cost = self.beyond_the_load(server, &mut fleet, &plan)?;
                let name = format!("machine CPU less the load's, {}, us/packet", towards(plan.direction));
                self.report.add(&name, Better::Low, index, cost);
                if self.contenders[index].kind == Kind::Coturn {
                    self.report.add(&format!("XDP, {name}"), Better::Low, index, cost);
                }
            }
            fleet.release()?;
        }
        Ok(())
    }

    /// turn-relay in the driver, when the others are gone: its program sees every packet of the links.
    pub(crate) fn in_driver(&mut self, ports: &mut RangeFrom<u16>) -> Result<()> {
        let mut contender = self.contenders[0].clone();
        contender.kind = Kind::InDriver;
        self.lab.take_from_drivers(true)?;
        let (server_cpu, load_cpu) = (self.arguments.server_cpu, self.arguments.load_cpu);
        let server = Server::start(&self.lab, &contender, 0, server_cpu, load_cpu, &self.certificate)?;
        let mut fleet = self.fleet(&server, &Way::by(Leg::Udp), FEW, ports)?;
        for plan in self.plans() {
            // The first packet of each flow goes through user space.
            fleet.play(&Plan { time: FIRST, ..plan })?;
            let cost = self.beyond_the_load(&server, &mut fleet, &plan)?;
            let name = format!("machine CPU less the load's, {}, us/packet", towards(plan.direction));
            self.report.add(&format!("XDP, {name}"), Better::Low, 0, cost);
            let time = time_in_program(|| fleet.play(&plan))?;
            let name = format!("XDP, run time of the program, {}, ns/packet", towards(plan.direction));
            self.report.add(&name, Better::Low, 0, time);
        }
        fleet.release()?;
        drop(server);
        self.lab.take_from_drivers(false)
    }

    fn plans(&self) -> [Plan; 2] {
        [Direction::ToPeer, Direction::ToClient]
            .map(|direction| self.plan(direction, 8, VIDEO_BYTES, self.arguments.rate))
    }

    /// Microseconds per packet.
    fn beyond_the_load(&self, server: &Server, fleet: &mut Fleet, plan: &Plan) -> Result<f64> {
        let own = {
            let deferred = deferred()?;
            let outcome = load::direct(&self.lab, plan, CLIENT_AT_PEER, PEER_AT_CLIENT)?;
            per_packet(&outcome, outcome.work + self::deferred()?.saturating_sub(deferred))
        };
        let (before, deferred) = (cost::cpu(server.id())?, deferred()?);
        let outcome = fleet.play(plan)?;
        ensure!(outcome.loss() < 0.5, "{:.1} % lost", 100.0 * outcome.loss());
        let process = Duration::from_nanos(cost::cpu(server.id())? - before);
        let all = outcome.work + process + self::deferred()?.saturating_sub(deferred);
        Ok(per_packet(&outcome, all) - own)
    }
}

fn per_packet(outcome: &Outcome, cost: Duration) -> f64 {
    cost.as_secs_f64() * 1e6 / outcome.received.max(1) as f64
}

/// CPU so far of the kernel threads that do what interrupts put off.
fn deferred() -> Result<Duration> {
    let mut sum = 0;
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        // A process may be gone meanwhile, and most entries are none.
        let Ok(name) = std::fs::read_to_string(path.join("comm")) else { continue };
        if name.starts_with("ksoftirqd/") || name.starts_with("napi/") {
            let text = std::fs::read_to_string(path.join("schedstat"))?;
            sum += text.split(' ').next().unwrap_or_default().parse::<u64>().context("schedstat")?;
        }
    }
    Ok(Duration::from_nanos(sum))
}

/// Nanoseconds that the program ran for a packet, by the kernel's statistics, which are off otherwise because they cost something too.
fn time_in_program<T>(play: impl FnOnce() -> Result<T>) -> Result<f64> {
    const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
    std::fs::write(SWITCH, "1").context("statistics of BPF programs")?;
    let (before, played, after) = (statistics(), play(), statistics());
    std::fs::write(SWITCH, "0")?;
    played?;
    let ((time, runs), (before_time, before_runs)) = (after?, before?);
    Ok((time - before_time) as f64 / (runs - before_runs).max(1) as f64)
}

/// Nanoseconds and runs so far.
fn statistics() -> Result<(u64, u64)> {
    let output = Command::new("bpftool")
        .args(["-j", "prog", "show", "name", "turn_relay"])
        .output()
        .context("bpftool")?;
    let programs: serde_json::Value = serde_json::from_slice(&output.stdout).context("what bpftool says")?;
    let program = programs.as_array().and_then(|all| all.last()).unwrap_or(&programs);
    let number = |key: &str| program.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Ok((number("run_time_ns"), number("run_cnt")))
}

/// Enough for every flow, and short.
const FIRST: Duration = Duration::from_millis(200);
