use stun_types::attribute::{ErrorCode, Realm, UnknownAttributes};
use stun_types::message::Message as StunMessage;
use turn_types::attribute::{Lifetime, ReservationToken};

use super::*;
use crate::credentials::PasswordAlgorithm;
use crate::relay::testing::*;

/// RFC 5769 section 2.1: sample request (short-term, password below).
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
    80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
    80280004e57a3bcf";
/// RFC 5769 section 2.2: sample IPv4 response.
const RESPONSE_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643\
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// RFC 5769 section 2.3: sample IPv6 response.
const RESPONSE_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa\
    a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// RFC 5769 section 2.4: sample request with long-term authentication.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c\
    662f2f3439396b39353464364f4c33346f4c39465354767936347341001400 0b6578616d706c652e6f726700\
    00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Turns a response into a request of the same attributes and checks its tag: the walk and the arithmetic are the same.
fn verifies(mut message: Vec<u8>, key: &Key) -> bool {
    let answer = Answer { kind: 0, bytes: message.clone() };
    let tag = answer.attribute(0x0008).unwrap();
    let end = message.windows(4).position(|window| window == [0x00, 0x08, 0x00, 0x14]).unwrap();
    message.truncate(end);
    let length = u16::try_from(end + 24 - 20).unwrap().to_be_bytes();
    key.verify(&[&message[..2], &length, &message[4..]], &Tag::received(&tag))
}

#[test]
fn rfc5769_sample_request_is_read_and_verified() {
    let sample = bytes(REQUEST);
    let message = parse(&sample).unwrap();
    assert_eq!(message.request, Request::Binding);
    assert_eq!(message.username, Some("evtj:h6vY"));
    assert!(message.fingerprint);
    assert_eq!(message.unknown, [0x0024], "PRIORITY is ICE's");
    assert!(message.is_signed_with(&Key::short_term(PASSWORD)));
    assert!(!message.is_signed_with(&Key::short_term("VOkJxbRl1RmTxUk/WvJxBT")));
}

