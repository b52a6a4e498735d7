//! The XDP program: loads it, attaches it to interfaces, and puts routes into it.
//!
//! Decides nothing about TURN and knows no allocation: that is for whoever holds a [`Driver`]. Without the
//! kernel's help there is no XDP path, and the relay works as without it; each interface's part is owned by this process, so that it
//! is gone when the process is.

mod interfaces;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use aya::maps::{Array, DevMapHash, HashMap, Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use crate::operation::StartError;
use crate::relay::{ByFlow, Route, ScaledPace};
use crate::sys::xdp::{
    Arrival, DONT_FRAGMENT, Departure, IPV4, Lane, Lanes, Limits, Mapped, Meter, Pace, Port, TO_CLIENT,
    TO_US, Tag, bytes,
};
use interfaces::Interfaces;

/// One worker's part: its own places in the tables that all workers' routes are in.
pub(crate) struct Driver {
    routes: HashMap<MapData, Arrival, Departure>,
    limits: Array<MapData, Limits>,
    lanes: Arc<Mapped<Lanes>>,
    meters: Arc<Mapped<Meter>>,
    /// Used again as late as possible: the program may be at work on another core with what was just taken out.
    free_slots: VecDeque<u32>,
    free_meters: VecDeque<u32>,
    /// Whether routes of these families can be taken.
    ipv4: bool,
    ipv6: bool,
    /// What attaches the program; the last worker lets go of it.
    _links: Arc<Vec<FdLink>>,
}

/// A route in the program. Give it back with [`Driver::remove`].
#[derive(Debug)]
pub(crate) struct Placed {
    slot: u32,
    arrivals: [Arrival; 2],
    /// What was counted in its place before.
    before: [Count; 2],
}

/// A bucket of each kind in each direction, of an allocation or of a user. Give it back with [`Driver::give_back`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MeterSlot(u32);

/// What the program counted of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Packets dropped above a rate of the allocation, and of the user.
    pub(crate) over: [u64; 2],
}

/// Loads and attaches the program, and gives every worker its part; none where the kernel does not go along, after saying why.
/// No interfaces: nothing is wanted.
///
/// # Errors
/// One line: an interface that this host does not have.
pub(crate) fn open(names: &[String], workers: NonZeroUsize) -> Result<Vec<Driver>, StartError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let interfaces = Interfaces::find(names)?;
    let drivers = load(&interfaces, workers);
    Ok(drivers.unwrap_or_else(|why| {
        tracing::warn!("XDP is off, everything is relayed in user space: {why}");
        Vec::new()
    }))
}

fn load(interfaces: &Interfaces, workers: NonZeroUsize) -> Result<Vec<Driver>, String> {
    let (ipv4, ipv6) = interfaces::families()?;
    let object = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.bpf.o"));
    let mut program =
        EbpfLoader::new().map_max_entries("ports", interfaces.indexes()).load(object).map_err(chain)?;
    fill(&mut program, interfaces)?;
    let (mode, links) = attach(&mut program, interfaces)?;
    let lanes = Mapped::new(map_data(&mut program, "lanes")?.fd().as_fd(), ROUTES).map_err(chain)?;
    let meters = Mapped::new(map_data(&mut program, "meters")?.fd().as_fd(), METERS).map_err(chain)?;
    let (lanes, meters, links) = (Arc::new(lanes), Arc::new(meters), Arc::new(links));
    let routes = map_data(&mut program, "routes")?;
    let limits = map_data(&mut program, "limits")?;
    let share = |all: usize, worker: usize| -> VecDeque<u32> {
        let each = all / workers;
        (worker * each..(worker + 1) * each).filter_map(|place| u32::try_from(place).ok()).collect()
    };
    let driver = |worker: usize| -> Result<Driver, String> {
        Ok(Driver {
            routes: Map::HashMap(again(&routes)?).try_into().map_err(chain)?,
            limits: Map::Array(again(&limits)?).try_into().map_err(chain)?,
            lanes: Arc::clone(&lanes),
            meters: Arc::clone(&meters),
            free_slots: share(ROUTES, worker),
            free_meters: share(METERS, worker),
            ipv4,
            ipv6,
            _links: Arc::clone(&links),
        })
    };
    let drivers = (0..workers.get()).map(driver).collect::<Result<_, _>>()?;
    let families =
        if ipv6 { "IPv4 and IPv6" } else { "IPv4 alone (IPv6 takes net.ipv6.conf.lo.forwarding=1)" };
    tracing::info!("XDP is on, {mode}, at {interfaces}: {families}");
    Ok(drivers)
}

