//! `turn-relay`: the binary. Flags and files only; everything else is in the library.

use std::process::ExitCode;

use prometheus_client::registry::Registry;
use turn_relay::admin::Console;
use turn_relay::config::{Config, Settings};
use turn_relay::operation::settings::Invocation;
use turn_relay::operation::shutdown::{Hangups, Requested, Signals};
use turn_relay::operation::{Admin, Readiness, StartError, settings, start_error, supervisor, telemetry};
use turn_relay::server::{self, Control, Reloader, Server};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => start_error::report(&error),
    }
}

fn run() -> Result<(), StartError> {
    match settings::load::<Config>(command(), std::env::args_os())? {
        Invocation::Print(text) => start_error::print(&text),
        Invocation::Check(config) => {
            telemetry::start(config.log_format.as_deref(), config.log_level.as_deref())?;
            let settings = Settings::new(&config, vec![])?;
            start_error::print(&format!("the configuration is good\n{}", settings.summary().join("\n")))
        }
        Invocation::Run(config) => {
            telemetry::start(config.log_format.as_deref(), config.log_level.as_deref())?;
            serve(Settings::new(&config, vec![])?)
        }
    }
}

/// Serves until a signal comes. The workers have threads of their own; this one answers on the admin listener.
fn serve(settings: Settings) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::new(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let mut hangups = Hangups::listen()?;
        let admins = settings.admin().iter().cloned().map(Admin::bind).collect::<Result<Vec<_>, _>>()?;
        let (summary, transports) = (settings.summary(), settings.transports());
        let mut registry = Registry::default();
        let mut server = Server::start_supervised(settings, &mut registry)?;
        let hooks = tokio::spawn(server.take_hook_work().run());
        for address in server.listen_addresses() {
            tracing::info!("serving STUN and TURN on {address}, {transports}");
        }
        for line in summary {
            tracing::info!("{line}");
        }
        let ready = Readiness::default();
        ready.set(true);
        let reloader = Reloader::new(server.control(), read);
        let console = Console::new(server.operator(), reloader.clone(), registry, ready.clone());
        for admin in admins {
            tracing::info!("metrics, health and the admin API on {}/", admin.address());
            let routes = console.routes(&admin);
            tokio::spawn(async move {
                if let Err(error) = admin.serve(routes, std::future::pending()).await {
                    tracing::error!("the admin listener has failed and is gone: {error}");
                }
            });
        }
        supervisor::ready();
        server::guard(server.control());
        server::watch_certificates(server.control());
        server::watch_addresses(server.control());
        let signal = loop {
            tokio::select! {
                signal = signals.requested() => break signal,
                () = hangups.next() => reload(&reloader).await,
            }
        };
        match signal {
            Requested::Terminate => drain(&server.control(), &ready, &mut signals).await,
            Requested::Interrupt => ready.set(false),
        }
        tracing::info!("{signal}: stopping");
        supervisor::stopping("closing");
        server.shutdown();
        if tokio::time::timeout(LAST_CALLS, hooks).await.is_err() {
            tracing::warn!("the usage hook did not take the last events in time and they are lost");
        }
        Ok(())
    })
}

/// Until nobody is left, the deadline has passed, or a second signal comes.
async fn drain(control: &Control, ready: &Readiness, signals: &mut Signals) {
    let deadline = control.start_drain(|| ready.set(false));
    let status =
        format!("draining: {} allocations have {} s left", control.allocations(), deadline.as_secs());
    tracing::info!("{status}; a second signal ends them now");
    supervisor::stopping(&status);
    tokio::select! {
        () = control.drained(deadline) => {}
        _ = signals.requested() => {}
    }
}

/// The configuration as it is written now: the same file and flags, read again.
fn read() -> Result<Settings, StartError> {
    match settings::load::<Config>(command(), std::env::args_os())? {
        Invocation::Run(config) | Invocation::Check(config) => Settings::new(&config, vec![]),
        Invocation::Print(_) => Err(StartError::new("there is no configuration to read")),
    }
}

async fn reload(reloader: &Reloader) {
    let reloader = reloader.clone();
    // What came of it is in the log.
    let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
}

fn command() -> clap::Command {
    clap::Command::new("turn-relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "STUN and TURN server for WebRTC (RFC 8489, RFC 8656) over UDP, TCP, TLS and DTLS, IPv4 and IPv6",
        )
        .after_help(EXAMPLES)
}

/// How long the hooks may take to hear the last of it. A service manager's patience is a minute and a half.
const LAST_CALLS: std::time::Duration = std::time::Duration::from_secs(5);

const EXAMPLES: &str = "\
Examples:
  Time-limited users, as a signaling server mints them:
    openssl rand -hex 32 > secret && chmod 600 secret
    turn-relay --secret-file secret --realm example.org

  Behind the 1:1 NAT of a cloud:
    turn-relay --secret-file secret --relay-address 10.0.0.5 --external-address 203.0.113.5

  With TLS, for networks that let nothing else out (turns:turn.example.org, port 5349):
    turn-relay --secret-file secret --tls-cert fullchain.pem --tls-key privkey.pem

  Try it on this machine alone (loopback is refused to clients unless allowed):
    turn-relay --listen 127.0.0.1:3478 --user me:password --allow-peer 127.0.0.0/8

  Keep the configuration in a file:
    turn-relay --print-config > turn-relay.toml
    turn-relay --config turn-relay.toml --check

  Change the configuration of a running relay; calls go on, a file that is not good changes nothing:
    kill -HUP $(pidof turn-relay)

Every flag is also a key of the file (allow_peer) and an environment variable (TURN_RELAY_ALLOW_PEER).";
