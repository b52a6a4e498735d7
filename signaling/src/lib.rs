//! WebRTC signaling server: rooms in which browsers and native programs find each other and negotiate.
//!
//! ```text
//! browser -- ws --> transport --> shard --> hub --> outbox --> transport --> browser
//! ```
//!
//! [`hub`] is the pure core: it takes `now` and an input and answers with values that say what must happen. Everything
//! else moves bytes for it. The wire contract is `PROTOCOL.md` and, as types, the crate `signaling_protocol`.
//!
//! Beside that the server hands out the call page, and ICE servers whose TURN credentials it mints; by default it
//! runs the relay that verifies them in the same process.

pub mod config;
pub mod hub;
pub mod origin;
pub mod reload;
pub mod server;

mod acme;
mod admin;
mod assets;
mod authority;
mod metrics;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(not(feature = "otel"))]
#[path = "otlp/absent.rs"]
mod otlp;
mod outbox;
mod report;
mod revocation;
mod routes;
mod rules;
mod shard;
mod tls;
mod transport;
mod turn;
mod watchdog;
mod webhook;

pub use config::{Config, Settings};
pub use server::Server;
