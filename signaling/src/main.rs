//! `signaling`: the binary. Flags and files only; everything else is in the library.

use std::process::ExitCode;

use signaling::{Config, Server, Settings};
use turn_relay::operation::{
    StartError,
    settings::{self, Invocation},
    shutdown::{Hangups, Requested, Signals},
    start_error, supervisor,
    telemetry::{self, Levels},
};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => start_error::report(&error),
    }
}

fn run() -> Result<ExitCode, StartError> {
    let (config, check) = match settings::load::<Config>(command(), std::env::args_os())? {
        Invocation::Print(text) => return start_error::print(&text).map(|()| ExitCode::SUCCESS),
        Invocation::Check(config) => (config, true),
        Invocation::Run(config) => (config, false),
    };
    let levels = telemetry::start(config.log_format.as_deref(), config.log_level.as_deref())?;
    let settings = Settings::try_from(config)?;
    if check {
        settings.check()?;
        return start_error::print("the configuration is good").map(|()| ExitCode::SUCCESS);
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::new(format!("cannot start: {error}")))?
        .block_on(serve(settings, levels))
}

async fn serve(settings: Settings, levels: Levels) -> Result<ExitCode, StartError> {
    let (mut signals, mut hangups) = (Signals::listen()?, Hangups::listen()?);
    let mut server = Server::start_reloadable(settings, Some(levels), Box::new(read))?;
    start_error::print(&server.summary().join("\n"))?;
    supervisor::ready();
    let reloader = server.reloader().clone();
    reloader.watch_certificates();
    let signal = loop {
        tokio::select! {
            signal = signals.requested() => break signal,
            // What came of it is in the log.
            () = hangups.next() => drop(reloader.reload().await),
            () = server.failed() => {
                tracing::error!("a part of the server ended by itself: stopping");
                return Ok(ExitCode::FAILURE);
            }
        }
    };
    tracing::info!("{signal}: stopping");
    if signal == Requested::Terminate {
        tokio::select! {
            () = server.drain() => {}
            signal = signals.requested() => tracing::info!("{signal}: closing who is left"),
        }
    }
    tokio::select! {
        () = server.stop() => {}
        signal = signals.requested() => tracing::warn!("{signal}: ending without a goodbye"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration as it is written now: the same file and flags, read again.
fn read() -> Result<Settings, StartError> {
    match settings::load::<Config>(command(), std::env::args_os())? {
        Invocation::Run(config) | Invocation::Check(config) => Settings::try_from(config),
        Invocation::Print(_) => Err(StartError::new("there is no configuration to read")),
    }
}

fn command() -> clap::Command {
    clap::Command::new("signaling")
        .version(env!("CARGO_PKG_VERSION"))
        .about("WebRTC signaling server with a call page and an embedded STUN/TURN relay")
        .after_help(EXAMPLES)
}

const EXAMPLES: &str = "\
Examples:
  Try it on this machine, then open the printed address in two tabs:
    signaling

  With a phone or a second computer (cameras need HTTPS; the browser warns once):
    signaling --listen 0.0.0.0:8443 --tls self-signed

  Behind a proxy that speaks TLS for call.example.org:
    signaling --public-url https://call.example.org --relay-listen 0.0.0.0:3478

  With a relay on another machine (turn-relay --secret-file secret, or coturn with use-auth-secret):
    signaling --turn-url 'turn:relay.example.org:3478?transport=udp' --turn-secret-file secret

  Keep the configuration in a file:
    signaling --print-config > signaling.toml
    signaling --config signaling.toml --check

  Change the configuration of a running server; sessions stay, a file that is not good changes nothing:
    kill -HUP $(pidof signaling)

Every flag is also a key of the file (public_url) and an environment variable (SIGNALING_PUBLIC_URL).";
