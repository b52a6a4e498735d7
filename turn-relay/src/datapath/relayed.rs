//! The relayed sockets of one worker: one bound UDP socket per relayed transport address, named by its slot.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slab::Slab;

use super::Source;
use crate::address::{PeerAddr, RelayedPort};
use crate::relay::{OpenFailure, Opened, SocketSlot};
use crate::sys::datagram;

/// The slab. Slots are dense and used again.
#[derive(Debug, Default)]
pub(crate) struct RelayedSockets(Slab<RelayedSocket>);

#[derive(Debug)]
struct RelayedSocket {
    socket: UdpSocket,
    ipv4: bool,
    /// What the socket's DF option is set to.
    dont_fragment: bool,
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
        let first = bind(ip, port.0)?;
        let second = match (reserve_next, port.0.checked_add(1)) {
            (false, _) => None,
            (true, Some(next)) => Some(bind(ip, next)?),
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
        let entry = self.0.vacant_entry();
        let slot = SocketSlot(u32::try_from(entry.key()).ok()?);
        let token = Source::Relayed(slot).token();
        registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE).ok()?;
        entry.insert(RelayedSocket { socket, ipv4, dont_fragment: false });
        Some(slot)
    }

    /// Lets a socket go; dropping what is returned closes it.
    pub(crate) fn release(&mut self, registry: &Registry, slot: SocketSlot) -> Option<UdpSocket> {
        let relayed = self.0.try_remove(slot.0 as usize)?;
        let _ = registry.deregister(&mut SourceFd(&relayed.socket.as_raw_fd()));
        Some(relayed.socket)
    }

    /// One datagram into `buffer`; `None` for a slot that is empty.
    pub(crate) fn receive(
        &self,
        slot: SocketSlot,
        buffer: &mut [u8],
    ) -> Option<io::Result<(usize, PeerAddr)>> {
        let relayed = self.0.get(slot.0 as usize)?;
        Some(relayed.socket.recv_from(buffer).map(|(len, from)| (len, PeerAddr(from))))
    }

    /// Sends one datagram to a peer.
    pub(crate) fn send(
        &mut self,
        slot: SocketSlot,
        payload: &[u8],
        to: PeerAddr,
        dont_fragment: bool,
    ) -> io::Result<()> {
        let relayed = self.0.get_mut(slot.0 as usize).ok_or(io::ErrorKind::NotConnected)?;
        if relayed.ipv4 && relayed.dont_fragment != dont_fragment {
            datagram::set_dont_fragment(relayed.socket.as_fd(), dont_fragment)?;
            relayed.dont_fragment = dont_fragment;
        }
        relayed.socket.send_to(payload, to.0).map(drop)
    }
}

fn bind(ip: IpAddr, port: u16) -> Result<UdpSocket, OpenFailure> {
    let failure = |error: io::Error| match error.kind() == io::ErrorKind::AddrInUse {
        true => OpenFailure::PortTaken,
        false => OpenFailure::Unavailable,
    };
    let socket = UdpSocket::bind(SocketAddr::new(ip, port)).map_err(failure)?;
    socket.set_nonblocking(true).map_err(failure)?;
    if ip.is_ipv4() {
        // The kernel's default sets DF on all that it sends; RFC 8656 section 14 wants it only where the client asked.
        datagram::set_dont_fragment(socket.as_fd(), false).map_err(failure)?;
    }
    Ok(socket)
}
