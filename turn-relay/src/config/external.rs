//! How the world knows the relay addresses: what the operator wrote, and what can be found out.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::str::FromStr;
use std::time::{Duration, Instant};

use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, Message, MessageWriteVec};
use stun_types::prelude::{MessageWrite as _, MessageWriteExt as _};

use super::addresses::{family, ip_address};
use crate::operation::StartError;
use crate::relay::RelayAddress;

/// One entry of `external_address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum External {
    /// `EXTERNAL`, or `EXTERNAL/RELAY`.
    Fixed { external: IpAddr, relay: Option<IpAddr> },
    /// `stun:HOST[:PORT]`: what that server sees, asked from each relay address.
    Stun { host: String, port: u16 },
    /// `interface:NAME`: the address of that interface, of each family that it has.
    Interface(String),
}

impl External {
    /// Whether the answer may be another one tomorrow.
    pub(crate) fn is_found_out(&self) -> bool {
        !matches!(self, Self::Fixed { .. })
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { external, relay: None } => write!(f, "{external}"),
            Self::Fixed { external, relay: Some(relay) } => write!(f, "{external}/{relay}"),
            Self::Stun { host, port } => write!(f, "stun:{host}:{port}"),
            Self::Interface(name) => write!(f, "interface:{name}"),
        }
    }
}

impl FromStr for External {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, StartError> {
        if let Some(name) = text.strip_prefix("interface:") {
            return if name.is_empty() {
                Err(not_an_entry(text))
            } else {
                Ok(Self::Interface(name.to_owned()))
            };
        }
        if let Some(server) = text.strip_prefix("stun:") {
            return stun_server(server).ok_or_else(|| not_an_entry(text));
        }
        let (external, relay) = match text.split_once('/') {
            Some((external, relay)) => (external, Some(ip_address("external_address", relay)?)),
            None => (text, None),
        };
        let external = reachable(ip_address("external_address", external)?)?;
        Ok(Self::Fixed { external, relay })
    }
}

fn not_an_entry(text: &str) -> StartError {
    StartError::new(format!(
        "external_address: {text:?} is none of IP, IP/RELAY_IP, stun:HOST[:PORT], interface:NAME"
    ))
}

fn stun_server(text: &str) -> Option<External> {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address stands in brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse().ok()?),
        _ => (text, STUN_PORT),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    let is_wrong = host.is_empty() || port == 0 || (bare.is_none() && host.contains(':'));
    (!is_wrong).then(|| External::Stun { host: host.to_owned(), port })
}

fn reachable(ip: IpAddr) -> Result<IpAddr, StartError> {
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(StartError::new(format!(
            "external_address: {ip} cannot be reached by anybody; give the public address"
        )));
    }
    Ok(ip)
}

/// The relay addresses `locals` with what each is known as. Asks whom it must; waits for [`PATIENCE`] per relay address at most,
/// and for name resolution.
///
/// # Errors
/// One line: an entry that fits no relay address or several, or two that fit one; nobody answered.
pub(super) fn advertise(locals: &[IpAddr], sources: &[External]) -> Result<Vec<RelayAddress>, StartError> {
    let mut addresses: Vec<RelayAddress> =
        locals.iter().map(|&ip| RelayAddress { ip, external: None }).collect();
    for source in sources {
        for (local, external) in found(locals, source)? {
            let place = addresses.iter_mut().find(|address| address.ip == local);
            let Some(place) = place else { continue };
            if let Some(other) = place.external.replace(external) {
                return Err(StartError::new(format!(
                    "external_address: {local} would be known as {other} and, by {source}, as {external}; keep one"
                )));
            }
        }
    }
    for address in &mut addresses {
        // Nothing stands between.
        address.external = address.external.filter(|external| *external != address.ip);
    }
    Ok(addresses)
}

/// Pairs of a relay address and its external one.
fn found(locals: &[IpAddr], source: &External) -> Result<Vec<(IpAddr, IpAddr)>, StartError> {
    match source {
        External::Fixed { external, relay: None } => Ok(vec![(only_one(locals, *external)?, *external)]),
        External::Fixed { external, relay: Some(relay) } => {
            if external.is_ipv4() != relay.is_ipv4() {
                return Err(StartError::new(format!(
                    "external_address: {source}: {external} is {} and {relay} is not",
                    family(*external)
                )));
            }
            if !locals.contains(relay) {
                return Err(StartError::new(format!(
                    "external_address: {source}: {relay} is no relay address; give it as --relay-address {relay}"
                )));
            }
            Ok(vec![(*relay, *external)])
        }
        External::Stun { host, port } => seen_by_server(locals, host, *port),
        External::Interface(name) => fitting(locals, of_interface(name)?, name),
    }
}

