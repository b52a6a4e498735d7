//! The stateless half of DTLS 1.2 (RFC 6347 section 4.2.1): whoever has not shown that it receives at its address gets a
//! cookie, smaller than what it sent, and leaves nothing behind.
//!
//! The cookie is an HMAC over both addresses, the client's random and the minute; that minute and the next accept it.

use std::net::SocketAddr;
use std::time::Instant;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::address::packed;
use crate::frame::TransactionId;

/// As long as the DTLS library's own, which ours stands for.
pub(crate) type Cookie = [u8; 32];

/// A ClientHello in one piece, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientHello<'a> {
    datagram: &'a [u8],
    random: &'a [u8],
    /// Where the cookie's length is.
    at: usize,
    cookie: &'a [u8],
}

impl<'a> ClientHello<'a> {
    /// `None` for whatever else begins with the bytes of a handshake, for versions before 1.2, and for a ClientHello in several
    /// pieces: to put those together would be state.
    pub(crate) fn parse(datagram: &'a [u8]) -> Option<Self> {
        let record = datagram.get(..RECORD_HEADER)?;
        let length = usize::from(u16::from_be_bytes([record[11], record[12]]));
        let message = datagram.get(RECORD_HEADER..RECORD_HEADER + length)?;
        let header = message.get(..MESSAGE_HEADER)?;
        let body = message.get(MESSAGE_HEADER..)?;
        let whole = header[1..4] == header[9..12] && header[6..9] == [0; 3];
        let announced = u32::from_be_bytes([0, header[1], header[2], header[3]]);
        let fits = usize::try_from(announced).ok()? == body.len();
        // Epoch 0: a handshake under way is encrypted and looks different.
        if record[0] != HANDSHAKE || record[3..5] != [0; 2] || header[0] != CLIENT_HELLO || !whole || !fits {
            return None;
        }
        // Versions count down. DTLS 1.0 is over (RFC 8996), and the library has no session for it.
        if body.get(..2)? > &DTLS_1_2[..] {
            return None;
        }
        let random = body.get(2..34)?;
        let session = usize::from(*body.get(34)?);
        let at = 35 + session;
        let cookie = body.get(at + 1..at + 1 + usize::from(*body.get(at)?))?;
        Some(Self { datagram, random, at: RECORD_HEADER + MESSAGE_HEADER + at, cookie })
    }

    /// What a client repeats when it hears nothing, and draws anew for every handshake: a part of its random bytes.
    pub(crate) fn attempt(&self) -> TransactionId {
        TransactionId(self.random.first_chunk().copied().unwrap_or_default())
    }

    /// The same ClientHello as it was before the client knew the cookie (RFC 6347 section 4.2.1 has it repeat all else).
    pub(crate) fn without_cookie(&self) -> Vec<u8> {
        let cut = u16::try_from(self.cookie.len()).unwrap_or(0);
        let mut first = self.datagram.to_vec();
        first.drain(self.at + 1..self.at + 1 + self.cookie.len());
        first[self.at] = 0;
        let shorten = |bytes: &mut [u8]| {
            let length = u16::from_be_bytes([bytes[0], bytes[1]]).wrapping_sub(cut);
            bytes.copy_from_slice(&length.to_be_bytes());
        };
        shorten(&mut first[11..13]);
        // Both lengths of the message have 24 bits, of which a datagram needs 16.
        shorten(&mut first[RECORD_HEADER + 2..RECORD_HEADER + 4]);
        shorten(&mut first[RECORD_HEADER + 10..RECORD_HEADER + 12]);
        // The first record and the first message of the client.
        first[5..11].fill(0);
        first[RECORD_HEADER + 4..RECORD_HEADER + 6].fill(0);
        first
    }
}

/// Makes and checks the cookies of one worker, which is where the kernel brings a client's datagrams each time.
pub(crate) struct Cookies {
    key: Hmac<Sha256>,
    epoch: Instant,
}

