//! The client side of TURN, as far as a load needs it: an allocation, one channel, one request at a time.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use stun_types::attribute::{ErrorCode, Nonce, Realm, Username};
use stun_types::message::{
    BINDING, IntegrityAlgorithm, LongTermCredentials, Message, MessageIntegrityCredentials,
    MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
};
use turn_types::attribute::{ChannelNumber, Lifetime, RequestedTransport, XorPeerAddress, XorRelayedAddress};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, REFRESH};

pub(crate) const USER: &str = "bench";
pub(crate) const PASSWORD: &str = "a password for the lab";
/// The channel that every client binds.
pub(crate) const CHANNEL: u16 = 0x4000;

/// One client with its allocation.
pub(crate) struct Client {
    /// Connected with the server, blocking.
    pub(crate) socket: UdpSocket,
    pub(crate) relayed: SocketAddr,
    credentials: MessageIntegrityCredentials,
    realm: String,
    nonce: String,
}

/// What goes into a request beside the credentials.
enum Ask {
    Allocate,
    Bind(SocketAddr),
    Release,
}

impl Client {
    /// Allocates on the connected `socket`.
    pub(crate) fn allocate(socket: UdpSocket) -> Result<Self> {
        let mut client = Self {
            relayed: socket.local_addr()?,
            socket,
            credentials: LongTermCredentials::new(USER.into(), PASSWORD.into()).to_key(String::new()).into(),
            realm: String::new(),
            nonce: String::new(),
        };
        let challenge = client.exchange(&Ask::Allocate)?;
        let challenge = Message::from_bytes(&challenge)?;
        client.realm = challenge.attribute::<Realm>().context("a challenge has a realm")?.realm().into();
        client.nonce = challenge.attribute::<Nonce>().context("a challenge has a nonce")?.nonce().into();
        client.credentials =
            LongTermCredentials::new(USER.into(), PASSWORD.into()).to_key(client.realm.clone()).into();
        let answer = client.succeed(&Ask::Allocate)?;
        let answer = Message::from_bytes(&answer)?;
        client.relayed = answer.attribute::<XorRelayedAddress>()?.addr(answer.transaction_id());
        Ok(client)
    }

    pub(crate) fn bind(&self, peer: SocketAddr) -> Result<()> {
        self.succeed(&Ask::Bind(peer)).map(drop)
    }

    pub(crate) fn release(&self) -> Result<()> {
        self.succeed(&Ask::Release).map(drop)
    }

    fn succeed(&self, ask: &Ask) -> Result<Vec<u8>> {
        let answer = self.exchange(ask)?;
        let message = Message::from_bytes(&answer)?;
        if let Ok(error) = message.attribute::<ErrorCode>() {
            bail!("the server answers {} {}", error.code(), error.reason());
        }
        Ok(answer)
    }

    /// Sends a request, again if nothing comes, and gives the answer to it.
    fn exchange(&self, ask: &Ask) -> Result<Vec<u8>> {
        let request = self.request(ask)?;
        let transaction = Message::from_bytes(&request)?.transaction_id();
        answer_to(&self.socket, &request, transaction).context("no answer from the server")
    }

    fn request(&self, ask: &Ask) -> Result<Vec<u8>> {
        let method = match ask {
            Ask::Allocate => ALLOCATE,
            Ask::Bind(_) => CHANNEL_BIND,
            Ask::Release => REFRESH,
        };
        let mut message = Message::builder_request(method, MessageWriteVec::new());
        match ask {
            Ask::Allocate => message.add_attribute(&RequestedTransport::new(RequestedTransport::UDP))?,
            Ask::Bind(peer) => {
                let id = message.transaction_id();
                message.add_attribute(&ChannelNumber::new(CHANNEL))?;
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

/// Waits until a server answers Binding requests.
pub(crate) fn is_up(socket: &UdpSocket) -> Result<()> {
    let method: Method = BINDING;
    let message = Message::builder_request(method, MessageWriteVec::new());
    let transaction = message.transaction_id();
    answer_to(socket, &message.finish(), transaction).map(drop)
}

fn answer_to(socket: &UdpSocket, request: &[u8], transaction: TransactionId) -> Result<Vec<u8>> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 2048];
    while Instant::now() < end {
        // A port that is not open yet answers with an error; the next attempt may find it open.
        let _ = socket.send(request);
        let again = Instant::now() + AGAIN;
        while Instant::now() < again {
            socket.set_read_timeout(Some(AGAIN))?;
            let Ok(len) = socket.recv(&mut buffer) else {
                std::thread::sleep(Duration::from_millis(20));
                break;
            };
            if let Ok(message) = Message::from_bytes(&buffer[..len])
                && message.transaction_id() == transaction
            {
                buffer.truncate(len);
                return Ok(buffer);
            }
        }
    }
    bail!("nothing came within {PATIENCE:?}")
}

const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(500);
