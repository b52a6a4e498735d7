//! `signaling`: the binary.
fn main() {}
