//! RFC 6062 from the client's side.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::wire::Wire;
use super::{Client, Message, PEER};

pub(crate) const CONNECT: u16 = 0x000A;
pub(crate) const CONNECTION_BIND: u16 = 0x000B;
const CONNECTION_ATTEMPT: u16 = 0x001C;
const CONNECTION_ID: u16 = 0x002A;

impl Client {
    /// A TCP allocation; its relayed transport address.
    pub(crate) fn allocate_tcp(&mut self) -> SocketAddr {
        self.request(super::ALLOCATE, &[tcp()]).relayed().expect("an allocation")
    }

    pub(crate) fn connect_to(&mut self, peer: SocketAddr) -> Message {
        let address = self.xor(peer);
        self.request(CONNECT, &[(PEER, address)])
    }

    pub(crate) fn connection_bind(&mut self, id: u32) -> Message {
        self.request(CONNECTION_BIND, &[connection(id)])
    }

    /// A ConnectionBind that was challenged before, as bytes.
    pub(crate) fn signed_connection_bind(&mut self, id: u32) -> Vec<u8> {
        // Any signed request gets the credentials ready.
        self.request(super::REFRESH, &[]);
        self.encode(CONNECTION_BIND, &[connection(id)]).1
    }

    /// The next ConnectionAttempt: CONNECTION-ID and the peer's address.
    pub(crate) fn attempt(&mut self) -> (u32, SocketAddr) {
        loop {
            let message = Message::decode(&self.receive_raw()).expect("a STUN message");
            if message.kind == CONNECTION_ATTEMPT {
                return (message.connection().expect("a name"), message.address(PEER).expect("a peer"));
            }
        }
    }

    /// The connection, after which it carries bytes and no messages.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes(self.wire)
    }
}

impl Message {
    /// CONNECTION-ID.
    pub(crate) fn connection(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(CONNECTION_ID)?.try_into().ok()?))
    }
}

/// REQUESTED-TRANSPORT TCP.
pub(crate) fn tcp() -> (u16, Vec<u8>) {
    (0x0019, vec![6, 0, 0, 0])
}

fn connection(id: u32) -> (u16, Vec<u8>) {
    (CONNECTION_ID, id.to_be_bytes().to_vec())
}

/// A joined connection.
pub(crate) struct Bytes(Wire);

impl Bytes {
    /// Nothing more will be written.
    pub(crate) fn finish(&mut self) {
        match &mut self.0 {
            Wire::Udp(_) | Wire::Dtls(_) => panic!("UDP has no end"),
            Wire::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Wire::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush().unwrap();
            }
        }
    }

    /// The socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        match &self.0 {
            Wire::Udp(_) | Wire::Dtls(_) => panic!("UDP has no stream"),
            Wire::Tcp(stream) => stream,
            Wire::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Wire::Udp(_) | Wire::Dtls(_) => panic!("UDP has no stream"),
            Wire::Tcp(stream) => stream.read(buffer),
            Wire::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Wire::Udp(_) | Wire::Dtls(_) => panic!("UDP has no stream"),
            Wire::Tcp(stream) => stream.write(bytes),
            Wire::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Wire::Udp(_) | Wire::Dtls(_) => panic!("UDP has no stream"),
            Wire::Tcp(stream) => stream.flush(),
            Wire::Tls(tls) => tls.flush(),
        }
    }
}
