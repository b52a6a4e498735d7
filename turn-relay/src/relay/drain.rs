//! Drain: the server is about to end, and sends newcomers elsewhere (RFC 8489 section 10).
//!
//! Allocations that stand run on; nobody is cut off here. The answer is given behind the authentication and signed: the RFC
//! allows both, but a client cannot trust an unsigned redirection, and a stranger would get a larger answer than a challenge.

use std::net::{SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use super::Relay;
use super::refusal::Refusal;
use super::requests::Asker;
use crate::address::Transport;
use crate::stun::Attribute;

/// What becomes of newcomers while the server drains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Where clients that came over IPv4 shall go.
    pub alternate_v4: Option<SocketAddrV4>,
    /// Where clients that came over IPv6 shall go.
    pub alternate_v6: Option<SocketAddrV6>,
    /// The name in the certificate of those servers, where it is not ours. At most 255 bytes; a longer one is not sent.
    pub alternate_domain: Option<Box<str>>,
    /// When the server ends. No lifetime is granted beyond, so that clients learn of it with their next refresh.
    pub until: Option<Instant>,
}

impl Relay {
    /// RFC 8489 section 10: one ALTERNATE-SERVER of the request's family at least, or none of them and 508.
    pub(super) fn turn_away(&mut self, now: Instant, asker: &Asker) -> Result<(), Refusal> {
        let Some(drain) = self.draining.clone() else { return Ok(()) };
        let (v4, v6) = (drain.alternate_v4.map(Into::into), drain.alternate_v6.map(Into::into));
        let (same, other) = if asker.from.client.0.is_ipv4() { (v4, v6) } else { (v6, v4) };
        let Some(same) = same else {
            return Err(Refusal::Capacity("the server is about to end"));
        };
        let mut attributes = vec![Attribute::AlternateServer(same)];
        attributes.extend(other.map(Attribute::AlternateServer));
        // The name is for the check of a certificate.
        if matches!(asker.from.transport, Transport::Tls | Transport::Dtls) {
            let domain = drain.alternate_domain.as_deref().filter(|domain| domain.len() <= 255);
            attributes.extend(domain.map(Attribute::AlternateDomain));
        }
        self.refuse(now, asker, Refusal::TryAlternate, &attributes);
        Ok(())
    }

    /// A lifetime that does not outlive the server; a second at least, because 0 means deleted.
    pub(super) fn until_drained(&self, now: Instant, lifetime: Duration) -> Duration {
        let until = self.draining.as_ref().and_then(|drain| drain.until);
        until.map_or(lifetime, |until| {
            let left = until.saturating_duration_since(now).max(Duration::from_secs(1));
            lifetime.min(Duration::from_secs(left.as_secs()))
        })
    }
}
