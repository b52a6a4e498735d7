//! Frames that a client sends: bytes from the network become a [`ClientFrame`] or a [`FrameError`], never anything
//! in between.

use std::{borrow::Cow, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::close::CloseCode;
use crate::json;
use crate::moderation::{AnswerFields, DoorFields, Kick, KickFields, SetDoor};
use crate::name::{AccessToken, DisplayName, Instance, Negotiation, Password, PeerId, ResumeToken, Secret};
use crate::{MAX_FRAME_BYTES, MAX_FRAME_DEPTH, MAX_SEQ};

/// One frame of a client: the envelope and what it says.
#[derive(Debug)]
pub struct ClientFrame {
    /// Place in the sequence of the client's frames in this session, from 1; 0 for `hello`, `ack`, `pong`,
    /// `report` and `token`.
    pub seq: u64,
    /// Highest `seq` of the server that the client has received in order.
    pub ack: u64,
    /// What the frame says.
    pub message: ClientMessage,
}

/// What a client may say.
#[derive(Debug)]
pub enum ClientMessage {
    /// The first frame of a connection: who the client is and which session it resumes.
    Hello(Hello),
    /// A description or candidate for one other peer. Sequenced.
    Signal(Signal),
    /// The client leaves for good. Sequenced.
    Bye,
    /// Removes another peer. Sequenced.
    Kick(Kick),
    /// Asks who is kept out of the room. Sequenced.
    Bans,
    /// Lets somebody in again who is kept out (nobody if the client wrote no peer id). Sequenced.
    Lift(Option<PeerId>),
    /// Opens or closes the room to newcomers. Sequenced.
    Door(SetDoor),
    /// Lets in somebody who knocked (nobody if the client wrote no peer id). Sequenced.
    Admit(Option<PeerId>),
    /// Sends away somebody who knocked, likewise. Sequenced.
    Deny(Option<PeerId>),
    /// Carries nothing but the envelope's `ack`.
    Ack,
    /// Answers a `ping`.
    Pong,
    /// A further token, before the one of the `hello` expires.
    Token(AccessToken),
    /// Something that only the client can see and only the server's operator can mend. It changes nothing.
    Report(Report),
    /// A `type` that this version does not know. Sequenced if its `seq` is not 0.
    Unknown,
}

/// The first frame of a connection.
#[derive(Debug, JsonSchema, Deserialize)]
pub struct Hello {
    /// Proof of being the same peer as before.
    pub secret: Secret,
    /// This run of the client.
    pub instance: Instance,
    /// Name to show to the others.
    #[serde(default)]
    pub name: Option<DisplayName>,
    /// Token of the session to resume; the envelope's `ack` then says what was received in it.
    #[serde(default)]
    pub resume: Option<ResumeToken>,
    /// What shows that it may enter, where the server asks for that.
    #[serde(default)]
    pub token: Option<AccessToken>,
    /// What newcomers have to know, where the room has a password.
    #[serde(default)]
    pub password: Option<Password>,
    /// Which connection of this run of the client it is, counted from 1; 0 from a client that does not count.
    #[serde(default)]
    pub attempt: u64,
}

/// What a client tells the operator. A `kind` that this version does not know is [`Report::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The client could not allocate on a TURN server that it was given (the browser's `icecandidateerror`).
    TurnError {
        /// The server's URL, at most 256 bytes; the client's word only.
        url: Box<str>,
        /// STUN error code, or 701 when the server was not reached.
        code: u16,
    },
    /// Of a later version.
    Unknown,
}

/// A message to one other peer.
#[derive(Debug)]
pub struct Signal {
    /// The addressee; `None` if what the client wrote is no peer id and therefore nobody's.
    pub to: Option<PeerId>,
    /// Which negotiation of the pair this belongs to.
    pub negotiation: Negotiation,
    /// What the addressee gets.
    pub payload: Payload,
}

/// What peers say to each other: valid JSON of bounded size and depth, otherwise unread.
#[derive(Clone, Debug)]
pub enum Payload {
    /// An `RTCSessionDescription`, usually.
    Description(Box<RawValue>),
    /// An `RTCIceCandidate`, usually.
    Candidate(Box<RawValue>),
}

