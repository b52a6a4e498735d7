//! Frames that the server sends.
//!
//! The server serialises a [`ServerMessage`] once and writes the envelope around it for each recipient; clients
//! written in Rust read with [`ServerFrame::parse`].

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::client::{Envelope, Payload, exactly_one, present};
use crate::close::ErrorCode;
use crate::ice::{IceServer, IceServers};
use crate::moderation::{Bans, Door};
use crate::name::{
    DisplayName, Instance, Negotiation, NoticeText, PeerId, ResumeToken, Role, RoomName, SessionId,
};

/// One frame of the server: the envelope and what it says.
#[derive(Debug)]
pub struct ServerFrame {
    /// Place in the sequence of the server's frames in this session, from 1; 0 for frames outside it.
    pub seq: u64,
    /// Highest `seq` of the client that the server has processed.
    pub ack: u64,
    /// What the frame says.
    pub message: ServerMessage,
}

/// What the server may say. Serialised, it is the frame without its `seq` and `ack`.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// Answers `hello`.
    Welcome(Box<Welcome>),
    /// A peer came into the room, or came back as a new session. Sequenced.
    PeerJoined(PeerJoined),
    /// A peer's connection was lost or came back; its session stands. Sequenced.
    PeerChanged(PeerChanged),
    /// A peer left the room. Sequenced.
    PeerLeft(PeerLeft),
    /// The room's door was opened or closed. Sequenced.
    RoomChanged(RoomChanged),
    /// Somebody wants to come in. For those who may open the door. Sequenced.
    Knock(Knock),
    /// That somebody was answered or gave up. Sequenced.
    KnockEnded(KnockEnded),
    /// Answers a `bans` or a `lift`: who is kept out of the room. Sequenced.
    Bans(Bans),
    /// What another peer sent to this one. Sequenced.
    Signal(RelayedSignal),
    /// Answers a `token`: what the client may do from now on. Sequenced.
    Granted(Granted),
    /// Fresh ICE servers. Sequenced.
    Ice(Ice),
    /// A frame was refused (sequenced), or the connection closes next (not sequenced).
    Error(ServerError),
    /// The operator says something to everybody in the room. Sequenced.
    Notice(Notice),
    /// The server is about to end, or wants the client elsewhere.
    #[serde(rename = "goaway")]
    GoAway(GoAway),
    /// Asks for a `pong`.
    Ping,
    /// Carries nothing but the envelope's `ack`.
    Ack,
}

/// Answer to `hello`: who the client is, how the connection behaves, what the room looks like.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct Welcome {
    /// The session.
    pub session: SessionId,
    /// The client's own peer id.
    pub peer: PeerId,
    /// Token to resume this session with; it takes the place of any earlier one.
    pub resume: ResumeToken,
    /// What became of the client's wish to resume.
    pub outcome: Outcome,
    /// Why the wish could not be met; with [`Outcome::Resync`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ResyncReason>,
    /// Optional abilities of this server.
    pub features: Vec<Cow<'static, str>>,
    /// Limits that a client should know.
    pub limits: LimitsNotice,
    /// Times of the server's pings.
    pub ping: PingNotice,
    /// How long a session stands without a connection, in milliseconds.
    pub grace_ms: u64,
    /// What the client may do. Servers that ask for no token may not say.
    #[serde(default)]
    pub granted: Granted,
    /// ICE servers and how long they hold.
    pub ice: Ice,
    /// The room as it is now.
    pub room: RoomSnapshot,
}

/// What became of a wish to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// No resume was asked for: a fresh session.
    New,
    /// The session goes on; what the client has not seen follows.
    Resumed,
    /// The session could not be resumed: a fresh one, both sequences start at 1.
    Resync,
}

/// Why a session could not be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResyncReason {
    /// The server knows nothing of this token (it may have restarted).
    Unknown,
    /// The session ended: its grace ran out, or it said `bye`.
    Expired,
    /// More was sent to the session while it was away than the server keeps.
    Overflow,
    /// Another session of the same peer took the place of this one.
    Replaced,
}

