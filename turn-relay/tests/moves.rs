//! What moves over real sockets: clients to another server while this one drains.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::net::SocketAddrV4;

use client::Received;
use client::bench::{Peer, Relay};
use turn_relay::address::Transport;
use turn_relay::relay::Drain;

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

#[test]
fn a_draining_relay_sends_newcomers_elsewhere_and_keeps_who_is_here() {
    let relay = Relay::on("127.0.0.1", &["127.0.0.0/8"]);
    let peer = Peer::on("127.0.0.1");
    let mut resident = relay.client(Transport::Udp);
    let relayed = resident.allocate();
    let alternate = SocketAddrV4::new([192, 0, 2, 7].into(), 3478);
    relay.server.control().drain(Some(Drain { alternate_v4: Some(alternate), ..Drain::default() }));
    for transport in BOTH {
        for _ in 0..8 {
            let answer = relay.client(transport).allocate_with(&[]);
            assert_eq!(answer.error(), Some(300));
            assert_eq!(answer.attribute(0x8023), Some(&[0, 1, 0x0D, 0x96, 192, 0, 2, 7][..]));
            assert!(answer.attribute(0x0008).is_some(), "signed");
        }
    }
    assert!(resident.permit(peer.address()).is_success());
    peer.send(relayed, b"on");
    assert_eq!(resident.receive(), Received::Data(peer.address(), b"on".to_vec()));
}
