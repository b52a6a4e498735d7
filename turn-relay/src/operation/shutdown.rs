//! Waiting for the signals that end the program, and for the one that makes it read its configuration again.

use crate::operation::StartError;

/// Why the program was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// `SIGTERM`: a service manager stops us.
    Terminate,
    /// `SIGINT`: Ctrl-C.
    Interrupt,
}

impl std::fmt::Display for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        })
    }
}

/// Listens for `SIGTERM` and `SIGINT` from the moment it is made, so that none is missed between start and wait.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses the registration.
    pub fn listen() -> Result<Self, StartError> {
        use tokio::signal::unix::{SignalKind, signal};
        let refused = |error: std::io::Error| StartError::new(format!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(refused)?,
            interrupt: signal(SignalKind::interrupt()).map_err(refused)?,
        })
    }

    /// Resolves when one of the signals has arrived; a second one while the program is stopping can be awaited again.
    pub async fn requested(&mut self) -> Requested {
        tokio::select! {
            _ = self.terminate.recv() => Requested::Terminate,
            _ = self.interrupt.recv() => Requested::Interrupt,
        }
    }
}

/// Listens for `SIGHUP` from the moment it is made; before that it would end the program.
#[derive(Debug)]
pub struct Hangups(tokio::signal::unix::Signal);

impl Hangups {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the operating system refuses the registration.
    pub fn listen() -> Result<Self, StartError> {
        use tokio::signal::unix::{SignalKind, signal};
        let refused = |error: std::io::Error| StartError::new(format!("cannot listen for signals: {error}"));
        signal(SignalKind::hangup()).map(Self).map_err(refused)
    }

    /// Resolves when the signal has arrived; several that arrive together count once.
    pub async fn next(&mut self) {
        // It never ends: the registration lives as long as the process.
        let _ = self.0.recv().await;
    }
}
