//! A PROXY header: where the cuts between reads fall must not change what it says, and nothing of its bytes is waited for without bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_relay::operation::proxy_header::{Introduction, MAX_HEADER_BYTES, NotIntroduced, read};

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    match whole {
        Ok(Some(Introduction { client, len, .. })) => {
            assert!(0 < len && len <= bytes.len() && len <= MAX_HEADER_BYTES);
            assert!(client.is_none_or(|client| client.ip().to_canonical() == client.ip()));
            // Complete with its last byte and not before; what follows it means nothing.
            assert_eq!(read(&bytes[..len]), whole);
            assert!((0..len).all(|cut| read(&bytes[..cut]) == Ok(None)));
        }
        Ok(None) => assert!(bytes.len() < MAX_HEADER_BYTES),
        // Whatever comes behind, it stays refused.
        Err(NotIntroduced) => assert_eq!(read(&[bytes, b"\r\n"].concat()), Err(NotIntroduced)),
    }
});
