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
