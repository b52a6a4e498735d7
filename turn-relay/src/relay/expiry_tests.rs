//! What the end of a credential means for what it allowed, and how much one minted id may have.

use super::testing::*;
use super::*;

fn ending() -> RelaySettings {
    let credentials = settings().credentials.with_expiry_ending_allocations(true);
    RelaySettings { credentials, ..settings() }
}

fn carol(seconds: u64) -> Account {
    Account::minted("carol", wall_epoch() + secs(seconds))
}

fn ends(world: &World) -> Vec<(EndReason, u64)> {
    let end = |event: &Event| {
        let Event::AllocationEnded { reason, duration, .. } = event else { return None };
        Some((*reason, duration.as_secs()))
    };
    world.events.iter().filter_map(end).collect()
}

#[test]
fn credential_ends_its_allocation_to_the_second_and_refresh_gets_what_is_left() {
    let mut world = World::with(ending(), 1);
    let carol = carol(1000);
    let answer = world.ask(&tuple(1), &carol, Draft::new(ALLOCATE, 1).udp().lifetime(3600));
    assert_eq!((answer.code(), answer.lifetime()), (0, 1000));
    world.advance(secs(700));
    assert_eq!(world.ask(&tuple(1), &carol, Draft::new(REFRESH, 2).lifetime(3600)).lifetime(), 300);
    world.advance(secs(299));
    // Less than the least that is granted otherwise.
    assert_eq!(world.ask(&tuple(1), &carol, Draft::new(REFRESH, 3)).lifetime(), 1);
    assert_eq!(ends(&world), []);
    world.advance(secs(1));
    assert_eq!(ends(&world), [(EndReason::CredentialExpired, 1000)]);
    assert_eq!(world.ask(&tuple(1), &carol, Draft::new(REFRESH, 4)).code(), 401);
    world.assert_empty();
}

#[test]
fn allocation_that_nobody_refreshed_ends_by_itself_before_its_credential() {
    let mut world = World::with(ending(), 1);
    assert_eq!(world.ask(&tuple(1), &carol(1000), Draft::new(ALLOCATE, 1).udp()).lifetime(), 600);
    world.advance(secs(2000));
    assert_eq!(ends(&world), [(EndReason::Expired, 600)]);
}

#[test]
fn connection_of_an_expired_credential_is_closed() {
    let mut world = World::with(ending(), 1);
    let from = tcp("203.0.1.7:40001");
    assert_eq!(world.ask(&from, &carol(100), Draft::new(ALLOCATE, 1).udp()).lifetime(), 100);
    world.advance(secs(100));
    assert_eq!(world.disconnected, [from]);
    world.assert_empty();
}

#[test]
fn static_user_has_no_end_where_credentials_have_one() {
    let mut world = World::with(ending(), 1);
    assert_eq!(world.allocate(&tuple(1)).lifetime(), 600);
    assert_eq!(
        world.ask(&tuple(1), &Account::alice(), Draft::new(REFRESH, 2).lifetime(3600)).lifetime(),
        3600
    );
}

#[test]
fn minted_id_may_have_fewer_allocations_than_a_static_user_and_they_do_not_count_for_each_other() {
    let limits = Limits { allocations_per_user: 3, allocations_per_minted_user: 2, ..Limits::default() };
    let mut world = World::with(RelaySettings { limits, ..settings() }, 1);
    let minted = |n: u8| Account::minted("alice", wall_epoch() + secs(1000 + u64::from(n)));
    for n in 0..4 {
        let code = world.ask(&tuple(n), &minted(n), Draft::new(ALLOCATE, 1).udp()).code();
        assert_eq!(code, if n < 2 { 0 } else { 486 }, "minted, number {n}");
    }
    for n in 10..14 {
        let code = world.ask(&tuple(n), &Account::alice(), Draft::new(ALLOCATE, 1).udp()).code();
        assert_eq!(code, if n < 13 { 0 } else { 486 }, "static, number {n}");
    }
}
