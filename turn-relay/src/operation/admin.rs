//! The admin listener: `/metrics`, `/healthz` and `/readyz`, on a socket of its own so that it can stay on loopback.
//!
//! It never shares a port with the service, and what is here answers only to `GET`. A program may serve more on it.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
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

/// Where an admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket, for the owner and the group of the process.
    Unix(PathBuf),
}

impl AdminAddress {
    /// The address, where it is a port.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for AdminAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl std::fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The bound but not yet serving admin listener. Binding comes early so that a taken port stops the start.
#[derive(Debug)]
pub struct Admin {
    listener: Listening,
    address: AdminAddress,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket; removed with it.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Admin {
    /// Binds `address`; port 0 takes any free one. A socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// One line naming the address and the cause when it cannot be bound.
    pub fn bind(address: impl Into<AdminAddress>) -> Result<Self, StartError> {
        match address.into() {
            AdminAddress::Tcp(address) => Self::bind_port(address),
            AdminAddress::Unix(path) => Self::bind_socket(&path).map_err(|error| {
                StartError::new(format!("admin: cannot listen on unix:{}: {error}", path.display()))
            }),
        }
    }

    fn bind_port(address: SocketAddr) -> Result<Self, StartError> {
        let refused = |error: std::io::Error| {
            StartError::bind("admin", address, &error, "choose another address with --admin IP:PORT")
        };
        let listener = TcpListener::bind(address).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { listener: Listening::Tcp(listener), address: address.into() })
    }

    fn bind_socket(path: &Path) -> std::io::Result<Self> {
        let stale = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if stale {
            if UnixStream::connect(path).is_ok() {
                return Err(std::io::Error::other("another process listens there"));
            }
            std::fs::remove_file(path)?;
        }
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        let file = SocketFile(path.to_owned());
        // Nobody can connect before `listen`, so nobody comes in under another mode.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let address = AdminAddress::Unix(path.to_owned());
        Ok(Self { listener: Listening::Unix(socket.into(), file), address })
    }

    /// The real address, also when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> &AdminAddress {
        &self.address
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
        match self.listener {
            Listening::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                axum::serve(listener, routes).with_graceful_shutdown(stop).await
            }
            Listening::Unix(listener, _file) => {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                axum::serve(listener, routes).with_graceful_shutdown(stop).await
            }
        }
    }
}

/// The owner and the group may connect, which needs the right to write.
const SOCKET_MODE: u32 = 0o660;
/// Connections that wait to be accepted: an operator's commands, one after the other.
const BACKLOG: i32 = 16;

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
        let admin = Admin::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        let address = admin.address().tcp().expect("a port");
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

    #[test]
    fn unix_socket_is_for_owner_and_group_replaces_a_stale_one_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let bind = || Admin::bind(AdminAddress::Unix(path.clone()));
        // What a killed process leaves behind.
        drop(UnixListener::bind(&path).expect("binds"));
        let admin = bind().expect("the stale one is replaced");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let refused = bind().expect_err("somebody listens").to_string();
        assert!(refused.contains("another process") && refused.contains("admin.sock"), "{refused}");
        drop(admin);
        assert!(!path.exists());
        std::fs::write(&path, "a file").expect("writes");
        bind().expect_err("a file is not replaced");
        assert_eq!(std::fs::read(&path).expect("it is still there"), b"a file");
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
