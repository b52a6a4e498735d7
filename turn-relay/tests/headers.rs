//! What is around relayed data: ICMP errors and the DF bit, over real sockets. Narrow links are made in a network namespace
//! of the test's own, which takes root; without it those tests say so and test nothing.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says what it skips"
)]

mod client;
mod namespace;

use std::net::{SocketAddr, UdpSocket};

use client::{Client, Message, PATIENCE};
use namespace::{Namespace, in_namespace, run, said};
use prometheus_client::registry::Registry;
use turn_relay::address::Transport;
use turn_relay::config::{Config, Settings};
use turn_relay::server::Server;

const ICMP: u16 = 0x8004;
const DONT_FRAGMENT: u16 = 0x001A;

#[test]
fn icmp_about_a_peer_that_is_gone_reaches_the_client_over_every_transport() {
    for ip in ["127.0.0.1", "::1"] {
        let relay = Relay::on(ip, &["127.0.0.0/8", "::1"]);
        for transport in [Transport::Udp, Transport::Tcp] {
            let gone = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
            let mut client = relay.client(transport);
            client.allocate_with(&[client::family(gone.is_ipv4())]).relayed().expect("an allocation");
            assert!(client.permit(gone).is_success());
            client.send_indication(gone, b"anybody there?");
            // Port unreachable: type 3, code 3, or type 1, code 4. Seven bits of type, nine of code.
            let (kind, code) = if gone.is_ipv4() { (3, 3) } else { (1, 4) };
            assert_eq!(icmp(&mut client), (gone, kind << 9 | code, 0), "{ip} {transport}");
        }
    }
}

#[test]
fn packets_to_a_live_peer_survive_the_icmp_of_a_dead_one() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let live = UdpSocket::bind("127.0.0.1:0").unwrap();
    live.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = relay.client(Transport::Udp);
    client.allocate();
    assert!(client.permit(gone).is_success());
    for round in 0..200_u8 {
        client.send_indication(gone, b"x");
        client.send_indication(live.local_addr().unwrap(), &[round]);
        let mut buffer = [0; 8];
        assert_eq!(live.recv(&mut buffer).expect("it arrives"), 1);
        assert_eq!(buffer[0], round);
    }
}

#[test]
fn df_is_set_and_cleared_with_each_datagram_and_a_narrow_link_is_told_with_its_mtu() {
    let tested = in_namespace(|| {
        run("ip link set lo mtu 1400 up");
        let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = peer.local_addr().unwrap();
        let mut client = relay.client(Transport::Udp);
        client.allocate();
        assert!(client.permit(to).is_success());
        assert!(client.bind_channel(0x4000, to).is_success());
        for round in 0..3 {
            send(&mut client, to, 2000 + round, true);
            assert_eq!(icmp(&mut client), (to, 3 << 9 | 4, 1400), "round {round}");
            send(&mut client, to, 2000 + round, false);
            assert_eq!(length(&peer), 2000 + round, "without DF it is cut up");
            send(&mut client, to, 1000, true);
            assert_eq!(length(&peer), 1000, "what fits passes");
            client.send_channel(0x4000, &vec![0; 2500]);
            assert_eq!(length(&peer), 2500, "a channel does not ask for DF");
        }
    });
    said(tested);
}

#[test]
fn a_router_that_cannot_pass_a_datagram_with_df_is_heard() {
    let tested = in_namespace(|| {
        run("ip link set lo up");
        let router = Namespace::new();
        run("ip link add near type veth peer name far");
        run(&format!("ip link set far netns {}", router.pid()));
        run("ip addr add 10.9.1.1/24 dev near");
        run("ip link set near up");
        run("ip route add default via 10.9.1.2");
        router.run("ip addr add 10.9.1.2/24 dev far");
        router.run("ip link set far up");
        router.run("ip link add narrow mtu 1300 type veth peer name beyond mtu 1300");
        router.run("ip addr add 10.9.2.1/24 dev narrow");
        router.run("ip link set narrow up");
        router.run("ip link set beyond up");
        router.run("sysctl -q -w net.ipv4.ip_forward=1");
        let relay = Relay::start(Config {
            listen: vec!["127.0.0.1:0".into()],
            relay_address: vec!["10.9.1.1".into()],
            allow_peer: vec!["10.9.0.0/16".into()],
            ..Config::default()
        });
        let mut client = relay.client(Transport::Udp);
        client.allocate();
        let peer: SocketAddr = "10.9.2.2:9".parse().unwrap();
        assert!(client.permit(peer).is_success());
        send(&mut client, peer, 1400, true);
        assert_eq!(icmp(&mut client), (peer, 3 << 9 | 4, 1300));
    });
    said(tested);
}

fn send(client: &mut Client, to: SocketAddr, len: usize, dont_fragment: bool) {
    let more = if dont_fragment { vec![(DONT_FRAGMENT, vec![])] } else { vec![] };
    client.send_indication_with(to, &vec![0; len], &more);
}

fn length(peer: &UdpSocket) -> usize {
    peer.recv(&mut [0; 65_536]).expect("a datagram in time")
}

/// The next Data indication with an ICMP attribute: about whom, type and code, and error data.
fn icmp(client: &mut Client) -> (SocketAddr, u32, u32) {
    loop {
        let message = Message::decode(&client.receive_raw()).expect("a STUN message");
        if let Some(value) = message.attribute(ICMP) {
            assert_eq!(message.kind, client::DATA_INDICATION);
            assert!(message.attribute(0x0013).is_none(), "there is no DATA");
            let word = |at: usize| u32::from_be_bytes(value[at..at + 4].try_into().unwrap());
            return (message.peer().expect("XOR-PEER-ADDRESS"), word(0), word(4));
        }
    }
}

struct Relay {
    _server: Server,
    address: SocketAddr,
}

impl Relay {
    fn on(ip: &str, allow_peer: &[&str]) -> Self {
        let listen = SocketAddr::new(ip.parse().unwrap(), 0).to_string();
        let allow_peer = allow_peer.iter().map(|network| (*network).to_owned()).collect();
        Self::start(Config { listen: vec![listen], allow_peer, ..Config::default() })
    }

    fn start(config: Config) -> Self {
        let config = Config { user: vec!["user:password".into()], threads: Some(1), ..config };
        let settings = Settings::new(&config, vec![]).expect("good settings");
        let server = Server::start(settings, &mut Registry::default()).expect("starts");
        Self { address: server.listen_addresses()[0], _server: server }
    }

    fn client(&self, transport: Transport) -> Client {
        Client::connect(transport, self.address, "user", "password")
    }
}
