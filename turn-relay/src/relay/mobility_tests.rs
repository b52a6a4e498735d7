//! Clients that take their allocation along (RFC 8016): at one worker, between two, and who may not.

use super::testing::*;
use super::*;

const PEER: &str = "8.8.8.8:5000";

fn alice() -> Account {
    Account::alice()
}

fn allocate() -> Draft {
    Draft::new(ALLOCATE, 1).udp().with(0x8030, &[])
}

fn refresh(transaction: u8, ticket: &[u8]) -> Draft {
    Draft::new(REFRESH, transaction).with(0x8030, ticket)
}

fn ticket(answer: &Answer) -> Vec<u8> {
    answer.attribute(0x8030).expect("MOBILITY-TICKET")
}

fn two() -> World {
    World::with(settings(), 2)
}

/// Alice's mobile allocation at worker 0, with a channel and a permission; its relayed address and its ticket.
fn standing(world: &mut World, from: &FiveTuple) -> (SocketAddr, Vec<u8>) {
    let answer = world.ask(from, &alice(), allocate());
    assert_eq!(answer.code(), 0);
    assert_eq!(world.bind_channel(from, 0x4000, PEER), 0);
    (answer.relayed(), ticket(&answer))
}

fn sends(world: &mut World, worker: usize, from: &FiveTuple) -> bool {
    let verdict = world.workers[worker].route_client(world.now, from, &channel_data(0x4000, b"x"));
    matches!(verdict, Verdict::ToPeer { .. })
}

fn heard_by(world: &mut World, worker: usize, relayed: SocketAddr) -> FiveTuple {
    let slot = world.slot(worker, relayed);
    match world.workers[worker].route_peer(world.now, slot, peer(PEER), 1) {
        Verdict::ToClient { to, .. } => to,
        verdict @ (Verdict::ToPeer { .. } | Verdict::Control | Verdict::Drop(_)) => panic!("{verdict:?}"),
    }
}

#[test]
fn moved_client_keeps_its_relayed_address_permissions_and_channels_at_either_worker() {
    for worker in [0, 1] {
        let mut world = two();
        let (relayed, first) = standing(&mut world, &tuple(1));
        let answer = world.ask_at(worker, &tuple(2), &alice(), refresh(5, &first));
        assert_eq!((answer.code(), answer.lifetime()), (0, 600), "worker {worker}");
        assert!(answer.is_signed_by(&alice()));
        assert_ne!(ticket(&answer), first);
        assert!(sends(&mut world, worker, &tuple(2)));
        assert_eq!(heard_by(&mut world, worker, relayed), tuple(2));
        assert!(!sends(&mut world, 0, &tuple(1)), "the old five-tuple is over");
        assert_eq!((world.shared.allocations(), world.shared.claimed_ports()), (1, 1));
        // And on, back to where it began, with the next ticket.
        let answer = world.ask_at(0, &tuple(1), &alice(), refresh(6, &ticket(&answer)));
        assert_eq!(answer.code(), 0);
        assert!(sends(&mut world, 0, &tuple(1)));
        world.advance(secs(600));
        world.assert_empty();
    }
}

#[test]
fn old_five_tuple_serves_until_data_comes_from_the_new_one() {
    let mut world = two();
    let (relayed, first) = standing(&mut world, &tuple(1));
    assert_eq!(world.ask(&tuple(2), &alice(), refresh(5, &first)).code(), 0);
    assert!(sends(&mut world, 0, &tuple(1)));
    assert_eq!(heard_by(&mut world, 0, relayed), tuple(1));
    assert!(sends(&mut world, 0, &tuple(2)));
    assert_eq!(heard_by(&mut world, 0, relayed), tuple(2));
    assert!(!sends(&mut world, 0, &tuple(1)));
}

#[test]
fn ticket_moves_an_allocation_once() {
    for worker in [0, 1] {
        let mut world = two();
        let (_, first) = standing(&mut world, &tuple(1));
        assert_eq!(world.ask_at(worker, &tuple(2), &alice(), refresh(5, &first)).code(), 0);
        for again in [0, 1] {
            assert_eq!(world.ask_at(again, &tuple(3), &alice(), refresh(6, &first)).code(), 400);
        }
        assert_eq!(world.shared.allocations(), 1);
    }
}

