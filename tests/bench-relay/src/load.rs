//! The load: streams through one server's allocations, sent and received by one thread that never sleeps.
//!
//! Datagrams go out one by one on the wire (`sendmmsg`, no segmentation offload): what arrived as one large buffer would be no
//! test of a server that makes such buffers. A load that falls behind, because somebody else had the core, goes on from there and
//! does not catch up: a burst that nobody asked for is no load.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::ops::RangeFrom;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use crate::lab::{CLIENT, Host, Lab, PEER};
use crate::turn::{CHANNEL, Client};
use crate::wire::{Frames, Leg, Wire};

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
        server: SocketAddr,
        leg: &Leg,
        allocations: usize,
        ports: &mut RangeFrom<u16>,
    ) -> Result<Self> {
        let wires = lab.within(Host::Client, || {
            let mut wire = || match leg {
                Leg::Udp => datagrams(server, ports.next().context("a port")?),
                Leg::Tcp | Leg::Tls(_) => Wire::stream(server, leg),
            };
            (0..allocations).map(|_| wire()).collect::<Result<Vec<_>>>()
        })?;
        let peers = lab.within(Host::Peer, || {
            (0..allocations.min(PEERS)).map(|_| Ok(UdpSocket::bind((PEER, 0))?)).collect::<Result<Vec<_>>>()
        })?;
        let clients = Client::allocate(wires)?;
        for peer in &peers {
            setsockopt(peer, sockopt::RcvBufForce, &PEER_QUEUE).context("a receive queue")?;
        }
        Ok(Self { clients, peers, began: Instant::now(), run: 0 })
    }

    /// Binds a channel to a peer for every client.
    pub(crate) fn bind(&self) -> Result<()> {
        for (index, client) in self.clients.iter().enumerate() {
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
        let mut senders = self.senders(plan)?;
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
                inbox.drain()?;
                unread = 0;
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

    fn senders(&self, plan: &Plan) -> Result<Senders<'_>> {
        let mut streams = Vec::with_capacity(self.clients.len());
        for (index, client) in self.clients.iter().enumerate() {
            streams.push(match (plan.direction, client.relayed) {
                (Direction::ToPeer, _) => End::of(&client.wire),
                (Direction::ToClient, SocketAddr::V4(to)) => {
                    End::Datagrams(self.peers[index % self.peers.len()].as_fd(), Some(SockaddrIn::from(to)))
                }
                (Direction::ToClient, SocketAddr::V6(_)) => anyhow::bail!("the lab has IPv4 alone"),
            });
        }
        let mut datagram = vec![0; 4 + plan.bytes];
        datagram[..2].copy_from_slice(&CHANNEL.to_be_bytes());
        datagram[2..4].copy_from_slice(&u16::try_from(plan.bytes)?.to_be_bytes());
        let start = if plan.direction == Direction::ToPeer { 0 } else { 4 };
        Ok(Senders {
            streams,
            datagram,
            start,
            burst: plan.burst,
            headers: MultiHeaders::preallocate(plan.burst, None),
        })
    }
}

/// What this thread has had of its core.
fn own_cpu() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse().context("schedstat")?))
}

/// The same, to the nanosecond and by a system call.
fn thread_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
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

/// One end of a stream of the load.
#[derive(Clone, Copy)]
enum End<'a> {
    /// A socket, and where it sends to if it is not connected.
    Datagrams(BorrowedFd<'a>, Option<SockaddrIn>),
    Frames(&'a RefCell<Frames>),
}

impl<'a> End<'a> {
    fn of(wire: &'a Wire) -> Self {
        match wire {
            Wire::Datagrams(socket) => Self::Datagrams(socket.as_fd(), None),
            Wire::Frames(frames) => Self::Frames(frames),
        }
    }
}

/// A client's socket, on this port.
fn datagrams(server: SocketAddr, port: u16) -> Result<Wire> {
    let socket = UdpSocket::bind((CLIENT, port))?;
    socket.connect(server)?;
    setsockopt(&socket, sockopt::RcvBufForce, &CLIENT_QUEUE).context("a receive queue")?;
    Ok(Wire::Datagrams(socket))
}

struct Senders<'a> {
    streams: Vec<End<'a>>,
    /// ChannelData around a payload that begins with the run and the time.
    datagram: Vec<u8>,
    /// Where the datagram begins in it: without the header where a peer sends.
    start: usize,
    burst: usize,
    headers: MultiHeaders<SockaddrIn>,
}

