//! UDP with what lies beside each datagram: the local address (`IP_PKTINFO`, `IPV6_RECVPKTINFO`), the traffic class
//! (`IP_TOS`, `IPV6_TCLASS`), how many datagrams the receive queue had no room for (`SO_RXQ_OVFL`), and the IPv4 DF bit.
//!
//! A socket bound to a wildcard address receives for every address of the host; a client accepts an answer only from the
//! address that it sent to, so that address has to be read with each datagram and written with each answer.
//!
//! A control message costs something in the kernel: what has its default value is not written.
//!
//! [`send_run`] hands the kernel several datagrams of one size as one (`UDP_SEGMENT`), which then go through its send path together.

#![expect(unsafe_code, reason = "recvmsg, sendmsg and their control messages have no safe wrapper here")]

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use socket2::SockAddr;

/// One received datagram; its bytes are at the front of the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// Bytes in the buffer.
    pub(crate) len: usize,
    /// The sender.
    pub(crate) from: SocketAddr,
    /// The local address it was sent to, where the socket was told to report it.
    pub(crate) to: Option<IpAddr>,
    /// DSCP and ECN, where the socket was told to report them.
    pub(crate) traffic_class: u8,
    /// How many datagrams this socket's receive queue has dropped since it was opened (the count may wrap), if any, where the
    /// socket was told to report it.
    pub(crate) overflows: Option<u32>,
}

/// Makes `socket` report the local address of each datagram.
pub(crate) fn report_local_address(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    }
}

/// Makes `socket` report DSCP and ECN of each datagram.
pub(crate) fn report_traffic_class(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    }
}

/// Makes `socket` report how many datagrams its receive queue had no room for.
pub(crate) fn report_overflows(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// Makes `socket` keep ICMP errors for [`super::error_queue::take`].
pub(crate) fn keep_errors(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVERR, 1)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)
    }
}

/// Gives `socket` room for so many bytes of received datagrams, the kernel's bookkeeping included: what was asked for where the
/// process may (`CAP_NET_ADMIN`), else as much as `net.core.rmem_max` allows.
pub(crate) fn set_receive_queue(socket: BorrowedFd<'_>, bytes: usize) {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        // A smaller queue is no reason not to serve.
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
    }
}

/// Sets or clears the DF bit of what an IPv4 socket sends from now on. Set, the kernel's own idea of the path MTU is not
/// asked: whether the datagram fits is for the network to say (RFC 8656 section 14).
pub(crate) fn set_dont_fragment(socket: BorrowedFd<'_>, dont_fragment: bool) -> io::Result<()> {
    let mode = if dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
    set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)
}

/// How many overflows are new, `known` being the count that was seen last.
pub(crate) fn more_overflows(known: &mut u32, reported: Option<u32>) -> usize {
    let Some(count) = reported else { return 0 };
    count.wrapping_sub(std::mem::replace(known, count)) as usize
}

