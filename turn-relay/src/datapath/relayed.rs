//! The relayed sockets of one worker: one bound UDP socket per relayed transport address, named by its slot.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;

use super::Source;
use crate::address::{PeerAddr, RelayedPort};
use crate::relay::{OpenFailure, Opened, SocketSlot};
use crate::sys::batch::{Batch, Taken};
use crate::sys::error_queue::SendError;
use crate::sys::{datagram, error_queue};

/// The slab. Slots are dense and used again.
#[derive(Debug, Default)]
pub(crate) struct RelayedSockets {
    pub(super) slab: Slab<Entry>,
    /// When a socket that could not be opened was last complained about.
    complained: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Entry {
    Datagrams(RelayedSocket),
    /// Of a TCP allocation.
    Listening(mio::net::TcpListener),
}

#[derive(Debug)]
pub(super) struct RelayedSocket {
    socket: UdpSocket,
    ipv4: bool,
    /// What the socket's DF option is set to.
    dont_fragment: bool,
    /// What the socket's count of overflows was when it was last looked at.
    overflows: u32,
    /// There may be ICMP errors to take.
    errors: bool,
    /// The last datagram that was larger than our own link: the error that tells the MTU does not tell the port.
    too_large: Option<PeerAddr>,
}

/// One datagram from a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromPeer {
    pub(crate) len: usize,
    pub(crate) from: PeerAddr,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// How many datagrams the kernel had to drop since the last one.
    pub(crate) overflows: usize,
}

impl RelayedSockets {
    /// Binds `port`, and the next one too where `reserve_next`: both or none.
    pub(crate) fn open(
        &mut self,
        registry: &Registry,
        ip: IpAddr,
        port: RelayedPort,
        reserve_next: bool,
    ) -> Result<Opened, OpenFailure> {
        let first = self.bind(ip, port.0)?;
        let second = match (reserve_next, port.0.checked_add(1)) {
            (false, _) => None,
            (true, Some(next)) => Some(self.bind(ip, next)?),
            (true, None) => return Err(OpenFailure::PortTaken),
        };
        let slot = self.adopt(registry, first).ok_or(OpenFailure::Unavailable)?;
        let Some(second) = second else { return Ok(Opened { slot, reserved: None }) };
        match self.adopt(registry, second) {
            Some(reserved) => Ok(Opened { slot, reserved: Some(reserved) }),
            None => {
                drop(self.release(registry, slot));
                Err(OpenFailure::Unavailable)
            }
        }
    }

