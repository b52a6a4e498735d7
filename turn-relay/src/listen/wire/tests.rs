use std::io::Read as _;
use std::net::{TcpListener, TcpStream as StdStream};

use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::listen::tls::Certificates;
use crate::operation::certificate::Identity;

#[test]
fn the_first_byte_tells_what_a_connection_is() {
    let (config, _) = configs();
    for (first, tls, expected) in [
        (0x00, Some(&config), Transport::Tcp),
        (0x40, Some(&config), Transport::Tcp),
        (0x80, Some(&config), Transport::Tcp),
        (0x16, None, Transport::Tcp),
        (0x16, Some(&config), Transport::Tls),
    ] {
        let (mut wire, mut client) = connection(tls.cloned());
        client.write_all(&[first]).expect("sends");
        let came = settled(&mut wire, &mut [0; 64]);
        assert_eq!(wire.transport(), expected, "{first:#x}");
        let nothing = expected == Transport::Tls;
        assert_eq!(came, if nothing { Came::Nothing } else { Came::Bytes(1) }, "{first:#x}");
    }
}

#[test]
fn bytes_that_come_one_by_one_are_understood_from_the_first_to_the_last() {
    let mut pair = Pair::new();
    // A whole handshake that way meets every position at which the network may cut it.
    while pair.tls.is_handshaking() || pair.wire.is_handshaking() {
        for byte in pair.outgoing() {
            pair.client.write_all(&[byte]).expect("sends");
            assert_eq!(settled(&mut pair.wire, &mut [0; 64]), Came::Nothing);
        }
        pair.take_answers();
    }
    assert!(!pair.wire.is_handshaking() && pair.wire.transport() == Transport::Tls);
    let mut heard: Vec<u8> = Vec::new();
    for byte in pair.encrypted(b"a frame") {
        pair.client.write_all(&[byte]).expect("sends");
        let mut room = [0; 64];
        if let Came::Bytes(len) = settled(&mut pair.wire, &mut room) {
            heard.extend(&room[..len]);
        }
    }
    assert_eq!(heard, b"a frame");
}

#[test]
fn two_records_cut_at_any_position_are_the_same_bytes() {
    let mut pair = Pair::connected();
    let (mut cut, mut length) = (0, usize::MAX);
    while cut <= length {
        let mut records = pair.encrypted(b"first");
        records.extend(pair.encrypted(b"second"));
        length = records.len();
        let (one, two) = records.split_at(cut);
        let mut heard = Vec::new();
        for part in [one, two] {
            pair.client.write_all(part).expect("sends");
            pair.hear(&mut heard);
        }
        assert_eq!(heard, b"firstsecond", "cut at {cut}");
        cut += 1;
    }
}

#[test]
fn what_is_sent_arrives_whole_and_once_and_leaves_no_buffer_behind() {
    let mut pair = Pair::connected();
    let frame: Vec<u8> = (0..65_555_u32).map(|at| at.to_le_bytes()[0]).collect();
    let mut sent: Vec<u8> = Vec::new();
    // Until the kernel's buffers are full and some of it has to wait.
    while pair.wire.unsent() == 0 {
        pair.wire.send(&frame).expect("stands");
        sent.extend(&frame);
    }
    let mut heard = vec![0; sent.len()];
    let mut at = 0;
    while at < heard.len() {
        pair.wire.flush().expect("the client reads");
        pair.take_answers();
        while let Ok(len) = pair.tls.reader().read(&mut heard[at..]) {
            at += len;
            if len == 0 {
                break;
            }
        }
    }
    assert_eq!(heard, sent);
    assert_eq!((pair.wire.unsent(), pair.wire.unsent.capacity()), (0, 0));
}

#[test]
fn what_is_corked_goes_out_in_order_with_the_next_flush_or_when_it_is_much() {
    let pair = Pair::connected();
    let (plain, far) = connection(None);
    far.set_nonblocking(true).expect("sets");
    goes_out_together(plain, || there(&mut &far));
    let (wire, mut client, mut tls) = (pair.wire, pair.client, pair.tls);
    goes_out_together(wire, || {
        while let Ok(1..) = tls.read_tls(&mut client) {
            tls.process_new_packets().expect("the server speaks TLS");
        }
        there(&mut tls.reader())
    });
}

fn goes_out_together(mut wire: Wire, mut heard: impl FnMut() -> Vec<u8>) {
    wire.cork(b"one ").expect("stands");
    wire.cork(b"two ").expect("stands");
    assert_eq!(heard(), b"", "it waits");
    // On loopback what was written is there when the call returns.
    wire.flush().expect("stands");
    assert_eq!(heard(), b"one two ");
    wire.flush().expect("stands");
    assert_eq!(heard(), b"");
    wire.cork(&[7; CORKED_BYTES - 1]).expect("stands");
    assert_eq!(heard(), b"");
    wire.cork(&[7]).expect("stands");
    assert!(!heard().is_empty(), "it is much");
    assert_eq!((wire.unsent(), wire.unsent.capacity()), (0, 0));
}

/// What can be read at once.
fn there(from: &mut impl Read) -> Vec<u8> {
    let mut room = vec![0; 64 * 1024];
    let len = from.read(&mut room).unwrap_or(0);
    room.truncate(len);
    room
}

