//! Zero-copy views of what crosses the data path: ChannelData, Send indications, Data indications, frames of a stream.
//!
//! Refuses to do: allocate, verify integrity, know allocations. Whole STUN requests are [`crate::stun`]'s.
//!
//! Every function takes any bytes whatever and answers without a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crate::address::{PeerAddr, Transport};

/// Room that must be free in front of a peer's datagram for [`Header::write`]: 20 STUN header, 24 XOR-PEER-ADDRESS (IPv6), 12 ICMP
/// (4 DATA where there is data instead).
pub const HEADROOM: usize = 56;
/// Room that must be free behind it: padding to four bytes.
pub const TAILROOM: usize = 3;
/// The largest frame of a stream: a STUN header and the longest length field.
pub const MAX_FRAME_BYTES: usize = STUN_HEADER + 65_535;
/// The largest peer datagram that any header can still describe (a Data indication's length field counts 32 bytes more and padding).
pub const MAX_PEER_PAYLOAD: usize = 65_500;

const STUN_HEADER: usize = 20;
const CHANNEL_HEADER: usize = 4;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const SEND_INDICATION: u16 = 0x0016;
const DATA_INDICATION: u16 = 0x0017;
const CONNECTION_BIND: u16 = 0x000B;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const DATA: u16 = 0x0013;
const DONT_FRAGMENT: u16 = 0x001A;
const ICMP: u16 = 0x8004;
/// Comprehension-required attributes that a Send indication may carry without effect: USERNAME, MESSAGE-INTEGRITY, REALM, NONCE, MESSAGE-INTEGRITY-SHA256.
const WITHOUT_EFFECT: [u16; 5] = [0x0006, 0x0008, 0x0014, 0x0015, 0x001C];
/// A Send indication has three attributes of its own; the rest is somebody wasting our time.
const MAX_INDICATION_ATTRIBUTES: usize = 16;

/// A channel number: 0x4000 to 0x7FFF.
///
/// RFC 8656 section 12 ends the range at 0x4FFF, RFC 5766 at 0x7FFF; clients in the field use the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// `None` outside 0x4000 to 0x7FFF.
    pub fn new(number: u16) -> Option<Self> {
        (0x4000..=0x7FFF).contains(&number).then_some(Self(number))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// The 96 bits that tie a response to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 12]);

/// What one frame from a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Data on a channel.
    ChannelData(ChannelData<'a>),
    /// Data for a peer named in the frame itself.
    Send(SendIndication<'a>),
    /// A STUN request: the control path's.
    Request,
    /// A STUN response, or an indication other than Send.
    OtherStun,
    /// None of these, or lengths that contradict each other.
    Malformed,
}

/// Tells what a frame is by its first bytes (RFC 8656 section 12: `0b00` STUN, `0b01` ChannelData), and checks its lengths.
pub fn classify(frame: &[u8]) -> Kind<'_> {
    match frame.first() {
        Some(0x00..=0x3F) => classify_stun(frame),
        Some(0x40..=0x7F) => ChannelData::parse(frame).map_or(Kind::Malformed, Kind::ChannelData),
        Some(0x80..=0xFF) | None => Kind::Malformed,
    }
}

fn classify_stun(frame: &[u8]) -> Kind<'_> {
    if stun_length(frame) != Some(frame.len()) {
        return Kind::Malformed;
    }
    let Some(kind) = read_u16(frame, 0) else { return Kind::Malformed };
    match (kind, kind & 0x0110) {
        (SEND_INDICATION, _) => SendIndication::parse(frame).map_or(Kind::Malformed, Kind::Send),
        (_, 0x0000) => Kind::Request,
        _ => Kind::OtherStun,
    }
}

/// The whole length that a STUN header announces, if it is one: magic cookie in place, length a multiple of four.
fn stun_length(frame: &[u8]) -> Option<usize> {
    let length = read_u16(frame, 2)?;
    (length % 4 == 0 && read_u32(frame, 4)? == MAGIC_COOKIE).then_some(STUN_HEADER + usize::from(length))
}

