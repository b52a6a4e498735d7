//! Any datagram: classified, parsed as a request, parsed as what the data path forwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_relay::credentials::Key;
use turn_relay::frame::{self, ChannelData, SendIndication};
use turn_relay::stun;

fuzz_target!(|bytes: &[u8]| {
    let _ = frame::classify(bytes);
    if let Some(data) = ChannelData::parse(bytes) {
        assert!(data.data.len() + 4 <= bytes.len());
    }
    let _ = SendIndication::parse(bytes);
    if let Ok(message) = stun::parse(bytes) {
        assert!(
            !message.is_signed_with(&Key::long_term("nobody", "nowhere", "no password")),
            "a signature was forged"
        );
    }
});
