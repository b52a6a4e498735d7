//! One client of any of the servers: it comes in, answers what asks whether it is there, sends offers and hears them.
//!
//! It reads no more of a message than it must, so that what is measured is the server.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, protocol::WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::contender::{Kind, Server, Tls};

/// Where a server is and how one talks to it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) kind: Kind,
    pub(crate) tls: Option<Tls>,
}

/// A client in its room.
pub(crate) struct Client {
    kind: Kind,
    socket: WebSocketStream<Box<dyn Stream>>,
    me: String,
    /// Whom it talks to, where a message names its recipient.
    other: String,
    /// `seq` of our protocol: sent, received, and how many were received since the last `ack`.
    sent: u64,
    received: u64,
    waiting: u64,
}

/// Which client it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    pub(crate) room: usize,
    pub(crate) member: usize,
    /// Its place among all clients, from which its source address follows.
    pub(crate) number: usize,
}

/// What a client heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It is in.
    Welcome,
    /// Somebody else came in.
    Joined,
    /// An offer.
    Offer,
    /// Nothing that the load has to know.
    Nothing,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Target {
    pub(crate) fn of(server: &Server) -> Self {
        Self { address: server.address, kind: server.kind, tls: server.tls.clone() }
    }

    /// A connection from an address of the client's own, or rather of some sixty clients: servers count by address.
    pub(crate) async fn connect(&self, number: usize) -> Result<TcpStream> {
        let network = number / CLIENTS_PER_ADDRESS;
        let [.., high, low] = u32::try_from(network)?.to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(Ipv4Addr::new(127, 1, high, low).into(), 0))?;
        let stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn path(&self, seat: Seat) -> String {
        let Seat { room, member, .. } = seat;
        match self.kind {
            Kind::Signaling => format!("v1/rooms/r{room}/ws"),
            Kind::Ws | Kind::Matchbox => format!("r{room}"),
            Kind::Peer => format!("peerjs?key=peerjs&id=r{room}m{member}&token=t"),
            Kind::SocketIo => "socket.io/?EIO=4&transport=websocket".to_owned(),
            Kind::YWebrtc => String::new(),
            Kind::Apprtc => "ws".to_owned(),
        }
    }

    /// A handshake as bytes, for whoever says no more.
    pub(crate) fn handshake(&self) -> String {
        let path = self.path(Seat { room: 1_000_000, member: 0, number: 0 });
        format!(
            "GET /{path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
             Sec-WebSocket-Protocol: signaling.v1\r\n\r\n",
            self.address
        )
    }

    async fn secured(&self, number: usize) -> Result<Box<dyn Stream>> {
        let stream = self.connect(number).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = rustls::pki_types::ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        Ok(Box::new(tls.connector.connect(name, stream).await?))
    }
}

