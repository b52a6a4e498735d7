//! The servers that are compared: where they are, how they are started, and that they end with this process.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bench::{Certificate, cost};
use tokio_rustls::TlsConnector;

/// What is compared, which is also how one talks to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ours.
    Signaling,
    /// The npm package `ws` with the least code around it that makes rooms.
    Ws,
    /// The npm package `peer`, PeerJS's server.
    Peer,
    /// The npm package `socket.io`.
    SocketIo,
    /// The npm package `y-webrtc`, its server.
    YWebrtc,
    /// The crate `matchbox_server`.
    Matchbox,
    /// The signaling server of the crate `apprtc`, spoken to as its first version of clients does.
    Apprtc,
}

/// One column of the table.
#[derive(Clone)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    program: PathBuf,
    /// What stands before the port.
    arguments: Vec<String>,
    pub(crate) tls: Option<Tls>,
}

/// A certificate for loopback, on both sides of the connection.
#[derive(Clone)]
pub(crate) struct Tls {
    certificate: Certificate,
    pub(crate) connector: TlsConnector,
}

/// The folders and programs that the command line names.
pub(crate) struct Places<'a> {
    pub(crate) signaling: &'a Path,
    pub(crate) earlier: Option<&'a Path>,
    pub(crate) servers: &'a Path,
    pub(crate) cargo: &'a Path,
}

impl Contender {
    /// Ours, without and with TLS.
    pub(crate) fn ours(places: &Places<'_>) -> Result<Vec<Self>> {
        let mut all = vec![Self::program("signaling", Kind::Signaling, places.signaling.to_owned())];
        all.extend(
            places.earlier.map(|program| Self::program("earlier", Kind::Signaling, program.to_owned())),
        );
        let tls = Self { name: "signaling+tls", tls: Some(Tls::new()?), ..all[0].clone() };
        all.push(tls);
        Ok(all)
    }

    /// The others; of one that is not there, why.
    pub(crate) fn others(places: &Places<'_>, kinds: &[Kind]) -> Vec<Result<Self, String>> {
        let script = |name, kind, file: &str| {
            let path = places.servers.join(file);
            let mut this = Self::program(name, kind, "node".into());
            this.arguments = vec![path.display().to_string()];
            (this, path)
        };
        let binary = |name, kind, file: &str| {
            let path = places.cargo.join("bin").join(file);
            (Self::program(name, kind, path.clone()), path)
        };
        let one = |kind: &Kind| {
            let (contender, needed) = match kind {
                Kind::Signaling => return Err("it is not one of the others".to_owned()),
                Kind::Ws => script("ws", *kind, "ws.js"),
                Kind::Peer => script("peer", *kind, "peer.js"),
                Kind::SocketIo => script("socket.io", *kind, "socket-io.js"),
                Kind::YWebrtc => script("y-webrtc", *kind, "node_modules/y-webrtc/bin/server.js"),
                Kind::Matchbox => binary("matchbox", *kind, "matchbox_server"),
                Kind::Apprtc => binary("apprtc", *kind, "signaling"),
            };
            let name = contender.name;
            needed
                .exists()
                .then_some(contender)
                .ok_or_else(|| format!("{name}: {} is not there", needed.display()))
        };
        kinds.iter().map(one).collect()
    }

    fn program(name: &'static str, kind: Kind, program: PathBuf) -> Self {
        Self { name, kind, program, arguments: vec![], tls: None }
    }

    /// Starts it on `cpu` and waits until it takes connections.
    pub(crate) fn start(&self, port: u16, cpus: Cpus) -> Result<Server> {
        let mut command = Command::new("setpriv");
        // It must not outlive this process.
        command.args(["--pdeathsig", "KILL"]).arg(&self.program).args(&self.arguments);
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        match self.kind {
            Kind::Signaling => ours(&mut command, address, self.tls.as_ref()),
            Kind::Ws | Kind::Peer | Kind::SocketIo => _ = command.arg(port.to_string()),
            Kind::YWebrtc => _ = command.env("PORT", port.to_string()),
            Kind::Matchbox => _ = command.arg(address.to_string()).env("RUST_LOG", "off"),
            Kind::Apprtc => {
                command.args(["--port", &port.to_string(), "--grpc-port", &(port + 1).to_string()]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        cost::pin(cpus.server)?;
        let child = command.spawn().with_context(|| format!("{} cannot be started", self.program.display()));
        cost::pin(cpus.load)?;
        let mut server = Server { child: child?, address, tls: self.tls.clone(), kind: self.kind };
        server.wait().with_context(|| format!("{} does not serve", self.name))?;
        Ok(server)
    }
}

/// Which core is whose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cpus {
    pub(crate) server: usize,
    pub(crate) load: usize,
}

/// A running server. It ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) kind: Kind,
}

impl Server {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it without a word to its clients.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            ensure!(self.alive(), "it ended at once");
            ensure!(began.elapsed() < START_DEADLINE, "it took no connection for {START_DEADLINE:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Tls {
    fn new() -> Result<Self> {
        let certificate = Certificate::new("127.0.0.1")?;
        let connector = TlsConnector::from(Arc::clone(&certificate.trust));
        Ok(Self { certificate, connector })
    }
}

/// Its default limits, but for the rates of frames: clients send as much as they can here.
fn ours(command: &mut Command, address: SocketAddr, tls: Option<&Tls>) {
    command.args(["--listen", &address.to_string(), "--admin", "off", "--no-embedded-relay"]);
    command.args(["--log-level", "warn"]);
    command.args(["--messages-per-second", "1000000", "--message-burst", "1000000"]);
    command.args(["--messages-per-second-per-address", "1000000"]);
    if let Some(tls) = tls {
        command.arg("--tls-cert").arg(tls.certificate.certificate());
        command.arg("--tls-key").arg(tls.certificate.key());
    }
}

const START_DEADLINE: Duration = Duration::from_secs(20);
