//! Tokens here were made with coturn's `turnutils_oauth`, or with the library in the other direction.

use super::*;

const NAME: &str = "blackdow.carleon.gov";
/// The key, mac key and nonce of RFC 7635 appendix B; issued at 1,800,000,000, good for an hour:
/// turnutils_oauth -e -i blackdow.carleon.gov -j north -k KEY -o aDRqM2sybDJuNGI1 -p WmtzanB3ZW9peFhtdm42NzUzNG0=
/// -q 117964800000000 -r 3600 -l 249213600 -m 21600 -n A256GCM
const KEY: &str = "SEdrajMyS0pHaXV5MDk4c2RmYXFiTmpPaWF6NzE5MjM=";
const TOKEN: &str =
    "AAxoNGozazJsMm40YjVhfvE0o9XkTpoZzH3BBLDAPQOypVHY/fXya1SnbxDPt35bVDIPo1ayY7e16YtL1gVzmw==";
/// The same with `-k MDEyMzQ1Njc4OWFiY2RlZg== -n A128GCM`.
const SHORT_KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
const SHORT_TOKEN: &str =
    "AAxoNGozazJsMm40YjUhis5iGsSpay94iXx7UlRg9M31m4pBudUS99PTdW6JE58WhxJr5djI7SEuDcvJcmwVaQ==";

