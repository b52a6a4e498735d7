//! Random configurations, one reload after the other, under traffic: who stays authorised loses nothing, who does not is out.
//!
//! `RELOADS=10000 cargo nextest run -p turn-relay --test reload_storm` is the long form; `RELOAD_SEED` repeats a run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod process;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use client::{Client, PATIENCE, Received, tls};
use process::Running;
use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use turn_relay::address::Transport;
use turn_relay::credentials::{Secret, mint};

/// Of the short form.
const RELOADS: u64 = 150;
const CHANNEL: u16 = 0x4000;
const SECRET: &str = "the one that stays";
const TRANSPORTS: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Dtls];
/// Without DTLS: a client that just goes away keeps its session, and its place among those of its address, for a minute.
const OF_GUESTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];
/// Users that come and go with the configurations.
const GUESTS: u32 = 6;
/// Guests' clients at one time.
const VISITORS: usize = 8;
/// Listen addresses that come and go, on the port of the one that stays.
const MORE: [&str; 2] = ["127.0.0.21", "127.0.0.22"];

#[test]
fn whoever_stays_authorised_loses_nothing_over_random_reloads_and_nobody_else_stays() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("RELOAD_SEED").unwrap_or_else(rand::random);
    println!("RELOAD_SEED={seed}");
    let mut storm = Storm::new(ChaCha20Rng::seed_from_u64(seed));
    let reloads = number("RELOADS").unwrap_or(RELOADS);
    for _ in 0..reloads {
        storm.reload();
        storm.visit();
    }
    let Storm { residents, accepted, refused, ended, .. } = storm;
    let datagrams: u64 = residents.iter().map(|resident| resident.sent).sum();
    println!(
        "{accepted} configurations taken, {refused} refused; {datagrams} datagrams there and back; {ended} guests ended"
    );
    assert!(accepted > reloads / 2 && refused > 0 && ended > 0, "it was no storm");
}

/// A relay, whom every configuration authorises, and who may be thrown out by any.
struct Storm {
    rng: ChaCha20Rng,
    relay: Running,
    folder: tempfile::TempDir,
    residents: Vec<Resident>,
    visitors: Vec<Visitor>,
    /// Names and passwords in the configuration that holds.
    guests: BTreeMap<String, String>,
    /// Where it serves newcomers.
    served: Vec<SocketAddr>,
    accepted: u64,
    refused: u64,
    ended: u64,
}

/// A client with an allocation and a channel, and the peer that answers it.
struct Resident {
    client: Client,
    peer: UdpSocket,
    sent: u64,
}

struct Visitor {
    name: String,
    password: String,
    address: SocketAddr,
    client: Client,
}

