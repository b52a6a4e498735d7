//! Which peers may be reached. (skeleton)

use std::net::IpAddr;

use ipnet::IpNet;

/// The peer address policy.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl PeerPolicy {
    /// `deny` wins over `allow`, and `allow` over the built-in list of special-purpose ranges.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Whether `ip` may be a peer.
    pub fn permits(&self, ip: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&ip)) && !self.deny.iter().any(|net| net.contains(&ip))
    }
}