    /// Takes a bound, non-blocking socket in and listens to it; `None` where the event loop cannot.
    pub(crate) fn adopt(&mut self, registry: &Registry, socket: UdpSocket) -> Option<SocketSlot> {
        let ipv4 = socket.local_addr().ok()?.is_ipv4();
        let entry = self.slab.vacant_entry();
        let slot = SocketSlot(u32::try_from(entry.key()).ok()?);
        let token = Source::Relayed(slot).token();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE).ok()?;
        entry.insert(Entry::Datagrams(RelayedSocket {
            socket,
            ipv4,
            dont_fragment: false,
            overflows: 0,
            errors: true,
            too_large: None,
        }));
        Some(slot)
    }

    /// Lets a socket go; dropping what is returned closes it.
    pub(crate) fn release(&mut self, registry: &Registry, slot: SocketSlot) -> Option<UdpSocket> {
        match self.slab.try_remove(slot.0 as usize)? {
            Entry::Datagrams(relayed) => {
                let _ = registry.deregister(&mut SourceFd(&relayed.socket.as_raw_fd()));
                Some(relayed.socket)
            }
            Entry::Listening(mut listener) => {
                let _ = registry.deregister(&mut listener);
                None
            }
        }
    }

    fn datagrams(&mut self, slot: SocketSlot) -> Option<&mut RelayedSocket> {
        match self.slab.get_mut(slot.0 as usize)? {
            Entry::Datagrams(relayed) => Some(relayed),
            Entry::Listening(_) => None,
        }
    }

    /// At most `want` datagrams, or runs of them, into `batch`; none for a slot that is empty.
    pub(crate) fn receive(&mut self, slot: SocketSlot, batch: &mut Batch, want: usize) -> io::Result<Taken> {
        let Some(relayed) = self.datagrams(slot) else { return Ok(Taken { datagrams: 0, more: false }) };
        batch.receive(relayed.socket.as_fd(), want).inspect_err(|error| {
            relayed.errors |= error.kind() != io::ErrorKind::WouldBlock;
        })
    }

    /// What is known of the datagram in `place`, which was received from `slot`.
    pub(crate) fn from(&mut self, slot: SocketSlot, batch: &Batch, place: usize) -> Option<FromPeer> {
        let (relayed, received) = (self.datagrams(slot)?, batch.received(place)?);
        Some(FromPeer {
            len: received.len,
            from: PeerAddr(received.from),
            traffic_class: received.traffic_class,
            overflows: datagram::more_overflows(&mut relayed.overflows, received.overflows),
        })
    }

    #[cfg(test)]
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.slab.iter().filter_map(|(_, entry)| match entry {
            Entry::Datagrams(relayed) => Some(&relayed.socket),
            Entry::Listening(_) => None,
        })
    }

    /// The event loop says that there are ICMP errors.
    pub(crate) fn expect_errors(&mut self, slot: SocketSlot) {
        if let Some(relayed) = self.datagrams(slot) {
            relayed.errors = true;
        }
    }

    /// One ICMP error, `Some(None)` where it means nothing; `None`: there is none. Asks the kernel only if there may be one.
    pub(crate) fn take_error(&mut self, slot: SocketSlot) -> Option<Option<SendError>> {
        let relayed = self.datagrams(slot).filter(|relayed| relayed.errors)?;
        let taken = error_queue::take(relayed.socket.as_fd());
        relayed.errors = taken.is_ok();
        let mut error = taken.ok()?;
        if let Some(local) = error.as_mut().filter(|error| error.to.port() == 0) {
            match relayed.too_large.filter(|peer| peer.ip() == local.to.ip()) {
                Some(peer) => local.to = peer.0,
                None => error = None,
            }
        }
        Some(error)
    }

    /// Sends datagrams to a peer, with this DSCP and ECN: one, or a run ([`datagram::send_run`]), all or none of it.
    pub(crate) fn send(
        &mut self,
        slot: SocketSlot,
        datagrams: &[IoSlice<'_>],
        to: PeerAddr,
        dont_fragment: bool,
        traffic_class: u8,
    ) -> io::Result<()> {
        let relayed = self.datagrams(slot).ok_or(io::ErrorKind::NotConnected)?;
        if relayed.ipv4 && relayed.dont_fragment != dont_fragment {
            datagram::set_dont_fragment(relayed.socket.as_fd(), dont_fragment)?;
            relayed.dont_fragment = dont_fragment;
        }
        let send = || datagram::send_run(relayed.socket.as_fd(), datagrams, to.0, None, traffic_class);
        for _ in 0..PENDING_ERRORS {
            match send() {
                // An ICMP error about an earlier datagram, which the kernel tells once: this one was not sent yet.
                Err(error) if is_icmp(&error) => relayed.errors = true,
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                    relayed.too_large = Some(to);
                    return Err(error);
                }
                sent => return sent,
            }
        }
        send()
    }

    fn bind(&mut self, ip: IpAddr, port: u16) -> Result<UdpSocket, OpenFailure> {
        bind(ip, port).map_err(|error| self.failure(&error))
    }

    /// What the core is told of it, and the operator now and then.
    pub(super) fn failure(&mut self, error: &io::Error) -> OpenFailure {
        if error.kind() == io::ErrorKind::AddrInUse {
            return OpenFailure::PortTaken;
        }
        let now = Instant::now();
        if self.complained.is_none_or(|at| now.saturating_duration_since(at) >= QUIET) {
            self.complained = Some(now);
            tracing::warn!("cannot open a relayed socket: {error}");
        }
        OpenFailure::Unavailable
    }
}

fn bind(ip: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(ip, port))?;
    socket.set_nonblocking(true)?;
    if ip.is_ipv4() {
        // The kernel's default sets DF on all that it sends; RFC 8656 section 14 wants it only where the client asked.
        datagram::set_dont_fragment(socket.as_fd(), false)?;
    }
    datagram::report_traffic_class(socket.as_fd(), ip.is_ipv4())?;
    datagram::report_overflows(socket.as_fd())?;
    // Without it, by an older kernel, each datagram comes by itself.
    let _ = datagram::receive_runs(socket.as_fd());
    datagram::keep_errors(socket.as_fd(), ip.is_ipv4())?;
    datagram::set_receive_queue(socket.as_fd(), RECEIVE_QUEUE_BYTES);
    Ok(socket)
}

/// What ICMP messages become (icmp(7), and the kernel's table for ICMPv6).
fn is_icmp(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPROTO
                | libc::EACCES
        )
    )
}

/// How often a send is tried again because of errors that are not its own. A flood of ICMP can bring more, and then costs a packet.
const PENDING_ERRORS: usize = 2;
/// Some 20 ms of 100 Mbit/s, the kernel's bookkeeping counted; a worker is hardly ever away for longer.
const RECEIVE_QUEUE_BYTES: usize = 512 * 1024;
/// How long nothing more is said about sockets that cannot be opened.
const QUIET: Duration = Duration::from_secs(10);
