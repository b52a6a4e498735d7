//! STUN and TURN server: RFC 8489 and RFC 8656 over UDP, TCP, TLS and DTLS, IPv4 and IPv6.
//!
//! ```text
//! client -- udp | tcp | tls | dtls --> listen --> datapath --> relay --> datapath --> peer
//!                                                    +-- control only --> stun --+
//! ```
//!
//! [`relay`] is the pure core: it takes `now` and an input and answers with values that say what must happen.
//! Everything else moves bytes for it.

pub mod address;
pub mod admin;
pub mod config;
pub mod credentials;
mod datapath;
pub mod frame;
pub mod hook;
mod journal;
mod listen;
mod metrics;
pub mod operation;
pub mod policy;
pub mod relay;
pub mod server;
pub mod stun;
mod sys;
#[cfg(feature = "xdp")]
mod xdp;
#[cfg(not(feature = "xdp"))]
#[path = "xdp/absent.rs"]
mod xdp;
