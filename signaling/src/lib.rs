//! WebRTC signaling server.