/// Tells the program about the interfaces.
fn fill(program: &mut Ebpf, interfaces: &Interfaces) -> Result<(), String> {
    let ports = Map::Array(map_data(program, "ports")?);
    let mut ports = Array::<_, Port>::try_from(ports).map_err(chain)?;
    for (index, port) in &interfaces.ports {
        ports.set(*index, port, 0).map_err(chain)?;
    }
    let tags = Map::HashMap(map_data(program, "tags")?);
    let mut tags = HashMap::<_, Tag, u32>::try_from(tags).map_err(chain)?;
    for (tag, index) in &interfaces.tags {
        tags.insert(tag, index, 0).map_err(chain)?;
    }
    let devices = program.map_mut("devices").ok_or("the program has no devices")?;
    let mut devices = DevMapHash::try_from(devices).map_err(chain)?;
    for device in interfaces.devices() {
        devices.insert(device, device, None, 0).map_err(chain)?;
    }
    Ok(())
}

/// In the driver at every interface, or else behind it at every one: frames cannot go from one kind to the other.
fn attach(program: &mut Ebpf, interfaces: &Interfaces) -> Result<(&'static str, Vec<FdLink>), String> {
    let program = program.program_mut("turn_relay").ok_or("the object has no program")?;
    let program: &mut Xdp = program.try_into().map_err(chain)?;
    program.load().map_err(chain)?;
    let native = match &interfaces.unfit {
        Some(reason) => Err(reason.clone()),
        None => attach_in(program, interfaces, XdpMode::Driver),
    };
    match native {
        Ok(links) => return Ok(("native", links)),
        Err(why) => tracing::warn!("XDP does not run in the driver but behind it, which is slower: {why}"),
    }
    Ok(("generic", attach_in(program, interfaces, XdpMode::Skb)?))
}

fn attach_in(program: &mut Xdp, interfaces: &Interfaces, mode: XdpMode) -> Result<Vec<FdLink>, String> {
    let mut links = Vec::new();
    for device in interfaces.devices() {
        let link = program.attach_to_if_index(device, mode).map_err(chain)?;
        let link = program.take_link(link).map_err(chain)?;
        // Without a link of our own (before Linux 5.9) the program would outlive us.
        links.push(FdLink::try_from(link).map_err(chain)?);
    }
    Ok(links)
}

/// Another handle of a map.
fn map_data(program: &mut Ebpf, name: &str) -> Result<MapData, String> {
    match program.map(name) {
        Some(Map::HashMap(map) | Map::Array(map)) => again(map),
        _ => Err(format!("the program has no {name}")),
    }
}

fn again(map: &MapData) -> Result<MapData, String> {
    let fd = map.fd().as_fd().try_clone_to_owned().map_err(chain)?;
    MapData::from_fd(fd).map_err(chain)
}

