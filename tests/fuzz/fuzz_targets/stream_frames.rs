//! A byte stream from a client: where the cuts between reads fall must not change what the frames are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use turn_relay::frame::{Split, split};

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, stream)) = bytes.split_first() else { return };
    assert_eq!(frames(&[stream]), frames(&stream.chunks(usize::from(cut % 32) + 1).collect::<Vec<_>>()));
});

/// The frames found when the stream comes in these pieces, and whether it was given up.
fn frames(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, bool) {
    let (mut frames, mut unread) = (Vec::new(), Vec::new());
    for piece in pieces {
        unread.extend_from_slice(piece);
        loop {
            match split(&unread) {
                Split::Frame { len, consumed } => {
                    assert!(0 < len && len <= consumed && consumed <= unread.len());
                    frames.push(unread[..len].to_vec());
                    unread.drain(..consumed);
                }
                Split::Incomplete { needed } => {
                    assert!(needed > unread.len(), "it waits for what it has");
                    assert!(needed <= 20 + 0xFFFF + 3, "it waits for more than a frame");
                    break;
                }
                Split::Invalid => return (frames, true),
            }
        }
    }
    (frames, false)
}
