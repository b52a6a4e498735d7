//! Users whom only the authorization hook knows: who is asked about, what waits, and what becomes of it.

use super::testing::*;
use super::*;
use crate::credentials::{Authorization, Credentials, Guest, Secret};

fn asking() -> RelaySettings {
    let users = [("alice".to_owned(), "wonderland".to_owned())];
    let credentials = Credentials::new(REALM, users, vec![]).offering_nothing();
    RelaySettings { credentials, authorization_hook: true, ..settings() }
}

fn dora() -> Account {
    Account::new("dora", "map")
}

fn allowed(who: &Account) -> Authorization {
    Authorization::Allowed(Guest::with_password(&who.name, REALM, &who.password))
}

impl World {
    /// Sends an Allocate that ends with a question to the hook.
    fn ask_about(&mut self, from: &FiveTuple, who: &Account) -> AskId {
        let nonce = self.nonce(0, from);
        let request = Draft::new(ALLOCATE, 1).udp().sign(who, &nonce).bytes();
        assert_eq!(self.send(from, &request), None, "no answer before the hook's");
        let (worker, ask, username) = self.asked.pop().expect("a question");
        assert_eq!((worker, &*username), (0, &*who.name));
        ask
    }

    fn tell(&mut self, ask: AskId, authorization: Authorization) -> Option<Answer> {
        let before = self.sent.len();
        self.input(0, Input::Authorized { ask, authorization });
        self.settle();
        self.sent[before..].last().map(|(_, answer)| answer.clone())
    }

    fn drops(&self, reason: DropReason) -> usize {
        self.events.iter().filter(|event| **event == Event::Dropped(reason)).count()
    }
}

#[test]
fn user_that_the_hook_knows_allocates_with_its_password_and_is_not_asked_about_again() {
    let mut world = World::with(asking(), 1);
    let ask = world.ask_about(&tuple(1), &dora());
    let answer = world.tell(ask, allowed(&dora())).unwrap();
    assert!(answer.is_success() && answer.is_signed_by(&dora()));
    assert_eq!(
        world.ask(&tuple(1), &dora(), Draft::new(CREATE_PERMISSION, 2).peer("8.8.8.8:1")).code(),
        0,
        "the key of the standing allocation is at hand"
    );
    assert_eq!(world.ask(&tuple(1), &dora(), Draft::new(REFRESH, 4).lifetime(0)).code(), 0);
    assert!(world.asked.is_empty());
    assert!(world.tell(ask, allowed(&dora())).is_none(), "an answer is good once");
    world.assert_empty();
}

#[test]
fn answer_is_timed_from_the_arrival_of_the_request_that_waited_for_the_hook() {
    let mut world = World::with(asking(), 1);
    let came = world.now;
    let ask = world.ask_about(&tuple(1), &dora());
    world.advance(secs(3));
    assert!(world.tell(ask, allowed(&dora())).unwrap().is_success());
    let timed = |world: &World| -> Vec<Instant> {
        let events = world.events.iter();
        events
            .filter_map(
                |event| {
                    if let Event::AllocateAnswered { asked } = event { Some(*asked) } else { None }
                },
            )
            .collect()
    };
    assert_eq!(timed(&world), [came]);
    // A refusal that is signed is timed too, other requests and strangers are not.
    let asked = world.now;
    assert_eq!(world.ask(&tuple(1), &dora(), Draft::new(ALLOCATE, 3).udp()).code(), 437);
    assert_eq!(world.ask(&tuple(1), &dora(), Draft::new(REFRESH, 4).lifetime(0)).code(), 0);
    let wrong = Account::new("alice", "guess");
    assert_eq!(world.ask(&tuple(2), &wrong, Draft::new(ALLOCATE, 5).udp()).code(), 401);
    assert_eq!(timed(&world), [came, asked]);
}

#[test]
fn wrong_password_unknown_user_and_a_hook_that_is_down_let_nobody_in() {
    let mut world = World::with(asking(), 1);
    let wrong = Account::new("dora", "guess");
    for (n, (authorization, code)) in (1..).zip([
        (allowed(&dora()), 401),
        (Authorization::Refused, 401),
        (Authorization::Unavailable, 500),
        (Authorization::Allowed(Guest::with_digests(None, Some(sha256_of_dora())).unwrap()), 401),
    ]) {
        let ask = world.ask_about(&tuple(n), &wrong);
        let answer = world.tell(ask, authorization).unwrap();
        assert_eq!(answer.code(), code);
        assert!(!answer.is_signed_by(&dora()) && !answer.is_signed_by(&wrong));
    }
    world.assert_empty();
}

fn sha256_of_dora() -> crate::credentials::PasswordDigest {
    crate::credentials::digest(crate::credentials::PasswordAlgorithm::Sha256, "dora", REALM, "map")
}

