//! Three hosts in network namespaces of this process's own: client -- relay -- peer, two Ethernet links.
//!
//! The namespaces have no names. They end with the last process in them, and servers die with this one: nothing is left behind,
//! however it ends.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use bench::cost;
use nix::sched::{CloneFlags, setns, unshare};

/// The client's address; the relay is its router.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 87, 1, 2);
/// Where clients find the relay.
pub(crate) const RELAY: Ipv4Addr = Ipv4Addr::new(10, 87, 1, 1);
/// Where peers find the relay.
pub(crate) const RELAYED: Ipv4Addr = Ipv4Addr::new(10, 87, 2, 1);
/// The peer's address; the relay is its router.
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 87, 2, 2);

/// The same over IPv6.
pub(crate) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd87, 1, 0, 0, 0, 0, 0, 2);
pub(crate) const RELAY6: Ipv6Addr = Ipv6Addr::new(0xfd87, 1, 0, 0, 0, 0, 0, 1);
pub(crate) const RELAYED6: Ipv6Addr = Ipv6Addr::new(0xfd87, 2, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd87, 2, 0, 0, 0, 0, 0, 2);

/// The client and the peer on a link of their own.
pub(crate) const CLIENT_AT_PEER: Ipv4Addr = Ipv4Addr::new(10, 87, 3, 1);
pub(crate) const PEER_AT_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 87, 3, 2);

#[derive(Clone, Copy)]
pub(crate) enum Host {
    Client,
    Relay,
    Peer,
}

pub(crate) struct Lab {
    home: File,
    hosts: [File; 3],
    /// The kernel threads that fetch for the relay, where its links work as cards.
    cards: Vec<u32>,
}

impl Lab {
    /// Builds the lab. With `segment` the relay's links cut what the kernel sends as one into datagrams, as cards without UDP
    /// segmentation offload have it done.
    ///
    /// # Errors
    /// Without root, or without iproute2.
    pub(crate) fn new(segment: bool) -> Result<Self> {
        let home = namespace()?;
        let mut hosts = Vec::new();
        for _ in 0..3 {
            unshare(CloneFlags::CLONE_NEWNET).context("a network namespace takes root")?;
            hosts.push(namespace()?);
            run("ip link set lo up")?;
            setns(&home, CloneFlags::CLONE_NEWNET)?;
        }
        let hosts: [File; 3] = hosts.try_into().ok().context("three hosts")?;
        let lab = Self { home, hosts, cards: Vec::new() };
        for (host, link, ours, theirs, ours6, theirs6) in [
            (Host::Client, "client", RELAY, CLIENT, RELAY6, CLIENT6),
            (Host::Peer, "peer", RELAYED, PEER, RELAYED6, PEER6),
        ] {
            let other = lab.path(host);
            lab.within(Host::Relay, || {
                run(&format!("ip link add {link} type veth peer name relay netns {other}"))?;
                run(&format!("ip addr add {ours}/24 dev {link}"))?;
                run(&format!("ip addr add {ours6}/64 dev {link} nodad"))?;
                run(&format!("ip link set {link} up"))?;
                if segment {
                    run(&format!("ethtool -K {link} tx-udp-segmentation off"))?;
                }
                Ok(())
            })?;
            lab.within(host, || {
                run(&format!("ip addr add {theirs}/24 dev relay"))?;
                run(&format!("ip addr add {theirs6}/64 dev relay nodad"))?;
                run("ip link set relay up")?;
                run(&format!("ip route add default via {ours}"))
            })?;
        }
        let peer = lab.path(Host::Peer);
        lab.within(Host::Client, || {
            run(&format!("ip link add direct type veth peer name direct netns {peer}"))?;
            run(&format!("ip addr add {CLIENT_AT_PEER}/24 dev direct"))?;
            run("ip link set direct up")
        })?;
        lab.within(Host::Peer, || {
            run(&format!("ip addr add {PEER_AT_CLIENT}/24 dev direct"))?;
            run("ip link set direct up")
        })?;
        lab.within(Host::Relay, || {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forwarding")
        })?;
        Ok(lab)
    }

