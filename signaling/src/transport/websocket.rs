//! One WebSocket connection: one task that reads frames into a shard and writes what its outbox holds.
//!
//! ```text
//! upgrade -> hello (within 5 s) -> attached: read | write -> farewell, close frame, end of stream
//! ```
//!
//! A shard hears of a connection only after its hello. Reading and writing go on side by side in the one task: a
//! client that is slow to read can still be heard. The library under it is used without axum's wrapper, because an
//! oversized message has to be answered (4201) and the rest of it swallowed: for that the raw stream is needed.
//! There is no compression: no library does it in bounded memory.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Sink, SinkExt, Stream};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use signaling_protocol::{CloseCode, FrameError, MAX_FRAME_BYTES};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Sleep, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as SocketError, Message, Utf8Bytes,
        error::CapacityError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use tracing::debug;

use super::guest::{
    Attached, Greeting, Guest, HELLO_DEADLINE, Heard, STALL_DEADLINE, STOPPING, farewell, read_hello,
};
use crate::{
    hub::{Frame, GoneReason},
    metrics::Metrics,
    outbox::{Next, Outbox},
    shard::Stopped,
};

/// Runs the connection from its upgrade to its end.
pub(crate) async fn serve(upgrade: OnUpgrade, guest: Guest) {
    let upgraded = match timeout(UPGRADE_DEADLINE, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        Ok(Err(error)) => return debug!(%error, "an upgrade failed"),
        Err(_elapsed) => return,
    };
    guest.metrics.connections.inc();
    let socket = Socket::new(TokioIo::new(upgraded)).await;
    let end = converse(socket, &guest).await;
    guest.metrics.connections.dec();
    guest.metrics.closed(end);
}

/// Gives the code with which we closed, or `None` if the client closed or was lost.
async fn converse(mut socket: Socket<TokioIo<Upgraded>>, guest: &Guest) -> Option<CloseCode> {
    // Before the hello: the hub tells by the number that a hello was held up behind that of a later connection.
    let conn = guest.shards.number();
    let greeting = match greet(&mut socket, guest).await {
        Ok(greeting) => {
            guest.admitted.greeted();
            greeting
        }
        Err(Refused::Lost) => return None,
        Err(Refused::Protocol) => {
            socket.abandon().await;
            return None;
        }
        Err(Refused::Close(code, why)) => {
            socket.farewell(farewell(code, why), code).await;
            return Some(code);
        }
    };
    let ended = async {
        let attached = guest.attach(conn, greeting).await?;
        let ended = converse_attached(&mut socket, &attached).await;
        if let Ok(Ended::Lost | Ended::Protocol) = ended {
            attached.gone(GoneReason::Closed).await;
        } else if let Ok(Ended::Stalled) = ended {
            attached.gone(GoneReason::SlowReader).await;
        }
        ended
    };
    match ended.await {
        Ok(Ended::Closing(code)) => {
            socket.farewell(None, code).await;
            Some(code)
        }
        Ok(Ended::Lost) => None,
        Ok(Ended::Protocol) => {
            socket.abandon().await;
            None
        }
        // Nothing can be written to it, a close frame neither.
        Ok(Ended::Stalled) => Some(CloseCode::SlowReader),
        Err(Stopped) => {
            let code = CloseCode::GoingAway;
            socket.farewell(Frame::farewell(code, STOPPING, None), code).await;
            Some(code)
        }
    }
}

/// Why there was no hello.
enum Refused {
    Lost,
    Protocol,
    Close(CloseCode, String),
}