/// A ChannelData message (RFC 8656 section 12.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// Which channel.
    pub channel: ChannelNumber,
    /// What goes to the peer. Begins at byte 4 of the frame.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Where `data` begins in the frame.
    pub fn start(&self) -> usize {
        CHANNEL_HEADER
    }

    /// Accepts padding behind the data (up to three bytes: optional on UDP, required on streams) and nothing else.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let channel = ChannelNumber::new(read_u16(frame, 0)?)?;
        let len = usize::from(read_u16(frame, 2)?);
        let data = frame.get(CHANNEL_HEADER..CHANNEL_HEADER + len)?;
        (frame.len() <= CHANNEL_HEADER + padded(len)).then_some(Self { channel, data })
    }
}

/// A Send indication (RFC 8656 section 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendIndication<'a> {
    /// XOR-PEER-ADDRESS.
    pub peer: PeerAddr,
    /// DATA; may be empty.
    pub data: &'a [u8],
    /// Where `data` begins in the frame.
    pub start: usize,
    /// DONT-FRAGMENT was there.
    pub dont_fragment: bool,
}

impl<'a> SendIndication<'a> {
    /// Needs XOR-PEER-ADDRESS and DATA; refuses unknown comprehension-required attributes. Of repeated attributes the first counts.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        if stun_length(frame)? != frame.len() || read_u16(frame, 0)? != SEND_INDICATION {
            return None;
        }
        let transaction = transaction_id(frame)?;
        let (mut peer, mut data, mut dont_fragment) = (None, None, false);
        let mut attributes = Attributes::new(frame);
        for (count, attribute) in attributes.by_ref().enumerate() {
            if count == MAX_INDICATION_ATTRIBUTES {
                return None;
            }
            match attribute.kind {
                XOR_PEER_ADDRESS if peer.is_none() => {
                    peer = Some(read_xor_address(attribute.value, transaction)?)
                }
                DATA if data.is_none() => data = Some((attribute.start, attribute.value)),
                DONT_FRAGMENT => dont_fragment = true,
                XOR_PEER_ADDRESS | DATA | 0x8000.. => {}
                kind if WITHOUT_EFFECT.contains(&kind) => {}
                _ => return None,
            }
        }
        let (start, data) = data?;
        attributes.complete().then_some(Self { peer: PeerAddr(peer?), data, start, dont_fragment })
    }
}

/// One attribute where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawAttribute<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// Where its value begins in the message.
    pub(crate) start: usize,
    /// Its value, without padding.
    pub(crate) value: &'a [u8],
}

/// Walks the attributes of a STUN message whose header was checked; ends early where they do not fit, see [`Attributes::complete`].
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    message: &'a [u8],
    offset: usize,
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { message, offset: STUN_HEADER }
    }

    /// Whether the walk reached the exact end of the message.
    pub(crate) fn complete(&self) -> bool {
        self.offset == self.message.len()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = RawAttribute<'a>;

    fn next(&mut self) -> Option<RawAttribute<'a>> {
        let kind = read_u16(self.message, self.offset)?;
        let len = usize::from(read_u16(self.message, self.offset + 2)?);
        let start = self.offset + 4;
        let value = self.message.get(start..start + len)?;
        self.message.get(start..start + padded(len))?;
        self.offset = start + padded(len);
        Some(RawAttribute { kind, start, value })
    }
}

/// How a peer's datagram is wrapped for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// ChannelData (RFC 8656 section 12.4).
    Channel(ChannelNumber),
    /// A Data indication (RFC 8656 section 11.4).
    DataIndication {
        /// Which peer it came from, as the client knows it.
        peer: PeerAddr,
        /// The indication's transaction id.
        transaction: TransactionId,
    },
    /// A Data indication that tells of an error instead of carrying data (RFC 8656 section 11.5).
    Icmp {
        /// Where the datagram went that met the error, as the client knows it.
        peer: PeerAddr,
        /// The indication's transaction id.
        transaction: TransactionId,
        /// What happened to it.
        icmp: Icmp,
    },
}

