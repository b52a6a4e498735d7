//! Many datagrams with one system call (`recvmmsg`), each in a place of its own with room in front and behind.
//!
//! Takes what is there and never waits for more. What the kernel hands over as one (`UDP_GRO`), having put together equal datagrams of
//! a flow that came together, is taken apart here: nobody else sees runs.

#![expect(unsafe_code, reason = "recvmmsg and its addresses have no safe wrapper here")]

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::datagram::{CONTROL_BYTES, Control, Received, beside};

/// Places, and what lies in them. Empty by default; then nothing can be received.
#[derive(Default)]
pub(crate) struct Batch {
    /// What one message of the kernel's becomes lies in [`MESSAGE_BYTES`]. Only pages that were written to are resident.
    memory: Box<[u8]>,
    headroom: usize,
    tailroom: usize,
    names: Box<[MaybeUninit<libc::sockaddr_storage>]>,
    controls: Box<[Control]>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where its headroom begins.
    start: usize,
    received: Received,
}

/// What one call brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Places from 0 on.
    pub(crate) datagrams: usize,
    /// As many messages as were wanted: there may be more.
    pub(crate) more: bool,
}

impl Batch {
    /// Room for [`MESSAGES`] datagrams of any size, or as many runs, with so many bytes in front of each datagram and behind.
    pub(crate) fn new(headroom: usize, tailroom: usize) -> Self {
        assert!(MAX_DATAGRAM + RUN * (headroom + tailroom) <= MESSAGE_BYTES, "there is room for all of it");
        Self {
            memory: vec![0; MESSAGES * MESSAGE_BYTES].into_boxed_slice(),
            headroom,
            tailroom,
            names: vec![MaybeUninit::uninit(); MESSAGES].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_BYTES]); MESSAGES].into_boxed_slice(),
            places: Vec::with_capacity(MESSAGES),
        }
    }

    /// Receives at most `want` datagrams or runs of them without waiting, over those that lay here before. Fewer than wanted:
    /// nothing was left, or there is an error to report with the next call.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; others are about datagrams that were sent before.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, want: usize) -> io::Result<Taken> {
        self.places.clear();
        let want = want.min(self.names.len());
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
        let rooms = self.memory.chunks_exact_mut(MESSAGE_BYTES).zip(&mut self.names).zip(&mut self.controls);
        for (((room, name), control), (vector, header)) in
            rooms.zip(vectors.iter_mut().zip(&mut headers)).take(want)
        {
            let room = &mut room[self.headroom..][..MAX_DATAGRAM];
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
        for (index, (header, name)) in headers.iter().zip(&self.names).take(received).enumerate() {
            // SAFETY: recvmmsg filled the first `received` headers, which were all written before.
            let header = unsafe { header.assume_init_ref() };
            // SAFETY: the kernel wrote an address of `msg_namelen` bytes to where `msg_name` points, which is `name`.
            let from = unsafe { address(name, header.msg_hdr.msg_namelen) };
            let from = from.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
            let beside = beside(&header.msg_hdr);
            let len = header.msg_len as usize;
            let (to, traffic_class, overflows) = (beside.to, beside.traffic_class, beside.overflows);
            let place = Place {
                start: index * MESSAGE_BYTES,
                received: Received { len, from, to, traffic_class, overflows },
            };
            match beside.segment {
                Some(segment) if segment < len => {
                    let room = self.memory.get_mut(place.start..).unwrap_or_default();
                    let (before, after) = (self.headroom, self.tailroom);
                    self.places.extend(take_apart(room, place, segment, before, after));
                }
                _ => self.places.push(place),
            }
        }
        Ok(Taken { datagrams: self.places.len(), more: received == want })
    }

    /// What was told of the datagram in place `index`.
    pub(crate) fn received(&self, index: usize) -> Option<Received> {
        self.places.get(index).map(|place| place.received)
    }

    /// The datagram in place `index`.
    pub(crate) fn datagram(&self, index: usize) -> &[u8] {
        let len = self.places.get(index).map_or(0, |place| place.received.len);
        self.bytes(index, self.headroom..self.headroom + len)
    }

    /// What lies in place `index`, counted from the beginning of its headroom.
    pub(crate) fn bytes(&self, index: usize, range: std::ops::Range<usize>) -> &[u8] {
        let Some(place) = self.places.get(index) else { return &[] };
        self.memory.get(place.start..).and_then(|place| place.get(range)).unwrap_or_default()
    }

    /// The whole place `index`: headroom, the datagram, tailroom.
    pub(crate) fn place(&mut self, index: usize) -> &mut [u8] {
        let Some(place) = self.places.get(index) else { return &mut [] };
        let whole = self.headroom + place.received.len + self.tailroom;
        self.memory.get_mut(place.start..).and_then(|place| place.get_mut(..whole)).unwrap_or_default()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Batch").field("places", &self.places).finish_non_exhaustive()
    }
}

