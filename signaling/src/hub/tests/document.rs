//! The limits that PROTOCOL.md names are the defaults.

use std::collections::BTreeMap;

use signaling_protocol::{MAX_BAN, MAX_FRAME_BYTES, MAX_FRAME_DEPTH, MAX_HELLO_BYTES};

use crate::{hub::Limits, transport::admission::ConnectionLimits};

const DOCUMENT: &str = include_str!("../../../PROTOCOL.md");

#[test]
fn the_limits_of_the_document_are_the_defaults() {
    let table = DOCUMENT.split("\n## Limits\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let told: BTreeMap<&str, u64> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split('|').map(str::trim);
            let (what, value) = (cells.next()?, cells.next()?);
            Some((what, value.split(' ').next()?.replace(',', "").parse().ok()?))
        })
        .collect();
    let (limits, connections) = (Limits::default(), ConnectionLimits::default());
    let number = |n: usize| n as u64;
    let expected = BTreeMap::from([
        ("size of a client's frame", number(MAX_FRAME_BYTES)),
        ("size of a `hello`", number(MAX_HELLO_BYTES)),
        ("nesting of a frame, itself included", number(MAX_FRAME_DEPTH)),
        ("time until `hello`", 5),
        ("frames per second of one client", limits.messages_per_second.into()),
        ("frames at once of one client", limits.message_burst.into()),
        ("frames that a `hello` counts for if its peer has a session", limits.hello_frames.into()),
        ("frames of unknown types on one connection", limits.unknown_types.into()),
        ("frames per second of all clients of one address", connections.frames_per_address.per_second.into()),
        ("frames at once of all clients of one address", connections.frames_per_address.burst.into()),
        ("connections of one address", number(connections.per_address)),
        ("connections of one address that have not said `hello`", number(connections.pending_per_address)),
        ("connections per second of one address", connections.handshakes_per_address.per_second.into()),
        ("connections at once of one address", connections.handshakes_per_address.burst.into()),
        ("sessions of one address, `away` included", number(connections.sessions_per_address)),
        ("connections of all addresses", number(connections.total)),
        ("connections of all addresses that have not said `hello`", number(connections.pending)),
        ("connections per second of all addresses", connections.handshakes.per_second.into()),
        ("peers in a room", number(limits.peers_per_room)),
        ("rooms of a shard", number(limits.rooms)),
        ("sessions of a shard", number(limits.sessions)),
        ("unacknowledged frames kept for a client", number(limits.replay_messages)),
        ("unacknowledged bytes kept for a client", number(limits.replay_bytes)),
        ("unacknowledged bytes kept in a shard", number(limits.replay_total_bytes)),
        ("of these for each client in any case", number(limits.replay_reserve)),
        ("time between pings", limits.ping_interval.as_secs()),
        ("silence beyond that", limits.ping_deadline.as_secs()),
        ("grace of a session without a connection", limits.grace.as_secs()),
        ("time until a frame is acknowledged", limits.ack_delay.as_secs()),
        ("frames until one is acknowledged", limits.ack_every),
        ("size of a token", 8192),
        ("bans of a room", number(limits.bans_per_room)),
        ("bans of a shard", number(limits.bans)),
        ("wrong passwords in a room at once", limits.guesses.into()),
        ("time until one is forgotten", limits.guess_interval.as_secs()),
        ("newcomers that wait before a door", number(limits.knocks)),
        ("time until one of them asks again", limits.knock_again.as_secs()),
        ("time until one is forgotten that does not", limits.knock_patience.as_secs()),
        ("time that one may wait in all", limits.knock_longest.as_secs()),
        ("time for which an answer holds", limits.answer_memory.as_secs()),
        ("longest ban that a client may ask for", MAX_BAN.as_secs()),
        ("time in which a removed session cannot be resumed", limits.kick_memory.as_secs()),
    ]);
    assert_eq!(told, expected);
}
