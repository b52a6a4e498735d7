//! What clients may take at most. The defaults and their reasons are those of [`Limits`].

use std::time::Duration;

use super::Config;
use crate::operation::StartError;
use crate::relay::{Limits, Rate};

pub(super) fn limits(config: &Config) -> Result<Limits, StartError> {
    let default = Limits::default();
    let limits = Limits {
        allocations: count("max_allocations", config.max_allocations, default.allocations)?,
        allocations_per_user: count(
            "max_allocations_per_user",
            config.max_allocations_per_user,
            default.allocations_per_user,
        )?,
        allocations_per_address: count(
            "max_allocations_per_address",
            config.max_allocations_per_address,
            default.allocations_per_address,
        )?,
        permissions: per_allocation("max_permissions", config.max_permissions, default.permissions)?,
        channels: per_allocation("max_channels", config.max_channels, default.channels)?,
        default_lifetime: lifetime("default_lifetime", config.default_lifetime, default.default_lifetime)?,
        max_lifetime: lifetime("max_lifetime", config.max_lifetime, default.max_lifetime)?,
        unauthenticated_answers: config.unauthenticated_answers.unwrap_or(default.unauthenticated_answers),
        allocation_rate: Rate {
            bytes_per_second: bytes(
                "allocation_bytes_per_second",
                config.allocation_bytes_per_second,
                default.allocation_rate.bytes_per_second,
            )?,
            packets_per_second: config
                .allocation_packets_per_second
                .unwrap_or(default.allocation_rate.packets_per_second),
        },
        user_rate: Rate {
            bytes_per_second: bytes(
                "user_bytes_per_second",
                config.user_bytes_per_second,
                default.user_rate.bytes_per_second,
            )?,
            packets_per_second: config
                .user_packets_per_second
                .unwrap_or(default.user_rate.packets_per_second),
        },
        new_peers_per_minute: config.allocation_new_peers_per_minute.unwrap_or(default.new_peers_per_minute),
        user_new_peers_per_minute: config
            .user_new_peers_per_minute
            .unwrap_or(default.user_new_peers_per_minute),
        allocations_per_minted_user: count(
            "max_allocations_per_minted_user",
            config.max_allocations_per_minted_user,
            default.allocations_per_minted_user,
        )?,
        connections_per_allocation: per_allocation(
            "max_peer_connections",
            config.max_peer_connections,
            default.connections_per_allocation,
        )?,
        connections_per_user: count(
            "max_peer_connections_per_user",
            config.max_peer_connections_per_user,
            default.connections_per_user,
        )?,
    };
    agree(config, &limits)?;
    Ok(limits)
}

/// What was written must not contradict itself; a default above a written bound is just never reached.
fn agree(config: &Config, limits: &Limits) -> Result<(), StartError> {
    if limits.default_lifetime > limits.max_lifetime {
        return Err(StartError::new(format!(
            "default_lifetime: {} s is more than max_lifetime, {} s",
            limits.default_lifetime.as_secs(),
            limits.max_lifetime.as_secs()
        )));
    }
    for (key, written) in [
        ("max_allocations_per_user", config.max_allocations_per_user),
        ("max_allocations_per_address", config.max_allocations_per_address),
        ("max_allocations_per_minted_user", config.max_allocations_per_minted_user),
    ] {
        if let Some(part) = written
            && let Some(all) = config.max_allocations
            && part > all
        {
            return Err(StartError::new(format!("{key}: {part} is more than max_allocations, {all}")));
        }
    }
    Ok(())
}

fn count(key: &str, written: Option<u32>, default: u32) -> Result<u32, StartError> {
    match written.unwrap_or(default) {
        count @ 1..=MAX_ALLOCATIONS => Ok(count),
        wrong => Err(StartError::new(format!("{key}: {wrong} is not between 1 and {MAX_ALLOCATIONS}"))),
    }
}

fn per_allocation(key: &str, written: Option<u16>, default: u16) -> Result<u16, StartError> {
    match written.unwrap_or(default) {
        count @ 1..=MAX_PER_ALLOCATION => Ok(count),
        wrong => Err(StartError::new(format!("{key}: {wrong} is not between 1 and {MAX_PER_ALLOCATION}"))),
    }
}

fn lifetime(key: &str, written: Option<u32>, default: Duration) -> Result<Duration, StartError> {
    match written {
        None => Ok(default),
        Some(seconds @ LEAST_LIFETIME..=MOST_LIFETIME) => Ok(Duration::from_secs(seconds.into())),
        Some(wrong) => Err(StartError::new(format!(
            "{key}: {wrong} is not between {LEAST_LIFETIME} and {MOST_LIFETIME} seconds"
        ))),
    }
}

fn bytes(key: &str, written: Option<u64>, default: u64) -> Result<u64, StartError> {
    match written.unwrap_or(default) {
        bytes @ (0 | LEAST_BYTES..=MOST_BYTES) => Ok(bytes),
        wrong => Err(StartError::new(format!(
            "{key}: {wrong} is neither 0 (no limit) nor between {LEAST_BYTES} and {MOST_BYTES}"
        ))),
    }
}

/// Sixteen relay addresses of 65,536 ports.
const MAX_ALLOCATIONS: u32 = 1 << 20;
/// Both lists are sorted arrays: inserting into longer ones would be felt.
const MAX_PER_ALLOCATION: u16 = 4096;
/// A shorter lifetime keeps clients busy with Refresh: they send it a minute before the end (RFC 8656 section 8.1).
const LEAST_LIFETIME: u32 = 60;
/// A day. RFC 8656 section 7.2 recommends an hour at most; the longer, the longer a dead client holds its port.
const MOST_LIFETIME: u32 = 86_400;
/// Less than one full packet a second is a unit misread.
const LEAST_BYTES: u64 = 1500;
/// Eight terabit: more is a slip of the finger.
const MOST_BYTES: u64 = 1_000_000_000_000;
