//! A DTLS 1.2 client over a blocking socket. It lets everything through that the server says of itself: what is tested is the
//! relay.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use dimpl::{Config, DtlsCertificate, Output};

use super::tls::SERVED;
use super::wire::udp;

pub(crate) struct Dtls {
    pub(crate) socket: UdpSocket,
    engine: dimpl::Dtls,
    heard: VecDeque<Vec<u8>>,
    pub(crate) connected: bool,
    pub(crate) closed: bool,
    /// The server's certificate, in DER.
    pub(crate) shown: Option<Vec<u8>>,
}

impl Dtls {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let mut dtls = Self::on(udp(server));
        while !dtls.connected {
            dtls.turn();
        }
        dtls
    }

    /// A client that has said nothing yet.
    pub(crate) fn on(socket: UdpSocket) -> Self {
        // The library wants a certificate of everybody; this one is never asked for.
        let certificate =
            DtlsCertificate { certificate: SERVED.leaf().to_vec(), private_key: SERVED.key_der() };
        let config = Arc::new(Config::builder().build().unwrap());
        let mut engine = dimpl::Dtls::new_12(config, certificate, Instant::now());
        engine.set_active(true);
        engine.handle_timeout(Instant::now()).unwrap();
        Self { socket, engine, heard: VecDeque::new(), connected: false, closed: false, shown: None }
    }

    /// Sends what there is to send, then waits for a datagram.
    pub(crate) fn turn(&mut self) {
        self.flush();
        let mut datagram = [0; 65_536];
        let len = self.socket.recv(&mut datagram).expect("an answer in time");
        self.engine.handle_timeout(Instant::now()).unwrap();
        self.engine.handle_packet(&datagram[..len]).unwrap();
        self.flush();
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.engine.send_application_data(frame).unwrap(), frame.len());
        self.flush();
    }

    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        while self.heard.is_empty() && !self.closed {
            self.turn();
        }
        self.heard.pop_front()
    }

    pub(crate) fn close(&mut self) {
        self.engine.close().unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            match self.engine.poll_output(&mut buffer) {
                Output::Packet(bytes) => assert_eq!(self.socket.send(bytes).unwrap(), bytes.len()),
                Output::ApplicationData(bytes) => self.heard.push_back(bytes.to_vec()),
                Output::Connected => self.connected = true,
                Output::CloseNotify => self.closed = true,
                Output::Timeout(_) => return,
                Output::PeerCert(certificate) => self.shown = Some(certificate.to_vec()),
                Output::BufferTooSmall { .. } | Output::KeyingMaterial(..) | _ => {}
            }
        }
    }
}
