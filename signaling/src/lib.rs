//! WebRTC signaling server.

pub mod hub;
