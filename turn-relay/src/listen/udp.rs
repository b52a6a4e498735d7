//! The UDP side of a listen address.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use crate::sys::batch::{Batch, Taken};
use crate::sys::datagram;

/// Receives from clients and answers from the address that each of them used.
#[derive(Debug)]
pub(crate) struct UdpListener {
    socket: UdpSocket,
    address: SocketAddr,
    /// What the socket's count of overflows was when it was last looked at.
    overflows: u32,
}

/// What is known of a datagram from a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FromClient {
    pub(crate) client: SocketAddr,
    /// The local address that it was sent to.
    pub(crate) server: SocketAddr,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// How many datagrams the kernel had to drop since the last one.
    pub(crate) overflows: usize,
}

impl UdpListener {
    pub(crate) fn new(socket: UdpSocket, address: SocketAddr) -> io::Result<Self> {
        if address.ip().is_unspecified() {
            datagram::report_local_address(socket.as_fd(), address.is_ipv4())?;
        }
        datagram::report_traffic_class(socket.as_fd(), address.is_ipv4())?;
        datagram::report_overflows(socket.as_fd())?;
        // Without it, by an older kernel, each datagram comes by itself.
        let _ = datagram::receive_runs(socket.as_fd());
        Ok(Self { socket, address, overflows: 0 })
    }

    /// At most `want` datagrams, or runs of them, into `batch`.
    pub(crate) fn receive(&self, batch: &mut Batch, want: usize) -> io::Result<Taken> {
        batch.receive(self.socket.as_fd(), want)
    }

    /// What is known of the datagram in `place`, which was received here.
    pub(crate) fn from(&mut self, batch: &Batch, place: usize) -> Option<FromClient> {
        let received = batch.received(place)?;
        let server = received.to.map_or(self.address, |ip| SocketAddr::new(ip, self.address.port()));
        Some(FromClient {
            client: received.from,
            server,
            traffic_class: received.traffic_class,
            overflows: datagram::more_overflows(&mut self.overflows, received.overflows),
        })
    }

    /// Sends to `client`, from `server`, which is what [`UdpListener::from`] said, with this DSCP and ECN: one datagram, or a run
    /// ([`datagram::send_run`]), all or none of it.
    pub(crate) fn send(
        &self,
        datagrams: &[IoSlice<'_>],
        client: SocketAddr,
        server: SocketAddr,
        traffic_class: u8,
    ) -> io::Result<()> {
        let from = self.address.ip().is_unspecified().then(|| server.ip());
        datagram::send_run(self.socket.as_fd(), datagrams, client, from, traffic_class)
    }
}

impl AsFd for UdpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