impl Cookies {
    pub(crate) fn new(epoch: Instant, key: [u8; 32]) -> Self {
        Self { key: Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"), epoch }
    }

    /// The cookie of this ClientHello, if it carries the one that this client was given.
    pub(crate) fn verified(
        &self,
        now: Instant,
        (client, server): (SocketAddr, SocketAddr),
        hello: &ClientHello<'_>,
    ) -> Option<Cookie> {
        let minute = self.minute(now);
        let live = [Some(minute), minute.checked_sub(1)].into_iter().flatten();
        let given = live.map(|minute| self.tag(minute, client, server, hello.random));
        given.into_iter().find(|tag| bool::from(tag.as_slice().ct_eq(hello.cookie)))
    }

    /// A HelloVerifyRequest, never longer than the ClientHello that it answers.
    pub(crate) fn challenge(
        &self,
        now: Instant,
        (client, server): (SocketAddr, SocketAddr),
        hello: &ClientHello<'_>,
    ) -> [u8; CHALLENGE_BYTES] {
        let cookie = self.tag(self.minute(now), client, server, hello.random);
        let mut request = [0; CHALLENGE_BYTES];
        let (record, message) = request.split_at_mut(RECORD_HEADER);
        record[0] = HANDSHAKE;
        // DTLS 1.0, as RFC 6347 section 4.2.1 asks, and the sequence number of what it answers.
        record[1..3].copy_from_slice(&DTLS_1_0);
        record[5..11].copy_from_slice(&hello.datagram[5..11]);
        record[12] = MESSAGE_HEADER_U8 + 35;
        message[0] = HELLO_VERIFY_REQUEST;
        message[3] = 35;
        message[4..6].copy_from_slice(&hello.datagram[RECORD_HEADER + 4..RECORD_HEADER + 6]);
        message[11] = 35;
        message[12..14].copy_from_slice(&DTLS_1_0);
        message[14] = 32;
        message[15..].copy_from_slice(&cookie);
        request
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / 60
    }

    fn tag(&self, minute: u64, client: SocketAddr, server: SocketAddr, random: &[u8]) -> Cookie {
        let mut mac = self.key.clone().chain_update(minute.to_be_bytes()).chain_update(random);
        for end in [client, server] {
            mac.update(&packed(end.ip()).to_be_bytes());
            mac.update(&end.port().to_be_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

/// RFC 6347 section 4.1.
const RECORD_HEADER: usize = 13;
/// RFC 6347 section 4.2.2.
const MESSAGE_HEADER: usize = 12;
const MESSAGE_HEADER_U8: u8 = 12;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;
const DTLS_1_0: [u8; 2] = [0xfe, 0xff];
const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];
/// Headers, version, length, cookie. The shortest ClientHello has 67: version, random, three empty fields and two of a suite.
pub(crate) const CHALLENGE_BYTES: usize = RECORD_HEADER + MESSAGE_HEADER + 2 + 1 + 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::testing::epoch;

    /// A ClientHello with one suite, cut nowhere.
    pub(crate) fn hello(sequence: u8, cookie: &[u8]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.push(0);
        body.push(u8::try_from(cookie.len()).expect("short"));
        body.extend(cookie);
        body.extend([0, 2, 0xc0, 0x2b, 1, 0]);
        let length = u8::try_from(body.len()).expect("short");
        let mut datagram = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, sequence, 0, length + 12];
        datagram.extend([1, 0, 0, length, 0, sequence, 0, 0, 0, 0, 0, length]);
        datagram.extend(body);
        datagram
    }

    fn ends() -> (SocketAddr, SocketAddr) {
        ("192.0.2.1:1000".parse().expect("an address"), "198.51.100.1:3478".parse().expect("an address"))
    }

    fn given(cookies: &Cookies, at: Instant) -> Vec<u8> {
        let first = hello(0, &[]);
        let hello = ClientHello::parse(&first).expect("a ClientHello");
        cookies.challenge(at, ends(), &hello)[28..].to_vec()
    }

    #[test]
    fn cookie_is_good_for_its_client_its_hello_and_two_minutes() {
        let cookies = Cookies::new(epoch(), [7; 32]);
        let at = epoch() + Duration::from_secs(3600);
        let cookie = given(&cookies, at);
        let second = hello(1, &cookie);
        let hello = ClientHello::parse(&second).expect("a ClientHello");
        let (client, server) = ends();
        assert!(cookies.verified(at, ends(), &hello).is_some());
        assert!(cookies.verified(at + Duration::from_secs(119), ends(), &hello).is_some());
        assert!(cookies.verified(at + Duration::from_secs(120), ends(), &hello).is_none());
        for other in ["192.0.2.1:1001", "192.0.2.2:1000"] {
            let other = other.parse().expect("an address");
            assert!(cookies.verified(at, (other, server), &hello).is_none());
            assert!(cookies.verified(at, (client, other), &hello).is_none());
        }
        assert!(Cookies::new(epoch(), [8; 32]).verified(at, ends(), &hello).is_none());
        let mut altered = second.clone();
        altered[30] ^= 1;
        let altered = ClientHello::parse(&altered).expect("a ClientHello");
        assert!(cookies.verified(at, ends(), &altered).is_none(), "another random");
    }

    #[test]
    fn challenge_is_never_longer_than_what_it_answers() {
        let shortest = hello(0, &[]);
        assert!(CHALLENGE_BYTES <= shortest.len(), "{} for {}", CHALLENGE_BYTES, shortest.len());
    }

    #[test]
    fn what_the_client_said_before_it_had_the_cookie_is_found_again() {
        let first = hello(0, &[]);
        let second = hello(1, &[9; 32]);
        let parsed = ClientHello::parse(&second).expect("a ClientHello");
        assert_eq!(parsed.without_cookie(), first);
        assert_eq!(parsed.cookie, [9; 32]);
    }

    #[test]
    fn client_that_offers_nothing_newer_than_dtls_1_0_is_not_answered() {
        let mut old = hello(0, &[]);
        let version = RECORD_HEADER + MESSAGE_HEADER;
        old[version..version + 2].copy_from_slice(&DTLS_1_0);
        assert_eq!(ClientHello::parse(&old), None);
    }

    #[test]
    fn pieces_other_epochs_other_messages_and_rubbish_are_no_client_hello() {
        let whole = hello(0, &[]);
        assert!(ClientHello::parse(&whole).is_some());
        for (at, value) in [(0, 23), (4, 1), (13, 2), (16, 1), (20, 1), (24, 1)] {
            let mut other = whole.clone();
            other[at] = value;
            assert_eq!(ClientHello::parse(&other), None, "byte {at}");
        }
        for length in 0..whole.len() {
            assert_eq!(ClientHello::parse(&whole[..length]), None, "{length} bytes");
        }
        // Lengths that point behind the end.
        for at in [59, 60] {
            let mut long = whole.clone();
            long[at] = 255;
            assert_eq!(ClientHello::parse(&long), None, "byte {at}");
        }
    }
}
