//! Many datagrams with one system call (`recvmmsg`), each in a place of its own with room in front and behind.
//!
//! Takes what is there and never waits for more.

#![expect(unsafe_code, reason = "recvmmsg and its addresses have no safe wrapper here")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::datagram::{CONTROL_BYTES, Control, Received, beside};

/// Places, and what lies in them. Empty by default; then nothing can be received.
#[derive(Default)]
pub(crate) struct Batch {
    /// All places, [`PLACE_BYTES`] apart. Only pages that were written to are resident.
    memory: Box<[u8]>,
    headroom: usize,
    tailroom: usize,
    names: Box<[MaybeUninit<libc::sockaddr_storage>]>,
    controls: Box<[Control]>,
    received: Vec<Received>,
}

impl Batch {
    /// Room for [`PLACES`] datagrams of any size, with so many bytes in front and behind.
    pub(crate) fn new(headroom: usize, tailroom: usize) -> Self {
        assert!(headroom + MAX_DATAGRAM + tailroom <= PLACE_BYTES, "a place holds them all");
        Self {
            memory: vec![0; PLACES * PLACE_BYTES].into_boxed_slice(),
            headroom,
            tailroom,
            names: vec![MaybeUninit::uninit(); PLACES].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_BYTES]); PLACES].into_boxed_slice(),
            received: Vec::with_capacity(PLACES),
        }
    }

    /// Receives at most `want` datagrams without waiting, over those that lay here before, and tells how many. Fewer than wanted:
    /// nothing was left, or there is an error to report with the next call.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; others are about datagrams that were sent before.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, want: usize) -> io::Result<usize> {
        self.received.clear();
        let want = want.min(self.names.len());
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; PLACES];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; PLACES];
        let places = self.memory.chunks_exact_mut(PLACE_BYTES).zip(&mut self.names).zip(&mut self.controls);
        for (((place, name), control), (vector, header)) in
            places.zip(vectors.iter_mut().zip(&mut headers)).take(want)
        {
            let room = &mut place[self.headroom..][..MAX_DATAGRAM];
            let vector =
                vector.write(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() });
            // SAFETY: an all-zero mmsghdr is a valid one.
            let header = header.write(unsafe { std::mem::zeroed() });
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_BYTES;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.0.len();
        }
        let count = libc::c_uint::try_from(want).unwrap_or(0);
        // SAFETY: the first `want` headers were written above; each points to memory of its own that outlives the call, with its
        // length beside it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                count,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (header, name) in headers.iter().zip(&self.names).take(received) {
            // SAFETY: recvmmsg filled the first `received` headers, which were all written before.
            let header = unsafe { header.assume_init_ref() };
            // SAFETY: the kernel wrote an address of `msg_namelen` bytes to where `msg_name` points, which is `name`.
            let from = unsafe { address(name, header.msg_hdr.msg_namelen) };
            let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
            let beside = beside(&header.msg_hdr);
            let len = header.msg_len as usize;
            let (to, traffic_class, overflows) = (beside.to, beside.traffic_class, beside.overflows);
            self.received.push(Received { len, from, to, traffic_class, overflows });
        }
        Ok(received)
    }

    /// What was told of the datagram in place `index`.
    pub(crate) fn received(&self, index: usize) -> Option<Received> {
        self.received.get(index).copied()
    }

    /// The datagram in place `index`.
    pub(crate) fn datagram(&self, index: usize) -> &[u8] {
        let len = self.received.get(index).map_or(0, |received| received.len);
        self.bytes(index, self.headroom..self.headroom + len)
    }

    /// What lies in place `index`, counted from the beginning of its headroom.
    pub(crate) fn bytes(&self, index: usize, range: std::ops::Range<usize>) -> &[u8] {
        let place = self.memory.get(index * PLACE_BYTES..).unwrap_or_default();
        place.get(range).unwrap_or_default()
    }

    /// The whole place `index`: headroom, room for a datagram, tailroom.
    pub(crate) fn place(&mut self, index: usize) -> &mut [u8] {
        let whole = self.headroom + MAX_DATAGRAM + self.tailroom;
        let place = self.memory.get_mut(index * PLACE_BYTES..).unwrap_or_default();
        place.get_mut(..whole).unwrap_or_default()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Batch").field("received", &self.received).finish_non_exhaustive()
    }
}

