//! The bytes of one client connection, plain or inside TLS, and what of them still has to be sent.
//!
//! Behind a trusted proxy a PROXY header comes before everything else. Which of the two it is the first byte tells, so both are served on one port: a TLS record begins with 22, a STUN message
//! of a method that exists with 0 or 1, ChannelData with 64 to 127.
//!
//! Holds no plaintext between two calls and can move to another thread with all that belongs to it. Knows nothing of
//! frames, and sets no limit but the handshake's: how much may wait is for the caller to say.

use std::collections::VecDeque;
use std::io::{self, Read, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};

use crate::address::Transport;
use crate::operation::proxy_header;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// This many bytes.
    Bytes(usize),
    /// Something, but none of the client's bytes: ask again. It costs as much as a read.
    Overhead,
    /// Nothing now; an event will tell.
    Nothing,
    /// The client closed, or the connection failed.
    End,
    /// The proxy did not say whom it speaks for, as it must.
    Unintroduced,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: TcpStream,
    layer: Layer,
    /// As it goes over the network, behind what the kernel took already.
    unsent: VecDeque<u8>,
    /// Bytes that were corked since the last flush.
    corked: usize,
    /// Whom the proxy speaks for, where there is one and it has said so.
    client: Option<SocketAddr>,
    /// What that client connected to.
    destination: Option<SocketAddr>,
}

enum Layer {
    /// A PROXY header has to come before everything else; what came of it so far.
    Proxied(Vec<u8>, Option<Arc<ServerConfig>>),
    /// Nothing has come yet.
    Unknown(Arc<ServerConfig>),
    Plain,
    Tls(Box<Session>),
}

/// The server's side of TLS.
struct Session {
    tls: ServerConnection,
    /// Of the handshake, so far.
    received: usize,
}

impl Wire {
    /// An accepted connection; without `tls` every byte is the client's own.
    pub(crate) fn new(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::with(stream, first_layer(tls))
    }

    /// The same behind a trusted proxy, which says first who its client is.
    pub(crate) fn behind_proxy(stream: TcpStream, tls: Option<Arc<ServerConfig>>) -> Self {
        Self::with(stream, Layer::Proxied(Vec::new(), tls))
    }

    fn with(stream: TcpStream, layer: Layer) -> Self {
        Self { stream, layer, unsent: VecDeque::new(), corked: 0, client: None, destination: None }
    }

    /// The proxy has not said yet whom it speaks for.
    pub(crate) fn awaits_introduction(&self) -> bool {
        matches!(self.layer, Layer::Proxied(..))
    }

