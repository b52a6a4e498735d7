//! RFC 6455, byte by byte: the cases of the Autobahn test suite by its numbers (sections 1 to 7, 9 and 10; the suite itself runs
//! on a Python of the past), as raw bytes to the server.
//!
//! The suite tests servers that send back what they get. This one carries frames of JSON between peers, so:
//! - A text message of the suite is a `signal` whose description is the suite's text, padded to the suite's size where
//!   the size is the point. It passed if the other peer got that description.
//! - Where the suite expects its message back and then closes, here a last signal and a last ping show that the connection stands.
//! - Where the suite expects a close with 1002, the server closes with 1002 here too.
//! - Where it expects 1007, for text that is not UTF-8, the server closes with 4200, as PROTOCOL.md says of a bad frame; with 1002 if it is
//!   the reason of a close frame.
//! - Timings (9.7, 9.8) are not looked at.
//!
//! Cases that cannot end as the suite wants are in [`EXCEPTIONS`], with the reason and what happens instead. No other may differ.

mod cases;
mod raw;
mod utf8;

use std::collections::BTreeSet;

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::time::timeout;

use super::{Client, PATIENCE, config, requests::hello, start};
use raw::{FIN, Said, TEXT, frame};

/// What came of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Descriptions that the other peer got.
    arrived: Vec<String>,
    /// Payloads of pongs.
    pongs: Vec<Vec<u8>>,
    /// The code of the server's close frame: 1005 if it named none, 1006 if there was no close frame. `None`: it stands.
    closed: Option<u16>,
}

struct Case {
    number: String,
    /// What is written after the hello.
    bytes: Vec<u8>,
    /// Octets of one write; 0 for all at once.
    chop: usize,
    /// Ends with a signal and a ping, which tell whether the connection stands.
    probed: bool,
    expected: Outcome,
    /// Why it does not end as in the suite.
    exception: Option<&'static str>,
}

const NOT_JSON: &str = "the text is no frame of JSON: 4200";
const BINARY_IS_NONE: &str = "frames are text, and a binary message is none: 4200";
const SIZE: &str = "a frame has at most 65,536 bytes: 4201";
const WHOLE: &str = "text is checked once its WebSocket frame is whole, not octet by octet: 4200 then";
const UNDEFINED: &str = "the suite leaves it open: 1002";

/// The cases that end otherwise than the suite wants: the numbers up to the last place, its range, and why.
const EXCEPTIONS: [(&str, u32, u32, &str); 17] = [
    ("1.1", 1, 1, NOT_JSON),
    ("1.2", 1, 8, BINARY_IS_NONE),
    ("6.1", 1, 2, NOT_JSON),
    ("6.4", 3, 4, WHOLE),
    ("6.7", 1, 1, NOT_JSON),
    ("7.1", 6, 6, SIZE),
    ("7.13", 1, 2, UNDEFINED),
    ("9.1", 2, 6, SIZE),
    ("9.2", 1, 1, BINARY_IS_NONE),
    ("9.2", 2, 6, SIZE),
    ("9.3", 1, 9, SIZE),
    ("9.4", 1, 6, BINARY_IS_NONE),
    ("9.4", 7, 9, SIZE),
    ("9.5", 1, 6, SIZE),
    ("9.6", 1, 6, SIZE),
    ("9.7", 1, 1, NOT_JSON),
    ("9.8", 1, 6, BINARY_IS_NONE),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_case_of_the_autobahn_suite_ends_as_it_wants_or_as_is_said_here() {
    const AT_ONCE: usize = 8;
    let server = start(signaling::Config {
        messages_per_second: Some(100_000),
        message_burst: Some(100_000),
        handshakes_per_second_per_address: Some(10_000),
        // For 9.7, whose thousand messages nobody acknowledges.
        replay_messages: Some(2_048),
        replay_kib: Some(8_192),
        ..config()
    });
    let failures: Vec<String> = stream::iter(cases::all())
        .map(|case| {
            let server = &server;
            async move {
                let outcome = play(server, &case).await;
                (outcome != case.expected)
                    .then(|| format!("{}: {outcome:?} instead of {:?}", case.number, case.expected))
            }
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_exceptions_are_those_that_are_listed_and_no_case_is_left_out() {
    let cases = cases::all();
    let listed: BTreeSet<_> = EXCEPTIONS
        .iter()
        .flat_map(|(section, first, last, why)| {
            (*first..=*last).map(move |n| (format!("{section}.{n}"), *why))
        })
        .collect();
    let excepted = cases.iter().filter_map(|case| Some((case.number.clone(), case.exception?)));
    assert_eq!(excepted.collect::<BTreeSet<_>>(), listed);

    let mut counts = [0; 11];
    for case in &cases {
        let section = case.number.split('.').next().and_then(|section| section.parse::<usize>().ok());
        counts[section.expect("a section")] += 1;
    }
    // As many as the suite has.
    assert_eq!(counts, [0, 16, 11, 7, 10, 20, 145, 37, 0, 54, 1]);
    assert_eq!(cases.iter().map(|case| &case.number).collect::<BTreeSet<_>>().len(), cases.len());
}

#[tokio::test]
async fn a_frame_that_is_not_masked_fails_the_connection() {
    let server = start(config());
    let (mut mouth, mut ear) = raw::connect(server.address(), "lobby").await;
    mouth.write(&[FIN | TEXT, 2, b'{', b'}'], 0).await;
    assert_eq!(timeout(PATIENCE, ear.next()).await.expect("in time"), Said::Close(Some(1002)));
}

async fn play(server: &signaling::Server, case: &Case) -> Outcome {
    let mut other = Client::join(server, &case.number, 2).await;
    let (mut mouth, mut ear) = raw::connect(server.address(), &case.number).await;
    mouth.write(&frame(FIN | TEXT, hello(1, &json!({})).as_bytes()), 0).await;
    let mut bytes = case.bytes.clone();
    if case.probed {
        bytes.extend(case.probe());
    }
    let mut outcome = Outcome::default();
    let listen = async {
        loop {
            match ear.next().await {
                Said::Frame(_) => {}
                Said::Pong(payload) if payload == cases::PROBE => return,
                Said::Pong(payload) => outcome.pongs.push(payload),
                Said::Close(code) => return outcome.closed = Some(code.unwrap_or(1005)),
                Said::End => return outcome.closed = Some(1006),
            }
        }
    };
    let hear = async {
        let mut arrived = Vec::new();
        other.until("peer_joined").await;
        loop {
            let frame = other.next().await;
            match frame["description"].as_str() {
                Some(text) if text.as_bytes() == cases::PROBE => return arrived,
                Some(text) => arrived.push(text.trim_end_matches('*').to_owned()),
                // It is away: whatever it said before has come.
                None if frame["type"] == "peer_changed" => return arrived,
                None => panic!("{frame}"),
            }
        }
    };
    let all = async { tokio::join!(mouth.write(&bytes, case.chop), listen, hear) };
    let ((), (), arrived) = timeout(PATIENCE, all).await.expect("in time");
    Outcome { arrived, ..outcome }
}