async fn greet(socket: &mut Socket<TokioIo<Upgraded>>, guest: &Guest) -> Result<Greeting, Refused> {
    let first = tokio::select! {
        first = socket.event(None) => first,
        () = sleep(HELLO_DEADLINE) => {
            return Err(Refused::Close(CloseCode::HelloTimeout, "say hello within 5 seconds".into()));
        }
        () = guest.stop.cancelled() => return Err(Refused::Close(CloseCode::GoingAway, STOPPING.into())),
    };
    let refuse = |error: FrameError| Refused::Close(error.close_code(), error.to_string());
    let text = match first {
        Event::Text(text) => text,
        Event::Malformed(error) => return Err(refuse(error)),
        Event::Protocol => return Err(Refused::Protocol),
        Event::Lost | Event::Stalled | Event::Closing(_) => return Err(Refused::Lost),
    };
    let closed = |(code, why)| Refused::Close(code, why);
    let (ack, mut hello) = read_hello(text.as_bytes()).map_err(closed)?;
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
            Event::Text(text) => {
                if attached.hear(text.as_bytes()).await? == Heard::Malformed {
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

/// What a connection's task wakes up for.
enum Event {
    Text(Utf8Bytes),
    /// What came is not a frame and reading has ended.
    Malformed(FrameError),
    /// The outbox has ended.
    Closing(CloseCode),
    Lost,
    Protocol,
    Stalled,
}

/// A WebSocket with its bounds.
struct Socket<S> {
    stream: WebSocketStream<S>,
    reading: bool,
    /// Something was handed to the stream and not yet flushed.
    unflushed: bool,
    /// The stream refused to take more the last time.
    blocked: bool,
    /// Runs while something is unflushed; kept off the idle connection.
    stall: Option<Pin<Box<Sleep>>>,
    /// Pings and pongs of RFC 6455 since the last text; the protocol's own are frames and have the hub's limits.
    control_frames: u16,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    async fn new(raw: S) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let stream = WebSocketStream::from_raw_socket(raw, Role::Server, Some(config)).await;
        Self { stream, reading: true, unflushed: false, blocked: false, stall: None, control_frames: 0 }
    }

    /// Writes from the outbox and reads, until something happens that the task must act on.
    async fn event(&mut self, outbox: Option<(&Outbox, &Metrics)>) -> Event {
        poll_fn(|cx| self.poll_event(cx, outbox)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, outbox: Option<(&Outbox, &Metrics)>) -> Poll<Event> {
        if let Some((outbox, metrics)) = outbox
            && let Poll::Ready(event) = self.poll_write(cx, outbox, metrics)
        {
            return Poll::Ready(event);
        }
        if self.reading {
            return self.poll_read(cx);
        }
        Poll::Pending
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, outbox: &Outbox, metrics: &Metrics) -> Poll<Event> {
        loop {
            match Pin::new(&mut self.stream).poll_ready(cx) {
                Poll::Pending => {
                    self.blocked = true;
                    break;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Lost),
                Poll::Ready(Ok(())) if self.blocked => {
                    // It took everything it had refused: the reader reads.
                    self.blocked = false;
                    self.stall = None;
                }
                Poll::Ready(Ok(())) => {}
            }
            match outbox.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Next::Close(code)) => return Poll::Ready(Event::Closing(code)),
                Poll::Ready(Next::Frame(frame)) => {
                    let message = Message::Text(frame.to_text().into());
                    if Pin::new(&mut self.stream).start_send(message).is_err() {
                        return Poll::Ready(Event::Lost);
                    }
                    metrics.frames_sent.inc();
                    self.unflushed = true;
                }
            }
        }
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.unflushed {
            return Poll::Pending;
        }
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                self.blocked = false;
                self.stall = None;
                Poll::Pending
            }
            Poll::Ready(Err(_)) => Poll::Ready(Event::Lost),
            Poll::Pending => {
                let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_DEADLINE)));
                stall.as_mut().poll(cx).map(|()| Event::Stalled)
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let Poll::Ready(received) = Pin::new(&mut self.stream).poll_next(cx) else {
                return Poll::Pending;
            };
            let event = match received {
                Some(Ok(Message::Text(text))) => {
                    self.control_frames = 0;
                    return Poll::Ready(Event::Text(text));
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) if self.control_frames < MAX_CONTROL_FRAMES => {
                    self.control_frames += 1;
                    continue;
                }
                Some(Ok(Message::Binary(_)) | Err(SocketError::Utf8(_))) => {
                    Event::Malformed(FrameError::NotText)
                }
                Some(Err(SocketError::Capacity(CapacityError::MessageTooLong { size, .. }))) => {
                    Event::Malformed(FrameError::TooLarge { bytes: size })
                }
                Some(
                    Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))
                    | Err(SocketError::Protocol(_)),
                ) => Event::Protocol,
                // The answer to a close frame was queued by the library and is written by `poll_next` itself.
                Some(Ok(Message::Close(_))) => continue,
                None | Some(Err(_)) => Event::Lost,
            };
            self.reading = false;
            return Poll::Ready(event);
        }
    }

    fn stop_reading(&mut self) {
        self.reading = false;
    }

    /// Writes an `error` frame if there is one and the close frame, then sees the client off.
    async fn farewell(mut self, frame: Option<Frame>, code: CloseCode) {
        let written = async {
            if let Some(frame) = frame {
                self.stream.feed(Message::Text(frame.to_text().into())).await?;
            }
            let close = CloseFrame { code: code.code().into(), reason: Utf8Bytes::from_static(code.name()) };
            self.stream.send(Message::Close(Some(close))).await
        };
        if let Ok(Ok(())) = timeout(FAREWELL_DEADLINE, written).await {
            self.see_off().await;
        }
    }

    /// RFC 6455 section 7.1.7: fails the connection with 1002.
    async fn abandon(mut self) {
        let close = CloseFrame { code: 1002.into(), reason: Utf8Bytes::from_static("not RFC 6455") };
        let written = self.stream.send(Message::Close(Some(close)));
        if let Ok(Ok(())) = timeout(FAREWELL_DEADLINE, written).await {
            self.see_off().await;
        }
    }

    /// Ends our side of the stream and swallows what still comes, for a bounded time and size. Closing a socket with
    /// unread bytes makes the kernel reset it, and a reset overtakes the close frame that we have just sent.
    async fn see_off(self) {
        let mut raw = self.stream.into_inner();
        let swallow = async {
            let _ = raw.shutdown().await;
            let mut waste = [0; 2048];
            let mut left = MAX_SWALLOWED_BYTES;
            while let Ok(size @ 1..) = raw.read(&mut waste).await {
                left = left.saturating_sub(size);
                if left == 0 {
                    break;
                }
            }
        };
        let _ = timeout(FAREWELL_DEADLINE, swallow).await;
    }
}

