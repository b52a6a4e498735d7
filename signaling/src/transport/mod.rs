//! How bytes come in and go out. A transport moves frames between a socket and a shard; it knows no room and no peer.
//!
//! ```text
//! websocket             one connection is one TCP connection, or one stream of HTTP/2
//! events + keyed        an answer that does not end brings the server's frames; the client's come by POST
//! poll   + keyed        answers that wait for frames, one after the other; the client's come by POST
//! ```

pub(crate) mod admission;
pub(crate) mod events;
mod flood;
pub(crate) mod forwarded;
mod framing;
pub(crate) mod guest;
pub(crate) mod http2;
mod introduction;
pub(crate) mod keyed;
pub(crate) mod listen;
pub(crate) mod poll;
mod socket;
pub(crate) mod websocket;