impl Senders<'_> {
    /// One burst; tells how many datagrams went out.
    fn send(&mut self, stream: usize, run: u32, began: Instant) -> Result<u64> {
        self.datagram[4..8].copy_from_slice(&run.to_be_bytes());
        let now = u64::try_from(began.elapsed().as_nanos())?;
        self.datagram[8..16].copy_from_slice(&now.to_be_bytes());
        let burst = self.burst.min(BATCH);
        let (socket, to) = match self.streams[stream] {
            End::Datagrams(socket, to) => (socket.as_raw_fd(), to),
            // One record, or one segment, holds what a client has to say at a time.
            End::Frames(frames) => {
                frames.borrow_mut().write(&self.datagram.repeat(burst))?;
                return Ok(burst as u64);
            }
        };
        let vectors = [[IoSlice::new(&self.datagram[self.start..])]; BATCH];
        let addresses = [to; BATCH];
        let sent = sendmmsg(
            socket,
            &mut self.headers,
            &vectors[..burst],
            &addresses[..burst],
            [],
            MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            Ok(sent) => Ok(sent.count() as u64),
            // ICMP about something earlier, or no room: not sent.
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ECONNREFUSED) => Ok(0),
            Err(error) => Err(error).context("sending"),
        }
    }
}

struct Inbox<'a> {
    epoll: Epoll,
    ends: Vec<End<'a>>,
    headers: MultiHeaders<SockaddrIn>,
    buffers: Box<[[u8; 2048]; BATCH]>,
    run: u32,
    began: Instant,
    latencies: Vec<u32>,
    /// CPU for what was received.
    work: Duration,
}

impl<'a> Inbox<'a> {
    fn new(ends: Vec<End<'a>>, run: u32, began: Instant) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        for (index, end) in ends.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
            match end {
                End::Datagrams(socket, _) => epoll.add(socket, event)?,
                End::Frames(frames) => epoll.add(frames.borrow().socket(), event)?,
            }
        }
        let headers = MultiHeaders::preallocate(BATCH, None);
        let buffers = Box::new([[0; 2048]; BATCH]);
        Ok(Self {
            epoll,
            ends,
            headers,
            buffers,
            run,
            began,
            latencies: Vec::with_capacity(1 << 20),
            work: Duration::ZERO,
        })
    }

    /// Takes what is there; tells how much of it belongs to the run.
    fn drain(&mut self) -> Result<usize> {
        let before = self.latencies.len();
        let mut events = [EpollEvent::empty(); BATCH];
        let ready = self.epoll.wait(&mut events, EpollTimeout::ZERO)?;
        if ready == 0 {
            return Ok(0);
        }
        let began = thread_cpu()?;
        for event in &events[..ready] {
            match self.ends[usize::try_from(event.data())?] {
                End::Datagrams(socket, _) => self.receive(socket.as_raw_fd())?,
                End::Frames(frames) => {
                    let now = self.began.elapsed().as_nanos();
                    while let Some(frame) = frames.borrow_mut().next()? {
                        note(frame, self.run, now, &mut self.latencies);
                    }
                }
            }
        }
        self.work += thread_cpu()? - began;
        Ok(self.latencies.len() - before)
    }

    fn receive(&mut self, socket: RawFd) -> Result<()> {
        let mut vectors = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let received = recvmmsg(socket, &mut self.headers, &mut vectors, MsgFlags::MSG_DONTWAIT, None);
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::ECONNREFUSED) => return Ok(()),
            Err(error) => return Err(error).context("receiving"),
        };
        let now = self.began.elapsed().as_nanos();
        for message in received {
            let Some(datagram) = message.iovs().next() else { continue };
            note(datagram, self.run, now, &mut self.latencies);
        }
        Ok(())
    }
}

/// How long a datagram took that belongs to this run.
fn note(datagram: &[u8], run: u32, now: u128, latencies: &mut Vec<u32>) {
    let payload = if datagram[0] == 0x40 { &datagram[4..] } else { datagram };
    let Some((of, rest)) = payload.split_first_chunk() else { return };
    let Some((sent, _)) = rest.split_first_chunk() else { return };
    if u32::from_be_bytes(*of) == run {
        let latency = now.saturating_sub(u64::from_be_bytes(*sent).into());
        latencies.push(u32::try_from(latency).unwrap_or(u32::MAX));
    }
}

/// The peer's ports; several allocations may share one.
const PEERS: usize = 20;
/// Datagrams per system call.
const BATCH: usize = 32;
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
    let SocketAddr::V4(address) = to.local_addr()? else { anyhow::bail!("the lab has IPv4 alone") };
    let address: SocketAddrV4 = address;
    setsockopt(to, sockopt::RcvBufForce, &PEER_QUEUE)?;
    let began = Instant::now();
    let mut inbox = Inbox::new(vec![End::Datagrams(to.as_fd(), None)], 1, began)?;
    let mut senders = Senders {
        streams: vec![End::Datagrams(from.as_fd(), Some(SockaddrIn::from(address)))],
        datagram: vec![0; 4 + plan.bytes],
        start: 4,
        burst: plan.burst,
        headers: MultiHeaders::preallocate(plan.burst, None),
    };
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
