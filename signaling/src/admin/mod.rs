//! The server's own admin API: JSON over HTTP on the admin listeners, described in `ADMIN.md`.
//!
//! ```text
//! listener -- access --> routes --> operator --> a shard's inbox --> hub
//! ```
//!
//! Refuses to do: anything for who has neither the token nor the unix socket, unbounded answers. `/metrics`, `/healthz` and
//! `/readyz` need no token and change nothing.

mod bans;
mod operator;
mod routes;

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;
use turn_relay::operation::{
    Admin, Readiness,
    access::{CurrentAccess, Door},
    admin,
};

pub(crate) use operator::{Operator, Question};

use crate::reload::Reloader;

/// Everything that an admin listener serves.
pub(crate) struct Console {
    pub(crate) operator: Operator,
    pub(crate) reloader: Reloader,
    pub(crate) access: CurrentAccess,
    pub(crate) registry: Arc<Registry>,
    pub(crate) ready: Readiness,
}

impl Console {
    /// What to serve on this listener.
    pub(crate) fn routes(&self, on: &Admin) -> Router {
        let door = Door::of(on, &self.access);
        let api = routes::api(self.operator.clone(), self.reloader.clone(), self.ready.clone(), door);
        admin::routes(self.registry.clone(), self.ready.clone()).nest("/v1", api)
    }
}
