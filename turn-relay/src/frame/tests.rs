use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::relay::testing::*;

fn number(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).unwrap()
}

#[test]
fn first_byte_tells_stun_from_channel_data_from_neither() {
    assert_eq!(classify(&Draft::new(BINDING, 1).bytes()), Kind::Request);
    assert_eq!(classify(&Draft::new(0x0101, 1).bytes()), Kind::OtherStun);
    assert_eq!(classify(&Draft::new(0x0011, 1).bytes()), Kind::OtherStun);
    assert_eq!(classify(&Draft::new(DATA_INDICATION, 1).bytes()), Kind::OtherStun);
    assert!(matches!(classify(&channel_data(0x4000, b"")), Kind::ChannelData(_)));
    assert!(matches!(classify(&channel_data(0x7FFF, b"")), Kind::ChannelData(_)));
    for other in [&b""[..], &[0x80; 20], &[0xFF; 20], &[20, 254, 253, 0], &[0; 20], &[0x40, 0x00, 0x00]] {
        assert_eq!(classify(other), Kind::Malformed, "{other:?}");
    }
}

#[test]
fn channel_data_may_be_padded_to_four_and_no_further() {
    let frame = channel_data(0x4123, b"hello");
    for padding in 0..=3 {
        let padded = [&frame[..], &[0; 3][..padding]].concat();
        let data = ChannelData::parse(&padded).unwrap();
        assert_eq!((data.channel, data.data), (number(0x4123), &b"hello"[..]));
    }
    assert_eq!(ChannelData::parse(&[&frame[..], &[0; 4]].concat()), None);
    assert_eq!(ChannelData::parse(&frame[..frame.len() - 1]), None);
}

#[test]
fn send_indication_is_read_where_it_lies() {
    for to in ["192.0.2.1:5000", "[2001:db8::7]:65535"] {
        let frame = send_indication(to, b"payload");
        let indication = SendIndication::parse(&frame).unwrap();
        assert_eq!(indication.peer, peer(to));
        assert_eq!(indication.data, b"payload");
        assert_eq!(&frame[indication.start..][..7], b"payload");
        assert!(!indication.dont_fragment);
    }
}

#[test]
fn send_indication_with_dont_fragment_and_harmless_extras_is_read() {
    let frame = Draft::new(SEND_INDICATION, 1)
        .with(0x8022, b"agent")
        .with(0x0006, b"alice")
        .with(DONT_FRAGMENT, b"")
        .peer("192.0.2.1:5000")
        .with(DATA, b"")
        .fingerprint()
        .bytes();
    let indication = SendIndication::parse(&frame).unwrap();
    assert!(indication.dont_fragment && indication.data.is_empty());
}

#[test]
fn send_indication_without_peer_or_data_or_with_unknown_attributes_is_refused() {
    let base = Draft::new(SEND_INDICATION, 1);
    let whole = base.clone().peer("192.0.2.1:5000").with(DATA, b"x");
    assert!(SendIndication::parse(&whole.clone().bytes()).is_some());
    assert_eq!(SendIndication::parse(&base.clone().peer("192.0.2.1:5000").bytes()), None);
    assert_eq!(SendIndication::parse(&base.clone().with(DATA, b"x").bytes()), None);
    assert_eq!(SendIndication::parse(&whole.clone().with(0x7001, b"").bytes()), None);
    assert_eq!(
        SendIndication::parse(
            &base.with(XOR_PEER_ADDRESS, &[0, 3, 0, 0, 1, 2, 3, 4]).with(DATA, b"").bytes()
        ),
        None
    );
    let many = (0..MAX_INDICATION_ATTRIBUTES).fold(whole, |draft, _| draft.with(0x8022, b""));
    assert_eq!(SendIndication::parse(&many.bytes()), None);
}

#[test]
fn header_written_in_place_is_what_a_client_reads_back() {
    let transaction = TransactionId([7; 12]);
    for from in ["192.0.2.1:5000", "[2001:db8::7]:65535"] {
        for len in 0..9 {
            let mut buffer = vec![0xAA; HEADROOM + len + TAILROOM];
            let payload: Vec<u8> = (0..len).map(|byte| u8::try_from(byte).unwrap()).collect();
            buffer[HEADROOM..HEADROOM + len].copy_from_slice(&payload);
            let header = Header::DataIndication { peer: peer(from), transaction };
            let frame = header.write(Transport::Udp, &mut buffer, HEADROOM..HEADROOM + len).unwrap();
            let mut frame = buffer[frame].to_vec();
            assert_eq!(frame[..2], DATA_INDICATION.to_be_bytes());
            // A Data indication differs from a Send indication in its type alone.
            frame[..2].copy_from_slice(&SEND_INDICATION.to_be_bytes());
            let read = SendIndication::parse(&frame).unwrap();
            assert_eq!((read.peer, read.data), (peer(from), &payload[..]));
            assert_eq!(transaction_id(&frame), Some(transaction));
        }
    }
}

