//! Numbers with bounds.

use turn_relay::operation::StartError;

pub(super) fn count(key: &str, given: Option<u32>, default: u32, most: u32) -> Result<usize, StartError> {
    count_from(1, key, given, default, most)
}

pub(super) fn count_from(
    least: u32,
    key: &str,
    given: Option<u32>,
    default: u32,
    most: u32,
) -> Result<usize, StartError> {
    let value = within(key, given, default, least..=most)?;
    usize::try_from(value)
        .map_err(|_| StartError::new(format!("{key}: {value} is too much for this machine")))
}

pub(super) fn within<T: Copy + PartialOrd + std::fmt::Display>(
    key: &str,
    given: Option<T>,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, StartError> {
    let value = given.unwrap_or(default);
    if range.contains(&value) {
        return Ok(value);
    }
    Err(StartError::new(format!("{key}: {value} is outside {} to {}", range.start(), range.end())))
}
