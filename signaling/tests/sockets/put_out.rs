//! Who is put out of its room loses the relay as well: its allocation ends before the credentials do.

use std::{net::SocketAddr, time::Duration};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use sha1::Sha1;
use signaling::Config;
use tokio::{net::UdpSocket, time::timeout};

use super::{Client, PATIENCE, admission, config};

const ALLOCATE: u16 = 0x0003;
const REFRESH: u16 = 0x0004;
const SUCCESS: u16 = 0x0100;
const ERROR: u16 = 0x0110;

/// As much of a TURN client (RFC 8656) as it takes to hold an allocation.
struct Turn {
    socket: UdpSocket,
    username: String,
    password: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
}

impl Turn {
    /// With the credentials of a `welcome`.
    async fn with(relay: SocketAddr, welcome: &Value) -> Self {
        let servers = welcome["ice"]["servers"].as_array().expect("a list");
        let server = servers.iter().find(|server| server.get("credential").is_some()).expect("credentials");
        let text = |name: &str| server[name].as_str().expect("text").to_owned();
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        socket.connect(relay).await.expect("an address");
        let (username, password) = (text("username"), text("credential"));
        Self { socket, username, password, realm: Vec::new(), nonce: Vec::new() }
    }

    /// Asks until the server has heard it with its own nonce; gives the type of the answer.
    async fn ask(&mut self, method: u16) -> u16 {
        for _ in 0..3 {
            let request = self.request(method);
            let mut answer = [0; 1500];
            let size = loop {
                self.socket.send(&request).await.expect("it is sent");
                // UDP may lose either.
                if let Ok(received) = timeout(Duration::from_secs(1), self.socket.recv(&mut answer)).await {
                    break received.expect("it is received");
                }
            };
            let kind = u16::from_be_bytes([answer[0], answer[1]]);
            let (realm, nonce) = (attribute(&answer[..size], 0x0014), attribute(&answer[..size], 0x0015));
            match (realm, nonce) {
                (Some(realm), Some(nonce)) if kind == method | ERROR => {
                    (self.realm, self.nonce) = (realm, nonce)
                }
                _ => return kind,
            }
        }
        panic!("the relay does not take the credentials");
    }

    fn request(&self, method: u16) -> Vec<u8> {
        let mut message = Vec::from(method.to_be_bytes());
        message.extend([0, 0, 0x21, 0x12, 0xa4, 0x42]);
        message.extend(rand::random::<[u8; 12]>());
        if method == ALLOCATE {
            put(&mut message, 0x0019, &[17, 0, 0, 0]);
        }
        if !self.nonce.is_empty() {
            put(&mut message, 0x0006, self.username.as_bytes());
            put(&mut message, 0x0014, &self.realm);
            put(&mut message, 0x0015, &self.nonce);
            let realm = String::from_utf8_lossy(&self.realm);
            let key = Md5::digest(format!("{}:{realm}:{}", self.username, self.password));
            set_length(&mut message, 24);
            let mac = Hmac::<Sha1>::new_from_slice(&key).expect("a key of any length").chain_update(&message);
            put(&mut message, 0x0008, &mac.finalize().into_bytes());
        }
        set_length(&mut message, 0);
        message
    }
}

fn put(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend(u16::try_from(value.len()).expect("a short value").to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// The length field counts what is behind the header, and `more`.
fn set_length(message: &mut [u8], more: usize) {
    let length = u16::try_from(message.len() - 20 + more).expect("a short message");
    message[2..4].copy_from_slice(&length.to_be_bytes());
}

fn attribute(message: &[u8], wanted: u16) -> Option<Vec<u8>> {
    let mut rest = message.get(20..)?;
    while let [a, b, c, d, value @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        if u16::from_be_bytes([*a, *b]) == wanted {
            return value.get(..length).map(Vec::from);
        }
        rest = value.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_allocation_of_who_is_kicked_ends_and_that_of_others_does_not() {
    let relay = Config { no_embedded_relay: None, relay_listen: Some("127.0.0.1:0".into()), ..config() };
    let server = admission::guarded(relay);
    let token = |sub: &str| json!({"token": admission::token(&json!({"sub": sub, "may_kick": true}))});
    let mut ada = Client::hello(&server, "lobby", 1, token("ada")).await;
    let bob = Client::hello(&server, "lobby", 2, token("bob")).await;
    let address = server.relay_addresses()[0];
    let mut turns = Vec::new();
    for welcome in [&ada.welcome, &bob.welcome] {
        let mut turn = Turn::with(address, welcome).await;
        assert_eq!(turn.ask(ALLOCATE).await, ALLOCATE | SUCCESS);
        assert_eq!(turn.ask(REFRESH).await, REFRESH | SUCCESS);
        turns.push(turn);
    }

    ada.until("peer_joined").await;
    ada.send(json!({"type": "kick", "to": bob.peer()})).await;
    assert_eq!(ada.until("peer_left").await["reason"], "kicked");
    let refused = async { while turns[1].ask(REFRESH).await != REFRESH | ERROR {} };
    timeout(PATIENCE, refused).await.expect("the relay is taken from who was kicked");
    assert_eq!(turns[0].ask(REFRESH).await, REFRESH | SUCCESS);
}
