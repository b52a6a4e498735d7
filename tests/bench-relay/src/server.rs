//! The servers that are compared, each a process on the relay host and the server's core, and what they cost.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use bench::{Certificate, cost};

use crate::lab::{CLIENT, Host, Lab, RELAY, RELAYED};
use crate::turn::{self, PASSWORD, USER};

/// What is compared.
#[derive(Clone)]
pub(crate) struct Contender {
    /// Its column in the table.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    /// More arguments.
    pub(crate) arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    TurnRelay,
    Coturn,
    /// turn-relay with XDP on both links.
    InDriver,
}

impl Contender {
    /// What it says of its version.
    pub(crate) fn version(&self) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} cannot be run", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("unknown").to_owned())
    }
}

/// A running server. It ends with this.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts the contender number `index` on `cpu` and waits until it answers. Every contender has ports of its own.
    pub(crate) fn start(
        lab: &Lab,
        contender: &Contender,
        index: u16,
        cpu: usize,
        load: usize,
        certificate: &Certificate,
    ) -> Result<Self> {
        let address = SocketAddr::new(RELAY.into(), 3478 + index);
        let ports = (20_000 + 12_000 * index, 31_999 + 12_000 * index);
        let mut command = Command::new("setpriv");
        // It must not outlive this process.
        command.args(["--pdeathsig", "KILL"]).arg(&contender.program);
        match contender.kind {
            Kind::TurnRelay | Kind::InDriver => ours(&mut command, address, ports),
            Kind::Coturn => coturn(&mut command, address, ports),
        }
        let key = match contender.kind {
            Kind::TurnRelay | Kind::InDriver => ["--tls-cert", "--tls-key"],
            Kind::Coturn => ["--cert", "--pkey"],
        };
        command.arg(key[0]).arg(certificate.certificate()).arg(key[1]).arg(certificate.key());
        command.args(&contender.arguments);
        if contender.kind == Kind::InDriver {
            command.args(["--xdp", "client/native,peer/native"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        cost::pin(cpu)?;
        let child = lab.within(Host::Relay, || {
            command.spawn().with_context(|| format!("{} cannot be started", contender.program.display()))
        });
        cost::pin(load)?;
        let server = Self { child: child?, address };
        let socket = lab.within(Host::Client, || Ok(UdpSocket::bind((CLIENT, 0))?))?;
        socket.connect(address)?;
        turn::is_up(socket).with_context(|| format!("{} does not serve", contender.name))?;
        Ok(server)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The limits are there and are checked, but none is met.
fn ours(command: &mut Command, address: SocketAddr, ports: (u16, u16)) {
    const NONE_IS_MET: &str = "1000000000000";
    command.args(["--listen", &address.to_string(), "--relay-address", &RELAYED.to_string()]);
    command.args(["--port-range", &format!("{}-{}", ports.0, ports.1)]);
    command.args(["--user", &format!("{USER}:{PASSWORD}"), "--threads", "1", "--log-level", "warn"]);
    command.args(["--allow-peer", "10.87.2.0/24", "--unauthenticated-answers", "0"]);
    for limit in ["max-allocations-per-user", "max-allocations-per-address"] {
        command.args([&format!("--{limit}"), "16384"]);
    }
    for limit in ["allocation-bytes-per-second", "user-bytes-per-second"] {
        command.args([&format!("--{limit}"), NONE_IS_MET]);
    }
    for limit in ["allocation-packets-per-second", "user-packets-per-second"] {
        command.args([&format!("--{limit}"), "1000000000"]);
    }
    command.args(["--user-new-peers-per-minute", "0"]);
}

/// One relay thread for one core; everything that is off by its nature here is off.
fn coturn(command: &mut Command, address: SocketAddr, ports: (u16, u16)) {
    command.args(["-n", "--no-dtls", "--no-cli", "--no-tcp-relay", "--no-rfc5780"]);
    command.args(["--lt-cred-mech", "--realm", "bench", "--user", &format!("{USER}:{PASSWORD}")]);
    command.args(["--listening-ip", &address.ip().to_string()]);
    command.args(["--listening-port", &address.port().to_string()]);
    command.args(["--relay-ip", &RELAYED.to_string(), "--relay-threads", "1"]);
    command.args(["--min-port", &ports.0.to_string(), "--max-port", &ports.1.to_string()]);
    command.args(["--log-file", "/dev/null", "--no-stdout-log", "--pidfile", "/dev/null"]);
}
