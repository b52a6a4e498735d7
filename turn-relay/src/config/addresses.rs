//! Addresses and ports: where clients come in, where relayed traffic goes out, and what the world is told.

use std::net::{IpAddr, SocketAddr};

use super::external::{External, advertise};
use super::{Config, PortRange};
use crate::operation::StartError;
use crate::relay::RelayAddress;

pub(super) fn shown(address: &RelayAddress) -> String {
    match address.external {
        Some(external) => format!("{} (advertised as {external})", address.ip),
        None => address.ip.to_string(),
    }
}

pub(super) fn listen_addresses(written: &[String], tls: bool) -> Result<Vec<SocketAddr>, StartError> {
    if written.is_empty() {
        let tls: &[&str] = if tls { &DEFAULT_TLS_LISTEN } else { &[] };
        return DEFAULT_LISTEN.iter().chain(tls).map(|text| socket_address("listen", text)).collect();
    }
    let mut addresses = Vec::new();
    for text in written {
        let address = socket_address("listen", text)?;
        if address.port() != 0 && addresses.contains(&address) {
            return Err(StartError::new(format!("listen: {address} is given twice; give it once")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

/// Given addresses must be ours; otherwise each listen address relays from itself, a wildcard from the machine's
/// primary address of its family.
pub(super) fn relay_addresses(
    config: &Config,
    listen: &[SocketAddr],
    external: &[External],
) -> Result<Vec<RelayAddress>, StartError> {
    let mut locals: Vec<IpAddr> = Vec::new();
    for text in &config.relay_address {
        locals.push(owned_address(text)?);
    }
    if locals.is_empty() {
        locals = default_relay_addresses(listen, primary_address);
    }
    let mut seen = std::collections::HashSet::new();
    locals.retain(|ip| seen.insert(*ip));
    if locals.is_empty() {
        return Err(StartError::new(
            "this machine has no address to relay from; give one with --relay-address IP",
        ));
    }
    advertise(&locals, external)
}

fn owned_address(text: &str) -> Result<IpAddr, StartError> {
    let ip = ip_address("relay_address", text)?;
    if ip.is_unspecified() {
        return Err(StartError::new(format!(
            "relay_address: {ip} is a wildcard; give an address of this host (without the key its primary ones are taken)"
        )));
    }
    match std::net::UdpSocket::bind((ip, 0)) {
        Ok(_) => Ok(ip),
        Err(error) => Err(StartError::new(format!(
            "relay_address: cannot relay from {ip} ({error}); give an address of this host, and the public one of a 1:1 NAT as --external-address"
        ))),
    }
}

/// Each listen address itself, and for a wildcard what `primary` knows. A family without any address is left out: loopback
/// is no address to advertise, unless there is nothing else.
pub(super) fn default_relay_addresses(
    listen: &[SocketAddr],
    primary: impl Fn(IpAddr, Scope) -> Option<IpAddr>,
) -> Vec<IpAddr> {
    let of = |scope| {
        let address = |at: &SocketAddr| match at.ip() {
            ip if ip.is_unspecified() => primary(ip, scope),
            ip => Some(ip),
        };
        listen.iter().filter_map(address).collect::<Vec<_>>()
    };
    let reachable = of(Scope::Network);
    if reachable.is_empty() { of(Scope::Loopback) } else { reachable }
}

/// Which of this machine's addresses are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Network,
    Loopback,
}

/// The address that the kernel would use towards the internet, or else the first of the scope.
fn primary_address(wildcard: IpAddr, scope: Scope) -> Option<IpAddr> {
    // Connecting a UDP socket sends nothing: it only asks the routing table. The targets are the resolvers of a
    // well-known operator, chosen because documentation ranges are commonly null-routed.
    let towards = if wildcard.is_ipv4() { "1.1.1.1:53" } else { "[2606:4700:4700::1111]:53" };
    let routed = std::net::UdpSocket::bind((wildcard, 0))
        .and_then(|socket| socket.connect(towards).and_then(|()| socket.local_addr()))
        .map(|address| address.ip());
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses =
        interfaces.iter().filter(|interface| !interface.is_link_local()).map(if_addrs::Interface::ip);
    let mut candidates = routed.ok().into_iter().chain(addresses);
    candidates.find(|ip| {
        ip.is_ipv4() == wildcard.is_ipv4()
            && !ip.is_unspecified()
            && ip.is_loopback() == (scope == Scope::Loopback)
    })
}

pub(super) fn port_range(written: Option<&str>) -> Result<PortRange, StartError> {
    let text = written.unwrap_or(DEFAULT_PORTS);
    let wrong = || {
        StartError::new(format!(
            "port_range: {text:?} is not a range of ports from 1024 to 65535; write it as {DEFAULT_PORTS}"
        ))
    };
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first = first.trim().parse().map_err(|_| wrong())?;
    let last = last.trim().parse().map_err(|_| wrong())?;
    if first < 1024 || first > last {
        return Err(wrong());
    }
    Ok(PortRange { first, last })
}

pub(super) fn socket_address(key: &str, text: &str) -> Result<SocketAddr, StartError> {
    text.parse().map_err(|_| {
        StartError::new(format!("{key}: {text:?} is not IP:PORT; write it as 0.0.0.0:3478 or [::]:3478"))
    })
}

pub(super) fn ip_address(key: &str, text: &str) -> Result<IpAddr, StartError> {
    let ip: IpAddr = text.parse().map_err(|_| {
        StartError::new(format!("{key}: {text:?} is not an IP address; host names are not resolved"))
    })?;
    let plain = ip.to_canonical();
    if plain != ip {
        return Err(StartError::new(format!("{key}: {text} is IPv4 in disguise; write it as {plain}")));
    }
    Ok(ip)
}

pub(super) fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) const DEFAULT_LISTEN: [&str; 2] = ["0.0.0.0:3478", "[::]:3478"];
/// RFC 8656 section 18: the port of `turns`, where there is a certificate. What is served there is the same.
pub(super) const DEFAULT_TLS_LISTEN: [&str; 2] = ["0.0.0.0:5349", "[::]:5349"];
/// RFC 8656 section 7.2 names the dynamic range.
pub(super) const DEFAULT_PORTS: &str = "49152-65535";
