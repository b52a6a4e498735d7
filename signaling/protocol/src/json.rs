//! Bounds that are checked before JSON is parsed, because raw values are parsed by nobody on their way through.

use std::str;

use crate::client::FrameError;

/// Largest frame that a client may send, in bytes.
pub const MAX_FRAME_BYTES: usize = 65_536;

/// Largest `hello`, in bytes of UTF-8: whoever sends it has shown nothing yet.
pub const MAX_HELLO_BYTES: usize = 16_384;

/// Deepest nesting of arrays and objects in a frame, the frame's own object included.
pub const MAX_FRAME_DEPTH: usize = 32;

/// Gives the frame's text if its size, encoding and nesting are within bounds.
pub(crate) fn bounded(bytes: &[u8]) -> Result<&str, FrameError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { bytes: bytes.len() });
    }
    let text = str::from_utf8(bytes).map_err(|_| FrameError::NotText)?;
    // Few brackets cannot nest deeply, and most frames have few.
    if may_be_too_deep(bytes) && depth(bytes) > MAX_FRAME_DEPTH {
        return Err(FrameError::TooDeep);
    }
    Ok(text)
}

/// Whether more brackets open than may nest, those within strings too.
fn may_be_too_deep(bytes: &[u8]) -> bool {
    memchr::memchr2_iter(b'{', b'[', bytes).nth(MAX_FRAME_DEPTH).is_some()
}

/// Deepest nesting of brackets outside strings. Of text that is not JSON it gives some number: the parser refuses it.
fn depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_accepted_at_the_limit_and_refused_above_it() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(bounded(nested(MAX_FRAME_DEPTH).as_bytes()).is_ok());
        assert_eq!(bounded(nested(MAX_FRAME_DEPTH + 1).as_bytes()), Err(FrameError::TooDeep));
    }

    #[test]
    fn size_is_accepted_at_the_limit_and_refused_above_it() {
        assert!(bounded(&vec![b' '; MAX_FRAME_BYTES]).is_ok());
        let bytes = MAX_FRAME_BYTES + 1;
        assert_eq!(bounded(&vec![b' '; bytes]), Err(FrameError::TooLarge { bytes }));
    }

    #[test]
    fn brackets_inside_strings_do_not_nest() {
        assert_eq!(depth(br#"{"a":"[[[\"[[[\\"}"#), 1);
        assert_eq!(depth(br#"{"a":"\\","b":[[1]]}"#), 3);
    }

    #[test]
    fn many_brackets_are_fine_if_they_do_not_nest() {
        let many = format!("[{}]", "[],".repeat(2 * MAX_FRAME_DEPTH));
        assert!(bounded(many.as_bytes()).is_ok());
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert_eq!(bounded(b"\"\xff\""), Err(FrameError::NotText));
    }
}
