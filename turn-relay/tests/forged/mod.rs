//! A million requests with forged sources, and what they may cost.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says what it measured"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::client::{self, Client};

const FORGED: u64 = 1_000_000;
/// Half a minute of it: what a debug build on a busy machine still reads.
const PER_SECOND: u64 = 40_000;
/// RFC.md: what an answer to a stranger may be of its request, IP and UDP headers counted.
const BYTES_OUT_PER_BYTE_IN: f64 = 2.5;
/// Tables of fixed size that fill up (1.5 MiB a worker), and what an allocator keeps.
const GROWTH_KIB: u64 = 8 * 1024;

/// The relay that is flooded, and the two ways to it.
pub(crate) struct Flood<'a> {
    pub(crate) server: SocketAddr,
    /// The relay's process.
    pub(crate) relay: u32,
    /// Sends IPv4 packets with headers of the sender's own.
    pub(crate) raw: Socket,
    /// A client with credentials.
    pub(crate) client: &'a dyn Fn() -> Client,
    /// What has left the relay so far.
    pub(crate) left: &'a dyn Fn() -> Traffic,
    /// What is forged leaves the relay's host too.
    pub(crate) over_loopback: bool,
}

/// Packets, and their bytes from the IP header on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Flood<'_> {
    /// They cost no memory and keep nobody out, and what is sent to those who sent nothing is little. Allocations that are asked for meanwhile are
    /// released again.
    pub(crate) fn is_harmless(&self) {
        let first = self.allocate();
        let (memory, before) = (peak_memory(self.relay), (self.left)());
        let over = AtomicBool::new(false);
        let mut waits = std::thread::scope(|scope| {
            let (raw, server, over) = (&self.raw, self.server, &over);
            let forging = scope.spawn(move || {
                forge(raw, server);
                over.store(true, Ordering::Release);
            });
            let mut waits = vec![];
            while !over.load(Ordering::Acquire) {
                waits.push(self.allocate());
                std::thread::sleep(Duration::from_millis(100));
            }
            forging.join().unwrap();
            waits
        });

        let (grown, after) = (peak_memory(self.relay) - memory, (self.left)());
        // The few packets for real clients count as answers, which is the side to err on.
        let forged = if self.over_loopback { (FORGED, sent_bytes()) } else { (0, 0) };
        let (answered, bytes) =
            (after.packets - before.packets - forged.0, after.bytes - before.bytes - forged.1);
        #[allow(clippy::cast_precision_loss, reason = "some hundred million")]
        let ratio = bytes as f64 / sent_bytes() as f64;
        waits.sort_unstable();
        let (median, slowest) = (waits[waits.len() / 2], waits[waits.len() - 1]);
        eprintln!(
            "{FORGED} forged requests: {answered} answered, {ratio:.2} bytes out per byte in, memory grew by {grown} KiB; \
             {} allocations meanwhile, median {median:?}, slowest {slowest:?} (before: {first:?})",
            waits.len()
        );
        assert!(answered > FORGED / 10, "{answered} answers: the flood did not reach the relay");
        assert!(ratio < BYTES_OUT_PER_BYTE_IN, "{ratio} bytes out per byte in");
        assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
        assert!(waits.len() > 10 && median < Duration::from_secs(1), "{waits:?}");
    }

    /// How long a client needs for its allocation, retransmissions included; it is given back at once.
    fn allocate(&self) -> Duration {
        let began = Instant::now();
        let mut client = (self.client)();
        client.retransmits = true;
        client.allocate();
        let needed = began.elapsed();
        assert!(client.release().is_success());
        needed
    }
}

/// Sends Binding and Allocate requests in turns, each from another random address and port.
fn forge(raw: &Socket, server: SocketAddr) {
    let SocketAddr::V4(to) = server else { panic!("IPv4") };
    let began = Instant::now();
    for n in 0..FORGED {
        // A walk through all numbers that looks random: multiplication by an odd constant.
        let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let source = public(u32::try_from(random >> 32).unwrap());
        let port = 1024 + u16::try_from(random % 60_000).unwrap();
        let packet = packet((source, port), (*to.ip(), to.port()), &request(n, random));
        while raw.send_to(&packet, &SockAddr::from(server)).is_err() {
            std::thread::yield_now();
        }
        // Paced: what a full receive queue drops would test the kernel.
        if n.is_multiple_of(200) {
            let due = began + Duration::from_nanos(n * 1_000_000_000 / PER_SECOND);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
}

/// A socket for what is forged, in this thread's network.
pub(crate) fn raw() -> Socket {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap()
}

/// What a device of this thread's network has sent: one that counts from the IP header on, as the loopback device does, and a virtual link with XDP
/// at its other end.
pub(crate) fn sent_by(device: &str) -> Traffic {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let before = format!("{device}:");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&before)).unwrap();
    let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().unwrap()).collect();
    Traffic { packets: fields[9], bytes: fields[8] }
}

fn sent_bytes() -> u64 {
    (0..2).map(|n| 28 + request(n, 0).len() as u64).sum::<u64>() * FORGED / 2
}

/// The most that was ever resident, in KiB.
fn peak_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// An address of the internet: neither this machine's nor one that the kernel takes for a mistake.
fn public(random: u32) -> Ipv4Addr {
    let [a, b, c, d] = random.to_be_bytes();
    let a = 1 + a % 223;
    Ipv4Addr::new(if a == 127 { 8 } else { a }, b, c, d)
}

fn request(n: u64, random: u64) -> Vec<u8> {
    let (kind, body): (u16, &[u8]) = if n.is_multiple_of(2) {
        (client::BINDING, &[])
    } else {
        (client::ALLOCATE, &[0, 0x19, 0, 4, 17, 0, 0, 0])
    };
    let mut message = kind.to_be_bytes().to_vec();
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(0x2112_A442_u32.to_be_bytes());
    message.extend([random.to_be_bytes().as_slice(), &[0; 4]].concat());
    message.extend(body);
    message
}

/// IPv4 and UDP headers around a payload. The kernel fills in the checksum of IP; that of UDP may be left out.
fn packet((source, from): (Ipv4Addr, u16), (target, to): (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = |more: usize| u16::try_from(payload.len() + more).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0];
    packet.extend(length(28));
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(length(8));
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
