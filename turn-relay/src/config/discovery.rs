//! RFC 5780: the second address and port that NAT behaviour discovery needs, and the listeners that follow from them.

use std::net::SocketAddr;

use super::{Config, addresses::socket_address};
use crate::operation::StartError;
use crate::relay::{NatDiscovery, RelayAddress};

/// Which addresses answer, and adds those that are not served anyway to `listen`.
pub(super) fn nat_discovery(
    config: &Config,
    listen: &mut Vec<SocketAddr>,
    relay_addresses: &[RelayAddress],
) -> Result<Option<NatDiscovery>, StartError> {
    let Some(text) = config.nat_discovery.as_deref() else { return Ok(None) };
    let alternate = socket_address("nat_discovery", text)?;
    let wrong = |why: &str| Err(StartError::new(format!("nat_discovery: {why}")));
    if alternate.ip().is_unspecified() || alternate.port() == 0 {
        return wrong(&format!("{alternate} is no single address with a port; give one of this host's"));
    }
    let is_behind = |at: &RelayAddress| at.external.is_some() && at.ip.is_ipv4() == alternate.is_ipv4();
    if relay_addresses.iter().any(is_behind) {
        return wrong("behind a 1:1 NAT the answers would name addresses that clients cannot reach");
    }
    let same_family = |at: &&SocketAddr| at.is_ipv4() == alternate.is_ipv4();
    let Some(&primary) = listen.iter().filter(same_family).find(|at| !at.ip().is_unspecified()) else {
        return wrong(
            "the first address must be one of `listen`, and no wildcard: write listen = [\"IP:PORT\"]",
        );
    };
    if primary.port() == 0 {
        return wrong(&format!("it needs fixed ports, and listen has {primary}"));
    }
    if primary.ip() == alternate.ip() || primary.port() == alternate.port() {
        return wrong(&format!("{alternate} must differ from {primary} in its address and in its port"));
    }
    let discovery = NatDiscovery { primary, alternate };
    for address in discovery.addresses() {
        if !listen.contains(&address) {
            listen.push(address);
        }
    }
    Ok(Some(discovery))
}
