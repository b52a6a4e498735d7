//! Passwords and keys here were computed with `openssl dgst`, not with this code.

use std::time::{Duration, UNIX_EPOCH};

use super::*;

const CLASSIC: Hashes = Hashes { password: PasswordAlgorithm::Md5, integrity: Integrity::Sha1 };
const MODERN: Hashes = Hashes { password: PasswordAlgorithm::Sha256, integrity: Integrity::Sha256 };

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
    assert!(credentials.authenticate(&credential.username, CLASSIC, at(999), &verifies).is_ok());
    let late = credentials.authenticate(&credential.username, CLASSIC, at(1000), &verifies);
    assert_eq!(late.unwrap_err(), Unauthenticated::Expired);
}

#[test]
fn any_of_several_secrets_verifies_and_no_other() {
    let credentials = with_secrets(&["new", "old"]);
    for (secret, good) in [("new", true), ("old", true), ("elsewhere", false)] {
        let credential = mint(&Secret::new(secret), "carol", at(1000));
        let verifies = signed(&credential.username, &credential.password);
        assert_eq!(
            credentials.authenticate(&credential.username, CLASSIC, at(1), verifies).is_ok(),
            good,
            "{secret}"
        );
    }
}

#[test]
fn username_that_names_no_time_is_refused_even_with_the_right_password() {
    for username in ["carol", "", ":carol", "12a:carol", "-1:carol", "99999999999999999999:carol"] {
        let password = Secret::new("north").password(username);
        let answer =
            with_secrets(&["north"]).authenticate(username, CLASSIC, at(1), signed(username, &password));
        assert_eq!(answer.unwrap_err(), Unauthenticated::UnknownUser, "{username}");
    }
}

