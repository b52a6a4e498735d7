//! The core by example: one sentence, one fact. Time is added, never slept.

use super::testing::*;
use super::*;

#[test]
fn allocate_is_challenged_then_granted_with_addresses_and_lifetime() {
    let mut world = World::new();
    let client = tuple(1);
    let challenge = world.send(&client, &Draft::new(ALLOCATE, 1).udp().bytes()).unwrap();
    assert_eq!(challenge.code(), 401);
    assert_eq!(challenge.attribute(0x0014).unwrap(), REALM.as_bytes());
    assert_eq!(challenge.attribute(0x8022), None, "no SOFTWARE");

    let answer = world.ask(&client, &Account::alice(), Draft::new(ALLOCATE, 2).udp());
    assert!(answer.is_success());
    assert!(answer.is_signed_by(&Account::alice()));
    assert_eq!(answer.lifetime(), 600);
    assert_eq!(answer.mapped(), client.client.0);
    assert_eq!(answer.relayed().ip(), RELAY_V4.parse::<IpAddr>().unwrap());
    assert!((50_000..=50_999).contains(&answer.relayed().port()));
}

#[test]
fn data_flows_both_ways_over_a_channel_and_by_indications() {
    let mut world = World::new();
    let client = tuple(1);
    let relayed = world.allocate(&client).relayed();
    assert_eq!(world.bind_channel(&client, 0x4001, "8.8.8.8:5000"), 0);
    assert_eq!(world.permit(&client, "9.9.9.9:1"), 0);
    let via = world.slot(0, relayed);

    let to_bound = world.route_client(&client, &channel_data(0x4001, b"abc"));
    assert_eq!(
        to_bound,
        Verdict::ToPeer { via, to: peer("8.8.8.8:5000"), start: 4, len: 3, dont_fragment: false }
    );
    let to_permitted = world.route_client(&client, &send_indication("9.9.9.9:7", b"abcd"));
    assert_eq!(
        to_permitted,
        Verdict::ToPeer { via, to: peer("9.9.9.9:7"), start: 36, len: 4, dont_fragment: false }
    );

    let channel = frame::ChannelNumber::new(0x4001).unwrap();
    let from_bound = world.route_peer(relayed, "8.8.8.8:5000", 3);
    assert_eq!(from_bound, Verdict::ToClient { to: client, header: Header::Channel(channel) });
    let Verdict::ToClient { to, header: Header::DataIndication { peer: from, .. } } =
        world.route_peer(relayed, "9.9.9.9:8", 3)
    else {
        panic!("no indication");
    };
    assert_eq!((to, from), (client, peer("9.9.9.9:8")));
}
