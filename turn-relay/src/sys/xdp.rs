//! The memory that the XDP program and this process have in common, laid out as `xdp/relay.bpf.c` has it.
//!
//! Addresses, ports and channel numbers are in network byte order, so they are bytes here; IPv4 addresses are v4-mapped.
//! Knows no meaning: [`crate::xdp`] does.

#![expect(
    unsafe_code,
    reason = "shared memory has no safe wrapper here, and aya wants to be told what is plain data"
)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// `struct arrival`: what a datagram looks like that belongs to a route.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) from: [u8; 16],
    pub(crate) to: [u8; 16],
    pub(crate) from_port: [u8; 2],
    pub(crate) to_port: [u8; 2],
    /// 0: it is a peer's.
    pub(crate) channel: [u8; 2],
    pub(crate) unused: u16,
}

/// `struct departure`: what is sent for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    pub(crate) from: [u8; 16],
    pub(crate) to: [u8; 16],
    pub(crate) from_port: [u8; 2],
    pub(crate) to_port: [u8; 2],
    /// 0: it goes to a peer.
    pub(crate) channel: [u8; 2],
    pub(crate) flags: u16,
    pub(crate) slot: u32,
    pub(crate) allocation_meter: u32,
    pub(crate) user_meter: u32,
}

/// Bits of [`Departure::flags`].
pub(crate) const IPV4: u16 = 1;
pub(crate) const DONT_FRAGMENT: u16 = 2;
pub(crate) const TO_CLIENT: u16 = 4;
pub(crate) const TO_US: u16 = 8;

/// `struct pace`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) scaled_cost: u64,
    pub(crate) depth: u64,
}

/// `struct limits`: bytes and packets of an allocation, then of a user.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) allocation: [Pace; 2],
    pub(crate) user: [Pace; 2],
}

/// `struct port`: an interface, or a VLAN on one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) device: u32,
    /// 0: frames carry no tag.
    pub(crate) vlan: [u8; 2],
    pub(crate) mac: [u8; 6],
    pub(crate) ttl: u8,
    pub(crate) hop_limit: u8,
    pub(crate) unused: [u8; 2],
}

/// `struct tag`: a VLAN on an interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) device: u32,
    pub(crate) vlan: [u8; 2],
    pub(crate) unused: u16,
}

// SAFETY: no padding (see the assertions below), no pointers, and any bytes are a value.
unsafe impl aya::Pod for Arrival {}
// SAFETY: as above.
unsafe impl aya::Pod for Departure {}
// SAFETY: as above.
unsafe impl aya::Pod for Limits {}
// SAFETY: as above.
unsafe impl aya::Pod for Port {}
// SAFETY: as above.
unsafe impl aya::Pod for Tag {}

/// `struct lane`: what changes while a route stands, of one direction.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// By [`monotonic`]; nothing passes from then on.
    pub(crate) expires: AtomicU64,
    pub(crate) packets: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Packets above a rate of the allocation, and of the user.
    pub(crate) over: [AtomicU64; 2],
    /// When the next packet is left to this process.
    pub(crate) next_visit: AtomicU64,
    /// `struct way`, which the program alone uses; the first word is until when.
    pub(crate) way: [AtomicU64; 4],
    pub(crate) unused: [AtomicU64; 6],
}

/// `struct route`: towards the peer, towards the client.
pub(crate) type Lanes = [Lane; 2];

/// `struct meter`: bytes and packets towards peers, and the same towards the client.
pub(crate) type Meter = [[AtomicU64; 2]; 2];

const _: () = {
    assert!(size_of::<Arrival>() == 40 && size_of::<Departure>() == 52);
    assert!(size_of::<Limits>() == 64 && size_of::<Port>() == 16 && size_of::<Tag>() == 8);
    assert!(size_of::<Lanes>() == 256 && size_of::<Meter>() == 32);
};

/// An address as the program holds it.
pub(crate) fn bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What the program's clock says now, in nanoseconds.
pub(crate) fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec that outlives the call, which writes nothing else. This clock cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The name of an interface's driver.
///
/// # Errors
/// When the kernel refuses: there is no such interface, or its driver does not say.
pub(crate) fn driver_name(interface: &str) -> io::Result<String> {
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const GET_DRIVER_INFO: u32 = 3;
    let mut info = DriverInfo { command: GET_DRIVER_INFO, driver: [0; 32], rest: [0; 160] };
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: `request` names `info`, which is as large as ethtool_drvinfo; both outlive the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// What an array of the program may consist of.
pub(crate) trait Shared: Sync + 'static {}
impl Shared for Lanes {}
impl Shared for Meter {}

/// An array of the program, in this process's memory.
#[derive(Debug)]
pub(crate) struct Mapped<T: Shared> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: it gives out shared references to atomics only, and owns its mapping.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    /// Maps an array with so many elements (`BPF_F_MMAPABLE`).
    ///
    /// # Errors
    /// When the kernel refuses: another kind of map, a shorter one.
    pub(crate) fn new(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping where the kernel likes; no memory of ours is touched.
        let first = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * size_of::<T>(),
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if first == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, len })
    }

    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let index = usize::try_from(index).ok().filter(|index| *index < self.len)?;
        // SAFETY: the mapping has `len` elements and lives as long as `self`. They are atomics, for which any bits are a value, and
        // which the program, too, only changes atomically or a word at a time.
        Some(unsafe { self.first.add(index).as_ref() })
    }
}

impl<T: Shared> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and no reference outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
