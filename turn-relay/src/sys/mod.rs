//! What the standard library and `socket2` do not offer of the operating system. The only unsafe code of this crate.
//!
//! Knows sockets and system calls, nothing of STUN, TURN or workers. [`datagram`] moves one datagram per call; it is the
//! place where batches (`recvmmsg`, `UDP_GRO`, `UDP_SEGMENT`) go, since its callers already work in bounded rounds.

pub(crate) mod datagram;
pub(crate) mod descriptors;
pub(crate) mod error_queue;
pub(crate) mod inherited;
