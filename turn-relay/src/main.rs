//! `turn-relay`: the binary.
fn main() {}
