//! The admin listener: `/metrics`, `/healthz` and `/readyz`, on a socket of its own so that it can stay on loopback.
//!
//! It never shares a port with the service, and it answers only to `GET`.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;

use crate::operation::StartError;

/// Whether the program wants new traffic. `/readyz` answers 503 until it is set, and again once it is cleared.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether new traffic is welcome from now on.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether new traffic is welcome.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bound but not yet serving admin listener. Binding comes early so that a taken port stops the start.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

impl Admin {
    /// Binds `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// One line naming the address and the cause when it cannot be bound.
    pub fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let refused = |error: std::io::Error| {
            StartError::bind("admin", address, &error, "choose another address with --admin IP:PORT")
        };
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener, address })
    }

    /// The real address, also when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `routes` until `stop` resolves. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        self,
        routes: Router,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        axum::serve(listener, routes).with_graceful_shutdown(stop).await
    }
}

/// The routes that every program of ours has; a program may merge its own into them.
pub fn routes(registry: Arc<Registry>, ready: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(ready))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State(ready): State<Readiness>) -> impl IntoResponse {
    if ready.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_taken_admin_port_is_refused_with_its_address() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = holder.local_addr().expect("bound");
        let refused = Admin::bind(address).expect_err("the port is held").to_string();
        assert!(refused.contains(&address.to_string()) && refused.contains("--admin"), "{refused}");
    }

    #[test]
    fn readiness_follows_the_flag_while_health_stays_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let ready = Readiness::default();
        let mut registry = Registry::default();
        registry.register(
            "probe",
            "a metric of this test",
            prometheus_client::metrics::gauge::Gauge::<i64>::default(),
        );
        let admin =
            Admin::bind("127.0.0.1:0".parse().expect("an address")).expect("loopback has a free port");
        let address = admin.address();
        let routes = routes(Arc::new(registry), ready.clone());
        runtime.block_on(async {
            let server = tokio::spawn(admin.serve(routes, std::future::pending()));
            assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
            ready.set(true);
            assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
            assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
            let metrics = fetch(address, "/metrics").await;
            assert!(
                metrics.contains("application/openmetrics-text") && metrics.contains("\nprobe 0\n# EOF"),
                "{metrics}"
            );
            server.abort();
        });
    }

    async fn fetch(address: SocketAddr, path: &'static str) -> String {
        tokio::task::spawn_blocking(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connects");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .expect("writes");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("reads");
            answer
        })
        .await
        .expect("no panic")
    }
}
