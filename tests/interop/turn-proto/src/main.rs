//! Allocates on a TURN server with turn-client-proto, an independent client, and sends datagrams through the relay to an echo server on loopback.
//!
//! usage: turn-proto-client HOST PORT udp|tcp|tls USERNAME PASSWORD sha1|sha256 name|hash [AUTHORITY]
//!
//! The client knows the one integrity algorithm only; with `hash` it sends USERHASH and never its name. AUTHORITY is the PEM file of the CA that signed
//! the server's certificate. Prints what came back; exits non-zero if anything is missing or different.

mod leg;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use leg::Leg;
use turn_client_proto::api::{Transmit, TurnConfig, TurnEvent, TurnPollRet, TurnRecvRet};
use turn_client_proto::prelude::*;
use turn_client_proto::stun::auth::Feature;
use turn_client_proto::tcp::TurnClientTcp;
use turn_client_proto::types::stun::message::IntegrityAlgorithm;
use turn_client_proto::types::{TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

const DEADLINE: Duration = Duration::from_secs(30);
/// The last fills most of an Ethernet frame.
const PAYLOADS: [&[u8]; 4] = [b"a", b"four", b"seven77", &[7; 1280]];
/// This client does not pad its ChannelData over a stream as RFC 8656 section 12.5 says it must: what needs no padding is all that it can send there.
const PAYLOADS_OVER_A_STREAM: [&[u8]; 4] = [b"four", b"eight888", &[12; 12], &[7; 1280]];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, transport, username, password, integrity, naming, authority @ ..] = arguments.as_slice()
    else {
        panic!(
            "usage: turn-proto-client HOST PORT udp|tcp|tls USERNAME PASSWORD sha1|sha256 name|hash [AUTHORITY]"
        );
    };
    let server: SocketAddr = format!("{host}:{port}").parse().expect("an IP and a port");
    let mut config = TurnConfig::new(TurnCredentials::new(username, password));
    config.set_supported_integrity(if integrity == "sha256" {
        IntegrityAlgorithm::Sha256
    } else {
        IntegrityAlgorithm::Sha1
    });
    config.set_anonymous_username(if naming == "hash" { Feature::Required } else { Feature::Disabled });

    let leg = Leg::open(server, transport, authority.first().map(String::as_str));
    if transport == "udp" {
        Session::new(TurnClientUdp::allocate(leg.local, server, config), leg).echo();
    } else {
        Session::new(TurnClientTcp::allocate(leg.local, server, config), leg).echo();
    }
}

struct Session<C> {
    client: C,
    leg: Leg,
    began: Instant,
}

enum Happened {
    Event(TurnEvent),
    Data(Vec<u8>, SocketAddr),
}

impl<C: TurnClientApi> Session<C> {
    fn new(client: C, leg: Leg) -> Self {
        Self { client, leg, began: Instant::now() }
    }

    /// By indications first, then over a channel.
    fn echo(mut self) {
        let peer = echo_server();
        let relayed = self.event(|event| match event {
            TurnEvent::AllocationCreated(_, relayed) => Some(relayed),
            _ => None,
        });
        println!("relayed {relayed}");
        let now = self.now();
        self.client.create_permission(TransportType::Udp, peer.ip(), now).expect("a permission is asked for");
        self.event(|event| {
            matches!(event, TurnEvent::PermissionCreated(_, ip) if ip == peer.ip()).then_some(())
        });
        self.exchange(peer);
        let now = self.now();
        self.client.bind_channel(TransportType::Udp, peer, now).expect("a channel is asked for");
        self.event(|event| {
            matches!(event, TurnEvent::ChannelCreated(_, address) if address == peer).then_some(())
        });
        self.exchange(peer);
        let now = self.now();
        self.client.delete(now).expect("the allocation is given back");
        while let Some(transmit) = self.client.poll_transmit(now) {
            self.leg.send(&transmit.data);
        }
    }

    fn exchange(&mut self, peer: SocketAddr) {
        let udp = self.client.transport() == TransportType::Udp;
        for payload in if udp { PAYLOADS } else { PAYLOADS_OVER_A_STREAM } {
            let now = self.now();
            let sent = self.client.send_to(TransportType::Udp, peer, payload, now).expect("it may be sent");
            self.leg.send(&sent.expect("something to send").build().data);
            let (back, from) = loop {
                if let Happened::Data(back, from) = self.next() {
                    break (back, from);
                }
            };
            assert_eq!((back.as_slice(), from), (payload, peer));
            println!("{} bytes came back from {from}", back.len());
        }
    }

    /// Waits for an event that `wanted` takes; any refusal on the way is the end.
    fn event<T>(&mut self, wanted: impl Fn(TurnEvent) -> Option<T>) -> T {
        loop {
            match self.next() {
                Happened::Event(
                    event @ (TurnEvent::AllocationCreateFailed(_)
                    | TurnEvent::PermissionCreateFailed(..)
                    | TurnEvent::ChannelCreateFailed(..)),
                ) => panic!("refused: {event:?}"),
                Happened::Event(event) => {
                    if let Some(found) = wanted(event) {
                        return found;
                    }
                }
                Happened::Data(..) => {}
            }
        }
    }

    fn next(&mut self) -> Happened {
        loop {
            assert!(self.began.elapsed() < DEADLINE, "not done within {DEADLINE:?}");
            let now = self.now();
            let closed = matches!(self.client.poll(now), TurnPollRet::Closed);
            while let Some(transmit) = self.client.poll_transmit(now) {
                self.leg.send(&transmit.data);
            }
            if let Some(event) = self.client.poll_event() {
                return Happened::Event(event);
            }
            if let Some(data) = self.client.poll_recv(now) {
                return Happened::Data(data.data().to_vec(), data.peer);
            }
            assert!(!closed, "the client gave up");
            let Some(received) = self.leg.receive() else { continue };
            let transmit = Transmit::new(received, self.client.transport(), self.leg.server, self.leg.local);
            if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, now) {
                return Happened::Data(data.data().to_vec(), data.peer);
            }
        }
    }

    fn now(&self) -> turn_client_proto::stun::Instant {
        turn_client_proto::stun::Instant::from_std(self.began)
    }
}

fn echo_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).expect("it is sent back");
        }
    });
    address
}