/// The 101 response is being written; that takes no time on a connection that is alive.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(5);
/// For the goodbye, and again for the client's answer to it.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);
/// A client that was told `too_large` may be in the middle of its message.
const MAX_SWALLOWED_BYTES: usize = 16 * 1024 * 1024;
/// Allocated for each connection and kept: 2 KiB holds most frames; large ones grow it for their own time.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Collects small frames into one write.
const WRITE_BUFFER_BYTES: usize = 2 * 1024;
/// Above the largest frame that we ever write: a relayed signal, or a snapshot of a full room.
const MAX_WRITE_BUFFER_BYTES: usize = 1024 * 1024;
/// Clients that use the control frames of RFC 6455 as a keep-alive send a handful between two of our pings.
const MAX_CONTROL_FRAMES: u16 = 100;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::{
        io::{DuplexStream, duplex},
        time::Instant,
    };

    use super::*;
    use crate::outbox::{Budget, OutboxLimits};

    fn unbounded() -> Arc<Budget> {
        Arc::new(Budget::new(usize::MAX, 0))
    }

    /// A socket whose pipe holds 1 KiB, its far end, and an outbox with twenty times as much.
    async fn stuffed() -> (Socket<DuplexStream>, DuplexStream, Outbox, Arc<Metrics>) {
        let (near, far) = duplex(1024);
        let metrics = Arc::new(Metrics::default());
        let limits = OutboxLimits { frames: 100, bytes: 100_000 };
        let outbox = Outbox::new(limits, unbounded(), metrics.clone());
        for _ in 0..5 {
            let frame =
                Frame::farewell(CloseCode::SlowReader, "x".repeat(4096), None).expect("an error frame");
            outbox.push(frame).expect("there is room");
        }
        (Socket::new(near).await, far, outbox, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_stalls_for_ten_seconds_is_given_up() {
        let (mut socket, _far, outbox, metrics) = stuffed().await;
        let start = Instant::now();
        assert!(matches!(socket.event(Some((&outbox, &metrics))).await, Event::Stalled));
        assert_eq!(start.elapsed().as_secs(), STALL_DEADLINE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_is_slow_but_reads_is_not_given_up() {
        let (mut socket, mut far, outbox, metrics) = stuffed().await;
        let reader = async {
            // 512 bytes a second: all of it takes four times the deadline, and each frame less than it.
            for _ in 0..36 {
                sleep(Duration::from_secs(1)).await;
                far.read_exact(&mut [0; 512]).await.expect("more is to come");
            }
        };
        tokio::select! {
            _ = socket.event(Some((&outbox, &metrics))) => panic!("it was given up"),
            () = reader => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_socket_waits_without_a_deadline() {
        let (near, _far) = duplex(1024);
        let metrics = Arc::new(Metrics::default());
        let outbox = Outbox::new(OutboxLimits { frames: 1, bytes: 1000 }, unbounded(), metrics.clone());
        let mut socket = Socket::new(near).await;
        let day = Duration::from_secs(86_400);
        assert!(timeout(day, socket.event(Some((&outbox, &metrics)))).await.is_err());
    }
}