    /// Makes all links work as network cards do: each host does its own work on its own core, the relay on `server`, the others on `load`.
    ///
    /// # Errors
    /// On a kernel before 5.12.
    pub(crate) fn with_cards(mut self, server: usize, load: usize) -> Result<Self> {
        for link in ["client", "peer"] {
            let thread = self.within(Host::Relay, || work_as_card(link, server))?;
            self.cards.push(thread);
        }
        for (host, link) in
            [(Host::Client, "relay"), (Host::Peer, "relay"), (Host::Client, "direct"), (Host::Peer, "direct")]
        {
            self.within(host, || work_as_card(link, load))?;
        }
        Ok(self)
    }

    /// Nanoseconds of CPU so far of what fetches from the relay's cards; none where its links are not cards.
    pub(crate) fn cards_cpu(&self) -> Result<u64> {
        self.cards.iter().map(|thread| cost::cpu(*thread)).sum()
    }

    /// Does something with this thread on `host`: sockets opened and programs started there stay there.
    pub(crate) fn within<T>(&self, host: Host, work: impl FnOnce() -> Result<T>) -> Result<T> {
        setns(&self.hosts[host as usize], CloneFlags::CLONE_NEWNET)?;
        let done = work();
        setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        done
    }

    /// Makes the far ends of the relay's links take what its drivers send, with a program that lets everything pass, and send whole
    /// checksums; or as they were. The link between client and peer is made alike, so that the load costs the same on it.
    pub(crate) fn take_from_drivers(&self, on: bool) -> Result<()> {
        let object = std::env::temp_dir().join(format!("bench-relay-{}.o", std::process::id()));
        if on {
            let source = "__attribute__((section(\"xdp\"), used)) int take(void *frame) { return 2; }";
            let code = object.with_extension("c");
            std::fs::write(&code, source)?;
            run(&format!("clang -target bpf -O2 -g -c {} -o {}", code.display(), object.display()))?;
            std::fs::remove_file(code)?;
        }
        for host in [Host::Client, Host::Peer] {
            for link in ["relay", "direct"] {
                self.within(host, || {
                    run(&format!("ethtool -K {link} tx {}", if on { "off" } else { "on" }))?;
                    let program =
                        if on { format!("obj {} sec xdp", object.display()) } else { "off".to_owned() };
                    run(&format!("ip link set dev {link} xdpdrv {program}"))
                })?;
            }
        }
        if on { std::fs::remove_file(object).context("the program") } else { Ok(()) }
    }

    fn path(&self, host: Host) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.hosts[host as usize].as_raw_fd())
    }
}

/// The network that this thread sees.
fn namespace() -> Result<File> {
    File::open("/proc/thread-self/ns/net").context("namespaces need /proc")
}

/// Makes a link's end work as a network card does: what came is fetched by a kernel thread, here on `cpu`, which puts equal datagrams of a
/// flow together (GRO), and what goes out is on the wire as it would be. Gives the thread. The host's settings are in a `/sys` of its own.
fn work_as_card(link: &str, cpu: usize) -> Result<u32> {
    run(&format!("ethtool -K {link} gro on tso off"))?;
    let before = fetching()?;
    let script = format!("mount -t sysfs sysfs /sys && echo 1 >/sys/class/net/{link}/threaded");
    execute("unshare", ["--mount", "sh", "-c", &script])?;
    let thread = fetching()?.into_iter().find(|thread| !before.contains(thread));
    let thread = thread.context("the kernel has no threads for network cards (Linux 5.12)")?;
    cost::pin_thread(thread, cpu)?;
    Ok(thread)
}

/// The kernel threads that fetch from network cards.
fn fetching() -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        let path = process?.path();
        // A process may be gone meanwhile, and most entries are none.
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("napi/") {
            threads.extend(path.file_name().and_then(|id| id.to_str()?.parse::<u32>().ok()));
        }
    }
    Ok(threads)
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    execute(words.next().unwrap_or_default(), words)
}

fn execute<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut command = Command::new(program);
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{program} cannot be run"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