/// Limits that a client should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct LimitsNotice {
    /// Largest frame of a client, in bytes.
    pub message_bytes: u64,
    /// Sustained frames per second of one client.
    pub messages_per_second: u64,
    /// Frames that may be sent at once after a quiet time.
    pub message_burst: u64,
    /// Unacknowledged frames that the server keeps for the client.
    pub replay_messages: u64,
    /// Bytes of unacknowledged frames that the server keeps for the client.
    pub replay_bytes: u64,
}

/// Times of the server's pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PingNotice {
    /// Time between pings, in milliseconds.
    pub interval_ms: u64,
    /// Silence after a ping that ends the connection, in milliseconds; for both sides.
    pub deadline_ms: u64,
}

/// The room as it is now.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct RoomSnapshot {
    /// Name of the room.
    pub name: RoomName,
    /// Counts the changes of membership; a change with a lower version is contained already.
    pub version: u64,
    /// Who may come in. Servers that have no doors say nothing.
    #[serde(default)]
    pub door: Door,
    /// Newcomers have to know a password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub password: bool,
    /// The other peers, in the order of their ids.
    pub peers: Vec<PeerSnapshot>,
}

/// Another peer in the room.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct PeerSnapshot {
    /// Who it is.
    pub peer: PeerId,
    /// Which run of its client.
    pub instance: Instance,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DisplayName>,
    /// What whoever granted it entry says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether the reader is the polite one towards this peer.
    pub polite: bool,
    /// Whether it has a connection.
    pub state: PeerState,
}

/// Whether a member of the room has a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// It has one.
    Here,
    /// It lost its connection and may resume within the grace.
    Away,
}

/// A peer came into the room, or came back as a new session.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct PeerJoined {
    /// Who it is.
    pub peer: PeerId,
    /// Which run of its client.
    pub instance: Instance,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DisplayName>,
    /// What whoever granted it entry says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether the reader is the polite one towards this peer.
    pub polite: bool,
    /// The peer was in the room already and its session was renewed: what was sent to it may be lost.
    pub resync: bool,
    /// Version of the room after this change.
    pub version: u64,
}

/// A peer's connection was lost or came back.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct PeerChanged {
    /// Who it is.
    pub peer: PeerId,
    /// Whether it has a connection now.
    pub state: PeerState,
    /// Version of the room after this change.
    pub version: u64,
}

/// A peer left the room.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct PeerLeft {
    /// Who it was.
    pub peer: PeerId,
    /// How it left.
    pub reason: LeaveReason,
    /// Version of the room after this change.
    pub version: u64,
}

/// How a peer left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaveReason {
    /// It said so.
    Bye,
    /// It lost its connection and did not come back within the grace.
    Expired,
    /// A moderator or the operator removed it.
    Kicked,
    /// Its token expired, and it showed no other.
    TokenExpired,
    /// Its user came by another device, and may be here only once.
    Replaced,
}

/// Somebody wants to come in.
#[derive(Debug, JsonSchema, Serialize, Deserialize)]
pub struct Knock {
    /// Who it will be.
    pub peer: PeerId,
    /// Name to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<DisplayName>,
    /// What whoever granted it entry says that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// Somebody who knocked was answered or gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct KnockEnded {
    /// Who it was.
    pub peer: PeerId,
}

/// What a client may do in its room.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Granted {
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// It may send signals.
    pub may_publish: bool,
    /// It may remove peers.
    pub may_kick: bool,
    /// It may open and close the door.
    pub may_lock: bool,
    /// Time until the session ends if no other token is shown, in milliseconds; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

impl Default for Granted {
    /// What everybody may where nobody is asked.
    fn default() -> Self {
        Self { role: None, may_publish: true, may_kick: false, may_lock: false, expires_in_ms: None }
    }
}

/// The room's door was opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct RoomChanged {
    /// Who may come in from now on.
    pub door: Door,
    /// Newcomers have to know a password.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub password: bool,
    /// Version of the room after this change.
    pub version: u64,
}

/// What another peer sent.
#[derive(Debug)]
pub struct RelayedSignal {
    /// The sender, written by the server.
    pub from: PeerId,
    /// Which negotiation of the pair this belongs to.
    pub negotiation: Negotiation,
    /// As it was sent.
    pub payload: Payload,
}