#[test]
fn static_user_needs_its_own_password() {
    let users = [("alice".to_owned(), "wonderland".to_owned()), ("bob".to_owned(), "builder".to_owned())];
    let credentials = Credentials::new("example.org", users, vec![]);
    assert!(credentials.authenticate("alice", CLASSIC, at(1), signed("alice", "wonderland")).is_ok());
    assert!(credentials.authenticate("alice", CLASSIC, at(1), signed("alice", "builder")).is_err());
    assert!(credentials.authenticate("alice", CLASSIC, at(1), signed("bob", "builder")).is_err());
    assert!(credentials.authenticate("mallory", CLASSIC, at(1), signed("mallory", "")).is_err());
    assert!(
        credentials.authenticate("", CLASSIC, at(1), signed("", "")).is_err(),
        "the decoy is nobody's key"
    );
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
fn ids_have_quotas_apart_from_static_users() {
    for (username, expected, minted) in [
        ("1800000000:carol", ":carol", true),
        ("1800000001#2026a:carol", ":carol", true),
        ("1800000000:", ":", true),
        ("carol", "carol", false),
        ("team:carol", "team:carol", false),
        ("4930123456", "4930123456", false),
    ] {
        assert_eq!((holder(username), is_minted(holder(username))), (expected, minted), "{username}");
    }
    assert_eq!(account("1800000001#2026a:carol"), "carol");
}

#[test]
fn minted_sha256_password_is_what_openssl_computes() {
    // printf '1800000000#2026a:carol' | openssl dgst -sha256 -hmac north -binary | base64
    let secrets = Secret::parse_file("@2026a:sha256 north").unwrap();
    let credential = mint(&secrets[0], "carol", at(1_800_000_000));
    assert_eq!(credential.username, "1800000000#2026a:carol");
    assert_eq!(credential.password, "99FLCeoh/nu2/QesdNTkaGqwySS8yWFvRPzPDJLWqS8=");
}

#[test]
fn username_with_a_key_id_is_verified_with_that_secret_and_no_other() {
    let secrets = Secret::parse_file("@a first\n@b:sha256 second\nthird\n@:sha256 fourth").unwrap();
    let credentials = Credentials::new("example.org", [], secrets.clone());
    let tries = |username: &str, password: &str| {
        let (tried, verifies) = (std::cell::Cell::new(0), signed(username, password));
        let found = credentials.authenticate(username, CLASSIC, at(1), |key| {
            tried.set(tried.get() + 1);
            verifies(key)
        });
        (found.is_ok(), tried.get())
    };
    for secret in &secrets {
        let named = mint(secret, "carol", at(1000));
        let candidates = if named.username.contains('#') { 1 } else { 4 };
        assert_eq!(tries(&named.username, &named.password), (true, candidates), "{}", named.username);
        // The same secret without its key id in the name, as coturn's tools would make it.
        assert!(tries("1000:carol", &secret.password("1000:carol")).0);
    }
    // The key id of one, the secret of another; and a key id of nobody, which costs no derivation.
    assert!(!tries("1000#a:carol", &secrets[1].password("1000#a:carol")).0);
    assert!(!tries("1000#b:carol", &Secret::new("second").password("1000#b:carol")).0, "the wrong hash");
    assert_eq!(tries("1000#c:carol", &secrets[0].password("1000#c:carol")), (false, 1));
    assert_eq!(tries("carol", "x"), (false, 1), "no time, no derivation");
}

#[test]
fn secret_file_with_a_bad_line_is_refused_with_its_number_and_without_its_content() {
    for (text, line) in [
        ("north\n@2026a", 2),
        ("@ north", 1),
        ("@a:md5 north", 1),
        ("@a/b north", 1),
        ("@a one\n# comment\n@a two", 3),
    ] {
        let refused = Secret::parse_file(text).unwrap_err();
        assert!(matches!(refused, SecretError::Line { line: at, .. } if at == line), "{text}: {refused:?}");
        assert!(!refused.to_string().contains("north"), "{refused}");
    }
    let long_id = format!("@{} north", "a".repeat(65));
    assert!(Secret::parse_file(&long_id).is_err());
    let many = "secret\n".repeat(MAX_SECRETS + 1);
    assert_eq!(Secret::parse_file(&many).unwrap_err(), SecretError::TooMany);
    assert!(Secret::parse_file(&many[7..]).is_ok());
}

#[test]
fn stored_keys_are_as_good_as_the_password_they_were_made_of() {
    let stored = |algorithm| {
        let digest = digest(algorithm, "alice", "example.org", "wonderland");
        ("alice".to_owned(), algorithm, digest)
    };
    let with = |keys: Vec<_>| Credentials::new("example.org", [], vec![]).with_stored_keys(keys);
    let (md5, sha256) = (stored(PasswordAlgorithm::Md5), stored(PasswordAlgorithm::Sha256));
    // printf %s 'alice:example.org:wonderland' | openssl dgst -md5
    assert_eq!(md5.2.to_hex(), "72f86f2053703faa0f521ce71cfe6f59");
    let classic = |credentials: &Credentials| {
        credentials.authenticate("alice", CLASSIC, at(1), signed("alice", "wonderland")).is_ok()
    };
    let modern = |credentials: &Credentials| {
        let verifies = signed_with_sha256("alice", "wonderland");
        credentials.authenticate("alice", MODERN, at(1), verifies).is_ok()
    };
    let both = with(vec![md5.clone(), sha256.clone()]);
    assert!(classic(&both) && modern(&both) && both.features().password_algorithms.len() == 2);
    let old = with(vec![md5]);
    assert!(classic(&old) && !modern(&old));
    assert!(old.features().password_algorithms.is_empty() && old.features().username_anonymity);
    let new = with(vec![sha256]);
    assert!(!classic(&new) && modern(&new));
    assert_eq!(new.features().password_algorithms, [PasswordAlgorithm::Sha256]);
    // With the decoy's password nobody gets in by the algorithm that is missing.
    assert!(new.authenticate("alice", CLASSIC, at(1), signed("", "")).is_err());
}

#[test]
fn secret_file_has_one_secret_per_line_and_skips_blank_lines_and_comments() {
    let secrets = Secret::parse_file("# rotated in May\n\n  north \r\nsouth\n").unwrap();
    let passwords: Vec<String> = secrets.iter().map(|secret| secret.password("1:x")).collect();
    assert_eq!(passwords, ["north", "south"].map(|secret| Secret::new(secret).password("1:x")));
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

/// `signed` with the hashes of RFC 8489.
fn signed_with_sha256(username: &str, password: &str) -> impl Fn(&Key) -> bool {
    let key = Key::derive(PasswordAlgorithm::Sha256, Integrity::Sha256, username, "example.org", password);
    let tag = key.sign(&[b"message"]);
    move |key| key.verify(&[b"message"], &tag)
}

#[test]
fn sha256_key_signs_as_openssl_does() {
    // printf 'alice:example.org:wonderland' | openssl dgst -sha256     is the key in
    // printf 'GETx' | openssl dgst -sha256 -mac HMAC -macopt hexkey:f0c3ae808cef8970...
    let key = Key::derive(PasswordAlgorithm::Sha256, Integrity::Sha256, "alice", "example.org", "wonderland");
    let hex: String = key.sign(&[b"GE", b"Tx"]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "e9a4c2a682ce5e82fa17cd2149ec12d9918007daed62962c264d3a1e2515afec");
}

#[test]
fn every_kind_of_user_verifies_with_sha256_as_well() {
    let users = [("alice".to_owned(), "wonderland".to_owned())];
    let credentials = Credentials::new("example.org", users, vec![Secret::new("north")]);
    let carol = mint(&Secret::new("north"), "carol", at(1000));
    for (name, password) in [("alice", "wonderland"), (&carol.username, &carol.password)] {
        let good = credentials.authenticate(name, MODERN, at(1), signed_with_sha256(name, password));
        assert_eq!(&*good.unwrap().username, name);
        let wrong = credentials.authenticate(name, MODERN, at(1), signed_with_sha256(name, "other"));
        assert!(wrong.is_err(), "{name}");
        // The right password, and the other key or the other tag.
        for hashes in [CLASSIC, Hashes { password: PasswordAlgorithm::Md5, ..MODERN }] {
            let mixed = credentials.authenticate(name, hashes, at(1), signed_with_sha256(name, password));
            assert!(mixed.is_err(), "{name} {hashes:?}");
        }
    }
}

#[test]
fn sha256_tag_that_is_truncated_or_too_long_never_verifies() {
    let key = Key::derive(PasswordAlgorithm::Sha256, Integrity::Sha256, "alice", "example.org", "w");
    let tag = key.sign(&[b"message"]);
    assert!(key.verify(&[b"message"], &Tag::received(&tag)));
    for len in (0..32).chain([33, 64]) {
        let mut other = tag.to_vec();
        other.resize(len, 0);
        assert!(!key.verify(&[b"message"], &Tag::received(&other)), "{len} bytes");
    }
}

#[test]
fn feature_is_offered_only_where_every_source_can_serve_it() {
    let both: &[PasswordAlgorithm] = &[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5];
    let alice = || [("alice".to_owned(), "wonderland".to_owned())];
    let features = |users, secrets: &[&str]| {
        let secrets = secrets.iter().map(|secret| Secret::new(*secret)).collect();
        Credentials::new("example.org", users, secrets).features()
    };
    let static_only = features(alice().to_vec(), &[]);
    assert_eq!(static_only, Features { password_algorithms: both, username_anonymity: true });
    assert_eq!(static_only.cookie(), "wAAA", "both bits, the most significant ones");
    let with_secret = features(alice().to_vec(), &["north"]);
    assert_eq!(with_secret, Features { password_algorithms: both, username_anonymity: false });
    assert_eq!(with_secret.cookie(), "gAAA");
    assert!(!features(vec![], &["north"]).username_anonymity);
}

#[test]
fn userhash_finds_the_static_user_and_nobody_else() {
    let users = [("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}".to_owned(), "TheMatrIX".to_owned())];
    let credentials = Credentials::new("example.org", users.clone(), vec![]);
    // RFC 8489 appendix B.1.
    let hash = *b"\x4a\x3c\xf3\x8f\xef\x69\x92\xbd\xa9\x52\xc6\x78\x04\x17\xda\x0f\
        \x24\x81\x94\x15\x56\x9e\x60\xb2\x05\xc4\x6e\x41\x40\x7f\x17\x04";
    assert_eq!(credentials.name_of(Claimant::Hash(&hash)), Some(&*users[0].0));
    let mut other = hash;
    other[31] ^= 1;
    assert_eq!(credentials.name_of(Claimant::Hash(&other)), None);
}

/// Compiles only while tags cannot be compared with `==`: which of the two impls is meant would be ambiguous.
#[test]
fn tags_cannot_be_compared_in_variable_time() {
    trait Comparable<A> {
        fn check() {}
    }
    struct Yes;
    impl<T: ?Sized> Comparable<()> for T {}
    impl<T: ?Sized + PartialEq> Comparable<Yes> for T {}
    <Tag as Comparable<_>>::check();
    <Key as Comparable<_>>::check();
    <PasswordDigest as Comparable<_>>::check();
}
