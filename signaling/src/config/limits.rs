//! Bounds of what clients may make the server hold and do.

use std::time::Duration;

use signaling_protocol::Door;
use turn_relay::operation::StartError;

use super::{
    Config,
    numbers::{count, count_from, within},
};
use crate::{
    hub::{Limits, Rate},
    transport::admission::ConnectionLimits,
};

/// Of connections, and of what an address may do with them.
pub(super) fn connections(config: &Config) -> Result<ConnectionLimits, StartError> {
    let default = ConnectionLimits::default();
    // A burst is so many seconds' worth.
    let rate = |key, given, default: Rate| {
        let per_second = within(key, given, default.per_second, 1..=1_000_000)?;
        let burst = u64::from(per_second) * u64::from(default.burst) / u64::from(default.per_second);
        Ok::<_, StartError>(Rate { per_second, burst: u32::try_from(burst).unwrap_or(u32::MAX).max(1) })
    };
    Ok(ConnectionLimits {
        pending: count("max_pending", config.max_pending, 1_000, 1_000_000)?,
        handshakes: rate("handshakes_per_second", config.handshakes_per_second, default.handshakes)?,
        handshakes_per_address: rate(
            "handshakes_per_second_per_address",
            config.handshakes_per_second_per_address,
            default.handshakes_per_address,
        )?,
        sessions_per_address: count(
            "max_sessions_per_address",
            config.max_sessions_per_address,
            2_000,
            10_000_000,
        )?,
        frames_per_address: rate(
            "messages_per_second_per_address",
            config.messages_per_second_per_address,
            default.frames_per_address,
        )?,
        total: count("max_connections", config.max_connections, 20_000, 1_000_000)?,
        per_address: count(
            "max_connections_per_address",
            config.max_connections_per_address,
            1_000,
            1_000_000,
        )?,
        pending_per_address: count("max_pending_per_address", config.max_pending_per_address, 64, 100_000)?,
    })
}

/// Of sessions and rooms.
pub(super) fn limits(config: &Config) -> Result<Limits, StartError> {
    let default = Limits::default();
    let seconds = |key, given, default: Duration, most| {
        within(key, given, default.as_secs(), 1..=most).map(Duration::from_secs)
    };
    Ok(Limits {
        rooms: count("max_rooms", config.max_rooms, 10_000, 10_000_000)?,
        sessions: count("max_sessions", config.max_sessions, 50_000, 10_000_000)?,
        replay_messages: count("replay_messages", config.replay_messages, 1_024, 100_000)?,
        // Below this, one frame of the largest size would be too much.
        replay_bytes: count_from(96, "replay_kib", config.replay_kib, 256, 1_048_576)?.saturating_mul(1024),
        replay_total_bytes: count("replay_total_mib", config.replay_total_mib, 128, 1_048_576)?
            .saturating_mul(1024 * 1024),
        peers_per_room: count("max_room_peers", config.max_room_peers, 50, MAX_ROOM_PEERS)?,
        messages_per_second: within(
            "messages_per_second",
            config.messages_per_second,
            default.messages_per_second,
            1..=1_000_000,
        )?,
        message_burst: within("message_burst", config.message_burst, default.message_burst, 1..=1_000_000)?,
        grace: seconds("grace_seconds", config.grace_seconds, default.grace, 3_600)?,
        ping_interval: seconds(
            "ping_interval_seconds",
            config.ping_interval_seconds,
            default.ping_interval,
            3_600,
        )?,
        ping_deadline: seconds(
            "ping_deadline_seconds",
            config.ping_deadline_seconds,
            default.ping_deadline,
            600,
        )?,
        door: door(config.room_door.as_deref())?,
        ..default
    })
}

fn door(written: Option<&str>) -> Result<Door, StartError> {
    match written {
        None | Some("open") => Ok(Door::Open),
        Some("knock") => Ok(Door::Knock),
        Some("locked") => Ok(Door::Locked),
        Some(other) => {
            Err(StartError::new(format!("room_door: {other:?} is not known; write open, knock or locked")))
        }
    }
}

pub(super) fn shards(config: &Config) -> Result<usize, StartError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let given = within("shards", config.shards, u16::try_from(cores).unwrap_or(1), 1..=1024)?;
    Ok(usize::from(given))
}

/// A `welcome` lists them all, and has to fit into an outbox, a client's memory and one message.
const MAX_ROOM_PEERS: u32 = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_of_the_largest_room_fits_beside_a_replay() {
        use signaling_protocol::{PeerId, PeerSnapshot, PeerState};
        let longest = PeerSnapshot {
            peer: PeerId::derive(
                &"lobby".parse().expect("a room"),
                &"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().expect("a secret"),
            ),
            instance: "i".repeat(32).parse().expect("an instance"),
            name: Some("😀".repeat(64).parse().expect("a name")),
            polite: false,
            role: Some("r".repeat(32).parse().expect("a role")),
            state: PeerState::Here,
        };
        let bytes = serde_json::to_string(&longest).expect("it serialises").len() + 1;
        assert!(bytes <= crate::server::SNAPSHOT_BYTES, "{bytes}");
        let room = bytes * usize::try_from(MAX_ROOM_PEERS).expect("a small number");
        assert!(room + 8 * 1024 <= crate::server::OUTBOX_EXTRA_BYTES, "{room}");
    }
}
