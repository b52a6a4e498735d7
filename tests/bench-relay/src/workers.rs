//! What a second worker costs: a load through one worker, and the same, and twice as much, through two of which each has a core of
//! its own. With half of the load a worker may find fewer bursts waiting when it wakes up.
//!
//! Two cores may be all that there is, so the load is made on one of them and gives way whenever it has nothing to do. A worker beside
//! it costs another figure than one that has its core for itself; hence the one worker is measured on either core, and the two are
//! compared with the mean.

use std::ops::RangeFrom;

use anyhow::Result;
use bench::{Better, cost};

use crate::load::{Direction, Fleet, Plan};
use crate::server::Server;
use crate::turn::Way;
use crate::wire::Leg;
use crate::{Bench, VIDEO_BYTES, towards};

impl Bench {
    /// On servers of their own.
    pub(crate) fn workers(&mut self, ports: &mut RangeFrom<u16>) -> Result<()> {
        let (server_cpu, load_cpu) = (self.arguments.server_cpu, self.arguments.load_cpu);
        let mut contender = self.contenders[0].clone();
        let one = Server::start(&self.lab, &contender, 0, server_cpu, load_cpu, &self.certificate)?;
        contender.workers = 2;
        let two = Server::start(&self.lab, &contender, 1, server_cpu, load_cpu, &self.certificate)?;
        two.pin_workers(&[server_cpu, load_cpu])?;
        let udp = Way::by(Leg::Udp);
        // So many that the kernel spreads them about evenly.
        let mut of_one = self.fleet(&one, &udp, SPREAD, ports)?;
        let mut of_two = self.fleet(&two, &udp, SPREAD, ports)?;
        for direction in [Direction::ToPeer, Direction::ToClient] {
            let mut plan = self.plan(direction, 8, VIDEO_BYTES, self.arguments.rate);
            plan.gives_way = true;
            let [mut beside, mut apart] = [0.0; 2];
            for (cpu, cost) in [(load_cpu, &mut beside), (server_cpu, &mut apart)] {
                one.pin_workers(&[cpu])?;
                *cost = measure(&one, &mut of_one, &plan)?.cost;
            }
            let alone = f64::midpoint(beside, apart);
            let halves = measure(&two, &mut of_two, &plan)?;
            plan.rate *= 2.0;
            let both = measure(&two, &mut of_two, &plan)?;
            let figures = [
                ("one beside the load, us/packet", beside),
                ("one on the other core, us/packet", apart),
                ("two with half of its load each, us/packet", halves.cost),
                ("two with as much each, us/packet", both.cost),
                ("two with half each, to the mean of one", halves.cost / alone),
                ("two with as much each, to the mean of one", both.cost / alone),
                ("CPU of the busier one, %", 100.0 * both.busier),
                ("received of what was asked for, %", 100.0 * both.received),
            ];
            for (what, value) in figures {
                let name = format!("workers, {}: {what}", towards(direction));
                self.report.add(&name, Better::Low, 0, value);
            }
        }
        Ok(())
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

fn measure(server: &Server, fleet: &mut Fleet, plan: &Plan) -> Result<Measured> {
    let (before, before_each) = (cost::cpu(server.id())?, server.workers_cpu()?);
    let outcome = fleet.play(plan)?;
    let all = cost::cpu(server.id())? - before;
    let each: Vec<_> =
        server.workers_cpu()?.iter().zip(before_each).map(|(now, before)| now - before).collect();
    let busiest = each.iter().copied().max().unwrap_or_default();
    Ok(Measured {
        cost: all as f64 / outcome.received.max(1) as f64 / 1000.0,
        busier: busiest as f64 / each.iter().sum::<u64>().max(1) as f64,
        received: outcome.received as f64 / (plan.rate * plan.time.as_secs_f64()),
    })
}

const SPREAD: usize = 200;
