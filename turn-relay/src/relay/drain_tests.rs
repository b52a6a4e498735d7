//! What newcomers and residents get while the server drains (RFC 8489 section 10).

use super::testing::*;
use super::*;
use crate::address::Transport;
use crate::frame::Attributes;

fn drain(v4: Option<&str>, v6: Option<&str>) -> Drain {
    Drain {
        alternate_v4: v4.map(|address| address.parse().unwrap()),
        alternate_v6: v6.map(|address| address.parse().unwrap()),
        alternate_domain: Some("other.example".into()),
        until: None,
    }
}

fn draining(world: &mut World, drain: Drain) {
    world.input(0, Input::Drain(Some(Arc::new(drain))));
}

fn allocate() -> Draft {
    Draft::new(ALLOCATE, 1).udp()
}

/// Every ALTERNATE-SERVER, in order: RFC 8489 section 14.15 does not mask them.
fn alternates(answer: &Answer) -> Vec<Vec<u8>> {
    let found = Attributes::new(&answer.bytes).filter(|attribute| attribute.kind == 0x8023);
    found.map(|attribute| attribute.value.to_vec()).collect()
}

const V4: &str = "192.0.2.10:3478";
const V6: &str = "[2001:db8::10]:3479";

fn v4_on_the_wire() -> Vec<u8> {
    vec![0, 1, 0x0D, 0x96, 192, 0, 2, 10]
}

fn v6_on_the_wire() -> Vec<u8> {
    let mut value = vec![0, 2, 0x0D, 0x97, 0x20, 0x01, 0x0D, 0xB8];
    value.extend([0; 11]);
    value.push(0x10);
    value
}

#[test]
fn newcomer_gets_300_signed_with_the_alternate_of_its_family_first() {
    let v6_client = udp("[2a00:7::1]:4000");
    for (client, expected) in
        [(tuple(1), [v4_on_the_wire(), v6_on_the_wire()]), (v6_client, [v6_on_the_wire(), v4_on_the_wire()])]
    {
        let mut world = World::new();
        draining(&mut world, drain(Some(V4), Some(V6)));
        let answer = world.ask(&client, &Account::alice(), allocate());
        assert_eq!(answer.code(), 300);
        assert!(answer.is_signed_by(&Account::alice()));
        assert_eq!(alternates(&answer), expected);
        world.assert_empty();
    }
}

#[test]
fn newcomer_of_a_family_without_alternate_gets_508() {
    let v6_client = udp("[2a00:7::1]:4000");
    for (drain, client) in
        [(drain(None, None), tuple(1)), (drain(None, Some(V6)), tuple(1)), (drain(Some(V4), None), v6_client)]
    {
        let mut world = World::new();
        draining(&mut world, drain);
        let answer = world.ask(&client, &Account::alice(), allocate());
        assert_eq!((answer.code(), alternates(&answer).len()), (508, 0));
        world.assert_empty();
    }
}

#[test]
fn stranger_is_challenged_and_learns_no_alternate() {
    let mut world = World::new();
    draining(&mut world, drain(Some(V4), None));
    let answer = world.send(&tuple(1), &allocate().bytes()).unwrap();
    assert_eq!((answer.code(), alternates(&answer).len()), (401, 0));
    let answer = world.ask(&tuple(1), &Account::new("alice", "guessed"), allocate());
    assert_eq!((answer.code(), alternates(&answer).len()), (401, 0));
    assert!(world.send(&tuple(1), &Draft::new(BINDING, 1).bytes()).unwrap().is_success());
}

#[test]
fn alternate_domain_is_told_where_there_is_a_certificate_to_check() {
    for (transport, told) in
        [(Transport::Udp, false), (Transport::Tcp, false), (Transport::Tls, true), (Transport::Dtls, true)]
    {
        let mut world = World::new();
        draining(&mut world, drain(Some(V4), None));
        let client = FiveTuple { transport, ..tuple(1) };
        let answer = world.ask(&client, &Account::alice(), allocate());
        assert_eq!(answer.attribute(0x8003).as_deref(), told.then_some(&b"other.example"[..]), "{transport}");
    }
}

#[test]
fn overlong_alternate_domain_is_not_sent() {
    let mut world = World::new();
    let domain = Some("x".repeat(256).into());
    draining(&mut world, Drain { alternate_domain: domain, ..drain(Some(V4), None) });
    let client = FiveTuple { transport: Transport::Tls, ..tuple(1) };
    let answer = world.ask(&client, &Account::alice(), allocate());
    assert_eq!((answer.code(), answer.attribute(0x8003)), (300, None));
}

#[test]
fn resident_runs_on_until_the_end_of_the_server_and_no_longer() {
    let mut world = World::new();
    let relayed = world.allocate(&tuple(1)).relayed();
    world.permit(&tuple(1), "8.8.8.8:1");
    world.allocate(&tuple(2));
    let until = Some(world.now + secs(100));
    draining(&mut world, Drain { until, ..drain(Some(V4), None) });
    let alice = Account::alice();
    assert_eq!(
        world.ask(&tuple(1), &alice, Draft::new(ALLOCATE, 9).udp()).code(),
        437,
        "who is here is not sent away"
    );
    assert!(matches!(world.route_peer(relayed, "8.8.8.8:1", 1), Verdict::ToClient { .. }));
    assert_eq!(world.bind_channel(&tuple(1), 0x4000, "8.8.8.8:1"), 0);
    world.advance(secs(41));
    assert_eq!(world.ask(&tuple(1), &alice, Draft::new(REFRESH, 2).lifetime(3600)).lifetime(), 59);
    world.advance(secs(58));
    assert_eq!(world.workers[0].allocations(), 2);
    world.advance(secs(1));
    assert_eq!(world.workers[0].allocations(), 1);
    // The server is late; 0 would mean deleted.
    assert_eq!(world.ask(&tuple(2), &alice, Draft::new(REFRESH, 3)).lifetime(), 1);
    world.advance(secs(1));
    world.assert_empty();
}

#[test]
fn drain_can_be_called_off() {
    let mut world = World::new();
    draining(&mut world, drain(None, None));
    assert_eq!(world.ask(&tuple(1), &Account::alice(), allocate()).code(), 508);
    world.input(0, Input::Drain(None));
    assert_eq!(world.ask(&tuple(1), &Account::alice(), Draft::new(ALLOCATE, 2).udp()).lifetime(), 600);
}
