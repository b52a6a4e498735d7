//! Datagrams with their headers: as they arrive, and as no socket would send them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Protocol, Socket, Type};

use crate::client::PATIENCE;
use crate::namespace::Namespace;

/// What arrives at a host over IPv4.
pub(crate) struct Sniffer(Socket);

/// A datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) traffic_class: u8,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
}

impl Sniffer {
    pub(crate) fn new(network: &Namespace) -> Self {
        let socket = network.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The headers of the next datagram for this address whose data end like this.
    pub(crate) fn next(&mut self, to: SocketAddr, data: &[u8]) -> Headers {
        let mut buffer = [0; 4096];
        loop {
            let len = std::io::Read::read(&mut self.0, &mut buffer).expect("a datagram in time");
            let packet = &buffer[..len];
            let address = SocketAddr::from((
                <[u8; 4]>::try_from(&packet[16..20]).unwrap(),
                u16::from_be_bytes([packet[22], packet[23]]),
            ));
            if address == to && packet.ends_with(data) {
                return Headers {
                    traffic_class: packet[1],
                    ttl: packet[8],
                    dont_fragment: packet[6] & 0x40 != 0,
                };
            }
        }
    }
}

/// An IPv4 datagram to be.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) traffic_class: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) data: Vec<u8>,
    pub(crate) checksum: Option<u16>,
}

impl Draft {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Self {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("not IPv4") };
        Self { from, to, traffic_class: 0, options: vec![], data: data.to_vec(), checksum: None }
    }

    /// Header and data of UDP.
    pub(crate) fn udp(&self) -> Vec<u8> {
        let len = u16::try_from(8 + self.data.len()).unwrap();
        let mut udp = Vec::new();
        udp.extend(self.from.port().to_be_bytes());
        udp.extend(self.to.port().to_be_bytes());
        udp.extend(len.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(&self.data);
        let mut summed = [self.from.ip().octets(), self.to.ip().octets()].concat();
        summed.extend([0, 17]);
        summed.extend(len.to_be_bytes());
        summed.extend(&udp);
        let checksum = self.checksum.unwrap_or_else(|| checksum(&summed));
        udp[6..8].copy_from_slice(&checksum.to_be_bytes());
        udp
    }

    /// Sends it from a host whole, or as two fragments of which the first has so many bytes of it.
    pub(crate) fn send(&self, network: &Namespace, first: Option<usize>) {
        let udp = self.udp();
        match first {
            None => send(network, self.packet(&udp, 0), *self.to.ip()),
            Some(at) => {
                send(network, self.packet(&udp[..at], 0x2000), *self.to.ip());
                send(network, self.packet(&udp[at..], u16::try_from(at / 8).unwrap()), *self.to.ip());
            }
        }
    }

    fn packet(&self, part: &[u8], fragment: u16) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), self.traffic_class];
        packet.extend(u16::try_from(header_len + part.len()).unwrap().to_be_bytes());
        packet.extend([0x12, 0x34]);
        packet.extend(fragment.to_be_bytes());
        // The kernel fills the checksum in.
        packet.extend([64, 17, 0, 0]);
        packet.extend(self.from.ip().octets());
        packet.extend(self.to.ip().octets());
        packet.extend(&self.options);
        packet.extend(part);
        packet
    }
}

fn send(network: &Namespace, packet: Vec<u8>, to: Ipv4Addr) {
    // The protocol 255 is IPPROTO_RAW: the header is ours.
    let socket = network.inside(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap());
    socket.send_to(&packet, &SocketAddrV4::new(to, 0).into()).unwrap();
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap() {
        0 => 0xffff,
        sum => sum,
    }
}
