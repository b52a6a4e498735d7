//! STUN and TURN server.