/// Makes room in front of each datagram of a run and behind. `room` begins at the run's headroom; the last may be shorter than the others.
fn take_apart(
    room: &mut [u8],
    run: Place,
    segment: usize,
    headroom: usize,
    tailroom: usize,
) -> impl Iterator<Item = Place> {
    let Place { start, received } = run;
    let pitch = headroom + segment + tailroom;
    // The kernel makes no longer ones.
    let count = received.len.div_ceil(segment).min(RUN);
    let len = move |n| segment.min(received.len - n * segment);
    for n in (1..count).rev() {
        let from = headroom + n * segment;
        room.copy_within(from..from + len(n), headroom + n * pitch);
    }
    (0..count)
        .map(move |n| Place { start: start + n * pitch, received: Received { len: len(n), ..received } })
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

/// Datagrams, or runs of them, per system call.
pub(crate) const MESSAGES: usize = 64;
/// Datagrams of a run at most: the kernel puts 64 together, and a program on this host 128 (UDP_GRO_CNT_MAX, UDP_MAX_SEGMENTS).
const RUN: usize = 128;
/// The largest UDP datagram, and the largest run.
const MAX_DATAGRAM: usize = 65_535;
/// No multiple of a page, so that the beginnings of datagrams do not all compete for the same lines of the cache.
const MESSAGE_BYTES: usize = 18 * 4096 + 256;
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
            let first = batch.receive(to.as_fd(), 4).expect("receives");
            assert_eq!(first, Taken { datagrams: 4, more: true });
            let mut seen = took(&batch, first);
            let rest = batch.receive(to.as_fd(), MESSAGES).expect("receives");
            assert!(!rest.more);
            seen.extend(took(&batch, rest));
            let sent = sent.iter().map(|(from, bytes)| (from.local_addr().expect("bound"), bytes.clone()));
            assert!(seen.into_iter().eq(sent), "{any}");
            let nothing = batch.receive(to.as_fd(), 4).expect_err("that was all");
            assert_eq!((nothing.kind(), batch.received(0).is_none()), (io::ErrorKind::WouldBlock, true));
        }
    }

    fn took(batch: &Batch, taken: Taken) -> Vec<(SocketAddr, Vec<u8>)> {
        let place = |n| (batch.received(n).expect("received").from, batch.datagram(n).to_vec());
        (0..taken.datagrams).map(place).collect()
    }

    /// Whether the socket takes runs as one or not: each datagram has room in front and behind that is its own.
    #[test]
    fn a_run_arrives_as_the_datagrams_that_it_was_made_of() {
        for (any, as_one) in [("127.0.0.1:0", true), ("[::1]:0", true), ("127.0.0.1:0", false)] {
            let [from, to] = [any; 2].map(|any| UdpSocket::bind(any).expect("binds"));
            let run = [vec![1; 1000], vec![2; 1000], vec![3; 1000], vec![4; 17]];
            let slices: Vec<_> = run.iter().map(|bytes| io::IoSlice::new(bytes)).collect();
            datagram::report_traffic_class(to.as_fd(), any.starts_with('1')).expect("is supported");
            if as_one {
                datagram::receive_runs(to.as_fd()).expect("is supported");
            }
            let address = to.local_addr().expect("bound");
            datagram::send_run(from.as_fd(), &slices, address, Some(address.ip()), 0xB8)
                .expect("is supported");
            from.send_to(b"alone", address).expect("sends");
            let mut batch = Batch::new(56, 3);
            // As one: two messages are enough for five datagrams.
            let taken = batch.receive(to.as_fd(), if as_one { 2 } else { MESSAGES }).expect("receives");
            assert_eq!(taken, Taken { datagrams: run.len() + 1, more: as_one });
            for n in 0..run.len() {
                assert_eq!(batch.received(n).expect("received").traffic_class, 0xB8);
                let place = batch.place(n);
                let end = place.len() - 3;
                place[..56].fill(0xFF);
                place[end..].fill(0xFF);
            }
            let alone = b"alone".to_vec();
            for (n, bytes) in run.iter().chain([&alone]).enumerate() {
                assert_eq!(batch.datagram(n), bytes);
            }
        }
    }

    #[test]
    fn the_longest_runs_fit() {
        for (segment, count) in [(1, 64), (1000, 64), (65_507, 1), (511, 128), (65_506, 2)] {
            let [from, to] = ["127.0.0.1:0"; 2].map(|any| UdpSocket::bind(any).expect("binds"));
            datagram::receive_runs(to.as_fd()).expect("is supported");
            datagram::set_receive_queue(to.as_fd(), 1 << 20);
            let run: Vec<_> = (0..count).map(|n| vec![n; segment]).collect();
            let slices: Vec<_> = run.iter().map(|bytes| io::IoSlice::new(bytes)).collect();
            if datagram::send_run(from.as_fd(), &slices, to.local_addr().expect("bound"), None, 0).is_err() {
                // More than a kernel before 6.9 takes, or than fits.
                assert!(count > 64 || segment * usize::from(count) > 65_507);
                continue;
            }
            let mut batch = Batch::new(56, 3);
            let taken = batch.receive(to.as_fd(), 1).expect("receives");
            assert!(took(&batch, taken).into_iter().map(|(_, bytes)| bytes).eq(run), "{segment} x {count}");
        }
    }
}