/// What an ICMP message of the peer's address family said (RFC 8656 section 18.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP type; 7 bits go on the wire.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    /// The next hop's MTU where the message tells one, else 0.
    pub mtu: u32,
}

impl Header {
    /// Writes the header directly in front of `buffer[payload]` and padding directly behind it; returns where the frame now lies.
    ///
    /// `None`, and nothing written, without [`HEADROOM`] in front and [`TAILROOM`] behind, or above [`MAX_PEER_PAYLOAD`].
    pub fn write(
        self,
        transport: Transport,
        buffer: &mut [u8],
        payload: Range<usize>,
    ) -> Option<Range<usize>> {
        if payload.start < HEADROOM || payload.start > payload.end || buffer.len() < payload.end + TAILROOM {
            return None;
        }
        let len = payload.len();
        if len > MAX_PEER_PAYLOAD {
            return None;
        }
        let padding = padded(len) - len;
        buffer[payload.end..payload.end + padding].fill(0);
        match self {
            Self::Channel(channel) => {
                let start = payload.start - CHANNEL_HEADER;
                let header = &mut buffer[start..payload.start];
                header[..2].copy_from_slice(&channel.0.to_be_bytes());
                header[2..].copy_from_slice(&length_field(len));
                let end = if transport.is_stream() { payload.end + padding } else { payload.end };
                Some(start..end)
            }
            Self::DataIndication { peer, transaction } => {
                let mut address = [0; 20];
                let address = write_xor_address(&mut address, peer.0, transaction);
                let start = payload.start - (STUN_HEADER + 4 + address.len() + 4);
                let attributes = 4 + address.len() + 4 + padded(len);
                let header = &mut buffer[start..payload.start];
                header[..2].copy_from_slice(&DATA_INDICATION.to_be_bytes());
                header[2..4].copy_from_slice(&length_field(attributes));
                header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
                header[8..20].copy_from_slice(&transaction.0);
                header[20..22].copy_from_slice(&XOR_PEER_ADDRESS.to_be_bytes());
                header[22..24].copy_from_slice(&length_field(address.len()));
                let data = 24 + address.len();
                header[24..data].copy_from_slice(address);
                header[data..data + 2].copy_from_slice(&DATA.to_be_bytes());
                header[data + 2..data + 4].copy_from_slice(&length_field(len));
                Some(start..payload.end + padding)
            }
            Self::Icmp { peer, transaction, icmp } => {
                // There is no data: what lies at `payload` is left out.
                let mut address = [0; 20];
                let address = write_xor_address(&mut address, peer.0, transaction);
                let start = payload.start - (STUN_HEADER + 4 + address.len() + 12);
                let header = &mut buffer[start..payload.start];
                header[..2].copy_from_slice(&DATA_INDICATION.to_be_bytes());
                header[2..4].copy_from_slice(&length_field(4 + address.len() + 12));
                header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
                header[8..20].copy_from_slice(&transaction.0);
                header[20..22].copy_from_slice(&XOR_PEER_ADDRESS.to_be_bytes());
                header[22..24].copy_from_slice(&length_field(address.len()));
                let at = 24 + address.len();
                header[24..at].copy_from_slice(address);
                // The figure of RFC 8656 section 18.13: 16 bits reserved, 7 bits type, 9 bits code.
                let word = u32::from(icmp.kind & 0x7F) << 9 | u32::from(icmp.code);
                header[at..at + 2].copy_from_slice(&ICMP.to_be_bytes());
                header[at + 2..at + 4].copy_from_slice(&length_field(8));
                header[at + 4..at + 8].copy_from_slice(&word.to_be_bytes());
                header[at + 8..at + 12].copy_from_slice(&icmp.mtu.to_be_bytes());
                Some(start..payload.start)
            }
        }
    }
}

