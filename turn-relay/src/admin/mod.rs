//! The relay's own admin API: JSON over HTTP on the admin listeners, described in `ADMIN.md`.
//!
//! ```text
//! listener -- access --> routes --> operator --> a worker's inbox --> relay
//! ```
//!
//! Refuses to do: anything for who has neither the token nor the unix socket, unbounded answers, a lock that a packet could
//! meet. `/metrics`, `/healthz` and `/readyz` (see [`crate::operation::admin`]) need no token and change nothing.

mod numbers;
mod operator;
mod routes;
mod shown;

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;

use crate::operation::access::Door;
use crate::operation::{Admin, Readiness, admin};
use crate::server::Reloader;
pub use operator::{NotRevoked, Operator, Unanswered};

/// Everything that an admin listener serves.
#[derive(Clone, Debug)]
pub struct Console {
    operator: Operator,
    reloader: Reloader,
    registry: Arc<Registry>,
    ready: Readiness,
}

impl Console {
    /// The API of `operator` and `reloader`, beside the metrics in `registry`.
    pub fn new(operator: Operator, reloader: Reloader, registry: Registry, ready: Readiness) -> Self {
        Self { operator, reloader, registry: Arc::new(registry), ready }
    }

    /// What to serve on this listener. Who reaches a unix socket is let in by its mode; who reaches a port needs the token.
    pub fn routes(&self, on: &Admin) -> Router {
        let door = Door::of(on, self.reloader.control().access());
        let api = routes::api(self.operator.clone(), self.reloader.clone(), self.ready.clone(), door);
        admin::routes(Arc::clone(&self.registry), self.ready.clone()).nest("/v1", api)
    }
}

#[cfg(test)]
mod tests;
