//! Who may ask, and what is answered to those who may not (RFC 8489 section 9.2, RFC 8656 section 5).

use super::testing::*;
use super::*;
use crate::credentials::Unauthenticated;

fn refused(world: &World) -> Vec<(u16, &'static str)> {
    let refusal = |event: &Event| match event {
        Event::Refused { code, reason, .. } => Some((*code, *reason)),
        Event::AllocationStarted { .. }
        | Event::AllocationMoved { .. }
        | Event::AllocationEnded { .. }
        | Event::AllocateAnswered { .. }
        | Event::Dropped(_)
        | Event::Granted(_)
        | Event::Challenged(_) => None,
    };
    world.events.iter().filter_map(refusal).collect()
}

#[test]
fn request_without_credentials_is_challenged_with_401_realm_and_nonce_and_nothing_else() {
    let mut world = World::new();
    let request = Draft::new(ALLOCATE, 1).udp().bytes();
    let answer = world.send(&tuple(1), &request).unwrap();
    assert_eq!(answer.code(), 401);
    assert_eq!(answer.attribute(0x0014).unwrap(), REALM.as_bytes());
    assert!(answer.nonce().starts_with(b"obMatJos2gAAA"), "RFC 8489 cookie, password algorithms");
    assert_eq!(answer.attribute(0x8002).unwrap(), [0, 2, 0, 0, 0, 1, 0, 0], "SHA-256, then MD5");
    assert_eq!(answer.attribute(0x8022), None, "SOFTWARE");
    assert_eq!(answer.attribute(0x0009).unwrap().len(), 4, "no reason phrase");
    assert!(!answer.is_signed_by(&Account::alice()));
    // Header, ERROR-CODE, realm, nonce, PASSWORD-ALGORITHMS: what a forged source address gets.
    assert_eq!(answer.bytes.len(), 20 + 8 + (4 + 12) + (4 + 28) + (4 + 8));
    assert_eq!(world.events, [Event::Challenged(RequestMethod::Allocate)]);
}

#[test]
fn wrong_password_and_unknown_user_get_401_and_the_event_says_why() {
    let mut world = World::new();
    for who in [Account::new("alice", "wrong"), Account::new("mallory", "x"), Account::new("1:carol", "x")] {
        let answer = world.ask(&tuple(1), &who, Draft::new(ALLOCATE, 1).udp());
        assert_eq!(answer.code(), 401, "{}", who.name);
        assert!(!answer.nonce().is_empty(), "another try is possible");
    }
    let why = [Unauthenticated::WrongPassword, Unauthenticated::UnknownUser, Unauthenticated::WrongSecret];
    assert_eq!(refused(&world), why.map(|why| (401, why.reason())));
    world.assert_empty();
}

#[test]
fn time_limited_credential_allocates_until_it_expires_and_its_allocation_lives_on() {
    let mut world = World::new();
    let carol = Account::minted("carol", wall_epoch() + secs(100));
    world.advance(secs(99));
    assert_eq!(world.ask(&tuple(1), &carol, Draft::new(ALLOCATE, 1).udp()).code(), 0);
    world.advance(secs(1));
    assert_eq!(world.ask(&tuple(2), &carol, Draft::new(ALLOCATE, 1).udp()).code(), 401);
    assert_eq!(refused(&world), [(401, Unauthenticated::Expired.reason())]);
    assert_eq!(
        world.ask(&tuple(1), &carol, Draft::new(REFRESH, 2)).code(),
        0,
        "a call outlives its credential"
    );
}

#[test]
fn nonce_that_is_foreign_forged_or_an_hour_old_gets_438_and_a_new_one() {
    let mut world = World::new();
    let alice = Account::alice();
    let old = world.nonce(0, &tuple(1));
    let foreign = world.nonce(0, &tuple(2));
    let mut forged = old.clone();
    forged[20] ^= 1;
    let draft = Draft::new(ALLOCATE, 1).udp();
    for nonce in [foreign, forged, b"made up".to_vec(), vec![]] {
        let answer = world.send(&tuple(1), &draft.clone().sign(&alice, &nonce).bytes()).unwrap();
        assert_eq!(answer.code(), 438);
        assert!(answer.nonce().starts_with(b"obMatJos2"));
    }
    world.advance(secs(3600));
    let answer = world.send(&tuple(1), &draft.clone().sign(&alice, &old).bytes()).unwrap();
    assert_eq!(answer.code(), 438);
    let answer = world.send(&tuple(1), &draft.sign(&alice, &answer.nonce()).bytes()).unwrap();
    assert!(answer.is_success());
}

#[test]
fn nonce_is_good_at_every_worker() {
    let mut world = World::with(settings(), 2);
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(ALLOCATE, 1).udp().sign(&Account::alice(), &nonce).bytes();
    assert!(world.send_at(1, &tuple(1), &request).unwrap().is_success());
}