/// Why a frame is refused. Its text goes to the client, so it quotes nothing that the client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Above [`MAX_FRAME_BYTES`].
    TooLarge {
        /// Size of the frame.
        bytes: usize,
    },
    /// Not UTF-8.
    NotText,
    /// Nested beyond [`MAX_FRAME_DEPTH`].
    TooDeep,
    /// Not a JSON object with a string `type` and whole numbers `seq` and `ack`; where the parser stumbled.
    NotFrame(String),
    /// A known type without its fields, or with a field outside its bounds.
    BadShape(String),
    /// A `hello` without its fields, or with a field outside its bounds.
    BadHello(String),
}

impl ClientFrame {
    /// Parses one frame. Checks, in this order: size, encoding, nesting, envelope, the fields of its type.
    /// Fields that are not known are skipped, so that later versions may add some.
    ///
    /// # Errors
    /// A [`FrameError`], which knows the close code that follows from it.
    pub fn parse(bytes: &[u8]) -> Result<Self, FrameError> {
        let text = json::bounded(bytes)?;
        // The parser would also take an array with the fields in our order.
        if !text.trim_ascii_start().starts_with('{') {
            return Err(FrameError::NotFrame("it does not begin with {".into()));
        }
        let Head { kind, seq, ack, to, negotiation, description, candidate } =
            serde_json::from_str(text).map_err(|error| FrameError::NotFrame(place(&error)))?;
        if seq > MAX_SEQ || ack > MAX_SEQ {
            return Err(FrameError::BadShape("seq and ack are at most 2^53 - 1".into()));
        }
        let message = match kind.as_ref() {
            "hello" => ClientMessage::Hello(
                serde_json::from_str(text).map_err(|error| FrameError::BadHello(place(&error)))?,
            ),
            "signal" => ClientMessage::Signal(Signal {
                to: field::<Cow<'_, str>>("to", to)?.parse().ok(),
                negotiation: field("negotiation", negotiation)?,
                payload: exactly_one(description.map(RawValue::to_owned), candidate.map(RawValue::to_owned))
                    .ok_or_else(|| {
                        FrameError::BadShape("signal has either a description or a candidate".into())
                    })?,
            }),
            "bye" => ClientMessage::Bye,
            "kick" => ClientMessage::Kick(kick(text)?),
            "bans" => ClientMessage::Bans,
            "lift" => ClientMessage::Lift(fields::<AnswerFields>(text)?.to()),
            "door" => ClientMessage::Door(fields::<DoorFields>(text)?.checked()),
            "admit" => ClientMessage::Admit(fields::<AnswerFields>(text)?.to()),
            "deny" => ClientMessage::Deny(fields::<AnswerFields>(text)?.to()),
            "ack" => ClientMessage::Ack,
            "pong" => ClientMessage::Pong,
            "report" => ClientMessage::Report(report(text)?),
            "token" => ClientMessage::Token(fields::<TokenFields>(text)?.token),
            _ => ClientMessage::Unknown,
        };
        if let Some(sequenced) = message.is_sequenced()
            && sequenced != (seq != 0)
        {
            let rule = if sequenced {
                "is sequenced: its seq starts at 1"
            } else {
                "is not sequenced: its seq is 0"
            };
            return Err(FrameError::BadShape(format!("{kind} {rule}")));
        }
        Ok(Self { seq, ack, message })
    }
}

impl ClientMessage {
    /// Whether frames of this type take a place in the sequence; `None` if either may be.
    const fn is_sequenced(&self) -> Option<bool> {
        match self {
            Self::Signal(_)
            | Self::Bye
            | Self::Kick(_)
            | Self::Bans
            | Self::Lift(_)
            | Self::Door(_)
            | Self::Admit(_)
            | Self::Deny(_) => Some(true),
            Self::Hello(_) | Self::Ack | Self::Pong | Self::Report(_) | Self::Token(_) => Some(false),
            Self::Unknown => None,
        }
    }
}

impl Payload {
    /// Name of the field that carries it.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Description(_) => "description",
            Self::Candidate(_) => "candidate",
        }
    }

    /// One of the same kind that says `null`.
    #[must_use]
    pub fn hole(&self) -> Self {
        match self {
            Self::Description(_) => Self::Description(RawValue::NULL.to_owned()),
            Self::Candidate(_) => Self::Candidate(RawValue::NULL.to_owned()),
        }
    }

    /// The JSON, as it was sent.
    #[must_use]
    pub fn raw(&self) -> &RawValue {
        match self {
            Self::Description(raw) | Self::Candidate(raw) => raw,
        }
    }
}

