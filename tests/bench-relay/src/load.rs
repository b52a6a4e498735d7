//! The load: streams through one server's allocations, sent and received by one thread that never sleeps.
//!
//! Datagrams go out one by one on the wire (`sendmmsg`, no segmentation offload): what arrived as one large buffer would be no
//! test of a server that makes such buffers. A load that falls behind, because somebody else had the core, goes on from there and
//! does not catch up: a burst that nobody asked for is no load.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeFrom;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::ends::{BATCH, End, Inbox, Senders, thread_cpu};
use crate::lab::{CLIENT, CLIENT6, Host, Lab, PEER, PEER6};
use crate::server::Server;
use crate::turn::{Client, Way};
use crate::wire::{Leg, Wire};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToPeer,
    ToClient,
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) direction: Direction,
    /// Datagrams that an allocation sends at once.
    pub(crate) burst: usize,
    /// Payload bytes of each, before ChannelData.
    pub(crate) bytes: usize,
    /// Datagrams per second, all allocations together.
    pub(crate) rate: f64,
    pub(crate) time: Duration,
    /// Whether who waits for the load's core may have it while there is nothing to do.
    pub(crate) gives_way: bool,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Time in which it was sent, less what others had of the load's core.
    pub(crate) time: Duration,
    /// Nanoseconds from the send to the receipt, sorted.
    pub(crate) latencies: Vec<u32>,
    /// CPU of the load's thread for sending, which on virtual links is also what happens to the datagrams on their way through the kernel,
    /// and for receiving what was there.
    pub(crate) work: Duration,
}

impl Outcome {
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.received as f64 / self.sent.max(1) as f64
    }

    pub(crate) fn delivered_per_second(&self) -> f64 {
        self.received as f64 / self.time.as_secs_f64()
    }

    /// Whether what was asked for was sent.
    pub(crate) fn kept_up(&self, plan: &Plan) -> bool {
        self.sent as f64 / self.time.as_secs_f64() > 0.95 * plan.rate
    }

    /// Nanoseconds.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * percent / 100.0).round();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        self.latencies.get(at as usize).map_or(f64::NAN, |nanoseconds| f64::from(*nanoseconds))
    }
}

/// Allocations on one server, and the sockets of both ends.
pub(crate) struct Fleet {
    clients: Vec<Client>,
    peers: Vec<UdpSocket>,
    began: Instant,
    /// Names the run, so that what is late from the one before is not counted.
    run: u32,
}

impl Fleet {
    /// Opens sockets, for UDP on the next of `ports`, and allocates; no channel is bound yet. A server may remember for a while who
    /// released an allocation, so no port is to be used twice.
    pub(crate) fn allocate(
        lab: &Lab,
        server: &Server,
        way: &Way,
        allocations: usize,
        ports: &mut RangeFrom<u16>,
    ) -> Result<Self> {
        let server = server.address(way);
        let wires = lab.within(Host::Client, || {
            let mut wire = || match &way.leg {
                Leg::Udp => datagrams(server, ports.next().context("a port")?),
                leg @ (Leg::Tcp | Leg::Tls(_)) => Wire::stream(server, leg),
            };
            (0..allocations).map(|_| wire()).collect::<Result<Vec<_>>>()
        })?;
        let here: IpAddr = if way.ipv6 { PEER6.into() } else { PEER.into() };
        let peers = lab.within(Host::Peer, || {
            (0..allocations.min(PEERS)).map(|_| Ok(UdpSocket::bind((here, 0))?)).collect::<Result<Vec<_>>>()
        })?;
        let clients = Client::allocate(wires, way)?;
        for peer in &peers {
            setsockopt(peer, sockopt::RcvBufForce, &PEER_QUEUE).context("a receive queue")?;
        }
        Ok(Self { clients, peers, began: Instant::now(), run: 0 })
    }