impl Storm {
    fn new(mut rng: ChaCha20Rng) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guests = guests(&mut rng);
        let file = folder.path().join("relay.toml");
        let start = ["127.0.0.1:0".parse().unwrap()];
        write(&file, &configuration(&mut rng, folder.path(), &guests, &start));
        let flags = ["--config", file.to_str().unwrap(), "--threads", "2"];
        let mut relay = Running::start_with(&flags, &[]);
        let port = relay.serving.port();
        let more = MORE.map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        let served = [&[relay.serving][..], &more].concat();
        write(&file, &configuration(&mut rng, folder.path(), &guests, &served));
        relay.signal(libc::SIGHUP);
        relay.wait_for("reloaded: ");
        let mut residents = vec![];
        for transport in TRANSPORTS {
            let minted =
                mint(&Secret::new(SECRET), "minted", SystemTime::now() + Duration::from_secs(86_400));
            let at =
                |address, name, password| Resident::new(Client::connect(transport, address, name, password));
            residents.push(at(relay.serving, &*minted.username, &*minted.password));
            residents.extend(served.iter().map(|address| at(*address, "resident", "password")));
        }
        let (visitors, accepted, refused, ended) = (vec![], 0, 0, 0);
        Self { rng, relay, folder, residents, visitors, guests, served, accepted, refused, ended }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("relay.toml")
    }

    /// A new configuration while datagrams are on their way; now and then one that is not good.
    fn reload(&mut self) {
        let guests = guests(&mut self.rng);
        let port = self.relay.serving.port();
        let more = MORE.map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
        let more = more.into_iter().filter(|_| self.rng.random_ratio(1, 2));
        let served: Vec<SocketAddr> = [self.relay.serving].into_iter().chain(more).collect();
        let mut written = configuration(&mut self.rng, self.folder.path(), &guests, &served);
        let bad = self.rng.random_ratio(1, 8);
        if bad {
            let wrong = [
                "deny_peer = [\"10.0.0.0/99\"]\n",
                "no_such_key = 1\n",
                "tls_key = [\"/nowhere\"]\n",
                "= [\n",
            ];
            // In front: behind them a key would be a second one of its name.
            written = format!(
                "{}{}",
                wrong[self.rng.random_range(0..wrong.len())],
                written.replace("deny_peer", "# ")
            );
        }
        write(&self.file(), &written);
        self.talk();
        self.relay.signal(libc::SIGHUP);
        self.talk();
        let said = self.relay.wait_for("reloaded");
        assert_eq!(said.contains("not reloaded, everything stays as it was"), bad, "{said}\n{written}");
        self.talk();
        if bad {
            self.refused += 1;
        } else {
            self.accepted += 1;
            self.guests = guests;
            self.served = served;
        }
        self.check_visitors();
        self.relay.forget_log();
    }

    /// Every resident sends one datagram and gets one back.
    fn talk(&mut self) {
        for resident in &mut self.residents {
            resident.talk();
        }
    }

    /// One more client of a guest, who is let in exactly if the configuration that holds knows it.
    fn visit(&mut self) {
        if self.visitors.len() >= VISITORS {
            let leaving = self.rng.random_range(0..self.visitors.len());
            assert!(self.visitors.swap_remove(leaving).client.release().is_success());
        }
        let name = format!("guest-{}", self.rng.random_range(0..GUESTS));
        let password = self.guests.get(&name).cloned().unwrap_or_else(|| "a guess".into());
        let transport = OF_GUESTS[self.rng.random_range(0..OF_GUESTS.len())];
        let address = self.served[self.rng.random_range(0..self.served.len())];
        let mut client = Client::connect(transport, address, &name, &password);
        let answer = client.allocate_with(&[]);
        assert_eq!(answer.is_success(), self.guests.contains_key(&name), "{name}: {:?}", answer.error());
        if answer.is_success() {
            self.visitors.push(Visitor { name, password, address, client });
        }
    }

    /// Guests whose name and password still hold go on; the others are out.
    fn check_visitors(&mut self) {
        for mut visitor in std::mem::take(&mut self.visitors) {
            if self.guests.get(&visitor.name) == Some(&visitor.password) {
                assert!(visitor.client.refresh(600).is_success(), "{}", visitor.name);
                self.visitors.push(visitor);
                continue;
            }
            self.ended += 1;
            // Its allocation is gone: over a connection that is closed with it, over UDP with 401, or with silence where nobody is served
            // any more.
            if visitor.client.is_datagram() && !self.served.contains(&visitor.address) {
                continue;
            } else if visitor.client.is_datagram() {
                assert_eq!(visitor.client.refresh(600).error(), Some(401), "{}", visitor.name);
            } else {
                assert!(visitor.client.closed(), "{}", visitor.name);
            }
        }
        for resident in &mut self.residents {
            assert!(resident.client.refresh(600).is_success());
            assert!(resident.client.bind_channel(CHANNEL, resident.peer.local_addr().unwrap()).is_success());
        }
    }
}

impl Resident {
    fn new(mut client: Client) -> Self {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        client.allocate();
        assert!(client.bind_channel(CHANNEL, peer.local_addr().unwrap()).is_success());
        Self { client, peer, sent: 0 }
    }

    /// Never more than one on its way, so that nothing can overflow.
    fn talk(&mut self) {
        self.sent += 1;
        let number = self.sent.to_be_bytes();
        self.client.send_channel(CHANNEL, &number);
        let mut buffer = [0; 64];
        let (len, from): (usize, SocketAddr) =
            self.peer.recv_from(&mut buffer).expect("it arrives at the peer");
        assert_eq!(&buffer[..len], number);
        self.peer.send_to(&number, from).unwrap();
        assert_eq!(self.client.receive(), Received::Channel(CHANNEL, number.to_vec()));
    }
}