/// ICE servers and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Ice {
    /// Entries of `RTCConfiguration.iceServers`.
    pub servers: Vec<IceServer>,
    /// Time until the credentials expire, in milliseconds; absent if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
    /// Time after which fresh ones are pushed, in milliseconds; absent if the credentials do not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_in_ms: Option<u64>,
}

impl From<IceServers> for Ice {
    fn from(ice: IceServers) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            expires_in_ms: ice.expires_in.map(millis),
            refresh_in_ms: ice.refresh_in().map(millis),
            servers: ice.servers,
        }
    }
}

/// What the operator says to everybody in a room.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Notice {
    /// To be shown, as text.
    pub text: NoticeText,
}

/// When a client is to leave this server, and where it may go.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct GoAway {
    /// Time after which to leave, in milliseconds; chosen for this client so that not all come to another server at once.
    pub in_ms: u64,
    /// Origin of the server to go to, such as `https://b.example`; absent: the same address, which leads elsewhere by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Box<str>>,
}

/// A refusal, or the reason of the close that follows.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ServerError {
    /// For the program.
    pub code: ErrorCode,
    /// For the person who debugs it.
    pub message: Cow<'static, str>,
    /// Whether the same may succeed later.
    pub temporary: bool,
    /// How much later, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// `seq` of the client's frame that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub re: Option<u64>,
}

impl ServerFrame {
    /// Parses one frame, for clients and tests. Fields that are not known are skipped.
    ///
    /// # Errors
    /// Text that is not a frame of a known type; a client of an older version skips such a frame (and counts its `seq`).
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let Envelope { kind, seq, ack } = serde_json::from_str(text)?;
        let message = match kind.0.as_str() {
            "welcome" => ServerMessage::Welcome(serde_json::from_str(text)?),
            "peer_joined" => ServerMessage::PeerJoined(serde_json::from_str(text)?),
            "peer_changed" => ServerMessage::PeerChanged(serde_json::from_str(text)?),
            "peer_left" => ServerMessage::PeerLeft(serde_json::from_str(text)?),
            "room_changed" => ServerMessage::RoomChanged(serde_json::from_str(text)?),
            "knock" => ServerMessage::Knock(serde_json::from_str(text)?),
            "knock_ended" => ServerMessage::KnockEnded(serde_json::from_str(text)?),
            "bans" => ServerMessage::Bans(serde_json::from_str(text)?),
            "signal" => ServerMessage::Signal(serde_json::from_str(text)?),
            "granted" => ServerMessage::Granted(serde_json::from_str(text)?),
            "ice" => ServerMessage::Ice(serde_json::from_str(text)?),
            "error" => ServerMessage::Error(serde_json::from_str(text)?),
            "notice" => ServerMessage::Notice(serde_json::from_str(text)?),
            "goaway" => ServerMessage::GoAway(serde_json::from_str(text)?),
            "ping" => ServerMessage::Ping,
            "ack" => ServerMessage::Ack,
            _ => return Err(serde::de::Error::custom("unknown type of frame")),
        };
        Ok(Self { seq, ack, message })
    }
}

/// Written by hand: serde's own `flatten` cannot carry raw JSON.
impl Serialize for RelayedSignal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("RelayedSignal", 3)?;
        fields.serialize_field("from", &self.from)?;
        fields.serialize_field("negotiation", &self.negotiation)?;
        fields.serialize_field(self.payload.field(), self.payload.raw())?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for RelayedSignal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            from: PeerId,
            negotiation: Negotiation,
            #[serde(default, deserialize_with = "present")]
            description: Option<Box<RawValue>>,
            #[serde(default, deserialize_with = "present")]
            candidate: Option<Box<RawValue>>,
        }
        let wire = Wire::deserialize(deserializer)?;
        let payload = exactly_one(wire.description, wire.candidate)
            .ok_or_else(|| serde::de::Error::custom("signal has either a description or a candidate"))?;
        Ok(Self { from: wire.from, negotiation: wire.negotiation, payload })
    }
}