#[test]
fn rfc5769_sample_long_term_request_is_read_and_verified() {
    let sample = bytes(LONG_TERM);
    let message = parse(&sample).unwrap();
    assert_eq!(message.username, Some("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}"));
    assert_eq!(message.nonce, Some(&b"f//499k954d6OL34oL9FSTvy64sA"[..]));
    // The password after SASLprep, as the RFC prints it.
    let key = Key::long_term("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "example.org", "TheMatrIX");
    assert!(message.has_realm && message.is_signed_with(&key));
}

#[test]
fn rfc5769_sample_responses_verify_and_their_addresses_are_what_we_would_write() {
    for (sample, address) in
        [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let sample = bytes(sample);
        assert!(verifies(sample.clone(), &Key::short_term(PASSWORD)));
        let request = bytes(REQUEST);
        let reply_to = parse(&request).unwrap().reply_to();
        let mapped = [Attribute::XorMappedAddress(addr(address))];
        let ours = respond(reply_to, Outcome::Success, &mapped, Some(&Key::short_term(PASSWORD)));
        assert_eq!(ours[..2], sample[..2]);
        assert_eq!(
            Answer { kind: 0, bytes: ours.clone() }.attribute(0x0020),
            Answer { kind: 0, bytes: sample }.attribute(0x0020)
        );
        assert!(verifies(ours.clone(), &Key::short_term(PASSWORD)));
        assert_eq!(
            ours[ours.len() - 8..ours.len() - 4],
            [0x80, 0x28, 0x00, 0x04],
            "FINGERPRINT as the request had one"
        );
    }
}

#[test]
fn any_flipped_bit_of_a_signed_request_is_noticed() {
    let sample = Draft::new(REFRESH, 7).lifetime(600).sign(&Account::alice(), b"nonce").bytes();
    let key = Account::alice().key();
    assert!(parse(&sample).unwrap().is_signed_with(&key));
    for bit in 0..sample.len() * 8 {
        let mut altered = sample.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(!parse(&altered).is_ok_and(|message| message.is_signed_with(&key)), "bit {bit}");
    }
}

#[test]
fn wrong_or_misplaced_fingerprint_is_no_request() {
    let good = Draft::new(BINDING, 1).fingerprint().bytes();
    assert!(parse(&good).unwrap().fingerprint);
    let mut wrong = good;
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(parse(&wrong).unwrap_err(), NotARequest::WrongFingerprint);
    let followed = Draft::new(BINDING, 1).fingerprint().with(0x8022, b"late").bytes();
    assert_eq!(parse(&followed).unwrap_err(), NotARequest::WrongFingerprint);
}

#[test]
fn attributes_after_message_integrity_are_ignored() {
    let signed = Draft::new(REFRESH, 1).lifetime(600).sign(&Account::alice(), b"nonce");
    for (kind, value) in [
        (0x000D, vec![0, 0, 0, 0]),
        (0x0006, b"bob".to_vec()),
        (0x0015, b"other".to_vec()),
        (0x0017, vec![9, 0, 0, 0]),
        (0x7777, vec![]),
        (0x0008, vec![0; 20]),
    ] {
        let bytes = signed.clone().with(kind, &value).fingerprint().bytes();
        let message = parse(&bytes).unwrap();
        assert!(message.is_signed_with(&Account::alice().key()), "{kind:#06x}");
        assert_eq!(
            message.request,
            Request::Refresh(Refresh { lifetime: Some(600), family: None, mobility: None }),
            "{kind:#06x}"
        );
        assert_eq!((message.username, message.nonce), (Some("alice"), Some(&b"nonce"[..])), "{kind:#06x}");
        assert!(message.unknown.is_empty() && !message.malformed, "{kind:#06x}");
    }
}

/// RFC 8489 appendix B.1 as corrected by erratum 6268: with PASSWORD-ALGORITHM, and the tag made anew.
const SHA256_REQUEST: &str = "000100902112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bda952c6780417da0f248194155\
    69e60b205c46e41407f17040015 0029 6f624d61744a6f7332414141\
    43662f2f3439396b39353464364f4c33346f4c3946535476793634734100000000 14000b6578616d706c652e6f726700 001d00040002\
    0000 001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

#[test]
fn rfc8489_sample_request_with_sha256_and_userhash_is_read_and_verified() {
    let sample = bytes(SHA256_REQUEST);
    let message = parse(&sample).unwrap();
    let name = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}";
    let users = [(name.to_owned(), "TheMatrIX".to_owned())];
    let credentials = crate::credentials::Credentials::new("example.org", users, vec![]);
    let claimant = crate::credentials::Claimant::Hash(message.userhash.unwrap());
    assert_eq!(credentials.name_of(claimant), Some(name));
    assert_eq!(message.username, None);
    assert_eq!(message.password_algorithm, Some(&[0, 2, 0, 0][..]));
    assert_eq!(message.integrity(), Some(Integrity::Sha256));
    let key =
        |password| Key::derive(PasswordAlgorithm::Sha256, Integrity::Sha256, name, "example.org", password);
    assert!(message.has_realm && message.is_signed_with(&key("TheMatrIX")));
    assert!(!message.is_signed_with(&key("TheMatrIx")));
}

#[test]
fn of_both_integrities_sha256_decides_and_what_follows_either_is_ignored() {
    let sha1 = Account::alice().key();
    let sha256 = Key::derive(PasswordAlgorithm::Md5, Integrity::Sha256, "alice", REALM, "wonderland");
    let draft = || Draft::new(REFRESH, 1).lifetime(600);
    let expected = Request::Refresh(Refresh { lifetime: Some(600), family: None, mobility: None });
    for (first, second) in [(&sha1, &sha256), (&sha256, &sha1)] {
        let bytes = draft().integrity(first).lifetime(1).integrity(second).lifetime(0).fingerprint().bytes();
        let message = parse(&bytes).unwrap();
        assert_eq!(message.integrity(), Some(Integrity::Sha256));
        assert!(message.is_signed_with(&sha256) && !message.is_signed_with(&sha1));
        assert_eq!(message.request, expected);
    }
    // A wrong SHA-256 behind a right SHA-1 is wrong.
    let forged = draft().integrity(&sha1).with(0x001C, &[7; 32]).bytes();
    let message = parse(&forged).unwrap();
    assert!(!message.is_signed_with(&sha1) && !message.is_signed_with(&sha256));
}

#[test]
fn sha256_integrity_shorter_than_32_bytes_is_wrong() {
    let key = Key::derive(PasswordAlgorithm::Sha256, Integrity::Sha256, "alice", REALM, "wonderland");
    for len in [16, 20, 28] {
        let mut draft = Draft::new(REFRESH, 1).lifetime(0);
        draft.set_length(8 + 4 + len);
        let tag = key.sign(&[&draft.clone().bytes()]);
        let bytes = draft.with(0x001C, &tag[..len]).bytes();
        assert!(!parse(&bytes).unwrap().is_signed_with(&key), "{len} bytes");
    }
}