/// An error in one line, with what it came from.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").chars().take(LONGEST_REASON).collect()
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("free_slots", &self.free_slots.len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// Sets the rates. All workers have the same ones.
    pub(crate) fn set_paces(&mut self, (allocation, user): (ByFlow<ScaledPace>, ByFlow<ScaledPace>)) {
        let paces = |paces: ByFlow<ScaledPace>| {
            paces.map(|ScaledPace { scaled_cost, depth }| Pace { scaled_cost, depth })
        };
        let limits = Limits { allocation: paces(allocation), user: paces(user) };
        if let Err(error) = self.limits.set(0, limits, 0) {
            tracing::error!("the XDP program keeps its old rates: {error}");
        }
    }

    /// Buckets, for an allocation or a user; `None`: there are no more.
    pub(crate) fn meter(&mut self) -> Option<MeterSlot> {
        let meter = MeterSlot(self.free_meters.pop_front()?);
        self.level(&meter, [[0; 2]; 2]);
        Some(meter)
    }

    pub(crate) fn give_back(&mut self, meter: MeterSlot) {
        self.free_meters.push_back(meter.0);
    }

    /// Sets buckets to where they stand: times of the program's clock, by direction, of bytes and packets.
    pub(crate) fn level(&self, meter: &MeterSlot, full_at: [ByFlow<u64>; 2]) {
        let Some(buckets) = self.meters.get(meter.0) else { return };
        for (bucket, full_at) in buckets.iter().flatten().zip(full_at.iter().flatten()) {
            bucket.store(*full_at, Relaxed);
        }
    }

    /// Puts a route in, which passes nothing yet. `None`: the program has no place for it, or does not serve such addresses.
    pub(crate) fn insert(
        &mut self,
        route: &Route,
        allocation: &MeterSlot,
        user: &MeterSlot,
    ) -> Option<Placed> {
        let (client, server) = (route.client.client.0, route.client.server);
        if ![client, route.peer.0].iter().all(|address| self.serves(*address)) {
            return None;
        }
        let slot = self.free_slots.pop_front()?;
        let channel = route.channel.get().to_be_bytes();
        let from_client = arrival(client, server, channel);
        let from_peer = arrival(route.peer.0, route.relayed, [0; 2]);
        let to_peer_flags = if route.ours { TO_US } else { 0 };
        // As the sockets of user space do it: DF towards the client, none towards the peer (RFC 8656 section 14).
        let meters = (allocation.0, user.0);
        let to_peer = departure(route.relayed, route.peer.0, [0; 2], to_peer_flags, slot, meters);
        let to_client = departure(server, client, channel, TO_CLIENT | DONT_FRAGMENT, slot, meters);
        let mut placed = Placed { slot, arrivals: [from_client, from_peer], before: [Count::default(); 2] };
        placed.before = self.counts(&placed);
        for lane in self.lanes_of(&placed) {
            lane.next_visit.store(0, Relaxed);
            lane.way[0].store(0, Relaxed);
        }
        let inserted = self
            .routes
            .insert(from_client, to_peer, 0)
            .and_then(|()| self.routes.insert(from_peer, to_client, 0));
        if let Err(error) = inserted {
            tracing::debug!("the XDP program takes no more routes: {error}");
            self.remove(placed);
            return None;
        }
        Some(placed)
    }

    /// Whether the program relays for an address: link-local ones need an interface beside them.
    fn serves(&self, address: SocketAddr) -> bool {
        match address.ip() {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(ip) => self.ipv6 && !ip.is_unicast_link_local(),
        }
    }

    /// Lets the route pass until then, a time of the program's clock.
    pub(crate) fn pass_until(&self, placed: &Placed, until: u64) {
        for lane in self.lanes_of(placed) {
            lane.expires.store(until, Relaxed);
        }
    }

    /// What the program counted of a route, towards the peer and towards the client.
    pub(crate) fn counts(&self, placed: &Placed) -> [Count; 2] {
        let mut counts = placed.before;
        for (count, lane) in counts.iter_mut().zip(self.lanes_of(placed)) {
            let [over_allocation, over_user] = &lane.over;
            *count = Count {
                packets: lane.packets.load(Relaxed),
                bytes: lane.bytes.load(Relaxed),
                over: [over_allocation.load(Relaxed), over_user.load(Relaxed)],
            }
            .since(count);
        }
        counts
    }

    fn lanes_of(&self, placed: &Placed) -> impl Iterator<Item = &Lane> {
        self.lanes.get(placed.slot).into_iter().flatten()
    }

    /// Takes a route out: from here on nothing passes. Tells what it counted in all.
    pub(crate) fn remove(&mut self, placed: Placed) -> [Count; 2] {
        self.pass_until(&placed, 0);
        for arrival in &placed.arrivals {
            // It may not have come in.
            let _ = self.routes.remove(arrival);
        }
        let counts = self.counts(&placed);
        self.free_slots.push_back(placed.slot);
        counts
    }
}

impl Count {
    pub(crate) fn add(&mut self, more: &Self) {
        self.packets += more.packets;
        self.bytes += more.bytes;
        for (rate, over) in self.over.iter_mut().enumerate() {
            *over += more.over[rate];
        }
    }

    /// What is more than before.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let over = [0, 1].map(|rate: usize| self.over[rate].wrapping_sub(before.over[rate]));
        Self {
            packets: self.packets.wrapping_sub(before.packets),
            bytes: self.bytes.wrapping_sub(before.bytes),
            over,
        }
    }
}

fn arrival(from: SocketAddr, to: SocketAddr, channel: [u8; 2]) -> Arrival {
    Arrival {
        from: bytes(from.ip()),
        to: bytes(to.ip()),
        from_port: from.port().to_be_bytes(),
        to_port: to.port().to_be_bytes(),
        channel,
        unused: 0,
    }
}

fn departure(
    from: SocketAddr,
    to: SocketAddr,
    channel: [u8; 2],
    flags: u16,
    slot: u32,
    (allocation_meter, user_meter): (u32, u32),
) -> Departure {
    Departure {
        from: bytes(from.ip()),
        to: bytes(to.ip()),
        from_port: from.port().to_be_bytes(),
        to_port: to.port().to_be_bytes(),
        channel,
        flags: flags | if to.is_ipv4() { IPV4 } else { 0 },
        slot,
        allocation_meter,
        user_meter,
    }
}

/// `MAX_ROUTES` of the program: 16 MiB of lanes, and 4 MiB of buckets. More routes than that stay in user space.
const ROUTES: usize = 65_536;
const METERS: usize = 2 * ROUTES;
/// The verifier can say much.
const LONGEST_REASON: usize = 400;