#[test]
fn lost_answer_of_a_move_is_given_again_with_the_same_ticket() {
    for worker in [0, 1] {
        let mut world = two();
        let (_, first) = standing(&mut world, &tuple(1));
        let nonce = world.nonce(worker, &tuple(2));
        let request = refresh(5, &first).sign(&alice(), &nonce).bytes();
        let answer = world.send_at(worker, &tuple(2), &request).unwrap();
        world.advance(secs(30));
        assert_eq!(world.send_at(worker, &tuple(2), &request), Some(answer));
    }
}

#[test]
fn allocation_does_not_move_for_another_user() {
    for worker in [0, 1] {
        let mut world = two();
        let (relayed, first) = standing(&mut world, &tuple(1));
        let stolen = world.ask_at(worker, &tuple(2), &Account::bob(), refresh(5, &first));
        assert_eq!((stolen.code(), stolen.attribute(0x8030)), (441, None), "worker {worker}");
        assert_eq!(heard_by(&mut world, 0, relayed), tuple(1));
        assert!(!sends(&mut world, worker, &tuple(2)));
        // The ticket is still good for who has it rightly.
        assert_eq!(world.ask_at(worker, &tuple(2), &alice(), refresh(6, &first)).code(), 0);
    }
}

#[test]
fn altered_truncated_and_invented_tickets_get_400() {
    let mut world = two();
    let (_, good) = standing(&mut world, &tuple(1));
    for byte in 0..good.len() {
        let mut altered = good.clone();
        altered[byte] ^= 1;
        assert_eq!(world.ask(&tuple(2), &alice(), refresh(5, &altered)).code(), 400, "byte {byte}");
        assert_eq!(world.ask(&tuple(2), &alice(), refresh(6, &good[..byte])).code(), 400, "{byte} bytes");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(world.ask(&tuple(2), &alice(), refresh(7, &longer)).code(), 400);
    assert_eq!(world.ask(&tuple(2), &alice(), refresh(8, &good)).code(), 0);
}

#[test]
fn ticket_on_the_five_tuple_of_an_allocation_gets_400() {
    let mut world = two();
    let (_, first) = standing(&mut world, &tuple(1));
    assert_eq!(world.ask(&tuple(1), &alice(), refresh(5, &first)).code(), 400);
}

#[test]
fn mobility_that_is_not_wanted_gets_405_and_a_filled_ticket_in_allocate_400() {
    let mut world = World::with(RelaySettings { mobility: false, ..settings() }, 1);
    assert_eq!(world.ask(&tuple(1), &alice(), allocate()).code(), 405);
    assert_eq!(world.ask(&tuple(1), &alice(), refresh(5, &[1; 34])).code(), 405);
    let mut world = two();
    let filled = Draft::new(ALLOCATE, 1).udp().with(0x8030, &[1; 34]);
    assert_eq!(world.ask(&tuple(1), &alice(), filled).code(), 400);
    assert_eq!(world.ask(&tuple(1), &alice(), Draft::new(ALLOCATE, 2).udp()).attribute(0x8030), None);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn moving_makes_no_room_for_more_allocations_and_holds_no_memory() {
    let limits = Limits { allocations_per_user: 2, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 2);
    let (_, mut last) = standing(&mut world, &tuple(1));
    let (_, mut other) = standing(&mut world, &tuple(2));
    for round in 0..300_u16 {
        let from = udp(&format!("203.0.{}.9:{}", round % 200, 2000 + round));
        let worker = usize::from(round % 2);
        last = ticket(&world.ask_at(worker, &from, &alice(), refresh(5, &last)));
        other =
            ticket(&world.ask(&udp(&format!("203.0.113.8:{}", 2000 + round)), &alice(), refresh(6, &other)));
        assert_eq!(world.ask_at(worker, &tuple(9), &alice(), Draft::new(ALLOCATE, 7).udp()).code(), 486);
        assert_eq!((world.shared.allocations(), world.shared.claimed_ports()), (2, 2));
        world.advance(secs(41));
        world.sent.clear();
    }
    let seats: usize = world.workers.iter().map(|relay| relay.seats.len()).sum();
    assert!(seats <= 4, "{seats} five-tuples are held for two allocations");
    world.advance(secs(3600));
    world.assert_empty();
}

#[test]
fn client_over_tcp_that_lost_its_connection_comes_back_at_either_worker() {
    for worker in [0, 1] {
        let mut world = two();
        let (old, new) = (tcp("203.0.1.7:40001"), tcp("203.0.2.7:40002"));
        let (relayed, first) = standing(&mut world, &old);
        world.input(0, Input::ClientGone(old));
        world.settle();
        assert_eq!(world.shared.allocations(), 1, "it waits for its client");
        assert_eq!(world.ask_at(worker, &new, &alice(), refresh(5, &first)).code(), 0);
        assert_eq!(heard_by(&mut world, worker, relayed), new);
        world.advance(secs(600));
        assert_eq!(world.disconnected, [new]);
        world.assert_empty();
    }
}

#[test]
fn allocation_whose_client_never_comes_back_ends_with_its_lifetime_and_harms_nobody_on_its_five_tuple() {
    let mut world = two();
    let client = tcp("203.0.1.7:40001");
    standing(&mut world, &client);
    world.input(0, Input::ClientGone(client));
    world.settle();
    // The same five-tuple comes again and allocates anew.
    assert_eq!(world.ask(&client, &alice(), Draft::new(ALLOCATE, 9).udp().lifetime(3600)).code(), 0);
    world.advance(secs(600));
    assert_eq!(world.workers[0].allocations(), 1);
    assert!(world.disconnected.is_empty());
    assert_eq!(world.ask(&client, &alice(), Draft::new(REFRESH, 10)).code(), 0);
}

#[test]
fn lifetime_zero_with_a_ticket_ends_the_allocation_at_either_worker() {
    for worker in [0, 1] {
        let mut world = two();
        let (_, first) = standing(&mut world, &tuple(1));
        let answer = world.ask_at(worker, &tuple(2), &alice(), refresh(5, &first).lifetime(0));
        assert_eq!((answer.lifetime(), answer.attribute(0x8030)), (0, None));
        world.assert_empty();
    }
}

#[test]
fn dual_allocation_moves_with_both_sockets() {
    let mut world = two();
    let answer = world.ask(&tuple(1), &alice(), allocate().with(0x8000, &[2, 0, 0, 0]));
    assert_eq!(answer.all_relayed().len(), 2);
    assert_eq!(world.ask_at(1, &tuple(2), &alice(), refresh(5, &ticket(&answer))).code(), 0);
    assert_eq!((world.sockets[0].len(), world.sockets[1].len()), (0, 2));
    assert_eq!(world.shared.allocations(), 2);
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn sockets_that_are_lost_on_the_way_are_given_back() {
    let mut world = two();
    let (_, first) = standing(&mut world, &tuple(1));
    world.lose_sockets = true;
    assert_eq!(world.ask_at(1, &tuple(2), &alice(), refresh(5, &first)).code(), 508);
    world.assert_empty();
}

#[test]
fn worker_that_does_not_answer_costs_508_and_what_comes_late_leaves_nothing() {
    let mut world = two();
    let (_, first) = standing(&mut world, &tuple(1));
    let nonce = world.nonce(1, &tuple(2));
    let wall = world.wall();
    let request = refresh(5, &first).sign(&alice(), &nonce).bytes();
    world.input(1, Input::Message { from: tuple(2), bytes: &request, wall });
    let summons = world.queue.pop_front().unwrap();
    world.advance(secs(2));
    assert_eq!(world.sent.last().unwrap().1.code(), 508);
    world.carry_out(summons.0, summons.1);
    world.settle();
    world.assert_empty();
}

#[test]
fn allocation_that_could_not_be_delivered_stays_where_it_was() {
    let mut world = two();
    let (relayed, first) = standing(&mut world, &tuple(1));
    let nonce = world.nonce(1, &tuple(2));
    let wall = world.wall();
    let request = refresh(5, &first).sign(&alice(), &nonce).bytes();
    world.input(1, Input::Message { from: tuple(2), bytes: &request, wall });
    let (worker, summon) = world.queue.pop_front().unwrap();
    world.carry_out(worker, summon);
    let Some((0, Output::HandOver { moving, .. })) = world.queue.pop_front() else { panic!("no hand-over") };
    world.input(0, Input::Summoned { open: OpenId(u64::MAX), outcome: Ok(moving) });
    world.advance(secs(2));
    assert_eq!(world.sent.last().unwrap().1.code(), 508);
    assert_eq!(heard_by(&mut world, 0, relayed), tuple(1));
    assert!(sends(&mut world, 0, &tuple(1)));
    world.advance(secs(600));
    world.assert_empty();
}

#[test]
fn tcp_allocation_gets_no_ticket_and_ends_with_its_connection() {
    let mut world = two();
    let from = tcp("192.0.2.7:5000");
    let answer = world.ask(&from, &alice(), Draft::new(ALLOCATE, 1).tcp().with(0x8030, &[]));
    assert_eq!((answer.code(), answer.attribute(0x8030)), (0, None));
    world.input(0, Input::ClientGone(from));
    world.settle();
    world.assert_empty();
}

#[test]
fn ticket_is_text_of_32_bytes_because_clients_keep_no_more() {
    let mut world = two();
    let (_, first) = standing(&mut world, &tuple(1));
    assert_eq!(first.len(), 32);
    assert!(first.iter().all(u8::is_ascii_graphic), "{first:?}");
}

#[test]
fn signed_request_from_the_new_five_tuple_ends_the_old_one_as_data_does() {
    for request in
        [Draft::new(CREATE_PERMISSION, 6).peer(PEER), Draft::new(CHANNEL_BIND, 6).channel(0x4000).peer(PEER)]
    {
        let mut world = two();
        let (relayed, first) = standing(&mut world, &tuple(1));
        assert_eq!(world.ask(&tuple(2), &alice(), refresh(5, &first)).code(), 0);
        assert_eq!(heard_by(&mut world, 0, relayed), tuple(1));
        assert_eq!(world.ask(&tuple(2), &Account::bob(), request.clone()).code(), 441);
        assert_eq!(heard_by(&mut world, 0, relayed), tuple(1), "somebody else's request proves nothing");
        assert_eq!(world.ask(&tuple(2), &alice(), request).code(), 0);
        assert_eq!(heard_by(&mut world, 0, relayed), tuple(2));
        assert!(!sends(&mut world, 0, &tuple(1)));
    }
}

#[test]
fn used_ticket_is_recognised_for_thirty_seconds_where_it_led_and_nowhere_else() {
    for worker in [0, 1] {
        let mut world = two();
        let (_, first) = standing(&mut world, &tuple(1));
        let new = tcp("203.0.2.7:40002");
        let next = ticket(&world.ask_at(worker, &new, &alice(), refresh(5, &first)));
        let again = world.ask_at(worker, &new, &alice(), refresh(6, &first));
        assert_eq!((again.code(), again.lifetime(), ticket(&again)), (0, 600, next.clone()));
        assert_eq!(world.ask_at(worker, &new, &Account::bob(), refresh(7, &first)).code(), 441);
        assert_eq!(world.ask_at(worker, &tuple(3), &alice(), refresh(8, &first)).code(), 400);
        // Good tickets that did not lead here: the next one, and another allocation's.
        let (_, others) = standing(&mut world, &tuple(6));
        for (transaction, other) in [(13, &next), (14, &others)] {
            assert_eq!(world.ask_at(worker, &new, &alice(), refresh(transaction, other)).code(), 400);
        }
        world.advance(secs(29));
        assert_eq!(world.ask_at(worker, &new, &alice(), refresh(9, &first)).code(), 0);
        world.advance(secs(1));
        assert_eq!(world.ask_at(worker, &new, &alice(), refresh(10, &first)).code(), 400);
        // The next one is still good, and once.
        assert_eq!(world.ask_at(0, &tuple(4), &alice(), refresh(11, &next)).code(), 0);
        assert_eq!(world.ask_at(0, &tuple(5), &alice(), refresh(12, &next)).code(), 400);
        world.advance(secs(600));
        world.assert_empty();
    }
}