/// Those of an interface's addresses that are of the family of a relay address; some must be.
fn fitting(
    locals: &[IpAddr],
    externals: Vec<IpAddr>,
    interface: &str,
) -> Result<Vec<(IpAddr, IpAddr)>, StartError> {
    let is_of_a_family = |external: &IpAddr| locals.iter().any(|local| local.is_ipv4() == external.is_ipv4());
    let pairs: Vec<_> = externals
        .into_iter()
        .filter(is_of_a_family)
        .map(|external| Ok((only_one(locals, external)?, external)))
        .collect::<Result<_, _>>()?;
    if pairs.is_empty() {
        return Err(no_family(interface));
    }
    Ok(pairs)
}

fn no_family(of: &str) -> StartError {
    StartError::new(format!("external_address: {of} has no address of the family of a relay address"))
}

/// The relay address that `external` must stand for.
fn only_one(locals: &[IpAddr], external: IpAddr) -> Result<IpAddr, StartError> {
    let family = family(external);
    let mut fitting = locals.iter().filter(|local| local.is_ipv4() == external.is_ipv4());
    match (fitting.next(), fitting.next()) {
        (Some(local), None) => Ok(*local),
        (None, _) => Err(StartError::new(format!(
            "external_address: {external} is {family}, but no relay address is; give one with --relay-address IP"
        ))),
        (Some(local), Some(_)) => Err(StartError::new(format!(
            "external_address: {external} could stand for several {family} relay addresses; say which: {external}/{local}"
        ))),
    }
}

/// The first address of each family that is not link-local.
fn of_interface(name: &str) -> Result<Vec<IpAddr>, StartError> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let of = |v4: bool| {
        let mut here = all.iter().filter(|found| found.name == name && !found.is_link_local());
        here.find(|found| found.ip().is_ipv4() == v4).map(if_addrs::Interface::ip)
    };
    let addresses: Vec<IpAddr> = [of(true), of(false)].into_iter().flatten().collect();
    if addresses.is_empty() {
        let mut names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
        names.dedup();
        return Err(StartError::new(format!(
            "external_address: interface {name:?} has no address; there are {}",
            names.join(", ")
        )));
    }
    addresses.into_iter().map(reachable).collect()
}

/// What the server sees of each relay address of a family that it has.
fn seen_by_server(locals: &[IpAddr], host: &str, port: u16) -> Result<Vec<(IpAddr, IpAddr)>, StartError> {
    let servers: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| StartError::new(format!("external_address: cannot find {host}: {error}")))?
        .collect();
    let mut seen = Vec::new();
    for &local in locals {
        let Some(server) = servers.iter().find(|server| server.is_ipv4() == local.is_ipv4()) else {
            continue;
        };
        let external = ask(local, *server).map_err(|error| {
            StartError::new(format!(
                "external_address: {host} (port {port}) does not say how it sees {local} ({error}); see that UDP gets there and back, or give \
                 the address itself"
            ))
        })?;
        if external.is_ipv4() != local.is_ipv4() {
            continue;
        }
        seen.push((local, reachable(external)?));
    }
    if seen.is_empty() {
        return Err(no_family(host));
    }
    Ok(seen)
}

