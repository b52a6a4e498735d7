//! What the driver tells a client and what the client asks of the driver. Plain data.

use std::collections::vec_deque;
use std::time::Duration;

use signaling_protocol::{
    DisplayName, Instance, Negotiation, Payload, PeerId, Secret, ServerMessage, Welcome,
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
    /// Leaves for good.
    Bye,
    /// The time of [`super::Client::deadline`] has come.
    Timeout,
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
    /// A signal was kept under this `seq`; an `error` that refuses it names it in `re`.
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
