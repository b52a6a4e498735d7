//! What a second worker costs: a load through one worker, and the same, and twice as much, through two of which each has a core of
//! its own. With half of the load a worker may find fewer bursts waiting when it wakes up.
//!
//! Two cores may be all that there is, so the load is made on one of them and gives way whenever it has nothing to do. A worker beside
//! it costs another figure than one that has its core for itself; hence the one worker is measured on either core, and the two are
//! compared with the mean. Beside them two processes of one worker each, which share nothing but the machine: what those cost more than
//! the one is the machine's.

use std::ops::RangeFrom;

use anyhow::Result;
use bench::{Better, cost};

use crate::load::{Direction, Fleet, Plan};
use crate::server::{Contender, Server};
use crate::turn::Way;
use crate::wire::Leg;
use crate::{Bench, VIDEO_BYTES, towards};

impl Bench {
    /// On servers of their own.
    pub(crate) fn workers(&mut self, ports: &mut RangeFrom<u16>) -> Result<()> {
        let (server_cpu, load_cpu) = (self.arguments.server_cpu, self.arguments.load_cpu);
        let mut contender = self.contenders[0].clone();
        let one = self.with_workers(&contender, 0)?;
        let other = self.with_workers(&contender, 1)?;
        other.pin_workers(&[load_cpu])?;
        contender.workers = 2;
        let two = self.with_workers(&contender, 2)?;
        two.pin_workers(&[server_cpu, load_cpu])?;
        let udp = Way::by(Leg::Udp);
        // So many that the kernel spreads them about evenly.
        let mut of_one = self.fleet(&one, &udp, SPREAD, ports)?;
        let mut of_two = self.fleet(&two, &udp, SPREAD, ports)?;
        let of_other = Fleet::allocate(&self.lab, &other, &udp, SPREAD / 2, ports)?;
        let mut of_both = Fleet::allocate(&self.lab, &one, &udp, SPREAD / 2, ports)?.and(of_other);
        of_both.bind()?;
        for direction in [Direction::ToPeer, Direction::ToClient] {
            let mut plan = self.plan(direction, 8, VIDEO_BYTES, self.arguments.rate);
            plan.gives_way = true;
            let [mut beside, mut apart] = [0.0; 2];
            for (cpu, cost) in [(load_cpu, &mut beside), (server_cpu, &mut apart)] {
                one.pin_workers(&[cpu])?;
                *cost = measure(&[&one], &mut of_one, &plan)?.cost;
            }
            let alone = f64::midpoint(beside, apart);
            let mut costs = Vec::new();
            for half in [true, false] {
                plan.rate = if half { self.arguments.rate } else { 2.0 * self.arguments.rate };
                costs.push((
                    measure(&[&two], &mut of_two, &plan)?,
                    measure(&[&one, &other], &mut of_both, &plan)?,
                ));
            }
            let [(halves, half_processes), (full, full_processes)] = [&costs[0], &costs[1]];
            let figures = [
                ("one beside the load, us/packet", beside),
                ("one on the other core, us/packet", apart),
                ("two with half of its load each, us/packet", halves.cost),
                ("two with as much each, us/packet", full.cost),
                ("two with half each, to the mean of one", halves.cost / alone),
                ("two processes with half each, to the mean of one", half_processes.cost / alone),
                ("two with as much each, to the mean of one", full.cost / alone),
                ("two processes with as much each, to the mean of one", full_processes.cost / alone),
                ("CPU of the busier one, %", 100.0 * full.busier),
                ("received of what was asked for, %", 100.0 * full.received),
            ];
            for (what, value) in figures {
                let name = format!("workers, {}: {what}", towards(direction));
                self.report.add(&name, Better::Low, 0, value);
            }
        }
        Ok(())
    }

    fn with_workers(&self, contender: &Contender, index: u16) -> Result<Server> {
        let (server_cpu, load_cpu) = (self.arguments.server_cpu, self.arguments.load_cpu);
        Server::start(&self.lab, contender, index, server_cpu, load_cpu, &self.certificate)
    }
}

struct Measured {
    /// Microseconds of CPU for a packet.
    cost: f64,
    /// The busiest worker's part of all workers' CPU.
    busier: f64,
    /// Part of the packets that the plan asks for: beside a worker, and on a busy machine more so, the load may not keep up.
    received: f64,
}

fn measure(servers: &[&Server], fleet: &mut Fleet, plan: &Plan) -> Result<Measured> {
    let (before, before_each) = (cpu(servers)?, workers_cpu(servers)?);
    let outcome = fleet.play(plan)?;
    let all = cpu(servers)? - before;
    let each: Vec<_> =
        workers_cpu(servers)?.iter().zip(before_each).map(|(now, before)| now - before).collect();
    let busiest = each.iter().copied().max().unwrap_or_default();
    Ok(Measured {
        cost: all as f64 / outcome.received.max(1) as f64 / 1000.0,
        busier: busiest as f64 / each.iter().sum::<u64>().max(1) as f64,
        received: outcome.received as f64 / (plan.rate * plan.time.as_secs_f64()),
    })
}

/// Nanoseconds so far.
fn cpu(servers: &[&Server]) -> Result<u64> {
    servers.iter().map(|server| cost::cpu(server.id())).sum()
}

fn workers_cpu(servers: &[&Server]) -> Result<Vec<u64>> {
    let each: Result<Vec<_>> = servers.iter().map(|server| server.workers_cpu()).collect();
    Ok(each?.concat())
}

const SPREAD: usize = 200;
