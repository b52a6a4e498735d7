//! What the benchmarks share: the table of their results, and what the kernel says that a process costs. Knows no server.

pub mod cost;
mod report;

pub use report::{Better, Report};