impl FrameError {
    /// The close code that follows.
    #[must_use]
    pub const fn close_code(&self) -> CloseCode {
        match self {
            Self::TooLarge { .. } => CloseCode::TooLarge,
            Self::BadHello(_) => CloseCode::BadHello,
            Self::NotText | Self::TooDeep | Self::NotFrame(_) | Self::BadShape(_) => CloseCode::BadFrame,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "a frame is at most {MAX_FRAME_BYTES} bytes, this one has {bytes}")
            }
            Self::NotText => f.write_str("a frame is UTF-8 text"),
            Self::TooDeep => write!(f, "a frame is nested at most {MAX_FRAME_DEPTH} deep"),
            Self::NotFrame(place) => write!(f, "a frame is one JSON object with type, seq and ack: {place}"),
            Self::BadShape(what) | Self::BadHello(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for FrameError {}

/// The fields of every frame.
#[derive(Deserialize)]
pub(crate) struct Envelope {
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) seq: u64,
    pub(crate) ack: u64,
}

/// The same as a client sends it. The fields of a signal, which most frames are, are set aside on the way: descriptions are long,
/// and to look for them again would be to go over them again.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    seq: u64,
    ack: u64,
    #[serde(borrow, default, deserialize_with = "set_aside")]
    to: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "set_aside")]
    negotiation: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "set_aside")]
    description: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "set_aside")]
    candidate: Option<&'a RawValue>,
}

/// A message type's name.
pub(crate) struct Kind(pub(crate) String);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// The fields of a `token`.
#[derive(Deserialize)]
struct TokenFields {
    token: AccessToken,
}

fn report(text: &str) -> Result<Report, FrameError> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        kind: Kind,
        #[serde(borrow)]
        url: Option<&'a RawValue>,
        code: Option<u16>,
    }
    let wire: Wire<'_> = fields(text)?;
    if wire.kind.0 != "turn_error" {
        return Ok(Report::Unknown);
    }
    let missing = || FrameError::BadShape("a turn_error has a url and a code".into());
    let url: Box<str> = fields(wire.url.ok_or_else(missing)?.get())?;
    if url.len() > 256 {
        return Err(FrameError::BadShape("url is at most 256 bytes".into()));
    }
    Ok(Report::TurnError { url, code: wire.code.ok_or_else(missing)? })
}

fn kick(text: &str) -> Result<Kick, FrameError> {
    let too_long = || FrameError::BadShape("ban_ms is at most 604800000, seven days".into());
    fields::<KickFields>(text)?.checked().ok_or_else(too_long)
}

/// The fields of a known type.
fn fields<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, FrameError> {
    serde_json::from_str(text).map_err(|error| FrameError::BadShape(place(&error)))
}

/// A field that was set aside.
fn field<'a, T: Deserialize<'a>>(name: &str, raw: Option<&'a RawValue>) -> Result<T, FrameError> {
    let raw = raw.ok_or_else(|| FrameError::BadShape(format!("missing field `{name}`")))?;
    serde_json::from_str(raw.get())
        .map_err(|error| FrameError::BadShape(format!("in `{name}`: {}", place(&error))))
}

pub(crate) fn exactly_one(
    description: Option<Box<RawValue>>,
    candidate: Option<Box<RawValue>>,
) -> Option<Payload> {
    match (description, candidate) {
        (Some(raw), None) => Some(Payload::Description(raw)),
        (None, Some(raw)) => Some(Payload::Candidate(raw)),
        (None, None) | (Some(_), Some(_)) => None,
    }
}

/// A field that is there counts as there, even if its value is `null` (the browser's end-of-candidates).
pub(crate) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The same for a value that stays where it is.
fn set_aside<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What the parser says, in bounded length and without the client's own text.
fn place(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    match error.classify() {
        serde_json::error::Category::Syntax => format!("syntax error at line {line} column {column}"),
        serde_json::error::Category::Eof => "it ends too early".into(),
        serde_json::error::Category::Io | serde_json::error::Category::Data => {
            let said = error.to_string();
            // serde quotes a wrong value in backquotes or quotes only where we do not control the text.
            let quotes = said.starts_with("invalid type") || said.starts_with("invalid value");
            if quotes { format!("wrong type of value at line {line} column {column}") } else { said }
        }
    }
}

#[cfg(test)]
mod tests;
