//! What the driver tells the hub and what the hub asks of the driver. Plain data.

use std::time::Duration;

use signaling_protocol::{
    AccessToken, ClientFrame, CloseCode, Door, ErrorCode, FrameError, Hello, IceServers, Notice, PeerId,
    ResyncReason, RoomName, SessionId,
};

use super::{Frame, Grant, Limits, Subject, Unproven};

/// A connection, numbered by the driver in the order in which connections are accepted (not in which they say hello):
/// a hello that was held up on an older connection than the session has now is known by it and turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A connection's first frame was this hello.
    Attach {
        /// The new connection.
        conn: ConnId,
        /// The room in its path.
        room: RoomName,
        /// Highest server `seq` that the client has seen in the session that it resumes: the `ack` of its hello.
        ack: u64,
        /// Who it is.
        hello: Hello,
        /// What it may do; the driver has verified it. Without one it may come back to the session that it has, and
        /// nothing else.
        grant: Option<Grant>,
        /// ICE servers for its `welcome`, minted for [`super::Hub::session_for`].
        ice: IceServers,
    },
    /// A later frame of an attached connection.
    Frame {
        /// Where it came from.
        conn: ConnId,
        /// What it says.
        frame: ClientFrame,
    },
    /// A later frame of an attached connection did not parse. The hub says why and closes.
    Malformed {
        /// Where it came from.
        conn: ConnId,
        /// What is wrong with it.
        error: FrameError,
    },
    /// The clients of an attached connection's address send too much together. The hub says so and closes.
    TooMany {
        /// Whose turn it is.
        conn: ConnId,
        /// When it may come back.
        retry_after: Duration,
    },
    /// A connection is gone or being closed by the driver. Also told after [`Output::Close`], or not: either is fine.
    Gone {
        /// Which.
        conn: ConnId,
        /// Why.
        why: GoneReason,
    },
    /// Answers [`Output::RefreshIce`].
    Ice {
        /// The session that the credentials were minted for.
        session: SessionId,
        /// The fresh servers.
        ice: IceServers,
    },
    /// Answers [`Output::Verify`].
    Grant {
        /// The session that showed the token.
        session: SessionId,
        /// What it says.
        verdict: Result<Grant, Unproven>,
    },
    /// The operator removes a peer: its session ends, the others are told so. Nothing happens if there is none.
    Kick {
        /// Whom.
        whom: Whom,
        /// How long it is kept out, and with it its subject, whose other sessions in the room end too. Of a
        /// [`Whom::Peer`] it holds also if that peer is not there.
        ban: Option<Duration>,
        /// What it is told.
        reason: Option<Box<str>>,
    },
    /// The operator lifts a ban of a room, which need not exist. Nothing happens if there is none.
    Lift {
        /// Which room.
        room: RoomName,
        /// Who may come in again.
        whom: KeptOut,
    },
    /// The operator opens or closes a room that exists.
    Door {
        /// Which.
        room: RoomName,
        /// Who may come in from now on.
        door: Door,
    },
    /// The operator says something to everybody in a room that exists.
    Notice {
        /// Which.
        room: RoomName,
        /// What.
        notice: Notice,
    },
    /// Other limits hold from now on. What is there already stays, also beyond them.
    Limits(Box<Limits>),
    /// Clients are asked to leave (`goaway`), each at a time of its own, and whoever attaches from now on is turned away
    /// with 4000.
    GoAway {
        /// What the departures are spread over.
        window: Duration,
        /// The origin of a server where they are welcome, if one is known.
        url: Option<Box<str>>,
    },
    /// Calls that off: whoever attaches is welcome again, unless the server has shut down.
    Stay,
    /// The server shuts down: every connection is closed with 4000 and every session forgotten; whoever attaches
    /// from now on is turned away with 4000.
    Drain,
    /// The time of [`super::Hub::deadline`] has come.
    Timeout,
}

/// Whom [`Input::Kick`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Whoever has this session.
    Session(SessionId),
    /// This peer of this room.
    Peer(RoomName, PeerId),
}

