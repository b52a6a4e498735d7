//! Messages written by hand, so that the codec is not tested with itself.

use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::{COOKIE, REALM, addr, secret};
use crate::credentials::{Integrity, Key, Tag, mint};
use crate::frame::Attributes;

/// A STUN message in the making.
#[derive(Clone)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
}

impl Draft {
    pub(crate) fn new(kind: u16, transaction: u8) -> Self {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(COOKIE);
        bytes.extend([transaction; 12]);
        Self { bytes }
    }

    /// The same message under another transaction id: IPv6 addresses are masked with it, so they are masked anew.
    pub(crate) fn retarget(mut self, transaction: [u8; 12]) -> Self {
        let old: [u8; 12] = self.bytes[8..20].try_into().unwrap();
        let addresses: Vec<usize> = Attributes::new(&self.bytes)
            .filter(|attribute| attribute.kind == 0x0012 && attribute.value.len() == 20)
            .map(|attribute| attribute.start + 8)
            .collect();
        for start in addresses {
            for (byte, (old, new)) in
                self.bytes[start..start + 12].iter_mut().zip(old.iter().zip(&transaction))
            {
                *byte ^= old ^ new;
            }
        }
        self.bytes[8..20].copy_from_slice(&transaction);
        self
    }

    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(self.bytes.len() - 20);
        self
    }

    /// Bytes where attributes would be, well-formed or not.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.set_length(self.bytes.len() - 20);
        self
    }

    pub(crate) fn lifetime(self, seconds: u32) -> Self {
        self.with(0x000D, &seconds.to_be_bytes())
    }

    pub(crate) fn udp(self) -> Self {
        self.with(0x0019, &[17, 0, 0, 0])
    }

    pub(crate) fn peer(self, address: &str) -> Self {
        let value = xor(addr(address), &self.bytes);
        self.with(0x0012, &value)
    }

    pub(crate) fn channel(self, number: u16) -> Self {
        let [a, b] = number.to_be_bytes();
        self.with(0x000C, &[a, b, 0, 0])
    }

    /// USERNAME, REALM, NONCE and MESSAGE-INTEGRITY.
    pub(crate) fn sign(self, who: &Account, nonce: &[u8]) -> Self {
        let draft = self.with(0x0006, who.name.as_bytes()).with(0x0014, REALM.as_bytes()).with(0x0015, nonce);
        draft.integrity(&who.key())
    }

    /// MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256, whichever the key makes.
    pub(crate) fn integrity(mut self, key: &Key) -> Self {
        let (kind, len) = match key.integrity() {
            Integrity::Sha1 => (0x0008, 20),
            Integrity::Sha256 => (0x001C, 32),
        };
        self.set_length(self.bytes.len() - 20 + 4 + len);
        let tag = key.sign(&[&self.bytes]);
        self.with(kind, &tag)
    }

    pub(crate) fn fingerprint(mut self) -> Self {
        self.set_length(self.bytes.len() - 20 + 8);
        let crc = crc32(&self.bytes) ^ 0x5354_554e;
        self.with(0x8028, &crc.to_be_bytes())
    }

    pub(crate) fn set_length(&mut self, length: usize) {
        self.bytes[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.bytes
    }
}