#[test]
fn a_handshake_that_goes_on_and_on_is_given_up() {
    let (config, _) = configs();
    let (mut wire, mut client) = connection(Some(config));
    // The beginning of a ClientHello of 64 KiB, in records of a kilobyte.
    let mut hello = vec![1, 0, 0xff, 0xf0];
    hello.resize(1024, 0);
    for sent in 1..64 {
        let record = [&[22, 3, 1, 4, 0][..], &hello].concat();
        hello.fill(0);
        client.write_all(&record).expect("sends");
        match settled(&mut wire, &mut [0; 4096]) {
            Came::Nothing => {}
            came @ (Came::Bytes(_) | Came::Overhead | Came::End | Came::Unintroduced) => {
                assert_eq!(came, Came::End);
                assert!((MAX_HANDSHAKE_BYTES / 1029..20).contains(&sent), "after {sent} KiB");
                return;
            }
        }
    }
    panic!("it was never given up");
}

#[test]
fn an_end_in_good_form_is_an_end_for_both() {
    let mut pair = Pair::connected();
    assert!(pair.wire.close());
    let mut rest = Vec::new();
    pair.client.set_nonblocking(false).expect("sets");
    pair.client.read_to_end(&mut rest).expect("closed");
    let mut rest = rest.as_slice();
    while !rest.is_empty() {
        pair.tls.read_tls(&mut rest).expect("reads");
        pair.tls.process_new_packets().expect("in good form");
    }
    assert_eq!(pair.tls.reader().read(&mut [0; 8]).expect("close_notify came"), 0);

    let mut pair = Pair::connected();
    pair.tls.send_close_notify();
    let bytes = pair.outgoing();
    pair.client.write_all(&bytes).expect("sends");
    assert_eq!(settled(&mut pair.wire, &mut [0; 64]), Came::End);
}

#[test]
fn a_connection_goes_on_at_another_thread() {
    let mut pair = Pair::connected();
    let bytes = pair.encrypted(b"before after");
    let (before, after) = bytes.split_at(9);
    pair.client.write_all(before).expect("sends");
    // A part of a record is inside when it moves.
    assert_eq!(settled(&mut pair.wire, &mut [0; 64]), Came::Nothing);
    pair.client.write_all(after).expect("sends");
    let mut wire = pair.wire;
    let heard = std::thread::spawn(move || {
        let mut room = [0; 64];
        let Came::Bytes(len) = settled(&mut wire, &mut room) else { panic!("a record is there") };
        room[..len].to_vec()
    });
    assert_eq!(heard.join().expect("no panic"), b"before after");
}

/// Reads until something came or nothing more does. Loopback delivers at once what was written.
fn settled(wire: &mut Wire, room: &mut [u8]) -> Came {
    loop {
        match wire.read(room) {
            Came::Overhead => {}
            came @ (Came::Bytes(_) | Came::Nothing | Came::End | Came::Unintroduced) => return came,
        }
    }
}

fn connection(tls: Option<Arc<ServerConfig>>) -> (Wire, StdStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = StdStream::connect(listener.local_addr().expect("bound")).expect("connects");
    client.set_nodelay(true).expect("sets");
    let (stream, _) = listener.accept().expect("accepts");
    stream.set_nonblocking(true).expect("sets");
    stream.set_nodelay(true).expect("sets");
    (Wire::new(TcpStream::from_std(stream), tls), client)
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let identity = Identity::new(vec![made.cert.der().clone()], key.into()).expect("a pair");
    let server = Certificates::new(&[Arc::new(identity)]).expect("randomness").current().expect("on");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
    (server, Arc::new(client))
}

/// A server's wire and a client that speaks TLS with it, byte by byte in the hand of the test.
struct Pair {
    wire: Wire,
    client: StdStream,
    tls: ClientConnection,
}

impl Pair {
    fn new() -> Self {
        let (server, client_config) = configs();
        let (wire, client) = connection(Some(server));
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(client_config, name).expect("a client");
        client.set_nonblocking(true).expect("sets");
        Self { wire, client, tls }
    }

    fn connected() -> Self {
        let mut pair = Self::new();
        while pair.tls.is_handshaking() || pair.wire.is_handshaking() {
            let bytes = pair.outgoing();
            pair.client.write_all(&bytes).expect("sends");
            settled(&mut pair.wire, &mut [0; 64]);
            pair.take_answers();
        }
        pair
    }

    /// What the client has to say now.
    fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("to memory");
        }
        bytes
    }

    fn encrypted(&mut self, plain: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(plain).expect("to memory");
        self.outgoing()
    }

    /// The client reads what is there.
    fn take_answers(&mut self) {
        while let Ok(1..) = self.tls.read_tls(&mut self.client) {
            self.tls.process_new_packets().expect("the server speaks TLS");
            if !self.tls.is_handshaking() && self.wire.unsent() > 0 {
                return;
            }
        }
    }

    fn hear(&mut self, heard: &mut Vec<u8>) {
        let mut room = [0; 64];
        while let Came::Bytes(len) = settled(&mut self.wire, &mut room) {
            heard.extend(&room[..len]);
        }
    }
}
