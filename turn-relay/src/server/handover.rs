//! Copies of the listening sockets, for the supervisor to keep while one process ends and the next begins.
//!
//! A socket that anybody holds stays open: the kernel goes on queueing what clients send, and refuses nothing with ICMP. The
//! copies here are closed once they are handed over.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use crate::listen::{Listener, inherited};
use crate::operation::supervisor;

/// Each worker's sockets with their names; nothing where nobody keeps them.
pub(super) fn copies(workers: &[Vec<Listener>]) -> Vec<(String, OwnedFd)> {
    let mut copies = Vec::new();
    for listener in workers.iter().flatten() {
        let name = |stream| inherited::name(listener.address, stream, listener.worker);
        copies.extend(copy(name(false), listener.udp.as_fd()));
        copies.extend(listener.tcp.as_ref().and_then(|tcp| copy(name(true), tcp.as_fd())));
    }
    copies
}

/// One of them; none where nobody keeps it.
pub(super) fn copy(name: String, socket: BorrowedFd<'_>) -> Option<(String, OwnedFd)> {
    if !supervisor::is_there() {
        return None;
    }
    match socket.try_clone_to_owned() {
        Ok(copy) => Some((name, copy)),
        Err(error) => {
            tracing::debug!("a listening socket is not handed over: {error}");
            None
        }
    }
}