/// What lies at the beginning of a stream's unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// A whole frame.
    Frame {
        /// The frame is the first `len` bytes.
        len: usize,
        /// The next frame begins after this many bytes (padding follows ChannelData).
        consumed: usize,
    },
    /// The frame will be this many bytes with its padding; more of them are needed. At most [`MAX_FRAME_BYTES`] and padding.
    Incomplete {
        /// As far as the bytes that are there tell.
        needed: usize,
    },
    /// Neither STUN nor ChannelData: the stream cannot be followed any further, close it.
    Invalid,
}

/// Finds the first frame of a stream (RFC 8656 section 12.5). Looks at the header alone, so calling it again costs nothing.
pub fn split(unread: &[u8]) -> Split {
    let Some(&first) = unread.first() else { return Split::Incomplete { needed: CHANNEL_HEADER } };
    let (len, consumed) = match first {
        0x00..=0x3F => {
            // The cookie is checked as it comes in: what is no STUN is noticed at its fifth byte.
            let cookie = unread.get(4..unread.len().min(8)).unwrap_or_default();
            if !MAGIC_COOKIE.to_be_bytes().starts_with(cookie) {
                return Split::Invalid;
            }
            let Some(length) = read_u16(unread, 2) else { return Split::Incomplete { needed: STUN_HEADER } };
            if length % 4 != 0 {
                return Split::Invalid;
            }
            let len = STUN_HEADER + usize::from(length);
            (len, len)
        }
        0x40..=0x7F => {
            let Some(length) = read_u16(unread, 2) else {
                return Split::Incomplete { needed: CHANNEL_HEADER };
            };
            let len = usize::from(length);
            (CHANNEL_HEADER + len, CHANNEL_HEADER + padded(len))
        }
        0x80..=0xFF => return Split::Invalid,
    };
    if unread.len() < consumed {
        Split::Incomplete { needed: consumed }
    } else {
        Split::Frame { len, consumed }
    }
}

/// Whether a frame is a ConnectionBind request (RFC 6062 section 6.1), by its first bytes.
pub(crate) fn is_connection_bind(frame: &[u8]) -> bool {
    read_u16(frame, 0) == Some(CONNECTION_BIND)
}

/// The transaction id of a STUN message.
pub(crate) fn transaction_id(frame: &[u8]) -> Option<TransactionId> {
    Some(TransactionId(frame.get(8..STUN_HEADER)?.try_into().ok()?))
}

fn read_xor_address(value: &[u8], transaction: TransactionId) -> Option<SocketAddr> {
    let port = read_u16(value, 2)? ^ 0x2112;
    match (value.get(1)?, value.len()) {
        (0x01, 8) => {
            let ip = Ipv4Addr::from(read_u32(value, 4)? ^ MAGIC_COOKIE);
            Some(SocketAddr::new(IpAddr::V4(ip), port))
        }
        (0x02, 20) => {
            let ip: [u8; 16] = value.get(4..20)?.try_into().ok()?;
            let ip = Ipv6Addr::from(u128::from_be_bytes(ip) ^ xor_mask(transaction));
            Some(SocketAddr::new(IpAddr::V6(ip), port))
        }
        _ => None,
    }
}

fn write_xor_address(value: &mut [u8; 20], address: SocketAddr, transaction: TransactionId) -> &[u8] {
    value[2..4].copy_from_slice(&(address.port() ^ 0x2112).to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => {
            value[1] = 0x01;
            value[4..8].copy_from_slice(&(u32::from(ip) ^ MAGIC_COOKIE).to_be_bytes());
            &value[..8]
        }
        IpAddr::V6(ip) => {
            value[1] = 0x02;
            value[4..].copy_from_slice(&(u128::from(ip) ^ xor_mask(transaction)).to_be_bytes());
            &value[..]
        }
    }
}

fn xor_mask(transaction: TransactionId) -> u128 {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&transaction.0);
    u128::from_be_bytes(mask)
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

fn length_field(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("MAX_PEER_PAYLOAD leaves room for the attributes around it").to_be_bytes()
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests;