#[test]
fn answer_is_signed_with_the_integrity_of_its_key_and_an_independent_codec_verifies_it() {
    use stun_types::message::{IntegrityAlgorithm, LongTermKeyCredentials};
    let request = Draft::new(ALLOCATE, 1).fingerprint().bytes();
    for (integrity, algorithm) in
        [(Integrity::Sha1, IntegrityAlgorithm::Sha1), (Integrity::Sha256, IntegrityAlgorithm::Sha256)]
    {
        let password = match integrity {
            Integrity::Sha1 => PasswordAlgorithm::Md5,
            Integrity::Sha256 => PasswordAlgorithm::Sha256,
        };
        let key = Key::derive(password, integrity, "alice", REALM, "wonderland");
        let attributes = [Attribute::Lifetime(600)];
        let answer = respond(parse(&request).unwrap().reply_to(), Outcome::Success, &attributes, Some(&key));
        let message = StunMessage::from_bytes(&answer).unwrap();
        let credentials = LongTermKeyCredentials::new("alice".into(), "wonderland".into(), REALM.into());
        assert_eq!(message.validate_integrity(&credentials.into()).unwrap(), algorithm);
    }
}

#[test]
fn alternate_server_and_domain_and_password_algorithms_are_written_as_the_rfc_says() {
    let request = Draft::new(ALLOCATE, 1).bytes();
    let attributes = [
        Attribute::AlternateServer(addr("192.0.2.1:3478")),
        Attribute::AlternateDomain("turn.example.org"),
        Attribute::PasswordAlgorithms(&[PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5]),
    ];
    let outcome = Outcome::Error(300, "Try Alternate");
    let bytes = respond(parse(&request).unwrap().reply_to(), outcome, &attributes, None);
    let answer = Answer { kind: 0x0113, bytes };
    assert_eq!(answer.code(), 300);
    assert_eq!(answer.attribute(0x8023).unwrap(), [0, 1, 0x0D, 0x96, 192, 0, 2, 1], "not masked");
    assert_eq!(answer.attribute(0x8003).unwrap(), b"turn.example.org");
    assert_eq!(answer.attribute(0x8002).unwrap(), [0, 2, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn of_a_repeated_attribute_the_first_counts() {
    let bytes =
        Draft::new(REFRESH, 1).lifetime(700).lifetime(0).with(0x0006, b"alice").with(0x0006, b"bob").bytes();
    let message = parse(&bytes).unwrap();
    assert_eq!(
        message.request,
        Request::Refresh(Refresh { lifetime: Some(700), family: None, mobility: None })
    );
    assert_eq!(message.username, Some("alice"));
}

#[test]
fn connection_attempt_names_the_peer_and_the_connection() {
    for peer in ["8.8.8.8:5000", "[2a00:9::1]:5000"] {
        let written = connection_attempt(TransactionId([9; 12]), peer.parse().unwrap(), 0x0102_0304);
        let expected = Draft::new(0x001C, 9).peer(peer).connection(0x0102_0304).bytes();
        assert_eq!(written, expected);
    }
}

#[test]
fn allocate_attributes_are_read() {
    let bytes = Draft::new(ALLOCATE, 1)
        .udp()
        .with(0x0017, &[2, 0, 0, 0])
        .with(0x0018, &[0x80])
        .with(0x0022, &[1, 2, 3, 4, 5, 6, 7, 8])
        .with(0x001A, &[])
        .lifetime(777)
        .bytes();
    let expected = Allocate {
        transport: Some(17),
        family: Some(Family::V6),
        additional_family: false,
        even_port: Some(true),
        reservation: Some(0x0102_0304_0506_0708),
        lifetime: Some(777),
        dont_fragment: true,
        mobility: None,
    };
    let message = parse(&bytes).unwrap();
    assert_eq!(message.request, Request::Allocate(expected));
    assert!(!message.malformed);
}

#[test]
fn attributes_of_a_wrong_size_or_value_are_marked_malformed() {
    for (method, kind, value) in [
        (ALLOCATE, 0x0019, vec![17]),
        (ALLOCATE, 0x0017, vec![1]),
        (ALLOCATE, 0x0018, vec![]),
        (ALLOCATE, 0x0022, vec![1, 2, 3]),
        (ALLOCATE, 0x000D, vec![0; 8]),
        (ALLOCATE, 0x001A, vec![1]),
        (ALLOCATE, 0x8000, vec![1, 0, 0, 0]),
        (REFRESH, 0x000D, vec![]),
        (CREATE_PERMISSION, 0x0012, vec![0, 1, 2, 3]),
        (CREATE_PERMISSION, 0x0012, vec![0, 3, 0, 0, 1, 2, 3, 4]),
        (CREATE_PERMISSION, 0x0012, vec![0, 2, 0, 0, 1, 2, 3, 4]),
        (CHANNEL_BIND, 0x000C, vec![0x3F, 0xFF, 0, 0]),
        (CHANNEL_BIND, 0x000C, vec![0x80, 0x00, 0, 0]),
        (CHANNEL_BIND, 0x000C, vec![0x40, 0x00]),
        (BINDING, 0x0006, vec![0xFF, 0xFE]),
        (BINDING, 0x0006, vec![b'a'; 509]),
    ] {
        let bytes = Draft::new(method, 1).with(kind, &value).bytes();
        assert!(parse(&bytes).unwrap().malformed, "{method} {kind:#06x} {value:?}");
    }
}

#[test]
fn unknown_comprehension_required_attributes_are_named_and_optional_ones_are_not() {
    let bytes = Draft::new(BINDING, 1)
        .with(0x7001, b"x")
        .with(0x8123, b"y")
        .with(0x7001, b"z")
        .with(0x7002, b"")
        .bytes();
    assert_eq!(parse(&bytes).unwrap().unknown, [0x7001, 0x7002]);
}

#[test]
fn what_is_too_long_or_does_not_add_up_is_no_request() {
    let good = Draft::new(BINDING, 1).with(0x8022, &[b'a'; 7]).bytes();
    assert!(parse(&good).is_ok());
    for cut in 0..good.len() {
        assert!(parse(&good[..cut]).is_err(), "{cut} bytes");
    }
    let mut trailing = good;
    trailing.extend([0; 4]);
    assert_eq!(parse(&trailing).unwrap_err(), NotARequest::Malformed);
    let mut overlong = Draft::new(BINDING, 1).with(0x8022, &[0; 4]).bytes();
    overlong[23] = 5;
    assert_eq!(parse(&overlong).unwrap_err(), NotARequest::Malformed);
    let long = Draft::new(BINDING, 1).with(0x8022, &[0; MAX_REQUEST_BYTES]).bytes();
    assert_eq!(parse(&long).unwrap_err(), NotARequest::Malformed);
    let many = (0..=MAX_ATTRIBUTES).fold(Draft::new(BINDING, 1), |draft, _| draft.with(0x8022, b""));
    assert_eq!(parse(&many.bytes()).unwrap_err(), NotARequest::Malformed);
    assert_eq!(parse(&Draft::new(0x0101, 1).bytes()).unwrap_err(), NotARequest::OtherClass);
    assert_eq!(parse(&Draft::new(0x0011, 1).bytes()).unwrap_err(), NotARequest::OtherClass);
}

#[test]
fn an_independent_codec_reads_what_we_write() {
    let request = Draft::new(ALLOCATE, 1).fingerprint().bytes();
    let attributes = [
        Attribute::XorRelayedAddress(addr("192.0.2.15:50000")),
        Attribute::Lifetime(600),
        Attribute::XorMappedAddress(addr("[2001:db8::1]:1234")),
        Attribute::ReservationToken(0x0102_0304_0506_0708),
        Attribute::Realm("example.org"),
        Attribute::Nonce("nonce"),
        Attribute::UnknownAttributes(&[0x7001, 0x7002, 0x7003]),
    ];
    let key = Account::alice().key();
    let bytes =
        respond(parse(&request).unwrap().reply_to(), Outcome::Error(420, "Unknown"), &attributes, Some(&key));
    // The library's own parser checks lengths, order and FINGERPRINT, its own HMAC the signature.
    let message = StunMessage::from_bytes(&bytes).unwrap();
    let credentials =
        stun_types::message::LongTermKeyCredentials::new("alice".into(), "wonderland".into(), REALM.into());
    message.validate_integrity(&credentials.into()).unwrap();
    assert_eq!(message.attribute::<ErrorCode>().unwrap().code(), 420);
    assert_eq!(message.attribute::<Lifetime>().unwrap().seconds(), 600);
    assert_eq!(message.attribute::<ReservationToken>().unwrap().token(), 0x0102_0304_0506_0708);
    assert_eq!(message.attribute::<Realm>().unwrap().realm(), "example.org");
    let unknown = message.attribute::<UnknownAttributes>().unwrap();
    assert!([0x7001, 0x7002, 0x7003].iter().all(|kind| unknown.has_attribute(AttributeType::new(*kind))));
    let answer = Answer { kind: 0, bytes };
    assert_eq!(answer.relayed(), addr("192.0.2.15:50000"));
    assert_eq!(answer.mapped(), addr("[2001:db8::1]:1234"));
}