/// Whom [`Input::Lift`] is about. A user and its peers are let in together, by whichever of them it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// This peer.
    Peer(PeerId),
    /// This user.
    Subject(Subject),
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GoneReason {
    /// The client closed it, or the network did.
    Closed,
    /// Its outbox was full; the driver closes it with [`CloseCode::SlowReader`].
    SlowReader,
    /// The hub closed it with this code.
    ClosedByServer(CloseCode),
}

/// What must now happen.
#[derive(Debug)]
pub enum Output {
    /// Put the frame into the connection's outbox.
    Send {
        /// Where to.
        conn: ConnId,
        /// What.
        frame: Frame,
    },
    /// Close the connection once its outbox is written, with the code and its name as the reason. The hub has
    /// forgotten the connection already.
    Close {
        /// Which.
        conn: ConnId,
        /// Why.
        code: CloseCode,
    },
    /// Mint fresh TURN credentials and answer with [`Input::Ice`], once all outputs of this input are carried out.
    RefreshIce {
        /// In whose name.
        session: SessionId,
        /// Where its client is connected.
        conn: ConnId,
        /// Whether it was granted the relay.
        turn: bool,
    },
    /// Verify a further token of a session and answer with [`Input::Grant`], in whatever time that takes.
    Verify {
        /// Whose.
        session: SessionId,
        /// The room that it has to open.
        room: RoomName,
        /// What was shown.
        token: AccessToken,
    },
    /// Something to log or count.
    Event(Event),
}

/// Frames of one session, over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From its client.
    pub received: u64,
    /// To its client, those that were sent again included.
    pub sent: u64,
}

/// Something to log, to count or to tell. Names sessions, never secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A room has its first member.
    RoomStarted {
        /// Which.
        room: RoomName,
    },
    /// A room lost its last member.
    RoomEnded {
        /// Which.
        room: RoomName,
        /// How long it existed.
        lived: Duration,
    },
    /// A peer came into a room. A new session of a peer that is there is no news here.
    Joined {
        /// Where.
        room: RoomName,
        /// Who.
        peer: PeerId,
        /// Its session.
        session: SessionId,
    },
    /// A peer left a room.
    Left {
        /// Where.
        room: RoomName,
        /// Who.
        peer: PeerId,
        /// Its last session.
        session: SessionId,
        /// Why.
        reason: EndReason,
        /// How long that session lived.
        lived: Duration,
    },
    /// A session began.
    Started {
        /// Which.
        session: SessionId,
        /// Set if the client wanted to resume another and could not.
        resync: Option<ResyncReason>,
    },
    /// A session was resumed on another connection.
    Resumed {
        /// Which.
        session: SessionId,
        /// Its former connection still stood.
        takeover: bool,
        /// Frames sent again.
        replayed: usize,
    },
    /// A session lost its connection.
    Away {
        /// Which.
        session: SessionId,
        /// Why.
        why: GoneReason,
    },
    /// More was sent to a session than it acknowledged in time; it cannot be resumed any more.
    Overflowed {
        /// Which.
        session: SessionId,
    },
    /// A session ended.
    Ended {
        /// Which.
        session: SessionId,
        /// Why.
        reason: EndReason,
        /// How long it lived.
        lived: Duration,
        /// What it carried.
        traffic: Traffic,
    },
    /// A connection was turned away before it had a session.
    TurnedAway {
        /// Which code it got.
        code: CloseCode,
    },
    /// A signal was put into its recipient's sequence.
    Relayed {
        /// Size of the frame without its envelope.
        bytes: usize,
    },
    /// A frame was answered with an error and the connection stays.
    Refused {
        /// Which error.
        code: ErrorCode,
    },
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// It said `bye`.
    Bye,
    /// Its grace ran out.
    Expired,
    /// A new session of the same peer took its place.
    Replaced,
    /// A moderator or the operator removed it.
    Kicked,
    /// Its grant ran out.
    TokenExpired,
    /// The server shut down.
    Drained,
}
