//! The name of an allocation, the same in the log, the admin API and the usage events.

use std::fmt;
use std::str::FromStr;

/// Names one allocation for its whole life. 64 random bits, so that records of several servers and of earlier runs can be
/// kept together: among a billion of them two are alike with a chance of 3 %. It opens nothing and proves nothing.
/// Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(pub u64);

impl fmt::Display for AllocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Not 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an allocation id is 16 hexadecimal digits")]
pub struct NoAllocationId;

impl FromStr for AllocationId {
    type Err = NoAllocationId;

    fn from_str(text: &str) -> Result<Self, NoAllocationId> {
        // from_str_radix takes a sign too.
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoAllocationId);
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| NoAllocationId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocation_id_is_read_back_as_it_is_written_and_nothing_else_is_one() {
        for id in [AllocationId(0), AllocationId(0x0123_4567_89ab_cdef), AllocationId(u64::MAX)] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in
            ["", "1", "+123456789abcdef", "0123456789abcdeg", "00123456789abcdef", "\u{1F600}0123456789a"]
        {
            assert_eq!(text.parse::<AllocationId>(), Err(NoAllocationId), "{text}");
        }
    }
}
