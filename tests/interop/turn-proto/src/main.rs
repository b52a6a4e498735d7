//! Allocates on a TURN server with turn-client-proto, an independent client, and sends through the relay to an echo server of its own.
//!
//! usage: turn-proto-client HOST PORT udp|tcp|tls USERNAME PASSWORD sha1|sha256 name|hash udp|tcp [AUTHORITY]
//!
//! The client knows the one integrity algorithm only; with `hash` it sends USERHASH and never its name. The last transport is that of the allocation:
//! datagrams, or a connection (RFC 6062). AUTHORITY is the PEM file of the CA that signed the server's certificate. Prints what came back; exits
//! non-zero if anything is missing or different.

mod leg;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
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
    let [host, port, transport, username, password, integrity, naming, relayed, authority @ ..] =
        arguments.as_slice()
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

    let open = || Leg::open(server, transport, authority.first().map(String::as_str));
    let leg = open();
    if transport == "udp" {
        Session::new(TurnClientUdp::allocate(leg.local, server, config), leg, &open).echo();
    } else if relayed == "udp" {
        Session::new(TurnClientTcp::allocate(leg.local, server, config), leg, &open).echo();
    } else {
        config.set_allocation_transport(TransportType::Tcp);
        Session::new(TurnClientTcp::allocate(leg.local, server, config), leg, &open).echo_over_a_connection();
    }
}

struct Session<'a, C> {
    client: C,
    /// The control connection first, then those of data.
    legs: Vec<Leg>,
    open: &'a dyn Fn() -> Leg,
    began: Instant,
}

enum Happened {
    Event(TurnEvent),
    Data(Vec<u8>, SocketAddr),
}

impl<'a, C: TurnClientApi> Session<'a, C> {
    fn new(client: C, leg: Leg, open: &'a dyn Fn() -> Leg) -> Self {
        Self { client, legs: vec![leg], open, began: Instant::now() }
    }

    /// By indications first, then over a channel.
    fn echo(mut self) {
        let peer = echo_server(self.legs[0].local.ip());
        self.allocate(TransportType::Udp, peer);
        let payloads =
            if self.client.transport() == TransportType::Udp { PAYLOADS } else { PAYLOADS_OVER_A_STREAM };
        self.exchange(TransportType::Udp, peer, &payloads);
        let now = self.now();
        self.client.bind_channel(TransportType::Udp, peer, now).expect("a channel is asked for");
        self.event(|event| {
            matches!(event, TurnEvent::ChannelCreated(_, address) if address == peer).then_some(())
        });
        self.exchange(TransportType::Udp, peer, &payloads);
        self.delete();
    }

    fn echo_over_a_connection(mut self) {
        let peer = echo_listener(self.legs[0].local.ip());
        self.allocate(TransportType::Tcp, peer);
        let now = self.now();
        self.client.tcp_connect(peer, now).expect("a connection is asked for");
        self.event(|event| {
            matches!(event, TurnEvent::TcpConnected(address) if address == peer).then_some(())
        });
        self.exchange(TransportType::Tcp, peer, &PAYLOADS);
        self.delete();
    }

    /// An allocation with a permission for the peer.
    fn allocate(&mut self, transport: TransportType, peer: SocketAddr) {
        let relayed = self.event(|event| match event {
            TurnEvent::AllocationCreated(_, relayed) => Some(relayed),
            _ => None,
        });
        println!("relayed {relayed}");
        let now = self.now();
        self.client.create_permission(transport, peer.ip(), now).expect("a permission is asked for");
        self.event(|event| {
            matches!(event, TurnEvent::PermissionCreated(_, ip) if ip == peer.ip()).then_some(())
        });
    }

    fn delete(&mut self) {
        let now = self.now();
        self.client.delete(now).expect("the allocation is given back");
        self.transmit();
    }

    fn exchange(&mut self, transport: TransportType, peer: SocketAddr, payloads: &[&[u8]]) {
        for payload in payloads {
            let now = self.now();
            let sent = self.client.send_to(transport, peer, payload, now).expect("it may be sent");
            if let Some(sent) = sent {
                let sent = sent.build();
                self.leg(sent.from).send(&sent.data);
            }
            // A stream may bring it in pieces.
            let mut back = Vec::new();
            while back.len() < payload.len() {
                if let Happened::Data(piece, from) = self.next() {
                    assert_eq!(from, peer);
                    back.extend(piece);
                }
            }
            assert_eq!(back, *payload);
            println!("{} bytes came back from {peer}", back.len());
        }
    }

    /// Waits for an event that `wanted` takes; any refusal on the way is the end.
    fn event<T>(&mut self, wanted: impl Fn(TurnEvent) -> Option<T>) -> T {
        loop {
            match self.next() {
                Happened::Event(
                    event @ (TurnEvent::AllocationCreateFailed(_)
                    | TurnEvent::PermissionCreateFailed(..)
                    | TurnEvent::ChannelCreateFailed(..)
                    | TurnEvent::TcpConnectFailed(..)),
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
            let asked = self.client.poll(now);
            if let TurnPollRet::AllocateTcpSocket { id, socket, peer_addr } = asked {
                let leg = (self.open)();
                let local = Some(leg.local);
                self.legs.push(leg);
                self.client
                    .allocated_tcp_socket(id, socket, peer_addr, local, now)
                    .expect("it was asked for");
            }
            self.transmit();
            if let Some(event) = self.client.poll_event() {
                return Happened::Event(event);
            }
            if let Some(data) = self.client.poll_recv(now) {
                return Happened::Data(data.data().to_vec(), data.peer);
            }
            assert!(!matches!(asked, TurnPollRet::Closed), "the client gave up");
            for leg in &mut self.legs {
                let Some(received) = leg.receive() else { continue };
                let transmit = Transmit::new(received, self.client.transport(), leg.server, leg.local);
                if let TurnRecvRet::PeerData(data) = self.client.recv(transmit, now) {
                    return Happened::Data(data.data().to_vec(), data.peer);
                }
            }
        }
    }

    fn transmit(&mut self) {
        let now = self.now();
        while let Some(transmit) = self.client.poll_transmit(now) {
            self.leg(transmit.from).send(&transmit.data);
        }
    }

    fn leg(&mut self, local: SocketAddr) -> &mut Leg {
        self.legs.iter_mut().find(|leg| leg.local == local).expect("a connection that was opened")
    }

    fn now(&self) -> turn_client_proto::stun::Instant {
        turn_client_proto::stun::Instant::from_std(self.began)
    }
}

fn echo_server(here: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((here, 0)).expect("a port");
    let address = socket.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from).expect("it is sent back");
        }
    });
    address
}

fn echo_listener(here: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((here, 0)).expect("a port");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = [0; 2000];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).expect("it is sent back");
        }
    });
    address
}
