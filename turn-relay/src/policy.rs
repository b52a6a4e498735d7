//! Which addresses may be a peer. Closed: what IANA lists as special-purpose is refused unless the operator allows it.
//!
//! An IPv6 address can carry an IPv4 address that some translator on the way will unpack, so every form of an address is
//! checked: the address itself and each IPv4 address in it. One refused form refuses the whole.
//!
//! Refuses to do: ports, names, the server's own addresses (the core knows which of those are live allocations).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The peer address policy. Order of precedence: deny, allow, the built-in list, everything else is permitted.
#[derive(Clone, Debug, Default)]
pub struct PeerPolicy {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

impl PeerPolicy {
    /// `deny` wins over `allow`, and `allow` over the built-in list.
    pub fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    /// Whether `ip` may be a peer.
    #[must_use]
    pub fn permits(&self, ip: IpAddr) -> bool {
        forms(ip)
            .all(|form| !covers(&self.deny, form) && (covers(&self.allow, form) || !is_special_purpose(form)))
    }

    /// Whether the operator named `ip` (in every form) in `allow` and in no form in `deny`: what the server's own addresses need.
    #[must_use]
    pub fn allows_expressly(&self, ip: IpAddr) -> bool {
        forms(ip).all(|form| !covers(&self.deny, form) && covers(&self.allow, form))
    }

    /// Whether the operator refuses `ip`, whatever else speaks for it.
    #[must_use]
    pub fn denies_expressly(&self, ip: IpAddr) -> bool {
        forms(ip).any(|form| covers(&self.deny, form))
    }
}

fn covers(nets: &[IpNet], ip: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&ip))
}

/// The address itself, then every IPv4 address that a translator may find in it.
pub(crate) fn forms(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match ip {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(v6) => embedded_v4(v6),
    };
    std::iter::once(ip).chain(embedded.into_iter().flatten().map(IpAddr::V4))
}

fn embedded_v4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let bits = u128::from(ip);
    let last = v4_at(bits, 96);
    let octets = ip.octets();
    let mut found = match ip.segments() {
        // Loopback is an address of its own (RFC 4291 section 2.5.3), not a v4-compatible form of 0.0.0.1.
        [0, 0, 0, 0, 0, 0, 0, 1] => [None; 4],
        // v4-mapped ::ffff:0:0/96 and the deprecated v4-compatible ::/96
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => [Some(last), None, None, None],
        // v4-translated ::ffff:0:0:0/96 (RFC 2765)
        [0, 0, 0, 0, 0xffff, 0, _, _] => [Some(last), None, None, None],
        // NAT64, RFC 6052
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [Some(last), None, None, None],
        // NAT64 for local use, RFC 8215: the operator may have cut a /48, /56, /64 or /96 out of it (RFC 6052 section 2.2)
        [0x64, 0xff9b, 1, ..] => [
            Some(Ipv4Addr::new(octets[6], octets[7], octets[9], octets[10])),
            Some(Ipv4Addr::new(octets[7], octets[9], octets[10], octets[11])),
            Some(Ipv4Addr::new(octets[9], octets[10], octets[11], octets[12])),
            Some(last),
        ],
        // 6to4, RFC 3056
        [0x2002, ..] => [Some(v4_at(bits, 16)), None, None, None],
        // Teredo, RFC 4380: the server's address, and the client's with every bit flipped
        [0x2001, 0, ..] => [Some(v4_at(bits, 32)), Some(Ipv4Addr::from(!u32::from(last))), None, None],
        _ => [None; 4],
    };
    // ISATAP, RFC 5214: an interface identifier, so it goes with any prefix, 6to4 included
    if matches!(ip.segments(), [_, _, _, _, 0 | 0x0200, 0x5efe, _, _]) {
        found[3] = Some(last);
    }
    found
}

/// The 32 bits that begin at bit `offset`, counted from the most significant.
fn v4_at(bits: u128, offset: u32) -> Ipv4Addr {
    let word = (bits >> (96 - offset)) & 0xffff_ffff;
    Ipv4Addr::from(u32::try_from(word).expect("32 bits were masked out"))
}

fn is_special_purpose(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => SPECIAL_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => SPECIAL_V6.iter().any(|net| net.contains(&v6)),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// The IANA IPv4 special-purpose registry, multicast, and the one metadata address that is in neither.
const SPECIAL_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private use
    v4(100, 64, 0, 0, 10),    // shared address space; a metadata service at 100.100.100.200
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link local; metadata services at 169.254.169.254
    v4(172, 16, 0, 0, 12),    // private use
    v4(192, 0, 0, 0, 24),     // IETF protocol assignments; a metadata service at 192.0.0.192
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 52, 193, 0, 24),  // AMT
    v4(192, 88, 99, 0, 24),   // 6to4 relay anycast
    v4(192, 168, 0, 0, 16),   // private use
    v4(192, 175, 48, 0, 24),  // AS112
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, limited broadcast
    v4(168, 63, 129, 16, 32), // a cloud's host agent, in public address space
];