    /// Both as one, whose clients are on two servers; no channel is bound yet.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.clients.extend(other.clients);
        self.peers.extend(other.peers);
        self
    }

    /// Gives every client a peer.
    pub(crate) fn bind(&mut self) -> Result<()> {
        for (index, client) in self.clients.iter_mut().enumerate() {
            client.bind(self.peers[index % self.peers.len()].local_addr()?)?;
        }
        Ok(())
    }

    pub(crate) fn release(self) -> Result<()> {
        self.clients.iter().try_for_each(Client::release)
    }

    /// Plays `plan` and waits for what is on its way.
    pub(crate) fn play(&mut self, plan: &Plan) -> Result<Outcome> {
        self.run += 1;
        let mut inbox = Inbox::new(self.receivers(plan.direction), self.run, self.began)?;
        let heads = self.heads(plan)?;
        let mut senders = Senders::new(self.senders(plan.direction, &heads), plan.bytes, plan.burst);
        let period = self.clients.len() as f64 * plan.burst as f64 / plan.rate;
        let mut schedule = phases(self.clients.len(), period);
        let mut outcome = Outcome::default();
        let (start, own, mut late) = (Instant::now(), own_cpu()?, Duration::ZERO);
        let (mut next, mut unread) = (0, 0);
        while start.elapsed() < plan.time {
            let (due, stream) = schedule[next];
            let due = start + late + due;
            let now = Instant::now();
            if now < due {
                unread = 0;
                if inbox.drain()? == 0 && plan.gives_way {
                    std::thread::yield_now();
                }
                continue;
            }
            if now - due > PAUSE {
                late += now - due;
            }
            let began = thread_cpu()?;
            outcome.sent += senders.send(stream, self.run, self.began)?;
            outcome.work += thread_cpu()? - began;
            unread += plan.burst;
            if unread >= BATCH {
                inbox.drain()?;
                unread = 0;
            }
            schedule[next].0 += Duration::from_secs_f64(period);
            next = (next + 1) % schedule.len();
        }
        // This thread never sleeps: when it did not run, somebody else did.
        outcome.time = start.elapsed().min(own_cpu()? - own);
        let mut quiet = Instant::now();
        while quiet.elapsed() < QUIET && inbox.latencies.len() < usize::try_from(outcome.sent)? {
            if inbox.drain()? > 0 {
                quiet = Instant::now();
            }
        }
        outcome.received = inbox.latencies.len() as u64;
        outcome.work += inbox.work;
        outcome.latencies = inbox.latencies;
        outcome.latencies.sort_unstable();
        Ok(outcome)
    }

    fn receivers(&self, direction: Direction) -> Vec<End<'_>> {
        match direction {
            Direction::ToPeer => self.peers.iter().map(|peer| End::Datagrams(peer.as_fd(), None)).collect(),
            Direction::ToClient => self.clients.iter().map(|client| End::of(&client.wire)).collect(),
        }
    }

    /// What each stream has before its payload.
    fn heads(&self, plan: &Plan) -> Result<Vec<Vec<u8>>> {
        let head = |client: &Client| match plan.direction {
            Direction::ToPeer => client.head(plan.bytes),
            Direction::ToClient => Ok(Vec::new()),
        };
        self.clients.iter().map(head).collect()
    }

    fn senders<'a>(&'a self, direction: Direction, heads: &'a [Vec<u8>]) -> Vec<(End<'a>, &'a [u8])> {
        let end = |(index, client): (usize, &'a Client)| match direction {
            Direction::ToPeer => End::of(&client.wire),
            Direction::ToClient => {
                End::Datagrams(self.peers[index % self.peers.len()].as_fd(), Some(client.relayed))
            }
        };
        self.clients.iter().enumerate().map(end).zip(heads.iter().map(Vec::as_slice)).collect()
    }
}

/// What this thread has had of its core.
fn own_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse().context("schedstat")?))
}

/// How the streams are spread over the time after which each sends again: at random, but always the same way.
fn phases(streams: usize, period: f64) -> Vec<(Duration, usize)> {
    let mut random: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut phases: Vec<_> = (0..streams)
        .map(|stream| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
            (Duration::from_secs_f64(period * part), stream)
        })
        .collect();
    phases.sort_unstable();
    phases
}

/// A client's socket, on this port.
fn datagrams(server: SocketAddr, port: u16) -> Result<Wire> {
    let here: IpAddr = if server.is_ipv4() { CLIENT.into() } else { CLIENT6.into() };
    let socket = UdpSocket::bind((here, port))?;
    socket.connect(server)?;
    setsockopt(&socket, sockopt::RcvBufForce, &CLIENT_QUEUE).context("a receive queue")?;
    Ok(Wire::Datagrams(socket))
}

/// The peer's ports; several allocations may share one.
const PEERS: usize = 20;
/// Behind by so much, the load waits no more for the time that is lost.
const PAUSE: Duration = Duration::from_millis(2);
/// Nothing comes any more.
const QUIET: Duration = Duration::from_millis(100);
const CLIENT_QUEUE: usize = 4 << 20;
const PEER_QUEUE: usize = 16 << 20;

/// Where a test of the way itself sends: past the servers, between these addresses.
pub(crate) fn direct(lab: &Lab, plan: &Plan, client: Ipv4Addr, peer: Ipv4Addr) -> Result<Outcome> {
    let peer = lab.within(Host::Peer, || Ok(UdpSocket::bind((peer, 0))?))?;
    let client = lab.within(Host::Client, || Ok(UdpSocket::bind((client, 0))?))?;
    let (from, to) = match plan.direction {
        Direction::ToPeer => (&client, &peer),
        Direction::ToClient => (&peer, &client),
    };
    setsockopt(to, sockopt::RcvBufForce, &PEER_QUEUE)?;
    let began = Instant::now();
    let mut inbox = Inbox::new(vec![End::Datagrams(to.as_fd(), None)], 1, began)?;
    let stream = End::Datagrams(from.as_fd(), Some(to.local_addr()?));
    let mut senders = Senders::new(vec![(stream, &[])], plan.bytes, plan.burst);
    let start = Instant::now();
    let mut outcome = Outcome::default();
    while start.elapsed() < plan.time {
        if start.elapsed().as_secs_f64() * plan.rate >= outcome.sent as f64 {
            let worked = thread_cpu()?;
            outcome.sent += senders.send(0, 1, began)?;
            outcome.work += thread_cpu()? - worked;
        }
        inbox.drain()?;
    }
    outcome.time = start.elapsed();
    outcome.received = inbox.latencies.len() as u64;
    outcome.work += inbox.work;
    outcome.latencies = inbox.latencies;
    outcome.latencies.sort_unstable();
    Ok(outcome)
}
