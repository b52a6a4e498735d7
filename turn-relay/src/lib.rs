//! STUN and TURN server: RFC 8489 and RFC 8656 over UDP and TCP, IPv4 and IPv6.

pub mod operation;
