//! Message types of the signaling protocol `signaling.v1`, shared by the server and by clients written in Rust.
//!
//! ```text
//! bytes -> ClientFrame::parse -> ClientMessage      what a client may say
//! ServerMessage -> text -> ServerFrame::parse       what the server answers
//! ```
//!
//! The contract in prose, with an example of every message, is `PROTOCOL.md` of the server.
//!
//! This crate holds shapes and their bounds only: no socket, no clock, no state of a session. Whatever it returns has
//! been checked: a [`RoomName`] is a room name, a [`Secret`] has 256 bits, a frame is inside its size and depth.
//! What peers say to each other (descriptions, candidates) stays raw JSON and is never looked into.

mod client;
mod close;
mod ice;
mod json;
mod moderation;
mod name;
mod server;

pub mod schema;

pub use client::{ClientFrame, ClientMessage, FrameError, Hello, Payload, Report, Signal};
pub use close::{CloseCode, ErrorCode, Retry};
pub use ice::{IceServer, IceServers};
pub use json::{MAX_FRAME_BYTES, MAX_FRAME_DEPTH, MAX_HELLO_BYTES};
pub use moderation::{Ban, Bans, Door, Kick, MAX_BAN, SetDoor};
pub use name::{
    AccessToken, DisplayName, Instance, InvalidName, Negotiation, NoticeText, Password, PeerId, ResumeToken,
    Role, RoomName, Secret, SessionId,
};
pub use server::{
    GoAway, Granted, Ice, Knock, KnockEnded, LeaveReason, LimitsNotice, Notice, Outcome, PeerChanged,
    PeerJoined, PeerLeft, PeerSnapshot, PeerState, PingNotice, RelayedSignal, ResyncReason, RoomChanged,
    RoomSnapshot, ServerError, ServerFrame, ServerMessage, Welcome,
};

/// The WebSocket subprotocol (`Sec-WebSocket-Protocol`) that this crate describes.
pub const SUBPROTOCOL: &str = "signaling.v1";

/// Largest integer that every JSON implementation keeps exactly (2^53 - 1); no `seq` or `ack` goes beyond it.
pub const MAX_SEQ: u64 = (1 << 53) - 1;