#[test]
fn channel_header_is_padded_on_streams_and_not_on_udp() {
    for len in 0..9_usize {
        for transport in Transport::ALL {
            let mut buffer = vec![0xAA; HEADROOM + len + TAILROOM];
            let range = Header::Channel(number(0x4001))
                .write(transport, &mut buffer, HEADROOM..HEADROOM + len)
                .unwrap();
            let expected = if matches!(transport, Transport::Tcp | Transport::Tls) {
                4 + len.next_multiple_of(4)
            } else {
                4 + len
            };
            assert_eq!(range.len(), expected);
            let frame = &buffer[range];
            assert_eq!(ChannelData::parse(frame).unwrap().data.len(), len);
            assert!(frame[4 + len..].iter().all(|byte| *byte == 0), "padding tells nothing of the buffer");
        }
    }
}

#[test]
fn header_that_does_not_fit_is_not_written() {
    let header = Header::Channel(number(0x4001));
    let mut buffer = vec![0; HEADROOM + 8 + TAILROOM];
    let before = buffer.clone();
    assert_eq!(header.write(Transport::Udp, &mut buffer, HEADROOM - 1..HEADROOM + 8), None);
    assert_eq!(header.write(Transport::Udp, &mut buffer, HEADROOM..HEADROOM + 9), None);
    assert_eq!(buffer, before);
    let mut huge = vec![0; HEADROOM + MAX_PEER_PAYLOAD + 1 + TAILROOM];
    assert_eq!(header.write(Transport::Udp, &mut huge, HEADROOM..HEADROOM + MAX_PEER_PAYLOAD + 1), None);
    let indication =
        Header::DataIndication { peer: peer("[2001:db8::7]:1"), transaction: TransactionId([0; 12]) };
    assert!(indication.write(Transport::Udp, &mut huge, HEADROOM..HEADROOM + MAX_PEER_PAYLOAD).is_some());
}

#[test]
fn stream_is_split_into_the_same_frames_however_it_is_cut() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut frames = Vec::new();
    let mut stream = Vec::new();
    for _ in 0..200 {
        let data = vec![1; rng.random_range(0..40)];
        let frame = match rng.random_range(0..3) {
            0 => send_indication("192.0.2.1:5000", &data),
            1 => Draft::new(ALLOCATE, 3).with(0x8022, &data).bytes(),
            _ => channel_data(0x4001, &data),
        };
        stream.extend(&frame);
        stream.resize(stream.len().next_multiple_of(4), 0);
        frames.push(frame);
    }
    let (mut seen, mut unread, mut rest) = (Vec::new(), Vec::new(), &stream[..]);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(50)));
        unread.extend(now);
        rest = later;
        loop {
            match split(&unread) {
                Split::Frame { len, consumed } => {
                    seen.push(unread[..len].to_vec());
                    unread.drain(..consumed);
                }
                Split::Incomplete { needed } => {
                    assert!(needed > unread.len());
                    break;
                }
                Split::Invalid => panic!("a good stream was refused"),
            }
        }
    }
    assert!(unread.is_empty());
    assert_eq!(seen, frames);
}

#[test]
fn stream_garbage_is_refused() {
    assert_eq!(split(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]), Split::Invalid, "a TLS handshake");
    assert_eq!(split(&[0xFF]), Split::Invalid);
    assert_eq!(split(&[0x00, 0x01, 0x00, 0x03]), Split::Invalid, "a length that is no multiple of four");
    assert_eq!(split(&[0x00, 0x01, 0x00, 0x00, 0x21, 0x13]), Split::Invalid, "another cookie");
    assert_eq!(split(&[]), Split::Incomplete { needed: 4 });
    assert_eq!(split(&[0x40, 0x00, 0xFF, 0xFF]), Split::Incomplete { needed: 4 + 65_536 });
    assert_eq!(split(&[0x00, 0x01, 0xFF, 0xFC]), Split::Incomplete { needed: 20 + 65_532 });
}

#[test]
fn any_bytes_are_answered_without_a_panic() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let samples = [
        send_indication("[2001:db8::7]:1", b"payload"),
        channel_data(0x4001, b"payload"),
        Draft::new(ALLOCATE, 1).udp().lifetime(1).sign(&Account::alice(), b"nonce").fingerprint().bytes(),
        Draft::new(CREATE_PERMISSION, 1).peer("[2001:db8::7]:1").peer("8.8.8.8:1").bytes(),
    ];
    for _ in 0..100_000 {
        let mut bytes = samples[rng.random_range(0..samples.len())].clone();
        for _ in 0..rng.random_range(0..6) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        if rng.random_bool(0.3) {
            bytes.truncate(rng.random_range(0..=bytes.len()));
        }
        if rng.random_bool(0.1) {
            rng.fill_bytes(&mut bytes);
        }
        let _ = classify(&bytes);
        let _ = split(&bytes);
        let _ = crate::stun::parse(&bytes).map(|message| message.is_signed_with(&Account::alice().key()));
    }
}
