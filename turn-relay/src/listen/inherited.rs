//! Listening sockets that somebody else opened: a `.socket` unit, or the process before this one by way of systemd's
//! descriptor store.
//!
//! A socket belongs to the listen address that it is bound to. Those of one address come in the order of their workers, which
//! the stored ones carry in their names; what the kernel queued in them meanwhile is read by whoever takes them.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Socket, Type};

use crate::operation::{StartError, supervisor};

/// What was handed over and is not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<Handed>);

#[derive(Debug)]
struct Handed {
    name: String,
    socket: Socket,
    address: SocketAddr,
    stream: bool,
    /// Which worker had it; those of a unit come first.
    worker: Option<usize>,
}

/// The name under which a worker's socket is stored. systemd allows no colon.
pub(crate) fn name(address: SocketAddr, stream: bool, worker: usize) -> String {
    let (kind, ip) = (if stream { "tcp" } else { "udp" }, address.ip().to_string().replace(':', "_"));
    format!("turn-{kind}-{worker}-{ip}-{}", address.port())
}

fn worker_of(name: &str) -> Option<usize> {
    let rest = name.strip_prefix("turn-udp-").or_else(|| name.strip_prefix("turn-tcp-"))?;
    rest.split('-').next()?.parse().ok()
}

impl Inherited {
    /// Looks at each descriptor. The same socket given twice, by its unit and by the store, counts once.
    ///
    /// # Errors
    /// One line, for a socket that cannot be served as it is.
    pub(crate) fn new(descriptors: Vec<(String, OwnedFd)>) -> Result<Self, StartError> {
        let (mut seen, mut all) = (HashSet::new(), Vec::new());
        for (name, descriptor) in descriptors {
            let socket = Socket::from(descriptor);
            let address = socket.local_addr().ok().and_then(|address| address.as_socket());
            let (Some(address), Ok(kind)) = (address, socket.r#type()) else {
                tracing::warn!("handed over was {name:?}, which is no UDP or TCP socket; it is closed");
                continue;
            };
            if socket.cookie().is_ok_and(|cookie| !seen.insert(cookie)) {
                continue;
            }
            let mixed =
                address.is_ipv6() && address.ip().is_unspecified() && !socket.only_v6().unwrap_or(true);
            if mixed {
                return Err(StartError::new(format!(
                    "the socket handed over for {address} takes IPv4 too; write BindIPv6Only=ipv6-only into its unit"
                )));
            }
            let worker = worker_of(&name);
            all.push(Handed { name, address, stream: kind == Type::STREAM, worker, socket });
        }
        all.sort_by_key(|handed| handed.worker);
        Ok(Self(all))
    }

    /// The addresses, each once.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let mut seen = HashSet::new();
        self.0.iter().map(|handed| handed.address).filter(|address| seen.insert(*address)).collect()
    }

    /// Whether there is any socket of that address.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        self.0.iter().any(|handed| handed.address == address)
    }

    /// Takes at most `workers` sockets of one address and kind, in order.
    ///
    /// # Errors
    /// When others must share the port and the socket does not let them.
    pub(crate) fn take(
        &mut self,
        address: SocketAddr,
        stream: bool,
        workers: usize,
    ) -> Result<Vec<Socket>, StartError> {
        let mut room = workers;
        let fits = |handed: &mut Handed| {
            let fits = room > 0 && handed.address == address && handed.stream == stream;
            room -= usize::from(fits);
            fits
        };
        let sockets: Vec<Socket> = self.0.extract_if(.., fits).map(|handed| handed.socket).collect();
        let alone = sockets.len() < workers
            && sockets.first().is_some_and(|socket| !socket.reuse_port().unwrap_or(false));
        if alone {
            return Err(StartError::new(format!(
                "{workers} workers cannot share the socket handed over for {address}; write ReusePort=yes into its unit"
            )));
        }
        Ok(sockets)
    }

    /// Closes the rest, here and in the store, and says so.
    pub(crate) fn finish(self) {
        for Handed { name, address, worker, .. } in self.0 {
            tracing::warn!("{name:?} was handed over for {address} and is not needed any more; it is closed");
            if worker.is_some() {
                supervisor::forget(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_carries_the_worker_and_no_colon() {
        for (address, expected) in
            [("0.0.0.0:3478", "turn-udp-11-0.0.0.0-3478"), ("[::1]:5349", "turn-udp-11-__1-5349")]
        {
            let name = name(address.parse().expect("an address"), false, 11);
            assert_eq!((name.as_str(), worker_of(&name)), (expected, Some(11)));
        }
        assert_eq!(worker_of("turn-relay.socket"), None);
    }

    #[test]
    fn sockets_of_one_address_come_in_the_order_of_their_workers_and_each_once() {
        let open = |address: SocketAddr| {
            let socket = Socket::new(socket2::Domain::IPV4, Type::DGRAM, None).expect("a socket");
            socket.set_reuse_port(true).expect("Linux");
            socket.bind(&address.into()).expect("a port");
            socket
        };
        let first = open("127.0.0.1:0".parse().expect("an address"));
        let address = first.local_addr().expect("bound").as_socket().expect("IPv4");
        let sockets = [first, open(address), open(address)];
        let given = [2, 0, 1, 0].map(|worker| {
            (name(address, false, worker), OwnedFd::from(sockets[worker].try_clone().expect("a copy")))
        });
        let mut inherited = Inherited::new(given.into()).expect("good ones");
        assert_eq!(inherited.addresses(), [address]);
        let cookies = |sockets: &[Socket]| -> Vec<u64> {
            sockets.iter().map(|socket| socket.cookie().expect("Linux")).collect()
        };
        let taken = inherited.take(address, false, 2).expect("shared");
        assert_eq!(cookies(&taken), cookies(&sockets[..2]));
        let left = inherited.take(address, false, 2).expect("shared");
        assert_eq!(cookies(&left), cookies(&sockets[2..]));
        assert!(!inherited.has(address));
    }
}
