//! The connections with peers of one worker, by the event loop's slot and by the core's name.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use mio::net::TcpStream;
use mio::{Interest, Registry};
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::pair::Pair;
use crate::datapath::Source;
use crate::relay::PeerConnectionId;

/// The slab. A slot is used again when its connection is gone; names are not.
#[derive(Debug, Default)]
pub(in crate::datapath) struct PeerSockets {
    /// A place is empty only while its connection changes from one stage to the next.
    slab: Slab<(PeerConnectionId, Option<PeerSocket>)>,
    by_name: HashMap<PeerConnectionId, usize, RandomState>,
    next_incoming: u64,
    /// When to turn a pair that rests.
    wakes: BTreeSet<(Instant, PeerConnectionId)>,
}

#[derive(Debug)]
pub(super) enum PeerSocket {
    /// The peer has not answered.
    Connecting(TcpStream),
    /// It stands and nobody reads it.
    Waiting(TcpStream),
    /// It stands, and a client's connection with it.
    Joined(Box<Pair>),
}

impl PeerSockets {
    /// Keeps a connection that was begun, under the core's name; `None` where the event loop cannot.
    pub(super) fn insert(
        &mut self,
        registry: &Registry,
        name: PeerConnectionId,
        stream: TcpStream,
    ) -> Option<()> {
        self.keep(registry, name, stream, PeerSocket::Connecting)
    }

    /// Keeps a connection that a peer made; gives it a name.
    pub(super) fn insert_incoming(
        &mut self,
        registry: &Registry,
        stream: TcpStream,
    ) -> Option<PeerConnectionId> {
        let name = PeerConnectionId::Incoming(self.next_incoming);
        self.next_incoming += 1;
        self.keep(registry, name, stream, PeerSocket::Waiting)?;
        Some(name)
    }

    /// When [`PeerSockets::awake`] has something to say.
    pub(in crate::datapath) fn deadline(&self) -> Option<Instant> {
        self.wakes.first().map(|(at, _)| *at)
    }

    pub(super) fn wake_at(&mut self, at: Instant, name: PeerConnectionId) {
        self.wakes.insert((at, name));
    }

    /// One whose time has come and that is still there.
    pub(super) fn awake(&mut self, now: Instant) -> Option<usize> {
        while self.deadline().is_some_and(|at| at <= now) {
            let (_, name) = self.wakes.pop_first()?;
            if let Some(slot) = self.by_name.get(&name) {
                return Some(*slot);
            }
        }
        None
    }

    fn keep(
        &mut self,
        registry: &Registry,
        name: PeerConnectionId,
        mut stream: TcpStream,
        stage: fn(TcpStream) -> PeerSocket,
    ) -> Option<()> {
        // A relay delays nothing on purpose.
        let _ = stream.set_nodelay(true);
        let entry = self.slab.vacant_entry();
        let token = Source::Peer(entry.key()).token();
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE).ok()?;
        self.by_name.insert(name, entry.key());
        entry.insert((name, Some(stage(stream))));
        Some(())
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<(PeerConnectionId, &mut PeerSocket)> {
        let (name, socket) = self.slab.get_mut(slot)?;
        Some((*name, socket.as_mut()?))
    }

    /// A connect succeeded.
    pub(super) fn now_waiting(&mut self, slot: usize) {
        let Some((_, socket)) = self.slab.get_mut(slot) else { return };
        *socket = socket.take().map(|socket| match socket {
            PeerSocket::Connecting(stream) => PeerSocket::Waiting(stream),
            other @ (PeerSocket::Waiting(_) | PeerSocket::Joined(_)) => other,
        });
    }

    /// Joins a waiting connection with a client's; its slot, or `None` and both are closed.
    pub(super) fn join(
        &mut self,
        registry: &Registry,
        name: PeerConnectionId,
        pair: impl FnOnce(TcpStream) -> Pair,
    ) -> Option<usize> {
        let slot = *self.by_name.get(&name)?;
        let (_, place) = self.slab.get_mut(slot)?;
        if let Some(PeerSocket::Waiting(peer)) = place.take() {
            let mut pair = Box::new(pair(peer));
            let [client, _] = pair.streams();
            let (token, interest) = (Source::Peer(slot).token(), Interest::READABLE | Interest::WRITABLE);
            if registry.reregister(client, token, interest).is_ok() {
                *place = Some(PeerSocket::Joined(pair));
                return Some(slot);
            }
        }
        self.slab.remove(slot);
        self.by_name.remove(&name);
        None
    }

    /// Takes a connection out; dropping what is returned closes it. One that was never joined is reset: there is nothing of
    /// ours on its way, and the port is free of it at once.
    pub(super) fn remove(&mut self, registry: &Registry, name: PeerConnectionId) -> Option<PeerSocket> {
        let slot = self.by_name.remove(&name)?;
        let (_, socket) = self.slab.try_remove(slot)?;
        let mut socket = socket?;
        match &mut socket {
            PeerSocket::Connecting(stream) | PeerSocket::Waiting(stream) => {
                let _ = registry.deregister(stream);
                let _ = SockRef::from(&*stream).set_linger(Some(Duration::ZERO));
            }
            PeerSocket::Joined(pair) => {
                for stream in pair.streams() {
                    let _ = registry.deregister(stream);
                }
            }
        }
        Some(socket)
    }
}

/// Begins a connection from a relayed address, on which a socket listens already.
pub(super) fn outgoing(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // What lets a port be bound on which a socket listens; that one has it too.
    socket.set_reuse_port(true)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Whether a connect succeeded; `None` while it is under way.
pub(super) fn connected(stream: &TcpStream) -> Option<bool> {
    if !matches!(stream.take_error(), Ok(None)) {
        return Some(false);
    }
    match stream.peer_addr() {
        Ok(_) => Some(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
        Err(_) => Some(false),
    }
}
