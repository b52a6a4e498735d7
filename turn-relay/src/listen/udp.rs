//! The UDP side of a listen address.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, RawFd};

use crate::sys::datagram;

/// Receives from clients and answers from the address that each of them used.
#[derive(Debug)]
pub(crate) struct UdpListener {
    socket: UdpSocket,
    address: SocketAddr,
}

impl UdpListener {
    pub(crate) fn new(socket: UdpSocket, address: SocketAddr) -> io::Result<Self> {
        if address.ip().is_unspecified() {
            datagram::report_local_address(socket.as_fd(), address.is_ipv4())?;
        }
        Ok(Self { socket, address })
    }

    /// One datagram: its length, its sender, and the local address that it was sent to.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, SocketAddr)> {
        let received = datagram::receive(self.socket.as_fd(), buffer)?;
        let server = received.to.map_or(self.address, |ip| SocketAddr::new(ip, self.address.port()));
        Ok((received.len, received.from, server))
    }

    /// Sends one datagram to `client`, from `server`, which is what [`UdpListener::receive`] said.
    pub(crate) fn send(&self, bytes: &[u8], client: SocketAddr, server: SocketAddr) -> io::Result<()> {
        let from = self.address.ip().is_unspecified().then(|| server.ip());
        datagram::send(self.socket.as_fd(), bytes, client, from)
    }
}

impl AsRawFd for UdpListener {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