#[test]
fn signature_without_username_realm_or_nonce_gets_400() {
    let mut world = World::new();
    let nonce = world.nonce(0, &tuple(1));
    for (username, realm, with_nonce) in [(false, true, true), (true, false, true), (true, true, false)] {
        let mut draft = Draft::new(ALLOCATE, 1).udp();
        if username {
            draft = draft.with(0x0006, b"alice");
        }
        if realm {
            draft = draft.with(0x0014, REALM.as_bytes());
        }
        if with_nonce {
            draft = draft.with(0x0015, &nonce);
        }
        assert_eq!(world.send(&tuple(1), &draft.with(0x0008, &[0; 20]).bytes()).unwrap().code(), 400);
    }
}

#[test]
fn another_user_on_an_existing_allocation_gets_441_and_changes_nothing() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    for draft in [
        Draft::new(REFRESH, 2).lifetime(0),
        Draft::new(CREATE_PERMISSION, 3).peer("8.8.8.8:1"),
        Draft::new(CHANNEL_BIND, 4).channel(0x4000).peer("8.8.8.8:1"),
    ] {
        let answer = world.ask(&tuple(1), &Account::bob(), draft);
        assert_eq!(answer.code(), 441);
        assert!(answer.is_signed_by(&Account::bob()));
    }
    assert_eq!(world.workers[0].allocations(), 1);
    let sent = world.route_client(&tuple(1), &send_indication("8.8.8.8:1", b"x"));
    assert_eq!(sent, Verdict::Drop(DropReason::NoPermission));
}

#[test]
fn lifetime_zero_behind_the_signature_deletes_nothing() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(REFRESH, 2).sign(&Account::alice(), &nonce).lifetime(0).bytes();
    assert_eq!(world.send(&tuple(1), &request).unwrap().lifetime(), 600);
    assert_eq!(world.workers[0].allocations(), 1);
}

#[test]
fn unknown_comprehension_required_attribute_gets_420_that_names_it() {
    let mut world = World::new();
    let answer = world.ask(&tuple(1), &Account::alice(), Draft::new(ALLOCATE, 1).udp().with(0x7001, b""));
    assert_eq!(answer.code(), 420);
    assert_eq!(answer.attribute(0x000A).unwrap(), [0x70, 0x01]);
    assert!(answer.is_signed_by(&Account::alice()));
    let answer = world.send(&tuple(1), &Draft::new(BINDING, 1).with(0x0003, &[0; 4]).bytes()).unwrap();
    assert_eq!(answer.code(), 420, "CHANGE-REQUEST");
    assert_eq!(answer.attribute(0x000A).unwrap(), [0x00, 0x03]);
}

#[test]
fn request_of_an_unknown_method_is_met_with_silence() {
    let mut world = World::new();
    let nonce = world.nonce(0, &tuple(1));
    // ConnectionAttempt of RFC 6062, which is an indication of the server's, as a request.
    let unknown = Draft::new(0x000C, 1);
    assert_eq!(world.send(&tuple(1), &unknown.clone().bytes()), None);
    assert_eq!(world.send(&tuple(1), &unknown.sign(&Account::alice(), &nonce).bytes()), None);
    assert_eq!(world.events.last(), Some(&Event::Dropped(DropReason::Unexpected)));
}

#[test]
fn malformed_attribute_gets_400() {
    let mut world = World::new();
    let odd = Draft::new(ALLOCATE, 2).udp().with(0x000D, &[1]);
    assert_eq!(world.ask(&tuple(1), &Account::alice(), odd).code(), 400);
}

#[test]
fn binding_tells_the_mapped_address_of_either_family_without_credentials() {
    let mut world = World::new();
    for from in [udp("203.0.1.7:40001"), udp("[2a00:9::1]:40001"), tcp("203.0.1.7:40001")] {
        let answer = world.send(&from, &Draft::new(BINDING, 1).bytes()).unwrap();
        assert!(answer.is_success());
        assert_eq!(answer.mapped(), from.client.0);
        assert_eq!(answer.attribute(0x8028), None, "no FINGERPRINT unasked");
        assert!(answer.bytes.len() <= 44, "{} bytes for 20", answer.bytes.len());
    }
    let answer = world.send(&tuple(1), &Draft::new(BINDING, 1).fingerprint().bytes()).unwrap();
    assert!(answer.attribute(0x8028).is_some());
}

