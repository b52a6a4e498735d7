//! The sockets that clients come in through. Every worker has its own set, bound side by side with `SO_REUSEPORT`, so that
//! the kernel spreads clients over workers and a client stays with one of them.
//!
//! All sockets of all workers are bound before any worker starts: the kernel's choice depends on their number.
//! Refuses to share a port with another process, and that includes another copy of this program.

pub(crate) mod admission;
pub(crate) mod dtls;
pub(crate) mod inherited;
pub(crate) mod listeners;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod udp;
pub(crate) mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::operation::StartError;
use crate::sys::datagram;
use inherited::Inherited;
use udp::UdpListener;

/// One listen address, as one worker sees it.
#[derive(Debug)]
pub(crate) struct Listener {
    /// As it was asked for, where port 0 is any.
    pub(crate) asked: SocketAddr,
    /// Where it is bound; never port 0.
    pub(crate) address: SocketAddr,
    /// Whose it is.
    pub(crate) worker: usize,
    pub(crate) udp: UdpListener,
    /// None where a reload took the address away and clients are left.
    pub(crate) tcp: Option<mio::net::TcpListener>,
}

impl Listener {
    /// Whether this is where packets with the local address `server` belong.
    pub(crate) fn serves(&self, server: SocketAddr) -> bool {
        let ip = self.address.ip();
        let same_ip = ip == server.ip() || (ip.is_unspecified() && ip.is_ipv4() == server.is_ipv4());
        same_ip && self.address.port() == server.port()
    }
}

/// Opens every address of `listen` once per worker; the outer list is per worker, the inner one has wildcards last.
/// With `skip_missing` a family that this host lacks is left out. What was handed over is taken instead of opened.
///
/// # Errors
/// One line: taken, not ours, not permitted.
pub(crate) fn open(
    listen: &[SocketAddr],
    skip_missing: bool,
    workers: NonZeroUsize,
    mut inherited: Inherited,
) -> Result<Vec<Vec<Listener>>, StartError> {
    let (mut addresses, mut missing) = (Vec::new(), None);
    for &address in listen {
        // A port that was handed over is taken: by us.
        match if inherited.has(address) { Ok(address) } else { probe(address) } {
            Ok(real) => addresses.push((address, real)),
            Err(error) if skip_missing && is_missing_family(&error) => missing = Some((address, error)),
            Err(error) => return Err(refused(address, &error)),
        }
    }
    match missing {
        Some((address, error)) if addresses.is_empty() => return Err(refused(address, &error)),
        Some((address, _)) => {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            tracing::warn!("this host has no {family}; it is not served");
        }
        None => {}
    }
    // Specific addresses come first: `Listener::serves` of a wildcard would claim their packets.
    addresses.sort_by_key(|(_, address)| address.ip().is_unspecified());
    let mut all: Vec<Vec<Listener>> = (0..workers.get()).map(|_| Vec::new()).collect();
    for &(asked, address) in &addresses {
        let mut take = |stream| inherited.take(address, stream, workers.get()).map(IntoIterator::into_iter);
        let (mut udp, mut tcp) = (take(false)?, take(true)?);
        let handed = udp.len().min(tcp.len());
        for (worker, listeners) in all.iter_mut().enumerate() {
            let bound = bind(address, udp.next(), tcp.next());
            let (udp, tcp) = bound.map_err(|error| match error.raw_os_error() {
                Some(libc::EADDRINUSE) if handed > 0 => too_few(address, handed, workers),
                _ => refused(address, &error),
            })?;
            listeners.push(Listener { asked, address, worker, udp, tcp: Some(tcp) });
        }
    }
    inherited.finish();
    Ok(all)
}

