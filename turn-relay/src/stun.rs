//! STUN messages (skeleton).