fn third_party(file: &str) -> ThirdParty {
    ThirdParty::new(NAME, TokenKey::parse_file(file).unwrap())
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Seals what an authorization server might, under `KEY`.
fn sealed(plain: &[u8]) -> Vec<u8> {
    let key = UnboundKey::new(&AES_256_GCM, &BASE64.decode(KEY).unwrap()).unwrap();
    let nonce = *b"h4j3k2l2n4b5";
    let mut block = plain.to_vec();
    let aad = Aad::from(NAME.as_bytes());
    LessSafeKey::new(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut block)
        .unwrap();
    [&[0, 12][..], &nonce, &block].concat()
}

fn block(mac_key: &[u8], timestamp: u64, lifetime: u32) -> Vec<u8> {
    let length = u16::try_from(mac_key.len()).unwrap().to_be_bytes();
    [&length[..], mac_key, &timestamp.to_be_bytes(), &lifetime.to_be_bytes()].concat()
}

#[test]
fn token_that_coturn_sealed_is_opened_with_either_length_of_key() {
    let file = format!("# of two servers\nnorth {KEY}\n\nsouth  {SHORT_KEY}\n");
    for (key_id, token) in [("north", TOKEN), ("south", SHORT_TOKEN)] {
        let token = third_party(&file).open(key_id, &BASE64.decode(token).unwrap()).unwrap();
        assert_eq!(token.mac_key.as_bytes(), b"ZksjpweoixXmvn67534m");
        assert_eq!((token.issued, token.lifetime), (at(1_800_000_000), Duration::from_secs(3600)));
    }
}

#[test]
fn token_of_another_key_id_or_server_or_with_any_bit_flipped_is_none() {
    let ours = third_party(&format!("north {KEY}\nsouth {SHORT_KEY}"));
    let token = BASE64.decode(TOKEN).unwrap();
    assert!(ours.open("north", &token).is_some());
    assert!(ours.open("south", &token).is_none() && ours.open("", &token).is_none());
    let elsewhere = ThirdParty::new("turn.example.org", ours.keys.clone());
    assert!(elsewhere.open("north", &token).is_none());
    for bit in 0..token.len() * 8 {
        let mut altered = token.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(ours.open("north", &altered).is_none(), "bit {bit}");
    }
}

/// The second is what overflowed another server's stack: its lengths were believed before the tag was looked at.
#[test]
fn token_of_any_length_is_refused_without_being_opened() {
    let ours = third_party(&format!("north {KEY}"));
    let token = BASE64.decode(TOKEN).unwrap();
    for len in (0..=2000).filter(|len| *len != token.len()).chain([735, 65_535]) {
        let mut other = token.clone();
        other.resize(len, 0);
        assert!(ours.open("north", &other).is_none(), "{len} bytes");
    }
    for nonce_length in [0, 11, 13, 64, 719, 735, 0xFFFF_u16] {
        for len in [64, 100, 108, 735] {
            let mut other = token.clone();
            other[..2].copy_from_slice(&nonce_length.to_be_bytes());
            other.resize(len, 0);
            assert!(ours.open("north", &other).is_none(), "{nonce_length} of {len}");
        }
    }
}

#[test]
fn sealed_nonsense_is_refused_although_its_tag_is_right() {
    let ours = third_party(&format!("north {KEY}"));
    let good = block(&[7; 20], 1_800_000_000 << 16, 3600);
    assert!(ours.open("north", &sealed(&good)).is_some());
    assert!(ours.open("north", &sealed(&block(&[7; 64], 1_800_000_000 << 16, 3600))).is_some());
    assert!(ours.open("north", &sealed(&block(&[7; 65], 1_800_000_000 << 16, 3600))).is_none(), "long key");
    assert!(ours.open("north", &sealed(&block(&[7; 19], 1_800_000_000 << 16, 3600))).is_none(), "short key");
    assert!(ours.open("north", &sealed(&[&good[..], &[0; 4]].concat())).is_none(), "more than a block");
    for key_length in [0, 16, 19, 21, 24, 33, 0xFFFF_u16] {
        let mut other = good.clone();
        other[..2].copy_from_slice(&key_length.to_be_bytes());
        assert!(ours.open("north", &sealed(&other)).is_none(), "a key of {key_length} bytes in 20");
    }
}

#[test]
fn token_is_good_from_a_lifetime_before_its_time_to_a_lifetime_after_it_and_five_seconds() {
    let token = |timestamp, lifetime| {
        let sealed = sealed(&block(&[7; 20], timestamp, lifetime));
        third_party(&format!("north {KEY}")).open("north", &sealed).unwrap()
    };
    let hour = token(10_000 << 16 | 0xFFFF, 3600);
    for (now, good) in [(13_604, true), (13_605, false), (6_396, true), (6_395, false), (10_000, true)] {
        assert_eq!(hour.until(at(now)).is_some(), good, "{now}");
    }
    assert_eq!(hour.until(at(10_000)), Some(at(13_605)));
    assert!(token(u64::MAX, u32::MAX).until(at(10_000)).is_none(), "a time beyond all clocks");
    assert!(token(0, 0).until(at(10_000)).is_none());
}

#[test]
fn key_file_with_a_bad_line_is_refused_with_its_number_and_without_its_content() {
    for (text, line) in [
        (format!("north {KEY}\nsouth"), 2),
        ("north c2hvcnQ=".to_owned(), 1),
        ("north %%%".to_owned(), 1),
        (format!("a:b {KEY}"), 1),
        (format!("{} {KEY}", "k".repeat(129)), 1),
        (format!("north {KEY}\n# again\nnorth {SHORT_KEY}"), 3),
    ] {
        let refused = TokenKey::parse_file(&text).unwrap_err();
        assert!(matches!(refused, TokenKeyError::Line { line: at, .. } if at == line), "{refused}");
        assert!(!refused.to_string().contains("SEdr"), "{refused}");
    }
    assert_eq!(TokenKey::parse_file("# nothing\n").unwrap_err(), TokenKeyError::Empty);
    assert!(!format!("{:?}", third_party(&format!("north {KEY}"))).contains("SEdr"));
}

#[test]
fn bearers_count_apart_and_are_no_other_kind_of_user() {
    let name = |key_id: &str, byte| {
        let mut mac_key = MacKey { bytes: [0; 64], len: 20 };
        mac_key.bytes[0] = byte;
        bearer(key_id, &mac_key)
    };
    let (one, other) = (name("north", 1), name("north", 2));
    assert_ne!(one, other, "each counts for itself");
    assert!(is_bearer(&one) && is_same_user(&one, &other) && is_same_user(&one, &name("south", 1)));
    assert!(!is_same_user("north", &one) && !is_same_user(&one, "north") && !is_same_user("alice", "bob"));
    assert!(goes_by("alice", "alice") && !goes_by("alice", "north") && goes_by(&one, "south"));
}