impl Client {
    /// Connects, says what has to be said, and waits until the server lets it in, where it says so.
    pub(crate) async fn join(target: &Target, seat: Seat) -> Result<Self> {
        let Seat { room, member, number } = seat;
        let path = target.path(seat);
        let scheme = if target.tls.is_some() { "wss" } else { "ws" };
        let mut request = format!("{scheme}://{}/{path}", target.address).into_client_request()?;
        if target.kind == Kind::Signaling {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("signaling.v1"));
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0)
            .max_message_size(None)
            .max_frame_size(None);
        let stream = target.secured(number).await?;
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        let mut this = Self {
            kind: target.kind,
            socket,
            me: format!("r{room}m{member}"),
            other: format!("r{room}m{}", 1 - member.min(1)),
            sent: 0,
            received: 0,
            waiting: 0,
        };
        this.enter(seat).await?;
        Ok(this)
    }

    async fn enter(&mut self, seat: Seat) -> Result<()> {
        let room = seat.room;
        match self.kind {
            Kind::Signaling => self.say(hello(seat)).await?,
            Kind::SocketIo => {
                self.until("40").await?;
                self.say(format!("42[\"join\",\"r{room}\"]")).await?;
            }
            Kind::YWebrtc => {
                return self.say(format!("{{\"type\":\"subscribe\",\"topics\":[\"r{room}\"]}}")).await;
            }
            Kind::Apprtc => {
                let me = &self.me;
                let register =
                    format!("{{\"cmd\":\"register\",\"roomid\":\"r{room}\",\"clientid\":\"{me}\"}}");
                return self.say(register).await;
            }
            Kind::Ws | Kind::Peer | Kind::Matchbox => {}
        }
        while self.hear().await? != Heard::Welcome {}
        Ok(())
    }

    async fn until(&mut self, start: &str) -> Result<()> {
        while !self.text().await?.starts_with(start) {
            // engine.io opens with "0", upon which a client says "40".
            self.say("40".into()).await?;
        }
        Ok(())
    }

    /// Reads one message and answers it if it wants an answer.
    pub(crate) async fn hear(&mut self) -> Result<Heard> {
        let text = self.text().await?;
        match self.kind {
            Kind::Signaling => self.hear_ours(&text).await,
            Kind::Ws => Ok(match text.as_str() {
                "welcome" => Heard::Welcome,
                "joined" => Heard::Joined,
                _ => Heard::Offer,
            }),
            Kind::Peer => Ok(match text.get(..14) {
                Some("{\"type\":\"OPEN\"") => Heard::Welcome,
                Some("{\"type\":\"OFFER") => Heard::Offer,
                _ => Heard::Nothing,
            }),
            Kind::SocketIo if text == "2" => {
                self.say("3".into()).await?;
                Ok(Heard::Nothing)
            }
            Kind::SocketIo => Ok(match text.get(..6) {
                Some("42[\"we") => Heard::Welcome,
                Some("42[\"jo") => Heard::Joined,
                Some("42[\"si") => Heard::Offer,
                _ => Heard::Nothing,
            }),
            Kind::YWebrtc => Ok(if text.contains("\"publish\"") { Heard::Offer } else { Heard::Nothing }),
            Kind::Matchbox => Ok(match text.get(..6) {
                Some("{\"IdAs") => Heard::Welcome,
                Some("{\"NewP") => {
                    self.other = between(&text, "\"NewPeer\":\"", "\"").context("a peer")?.to_owned();
                    Heard::Joined
                }
                Some("{\"Sign") => Heard::Offer,
                _ => Heard::Nothing,
            }),
            Kind::Apprtc => Ok(if text.contains("\"error\":\"\"") { Heard::Offer } else { bail!("{text}") }),
        }
    }

    async fn hear_ours(&mut self, text: &str) -> Result<Heard> {
        let seq: u64 = between(text, "{\"seq\":", ",").context("a seq")?.parse()?;
        if seq != 0 {
            self.received = seq;
            self.waiting += 1;
        }
        let heard = match between(text, "\"type\":\"", "\"").context("a type")? {
            "ping" => {
                self.say_ours("pong").await?;
                Heard::Nothing
            }
            kind @ ("welcome" | "peer_joined") => {
                let peer = text.split("\"peer\":\"").nth(if kind == "welcome" { 2 } else { 1 });
                if let Some((peer, _)) = peer.and_then(|rest| rest.split_once('"')) {
                    self.other = peer.to_owned();
                }
                if kind == "welcome" { Heard::Welcome } else { Heard::Joined }
            }
            "signal" => Heard::Offer,
            "error" => bail!("{text}"),
            _ => Heard::Nothing,
        };
        if self.waiting >= 16 {
            self.say_ours("ack").await?;
        }
        Ok(heard)
    }

    async fn say_ours(&mut self, kind: &str) -> Result<()> {
        self.waiting = 0;
        self.say(format!("{{\"type\":\"{kind}\",\"seq\":0,\"ack\":{}}}", self.received)).await
    }

    /// Takes everything that is there already.
    pub(crate) fn drain(&mut self) -> Result<()> {
        while let Some(heard) = self.hear().now_or_never() {
            heard?;
        }
        Ok(())
    }

    /// An offer to the other in the room. The description is the text inside a JSON string.
    pub(crate) fn offer(&mut self, description: &str) -> Message {
        let (me, other) = (&self.me, &self.other);
        let text = match self.kind {
            Kind::Signaling => {
                self.sent += 1;
                self.waiting = 0;
                format!(
                    "{{\"type\":\"signal\",\"seq\":{},\"ack\":{},\"to\":\"{other}\",\"negotiation\":\"7f3a\",\
                     \"description\":{{\"type\":\"offer\",\"sdp\":\"{description}\"}}}}",
                    self.sent, self.received
                )
            }
            Kind::Ws => format!("{{\"type\":\"offer\",\"sdp\":\"{description}\"}}"),
            Kind::Peer => format!(
                "{{\"type\":\"OFFER\",\"dst\":\"{other}\",\"payload\":{{\"sdp\":{{\"type\":\"offer\",\"sdp\":\
                 \"{description}\"}},\"type\":\"media\",\"connectionId\":\"mc_1\"}}}}"
            ),
            Kind::SocketIo => format!("42[\"signal\",{{\"type\":\"offer\",\"sdp\":\"{description}\"}}]"),
            Kind::YWebrtc => format!(
                "{{\"type\":\"publish\",\"topic\":\"{}\",\"sdp\":\"{description}\"}}",
                me.split('m').next().unwrap_or_default()
            ),
            Kind::Matchbox => {
                format!(
                    "{{\"Signal\":{{\"receiver\":\"{other}\",\"data\":{{\"Offer\":\"{description}\"}}}}}}"
                )
            }
            // A string inside of a string, as its page does.
            Kind::Apprtc => {
                let inner = description.replace('\\', "\\\\");
                format!(
                    "{{\"cmd\":\"send\",\"msg\":\"{{\\\"type\\\":\\\"offer\\\",\\\"sdp\\\":\\\"{inner}\\\"}}\"}}"
                )
            }
        };
        Message::text(text)
    }

    /// Sends messages as one write.
    pub(crate) async fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        for message in messages {
            self.socket.feed(message).await?;
        }
        Ok(self.socket.flush().await?)
    }

    /// Stays, and answers, until the connection breaks. Whoever is to be asked says so by itself.
    pub(crate) async fn stay(&mut self) -> Result<()> {
        let mut beat = Instant::now() + BEAT;
        loop {
            let acknowledge = self.kind == Kind::Signaling && self.waiting > 0;
            let wait = if acknowledge { ACK_DELAY } else { beat.saturating_duration_since(Instant::now()) };
            match timeout(wait, self.hear()).await {
                Ok(heard) => _ = heard?,
                Err(_) if acknowledge => self.say_ours("ack").await?,
                Err(_) => {
                    beat = Instant::now() + BEAT;
                    match self.kind {
                        Kind::Peer => self.say("{\"type\":\"HEARTBEAT\"}".into()).await?,
                        Kind::Matchbox => self.say("\"KeepAlive\"".into()).await?,
                        Kind::Signaling | Kind::Ws | Kind::SocketIo | Kind::YWebrtc | Kind::Apprtc => {}
                    }
                }
            }
        }
    }

    pub(crate) async fn say(&mut self, text: String) -> Result<()> {
        self.send([Message::text(text)]).await
    }

    async fn text(&mut self) -> Result<String> {
        loop {
            match self.socket.next().await.context("the server closed the connection")?? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(close) => bail!("the server closed the connection: {close:?}"),
                // What asks is answered by the library with the next flush.
                Message::Ping(_) => self.socket.flush().await?,
                Message::Binary(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

/// 43 characters of base64url that say which client it is.
fn hello(seat: Seat) -> String {
    let mut secret = String::new();
    let _ = write!(secret, "{:0>42}A", format!("{}m{}", seat.room, seat.member));
    format!(
        "{{\"type\":\"hello\",\"seq\":0,\"ack\":0,\"secret\":\"{secret}\",\"instance\":\"i{}\"}}",
        seat.member
    )
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(inner, _)| inner)
}

/// Far below what any server here allows an address.
const CLIENTS_PER_ADDRESS: usize = 50;
/// What PROTOCOL.md asks of a client is a second at most.
const ACK_DELAY: Duration = Duration::from_millis(500);
/// For servers that their clients ping: as often as the others ping theirs.
const BEAT: Duration = Duration::from_secs(10);
