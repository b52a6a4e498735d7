//! The servers that are compared, each a process on the relay host and the server's core, and what they cost.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use bench::{Certificate, cost};

use crate::lab::{CLIENT, Host, Lab, RELAY, RELAY6, RELAYED, RELAYED6};
use crate::turn::{self, PASSWORD, USER, Way};

/// What is compared.
#[derive(Clone)]
pub(crate) struct Contender {
    /// Its column in the table.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) kind: Kind,
    /// Threads that relay.
    pub(crate) workers: usize,
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
    port: u16,
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
        let port = 3478 + index;
        let ports = (20_000 + 12_000 * index, 31_999 + 12_000 * index);
        let mut command = Command::new("setpriv");
        // It must not outlive this process.
        command.args(["--pdeathsig", "KILL"]).arg(&contender.program);
        match contender.kind {
            Kind::TurnRelay | Kind::InDriver => ours(&mut command, contender.workers, port, ports),
            Kind::Coturn => coturn(&mut command, contender.workers, port, ports),
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
        let server = Self { child: child?, port };
        let socket = lab.within(Host::Client, || Ok(UdpSocket::bind((CLIENT, 0))?))?;
        socket.connect((RELAY, port))?;
        turn::is_up(socket).with_context(|| format!("{} does not serve", contender.name))?;
        Ok(server)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Keeps each worker on a core of these.
    pub(crate) fn pin_workers(&self, cpus: &[usize]) -> Result<()> {
        let workers = self.workers()?;
        ensure!(workers.len() == cpus.len(), "{} workers", workers.len());
        workers.iter().zip(cpus).try_for_each(|(worker, cpu)| cost::pin_thread(*worker, *cpu))
    }

    /// Nanoseconds of CPU that each worker has used so far.
    pub(crate) fn workers_cpu(&self) -> Result<Vec<u64>> {
        self.workers()?.into_iter().map(|worker| cost::thread_cpu(self.id(), worker)).collect()
    }

    /// Ids of the workers' threads, in order.
    fn workers(&self) -> Result<Vec<u32>> {
        let mut workers = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.id())).context("the server has ended")? {
            let path = task?.path();
            let name = fs::read_to_string(path.join("comm"))?;
            if name.trim().strip_prefix("turn-relay-").is_some_and(|number| number.parse::<u16>().is_ok()) {
                workers.extend(path.file_name().and_then(|id| id.to_str()?.parse::<u32>().ok()));
            }
        }
        workers.sort_unstable();
        Ok(workers)
    }

    /// Where clients find it.
    pub(crate) fn address(&self, way: &Way) -> SocketAddr {
        SocketAddr::new(if way.ipv6 { RELAY6.into() } else { RELAY.into() }, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The limits are there and are checked, but none is met.
fn ours(command: &mut Command, workers: usize, port: u16, ports: (u16, u16)) {
    const NONE_IS_MET: &str = "1000000000000";
    command.args(["--listen", &format!("{RELAY}:{port}"), "--listen", &format!("[{RELAY6}]:{port}")]);
    command.args(["--relay-address", &RELAYED.to_string(), "--relay-address", &RELAYED6.to_string()]);
    command.args(["--port-range", &format!("{}-{}", ports.0, ports.1)]);
    command.args(["--user", &format!("{USER}:{PASSWORD}"), "--log-level", "warn"]);
    command.args(["--threads", &workers.to_string()]);
    command.args(["--allow-peer", "10.87.2.0/24,fd87:2::/64", "--unauthenticated-answers", "0"]);
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

/// Everything that is off by its nature here is off.
fn coturn(command: &mut Command, workers: usize, port: u16, ports: (u16, u16)) {
    command.args(["-n", "--no-dtls", "--no-cli", "--no-tcp-relay", "--no-rfc5780"]);
    command.args(["--lt-cred-mech", "--realm", "bench", "--user", &format!("{USER}:{PASSWORD}")]);
    command.args(["--listening-ip", &RELAY.to_string(), "--listening-ip", &RELAY6.to_string()]);
    command.args(["--listening-port", &port.to_string(), "--relay-threads", &workers.to_string()]);
    command.args(["--relay-ip", &RELAYED.to_string(), "--relay-ip", &RELAYED6.to_string()]);
    command.args(["--min-port", &ports.0.to_string(), "--max-port", &ports.1.to_string()]);
    command.args(["--log-file", "/dev/null", "--no-stdout-log", "--pidfile", "/dev/null"]);
}