#[test]
fn responses_indications_and_garbage_are_met_with_silence() {
    let mut world = World::new();
    let mut wrong = Draft::new(BINDING, 1).fingerprint().bytes();
    *wrong.last_mut().unwrap() ^= 1;
    let oversize = Draft::new(BINDING, 1).with(0x8022, &[0; 65_000]).bytes();
    for bytes in [
        Draft::new(0x0101, 1).bytes(),
        Draft::new(0x0113, 1).bytes(),
        Draft::new(0x0011, 1).bytes(),
        Draft::new(0x0017, 1).bytes(),
        vec![],
        vec![0],
        vec![0x40],
        vec![0; 65_535],
        vec![0x40; 65_535],
        vec![0xFF; 65_535],
        wrong,
        oversize,
    ] {
        assert_eq!(world.send(&tuple(1), &bytes), None);
    }
    world.assert_empty();
}

#[test]
fn strangers_of_one_prefix_are_answered_at_a_bounded_rate_and_others_are_not_hurt() {
    let mut world = World::new();
    let mut answered = 0;
    for port in 0..10_000_u16 {
        let spoofed = udp(&format!("198.51.100.{}:{}", port % 256, 1000 + port));
        answered += usize::from(world.send(&spoofed, &Draft::new(ALLOCATE, 1).bytes()).is_some());
        answered += usize::from(world.send(&spoofed, &Draft::new(BINDING, 1).bytes()).is_some());
    }
    assert_eq!(answered, 400, "two seconds' worth of 200");
    assert!(world.events.contains(&Event::Dropped(DropReason::RateLimited)));
    world.allocate(&tuple(1));
}

#[test]
fn client_with_credentials_is_not_limited() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    let nonce = world.nonce(0, &tuple(1));
    for n in 0..2000_u32 {
        let request = Draft::new(REFRESH, 2).lifetime(600 + n).sign(&Account::alice(), &nonce).bytes();
        assert!(world.send(&tuple(1), &request).unwrap().is_success());
    }
}

#[test]
fn repeated_allocate_gets_the_same_answer_and_no_second_port() {
    let mut world = World::new();
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(ALLOCATE, 1).udp().sign(&Account::alice(), &nonce).bytes();
    let first = world.send(&tuple(1), &request).unwrap();
    world.advance(secs(39));
    assert_eq!(world.send(&tuple(1), &request).unwrap(), first);
    assert_eq!(world.opens, 1);
    world.advance(secs(1));
    assert_eq!(world.send(&tuple(1), &request).unwrap().code(), 437, "after 40 s it is a new request");
}

#[test]
fn repeated_refresh_with_lifetime_zero_gets_the_same_answer() {
    let mut world = World::new();
    world.allocate(&tuple(1));
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(REFRESH, 2).lifetime(0).sign(&Account::alice(), &nonce).bytes();
    let first = world.send(&tuple(1), &request).unwrap();
    assert_eq!((first.code(), first.lifetime()), (0, 0));
    assert_eq!(world.send(&tuple(1), &request).unwrap(), first);
    world.assert_empty();
}

#[test]
fn stored_answer_is_given_to_its_own_client_only() {
    let mut world = World::new();
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(ALLOCATE, 1).udp().sign(&Account::alice(), &nonce).bytes();
    world.send(&tuple(1), &request).unwrap();
    assert_eq!(world.send(&tuple(2), &request).unwrap().code(), 438);
}

#[test]
fn allocate_repeated_while_its_socket_is_being_opened_is_dropped_and_another_gets_437() {
    let mut world = World::new();
    let nonce = world.nonce(0, &tuple(1));
    let wall = world.wall();
    let request =
        |transaction| Draft::new(ALLOCATE, transaction).udp().sign(&Account::alice(), &nonce).bytes();
    for _ in 0..2 {
        world.input(0, Input::Message { from: tuple(1), bytes: &request(1), wall });
    }
    world.input(0, Input::Message { from: tuple(1), bytes: &request(2), wall });
    world.settle();
    assert_eq!(world.opens, 1);
    assert!(world.events.contains(&Event::Dropped(DropReason::InProgress)));
    let codes: Vec<u16> = world.sent.iter().map(|(_, answer)| answer.code()).collect();
    assert_eq!(codes, [401, 437, 0]);
}

#[test]
fn allocate_repeated_while_its_socket_is_being_opened_is_dropped_also_when_its_nonce_has_ended() {
    let (mut world, from) = (World::new(), tuple(1));
    let nonce = world.nonce(0, &from);
    let bytes = Draft::new(ALLOCATE, 1).udp().sign(&Account::alice(), &nonce).bytes();
    world.now += secs(3599);
    let wall = world.wall();
    world.input(0, Input::Message { from, bytes: &bytes, wall });
    let before = world.sent.len();
    world.now += secs(121);
    let open = world.queue.pop_front().unwrap();
    let wall = world.wall();
    world.input(0, Input::Message { from, bytes: &bytes, wall });
    world.settle();
    assert_eq!(world.sent.len(), before, "something was answered");
    world.carry_out(open.0, open.1);
    world.settle();
    assert!(world.sent.last().unwrap().1.is_success());
}
