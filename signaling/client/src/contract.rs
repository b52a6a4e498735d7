//! What the driver tells a client and what the client asks of the driver. Plain data.

use std::collections::vec_deque;
use std::time::Duration;

use serde::{Serialize, Serializer};
use signaling_protocol::{
    AccessToken, DisplayName, Door, Instance, MAX_BAN, Negotiation, Password, Payload, PeerId, Secret,
    ServerMessage, Welcome,
};

/// A connection, numbered by the client in the order in which it asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// Who the client is in its room.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Makes it the same peer whenever it comes back.
    pub secret: Secret,
    /// This run of the program: drawn at its start.
    pub instance: Instance,
    /// Shown to the others.
    pub name: Option<DisplayName>,
    /// Shows that it may enter, where the server asks for that; [`Input::Token`] replaces it.
    pub token: Option<AccessToken>,
    /// What newcomers have to know, where the room has a password. For another try it takes another client.
    pub password: Option<Password>,
}

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// Begin; or take a new connection beside the present one, because the network changed or another transport is
    /// wanted. The session goes on.
    Connect,
    /// A connection that was asked for stands, and takes frames.
    Opened(ConnId),
    /// A frame arrived.
    Text {
        /// Where.
        conn: ConnId,
        /// One JSON object.
        text: &'a str,
    },
    /// A connection ended, or could not be made.
    Closed {
        /// Which.
        conn: ConnId,
        /// The server's close code; `None` if it was lost.
        code: Option<u16>,
    },
    /// Sends a description or a candidate. Without a connection it is kept and sent later.
    Signal {
        /// Who shall get it.
        to: PeerId,
        /// Which exchange it belongs to.
        negotiation: Negotiation,
        /// What it says.
        payload: Payload,
    },
    /// Does something to the room, or asks about it. Kept and sent as a signal is; [`Event::Kept`] names it.
    Moderate(&'a Moderation),
    /// A further token, before the last one ends. The server answers with `granted` or with an error: wait for that before the next. One that it
    /// refuses is forgotten. Without a connection it is shown with the next hello, also that of an [`Input::Connect`] after [`Event::Ended`].
    Token(AccessToken),
    /// No allocation could be made on a TURN server that the welcome or `ice` named: tells the operator, if there is a connection. Once a minute
    /// for a server is enough, and frames of a client are counted.
    TurnError {
        /// The server's URL; of one above 256 bytes nothing is told.
        url: &'a str,
        /// STUN error code, or 701 when the server was not reached.
        code: u16,
    },
    /// Leaves for good.
    Bye,
    /// The time of [`super::Client::deadline`] has come.
    Timeout,
}

/// What those do to a room whom the server granted that: `granted` in the welcome says who they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Moderation {
    /// Removes another peer.
    Kick {
        /// Whom.
        to: PeerId,
        /// How long it is kept out, [`MAX_BAN`] at most; without, it may come back at once.
        #[serde(rename = "ban_ms", skip_serializing_if = "Option::is_none", serialize_with = "millis")]
        ban: Option<Duration>,
        /// What it is told.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<DisplayName>,
    },
    /// Asks who is kept out, if `bans` is among the features of the welcome; `bans` answers.
    Bans,
    /// Lets somebody in again who is kept out, likewise.
    Lift {
        /// Whom.
        to: PeerId,
    },
    /// Opens or closes the room to newcomers.
    Door {
        /// Who may come in.
        door: Door,
        /// What newcomers have to know from now on; an empty one is none, and without one nothing changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<Password>,
    },
    /// Lets in somebody who knocked.
    Admit {
        /// Whom.
        to: PeerId,
    },
    /// Sends away somebody who knocked.
    Deny {
        /// Whom.
        to: PeerId,
    },
}

fn millis<S: Serializer>(ban: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = ban.unwrap_or_default().min(MAX_BAN).as_millis();
    serializer.serialize_u64(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// What must now happen.
#[derive(Debug)]
pub enum Output {
    /// Open a connection and answer with [`Input::Opened`] or [`Input::Closed`].
    Connect {
        /// Its name.
        conn: ConnId,
        /// Not before this time has passed.
        after: Duration,
        /// And then after a random part of this one, so that thousands who were cut at once do not come back at once.
        within: Duration,
    },
    /// Write a frame.
    Send {
        /// Where.
        conn: ConnId,
        /// One JSON object without line breaks between its tokens, so that it fits into a line of a POST.
        text: String,
    },
    /// Nothing is expected of this connection any more: close it.
    Disconnect(ConnId),
    /// Something that the program wants to know.
    Event(Event),
}

/// Something that the program wants to know.
#[derive(Debug)]
pub enum Event {
    /// The session stands on a connection. Unless its outcome is `resumed`, it is a fresh one: what was sent before and
    /// did not arrive is lost, and the room in it is the truth.
    Welcome(Box<Welcome>),
    /// A frame of the server: a sequenced one, or the `error` before a close.
    Frame {
        /// Its place in the sequence; 0 for an `error` before a close.
        seq: u64,
        /// What it says.
        message: ServerMessage,
    },
    /// A signal, or what was done to the room, was kept under this `seq`; an `error` that refuses it names it in `re`.
    Kept(u64),
    /// It will not come back by itself: the program left, or the server does not want it.
    Ended(Option<u16>),
}

/// What must now happen, in order.
#[must_use = "outputs are the only way a client acts"]
#[derive(Debug)]
pub struct Outputs<'a>(pub(crate) vec_deque::Drain<'a, Output>);

impl Iterator for Outputs<'_> {
    type Item = Output;

    fn next(&mut self) -> Option<Output> {
        self.0.next()
    }
}
