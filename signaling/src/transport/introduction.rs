//! The PROXY header before the first byte of a connection that a trusted proxy passes on.
//!
//! It is taken off the socket and nothing behind it is, so what follows, TLS or not, needs no layer for as long as the
//! connection lives.

use std::{io, net::SocketAddr};

use tokio::{io::AsyncReadExt as _, net::TcpStream};
use turn_relay::operation::proxy_header::{self, MAX_HEADER_BYTES};

/// Whose connection it is; `None`: the proxy's own, or it does not know. The header may come in pieces: whoever calls sets a
/// deadline.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut head = Vec::new();
    loop {
        let taken = head.len();
        head.resize(MAX_HEADER_BYTES, 0);
        let seen = stream.peek(&mut head[taken..]).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.truncate(taken + seen);
        let complete =
            proxy_header::read(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // As long as it is not complete, all that came is of the header.
        let end = complete.map_or(head.len(), |introduction| introduction.len);
        if let Some(part) = head.get_mut(taken..end) {
            stream.read_exact(part).await?;
        }
        if let Some(introduction) = complete {
            return Ok(introduction.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::io::ioctl_fionread;
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_header_is_read_piece_by_piece_and_nothing_behind_it() {
        let header = b"PROXY TCP4 203.0.113.7 192.0.2.1 56120 443\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut far = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let (mut near, _) = listener.accept().await.expect("accepts");
        far.set_nodelay(true).expect("an option");
        let socket = near.as_fd().try_clone_to_owned().expect("another descriptor");
        let reading = tokio::spawn(async move { (read(&mut near).await, near) });
        let (last, before) = header.split_last().expect("some bytes");
        for piece in before.chunks(7) {
            far.write_all(piece).await.expect("sent");
            // Until it was taken off the socket: what comes next is a piece of its own.
            while !reading.is_finished() && ioctl_fionread(&socket).expect("a socket") > 0 {
                tokio::task::yield_now().await;
            }
        }
        far.write_all(&[*last, b'G', b'E', b'T']).await.expect("sent");
        let (client, mut near) = reading.await.expect("no panic");
        assert_eq!(client.expect("a header"), Some("203.0.113.7:56120".parse().expect("an address")));
        let mut rest = [0; 3];
        near.read_exact(&mut rest).await.expect("it is still there");
        assert_eq!(&rest, b"GET");
    }
}
