//! One WebSocket connection: one task that reads frames into a shard and writes what its outbox holds.
//!
//! ```text
//! upgrade -> hello (within 5 s) -> attached: read | write -> farewell, close frame, end of stream
//! ```
//!
//! A shard hears of a connection only after its hello. Reading and writing go on side by side in the one task: a
//! client that is slow to read can still be heard. An oversized message is answered (4201) and the rest of it swallowed.
//! There is no compression: no library does it in bounded memory.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use signaling_protocol::{CloseCode, FrameError, MAX_FRAME_BYTES};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::{
    guest::{
        Attached, Greeting, Guest, HELLO_DEADLINE, Heard, STOPPING, farewell, hello_of, hello_too_large,
    },
    socket::{Event, Socket},
};
use crate::{hub::GoneReason, shard::Stopped};

/// Runs the connection from its upgrade to its end.
pub(crate) async fn serve(upgrade: OnUpgrade, guest: Guest) {
    let upgraded = match timeout(UPGRADE_DEADLINE, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "an upgrade failed"),
        Err(_elapsed) => return,
    };
    guest.metrics.connections.inc();
    let mut socket = Socket::new(TokioIo::new(upgraded));
    let end = converse(&mut socket, &guest).await;
    guest.metrics.connections.dec();
    guest.metrics.closed(end);
}

/// Gives the code with which we closed, or `None` if the client closed or was lost.
///
/// What is soon over is boxed: a task is for its whole life as large as the largest of its states.
async fn converse(socket: &mut Socket<TokioIo<Upgraded>>, guest: &Guest) -> Option<CloseCode> {
    let attached = match Box::pin(enter(socket, guest)).await {
        Ok(attached) => attached,
        Err(refused) => return Box::pin(refuse(socket, refused)).await,
    };
    let ended = converse_attached(socket, &attached).await;
    Box::pin(part(socket, attached, ended)).await
}

/// From the upgrade to the session.
async fn enter(socket: &mut Socket<TokioIo<Upgraded>>, guest: &Guest) -> Result<Attached, Refused> {
    // Before the hello: the hub tells by the number that a hello was held up behind that of a later connection.
    let conn = guest.shards.number();
    let greeting = greet(socket, guest).await?;
    guest.greeted();
    socket.take_up_to(MAX_FRAME_BYTES);
    guest.attach(conn, greeting).await.map_err(|Stopped| Refused::stopping())
}

async fn refuse(socket: &mut Socket<TokioIo<Upgraded>>, refused: Refused) -> Option<CloseCode> {
    match refused {
        Refused::Lost => None,
        Refused::Protocol => {
            socket.abandon().await;
            None
        }
        Refused::Close(code, why) => {
            socket.farewell(farewell(code, why), code).await;
            Some(code)
        }
    }
}

/// Tells the shard and the client, as far as they do not know, that the connection has ended.
async fn part(
    socket: &mut Socket<TokioIo<Upgraded>>,
    attached: Attached,
    ended: Result<Ended, Stopped>,
) -> Option<CloseCode> {
    match ended {
        Ok(Ended::Lost | Ended::Protocol) => attached.gone(GoneReason::Closed).await,
        Ok(Ended::Stalled) => attached.gone(GoneReason::SlowReader).await,
        Ok(Ended::Closing(_)) | Err(Stopped) => {}
    }
    // What waits for the client is nobody's any more.
    drop(attached);
    match ended {
        Ok(Ended::Closing(code)) => {
            socket.farewell(None, code).await;
            Some(code)
        }
        Ok(Ended::Lost) => None,
        Ok(Ended::Protocol) => refuse(socket, Refused::Protocol).await,
        // Nothing can be written to it, a close frame neither.
        Ok(Ended::Stalled) => Some(CloseCode::SlowReader),
        Err(Stopped) => refuse(socket, Refused::stopping()).await,
    }
}

/// Why there is no session.
enum Refused {
    Lost,
    Protocol,
    Close(CloseCode, String),
}

impl Refused {
    fn stopping() -> Self {
        Self::Close(CloseCode::GoingAway, STOPPING.into())
    }
}

async fn greet(socket: &mut Socket<TokioIo<Upgraded>>, guest: &Guest) -> Result<Greeting, Refused> {
    let first = tokio::select! {
        first = socket.event(None) => first,
        () = sleep(HELLO_DEADLINE) => {
            return Err(Refused::Close(CloseCode::HelloTimeout, "say hello within 5 seconds".into()));
        }
        () = guest.stop.cancelled() => return Err(Refused::stopping()),
    };
    let refuse = |error: FrameError| Refused::Close(error.close_code(), error.to_string());
    let frame = match first {
        Event::Frame(frame) => frame,
        Event::Malformed(FrameError::TooLarge { .. }) => {
            return Err(Refused::Close(CloseCode::TooLarge, hello_too_large()));
        }
        Event::Malformed(error) => return Err(refuse(error)),
        Event::Protocol => return Err(Refused::Protocol),
        Event::Lost | Event::Stalled | Event::Closing(_) => return Err(Refused::Lost),
    };
    let closed = |(code, why)| Refused::Close(code, why);
    let (ack, mut hello) = hello_of(frame).map_err(closed)?;
    let grant = guest.authorize(&mut hello).await.map_err(closed)?;
    Ok(Greeting { ack, hello, grant })
}

/// How an attached connection ended.
enum Ended {
    /// The outbox ended with this code; a farewell frame was in it.
    Closing(CloseCode),
    /// The client closed, or the network did.
    Lost,
    /// The client broke RFC 6455.
    Protocol,
    /// Nothing could be written for [`STALL_DEADLINE`].
    Stalled,
}

async fn converse_attached(
    socket: &mut Socket<TokioIo<Upgraded>>,
    attached: &Attached,
) -> Result<Ended, Stopped> {
    loop {
        match socket.event(Some((attached.outbox(), attached.metrics()))).await {
            Event::Frame(frame) => {
                if attached.hear(frame).await? == Heard::Refused {
                    socket.stop_reading();
                }
            }
            Event::Malformed(error) => attached.malformed(error).await?,
            Event::Closing(code) => return Ok(Ended::Closing(code)),
            Event::Lost => return Ok(Ended::Lost),
            Event::Protocol => return Ok(Ended::Protocol),
            Event::Stalled => return Ok(Ended::Stalled),
        }
    }
}

/// The 101 response is being written; that takes no time on a connection that is alive.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(5);
