//! Whose request it is where a proxy brings it: the proxy says so in a header, and only those of our own are believed.
//!
//! The list is read from its end: each proxy adds whom it heard, so the last entry is ours and what stands before the
//! first stranger is that stranger's invention. One header counts, the one that our proxies write; another one passes them
//! as the client sent it.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

/// The proxies that are believed, and what they write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarding {
    pub(crate) proxies: Vec<IpNet>,
    pub(crate) header: ForwardedHeader,
}

/// How a proxy says for whom it asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ForwardedHeader {
    /// A list of addresses, as everybody writes it.
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Forwarding {
    pub(crate) fn believes(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.proxies.iter().any(|proxy| proxy.contains(&ip))
    }

    /// The client of a request that a proxy of ours brought: the last one in the list that is no proxy of ours. `None`: the
    /// proxy does not say, or says what is no address.
    pub(crate) fn client(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let name = match self.header {
            ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ForwardedHeader::Forwarded => header::FORWARDED,
        };
        let mut client = None;
        for value in headers.get_all(name).iter().rev() {
            for entry in value.to_str().ok()?.rsplit(',') {
                let ip = match self.header {
                    ForwardedHeader::XForwardedFor => address(entry)?,
                    ForwardedHeader::Forwarded => address(forwarded_for(entry)?)?,
                };
                if !self.believes(ip) {
                    return Some(ip);
                }
                client = Some(ip);
            }
        }
        client
    }
}

/// The value of `for` in one element (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<&str> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for")).map(|(_, value)| value).next()
}

/// An address with or without a port, in quotes and brackets or not.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let text = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let ip = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()))?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(header: ForwardedHeader, values: &[&'static str]) -> Option<String> {
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
        let forwarding = Forwarding { proxies: proxies.to_vec(), header };
        let mut headers = HeaderMap::new();
        for name in ["x-forwarded-for", "forwarded"] {
            let is_ours = (name == "forwarded") == (header == ForwardedHeader::Forwarded);
            // The other header is the client's own invention.
            for value in if is_ours { values } else { &["6.6.6.6", "for=6.6.6.6"] } {
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        forwarding.client(&headers).map(|ip| ip.to_string())
    }

    #[test]
    fn the_last_stranger_of_the_list_is_the_client() {
        for (values, expected) in [
            (&["203.0.113.7"][..], Some("203.0.113.7")),
            (&["6.6.6.6, 203.0.113.7"], Some("203.0.113.7")),
            (&["6.6.6.6", "203.0.113.7"], Some("203.0.113.7")),
            (&["203.0.113.7, 10.1.2.3,10.1.2.4"], Some("203.0.113.7")),
            (&["203.0.113.7", "10.1.2.3"], Some("203.0.113.7")),
            (&["203.0.113.7:4711"], Some("203.0.113.7")),
            (&["2001:db8::7"], Some("2001:db8::7")),
            (&["[2001:db8::7]:4711"], Some("2001:db8::7")),
            (&["::ffff:203.0.113.7"], Some("203.0.113.7")),
            (&["10.1.2.3, ::ffff:10.1.2.4"], Some("10.1.2.3")),
            (&["203.0.113.7, unknown"], None),
            (&["203.0.113.7,"], None),
            (&[], None),
        ] {
            assert_eq!(client(ForwardedHeader::XForwardedFor, values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn elements_of_rfc_7239_are_read_from_their_end_whatever_stands_before() {
        for (values, expected) in [
            (&["for=203.0.113.7"][..], Some("203.0.113.7")),
            (
                &["for=6.6.6.6;proto=http, proto=https; For=\"203.0.113.7:81\";by=10.0.0.1"],
                Some("203.0.113.7"),
            ),
            (&["for=\"6.6.6.6, for=203.0.113.7"], Some("203.0.113.7")),
            (&["for=\"[2001:db8::7]:4711\", for=10.0.0.2"], Some("2001:db8::7")),
            (&["for=_hidden"], None),
            (&["for=203.0.113.7, proto=http"], None),
        ] {
            assert_eq!(client(ForwardedHeader::Forwarded, values).as_deref(), expected, "{values:?}");
        }
    }
}
