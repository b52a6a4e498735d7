//! A TURN client for tests: blocking sockets, its own encoding of messages, long-term credentials (RFC 8489 section 9.2).
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub(crate) mod bench;
pub(crate) mod dtls;
pub(crate) mod tcp;
pub(crate) mod tls;
pub(crate) mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use turn_relay::address::Transport;
use turn_relay::credentials::Key;
use wire::Wire;

pub(crate) const BINDING: u16 = 0x0001;
pub(crate) const ALLOCATE: u16 = 0x0003;
pub(crate) const REFRESH: u16 = 0x0004;
pub(crate) const CREATE_PERMISSION: u16 = 0x0008;
pub(crate) const CHANNEL_BIND: u16 = 0x0009;
pub(crate) const SEND: u16 = 0x0016;
pub(crate) const DATA_INDICATION: u16 = 0x0017;

const MAPPED: u16 = 0x0020;
const RELAYED: u16 = 0x0016;
const PEER: u16 = 0x0012;
const DATA: u16 = 0x0013;
const TOKEN: u16 = 0x0022;
const COOKIE: u32 = 0x2112_A442;

/// Generous: a liveness bound, not a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    wire: Wire,
    key: Option<Key>,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    user: String,
    password: String,
    transactions: u64,
    /// Over UDP, requests are sent again as RFC 8489 section 6.2.1 says.
    pub(crate) retransmits: bool,
}

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    transaction: [u8; 12],
    attributes: Vec<(u16, Vec<u8>)>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    Channel(u16, Vec<u8>),
    Data(SocketAddr, Vec<u8>),
}

impl Client {
    pub(crate) fn connect(transport: Transport, server: SocketAddr, user: &str, password: &str) -> Self {
        Self::over(Wire::connect(transport, server), user, password)
    }

    /// A client on a connection that stands.
    pub(crate) fn over(wire: Wire, user: &str, password: &str) -> Self {
        Self {
            wire,
            key: None,
            realm: vec![],
            nonce: vec![],
            user: user.into(),
            password: password.into(),
            // A later client may have this one's port, and must not be taken for its repetition.
            transactions: rand::random(),
            retransmits: false,
        }
    }

    pub(crate) fn into_wire(self) -> Wire {
        self.wire
    }

    pub(crate) fn is_datagram(&self) -> bool {
        matches!(self.wire, Wire::Udp(_))
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.wire.local_addr()
    }

    /// Sends a request and gives the response, after the exchange that long-term credentials need.
    pub(crate) fn request(&mut self, method: u16, attributes: &[(u16, Vec<u8>)]) -> Message {
        loop {
            let response = self.exchange(method, attributes);
            let code = response.error();
            let fresh = response.attribute(0x0015).is_some_and(|nonce| nonce != self.nonce);
            let retry = (code == Some(401) && self.key.is_none()) || (code == Some(438) && fresh);
            if !retry {
                return response;
            }
            self.realm = response.attribute(0x0014).unwrap().to_vec();
            self.nonce = response.attribute(0x0015).unwrap().to_vec();
            let realm = String::from_utf8(self.realm.clone()).unwrap();
            self.key = Some(Key::long_term(&self.user, &realm, &self.password));
        }
    }

    fn exchange(&mut self, method: u16, attributes: &[(u16, Vec<u8>)]) -> Message {
        let (transaction, message) = self.encode(method, attributes);
        if self.retransmits {
            return self.exchange_with_loss(&message, transaction);
        }
        self.send_raw(&message);
        loop {
            if let Some(response) = Message::decode(&self.receive_raw())
                && response.transaction == transaction
            {
                return response;
            }
        }
    }

    fn exchange_with_loss(&mut self, message: &[u8], transaction: [u8; 12]) -> Message {
        for attempt in 0..7 {
            self.send_raw(message);
            let until = Instant::now() + Duration::from_millis(500 << attempt);
            loop {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                self.wait_at_most(left);
                let Wire::Udp(socket) = &self.wire else { panic!("streams lose nothing") };
                let mut buffer = [0; 2048];
                let Ok(length) = socket.recv(&mut buffer) else {
                    // Nobody is there yet, or nothing came in time.
                    std::thread::sleep(until.saturating_duration_since(Instant::now()));
                    break;
                };
                if let Some(response) = Message::decode(&buffer[..length])
                    && response.transaction == transaction
                {
                    self.wait_at_most(PATIENCE);
                    return response;
                }
            }
        }
        panic!("no answer to seven requests")
    }

