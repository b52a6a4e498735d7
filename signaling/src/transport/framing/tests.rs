use signaling_protocol::{FrameError, MAX_FRAME_BYTES};

use super::*;

/// A frame as a client sends it. `first` is the byte with FIN, the reserved bits and the opcode.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, [0x37, 0xfa, 0x21, 0x3d])
}

fn masked(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).expect("small")),
        length @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
        }
        length => {
            bytes.push(0xff);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Everything that comes of these bytes, in pieces of `size`, up to a refusal.
fn decode(bytes: &[u8], size: usize) -> Result<Vec<Incoming<'static>>, Refused> {
    let (mut decoder, mut all) = (Decoder::new(MAX_FRAME_BYTES), vec![]);
    for mut piece in bytes.to_vec().chunks_mut(size) {
        while let Some(incoming) = decoder.next(&mut piece)? {
            all.push(match incoming {
                Incoming::Text(text) => Incoming::Text(text.into_owned().into()),
                Incoming::Ping(payload) => Incoming::Ping(payload),
                Incoming::Pong => Incoming::Pong,
                Incoming::Close(code) => Incoming::Close(code),
            });
        }
        assert!(piece.is_empty());
    }
    Ok(all)
}

const TEXT: u8 = 0x81;
const TEXT_TO_BE_CONTINUED: u8 = 0x01;
const CONTINUED: u8 = 0x80;
const CONTINUED_ON: u8 = 0x00;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

#[test]
fn the_example_of_the_rfc_is_read() {
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(decode(&hello, 11), Ok(vec![Incoming::Text(b"Hello".into())]));
}

#[test]
fn messages_of_every_size_come_out_whole_however_they_are_cut() {
    let sizes = [0, 1, 3, 4, 7, 8, 9, 124, 125, 126, 127, 1_000, 65_535, MAX_FRAME_BYTES];
    let texts: Vec<Vec<u8>> = sizes
        .iter()
        .map(|&size| (0..size).map(|at| b'a' + u8::try_from(at % 23).expect("small")).collect())
        .collect();
    let bytes: Vec<u8> = texts.iter().flat_map(|text| frame(TEXT, text)).collect();
    let expected: Vec<Incoming<'_>> = texts.into_iter().map(|text| Incoming::Text(text.into())).collect();
    for size in [1, 2, 3, 5, 13, 14, 15, 127, 1_000, 16_384, bytes.len()] {
        assert_eq!(decode(&bytes, size).as_ref(), Ok(&expected), "in pieces of {size}");
    }
}

#[test]
fn control_frames_come_between_the_pieces_of_a_text() {
    let bytes = [
        frame(TEXT_TO_BE_CONTINUED, b"one "),
        frame(PING, b"are you there"),
        frame(CONTINUED_ON, b"two "),
        frame(PONG, b"yes"),
        frame(CONTINUED, b"three"),
        frame(CLOSE, &[0x03, 0xe8, b'b', b'y', b'e']),
    ]
    .concat();
    let expected = vec![
        Incoming::Ping(b"are you there".to_vec()),
        Incoming::Pong,
        Incoming::Text(b"one two three".into()),
        Incoming::Close(Some([0x03, 0xe8])),
    ];
    for size in [1, 6, 7, bytes.len()] {
        assert_eq!(decode(&bytes, size).as_ref(), Ok(&expected), "in pieces of {size}");
    }
    assert_eq!(decode(&frame(CLOSE, b""), 1), Ok(vec![Incoming::Close(None)]));
}

