//! What both of our binaries do alike around their server: load settings, log, answer on the admin listener,
//! wait for a signal, and end with one clear line when they cannot start.
//!
//! Nothing here knows a protocol. A program's `main` is, in order:
//!
//! 1. [`settings::load`]: file <- environment <- flags into the program's own `Config`;
//! 2. [`telemetry::start`];
//! 3. parse `Config` into settings that cannot be wrong later, and stop there for `--check`;
//! 4. bind everything, [`Admin::bind`] included; any refusal is a [`StartError`];
//! 5. [`Admin::serve`] until [`shutdown::requested`];
//! 6. [`start_error::report`] turns a [`StartError`] into one line and exit code 2.

pub mod access;
pub mod admin;
pub mod api;
pub mod certificate;
pub mod certificate_watch;
pub mod changes;
pub mod console;
pub mod hook;
pub mod problem;
pub mod proxy_header;
pub mod settings;
pub mod shutdown;
pub mod start_error;
pub mod supervisor;
pub mod telemetry;

pub use admin::{Admin, AdminAddress, Readiness};
pub use start_error::StartError;