/// # Safety
/// The first `len` bytes of `name` must be initialised.
unsafe fn address(name: &MaybeUninit<libc::sockaddr_storage>, len: libc::socklen_t) -> Option<SocketAddr> {
    let (name, len) = (name.as_ptr(), len as usize);
    if len < size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: a storage is aligned for every address and begins with the family, of which the caller says that it is there; the
    // family says what else is there, and the length that all of it is.
    unsafe {
        match i32::from((&raw const (*name).ss_family).read()) {
            libc::AF_INET if len >= size_of::<libc::sockaddr_in>() => {
                let found = name.cast::<libc::sockaddr_in>().read();
                let ip = Ipv4Addr::from(found.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(found.sin_port)).into())
            }
            libc::AF_INET6 if len >= size_of::<libc::sockaddr_in6>() => {
                let found = name.cast::<libc::sockaddr_in6>().read();
                let (ip, port) = (Ipv6Addr::from(found.sin6_addr.s6_addr), u16::from_be(found.sin6_port));
                Some(SocketAddrV6::new(ip, port, found.sin6_flowinfo, found.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Datagrams per system call: what a source may have per turn of a worker's loop.
pub(crate) const PLACES: usize = 64;
/// The largest UDP datagram.
const MAX_DATAGRAM: usize = 65_535;
/// No multiple of a page, so that the beginnings of datagrams do not all compete for the same lines of the cache.
const PLACE_BYTES: usize = 65_536 + 256;
const NAME_BYTES: libc::socklen_t = 128;
const _: () = assert!(size_of::<libc::sockaddr_storage>() == 128);

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::sys::datagram;

    #[test]
    fn datagrams_come_out_whole_in_order_and_with_their_senders() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let [one, other, to] = [any; 3].map(|any| UdpSocket::bind(any).expect("binds"));
            let address = to.local_addr().expect("bound");
            let mut batch = Batch::new(56, 3);
            let sent: Vec<(&UdpSocket, Vec<u8>)> = (0..10_u8)
                .map(|n| (if n % 3 == 0 { &one } else { &other }, vec![n; 1999 * usize::from(n)]))
                .collect();
            for (from, bytes) in &sent {
                // On loopback it is there when the call returns.
                from.send_to(bytes, address).expect("sends");
            }
            assert_eq!(batch.receive(to.as_fd(), 4).expect("receives"), 4);
            let mut seen = took(&batch, 4);
            let rest = batch.receive(to.as_fd(), PLACES).expect("receives");
            seen.extend(took(&batch, rest));
            let sent = sent.iter().map(|(from, bytes)| (from.local_addr().expect("bound"), bytes.clone()));
            assert!(seen.into_iter().eq(sent), "{any}");
            let nothing = batch.receive(to.as_fd(), 4).expect_err("that was all");
            assert_eq!((nothing.kind(), batch.received(0).is_none()), (io::ErrorKind::WouldBlock, true));
        }
    }

    fn took(batch: &Batch, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        (0..count).map(|n| (batch.received(n).expect("received").from, batch.datagram(n).to_vec())).collect()
    }

    #[test]
    fn a_run_arrives_as_the_datagrams_that_it_was_made_of() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let [from, to] = [any; 2].map(|any| UdpSocket::bind(any).expect("binds"));
            let run = [vec![1; 1000], vec![2; 1000], vec![3; 1000], vec![4; 17]];
            let slices: Vec<_> = run.iter().map(|bytes| io::IoSlice::new(bytes)).collect();
            datagram::report_traffic_class(to.as_fd(), any.starts_with('1')).expect("is supported");
            let address = to.local_addr().expect("bound");
            datagram::send_run(from.as_fd(), &slices, address, Some(address.ip()), 0xB8)
                .expect("is supported");
            let mut batch = Batch::new(0, 0);
            assert_eq!(batch.receive(to.as_fd(), PLACES).expect("receives"), run.len());
            for (n, bytes) in run.iter().enumerate() {
                assert_eq!(batch.datagram(n), bytes);
                assert_eq!(batch.received(n).expect("received").traffic_class, 0xB8);
            }
        }
    }
}