#[test]
fn what_rfc_6455_forbids_is_refused() {
    let unmasked = vec![TEXT, 1, b'x'];
    let cases: [(&str, Vec<u8>); 17] = [
        ("no mask", unmasked),
        ("RSV1", frame(TEXT | 0x40, b"x")),
        ("RSV2", frame(TEXT | 0x20, b"x")),
        ("RSV3", frame(PING | 0x10, b"x")),
        ("a reserved data opcode", frame(0x83, b"x")),
        ("a reserved control opcode", frame(0x8b, b"x")),
        ("a long ping", frame(PING, &[0; 126])),
        ("a ping in pieces", frame(PING & 0x7f, b"x")),
        ("a close in pieces", frame(CLOSE & 0x7f, b"")),
        ("a piece of nothing", frame(CONTINUED, b"x")),
        ("a text within a text", [frame(TEXT_TO_BE_CONTINUED, b"x"), frame(TEXT, b"x")].concat()),
        ("a binary within a text", [frame(TEXT_TO_BE_CONTINUED, b"x"), frame(BINARY, b"x")].concat()),
        ("one byte of a close code", frame(CLOSE, &[3])),
        ("a close code that is not to be sent", frame(CLOSE, &1005_u16.to_be_bytes())),
        ("a close code below all", frame(CLOSE, &999_u16.to_be_bytes())),
        ("a close code that nobody defined", frame(CLOSE, &2999_u16.to_be_bytes())),
        ("a close reason that is not UTF-8", frame(CLOSE, &[3, 0xe8, 0xff])),
    ];
    for (what, bytes) in cases {
        for size in [1, bytes.len()] {
            assert_eq!(decode(&bytes, size), Err(Refused::Protocol), "{what}, in pieces of {size}");
        }
    }
}

#[test]
fn too_much_is_refused_before_it_comes() {
    let too_large = |bytes| Err(Refused::Frame(FrameError::TooLarge { bytes }));
    let huge = [TEXT, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(decode(&huge, 14), too_large(1 << 63));
    let size = MAX_FRAME_BYTES + 1;
    assert_eq!(decode(&frame(TEXT, &vec![b'x'; size])[..14], 14), too_large(size));
    assert_eq!(decode(&frame(BINARY, &vec![b'x'; size])[..14], 14), too_large(size));
    let pieces = [frame(TEXT_TO_BE_CONTINUED, &vec![b'x'; MAX_FRAME_BYTES]), frame(CONTINUED, b"x")].concat();
    assert_eq!(decode(&pieces, 1_000), too_large(size));
    assert_eq!(decode(&frame(BINARY, b"xyz")[..6], 6), Err(Refused::Frame(FrameError::NotText)));
}

#[test]
fn between_two_messages_nothing_is_held() {
    let mut decoder = Decoder::new(MAX_FRAME_BYTES);
    let mut bytes = [frame(PING, &[7; 125]), frame(TEXT, &vec![b'x'; 60_000])].concat();
    for mut piece in bytes.chunks_mut(9) {
        while decoder.next(&mut piece).expect("it is RFC 6455").is_some() {}
    }
    let Decoder { head, text, control, frame, fragmented, checked, most: _ } = decoder;
    assert_eq!(checked, 0);
    assert_eq!(
        (head.capacity(), text.capacity(), control.capacity(), frame.is_none(), fragmented),
        (0, 0, 0, true, false)
    );
}

#[test]
fn a_header_that_promises_much_reserves_nothing() {
    let mut decoder = Decoder::new(MAX_FRAME_BYTES);
    let mut bytes = frame(TEXT, &vec![b'x'; 60_000]);
    assert_eq!(decoder.next(&mut &mut bytes[..100]), Ok(None));
    assert!(decoder.text.capacity() < 1_000, "{}", decoder.text.capacity());
}

#[test]
fn what_is_written_is_what_a_client_reads() {
    let frame =
        Frame::farewell(signaling_protocol::CloseCode::SlowReader, "x".repeat(500), None).expect("a frame");
    let mut bytes = vec![];
    encode_text(&frame, &mut bytes);
    let text = frame.to_text();
    let length = u16::try_from(text.len()).expect("small").to_be_bytes();
    assert_eq!(bytes, [&[0x81, 126, length[0], length[1]], text.as_bytes()].concat());
    bytes.clear();
    encode_pong(b"hi", &mut bytes);
    encode_close(Some([0x0f, 0xa0]), "why", &mut bytes);
    encode_close(None, "", &mut bytes);
    assert_eq!(bytes, b"\x8a\x02hi\x88\x05\x0f\xa0why\x88\x00");
}
