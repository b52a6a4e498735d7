//! A client at the door, and its connection once it has said hello. The same for every transport: it brings the text
//! of frames and takes frames out of an outbox; what lies between the two is here.

use std::{sync::Arc, time::Duration};

use signaling_protocol::{
    AccessToken, ClientFrame, ClientMessage, CloseCode, FrameError, Hello, MAX_HELLO_BYTES, Retry, RoomName,
};
use tokio_util::sync::CancellationToken;

use super::{admission::Admitted, listen::LongAnswer};
use crate::{
    authority::{CurrentAuthority, Denial, PATIENCE},
    hub::{ConnId, Frame, GoneReason, Grant},
    metrics::{Metrics, Refusal},
    origin::Host,
    outbox::{Budget, Outbox, OutboxLimits},
    report::Reports,
    shard::{Attach, Letter, Shard, Shards, Stopped},
};

/// How a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Events,
    Poll,
}

impl Transport {
    /// For the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Events => "events",
            Self::Poll => "poll",
        }
    }
}

/// Everything that a connection needs from the request that opened it.
pub(crate) struct Guest {
    pub(crate) room: RoomName,
    pub(crate) host: Host,
    pub(crate) transport: Transport,
    /// What the request showed; a hello may show another.
    pub(crate) token: Option<AccessToken>,
    pub(crate) authority: CurrentAuthority,
    pub(crate) admitted: Arc<Admitted>,
    pub(crate) carrier: Option<Carrier>,
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) outbox: OutboxLimits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) stop: CancellationToken,
}

/// The connection of HTTP/2 that carries this one.
pub(crate) struct Carrier {
    pub(crate) admitted: Arc<Admitted>,
    /// It stands as long as this one does.
    pub(crate) _stands: LongAnswer,
}

/// A hello, and what its client may do.
pub(crate) struct Greeting {
    pub(crate) ack: u64,
    pub(crate) hello: Hello,
    pub(crate) grant: Option<Grant>,
}

/// A connection that a shard knows.
pub(crate) struct Attached {
    conn: ConnId,
    shard: Shard,
    outbox: Arc<Outbox>,
    admitted: Arc<Admitted>,
    metrics: Arc<Metrics>,
    reports: Arc<Reports>,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The shard has the frame.
    Frame,
    /// It is no frame, or one too many. The shard closes the connection; nothing more is to be read from it.
    Refused,
}

/// Why a first frame is refused before it is read.
pub(crate) fn hello_too_large() -> String {
    format!("a hello is at most {MAX_HELLO_BYTES} bytes")
}

/// The hello that a connection's first frame is; otherwise how the connection is to be closed.
pub(crate) fn hello_of(frame: Result<ClientFrame, FrameError>) -> Result<(u64, Hello), (CloseCode, String)> {
    let frame = frame.map_err(|error| (error.close_code(), error.to_string()))?;
    match frame.message {
        ClientMessage::Hello(hello) => Ok((frame.ack, hello)),
        ClientMessage::Signal(_)
        | ClientMessage::Bye
        | ClientMessage::Kick(_)
        | ClientMessage::Bans
        | ClientMessage::Lift(_)
        | ClientMessage::Door(_)
        | ClientMessage::Admit(_)
        | ClientMessage::Deny(_)
        | ClientMessage::Ack
        | ClientMessage::Pong
        | ClientMessage::Report(_)
        | ClientMessage::Token(_)
        | ClientMessage::Unknown => Err((CloseCode::BadHello, "the first frame is a hello".into())),
    }
}

/// The `error` before the close of a connection that has no session.
pub(crate) fn farewell(code: CloseCode, why: String) -> Option<Frame> {
    Frame::farewell(code, why, (code.retry() == Retry::After).then_some(PATIENCE))
}

impl Guest {
    /// The client said a good hello.
    pub(crate) fn greeted(&self) {
        self.admitted.greeted();
        if let Some(carrier) = &self.carrier {
            carrier.admitted.greeted();
        }
    }

    /// Asks what the client may do; otherwise says how the connection is to be closed. `None`: it may resume what it has.
    pub(crate) async fn authorize(&self, hello: &mut Hello) -> Result<Option<Grant>, (CloseCode, String)> {
        let token = hello.token.take();
        let token = token.as_ref().or(self.token.as_ref());
        self.authority.load_full().grant(&self.room, token).await.map_err(Denial::close)
    }

    /// Hands a hello to the room's shard. What the shard answers, a `welcome` or a refusal, comes out of the outbox.
    pub(crate) async fn attach(&self, conn: ConnId, greeting: Greeting) -> Result<Attached, Stopped> {
        let Greeting { ack, hello, grant } = greeting;
        let shard = self.shards.of(&self.room);
        let outbox = Arc::new(Outbox::new(self.outbox, self.budget.clone(), self.metrics.clone()));
        let (room, host) = (self.room.clone(), self.host.clone());
        let (transport, admitted) = (self.transport, self.admitted.clone());
        let attach = Attach {
            conn,
            room,
            ack,
            hello,
            grant,
            host,
            transport,
            outbox: outbox.clone(),
            admitted: admitted.clone(),
        };
        shard.send(Letter::Attach(Box::new(attach))).await?;
        Ok(Attached {
            conn,
            shard,
            outbox,
            admitted,
            metrics: self.metrics.clone(),
            reports: self.reports.clone(),
        })
    }
}

impl Attached {
    pub(crate) const fn conn(&self) -> ConnId {
        self.conn
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Hands a frame, or what came instead of one, to the shard.
    pub(crate) async fn hear(&self, frame: Result<ClientFrame, FrameError>) -> Result<Heard, Stopped> {
        if let Err(refill) = self.admitted.frame() {
            self.metrics.refused(Refusal::Frames);
            self.shard.send(Letter::TooMany(self.conn, refill)).await?;
            return Ok(Heard::Refused);
        }
        match frame {
            Ok(frame) => {
                if let ClientMessage::Report(report) = &frame.message {
                    self.reports.note(report);
                }
                self.shard.send(Letter::Frame(self.conn, frame)).await?;
                Ok(Heard::Frame)
            }
            Err(error) => {
                self.malformed(error).await?;
                Ok(Heard::Refused)
            }
        }
    }

    /// The client sent what is no frame: the shard says why and closes.
    pub(crate) async fn malformed(&self, error: FrameError) -> Result<(), Stopped> {
        self.shard.send(Letter::Malformed(self.conn, error)).await
    }

    /// The connection ended, and not by the shard's doing.
    pub(crate) async fn gone(&self, why: GoneReason) {
        // A shard that has stopped has forgotten it already.
        let _ = self.shard.send(Letter::Gone(self.conn, why)).await;
    }
}

pub(crate) const STOPPING: &str = "the server is stopping or restarting: come back at once";
/// PROTOCOL.md: the first frame.
pub(crate) const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A reader that takes nothing for this long is gone or does not want to read.
pub(crate) const STALL_DEADLINE: Duration = Duration::from_secs(10);
