//! What a client speaks through: datagrams, or a stream of frames, with TLS or without.
//!
//! A stream is written to as if there were always room, which the load sees to, and read without waiting.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How clients reach a server.
#[derive(Clone)]
pub(crate) enum Leg {
    Udp,
    Tcp,
    Tls(Arc<ClientConfig>),
}

pub(crate) enum Wire {
    Datagrams(UdpSocket),
    Frames(RefCell<Frames>),
}

/// STUN messages and ChannelData, one behind the other (RFC 8656 section 12.5).
pub(crate) struct Frames {
    layer: Layer,
    /// Read, and from `taken` on not handed out.
    input: Vec<u8>,
    taken: usize,
}

enum Layer {
    Plain(Pipe),
    Tls(Box<StreamOwned<ClientConnection, Pipe>>),
}

/// Writes wait, reads do not.
struct Pipe(TcpStream);

impl Wire {
    /// Connects by a stream; the handshake of TLS included.
    pub(crate) fn stream(server: SocketAddr, leg: &Leg) -> Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let pipe = Pipe(stream);
        let layer = match leg {
            Leg::Udp => bail!("datagrams are no stream"),
            Leg::Tcp => Layer::Plain(pipe),
            Leg::Tls(trust) => {
                let tls = ClientConnection::new(Arc::clone(trust), server.ip().into())?;
                let mut stream = StreamOwned::new(tls, pipe);
                while stream.conn.is_handshaking() {
                    match stream.conn.complete_io(&mut stream.sock) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            wait(&stream.sock.0, Duration::from_secs(5))?;
                        }
                        done => drop(done.context("the TLS handshake")?),
                    }
                }
                Layer::Tls(Box::new(stream))
            }
        };
        Ok(Self::Frames(RefCell::new(Frames { layer, input: Vec::new(), taken: 0 })))
    }

    pub(crate) fn send(&self, message: &[u8]) -> Result<()> {
        match self {
            Self::Datagrams(socket) => drop(socket.send(message)?),
            Self::Frames(frames) => frames.borrow_mut().write(message)?,
        }
        Ok(())
    }

    /// One message, if one comes in time.
    pub(crate) fn receive(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Datagrams(socket) => {
                socket.set_read_timeout(Some(patience))?;
                let mut buffer = vec![0; 2048];
                Ok(socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
            }
            Self::Frames(frames) => {
                let mut frames = frames.borrow_mut();
                if let Some(frame) = frames.next()? {
                    return Ok(Some(frame.to_vec()));
                }
                wait(frames.socket(), patience)?;
                Ok(frames.next()?.map(<[u8]>::to_vec))
            }
        }
    }
}

impl Frames {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.layer {
            Layer::Plain(pipe) => pipe.write_all(bytes)?,
            Layer::Tls(stream) => stream.write_all(bytes)?,
        }
        Ok(())
    }

    /// The next frame that is there.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            if let Some(whole) = frame(&self.input[self.taken..]) {
                let start = self.taken;
                self.taken += whole;
                return Ok(Some(&self.input[start..self.taken]));
            }
            self.input.drain(..self.taken);
            self.taken = 0;
            let had = self.input.len();
            self.input.resize(had + READ_BYTES, 0);
            let read = match &mut self.layer {
                Layer::Plain(pipe) => pipe.read(&mut self.input[had..]),
                Layer::Tls(stream) => stream.read(&mut self.input[had..]),
            };
            self.input.truncate(had + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => bail!("the server closed the connection"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(crate) const fn socket(&self) -> &TcpStream {
        match &self.layer {
            Layer::Plain(pipe) => &pipe.0,
            Layer::Tls(stream) => &stream.sock.0,
        }
    }
}

/// Bytes of the frame that the input begins with, once all of it is there.
fn frame(input: &[u8]) -> Option<usize> {
    let [first, _, high, low, ..] = *input else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let whole = if first & 0xC0 == 0x40 { 4 + length.next_multiple_of(4) } else { 20 + length };
    (input.len() >= whole).then_some(whole)
}

fn wait(stream: &TcpStream, patience: Duration) -> Result<()> {
    let mut wanted = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut wanted, PollTimeout::try_from(patience)?)?;
    Ok(())
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const READ_BYTES: usize = 64 * 1024;