    /// Whom the proxy speaks for, if that is not itself.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        self.client
    }

    /// Whether a proxy speaks for the same connection as the proxy of `other`: the client's own end has one alone between two
    /// addresses, so one of the two is gone there.
    pub(crate) fn is_successor_of(&self, other: &Self) -> bool {
        self.client.is_some() && (self.client, self.destination) == (other.client, other.destination)
    }

    /// What carries the client's bytes, as far as is known.
    pub(crate) fn transport(&self) -> Transport {
        match self.layer {
            Layer::Proxied(..) | Layer::Unknown(_) | Layer::Plain => Transport::Tcp,
            Layer::Tls(_) => Transport::Tls,
        }
    }

    /// It is TLS and the client has not finished its part of the handshake.
    pub(crate) fn is_handshaking(&self) -> bool {
        matches!(&self.layer, Layer::Tls(session) if session.tls.is_handshaking())
    }

    /// For the event loop.
    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// How much waits for the client to read, as it goes over the network.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Reads once from the network at most. `room` must not be empty.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Came {
        match &mut self.layer {
            Layer::Plain => self.read_stream(room),
            Layer::Proxied(..) => self.read_introduction(room),
            Layer::Unknown(_) => match self.read_stream(room) {
                Came::Bytes(len) => self.first(room, len),
                came @ (Came::Overhead | Came::Nothing | Came::End | Came::Unintroduced) => came,
            },
            Layer::Tls(session) => match session.decrypted(room) {
                Came::Overhead => self.read_tls(room),
                came @ (Came::Bytes(_) | Came::Nothing | Came::End | Came::Unintroduced) => came,
            },
        }
    }

    /// Takes `bytes` whole; what the kernel does not take now waits.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain | Layer::Unknown(_) | Layer::Proxied(..) => {
                let written = if self.unsent.is_empty() { write_some(&mut self.stream, bytes)? } else { 0 };
                self.unsent.extend(bytes.get(written..).unwrap_or_default());
                Ok(())
            }
            Layer::Tls(session) => {
                session.tls.writer().write_all(bytes)?;
                self.send_records()
            }
        }
    }

    /// Takes `bytes` whole, to be sent with what follows them until the next [`Wire::flush`], or before that if it is much.
    pub(crate) fn cork(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.layer {
            Layer::Plain | Layer::Unknown(_) | Layer::Proxied(..) => self.unsent.extend(bytes),
            Layer::Tls(session) => session.tls.writer().write_all(bytes)?,
        }
        self.corked += bytes.len();
        if self.corked < CORKED_BYTES { Ok(()) } else { self.flush() }
    }

    /// Sends what was corked and what waits, as far as the kernel takes it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.corked = 0;
        self.send_records()?;
        while !self.unsent.is_empty() {
            let (front, _) = self.unsent.as_slices();
            match write_some(&mut self.stream, front)? {
                0 => return Ok(()),
                written => drop(self.unsent.drain(..written)),
            }
        }
        // An idle connection costs no buffer.
        self.unsent = VecDeque::new();
        Ok(())
    }

    /// Tells the client that nothing more will come, behind what waits; true when nothing waits any more. Once is enough.
    pub(crate) fn close(&mut self) -> bool {
        if let Layer::Tls(session) = &mut self.layer {
            session.tls.send_close_notify();
            // Whoever is gone need not be told.
            let _ = self.send_records();
        }
        if self.unsent.is_empty() {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        self.unsent.is_empty()
    }

    fn read_stream(&mut self, room: &mut [u8]) -> Came {
        match self.stream.read(room) {
            Ok(0) => Came::End,
            Ok(len) => Came::Bytes(len),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Came::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Came::Overhead,
            Err(_) => Came::End,
        }
    }

    /// A part of the PROXY header, or the rest of it and the client's first bytes.
    fn read_introduction(&mut self, room: &mut [u8]) -> Came {
        let len = match self.read_stream(room) {
            Came::Bytes(len) => len,
            came @ (Came::Overhead | Came::Nothing | Came::End | Came::Unintroduced) => return came,
        };
        let Layer::Proxied(head, tls) = &mut self.layer else { return Came::End };
        head.extend_from_slice(room.get(..len).unwrap_or_default());
        let introduction = match proxy_header::read(head) {
            Ok(Some(introduction)) => introduction,
            Ok(None) => return Came::Overhead,
            Err(_) => return Came::Unintroduced,
        };
        // Without its last bytes it was no header, so what follows it came with them and fits.
        let rest = head.get(introduction.len..).unwrap_or_default();
        let Some(front) = room.get_mut(..rest.len()) else { return Came::End };
        front.copy_from_slice(rest);
        let len = rest.len();
        (self.client, self.destination) = (introduction.client, introduction.destination);
        self.layer = first_layer(tls.take());
        if len == 0 { Came::Overhead } else { self.first(room, len) }
    }

    /// The client's first bytes, which tell what the connection is, lie at the front of `room`.
    fn first(&mut self, room: &mut [u8], len: usize) -> Came {
        let mut first = room.get(..len).unwrap_or_default();
        let Layer::Unknown(config) = &self.layer else { return Came::Bytes(len) };
        if first.first() != Some(&TLS_HANDSHAKE) {
            self.layer = Layer::Plain;
            return Came::Bytes(len);
        }
        let Ok(tls) = ServerConnection::new(Arc::clone(config)) else { return Came::End };
        let mut session = Box::new(Session { tls, received: 0 });
        // A frame is taken whole; how much may wait is decided before it is given.
        session.tls.set_buffer_limit(None);
        let mut understood = Ok(());
        while !first.is_empty() && understood.is_ok() {
            understood = session.take(&mut first).map(drop);
        }
        self.layer = Layer::Tls(session);
        self.after(understood)
    }

    fn read_tls(&mut self, room: &mut [u8]) -> Came {
        let Layer::Tls(session) = &mut self.layer else { return Came::End };
        let taken = session.take(&mut self.stream);
        let outcome = match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Came::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Came::Overhead,
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other.map(drop),
        };
        match self.after(outcome) {
            Came::Overhead => match &mut self.layer {
                Layer::Tls(session) => session.decrypted(room),
                Layer::Plain | Layer::Unknown(_) | Layer::Proxied(..) => Came::End,
            },
            came @ (Came::Bytes(_) | Came::Nothing | Came::End | Came::Unintroduced) => came,
        }
    }

    /// Sends what the handshake, or its failure, has to say.
    fn after(&mut self, understood: io::Result<()>) -> Came {
        let sent = self.send_records();
        if let Err(error) = understood.and(sent) {
            tracing::debug!("a TLS connection failed: {error}");
            return Came::End;
        }
        Came::Overhead
    }

    fn send_records(&mut self) -> io::Result<()> {
        let Layer::Tls(session) = &mut self.layer else { return Ok(()) };
        while session.tls.wants_write() {
            if self.unsent.is_empty() {
                match session.tls.write_tls(&mut self.stream) {
                    Ok(_) => continue,
                    Err(error) if is_temporary(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            session.tls.write_tls(&mut self.unsent)?;
        }
        Ok(())
    }
}

impl Session {
    /// Reads a part of what is there and works it off; 0 is the end.
    fn take(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let len = self.tls.read_tls(from)?;
        if self.tls.is_handshaking() {
            self.received += len;
            if self.received > MAX_HANDSHAKE_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the handshake is too long"));
            }
        }
        self.tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(len)
    }

    /// What lies ready; `Overhead` where nothing does.
    fn decrypted(&mut self, room: &mut [u8]) -> Came {
        match self.tls.reader().read(room) {
            // The client closed in good form.
            Ok(0) => Came::End,
            Ok(len) => Came::Bytes(len),
            Err(error) if is_temporary(&error) => Came::Overhead,
            Err(_) => Came::End,
        }
    }
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Proxied(..) => "Proxied",
            Self::Unknown(_) => "Unknown",
            Self::Plain => "Plain",
            Self::Tls(_) => "Tls",
        })
    }
}

fn first_layer(tls: Option<Arc<ServerConfig>>) -> Layer {
    tls.map_or(Layer::Plain, Layer::Unknown)
}

/// How much the kernel takes now; 0 where it takes nothing.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if is_temporary(&error) => Ok(0),
        other => other,
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// RFC 8446 section 5.1: the content type of the record that every TLS connection begins with.
const TLS_HANDSHAKE: u8 = 22;
/// What is corked goes out when it is so much, which is well below what a client may let wait.
const CORKED_BYTES: usize = 16 * 1024;
/// All that a client may send before its handshake is complete. A ClientHello with post-quantum key shares and every extension
/// in use has less than 4 KiB; there may be two of it, and without client certificates the rest is some hundred bytes.
const MAX_HANDSHAKE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
