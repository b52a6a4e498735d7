//! What moves over real sockets: allocations with their clients, and clients to another server while this one drains.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;

use std::net::SocketAddrV4;

use client::Received;
use client::bench::{Peer, Relay};
use turn_relay::address::Transport;
use turn_relay::config::Config;
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

/// MOBILITY-TICKET (RFC 8016).
const TICKET: u16 = 0x8030;

#[test]
fn an_allocation_moves_with_its_client_also_to_another_worker() {
    let relay = Relay::start(Config {
        listen: vec!["127.0.0.1:0".into()],
        allow_peer: vec!["127.0.0.0/8".into()],
        mobility: Some(true),
        ..Config::default()
    });
    let peer = Peer::on("127.0.0.1");
    // The kernel picks the worker by the client's port; of 40 moves some lead to the other worker.
    for round in 0..40 {
        let mut old = relay.client(BOTH[round % 2]);
        let answer = old.allocate_with(&[(TICKET, vec![])]);
        let (relayed, ticket) = (answer.relayed().unwrap(), answer.attribute(TICKET).unwrap().to_vec());
        assert!(old.bind_channel(0x4000, peer.address()).is_success());
        let mut new = relay.client(BOTH[round / 2 % 2]);
        if round % 3 == 0 {
            // Breaks before it makes.
            drop(old);
        }
        let moved = new.request(client::REFRESH, &[(TICKET, ticket.clone())]);
        assert_eq!(moved.error(), None, "round {round}");
        assert_ne!(moved.attribute(TICKET).unwrap(), ticket);
        new.send_channel(0x4000, b"here");
        assert_eq!(peer.receive(), (b"here".to_vec(), relayed), "round {round}");
        peer.send(relayed, b"there");
        assert_eq!(new.receive(), Received::Channel(0x4000, b"there".to_vec()), "round {round}");
        assert!(new.release().is_success());
    }
    assert!(relay.metric("handed_over_sockets_total") > 0, "no allocation crossed from worker to worker");
    for transport in ["udp", "tcp"] {
        relay.settles(&format!("allocations{{transport=\"{transport}\",family=\"ipv4\"}}"), 0);
    }
}
