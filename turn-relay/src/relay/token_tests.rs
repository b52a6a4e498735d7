//! Third-party authorization (RFC 7635): what a token opens, for how long, and for whom.

use super::testing::*;
use super::*;
use crate::credentials::{Key, ThirdParty, TokenKey, Unauthenticated};
use crate::stun;

/// Issued when the wall clock of these tests begins, good for an hour; `credentials/token_tests.rs` says how it was made.
const KEY: &str = "north SEdrajMyS0pHaXV5MDk4c2RmYXFiTmpPaWF6NzE5MjM=";
const TOKEN: &str =
    "AAxoNGozazJsMm40YjVhfvE0o9XkTpoZzH3BBLDAPQOypVHY/fXya1SnbxDPt35bVDIPo1ayY7e16YtL1gVzmw==";
/// Issued half an hour later, with the key `another mac key here`.
const LATER_TOKEN: &str =
    "AAxoNGozazJsMm40YjaRnOy9IbddDJM5+RlnjwSwYRNmak3utvF3kqGC/1RcR8EE4XZS9mH722G6CRCKcmh4jg==";

fn token(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

fn with_tokens() -> World {
    let third_party = ThirdParty::new("blackdow.carleon.gov", TokenKey::parse_file(KEY).unwrap());
    let credentials = settings().credentials.with_third_party(Some(third_party));
    World::with(RelaySettings { credentials, ..settings() }, 1)
}

fn key(mac_key: &str) -> Key {
    Key::short_term(mac_key)
}

const MAC_KEY: &str = "ZksjpweoixXmvn67534m";
const LATER_MAC_KEY: &str = "another mac key here";

impl Draft {
    fn bearing(self, token: Option<&[u8]>, nonce: &[u8]) -> Self {
        let draft = self.with(0x0006, b"north").with(0x0014, REALM.as_bytes()).with(0x0015, nonce);
        token.into_iter().fold(draft, |draft, token| draft.with(0x001B, token))
    }
}

fn ask(world: &mut World, draft: Draft, base64: Option<&str>, mac_key: &str) -> Answer {
    let nonce = world.nonce(0, &tuple(1));
    let token = base64.map(token);
    let request = draft.bearing(token.as_deref(), &nonce).integrity(&key(mac_key)).bytes();
    world.send(&tuple(1), &request).unwrap()
}

#[test]
fn challenge_names_the_server_only_where_tokens_are_good() {
    let challenge = Draft::new(ALLOCATE, 1).udp().bytes();
    let answer = with_tokens().send(&tuple(1), &challenge).unwrap();
    assert_eq!(answer.attribute(0x802E).unwrap(), b"blackdow.carleon.gov");
    assert_eq!(World::new().send(&tuple(1), &challenge).unwrap().attribute(0x802E), None);
}

#[test]
fn token_allocates_and_its_key_alone_is_enough_afterwards() {
    let mut world = with_tokens();
    let answer = ask(&mut world, Draft::new(ALLOCATE, 1).udp(), Some(TOKEN), MAC_KEY);
    assert!(answer.is_success() && answer.verifies(&key(MAC_KEY)), "{}", answer.code());
    let permit = Draft::new(CREATE_PERMISSION, 2).peer("8.8.8.8:1");
    let answer = ask(&mut world, permit, None, MAC_KEY);
    assert!(answer.is_success() && answer.verifies(&key(MAC_KEY)), "{}", answer.code());
    assert_eq!(ask(&mut world, Draft::new(REFRESH, 3).lifetime(0), None, "another").code(), 401);
    assert!(ask(&mut world, Draft::new(REFRESH, 4).lifetime(0), None, MAC_KEY).is_success());
    // Without an allocation the key id is nobody's name.
    assert_eq!(ask(&mut world, Draft::new(ALLOCATE, 5).udp(), None, MAC_KEY).code(), 401);
    world.assert_empty();
}

#[test]
fn bearer_that_signs_with_sixteen_bytes_of_its_key_as_coturn_does_is_let_in() {
    let mut world = with_tokens();
    let sixteen = &MAC_KEY[..16];
    let answer = ask(&mut world, Draft::new(ALLOCATE, 1).udp(), Some(TOKEN), sixteen);
    assert!(answer.is_success() && answer.verifies(&key(sixteen)), "{}", answer.code());
    assert!(ask(&mut world, Draft::new(REFRESH, 2).lifetime(0), None, sixteen).is_success());
    for len in [15, 17, 19] {
        let draft = Draft::new(ALLOCATE, u8::try_from(len).unwrap()).udp();
        assert_eq!(ask(&mut world, draft, Some(TOKEN), &MAC_KEY[..len]).code(), 401, "{len} bytes");
    }
}

#[test]
fn token_that_is_old_or_wrong_or_stolen_gets_401_and_the_event_says_why() {
    let mut world = with_tokens();
    let why = |world: &World| match world.events.last() {
        Some(Event::Refused { code: 401, reason, .. }) => *reason,
        other => panic!("{other:?}"),
    };
    let allocate = |n| Draft::new(ALLOCATE, n).udp();
    assert_eq!(ask(&mut world, allocate(1), Some(TOKEN), "guess").code(), 401);
    assert_eq!(why(&world), Unauthenticated::StolenToken.reason());
    assert_eq!(ask(&mut world, allocate(2), Some(&"A".repeat(88)), MAC_KEY).code(), 401);
    assert_eq!(why(&world), Unauthenticated::WrongToken.reason());
    assert_eq!(ask(&mut world, allocate(3), Some(&"A".repeat(980)), MAC_KEY).code(), 401);
    world.advance(secs(3605));
    assert_eq!(ask(&mut world, allocate(4), Some(TOKEN), MAC_KEY).code(), 401);
    assert_eq!(why(&world), Unauthenticated::ExpiredToken.reason());
    world.assert_empty();
}

#[test]
fn allocation_ends_with_its_token_unless_its_client_brings_another() {
    let mut world = with_tokens();
    let first = ask(&mut world, Draft::new(ALLOCATE, 1).udp().lifetime(3600), Some(TOKEN), MAC_KEY);
    assert_eq!(first.lifetime(), 3600);
    world.advance(secs(1900));
    // What is left of the token, and the five seconds that clocks may differ.
    assert_eq!(ask(&mut world, Draft::new(REFRESH, 2).lifetime(3600), None, MAC_KEY).lifetime(), 1705);
    let renewed = ask(&mut world, Draft::new(REFRESH, 3).lifetime(3600), Some(LATER_TOKEN), LATER_MAC_KEY);
    assert_eq!(renewed.lifetime(), 3505);
    assert!(renewed.verifies(&key(LATER_MAC_KEY)));
    // From here on the new key holds, and the old one does not.
    assert_eq!(ask(&mut world, Draft::new(REFRESH, 4), None, MAC_KEY).code(), 401);
    assert_eq!(ask(&mut world, Draft::new(REFRESH, 5).lifetime(3600), None, LATER_MAC_KEY).lifetime(), 3505);
    world.advance(secs(3505));
    let ended = world.events.iter().rev().find_map(|event| {
        let Event::AllocationEnded { reason, username, .. } = event else { return None };
        Some((*reason, username.starts_with("token:north:")))
    });
    assert_eq!(ended, Some((EndReason::CredentialExpired, true)));
    world.assert_empty();
}

#[test]
fn access_token_is_an_unknown_attribute_where_no_token_is_good() {
    let mut world = World::new();
    let draft = Draft::new(ALLOCATE, 1).udp().with(0x001B, &token(TOKEN));
    let answer = world.ask(&tuple(1), &Account::alice(), draft);
    assert_eq!((answer.code(), answer.attribute(0x000A).unwrap()), (420, vec![0x00, 0x1B]));
}

#[test]
fn access_token_behind_the_signature_is_not_read() {
    let signed = Draft::new(ALLOCATE, 1).udp().sign(&Account::alice(), b"nonce");
    let bytes = signed.with(0x001B, &token(TOKEN)).bytes();
    assert_eq!(stun::parse(&bytes).unwrap().access_token, None);
}
