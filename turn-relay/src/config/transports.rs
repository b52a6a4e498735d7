//! How clients come in beside plain UDP and TCP, and how patient the server is with their connections.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Config;
use super::access::networks;
use crate::listen::admission::Rules;
use crate::operation::StartError;
use crate::operation::certificate::Identity;

/// Each certificate with its key, in the order given; none means no TLS.
pub(super) fn identities(certs: &[PathBuf], keys: &[PathBuf]) -> Result<Vec<Arc<Identity>>, StartError> {
    if certs.len() != keys.len() {
        return Err(StartError::new(format!(
            "tls_cert and tls_key: {} and {} files are given; give each certificate its key, in the same order",
            certs.len(),
            keys.len()
        )));
    }
    certs.iter().zip(keys).map(|(cert, key)| load(cert, key)).collect()
}

/// One certificate with its key.
pub(crate) fn load(cert: &Path, key: &Path) -> Result<Arc<Identity>, StartError> {
    Identity::from_files(cert, key)
        .map(Arc::new)
        .map_err(|error| StartError::new(format!("tls_cert: {error}")))
}

pub(super) fn rules(config: &Config) -> Result<Rules, StartError> {
    let default = Rules::default();
    let per_address = config.max_connections_per_address.unwrap_or(default.per_address);
    if !CONNECTIONS.contains(&per_address) {
        return Err(StartError::new(format!(
            "max_connections_per_address: {per_address} is not between {} and {}",
            CONNECTIONS.start(),
            CONNECTIONS.end()
        )));
    }
    let seconds = config.first_message_deadline.unwrap_or(default.first_message.as_secs());
    if !SECONDS.contains(&seconds) {
        return Err(StartError::new(format!(
            "first_message_deadline: {seconds} is not between {} and {} seconds",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    let proxies = networks("proxy_protocol_from", &config.proxy_protocol_from)?;
    Ok(Rules { per_address, first_message: Duration::from_secs(seconds), proxies })
}

/// Interfaces, each once.
pub(super) fn xdp(interfaces: &[String]) -> Result<Vec<String>, StartError> {
    let mut named = Vec::new();
    for name in interfaces {
        if name.is_empty() || name.len() > INTERFACE || named.contains(name) {
            return Err(StartError::new(format!("xdp: '{name}' is no interface, or is named twice")));
        }
        named.push(name.clone());
    }
    if !named.is_empty() && !cfg!(feature = "xdp") {
        return Err(StartError::new(
            "xdp: this turn-relay was built without it; build with cargo build --release -p turn-relay --features xdp",
        ));
    }
    Ok(named)
}

/// IFNAMSIZ less the zero at the end, and `/native`.
const INTERFACE: usize = 15 + 7;
/// A limit of 0 would be a listener that serves nobody; above this a worker's own bound comes first.
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=16_384;
/// Below a second a client at the far end of a bad mobile network never gets through; a minute is what an idle one gets anyway.
const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
