//! How bytes come in and go out. A transport moves frames between a socket and a shard; it knows no room and no peer.

pub(crate) mod listen;
pub(crate) mod websocket;
