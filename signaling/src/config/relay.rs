//! Which relay clients are sent to, and whether they will find it.

use std::{net::SocketAddr, path::Path, time::Duration};

use reqwest::Url;
use turn_relay::{
    credentials::Secret,
    operation::{StartError, console::secret_line, hook::HookUrl},
};

use super::{Config, doors::address, numbers::within};
use crate::{origin::Origin, turn::is_ice_url};

/// Which relay clients are sent to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RelayChoice {
    None,
    External { urls: Vec<String>, secret: Secret },
    Embedded { listen: SocketAddr },
}

/// Where the admin API of an external relay is.
#[derive(Clone, PartialEq)]
pub(crate) struct TurnAdmin {
    /// Ends with a slash.
    pub(crate) url: Url,
    pub(crate) token: String,
}

impl std::fmt::Debug for TurnAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TurnAdmin").field(&self.url.as_str()).finish()
    }
}

pub(super) fn turn_admin(config: &Config, relay: &RelayChoice) -> Result<Option<TurnAdmin>, StartError> {
    let (url, file) = match (&config.turn_admin_url, &config.turn_admin_token_file) {
        (None, None) => return Ok(None),
        (Some(url), Some(file)) => (url, file),
        _ => {
            return Err(StartError::new(
                "turn_admin_url and turn_admin_token_file: one needs the other; give both",
            ));
        }
    };
    if !matches!(relay, RelayChoice::External { .. }) {
        return Err(StartError::new("turn_admin_url: it is for the server of --turn-url, which is missing"));
    }
    HookUrl::parse("turn_admin_url", url)?;
    let url = format!("{}/", url.trim_end_matches('/')).parse();
    let url = url.map_err(|_| StartError::new("turn_admin_url: it is no URL"))?;
    Ok(Some(TurnAdmin { url, token: secret_line("turn_admin_token_file", file)? }))
}

pub(super) fn relay(config: &Config, listen: SocketAddr) -> Result<RelayChoice, StartError> {
    let unwanted = config.no_embedded_relay.unwrap_or(false);
    let listen_given = config.relay_listen.as_deref();
    if config.turn_url.is_empty() {
        if config.turn_secret_file.is_some() {
            return Err(StartError::new(
                "turn_secret_file: it is for the server of --turn-url, which is missing",
            ));
        }
        return match (unwanted, listen_given) {
            (true, Some(_)) => {
                Err(StartError::new("relay_listen: there is no relay to listen with --no-embedded-relay"))
            }
            (true, None) => Ok(RelayChoice::None),
            (false, Some(given)) => Ok(RelayChoice::Embedded { listen: address("relay_listen", given)? }),
            (false, None) => Ok(RelayChoice::Embedded { listen: SocketAddr::new(listen.ip(), TURN_PORT) }),
        };
    }
    if listen_given.is_some() {
        return Err(StartError::new(
            "relay_listen: with --turn-url no relay is embedded; leave one of the two out",
        ));
    }
    if let Some(bad) = config.turn_url.iter().find(|url| !is_ice_url(url)) {
        return Err(StartError::new(format!(
            "turn_url: {bad:?} is not a TURN address; write it like turn:relay.example:3478?transport=udp"
        )));
    }
    let Some(file) = &config.turn_secret_file else {
        return Err(StartError::new(
            "turn_url: it needs --turn-secret-file FILE with the secret shared with that server",
        ));
    };
    Ok(RelayChoice::External { urls: config.turn_url.clone(), secret: secret(file)? })
}

/// Clients of a public address are sent to the relay at its host, where one on loopback is not to be found.
pub(super) fn reachable(public: Option<&Origin>, relay: &RelayChoice) -> Result<(), StartError> {
    let RelayChoice::Embedded { listen } = relay else { return Ok(()) };
    match public.map(Origin::host) {
        Some(host) if listen.ip().is_loopback() && !host.is_loopback() => Err(StartError::new(format!(
            "public_url: clients would look for the embedded relay at {host}, but it listens on {}: give \
             --relay-listen 0.0.0.0:{TURN_PORT}, or --turn-url for another relay, or --no-embedded-relay",
            listen.ip()
        ))),
        Some(_) | None => Ok(()),
    }
}

/// How long the credentials hold that clients get.
pub(super) fn credential_lifetime(config: &Config) -> Result<Duration, StartError> {
    let seconds = within("turn_credential_seconds", config.turn_credential_seconds, 43_200, 10..=604_800)?;
    Ok(Duration::from_secs(seconds))
}

fn secret(file: &Path) -> Result<Secret, StartError> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        StartError::new(format!("turn_secret_file: cannot read {}: {error}", file.display()))
    })?;
    let secrets = Secret::parse_file(&text)
        .map_err(|error| StartError::new(format!("turn_secret_file: {} {error}", file.display())))?;
    secrets.into_iter().next().ok_or_else(|| StartError::new("turn_secret_file: it holds no secret"))
}

/// RFC 8656 section 4.2, the registered port of `turn`.
const TURN_PORT: u16 = 3478;