/// One Binding transaction (RFC 8489 section 6.2.1, with a shorter end) from any port of `local`.
fn ask(local: IpAddr, server: SocketAddr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    let request = Message::builder_request(BINDING, MessageWriteVec::new());
    let transaction = request.transaction_id();
    let request = request.finish();
    let (end, mut wait) = (Instant::now() + PATIENCE, FIRST_WAIT);
    let mut buffer = [0; 1500];
    loop {
        socket.send(&request)?;
        let again = (Instant::now() + wait).min(end);
        wait *= 2;
        loop {
            let left = again.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    let answer = buffer.get(..len).and_then(|bytes| Message::from_bytes(bytes).ok());
                    let ours = answer.filter(|answer| answer.transaction_id() == transaction);
                    if let Some(seen) = ours.and_then(|answer| answer.attribute::<XorMappedAddress>().ok()) {
                        return Ok(seen.addr(transaction).ip());
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if Instant::now() >= end {
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in time"));
        }
    }
}

/// RFC 8489 section 18.5.
const STUN_PORT: u16 = 3478;
/// RFC 8489 section 6.2.1.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Long enough for three packets to be lost; a start is not to hang on a server that is gone.
const PATIENCE: Duration = Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for (text, written) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("192.0.2.1/10.0.0.1", "192.0.2.1/10.0.0.1"),
            ("stun:stun.example.org", "stun:stun.example.org:3478"),
            ("stun:192.0.2.9:19302", "stun:192.0.2.9:19302"),
            ("stun:[2001:db8::9]", "stun:2001:db8::9:3478"),
            ("stun:[2001:db8::9]:1", "stun:2001:db8::9:1"),
            ("interface:eth0", "interface:eth0"),
        ] {
            assert_eq!(text.parse::<External>().expect(text).to_string(), written);
        }
        for text in
            ["", "stun:", "stun::1", "stun:host:0", "stun:host:x", "stun:2001:db8::9", "interface:", "host"]
        {
            text.parse::<External>().expect_err(text);
        }
    }

    #[test]
    fn pairs_name_their_relay_addresses_and_what_is_ambiguous_or_double_is_refused() {
        let locals = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(ip);
        let with = |sources: &[&str]| {
            let sources: Vec<External> = sources.iter().map(|text| text.parse().expect(text)).collect();
            advertise(&locals, &sources)
        };
        let known = with(&["192.0.2.1/10.0.0.2", "192.0.2.2/10.0.0.1", "2001:db8::1"]).expect("fits");
        let external: Vec<_> = known.iter().map(|address| address.external).collect();
        assert_eq!(external, [Some(ip("192.0.2.2")), Some(ip("192.0.2.1")), Some(ip("2001:db8::1"))]);
        for (sources, why) in [
            (&["192.0.2.1"][..], "say which: 192.0.2.1/10.0.0.1"),
            (&["192.0.2.1/10.0.0.3"], "no relay address"),
            (&["192.0.2.1/fd00::1"], "IPv4"),
            (&["2001:db8::1", "2001:db8::2"], "keep one"),
            (&["interface:none-such"], "there are lo"),
        ] {
            let refused = with(sources).expect_err(why).to_string();
            assert!(refused.starts_with("external_address: ") && refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn an_interface_without_an_address_of_the_right_family_is_refused() {
        let locals = [ip("10.0.0.1")];
        let both = fitting(&locals, vec![ip("192.0.2.1"), ip("2001:db8::1")], "wan0").expect("one fits");
        assert_eq!(both, [(ip("10.0.0.1"), ip("192.0.2.1"))]);
        let refused = fitting(&locals, vec![ip("2001:db8::1")], "wan0").expect_err("none fits").to_string();
        assert!(refused.contains("wan0 has no address of the family"), "{refused}");
    }

    #[test]
    fn an_address_that_is_known_as_itself_has_no_external_one() {
        let known = advertise(&[ip("192.0.2.1")], &["192.0.2.1/192.0.2.1".parse().expect("a pair")]);
        assert_eq!(known.expect("fits")[0].external, None);
    }

    #[test]
    fn the_answer_of_somebody_else_or_to_another_question_is_not_taken() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let address = server.local_addr().expect("bound");
        let answers = std::thread::spawn(move || {
            let mut buffer = [0; 100];
            let (len, client) = server.recv_from(&mut buffer).expect("asked");
            let mut other = buffer;
            other[19] ^= 1;
            let stranger = UdpSocket::bind("127.0.0.1:0").expect("binds");
            stranger.send_to(&answer(&buffer[..len], "192.0.2.66:1"), client).expect("sends");
            server.send_to(&answer(&other[..len], "192.0.2.77:1"), client).expect("sends");
            server.send_to(b"no STUN", client).expect("sends");
            server.send_to(&answer(&buffer[..len], "192.0.2.5:1"), client).expect("sends");
        });
        let found = advertise(
            &[ip("127.0.0.1")],
            &[External::Stun { host: "127.0.0.1".into(), port: address.port() }],
        );
        assert_eq!(found.expect("answered")[0].external, Some(ip("192.0.2.5")));
        answers.join().expect("answered");
    }

    fn answer(request: &[u8], seen: &str) -> Vec<u8> {
        let request = Message::from_bytes(request).expect("a request");
        let mut answer = Message::builder_success(&request, MessageWriteVec::new());
        let seen = XorMappedAddress::new(seen.parse().expect("an address"), request.transaction_id());
        answer.add_attribute(&seen).expect("fits");
        answer.finish()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }
}
