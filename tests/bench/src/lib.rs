//! What the benchmarks share: the table of their results, what the kernel says that a process costs, and a certificate. Knows no server.

mod certificate;
pub mod cost;
mod report;

pub use certificate::Certificate;
pub use report::{Better, Report};
