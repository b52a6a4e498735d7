//! Any ACCESS-TOKEN (RFC 7635), as a stranger makes it, and sealed with the right key, as an authorization server might get it wrong.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use libfuzzer_sys::fuzz_target;
use turn_relay::credentials::{Credentials, Integrity, ThirdParty, TokenKey};

/// `SEALED_WITH` in base64.
const KEY_FILE: &str = "north MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const SEALED_WITH: &[u8; 32] = b"01234567890123456789012345678901";
const SERVER_NAME: &str = "turn.example.org";
const NONCE: &[u8; 12] = b"h4j3k2l2n4b5";
/// Both lengths, the timestamp and the lifetime: the block without the key.
const BLOCK_BYTES: usize = 2 + 8 + 4;

static CREDENTIALS: LazyLock<Credentials> = LazyLock::new(|| {
    let keys = TokenKey::parse_file(KEY_FILE).expect("a good key file");
    Credentials::new("example.org", [], vec![]).with_third_party(Some(ThirdParty::new(SERVER_NAME, keys)))
});

fuzz_target!(|bytes: &[u8]| {
    let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let open = |token: &[u8]| CREDENTIALS.authorize(("north", token), Integrity::Sha1, wall, |_| true);
    assert!(open(bytes).is_err(), "a token was forged");

    let sealed = open(&seal(bytes));
    if let Ok(user) = sealed {
        assert!(
            (20..=64).contains(&(bytes.len() - BLOCK_BYTES)),
            "a key of {} bytes",
            bytes.len() - BLOCK_BYTES
        );
        assert!(user.until.is_some_and(|until| until > wall), "a token that is over");
    }
});

fn seal(plain: &[u8]) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, SEALED_WITH).expect("32 bytes"));
    let mut block = plain.to_vec();
    key.seal_in_place_append_tag(
        Nonce::assume_unique_for_key(*NONCE),
        Aad::from(SERVER_NAME.as_bytes()),
        &mut block,
    )
    .expect("any plaintext can be sealed");
    [&[0, 12][..], NONCE, &block].concat()
}
