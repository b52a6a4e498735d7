//! Which browsers may talk to this server: the Host allow-list and the Origin check.
//!
//! Two attacks need no bug of ours, only a browser that visits a hostile page. A page may open a WebSocket to
//! any host (no same-origin policy there), so a present `Origin` must be one that we know. And a page may point
//! its own name at our address (DNS rebinding), after which its origin *is* ours, so a `Host` that is a name
//! must be a name that we were told about. A client that sends no `Origin` is a native one: nothing rides on it.
//!
//! Forwarding headers are never consulted: behind a proxy the public address is given by `public_url`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use axum::http::uri::Authority;

/// An origin as RFC 6454 section 4 has it: scheme, host and port, compared as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl Origin {
    /// The host, as it is written in a URL (an IPv6 address in brackets).
    pub(crate) const fn host(&self) -> &Host {
        &self.host
    }

    /// The same origin for a WebSocket: `ws://` or `wss://`.
    pub(crate) fn as_websocket(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Http => "ws",
            Scheme::Https => "wss",
        };
        format!("{scheme}://{}{}", self.host, self.port_suffix())
    }

    fn port_suffix(&self) -> String {
        if self.port == self.scheme.default_port() { String::new() } else { format!(":{}", self.port) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.host, self.port_suffix())
    }
}

/// Why a text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected scheme://host or scheme://host:port with http or https, without a path")]
pub struct NotAnOrigin;

impl FromStr for Origin {
    type Err = NotAnOrigin;

    /// Accepts one trailing slash, since that is how people copy an address.
    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let (scheme, rest) = text.split_once("://").ok_or(NotAnOrigin)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(NotAnOrigin),
        };
        let (host, port) = parse_authority(rest.strip_suffix('/').unwrap_or(rest)).ok_or(NotAnOrigin)?;
        Ok(Self { scheme, host, port: port.unwrap_or_else(|| scheme.default_port()) })
    }
}

