//! The client side of TURN, as far as a load needs it: an allocation, one channel, one request at a time.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use stun_types::attribute::{ErrorCode, Nonce, Realm, Username};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, LongTermCredentials, Message, MessageIntegrityCredentials,
    MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method,
};
use turn_types::AddressFamily;
use turn_types::attribute::{
    ChannelNumber, Data, Lifetime, RequestedAddressFamily, RequestedTransport, XorPeerAddress,
    XorRelayedAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use crate::wire::{Leg, Wire};

pub(crate) const USER: &str = "bench";
pub(crate) const PASSWORD: &str = "a password for the lab";
/// The channel that every client binds.
const CHANNEL: u16 = 0x4000;

/// How clients reach a server, and what carries their data.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) leg: Leg,
    /// On both sides of the server.
    pub(crate) ipv6: bool,
    /// Send and Data indications, and no channel.
    pub(crate) indications: bool,
}

impl Way {
    /// A channel over IPv4.
    pub(crate) const fn by(leg: Leg) -> Self {
        Self { leg, ipv6: false, indications: false }
    }
}

/// One client with its allocation.
pub(crate) struct Client {
    /// Connected with the server.
    pub(crate) wire: Wire,
    pub(crate) relayed: SocketAddr,
    way: Way,
    peer: SocketAddr,
    credentials: MessageIntegrityCredentials,
    realm: String,
    nonce: String,
}

/// What goes into a request beside the credentials.
enum Ask {
    Allocate,
    Permit(SocketAddr),
    Bind(SocketAddr),
    Release,
}

impl Client {
    /// Allocates by each of the connected `wires`, by some at the same time, as clients of a busy server do: requests are made before
    /// the first of them is sent, so that a server that is faster than this program has no time to sleep between two.
    pub(crate) fn allocate(wires: Vec<Wire>, way: &Way) -> Result<Vec<Self>> {
        let mut clients: Vec<_> = wires.into_iter().map(|wire| Self::new(wire, way.clone())).collect();
        for some in clients.chunks_mut(AT_ONCE) {
            let asked = Self::ask_together(some)?;
            for (client, asked) in some.iter_mut().zip(asked) {
                client.challenged(&client.answer(&asked)?)?;
            }
            let asked = Self::ask_together(some)?;
            for (client, asked) in some.iter_mut().zip(asked) {
                client.allocated(&client.answer(&asked)?)?;
            }
        }
        Ok(clients)
    }

    fn ask_together(clients: &[Self]) -> Result<Vec<Vec<u8>>> {
        let requests =
            clients.iter().map(|client| client.request(&Ask::Allocate)).collect::<Result<Vec<_>>>()?;
        for (client, request) in clients.iter().zip(&requests) {
            client.wire.send(request)?;
        }
        Ok(requests)
    }

    fn new(wire: Wire, way: Way) -> Self {
        let nowhere = (Ipv4Addr::UNSPECIFIED, 0).into();
        let (realm, nonce) = (String::new(), String::new());
        Self { wire, relayed: nowhere, way, peer: nowhere, credentials: key(""), realm, nonce }
    }

    fn challenged(&mut self, answer: &[u8]) -> Result<()> {
        let challenge = Message::from_bytes(answer)?;
        self.realm = challenge.attribute::<Realm>().context("a challenge has a realm")?.realm().into();
        self.nonce = challenge.attribute::<Nonce>().context("a challenge has a nonce")?.nonce().into();
        self.credentials = key(&self.realm);
        Ok(())
    }

    fn allocated(&mut self, answer: &[u8]) -> Result<()> {
        let answer = success(answer)?;
        self.relayed = answer.attribute::<XorRelayedAddress>()?.addr(answer.transaction_id());
        Ok(())
    }

    /// Has the server let this peer through, on a channel where there is to be one.
    pub(crate) fn bind(&mut self, peer: SocketAddr) -> Result<()> {
        self.peer = peer;
        self.succeed(&if self.way.indications { Ask::Permit(peer) } else { Ask::Bind(peer) })
    }

    /// What stands before so many bytes, a multiple of four, for the peer.
    pub(crate) fn head(&self, bytes: usize) -> Result<Vec<u8>> {
        if !self.way.indications {
            return Ok([CHANNEL.to_be_bytes(), u16::try_from(bytes)?.to_be_bytes()].concat());
        }
        let mut message = Message::builder_indication(SEND, MessageWriteVec::new());
        let id = message.transaction_id();
        message.add_attribute(&XorPeerAddress::new(self.peer, id))?;
        message.add_attribute(&Data::new(&vec![0; bytes]))?;
        let mut message = message.finish();
        message.truncate(message.len() - bytes);
        Ok(message)
    }