/// Sends datagrams to one address without waiting, all or none of them, from the local address `from` where that is given, with
/// this DSCP and ECN. Where there are several, all are as long as the first, but the last may be shorter,
/// and none is empty. At most [`RUN`] of them and [`RUN_BYTES`] in all.
///
/// # Errors
/// Several are refused where one alone would not be: by a kernel before 4.18, by a device that cannot do it, and where one does not
/// fit the link (`EINVAL`, `EIO`, `EMSGSIZE`).
pub(crate) fn send_run(
    socket: BorrowedFd<'_>,
    datagrams: &[IoSlice<'_>],
    to: SocketAddr,
    from: Option<IpAddr>,
    traffic_class: u8,
) -> io::Result<()> {
    let mut control = Control([0; CONTROL_BYTES]);
    let ipv4 = to.is_ipv4();
    let to = SockAddr::from(to);
    // SAFETY: an all-zero msghdr is a valid one.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    // An IoSlice is an iovec (its documentation says so).
    header.msg_iov = datagrams.as_ptr().cast_mut().cast();
    header.msg_iovlen = datagrams.len();
    match from {
        Some(IpAddr::V4(ip)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            control.put(&mut header, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(ip)) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            control.put(&mut header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    if traffic_class != 0 {
        let (level, kind) =
            if ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
        control.put(&mut header, level, kind, libc::c_int::from(traffic_class));
    }
    if let [first, _, ..] = datagrams {
        let size = u16::try_from(first.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        control.put(&mut header, libc::SOL_UDP, libc::UDP_SEGMENT, size);
    }
    // SAFETY: every pointer in `header` is to something that lives until the end of this function, with its length
    // beside it; sendmsg only reads through them.
    let sent = unsafe {
        libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes `socket` hand over as one what came as equal datagrams of one flow, close to each other (Linux 5.0): [`super::batch`] takes it apart.
pub(crate) fn receive_runs(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Whether the kernel puts datagrams together on receipt.
pub(crate) fn gives_runs() -> bool {
    let Ok(socket) = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { return false };
    receive_runs(socket.as_fd()).is_ok()
}

/// Whether the kernel takes several datagrams as one (Linux 4.18).
pub(crate) fn takes_runs() -> bool {
    let Ok(socket) = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) else { return false };
    set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 1200).is_ok()
}

/// Datagrams of a run: what the oldest kernel takes (UDP_MAX_SEGMENTS).
pub(crate) const RUN: usize = 64;
/// Their bytes: what fits the length field of an IPv4 header, with the longest header.
pub(crate) const RUN_BYTES: usize = 65_535 - 60 - 8;

/// Packet info of either family, a traffic class, a count of overflows and the size of segments: 40 bytes, and 24 each.
pub(super) const CONTROL_BYTES: usize = 128;

/// Room for control messages, aligned as `cmsghdr` wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL_BYTES]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

impl Control {
    /// Writes one more control message of `header`; three at most.
    fn put<T: Copy>(&mut self, header: &mut libc::msghdr, level: i32, kind: i32, value: T) {
        const { assert!(size_of::<T>() <= 20, "three of them fit in Control") };
        let size = u32::try_from(size_of::<T>()).unwrap_or(0);
        let used = header.msg_controllen;
        // SAFETY: pure arithmetic on the size.
        let space = unsafe { libc::CMSG_SPACE(size) } as usize;
        let Some(room) = self.0.get_mut(used..used + space) else { return };
        let message = room.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: `room` is CMSG_SPACE(size) bytes and begins at a multiple of CMSG_SPACE's alignment in a buffer aligned for
        // cmsghdr; so there is room for the header and, behind it, for a `T`, written unaligned.
        unsafe {
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
        }
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = used + space;
    }
}

/// What the kernel reported beside a datagram.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    pub(super) to: Option<IpAddr>,
    pub(super) traffic_class: u8,
    pub(super) overflows: Option<u32>,
    /// How long each datagram of a run is, but the last.
    pub(super) segment: Option<usize>,
}

/// `header` must have been filled by a successful recvmsg or recvmmsg.
pub(super) fn beside(header: &libc::msghdr) -> Beside {
    let mut beside = Beside::default();
    // SAFETY: `header` was filled by a successful recvmsg, so its control buffer holds `msg_controllen` bytes of whole
    // control messages, which the CMSG functions walk; each kind has the data that is read here, unaligned (ip(7), ipv6(7),
    // socket(7), udp(7)).
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (found.cmsg_level, found.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    beside.to = Some(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    beside.to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => beside.traffic_class = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<libc::c_int>().read_unaligned();
                    beside.traffic_class = u8::try_from(class).unwrap_or(0);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    beside.overflows = Some(data.cast::<u32>().read_unaligned());
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    beside.segment = usize::try_from(size).ok().filter(|&size| size > 0);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    beside
}

pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the pointer is to a c_int that outlives the call, and its size is told.
    let refused =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    if refused != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One datagram each way, for tests.
#[cfg(test)]
pub(crate) mod one {
    use std::cmp::min;

    use super::*;
    use crate::sys::batch::Batch;

    /// Receives a datagram without waiting, or a run as one; what the buffer has no room for is lost.
    pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
        let mut batch = Batch::new(0, 0);
        let taken = batch.receive(socket, 1)?;
        let bytes = (0..taken.datagrams).map(|place| batch.datagram(place)).collect::<Vec<_>>().concat();
        let len = min(buffer.len(), bytes.len());
        buffer[..len].copy_from_slice(&bytes[..len]);
        Ok(Received { len, ..batch.received(0).expect("one was received") })
    }

    /// Sends a datagram without waiting.
    pub(crate) fn send(
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        to: SocketAddr,
        from: Option<IpAddr>,
        traffic_class: u8,
    ) -> io::Result<()> {
        send_run(socket, &[IoSlice::new(bytes)], to, from, traffic_class)
    }

    /// Makes a socket refuse runs, as kernels and devices do that cannot compute their checksums.
    pub(crate) fn refuse_runs(socket: BorrowedFd<'_>) -> io::Result<()> {
        set_option(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::one::{receive, send};
    use super::*;

    #[test]
    fn a_wildcard_socket_answers_from_the_address_that_was_used() {
        for (wildcard, used) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1")] {
            let used: IpAddr = used.parse().expect("an address");
            let server = UdpSocket::bind(wildcard).expect("binds");
            report_local_address(server.as_fd(), used.is_ipv4()).expect("is supported");
            let port = server.local_addr().expect("bound").port();
            let client =
                UdpSocket::bind((if used.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).expect("binds");
            client.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
            client.send_to(b"question", (used, port)).expect("sends");

            let mut buffer = [0; 64];
            wait_readable(&server);
            let received = receive(server.as_fd(), &mut buffer).expect("receives");
            assert_eq!(&buffer[..received.len], b"question");
            assert_eq!((received.from, received.to), (client.local_addr().expect("bound"), Some(used)));

            send(server.as_fd(), b"answer", received.from, received.to, 0).expect("sends");
            let (len, from) = client.recv_from(&mut buffer).expect("receives");
            assert_eq!((&buffer[..len], from), (&b"answer"[..], SocketAddr::new(used, port)));
        }
    }

    #[test]
    fn dscp_and_ecn_are_read_and_written_with_each_datagram() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let (one, other) = (UdpSocket::bind(any).expect("binds"), UdpSocket::bind(any).expect("binds"));
            let to = other.local_addr().expect("bound");
            report_traffic_class(other.as_fd(), to.is_ipv4()).expect("is supported");
            report_local_address(other.as_fd(), to.is_ipv4()).expect("is supported");
            // Expedited forwarding with ECT(1), nothing, and CS7 with CE: beside the local address and alone.
            for (class, from) in [(0xB9, None), (0, None), (0xE3, Some(to.ip()))] {
                send(one.as_fd(), b"x", to, from, class).expect("sends");
                wait_readable(&other);
                let received = receive(other.as_fd(), &mut [0; 8]).expect("receives");
                assert_eq!((received.traffic_class, received.to), (class, Some(to.ip())), "{any}");
            }
        }
    }

    #[test]
    fn what_the_receive_queue_had_no_room_for_is_counted() {
        let (one, other) =
            (UdpSocket::bind("127.0.0.1:0").expect("binds"), UdpSocket::bind("127.0.0.1:0").expect("binds"));
        report_overflows(other.as_fd()).expect("is supported");
        set_option(other.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096).expect("sets");
        let to = other.local_addr().expect("bound");
        for _ in 0..100 {
            send(one.as_fd(), &[0; 500], to, None, 0).expect("sends");
        }
        let mut received = 0;
        while receive(other.as_fd(), &mut [0; 500]).is_ok() {
            received += 1;
        }
        // The count comes with the next datagram that finds room.
        send(one.as_fd(), b"x", to, None, 0).expect("sends");
        wait_readable(&other);
        let last = receive(other.as_fd(), &mut [0; 500]).expect("receives");
        assert_eq!(last.overflows, Some(100 - received));
    }

    #[test]
    fn a_socket_without_a_datagram_would_block() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let error = receive(socket.as_fd(), &mut [0; 8]).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_df_bit_can_be_set_and_cleared() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        set_dont_fragment(socket.as_fd(), true).expect("is supported");
        set_dont_fragment(socket.as_fd(), false).expect("is supported");
    }

    /// `peek` waits; `receive` does not.
    fn wait_readable(socket: &UdpSocket) {
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("sets");
        socket.peek_from(&mut [0; 1]).expect("a datagram comes");
    }
}
