//! The client's side of a signaling session, as a value: what PROTOCOL.md asks of a client that loses nothing.
//!
//! ```text
//!                 +------------- Client -------------+
//!   Input  -----> |  received, told   kept, flushed  | -----> Output
//!   (now, what    |  token            pace           |        (connect, send, disconnect, tell)
//!    happened)    +----------------------------------+
//!                       deadline(): when to say Timeout
//! ```
//!
//! The driver owns sockets, clocks and the choice of the transport: it opens a connection when [`Output::Connect`] asks
//! for one, over whichever of the three ways it likes, and hands in the frames that come. The client touches no socket,
//! no clock, no thread and no random source, so that a test can run a million schedules of it.
//!
//! Invariants:
//! - Every sequenced frame of the server is handed out once and in order while the session lives, and every signal is
//!   sent until the server has acknowledged it; when the session could not be kept, [`Event::Welcome`] says so.
//! - What waits for an acknowledgement is bounded by the limits that the server named.
//! - At most one connection is listened to, the one that was asked for last.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod contract;
mod kept;
mod session;

#[cfg(test)]
mod tests;

pub use contract::{ConnId, Event, Identity, Input, Moderation, Output, Outputs};
pub use session::Client;
