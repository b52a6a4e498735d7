//! What the standard library and `socket2` do not offer of the operating system. The only unsafe code of this crate.
//!
//! Knows sockets and system calls, nothing of STUN, TURN or workers. [`batch`] receives many datagrams with one call, [`datagram`] sends one or
//! a run of them.

pub(crate) mod batch;
pub(crate) mod datagram;
pub(crate) mod descriptors;
pub(crate) mod error_queue;
pub(crate) mod inherited;
#[cfg(feature = "xdp")]
pub(crate) mod xdp;