/// The IANA IPv6 special-purpose registry and multicast. 64:ff9b::/96 is not here: it is as good as the IPv4 address in it.
const SPECIAL_V6: &[Ipv6Net] = &[
    v6(0, 0, 0, 0, 64),         // unspecified, loopback, v4-mapped, v4-compatible, v4-translated
    v6(0x64, 0xff9b, 1, 0, 48), // NAT64 for local use
    v6(0x100, 0, 0, 0, 64),     // discard
    v6(0x100, 0, 0, 1, 64),     // dummy prefix
    v6(0x2001, 0, 0, 0, 23),    // IETF protocol assignments: Teredo, ORCHID, AMT and others
    v6(0x2001, 0xdb8, 0, 0, 32), // documentation
    v6(0x2002, 0, 0, 0, 16),    // 6to4
    v6(0x2620, 0x4f, 0x8000, 0, 48), // AS112
    v6(0x3fff, 0, 0, 0, 20),    // documentation
    v6(0x5f00, 0, 0, 0, 16),    // segment routing
    v6(0xfc00, 0, 0, 0, 7),     // unique local; metadata services at fd00:ec2::254 and fd20:ce::254
    v6(0xfe80, 0, 0, 0, 10),    // link local
    v6(0xfec0, 0, 0, 0, 10),    // site local
    v6(0xff00, 0, 0, 0, 8),     // multicast
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn closed() -> PeerPolicy {
        PeerPolicy::default()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn allowing_ipv6_loopback_does_not_need_allowing_ipv4_too() {
        let policy = PeerPolicy::new(vec![net("::1/128")], vec![]);
        assert!(policy.allows_expressly(ip("::1")) && policy.permits(ip("::1")));
        assert!(!policy.permits(ip("::2")) && !policy.permits(ip("::")));
    }

    /// Every way that a translator on the path may know to write `v4`.
    fn disguises(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let high_then = |rest: u8| u16::from_be_bytes([rest, a]);
        vec![
            Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, high, u16::from(c), u16::from_be_bytes([d, 0]), 0, 0),
            Ipv6Addr::new(0x64, 0xff9b, 1, high_then(9), u16::from(b), low, 0, 0),
            Ipv6Addr::new(
                0x64,
                0xff9b,
                1,
                9,
                u16::from(a),
                u16::from_be_bytes([b, c]),
                u16::from_be_bytes([d, 0]),
                0,
            ),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, high, low, 0, 0, !0x0808, !0x0808),
            Ipv6Addr::new(0x2001, 0, 0x0808, 0x0808, 0, 0, !high, !low),
            Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0x5efe, high, low),
            Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0x0200, 0x5efe, high, low),
        ]
    }

    const HOSTILE_V4: [&str; 32] = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.88.99.1",
        "192.168.0.1",
        "192.168.255.255",
        "192.175.48.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "254.0.0.1",
        "255.255.255.254",
        "255.255.255.255",
    ];

    #[test]
    fn closed_policy_refuses_every_hostile_v4_address() {
        for text in HOSTILE_V4 {
            assert!(!closed().permits(ip(text)), "{text}");
        }
    }

    #[test]
    fn closed_policy_refuses_every_hostile_v4_address_in_every_v6_disguise() {
        for text in HOSTILE_V4 {
            for disguise in disguises(text.parse().unwrap()) {
                assert!(!closed().permits(disguise.into()), "{text} as {disguise}");
            }
        }
    }

    #[test]
    fn allowing_every_v6_address_still_refuses_a_disguised_hostile_v4_address() {
        let policy = PeerPolicy::new(vec![net("::/0")], vec![]);
        for text in HOSTILE_V4 {
            // ::1 is loopback itself, which ::/0 does allow, and no disguise of 0.0.0.1.
            for disguise in disguises(text.parse().unwrap()).into_iter().filter(|ip| !ip.is_loopback()) {
                assert!(!policy.permits(disguise.into()), "{text} as {disguise}");
            }
        }
    }

    #[test]
    fn denying_a_v4_network_denies_its_v6_disguises() {
        let policy = PeerPolicy::new(vec![net("::/0")], vec![net("8.8.0.0/16")]);
        for disguise in disguises("8.8.4.4".parse().unwrap()) {
            assert!(!policy.permits(disguise.into()), "{disguise}");
        }
        assert!(policy.permits(ip("64:ff9b::9.9.9.9")));
    }

    #[test]
    fn closed_policy_refuses_special_v6_addresses() {
        for text in [
            "::",
            "::1",
            "64:ff9b:1::1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002::1",
            "2620:4f:8000::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!closed().permits(ip(text)), "{text}");
        }
    }

    #[test]
    fn closed_policy_permits_public_addresses_on_both_sides_of_a_refused_range() {
        for text in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2a00::1",
            "64:ff9b::8.8.8.8",
            "fbff::1",
        ] {
            assert!(closed().permits(ip(text)), "{text}");
        }
    }

    #[test]
    fn deny_wins_over_allow_and_allow_over_the_built_in_list() {
        let policy = PeerPolicy::new(vec![net("10.0.0.0/8")], vec![net("10.1.0.0/16")]);
        assert!(policy.permits(ip("10.0.0.1")));
        assert!(!policy.permits(ip("10.1.0.1")));
        assert!(!policy.permits(ip("192.168.0.1")));
        assert!(policy.allows_expressly(ip("10.0.0.1")));
        assert!(!policy.allows_expressly(ip("8.8.8.8")));
        assert!(policy.denies_expressly(ip("::ffff:10.1.0.1")));
    }

    /// First and last address of a network, by arithmetic of its own.
    fn interval(base: u128, prefix: u32, width: u32) -> (u128, u128) {
        let host = if prefix == 0 { u128::MAX >> (128 - width) } else { (1_u128 << (width - prefix)) - 1 };
        (base & !host, base | host)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 20_000, ..ProptestConfig::default() })]

        #[test]
        fn v4_result_equals_integer_interval_membership(
            allow in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..4),
            deny in prop::collection::vec((any::<u32>(), 1_u8..=32), 0..4),
            random in any::<u32>(),
            near in any::<prop::sample::Index>(),
            shift in -1_i64..=1,
        ) {
            let within = |nets: &[(u32, u8)], ip: u32| nets.iter().any(|(base, prefix)| {
                let (low, high) = interval((*base).into(), (*prefix).into(), 32);
                (low..=high).contains(&u128::from(ip))
            });
            let special: Vec<(u32, u8)> = SPECIAL_V4.iter().map(|net| (net.network().into(), net.prefix_len())).collect();
            // Half of the addresses lie at an edge of some interval: that is where comparisons go wrong.
            let edges: Vec<u32> = allow.iter().chain(&deny).chain(&special).flat_map(|(base, prefix)| {
                let (low, high) = interval((*base).into(), (*prefix).into(), 32);
                [u32::try_from(low).unwrap(), u32::try_from(high).unwrap()]
            }).collect();
            let nets = |nets: &[(u32, u8)]| nets.iter()
                .map(|(base, prefix)| IpNet::new(Ipv4Addr::from(*base).into(), *prefix).unwrap())
                .collect::<Vec<_>>();
            let policy = PeerPolicy::new(nets(&allow), nets(&deny));
            let edge = u32::try_from((i64::from(*near.get(&edges)) + shift).rem_euclid(1 << 32)).unwrap();
            for ip in [random, edge] {
                let expected = !within(&deny, ip) && (within(&allow, ip) || !within(&special, ip));
                prop_assert_eq!(policy.permits(Ipv4Addr::from(ip).into()), expected, "{}", Ipv4Addr::from(ip));
            }
        }

        #[test]
        fn v6_result_equals_integer_interval_membership(
            deny in prop::collection::vec((any::<u128>(), 1_u8..=128), 1..4),
            near in any::<prop::sample::Index>(),
            shift in -1_i8..=1,
        ) {
            let within = |nets: &[(u128, u8)], ip: u128| nets.iter().any(|(base, prefix)| {
                let (low, high) = interval(*base, (*prefix).into(), 128);
                (low..=high).contains(&ip)
            });
            let special: Vec<(u128, u8)> = SPECIAL_V6.iter().map(|net| (net.network().into(), net.prefix_len())).collect();
            let edges: Vec<u128> = deny.iter().chain(&special).flat_map(|(base, prefix)| {
                let (low, high) = interval(*base, (*prefix).into(), 128);
                [low, high]
            }).collect();
            let nets = deny.iter().map(|(base, prefix)| IpNet::new(Ipv6Addr::from(*base).into(), *prefix).unwrap());
            let ip = near.get(&edges).wrapping_add_signed(shift.into());
            let expected = !within(&deny, ip) && !within(&special, ip);
            let permitted = PeerPolicy::new(vec![], nets.collect()).permits(Ipv6Addr::from(ip).into());
            if embedded_v4(ip.into()).iter().all(Option::is_none) {
                prop_assert_eq!(permitted, expected, "{}", Ipv6Addr::from(ip));
            } else {
                prop_assert!(expected || !permitted, "{}", Ipv6Addr::from(ip));
            }
        }
    }
}
