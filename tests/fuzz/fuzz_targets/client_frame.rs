//! Any message of a WebSocket client.
#![no_main]

use libfuzzer_sys::fuzz_target;
use signaling_protocol::{ClientFrame, ClientMessage, MAX_FRAME_BYTES, MAX_SEQ, ServerFrame};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = ClientFrame::parse(bytes) {
        assert!(bytes.len() <= MAX_FRAME_BYTES);
        assert!(frame.seq <= MAX_SEQ && frame.ack <= MAX_SEQ);
        if let ClientMessage::Signal(signal) = &frame.message {
            assert!(signal.payload.raw().get().len() <= bytes.len());
        }
    }
    // The other direction, as a native client reads it.
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ServerFrame::parse(text);
    }
});