    pub(crate) fn release(&self) -> Result<()> {
        self.succeed(&Ask::Release)
    }

    fn succeed(&self, ask: &Ask) -> Result<()> {
        success(&self.answer(&self.ask(ask)?)?).map(drop)
    }

    /// Sends a request.
    fn ask(&self, ask: &Ask) -> Result<Vec<u8>> {
        let request = self.request(ask)?;
        self.wire.send(&request)?;
        Ok(request)
    }

    /// Waits for the answer to a request, and sends it again if nothing comes.
    fn answer(&self, request: &[u8]) -> Result<Vec<u8>> {
        answer_to(&self.wire, request).context("no answer from the server")
    }

    fn request(&self, ask: &Ask) -> Result<Vec<u8>> {
        let method = match ask {
            Ask::Allocate => ALLOCATE,
            Ask::Permit(_) => CREATE_PERMISSION,
            Ask::Bind(_) => CHANNEL_BIND,
            Ask::Release => REFRESH,
        };
        let mut message = Message::builder_request(method, MessageWriteVec::new());
        match ask {
            Ask::Allocate => {
                message.add_attribute(&RequestedTransport::new(RequestedTransport::UDP))?;
                if self.way.ipv6 {
                    message.add_attribute(&RequestedAddressFamily::new(AddressFamily::IPV6))?;
                }
            }
            Ask::Permit(peer) | Ask::Bind(peer) => {
                let id = message.transaction_id();
                if matches!(ask, Ask::Bind(_)) {
                    message.add_attribute(&ChannelNumber::new(CHANNEL))?;
                }
                message.add_attribute(&XorPeerAddress::new(*peer, id))?;
            }
            Ask::Release => message.add_attribute(&Lifetime::new(0))?,
        }
        if !self.nonce.is_empty() {
            message.add_attribute(&Username::new(USER)?)?;
            message.add_attribute(&Realm::new(&self.realm)?)?;
            message.add_attribute(&Nonce::new(&self.nonce)?)?;
            message.add_message_integrity(&self.credentials, IntegrityAlgorithm::Sha1)?;
        }
        Ok(message.finish())
    }
}

fn key(realm: &str) -> MessageIntegrityCredentials {
    LongTermCredentials::new(USER.into(), PASSWORD.into()).to_key(realm.into()).into()
}

fn success(answer: &[u8]) -> Result<Message<'_>> {
    let message = Message::from_bytes(answer)?;
    if let Ok(error) = message.attribute::<ErrorCode>() {
        bail!("the server answers {} {}", error.code(), error.reason());
    }
    Ok(message)
}

/// What a datagram carries: channel data, a Data indication, or all of itself.
pub(crate) fn payload(datagram: &[u8]) -> &[u8] {
    match datagram {
        [0x40, _, _, _, payload @ ..] => payload,
        [0x00, 0x17, _, _, ..] => data(datagram).unwrap_or_default(),
        _ => datagram,
    }
}

/// DATA of an indication.
fn data(indication: &[u8]) -> Option<&[u8]> {
    let mut rest = indication.get(20..)?;
    loop {
        let ([high, low, length @ ..], value) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if [*high, *low] == [0x00, 0x13] {
            return value.get(..length);
        }
        rest = value.get(length.next_multiple_of(4)..)?;
    }
}

/// Waits until a server answers Binding requests on a connected socket.
pub(crate) fn is_up(socket: UdpSocket) -> Result<()> {
    let method: Method = BINDING;
    let request = Message::builder_request(method, MessageWriteVec::new()).finish();
    let _ = socket.send(&request);
    answer_to(&Wire::Datagrams(socket), &request).map(drop)
}

/// Waits for the answer to a request that was sent, and sends it again from time to time where it may be lost.
fn answer_to(wire: &Wire, request: &[u8]) -> Result<Vec<u8>> {
    let transaction = Message::from_bytes(request)?.transaction_id();
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match wire.receive(AGAIN)? {
            Some(answer)
                if Message::from_bytes(&answer)
                    .is_ok_and(|message| message.transaction_id() == transaction) =>
            {
                return Ok(answer);
            }
            Some(_) => {}
            None if matches!(wire, Wire::Datagrams(_)) => {
                // A port that is not open yet answers with an error; the next attempt may find it open.
                std::thread::sleep(Duration::from_millis(20));
                let _ = wire.send(request);
            }
            None => {}
        }
    }
    bail!("nothing came within {PATIENCE:?}")
}

/// Clients that allocate at the same time.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);
