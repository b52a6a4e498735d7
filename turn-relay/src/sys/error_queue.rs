//! What ICMP said about datagrams that a socket sent (`IP_RECVERR`, `IPV6_RECVERR`).
//!
//! The kernel matches a message with a socket by the addresses and ports that it quotes, and keeps it in a queue that shares
//! the socket's receive buffer: a queue that is not read keeps datagrams out.

#![expect(unsafe_code, reason = "recvmsg and its control messages have no safe wrapper here")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use socket2::SockAddr;

/// An error about one datagram of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SendError {
    /// Where the datagram was sent to.
    pub(crate) to: SocketAddr,
    /// ICMP type, of the family of `to`.
    pub(crate) kind: u8,
    /// ICMP code.
    pub(crate) code: u8,
    /// The MTU of the next hop where the message tells one (fragmentation needed, packet too big), else 0.
    pub(crate) mtu: u32,
}

/// Takes one error out of the queue without waiting; `Ok(None)`: one that no ICMP message stands behind.
///
/// # Errors
/// `WouldBlock` when the queue is empty.
pub(crate) fn take(socket: BorrowedFd<'_>) -> io::Result<Option<SendError>> {
    let mut control = Control([0; CONTROL_BYTES]);
    // The quoted datagram is of no use here.
    let mut quoted = [0_u8; 1];
    let mut vector = libc::iovec { iov_base: quoted.as_mut_ptr().cast(), iov_len: quoted.len() };
    // SAFETY: the closure hands the storage and its length to recvmsg, which initialises at most that much of it and
    // writes back how much; a kernel that succeeds has written a valid address, or none and the length 0.
    let (found, to) = unsafe {
        SockAddr::try_init(|storage, storage_len| {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_name = storage.cast();
            header.msg_namelen = *storage_len;
            header.msg_iov = &raw mut vector;
            header.msg_iovlen = 1;
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = control.0.len();
            let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
            if libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) < 0 {
                return Err(io::Error::last_os_error());
            }
            *storage_len = header.msg_namelen;
            Ok(extended(&header))
        })
    }?;
    let (Some(error), Some(to)) = (found, to.as_socket()) else { return Ok(None) };
    Ok(meaning(&error, to))
}

fn meaning(error: &libc::sock_extended_err, to: SocketAddr) -> Option<SendError> {
    let (kind, code) = match (error.ee_origin, to) {
        (libc::SO_EE_ORIGIN_ICMP, SocketAddr::V4(_)) | (libc::SO_EE_ORIGIN_ICMP6, SocketAddr::V6(_)) => {
            (error.ee_type, error.ee_code)
        }
        // Our own link is the one that is too narrow: what a router on it would have said (RFC 1191 section 4).
        (libc::SO_EE_ORIGIN_LOCAL, SocketAddr::V4(_)) if error.ee_errno == EMSGSIZE => FRAGMENTATION_NEEDED,
        _ => return None,
    };
    let tells_mtu = match to {
        SocketAddr::V4(_) => (kind, code) == FRAGMENTATION_NEEDED,
        SocketAddr::V6(_) => kind == PACKET_TOO_BIG,
    };
    Some(SendError { to, kind, code, mtu: if tells_mtu { error.ee_info } else { 0 } })
}

fn extended(header: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: `header` was filled by a successful recvmsg, so its control buffer holds `msg_controllen` bytes of whole
    // control messages, which the CMSG functions walk; the data of an error begins with that struct, read unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            if matches!(
                (found.cmsg_level, found.cmsg_type),
                (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
            ) {
                return Some(libc::CMSG_DATA(message).cast::<libc::sock_extended_err>().read_unaligned());
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// The error with the offender's address (16 and 28 bytes), a traffic class and a count of overflows.
const CONTROL_BYTES: usize = 256;

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

const _: () = assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());

const EMSGSIZE: u32 = libc::EMSGSIZE.unsigned_abs();
/// RFC 1191: type 3, code 4.
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
/// RFC 4443 section 3.2.
const PACKET_TOO_BIG: u8 = 2;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::sys::datagram;

    #[test]
    fn a_port_that_nobody_listens_on_is_told_by_type_and_code() {
        for (any, kind, code) in [("127.0.0.1:0", 3, 3), ("[::1]:0", 1, 4)] {
            let socket = UdpSocket::bind(any).expect("binds");
            datagram::keep_errors(socket.as_fd(), any.starts_with('1')).expect("is supported");
            let nobody = UdpSocket::bind(any).expect("binds").local_addr().expect("bound");
            datagram::one::send(socket.as_fd(), b"x", nobody, None, 0).expect("sends");
            // On loopback the answer is there before the send returns.
            let error = take(socket.as_fd()).expect("an error").expect("an ICMP message");
            assert_eq!(error, SendError { to: nobody, kind, code, mtu: 0 });
            assert_eq!(take(socket.as_fd()).expect_err("only one").kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_datagram_larger_than_our_own_link_is_told_as_fragmentation_needed() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        datagram::keep_errors(socket.as_fd(), true).expect("is supported");
        datagram::set_dont_fragment(socket.as_fd(), true).expect("is supported");
        let to = UdpSocket::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound");
        // The loopback device takes 65,536 bytes, IP header included, and UDP at most 65,507.
        let meant = libc::sock_extended_err {
            ee_errno: EMSGSIZE,
            ee_origin: libc::SO_EE_ORIGIN_LOCAL,
            ee_type: 0,
            ee_code: 0,
            ee_pad: 0,
            ee_info: 1400,
            ee_data: 0,
        };
        assert_eq!(meaning(&meant, to), Some(SendError { to, kind: 3, code: 4, mtu: 1400 }));
    }
}
