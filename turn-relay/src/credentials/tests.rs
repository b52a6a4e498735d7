//! Passwords and keys here were computed with `openssl dgst`, not with this code.

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A signature over nothing but a fixed text, as a message would carry it.
fn signed(username: &str, password: &str) -> impl Fn(&Key) -> bool {
    let tag = Key::long_term(username, "example.org", password).sign(&[b"message"]);
    move |key| key.verify(&[b"message"], &tag)
}

fn with_secrets(secrets: &[&str]) -> Credentials {
    Credentials::new("example.org", [], secrets.iter().map(|secret| Secret::new(*secret)).collect())
}

#[test]
fn minted_password_is_what_openssl_computes() {
    // printf '1800000000:carol' | openssl dgst -sha1 -hmac north -binary | base64
    let credential = mint(&Secret::new("north"), "carol", at(1_800_000_000));
    assert_eq!(credential.username, "1800000000:carol");
    assert_eq!(credential.password, "L719K6zn1BnAW7T9Gcifk3cjz9E=");
}

#[test]
fn minted_password_of_a_secret_longer_than_a_block_is_what_openssl_computes() {
    let secret = "a much longer secret of more than sixty-four bytes, which HMAC has to hash first";
    assert_eq!(mint(&Secret::new(secret), "", at(1_800_000_000)).password, "WZRUcWcsoYg5q3qBtYkwYQe/4DI=");
}

#[test]
fn long_term_key_signs_as_openssl_does() {
    // printf 'alice:example.org:wonderland' | openssl dgst -md5     is the key in
    // printf 'GETx' | openssl dgst -sha1 -mac HMAC -macopt hexkey:72f86f2053703faa0f521ce71cfe6f59
    let tag = Key::long_term("alice", "example.org", "wonderland").sign(&[b"GE", b"Tx"]);
    let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "ac868db77663f314e71e81ea80c917f816239fa8");
}

#[test]
fn time_limited_credential_is_good_until_its_time_and_not_after() {
    let credential = mint(&Secret::new("north"), "carol", at(1000));
    let verifies = signed(&credential.username, &credential.password);
    let credentials = with_secrets(&["north"]);
    assert!(credentials.authenticate(&credential.username, at(999), &verifies).is_ok());
    let late = credentials.authenticate(&credential.username, at(1000), &verifies);
    assert_eq!(late.unwrap_err(), Unauthenticated::Expired);
}

#[test]
fn any_of_several_secrets_verifies_and_no_other() {
    let credentials = with_secrets(&["new", "old"]);
    for (secret, good) in [("new", true), ("old", true), ("elsewhere", false)] {
        let credential = mint(&Secret::new(secret), "carol", at(1000));
        let verifies = signed(&credential.username, &credential.password);
        assert_eq!(credentials.authenticate(&credential.username, at(1), verifies).is_ok(), good, "{secret}");
    }
}

#[test]
fn username_that_names_no_time_is_refused_even_with_the_right_password() {
    for username in ["carol", "", ":carol", "12a:carol", "-1:carol", "99999999999999999999:carol"] {
        let password = password_for(&Secret::new("north"), username);
        let answer = with_secrets(&["north"]).authenticate(username, at(1), signed(username, &password));
        assert_eq!(answer.unwrap_err(), Unauthenticated::UnknownUser, "{username}");
    }
}

#[test]
fn static_user_needs_its_own_password() {
    let users = [("alice".to_owned(), "wonderland".to_owned()), ("bob".to_owned(), "builder".to_owned())];
    let credentials = Credentials::new("example.org", users, vec![]);
    assert!(credentials.authenticate("alice", at(1), signed("alice", "wonderland")).is_ok());
    assert!(credentials.authenticate("alice", at(1), signed("alice", "builder")).is_err());
    assert!(credentials.authenticate("alice", at(1), signed("bob", "builder")).is_err());
    assert!(credentials.authenticate("mallory", at(1), signed("mallory", "")).is_err());
    assert!(credentials.authenticate("", at(1), signed("", "")).is_err(), "the decoy is nobody's key");
}

#[test]
fn account_is_the_id_of_a_time_limited_username_and_otherwise_the_whole() {
    assert_eq!(account("1800000000:carol"), "carol");
    assert_eq!(account("1800000000:a:b"), "a:b");
    assert_eq!(account("1800000000:"), "1800000000:");
    assert_eq!(account("1800000000"), "1800000000");
    assert_eq!(account("team:carol"), "team:carol");
}

#[test]
fn secret_file_has_one_secret_per_line_and_skips_blank_lines_and_comments() {
    let secrets = Secret::parse_file("# rotated in May\n\n  north \r\nsouth\n").unwrap();
    let bytes: Vec<&[u8]> = secrets.iter().map(|secret| &*secret.0).collect();
    assert_eq!(bytes, [b"north", b"south"]);
    assert_eq!(Secret::parse_file("\n# nothing\n").unwrap_err(), SecretError::Empty);
}

#[test]
fn debug_output_holds_no_secret() {
    let credentials =
        Credentials::new("r", [("alice".into(), "wonderland".into())], vec![Secret::new("north")]);
    let credential = mint(&Secret::new("north"), "carol", at(1_800_000_000));
    let printed = format!("{credentials:?} {credential:?} {:?}", Secret::new("north"));
    for hidden in ["north", "wonderland", "L719K6"] {
        assert!(!printed.contains(hidden), "{printed}");
    }
}