fn xor(address: SocketAddr, message: &[u8]) -> Vec<u8> {
    let mut value = match address.ip() {
        IpAddr::V4(ip) => [&[0, 1, 0, 0][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[0, 2, 0, 0][..], &ip.octets()].concat(),
    };
    value[2..4].copy_from_slice(&(address.port() ^ 0x2112).to_be_bytes());
    for (byte, mask) in value[4..].iter_mut().zip(&message[4..20]) {
        *byte ^= mask;
    }
    value
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

/// Somebody with a name and a password.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl Account {
    pub(crate) fn new(name: &str, password: &str) -> Self {
        Self { name: name.into(), password: password.into() }
    }

    pub(crate) fn alice() -> Self {
        Self::new("alice", "wonderland")
    }

    pub(crate) fn bob() -> Self {
        Self::new("bob", "builder")
    }

    /// A time-limited one.
    pub(crate) fn minted(id: &str, expires: SystemTime) -> Self {
        let credential = mint(&secret(), id, expires);
        Self { name: credential.username, password: credential.password }
    }

    pub(crate) fn key(&self) -> Key {
        Key::long_term(&self.name, REALM, &self.password)
    }
}

/// A response taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) kind: u16,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        Attributes::new(&self.bytes)
            .find(|attribute| attribute.kind == kind)
            .map(|attribute| attribute.value.to_vec())
    }

    pub(crate) fn is_success(&self) -> bool {
        self.kind & 0x0110 == 0x0100
    }

    /// The error code; 0 for a success.
    pub(crate) fn code(&self) -> u16 {
        self.attribute(0x0009).map_or(0, |value| u16::from(value[2]) * 100 + u16::from(value[3]))
    }

    pub(crate) fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.attribute(0x000D).expect("LIFETIME").try_into().unwrap())
    }

    pub(crate) fn nonce(&self) -> Vec<u8> {
        self.attribute(0x0015).expect("NONCE")
    }

    pub(crate) fn token(&self) -> [u8; 8] {
        self.attribute(0x0022).expect("RESERVATION-TOKEN").try_into().unwrap()
    }

    pub(crate) fn relayed(&self) -> SocketAddr {
        self.xored(0x0016)
    }

    /// Every XOR-RELAYED-ADDRESS, in order.
    pub(crate) fn all_relayed(&self) -> Vec<SocketAddr> {
        let addresses = Attributes::new(&self.bytes).filter(|attribute| attribute.kind == 0x0016);
        addresses.map(|attribute| self.unmasked(attribute.value)).collect()
    }

    pub(crate) fn mapped(&self) -> SocketAddr {
        self.xored(0x0020)
    }

    pub(crate) fn xored(&self, kind: u16) -> SocketAddr {
        self.unmasked(&self.attribute(kind).expect("the address"))
    }

    fn unmasked(&self, value: &[u8]) -> SocketAddr {
        let plain: Vec<u8> =
            value[4..].iter().zip(&self.bytes[4..20]).map(|(byte, mask)| byte ^ mask).collect();
        let ip: IpAddr = match value[1] {
            1 => <[u8; 4]>::try_from(plain).unwrap().into(),
            _ => <[u8; 16]>::try_from(plain).unwrap().into(),
        };
        SocketAddr::new(ip, u16::from_be_bytes([value[2], value[3]]) ^ 0x2112)
    }

    /// Whether MESSAGE-INTEGRITY is there and made with the account's key.
    pub(crate) fn is_signed_by(&self, who: &Account) -> bool {
        self.verifies(&who.key())
    }

    /// Whether the integrity attribute that the key makes is there, and made with it.
    pub(crate) fn verifies(&self, key: &Key) -> bool {
        let kind = if key.integrity() == Integrity::Sha1 { 0x0008 } else { 0x001C };
        let Some(attribute) = Attributes::new(&self.bytes).find(|attribute| attribute.kind == kind) else {
            return false;
        };
        let mut signed = self.bytes[..attribute.start - 4].to_vec();
        let length = u16::try_from(signed.len() - 20 + 4 + attribute.value.len()).unwrap();
        signed[2..4].copy_from_slice(&length.to_be_bytes());
        key.verify(&[&signed], &Tag::received(attribute.value))
    }
}

/// A ChannelData frame.
pub(crate) fn channel_data(number: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    frame.extend(data);
    frame
}

/// A Send indication.
pub(crate) fn send_indication(to: &str, data: &[u8]) -> Vec<u8> {
    Draft::new(0x0016, 9).peer(to).with(0x0013, data).bytes()
}
