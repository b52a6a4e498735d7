//! What becomes of clients when the server is told to end.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use super::Config;
use super::addresses::socket_address;
use crate::operation::StartError;

/// How the server drains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainRules {
    pub(crate) alternate_v4: Option<SocketAddrV4>,
    pub(crate) alternate_v6: Option<SocketAddrV6>,
    pub(crate) alternate_domain: Option<Box<str>>,
    /// How long live allocations may run on.
    pub(crate) deadline: Duration,
}

pub(super) fn rules(config: &Config) -> Result<DrainRules, StartError> {
    let mut rules = DrainRules {
        alternate_v4: None,
        alternate_v6: None,
        alternate_domain: config.alternate_domain.as_deref().map(domain).transpose()?,
        deadline: Duration::from_secs(deadline(config.drain_deadline)?),
    };
    for text in &config.alternate_server {
        let address = socket_address("alternate_server", text)?;
        if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
            return Err(StartError::new(format!(
                "alternate_server: nobody can be sent to {address}; give the address and port of another server"
            )));
        }
        let given_before = match address {
            SocketAddr::V4(v4) => rules.alternate_v4.replace(v4).is_some(),
            SocketAddr::V6(v6) => rules.alternate_v6.replace(v6).is_some(),
        };
        if given_before {
            return Err(StartError::new(format!(
                "alternate_server: {address} is the second of its address family; a client is told one of each"
            )));
        }
    }
    if rules.alternate_domain.is_some() && config.alternate_server.is_empty() {
        return Err(StartError::new("alternate_domain: it names an alternate_server, and none is given"));
    }
    Ok(rules)
}

/// RFC 8489 section 14.16: a domain name of at most 255 bytes.
fn domain(name: &str) -> Result<Box<str>, StartError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || name.len() > 255 || !name.chars().all(good) {
        return Err(StartError::new(format!("alternate_domain: {name:?} is not a domain name in ASCII")));
    }
    Ok(name.into())
}

fn deadline(written: Option<u64>) -> Result<u64, StartError> {
    match written.unwrap_or(DEFAULT_SECONDS) {
        seconds @ 0..=MOST_SECONDS => Ok(seconds),
        wrong => Err(StartError::new(format!("drain_deadline: {wrong} is more than {MOST_SECONDS} seconds"))),
    }
}

/// systemd kills a service 90 s after SIGTERM unless told otherwise (TimeoutStopSec); this leaves it some room.
const DEFAULT_SECONDS: u64 = 60;
/// A day: longer than any call that somebody would wait for.
const MOST_SECONDS: u64 = 86_400;
