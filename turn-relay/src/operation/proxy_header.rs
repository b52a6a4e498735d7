//! The PROXY protocol, versions 1 and 2: what a proxy says about the connection that it passes on, before the first of its bytes.
//!
//! Only for connections whose other end is trusted: whoever may write this header may claim any address. The library reads the
//! header; its size, and what is done with it, are decided here. The fields behind the addresses (TLVs) are skipped,
//! their checksum included: TCP has one of its own.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};

/// A header that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Who is at the other end of the proxy, an IPv4 address as such; `None` where the proxy speaks for itself (LOCAL, a health
    /// check) or does not know (UNKNOWN, AF_UNSPEC, AF_UNIX).
    pub client: Option<SocketAddr>,
    /// What the client connected to, where the proxy speaks for one: of one client address two connections to it cannot stand.
    pub destination: Option<SocketAddr>,
    /// How long the header is, in bytes: what follows it is the client's.
    pub len: usize,
}

/// The bytes are no PROXY header, or one that is longer than [`MAX_HEADER_BYTES`], or one that speaks of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header, though one must be there")]
pub struct NotIntroduced;

/// Reads the header at the beginning of `bytes`; `None`: more bytes have to come.
///
/// # Errors
/// When no header can become of the bytes.
pub fn read(bytes: &[u8]) -> Result<Option<Introduction>, NotIntroduced> {
    let longest = if bytes.first() == V1.first() { MAX_V1_BYTES } else { MAX_HEADER_BYTES };
    let bounded = bytes.get(..longest).unwrap_or(bytes);
    if !may_become_one(bounded) {
        return Err(NotIntroduced);
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(bounded, config) {
        Ok((header, len)) => match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Datagram => Err(NotIntroduced),
            address => Ok(Some(Introduction {
                client: address.map(|ends| canonical(ends.source)),
                destination: address.map(|ends| canonical(ends.destination)),
                len,
            })),
        },
        Err(Error::BufferTooShort) if bounded.len() < longest => Ok(None),
        Err(_) => Err(NotIntroduced),
    }
}

/// The library looks at the first bytes late, and at the sixth of version 1 not at all.
fn may_become_one(bytes: &[u8]) -> bool {
    [V1, V2].into_iter().any(|signature| bytes.iter().zip(signature).all(|(byte, of)| byte == of))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Section 2.1 of the specification counts them.
const MAX_V1_BYTES: usize = 107;
/// Of version 2. Addresses take 16 + 36; the rest is room for the fields that load balancers add (server name, certificate
/// names, ids), of which those in use have some hundred bytes together.
pub const MAX_HEADER_BYTES: usize = 2048;
const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [V2, &[command, family], &len, rest].concat()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Addresses of both ends, then both ports, as section 2.2 of the specification has them.
    fn vectors() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let v4 = [&[203, 0, 113, 9, 192, 0, 2, 1][..], &[0xdb, 0x38, 0x0d, 0x96]].concat();
        let v6 = ["2001:db8::9", "2001:db8::1"]
            .map(|ip| ip.parse::<std::net::Ipv6Addr>().expect("an address").octets());
        let mapped = ["::ffff:203.0.113.9", "::1"]
            .map(|ip| ip.parse::<std::net::Ipv6Addr>().expect("an address").octets());
        let ports = [0xdb, 0x38, 0x0d, 0x96];
        vec![
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 56120 3478\r\n".to_vec(), Some(address("203.0.113.9:56120"))),
            (
                b"PROXY TCP6 2001:db8::9 2001:db8::1 56120 3478\r\n".to_vec(),
                Some(address("[2001:db8::9]:56120")),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), Some(address("203.0.113.9:56120"))),
            (v2(0x21, 0x11, &[&v4[..], &[4, 0, 3, 1, 2, 3]].concat()), Some(address("203.0.113.9:56120"))),
            (v2(0x21, 0x21, &[&v6.concat()[..], &ports].concat()), Some(address("[2001:db8::9]:56120"))),
            (v2(0x21, 0x21, &[&mapped.concat()[..], &ports].concat()), Some(address("203.0.113.9:56120"))),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x21, 0x31, &[7; 216]), None),
        ]
    }

    #[test]
    fn proxy_header_of_either_version_tells_the_client_and_where_its_bytes_begin() {
        for (header, client) in vectors() {
            for cut in 0..header.len() {
                assert_eq!(read(&header[..cut]), Ok(None), "{cut} bytes of {header:?}");
            }
            let with_more = [&header[..], b"\0\x01\0\0!\x12\xa4B"].concat();
            let destination = client.map(|client| {
                let mapped = header.get(16..28) == Some(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                let v6 = mapped || client.is_ipv6();
                address(match (mapped, v6) {
                    (true, _) => "[::1]:3478",
                    (false, true) => "[2001:db8::1]:3478",
                    (false, false) => "192.0.2.1:3478",
                })
            });
            let introduction = Introduction { client, destination, len: header.len() };
            assert_eq!(read(&with_more), Ok(Some(introduction)), "{header:?}");
        }
    }

    #[test]
    fn what_cannot_become_a_proxy_header_is_refused_with_its_first_wrong_byte() {
        for wrong in [
            &b"G"[..],
            b"\x16\x03\x01",
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIX",
            b"\0\x01\0\0",
            b"PROXY TCP4 1.2.3.4 nobody ",
            b"PROXY\tUNKNOWN\r\n",
        ] {
            assert_eq!(read(wrong), Err(NotIntroduced), "{wrong:?}");
        }
        assert_eq!(read(&v2(0x11, 0x11, &[0; 12])), Err(NotIntroduced), "another version");
        assert_eq!(read(&v2(0x21, 0x12, &[0; 12])), Err(NotIntroduced), "datagrams");
    }

    #[test]
    fn endless_proxy_header_is_refused() {
        assert_eq!(read(&[V1, &[b'1'; 107]].concat()), Err(NotIntroduced));
        let unknown = |more: usize| [&b"PROXY UNKNOWN "[..], &vec![b'1'; more], b"\r\n"].concat();
        assert_eq!(read(&unknown(91)), Ok(Some(Introduction { client: None, destination: None, len: 107 })));
        assert_eq!(read(&unknown(92)), Err(NotIntroduced), "also where its end has come");
        let announced = [V2, &[0x21, 0x11, 0xff, 0xff]].concat();
        let endless: Vec<u8> =
            announced.into_iter().chain(std::iter::repeat_n(0, MAX_HEADER_BYTES)).collect();
        assert_eq!(read(&endless[..MAX_HEADER_BYTES - 1]), Ok(None));
        assert_eq!(read(&endless), Err(NotIntroduced));
    }
}
