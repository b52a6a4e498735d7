//! Copies of the listening sockets, for the supervisor to keep while one process ends and the next begins.
//!
//! A socket that anybody holds stays open: the kernel goes on queueing what clients send, and refuses nothing with ICMP. The
//! copies here are closed once they are handed over.

use std::os::fd::{AsFd as _, OwnedFd};

use crate::listen::{Listener, inherited};
use crate::operation::supervisor;

/// Each worker's sockets with their names; nothing where nobody keeps them.
pub(super) fn copies(workers: &[Vec<Listener>]) -> Vec<(String, OwnedFd)> {
    if !supervisor::is_there() {
        return Vec::new();
    }
    let mut copies = Vec::new();
    for (worker, listeners) in workers.iter().enumerate() {
        for listener in listeners {
            for (stream, socket) in [(false, listener.udp.as_fd()), (true, listener.tcp.as_fd())] {
                match socket.try_clone_to_owned() {
                    Ok(copy) => copies.push((inherited::name(listener.address, stream, worker), copy)),
                    Err(error) => tracing::debug!("a listening socket is not handed over: {error}"),
                }
            }
        }
    }
    copies
}
