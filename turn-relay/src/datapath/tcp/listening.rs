//! The listening sockets of TCP allocations. They lie in the same slab as the relayed UDP sockets: the core's slots do not
//! tell one from the other.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry};
use socket2::{Domain, Protocol, Socket, Type};

use crate::address::RelayedPort;
use crate::datapath::Source;
use crate::datapath::relayed::{Entry, RelayedSockets};
use crate::relay::{OpenFailure, Opened, SocketSlot};

impl RelayedSockets {
    /// Listens for peers of a TCP allocation (RFC 6062 section 5.1).
    pub(crate) fn listen(
        &mut self,
        registry: &Registry,
        ip: IpAddr,
        port: RelayedPort,
    ) -> Result<Opened, OpenFailure> {
        let mut listener = listen(SocketAddr::new(ip, port.0)).map_err(|error| self.failure(&error))?;
        let entry = self.slab.vacant_entry();
        let slot = SocketSlot(u32::try_from(entry.key()).map_err(|_| OpenFailure::Unavailable)?);
        let token = Source::Listening(slot).token();
        let registered = registry.register(&mut listener, token, Interest::READABLE);
        registered.map_err(|_| OpenFailure::Unavailable)?;
        entry.insert(Entry::Listening(listener));
        Ok(Opened { slot, reserved: None })
    }

    /// Every listening socket.
    pub(crate) fn listening(&self) -> impl Iterator<Item = SocketSlot> {
        let listening = self.slab.iter().filter(|(_, entry)| matches!(entry, Entry::Listening(_)));
        listening.filter_map(|(slot, _)| u32::try_from(slot).ok().map(SocketSlot))
    }

    /// A peer that connects; `None` for a slot that does not listen.
    pub(crate) fn accept(&self, slot: SocketSlot) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let Entry::Listening(listener) = self.slab.get(slot.0 as usize)? else { return None };
        Some(listener.accept())
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier allocation linger in TIME_WAIT; they do not make the port anybody's.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Connections to peers are bound to the same port, which the kernel allows among sockets that say so. Said only now, so
    // that the port was nobody else's: another process that also reuses ports would share the peers with us.
    socket.set_reuse_port(true)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// Peers of one allocation that wait for `accept`: as many as it may have connections by default.
const BACKLOG: i32 = 32;
