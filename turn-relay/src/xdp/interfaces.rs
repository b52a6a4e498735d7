//! The interfaces that the program is attached to, the VLANs on them, and whether the kernel lets a program look up routes.

use std::fmt;
use std::fs;

use nix::ifaddrs::getifaddrs;

use crate::operation::StartError;
use crate::sys::xdp::{Port, Tag, driver_name};

/// Interfaces with what the program must know of them.
#[derive(Debug)]
pub(super) struct Interfaces {
    names: Vec<String>,
    /// Why it would be wrong to let the drivers send, if it would.
    pub(super) unfit: Option<String>,
    /// By interface index: those that were named, and the VLANs on them.
    pub(super) ports: Vec<(u32, Port)>,
    /// Which interface a tagged frame belongs to.
    pub(super) tags: Vec<(Tag, u32)>,
}

impl Interfaces {
    /// # Errors
    /// One line: an interface that this host does not have, or that is no Ethernet.
    pub(super) fn find(names: &[String]) -> Result<Self, StartError> {
        let mut found = Self { names: names.to_vec(), unfit: None, ports: Vec::new(), tags: Vec::new() };
        for name in names {
            let (name, is_fit) =
                name.strip_suffix(NATIVE).map_or((name.as_str(), false), |name| (name, true));
            if !is_fit && driver_name(name).is_ok_and(|driver| driver == "veth") {
                found.unfit = Some(format!(
                    "{name} is a veth, which loses what the driver sends unless its far end has an XDP program too; \
                     {name}{NATIVE} says that it has"
                ));
            }
            let (index, mac) = link(name).ok_or_else(|| {
                StartError::new(format!(
                    "xdp: this host has no Ethernet interface called {name} (ip -brief link lists them)"
                ))
            })?;
            found.ports.push((index, port(name, index, [0; 2], mac)));
            for (vlan_name, id) in vlans(name) {
                let Some((vlan_index, vlan_mac)) = link(&vlan_name) else { continue };
                let vlan = id.to_be_bytes();
                found.ports.push((vlan_index, port(&vlan_name, index, vlan, vlan_mac)));
                found.tags.push((Tag { device: index, vlan, unused: 0 }, vlan_index));
            }
        }
        Ok(found)
    }

    /// How long a table must be that has a place for each.
    pub(super) fn indexes(&self) -> u32 {
        self.ports.iter().map(|(index, _)| index + 1).max().unwrap_or(1)
    }

    /// Indexes of those that were named.
    pub(super) fn devices(&self) -> impl Iterator<Item = u32> {
        self.ports.iter().filter(|(index, port)| *index == port.device).map(|(index, _)| *index)
    }
}

impl fmt::Display for Interfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))
    }
}

fn port(name: &str, device: u32, vlan: [u8; 2], mac: [u8; 6]) -> Port {
    let hops = |path: &str| setting(path).and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_HOPS);
    let ttl = hops("net/ipv4/ip_default_ttl");
    let hop_limit = hops(&format!("net/ipv6/conf/{name}/hop_limit"));
    Port { device, vlan, mac, ttl, hop_limit, unused: [0; 2] }
}

/// Index and MAC address.
fn link(name: &str) -> Option<(u32, [u8; 6])> {
    let address = getifaddrs().ok()?.filter(|address| address.interface_name == name);
    let link = address.filter_map(|address| address.address).find_map(|address| {
        let link = address.as_link_addr()?;
        Some((u32::try_from(link.ifindex()).ok()?, link.addr()?))
    })?;
    // Those without addresses (tunnels, loopback) have zeros.
    (link.1 != [0; 6]).then_some(link)
}

/// Names and numbers of the VLANs on an interface.
fn vlans(device: &str) -> Vec<(String, u16)> {
    // Not there without the kernel's module, and then there are none.
    let table = fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    let row = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        let (name, id, on) = (columns.next()?, columns.next()?.parse().ok()?, columns.next()?);
        (on == device).then(|| (name.to_owned(), id))
    };
    table.lines().filter_map(row).collect()
}

/// Whether routes can be looked up for IPv4 and for IPv6. The kernel answers programs only about packets that "come in" where
/// forwarding is on; what the relay sends comes from this host, so that is the loopback interface, of which nothing is ever forwarded.
///
/// # Errors
/// What to do, where neither can be.
pub(super) fn families() -> Result<(bool, bool), String> {
    let is_on = |family: &str| setting(&format!("net/{family}/conf/lo/forwarding")).as_deref() == Some("1");
    // For IPv6 the same would throw away the default routes that routers advertised, so that is left to the operator.
    let ipv6 = is_on("ipv6");
    let ipv4 = is_on("ipv4") || fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "1").is_ok();
    if ipv4 || ipv6 {
        return Ok((ipv4, ipv6));
    }
    Err("the kernel's route lookup needs net.ipv4.conf.lo.forwarding=1, which cannot be set from here"
        .to_owned())
}

fn setting(path: &str) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().to_owned())
}

/// Behind the name of a virtual link that is known to take what the driver sends.
const NATIVE: &str = "/native";
/// RFC 1700, and the kernel's default.
const DEFAULT_HOPS: u8 = 64;