    /// A request, signed if there was a challenge before.
    fn encode(&mut self, method: u16, attributes: &[(u16, Vec<u8>)]) -> ([u8; 12], Vec<u8>) {
        let transaction = self.next_transaction();
        let mut all = attributes.to_vec();
        if self.key.is_some() {
            all.push((0x0006, self.user.clone().into_bytes()));
            all.push((0x0014, self.realm.clone()));
            all.push((0x0015, self.nonce.clone()));
        }
        (transaction, encode(method, transaction, &all, self.key.as_ref()))
    }

    /// The next message, whatever it is.
    pub(crate) fn receive_message(&mut self) -> Message {
        Message::decode(&self.receive_raw()).expect("a STUN message")
    }

    fn next_transaction(&mut self) -> [u8; 12] {
        self.transactions = self.transactions.wrapping_add(1);
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.transactions.to_be_bytes());
        id[8..10].copy_from_slice(&self.local_addr().port().to_be_bytes());
        id
    }

    /// Allocates and tells the relayed transport address.
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        self.allocate_with(&[]).relayed().expect("an allocation")
    }

    pub(crate) fn allocate_with(&mut self, attributes: &[(u16, Vec<u8>)]) -> Message {
        let mut all = vec![(0x0019, vec![17, 0, 0, 0])];
        all.extend_from_slice(attributes);
        self.request(ALLOCATE, &all)
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Message {
        let address = self.xor(peer);
        self.request(CREATE_PERMISSION, &[(PEER, address)])
    }

    pub(crate) fn bind_channel(&mut self, number: u16, peer: SocketAddr) -> Message {
        let address = self.xor(peer);
        let [high, low] = number.to_be_bytes();
        self.request(CHANNEL_BIND, &[(0x000C, vec![high, low, 0, 0]), (PEER, address)])
    }

    pub(crate) fn release(&mut self) -> Message {
        self.request(REFRESH, &[(0x000D, vec![0; 4])])
    }

    /// The same as bytes, for one that has been challenged.
    pub(crate) fn signed_release(&mut self) -> Vec<u8> {
        self.encode(REFRESH, &[(0x000D, vec![0; 4])]).1
    }

    pub(crate) fn refresh(&mut self, seconds: u32) -> Message {
        self.request(REFRESH, &[(0x000D, seconds.to_be_bytes().to_vec())])
    }

    pub(crate) fn send_channel(&mut self, number: u16, data: &[u8]) {
        let mut frame = number.to_be_bytes().to_vec();
        frame.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        frame.extend(data);
        if self.wire.is_stream() {
            frame.resize(frame.len().next_multiple_of(4), 0);
        }
        self.send_raw(&frame);
    }

    pub(crate) fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        self.send_indication_with(peer, data, &[]);
    }

    /// A Send indication with more attributes.
    pub(crate) fn send_indication_with(&mut self, peer: SocketAddr, data: &[u8], more: &[(u16, Vec<u8>)]) {
        let transaction = self.next_transaction();
        let mut attributes = vec![(PEER, xor_address(peer, transaction)), (DATA, data.to_vec())];
        attributes.extend_from_slice(more);
        self.send_raw(&encode(SEND, transaction, &attributes, None));
    }

    /// The next data from a peer.
    pub(crate) fn receive(&mut self) -> Received {
        loop {
            let frame = self.receive_raw();
            if frame[0] >= 0x40 {
                let length = usize::from(u16::from_be_bytes([frame[2], frame[3]]));
                return Received::Channel(
                    u16::from_be_bytes([frame[0], frame[1]]),
                    frame[4..4 + length].to_vec(),
                );
            }
            let message = Message::decode(&frame).expect("a STUN message");
            if message.kind == DATA_INDICATION {
                let peer = message.address(PEER).expect("a peer");
                return Received::Data(peer, message.attribute(DATA).expect("data").to_vec());
            }
        }
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
    }

    /// One datagram, or one frame of the stream.
    pub(crate) fn receive_raw(&mut self) -> Vec<u8> {
        self.wire.receive()
    }

    /// Changes how long anything is waited for.
    pub(crate) fn wait_at_most(&mut self, patience: Duration) {
        self.wire.wait_at_most(patience);
    }

    /// Waits until the server closes the connection.
    pub(crate) fn closed(&mut self) -> bool {
        self.wire.closed()
    }

    /// The address as the next request will carry it.
    fn xor(&self, address: SocketAddr) -> Vec<u8> {
        // Only IPv6 depends on the transaction, whose counter the next request raises by one.
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.transactions.wrapping_add(1).to_be_bytes());
        id[8..10].copy_from_slice(&self.local_addr().port().to_be_bytes());
        xor_address(address, id)
    }
}