#[test]
fn hook_is_not_asked_about_users_of_the_configuration_nor_by_who_proved_no_address() {
    let mut world = World::with(asking(), 1);
    let nonce = world.nonce(0, &tuple(1));
    let request = |who: &Account, nonce: &[u8]| Draft::new(ALLOCATE, 1).udp().sign(who, nonce).bytes();
    // Another client's nonce, an invented one, and none.
    assert_eq!(world.send(&tuple(2), &request(&dora(), &nonce)).unwrap().code(), 438);
    assert_eq!(world.send(&tuple(1), &request(&dora(), b"made up")).unwrap().code(), 438);
    assert_eq!(world.send(&tuple(1), &Draft::new(ALLOCATE, 1).udp().bytes()).unwrap().code(), 401);
    let wrong = Account::new("alice", "wrong");
    assert_eq!(world.send(&tuple(1), &request(&wrong, &nonce)).unwrap().code(), 401);
    assert!(world.asked.is_empty());
    assert_eq!(world.send(&tuple(1), &request(&Account::alice(), &nonce)).unwrap().code(), 0);

    // Where there are secrets a name that looks time-limited is theirs.
    let credentials = Credentials::new(REALM, [], vec![Secret::new("north")]).offering_nothing();
    let mut world = World::with(RelaySettings { credentials, ..asking() }, 1);
    let forged = Account::new("1900000000:dora", "map");
    assert_eq!(world.ask(&tuple(1), &forged, Draft::new(ALLOCATE, 1).udp()).code(), 401);
    assert!(world.asked.is_empty());
    world.ask_about(&tuple(1), &dora());
}

#[test]
fn repeated_request_waits_once_and_one_that_is_not_answered_is_forgotten() {
    let mut world = World::with(asking(), 1);
    let nonce = world.nonce(0, &tuple(1));
    let request = Draft::new(ALLOCATE, 1).udp().sign(&dora(), &nonce).bytes();
    for _ in 0..5 {
        assert_eq!(world.send(&tuple(1), &request), None);
    }
    assert_eq!((world.asked.len(), world.drops(DropReason::InProgress)), (1, 4));
    world.advance(secs(15));
    assert_eq!(world.drops(DropReason::HookSilent), 1);
    world.assert_empty();
    let (_, ask, _) = world.asked.pop().unwrap();
    assert!(world.tell(ask, allowed(&dora())).is_none(), "too late");
    // The client asks again, and is heard.
    assert_eq!(world.send(&tuple(1), &request), None);
    let (_, ask, _) = world.asked.pop().unwrap();
    assert!(world.tell(ask, allowed(&dora())).unwrap().is_success());
}

#[test]
fn client_that_goes_away_waits_no_longer() {
    let mut world = World::with(asking(), 1);
    let from = tcp("203.0.9.7:1");
    let ask = world.ask_about(&from, &dora());
    world.input(0, Input::ClientGone(from));
    assert!(world.tell(ask, allowed(&dora())).is_none());
    world.assert_empty();
}

#[test]
fn one_address_asks_about_so_many_a_second_and_all_together_have_so_much_room() {
    let limits = Limits { unauthenticated_answers: 0, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..asking() }, 1);
    for port in 0..100 {
        let from = udp(&format!("203.0.1.7:{}", 10_000 + port));
        let nonce = world.nonce(0, &from);
        world.send(&from, &Draft::new(ALLOCATE, 1).udp().sign(&dora(), &nonce).bytes());
    }
    // Two seconds' allowance at once.
    assert_eq!((world.asked.len(), world.drops(DropReason::RateLimited)), (40, 60));
    // Until that is there again, who shares its bucket would be refused as well.
    world.advance(secs(2));
    for n in 0..1500_u32 {
        let from = udp(&format!("100.{}.{}.7:1", n >> 8, n & 0xFF));
        let nonce = world.nonce(0, &from);
        world.send(&from, &Draft::new(ALLOCATE, 1).udp().sign(&dora(), &nonce).bytes());
    }
    // A prefix or two may share the bucket that was used up.
    let refused = world.drops(DropReason::HookBusy) + world.drops(DropReason::RateLimited) - 60;
    assert_eq!((world.asked.len(), refused), (1024, 1540 - 1024));
    world.advance(secs(15));
    world.assert_empty();
}

#[test]
fn revoked_user_is_refused_although_the_hook_allows_it() {
    let mut world = World::with(asking(), 1);
    world.shared.revocations().revoke(world.now, "dora", world.now + secs(100)).unwrap();
    let ask = world.ask_about(&tuple(1), &dora());
    assert_eq!(world.tell(ask, allowed(&dora())).unwrap().code(), 403);
    world.assert_empty();
}
