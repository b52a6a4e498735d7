//! What ends what the driver relays: from then on nothing passes, in neither direction.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use turn_relay::credentials::{Secret, mint};

use crate::client::{Client, PATIENCE};
use crate::lab::{Lab, Peer, SERVER};
use crate::{CHANNEL, PEERS, assert_nothing_came, assert_nothing_came_to, channel_data, met, talk};

/// A client and a peer whose data go through the driver both ways.
struct Flow {
    client: Client,
    peer: Peer,
    relayed: SocketAddr,
}

impl Flow {
    fn begin(lab: &Lab) -> Self {
        Self::of(lab, lab.client())
    }

    fn of(lab: &Lab, mut client: Client) -> Self {
        let peer = lab.peer("10.82.0.2");
        let before = lab.in_driver();
        let relayed = met(&mut client, &peer);
        talk(&mut client, &peer, relayed, 2);
        lab.until("packets in the driver", |lab| {
            let now = lab.in_driver();
            now.0 > before.0 && now.1 > before.1
        });
        Self { client, peer, relayed }
    }

    /// Goes on until `certain`, and must be over a second after `over`.
    fn ends(&mut self, certain: Instant, over: Instant) {
        while Instant::now() < certain {
            talk(&mut self.client, &self.peer, self.relayed, 1);
            std::thread::sleep(Duration::from_millis(100));
        }
        // Nothing is waited for but the time.
        std::thread::sleep((over + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
        self.is_over();
    }

    /// Of several the driver has the first pass to user space.
    fn is_over(&mut self) {
        for _ in 0..10 {
            self.peer.send(b"too late", self.relayed);
            self.client.send_channel(CHANNEL, b"too late");
        }
        assert_nothing_came(&mut self.client);
        assert_nothing_came_to(&self.peer);
    }

    /// What is sent goes where datagrams go without a relay.
    fn finds_no_relay(&mut self) {
        let bound = |address: SocketAddr| {
            let socket = UdpSocket::bind(address).expect("the port is free again");
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (server, relayed) = (bound(SERVER.parse().unwrap()), bound(self.relayed));
        self.client.send_channel(CHANNEL, b"anybody?");
        self.peer.send(b"anybody?", self.relayed);
        for (socket, data) in [(server, channel_data(b"anybody?")), (relayed, b"anybody?".to_vec())] {
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], data);
        }
        let links = std::process::Command::new("ip").args(["link", "show"]).output().unwrap().stdout;
        assert!(!String::from_utf8(links).unwrap().contains("prog/xdp"));
    }
}

#[test]
fn nothing_passes_after_the_end_of_an_allocation() {
    Lab::run(PEERS, |lab| {
        let mut flow = Flow::begin(lab);
        assert!(flow.client.release().is_success());
        flow.is_over();
    });
}

#[test]
fn nothing_passes_after_an_operator_ended_the_allocation_or_revoked_the_user() {
    Lab::run(PEERS, |lab| {
        let mut flow = Flow::begin(lab);
        let page = lab.ask("GET", "/v1/allocations", "");
        let id = page.split_once("\"id\":\"").and_then(|(_, rest)| rest.split('"').next()).expect("an id");
        lab.ask("DELETE", &format!("/v1/allocations/{id}"), "");
        flow.is_over();

        let mut flow = Flow::begin(lab);
        lab.ask("POST", "/v1/revocations", r#"{"user": "user"}"#);
        flow.is_over();
    });
}

#[test]
fn nothing_passes_after_a_reload_that_denies_the_peer() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    Lab::run(&["--allow-peer", "10.82.0.2/32", "--config", &path], move |lab| {
        let mut flow = Flow::begin(lab);
        std::fs::write(file.path(), "deny_peer = [\"10.82.0.0/24\"]").unwrap();
        lab.ask("POST", "/v1/reload", "");
        flow.is_over();
    });
}

#[test]
fn nothing_passes_after_the_end_of_a_credential() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "shared").unwrap();
    let path = secret.path().to_str().unwrap();
    let flags = [PEERS, &["--secret-file", path, "--expire-with-credential"]].concat();
    Lab::run(&flags, |lab| {
        let (begun, lifetime) = (Instant::now(), Duration::from_secs(8));
        // Whole seconds: a part of one may be cut off.
        let minted = mint(&Secret::new("shared"), "somebody", SystemTime::now() + lifetime);
        let client = lab.client_of(&lab.clients, SERVER, (&minted.username, &minted.password));
        Flow::of(lab, client).ends(begun + lifetime / 2, begun + lifetime);
    });
}

#[test]
#[ignore = "a permission lasts five minutes, which nothing shortens: tests/run xdp runs it"]
fn nothing_passes_after_the_end_of_a_permission() {
    const LIFETIME: Duration = Duration::from_secs(300);
    Lab::run(PEERS, |lab| {
        let before = Instant::now();
        let mut flow = Flow::begin(lab);
        flow.ends(before + LIFETIME - Duration::from_secs(5), Instant::now() + LIFETIME);
    });
}

#[test]
fn nothing_is_relayed_by_a_relay_that_was_killed() {
    Lab::run(PEERS, |lab| {
        let mut flow = Flow::begin(lab);
        lab.relay.signal(libc::SIGKILL);
        lab.relay.exit_code();
        flow.finds_no_relay();
    });
}

#[test]
fn nothing_is_relayed_by_a_relay_that_hangs() {
    Lab::run(PEERS, |lab| {
        let mut flow = Flow::begin(lab);
        lab.relay.signal(libc::SIGSTOP);
        // What the driver has no leave for any more waits for user space.
        flow.peer.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // One packet in five seconds does so anyway.
        let mut unanswered = || {
            flow.client.send_channel(CHANNEL, b"still?");
            flow.peer.0.recv(&mut [0; 64]).is_err()
        };
        lab.until("the leave is over", |_| unanswered() && unanswered() && unanswered());
        lab.relay.signal(libc::SIGKILL);
        lab.relay.exit_code();
        flow.finds_no_relay();
    });
}
