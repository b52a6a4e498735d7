//! What carries a client's frames: a socket of each kind, blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use turn_relay::address::Transport;

use super::PATIENCE;
use super::dtls::Dtls;
use super::tls::SERVED;

pub(crate) enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Dtls(Box<Dtls>),
}

impl Wire {
    pub(crate) fn connect(transport: Transport, server: SocketAddr) -> Self {
        match transport {
            Transport::Udp => Self::Udp(udp(server)),
            Transport::Tcp => Self::Tcp(tcp(server)),
            Transport::Tls => Self::secured(tcp(server), SERVED.client(&[])),
            Transport::Dtls => Self::Dtls(Box::new(Dtls::connect(server))),
        }
    }

    /// TLS over a connection that stands.
    pub(crate) fn secured(stream: TcpStream, config: ClientConfig) -> Self {
        let name = ServerName::from(stream.peer_addr().unwrap().ip());
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        Self::Tls(Box::new(StreamOwned::new(tls, stream)))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Udp(socket) => socket.local_addr().unwrap(),
            Self::Tcp(stream) => stream.local_addr().unwrap(),
            Self::Tls(tls) => tls.sock.local_addr().unwrap(),
            Self::Dtls(dtls) => dtls.socket.local_addr().unwrap(),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Tls(_))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => assert_eq!(socket.send(bytes).unwrap(), bytes.len()),
            Self::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Self::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()).unwrap(),
            Self::Dtls(dtls) => dtls.send(bytes),
        }
    }

    /// One datagram, or one frame of the stream.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        match self {
            Self::Udp(socket) => {
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).expect("an answer in time");
                buffer.truncate(length);
                buffer
            }
            Self::Tcp(stream) => frame(stream),
            Self::Tls(tls) => frame(tls),
            Self::Dtls(dtls) => dtls.receive().expect("an answer in time"),
        }
    }

    /// Changes how long anything is waited for.
    pub(crate) fn wait_at_most(&mut self, patience: Duration) {
        match self {
            Self::Udp(socket) => socket.set_read_timeout(Some(patience)).unwrap(),
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)).unwrap(),
            Self::Tls(tls) => tls.sock.set_read_timeout(Some(patience)).unwrap(),
            Self::Dtls(dtls) => dtls.socket.set_read_timeout(Some(patience)).unwrap(),
        }
    }

    /// Waits until the server closes the connection.
    pub(crate) fn closed(&mut self) -> bool {
        let stream: &mut dyn Read = match self {
            Self::Udp(_) => panic!("UDP has no end"),
            Self::Dtls(dtls) => {
                while dtls.receive().is_some() {}
                return dtls.closed;
            }
            Self::Tcp(stream) => stream,
            Self::Tls(tls) => tls,
        };
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    return matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof);
                }
            }
        }
    }
}

pub(crate) fn udp(server: SocketAddr) -> UdpSocket {
    let local: IpAddr = match server.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    // A connected socket takes answers from this address alone.
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn tcp(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn frame(stream: &mut impl Read) -> Vec<u8> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).expect("an answer in time");
    let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
    let whole = if frame[0] < 0x40 { 20 + length } else { 4 + length.next_multiple_of(4) };
    frame.resize(whole, 0);
    stream.read_exact(&mut frame[4..]).expect("the rest of the frame");
    frame
}