/// The scheme under which a client reaches the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The host part of an authority, in lower case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP literal: no name is looked up, so nothing can be rebound.
    Ip(IpAddr),
    /// A DNS name.
    Name(Box<str>),
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(v6) = text.strip_prefix('[') {
            return Some(Self::Ip(v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into()));
        }
        if let Ok(v4) = text.parse() {
            return Some(Self::Ip(IpAddr::V4(v4)));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if name.is_empty() || !name.bytes().all(plain) {
            return None;
        }
        Some(Self::Name(name.to_ascii_lowercase().into()))
    }

    /// RFC 6761 section 6.3: `localhost` and everything below it is this machine, whatever DNS says.
    pub(crate) fn is_loopback_name(&self) -> bool {
        match self {
            Self::Ip(_) => false,
            Self::Name(name) => &**name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Whether only this machine reaches it, by name or by address.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.to_canonical().is_loopback(),
            Self::Name(_) => self.is_loopback_name(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Decides, per request, whether its `Host` and its `Origin` may use this server.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    public: Option<Origin>,
    allowed: Box<[Origin]>,
}

/// A request without a usable or permitted `Host`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostRefusal {
    /// No `Host` header, or one that is not `host[:port]`: 400.
    Malformed,
    /// A name that this server was not told about: 421.
    Unknown,
}

impl Gate {
    /// `public` is the address that clients use; `allowed` are further origins whose pages may connect.
    pub(crate) fn new(public: Option<Origin>, allowed: Vec<Origin>) -> Self {
        Self { public, allowed: allowed.into() }
    }

    /// Checks a `Host` header and returns the origin under which the client sees this server.
    pub(crate) fn admit_host(&self, scheme: Scheme, host: Option<&str>) -> Result<Origin, HostRefusal> {
        let (host, port) = host.and_then(parse_authority).ok_or(HostRefusal::Malformed)?;
        let is_public = self.public.as_ref().is_some_and(|public| public.host == host);
        match host {
            Host::Name(_) if !is_public && !host.is_loopback_name() => Err(HostRefusal::Unknown),
            Host::Ip(_) | Host::Name(_) => {
                Ok(Origin { scheme, port: port.unwrap_or_else(|| scheme.default_port()), host })
            }
        }
    }

    /// Whether a request that reached us as `own` and carries this `Origin` header may open a session.
    pub(crate) fn admits_origin(&self, own: &Origin, origin: Option<&[u8]>) -> bool {
        let Some(origin) = origin else { return true };
        // `null` (a file, a sandboxed frame) and everything else that does not parse is no origin that we know.
        let Some(origin) = std::str::from_utf8(origin).ok().and_then(|text| text.parse::<Origin>().ok())
        else {
            return false;
        };
        origin == *own || self.public.as_ref() == Some(&origin) || self.allowed.contains(&origin)
    }

    /// The origin to print in links and to put into security headers beside the one the client used.
    pub(crate) const fn public(&self) -> Option<&Origin> {
        self.public.as_ref()
    }
}

/// `host[:port]`; user information is refused, an empty port too.
pub(crate) fn parse_authority(text: &str) -> Option<(Host, Option<u16>)> {
    if text.contains('@') {
        return None;
    }
    let authority: Authority = text.parse().ok()?;
    let host = Host::parse(authority.host())?;
    match authority.port() {
        Some(port) => Some((host, Some(port.as_str().parse().ok()?))),
        None if text.len() == authority.host().len() => Some((host, None)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        text.parse().expect("a valid origin")
    }

    fn gate(public: Option<&str>, allowed: &[&str]) -> Gate {
        Gate::new(public.map(origin), allowed.iter().map(|text| origin(text)).collect())
    }

    #[test]
    fn loopback_names_and_ip_literals_are_admitted_as_hosts() {
        let gate = gate(None, &[]);
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "a.localhost:1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.1.2.3",
            "localhost.",
        ] {
            assert!(gate.admit_host(Scheme::Http, Some(host)).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_name_that_may_have_been_rebound_is_refused() {
        let gate = gate(Some("https://call.example"), &["https://other.example"]);
        for host in
            ["evil.example", "localhost.evil.example", "evillocalhost", "127.0.0.1.nip.io", "other.example"]
        {
            assert_eq!(gate.admit_host(Scheme::Http, Some(host)), Err(HostRefusal::Unknown), "{host}");
        }
        assert!(gate.admit_host(Scheme::Http, Some("call.example:8443")).is_ok());
    }

    #[test]
    fn a_missing_or_odd_host_is_malformed() {
        let gate = gate(None, &[]);
        for host in [
            None,
            Some(""),
            Some("a@localhost"),
            Some("localhost:"),
            Some("localhost:99999"),
            Some("[::1"),
            Some("::1"),
            Some("a b"),
        ] {
            assert_eq!(gate.admit_host(Scheme::Http, host), Err(HostRefusal::Malformed), "{host:?}");
        }
    }

    #[test]
    fn an_origin_must_match_in_scheme_host_and_port() {
        let gate = gate(None, &[]);
        let own = gate.admit_host(Scheme::Http, Some("localhost:8080")).expect("admitted");
        assert!(gate.admits_origin(&own, Some(b"http://localhost:8080")));
        for other in [
            "https://localhost:8080",
            "http://localhost:8081",
            "http://127.0.0.1:8080",
            "http://localhost",
            "null",
            "",
            "http://localhost:8080/x",
        ] {
            assert!(!gate.admits_origin(&own, Some(other.as_bytes())), "{other}");
        }
        assert!(!gate.admits_origin(&own, Some(b"http://\xff")));
    }

    #[test]
    fn a_client_without_an_origin_is_a_native_one() {
        let gate = gate(None, &[]);
        let own = gate.admit_host(Scheme::Http, Some("localhost")).expect("admitted");
        assert!(gate.admits_origin(&own, None));
    }

    #[test]
    fn the_public_address_and_listed_origins_are_admitted_behind_a_proxy() {
        let gate = gate(Some("https://call.example/"), &["https://app.example:8443"]);
        let own = gate.admit_host(Scheme::Http, Some("127.0.0.1:8080")).expect("admitted");
        assert!(gate.admits_origin(&own, Some(b"https://call.example")));
        assert!(gate.admits_origin(&own, Some(b"https://app.example:8443")));
        assert!(!gate.admits_origin(&own, Some(b"http://call.example")));
        assert!(!gate.admits_origin(&own, Some(b"https://app.example")));
    }

    #[test]
    fn an_origin_prints_as_it_is_written_in_a_url() {
        assert_eq!(origin("https://Call.Example:443").to_string(), "https://call.example");
        assert_eq!(origin("http://[::1]:8080").to_string(), "http://[::1]:8080");
        assert_eq!(origin("https://call.example:8443").as_websocket(), "wss://call.example:8443");
        for bad in ["call.example", "ftp://a", "https://", "https://a/b", "https://a?b", "https://a:b"] {
            assert_eq!(bad.parse::<Origin>(), Err(NotAnOrigin), "{bad}");
        }
    }
}