/// Binds `address` without `SO_REUSEPORT`, which fails where anybody else has it, however they bound it. Finds a port for 0
/// that is free for UDP and TCP.
fn probe(address: SocketAddr) -> io::Result<SocketAddr> {
    const ATTEMPTS: usize = 16;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let tcp = tcp_socket(address, false)?;
        tcp.listen(1)?;
        let real = tcp.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        match udp_socket(real, false) {
            Ok(_) => return Ok(real),
            Err(error) if address.port() == 0 => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

/// The TCP side alone, once per worker, of an address whose UDP side never closed.
///
/// # Errors
/// One line.
pub(crate) fn open_tcp(
    address: SocketAddr,
    workers: NonZeroUsize,
) -> Result<Vec<mio::net::TcpListener>, StartError> {
    let open = |_| bind_tcp(address, None).map_err(|error| refused(address, &error));
    (0..workers.get()).map(open).collect()
}

fn bind_tcp(address: SocketAddr, handed: Option<Socket>) -> io::Result<mio::net::TcpListener> {
    let tcp = handed.map_or_else(|| tcp_socket(address, true), Ok)?;
    tcp.set_nonblocking(true)?;
    tcp.listen(BACKLOG)?;
    Ok(mio::net::TcpListener::from_std(TcpListener::from(tcp)))
}

/// Of the sockets that were handed over, or of new ones.
fn bind(
    address: SocketAddr,
    udp: Option<Socket>,
    tcp: Option<Socket>,
) -> io::Result<(UdpListener, mio::net::TcpListener)> {
    let tcp = bind_tcp(address, tcp)?;
    let udp = udp.map_or_else(|| udp_socket(address, true), Ok)?;
    udp.set_nonblocking(true)?;
    // Without this a burst longer than the kernel's default (some 200 KiB) is lost; the kernel caps what it grants.
    datagram::set_receive_queue(udp.as_fd(), UDP_BUFFER_BYTES);
    let _ = udp.set_send_buffer_size(UDP_BUFFER_BYTES);
    Ok((UdpListener::new(UdpSocket::from(udp), address)?, tcp))
}

fn udp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address, reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn tcp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of the previous run linger in TIME_WAIT; they must not keep the next one from starting.
    socket.set_reuse_address(true)?;
    prepare(&socket, address, reuse_port)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn prepare(socket: &Socket, address: SocketAddr, reuse_port: bool) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // [::] serves IPv6 alone: a v4-mapped client would have a different address on each family's listener.
        socket.set_only_v6(true)?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    Ok(())
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// The kernel lets only sockets of one user share a port, and those of a unit are root's.
fn too_few(address: SocketAddr, handed: usize, workers: NonZeroUsize) -> StartError {
    StartError::new(format!(
        "{handed} sockets were handed over for {address}, and each of {workers} workers needs one of UDP and one of TCP; list \
         the address so many times in the .socket unit, or choose --threads {handed}"
    ))
}

fn refused(address: SocketAddr, error: &io::Error) -> StartError {
    StartError::bind("UDP and TCP", address, error, "choose another address with --listen IP:PORT")
}

/// The addresses of this host, for a policy that must know what "ourselves" means.
pub(crate) fn host_addresses() -> Vec<IpAddr> {
    if_addrs::get_if_addrs().unwrap_or_default().iter().map(if_addrs::Interface::ip).collect()
}

/// Connections that wait for `accept`; the kernel's own cap (net.core.somaxconn) is 4096 by default.
const BACKLOG: i32 = 1024;
/// Some 25 ms of a gigabit, which a worker may be away for.
const UDP_BUFFER_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_that_also_reuses_ports_is_refused() {
        let first = open(&[loopback()], false, NonZeroUsize::MIN, Inherited::default()).expect("a free port");
        let taken = first[0][0].address;
        let refused = open(&[taken], false, NonZeroUsize::MIN, Inherited::default())
            .expect_err("it is taken")
            .to_string();
        assert!(refused.contains(&taken.to_string()) && refused.contains("taken"), "{refused}");
    }

    #[test]
    fn a_port_that_only_one_protocol_holds_is_taken() {
        let udp = UdpSocket::bind(loopback()).expect("a free port");
        open(&[udp.local_addr().expect("bound")], false, NonZeroUsize::MIN, Inherited::default())
            .expect_err("UDP holds it");
        let tcp = TcpListener::bind(loopback()).expect("a free port");
        open(&[tcp.local_addr().expect("bound")], false, NonZeroUsize::MIN, Inherited::default())
            .expect_err("TCP holds it");
    }

    #[test]
    fn an_address_of_another_host_is_refused() {
        let elsewhere = "192.0.2.77:0".parse().expect("an address");
        let refused = open(&[elsewhere], false, NonZeroUsize::MIN, Inherited::default())
            .expect_err("not ours")
            .to_string();
        assert!(refused.contains("192.0.2.77") && refused.contains("does not have"), "{refused}");
    }

    #[test]
    fn a_default_address_that_this_host_lacks_is_left_out_unless_it_is_the_last() {
        let elsewhere = "192.0.2.77:0".parse().expect("an address");
        let opened = open(&[elsewhere, loopback()], true, NonZeroUsize::MIN, Inherited::default())
            .expect("loopback is there");
        assert_eq!(
            opened[0].iter().map(|listener| listener.address.ip()).collect::<Vec<_>>(),
            [loopback().ip()]
        );
        open(&[elsewhere], true, NonZeroUsize::MIN, Inherited::default()).expect_err("nothing is left");
    }

    #[test]
    fn every_worker_listens_on_the_same_real_port() {
        let workers =
            open(&[loopback()], false, NonZeroUsize::new(3).expect("not zero"), Inherited::default())
                .expect("a free port");
        let addresses: Vec<_> = workers.iter().map(|listeners| listeners[0].address).collect();
        assert_eq!(addresses.len(), 3);
        assert!(
            addresses.iter().all(|address| *address == addresses[0] && address.port() != 0),
            "{addresses:?}"
        );
    }

    #[test]
    fn a_specific_listener_wins_over_a_wildcard_of_the_same_port() {
        let wildcard = "0.0.0.0:0".parse().expect("an address");
        let port = open(&[wildcard], false, NonZeroUsize::MIN, Inherited::default()).expect("a free port")[0]
            [0]
        .address
        .port();
        let both = [SocketAddr::new(wildcard.ip(), port), SocketAddr::new(loopback().ip(), port)];
        let listeners =
            open(&both, false, NonZeroUsize::MIN, Inherited::default()).expect("free again").remove(0);
        let serving = |server: SocketAddr| listeners.iter().find(|l| l.serves(server)).map(|l| l.address);
        assert_eq!(serving(both[1]), Some(both[1]));
        assert_eq!(serving(SocketAddr::new("127.0.0.2".parse().expect("an address"), port)), Some(both[0]));
        assert_eq!(serving(SocketAddr::new("::1".parse().expect("an address"), port)), None);
    }

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }
}
