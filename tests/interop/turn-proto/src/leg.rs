//! The bytes between the client and the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long a read waits before the client is asked again whether it wants anything.
const READ_TIMEOUT: Duration = Duration::from_millis(20);

pub struct Leg {
    pub local: SocketAddr,
    pub server: SocketAddr,
    kind: Kind,
}

enum Kind {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Leg {
    pub fn open(server: SocketAddr, transport: &str, authority: Option<&str>) -> Self {
        if transport == "udp" {
            let any = if server.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = UdpSocket::bind((any, 0)).expect("a port");
            socket.connect(server).expect("an address");
            socket.set_read_timeout(Some(READ_TIMEOUT)).expect("a timeout");
            return Self {
                local: socket.local_addr().expect("it is bound"),
                server,
                kind: Kind::Udp(socket),
            };
        }
        let stream = TcpStream::connect(server).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        let local = stream.local_addr().expect("it is connected");
        let stream: Box<dyn Stream> = if transport == "tls" {
            let mut tls = StreamOwned::new(tls(server, authority.expect("AUTHORITY")), stream);
            tls.conn.complete_io(&mut tls.sock).expect("a TLS handshake");
            println!(
                "{:?}, ALPN {:?}",
                tls.conn.protocol_version(),
                tls.conn.alpn_protocol().map(String::from_utf8_lossy)
            );
            tls.sock.set_read_timeout(Some(READ_TIMEOUT)).expect("a timeout");
            Box::new(tls)
        } else {
            stream.set_read_timeout(Some(READ_TIMEOUT)).expect("a timeout");
            Box::new(stream)
        };
        Self { local, server, kind: Kind::Stream(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Udp(socket) => socket.send(bytes).map(|_| ()),
            Kind::Stream(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
        .expect("it is sent");
    }

    /// A datagram or a piece of the stream, if one came in time.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2000];
        let read = match &mut self.kind {
            Kind::Udp(socket) => socket.recv(&mut buffer),
            Kind::Stream(stream) => stream.read(&mut buffer),
        };
        match read {
            Ok(0) => panic!("the server ended the connection"),
            Ok(length) => Some(buffer[..length].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Verifies the server's certificate, and asks for the protocol of RFC 7443.
fn tls(server: SocketAddr, authority: &str) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority).expect("AUTHORITY can be read") {
        roots.add(certificate.expect("AUTHORITY holds certificates")).expect("AUTHORITY is an authority");
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    ClientConnection::new(Arc::new(config), server.ip().into()).expect("a name")
}