/// Some of the guests, some with another password than the last time.
fn guests(rng: &mut ChaCha20Rng) -> BTreeMap<String, String> {
    let mut guests = BTreeMap::new();
    for guest in 0..GUESTS {
        if rng.random_ratio(2, 3) {
            guests.insert(format!("guest-{guest}"), format!("password-{}", rng.random_range(0..2)));
        }
    }
    guests
}

/// Whatever can be reloaded, with values that leave the residents what they have.
fn configuration(
    rng: &mut ChaCha20Rng,
    folder: &Path,
    guests: &BTreeMap<String, String>,
    listen: &[SocketAddr],
) -> String {
    let mut text = String::new();
    let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
    writeln!(text, "listen = {listen:?}").unwrap();
    let relayed = ["[\"127.0.0.1\"]", "[\"127.0.0.23\", \"127.0.0.1\"]"][rng.random_range(0..2)];
    writeln!(text, "relay_address = {relayed}").unwrap();
    if rng.random_ratio(1, 2) {
        writeln!(text, "external_address = [\"198.51.100.{}/127.0.0.1\"]", rng.random_range(1..9)).unwrap();
    }
    let users = guests.iter().map(|(name, password)| format!("\"{name}:{password}\""));
    let users: Vec<String> = users.chain(["\"resident:password\"".into()]).collect();
    writeln!(text, "user = [{}]", users.join(", ")).unwrap();
    let secrets = (0..rng.random_range(0..3))
        .map(|key| format!("@key-{key} another secret {}\n", rng.random_range(0..9)));
    let secrets: String = secrets.chain([format!("{SECRET}\n")]).collect();
    std::fs::write(folder.join("secrets"), secrets).unwrap();
    writeln!(text, "secret_file = \"{}\"", folder.join("secrets").display()).unwrap();
    writeln!(text, "tls_cert = [\"{}\"]", tls::SERVED.cert.display()).unwrap();
    if !rng.random_ratio(1, 40) {
        writeln!(text, "tls_key = [\"{}\"]", tls::SERVED.key.display()).unwrap();
    } else {
        // The same key under another name.
        let copy = folder.join("key.pem");
        std::fs::copy(&tls::SERVED.key, &copy).unwrap();
        writeln!(text, "tls_key = [\"{}\"]", copy.display()).unwrap();
    }
    let networks = ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "172.16.0.0/12"];
    let one = |rng: &mut ChaCha20Rng| networks[rng.random_range(0..networks.len())];
    writeln!(text, "allow_peer = [\"127.0.0.0/8\", \"{}\"]", one(rng)).unwrap();
    writeln!(text, "deny_peer = [\"{}\"]", one(rng)).unwrap();
    let (first, last) = (rng.random_range(40_000..50_000), rng.random_range(60_000..65_000));
    writeln!(text, "port_range = \"{first}-{last}\"").unwrap();
    for (key, values) in [
        ("strict_channels", &["true", "false"][..]),
        ("mobility", &["true", "false"]),
        ("log_addresses", &["true", "false"]),
        ("expire_with_credential", &["true", "false"]),
        ("max_allocations", &["100", "1000", "16384"]),
        ("max_permissions", &["1", "8", "128"]),
        ("max_channels", &["1", "128"]),
        ("default_lifetime", &["60", "600"]),
        ("max_lifetime", &["600", "3600", "86400"]),
        ("allocation_bytes_per_second", &["0", "1000000", "12500000"]),
        ("allocation_packets_per_second", &["0", "10000"]),
        ("user_bytes_per_second", &["0", "125000000"]),
        ("user_new_peers_per_minute", &["0", "12000"]),
        ("max_connections_per_address", &["100", "512"]),
        ("first_message_deadline", &["20", "30"]),
        ("unauthenticated_answers", &["0"]),
        ("drain_deadline", &["0", "60"]),
        ("alternate_server", &["[]", "[\"192.0.2.9:3478\"]"]),
        ("proxy_protocol_from", &["[]", "[\"192.0.2.7\"]"]),
    ] {
        if rng.random_ratio(1, 2) || key == "unauthenticated_answers" || key == "allocation_bytes_per_second"
        {
            writeln!(text, "{key} = {}", values[rng.random_range(0..values.len())]).unwrap();
        }
    }
    text
}

/// Whole, as an operator's editor does.
fn write(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}