impl Message {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
        let transaction = bytes.get(8..20)?.try_into().ok()?;
        let mut attributes = vec![];
        let mut rest = bytes.get(20..)?;
        while rest.len() >= 4 {
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            attributes.push((u16::from_be_bytes([rest[0], rest[1]]), rest.get(4..4 + length)?.to_vec()));
            rest = rest.get(4 + length.next_multiple_of(4)..)?;
        }
        Some(Self { kind, transaction, attributes })
    }

    pub(crate) fn attribute(&self, kind: u16) -> Option<&[u8]> {
        self.attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn error(&self) -> Option<u16> {
        self.attribute(0x0009).map(|value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    pub(crate) fn is_success(&self) -> bool {
        self.kind & 0x0110 == 0x0100
    }

    pub(crate) fn mapped(&self) -> Option<SocketAddr> {
        self.address(MAPPED)
    }

    pub(crate) fn relayed(&self) -> Option<SocketAddr> {
        self.address(RELAYED)
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.address(PEER)
    }

    /// Every XOR-RELAYED-ADDRESS, in order.
    pub(crate) fn all_relayed(&self) -> Vec<SocketAddr> {
        let values = self.attributes.iter().filter(|(kind, _)| *kind == RELAYED);
        values.map(|(_, value)| self.unmasked(value)).collect()
    }

    pub(crate) fn token(&self) -> Option<Vec<u8>> {
        self.attribute(TOKEN).map(<[u8]>::to_vec)
    }

    fn address(&self, kind: u16) -> Option<SocketAddr> {
        self.attribute(kind).map(|value| self.unmasked(value))
    }

    fn unmasked(&self, value: &[u8]) -> SocketAddr {
        let mask = mask(self.transaction);
        let port = u16::from_be_bytes([value[2], value[3]]) ^ 0x2112;
        let octets: Vec<u8> = value[4..].iter().zip(mask).map(|(a, b)| a ^ b).collect();
        let ip = match octets.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(octets).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(octets).unwrap()),
        };
        SocketAddr::new(ip, port)
    }
}

/// RESERVATION-TOKEN as an attribute to send.
pub(crate) fn reservation(token: &[u8]) -> (u16, Vec<u8>) {
    (TOKEN, token.to_vec())
}

/// EVEN-PORT with the R bit: reserve the next port too.
pub(crate) fn even_port_and_next() -> (u16, Vec<u8>) {
    (0x0018, vec![0x80])
}

/// REQUESTED-ADDRESS-FAMILY.
pub(crate) fn family(ipv4: bool) -> (u16, Vec<u8>) {
    (0x0017, vec![if ipv4 { 1 } else { 2 }, 0, 0, 0])
}

/// ADDITIONAL-ADDRESS-FAMILY: an address of each.
pub(crate) fn both_families() -> (u16, Vec<u8>) {
    (0x8000, vec![2, 0, 0, 0])
}

fn encode(kind: u16, transaction: [u8; 12], attributes: &[(u16, Vec<u8>)], key: Option<&Key>) -> Vec<u8> {
    let mut body = vec![];
    for (attribute, value) in attributes {
        body.extend(attribute.to_be_bytes());
        body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = body.len() + if key.is_some() { 24 } else { 0 };
    let mut message = kind.to_be_bytes().to_vec();
    message.extend(u16::try_from(length).unwrap().to_be_bytes());
    message.extend(COOKIE.to_be_bytes());
    message.extend(transaction);
    message.extend(body);
    if let Some(key) = key {
        let tag = key.sign(&[&message]);
        message.extend([0x00, 0x08, 0x00, 0x14]);
        message.extend_from_slice(&tag);
    }
    message
}

pub(crate) fn xor_address(address: SocketAddr, transaction: [u8; 12]) -> Vec<u8> {
    let mut value = vec![0, if address.is_ipv4() { 1 } else { 2 }];
    value.extend((address.port() ^ 0x2112).to_be_bytes());
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    value.extend(octets.iter().zip(mask(transaction)).map(|(a, b)| a ^ b));
    value
}

fn mask(transaction: [u8; 12]) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction);
    mask
}
