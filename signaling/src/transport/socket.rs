//! A WebSocket with its bounds: frames that were read, one by one, and what an outbox holds, written. It knows no session.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use signaling_protocol::{ClientFrame, CloseCode, FrameError, MAX_HELLO_BYTES};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Sleep, sleep, timeout},
};

use super::{
    framing::{self, Decoder, Incoming, Refused as Unreadable},
    guest::STALL_DEADLINE,
};
use crate::{
    hub::Frame,
    metrics::Metrics,
    outbox::{Next, Outbox},
};

/// What a connection's task wakes up for.
pub(super) enum Event {
    /// The text of a message as the frame that it is, or why it is none.
    Frame(Result<ClientFrame, FrameError>),
    /// What came is not even a text, and reading has ended.
    Malformed(FrameError),
    /// The outbox has ended.
    Closing(CloseCode),
    Lost,
    Protocol,
    Stalled,
}

/// A WebSocket with its bounds. Between two messages it holds no memory but itself.
pub(super) struct Socket<S> {
    stream: S,
    decoder: Decoder,
    /// Read with a message that was handed on, and not decoded yet.
    input: Input,
    /// Encoded, and written up to `written`.
    output: Vec<u8>,
    written: usize,
    /// Something was written and not yet flushed.
    unflushed: bool,
    reading: bool,
    /// The client closed: what is in `output` is the last.
    leaving: bool,
    /// Runs while something cannot be written; kept off the idle connection.
    stall: Option<Pin<Box<Sleep>>>,
    /// Pings and pongs of RFC 6455 since the last text; the protocol's own are frames and have the hub's limits.
    control_frames: u16,
}

#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    taken: usize,
}

impl Input {
    fn rest(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        let mut copy = emptied(INPUT.take());
        copy.extend_from_slice(bytes);
        Self { bytes: copy, taken: 0 }
    }
}

fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            decoder: Decoder::new(MAX_HELLO_BYTES),
            input: Input::default(),
            output: Vec::new(),
            written: 0,
            unflushed: false,
            reading: true,
            leaving: false,
            stall: None,
            control_frames: 0,
        }
    }

    /// Takes messages of another size from now on, of which none may be under way.
    pub(super) const fn take_up_to(&mut self, most: usize) {
        self.decoder.take_up_to(most);
    }

    /// Writes from the outbox and reads, until something happens that the task must act on.
    pub(super) async fn event(&mut self, outbox: Option<(&Outbox, &Metrics)>) -> Event {
        poll_fn(|cx| self.poll_event(cx, outbox)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, outbox: Option<(&Outbox, &Metrics)>) -> Poll<Event> {
        loop {
            if let Poll::Ready(event) = self.poll_write(cx, outbox) {
                return Poll::Ready(event);
            }
            if !self.reading {
                return Poll::Pending;
            }
            match self.poll_read(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(event),
                // An answer waits to be written.
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, outbox: Option<(&Outbox, &Metrics)>) -> Poll<Event> {
        loop {
            if let Some((outbox, metrics)) = outbox.filter(|_| self.output.is_empty() && !self.leaving)
                && let Some(code) = self.fill(cx, outbox, metrics)
            {
                return Poll::Ready(Event::Closing(code));
            }
            if self.output.is_empty() {
                return self.poll_flush(cx);
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Event::Lost),
                Poll::Ready(Ok(size)) => {
                    self.written += size;
                    self.unflushed = true;
                    self.stall = None;
                    if self.written == self.output.len() {
                        self.written = 0;
                        OUTPUT.set(mem::take(&mut self.output));
                    }
                }
                Poll::Pending => {
                    self.settle();
                    return self.poll_stall(cx);
                }
            }
        }
    }

    /// What has to wait takes no more memory than it needs, and leaves the buffer to others.
    fn settle(&mut self) {
        if self.stall.is_none() {
            let rest = self.output[self.written..].to_vec();
            self.written = 0;
            OUTPUT.set(mem::replace(&mut self.output, rest));
        }
    }

    /// Encodes what the outbox holds, for one write. Gives the code once it has ended and nothing is left before that.
    fn fill(&mut self, cx: &Context<'_>, outbox: &Outbox, metrics: &Metrics) -> Option<CloseCode> {
        while self.output.len() < WRITE_BYTES {
            match outbox.poll_next(cx) {
                Poll::Ready(Next::Frame(frame)) => {
                    if self.output.is_empty() {
                        self.output = emptied(OUTPUT.take());
                    }
                    framing::encode_text(&frame, &mut self.output);
                    metrics.frames_sent.inc();
                }
                Poll::Ready(Next::Close(code)) => return self.output.is_empty().then_some(code),
                Poll::Pending => break,
            }
        }
        None
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => (self.unflushed, self.stall) = (false, None),
                Poll::Ready(Err(_)) => return Poll::Ready(Event::Lost),
                Poll::Pending => return self.poll_stall(cx),
            }
        }
        if self.leaving { Poll::Ready(Event::Lost) } else { Poll::Pending }
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL_DEADLINE)));
        stall.as_mut().poll(cx).map(|()| Event::Stalled)
    }

    /// `None`: there is something to write.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if self.input.taken < self.input.bytes.len() {
                let mut input = mem::take(&mut self.input);
                let (taken, event) = self.decode(&mut input.bytes[input.taken..]);
                input.taken += taken;
                if input.taken < input.bytes.len() {
                    self.input = input;
                } else {
                    INPUT.set(input.bytes);
                }
                if event.is_ready() {
                    return event;
                }
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Some(Poll::Pending),
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                    Poll::Ready(_) => {
                        self.reading = false;
                        return Some(Poll::Ready(Some(Event::Lost)));
                    }
                }
                let (taken, event) = self.decode(buffer.filled_mut());
                self.input = Input::rest(&buffer.filled()[taken..]);
                event.is_ready().then_some(event)
            });
            if let Some(event) = read {
                return event;
            }
        }
    }

    /// Decodes up to something that has to be acted on, and says how many bytes that took. Pending: all of them, and there
    /// is nothing.
    fn decode(&mut self, bytes: &mut [u8]) -> (usize, Poll<Option<Event>>) {
        let length = bytes.len();
        let mut rest = bytes;
        let event = loop {
            match self.decoder.next(&mut rest) {
                Ok(None) => break Poll::Pending,
                Ok(Some(incoming)) => {
                    let event = self.act(incoming);
                    if event.is_ready() {
                        break event;
                    }
                }
                Err(refused) => {
                    self.reading = false;
                    break Poll::Ready(Some(match refused {
                        Unreadable::Frame(error) => Event::Malformed(error),
                        Unreadable::Protocol => Event::Protocol,
                    }));
                }
            }
        };
        (length - rest.len(), event)
    }

    fn act(&mut self, incoming: Incoming<'_>) -> Poll<Option<Event>> {
        match incoming {
            Incoming::Text(text) => {
                self.control_frames = 0;
                Poll::Ready(Some(Event::Frame(ClientFrame::parse(&text))))
            }
            Incoming::Ping(_) | Incoming::Pong if self.control_frames >= MAX_CONTROL_FRAMES => {
                self.reading = false;
                Poll::Ready(Some(Event::Protocol))
            }
            Incoming::Pong => {
                self.control_frames += 1;
                Poll::Pending
            }
            Incoming::Ping(payload) => {
                self.control_frames += 1;
                // RFC 6455 section 5.5.3: of several pings the latest has to be answered; who does not read has no latest.
                if self.output.len() < MAX_PONG_BACKLOG_BYTES {
                    framing::encode_pong(&payload, &mut self.output);
                }
                Poll::Ready(None)
            }
            Incoming::Close(code) => {
                (self.reading, self.leaving) = (false, true);
                framing::encode_close(code, "", &mut self.output);
                Poll::Ready(None)
            }
        }
    }

    pub(super) fn stop_reading(&mut self) {
        self.reading = false;
    }

    /// Writes an `error` frame if there is one and the close frame, then sees the client off.
    pub(super) async fn farewell(&mut self, frame: Option<Frame>, code: CloseCode) {
        if let Some(frame) = frame {
            framing::encode_text(&frame, &mut self.output);
        }
        framing::encode_close(Some(code.code().to_be_bytes()), code.name(), &mut self.output);
        self.end().await;
    }

    /// RFC 6455 section 7.1.7: fails the connection with 1002.
    pub(super) async fn abandon(&mut self) {
        framing::encode_close(Some(1002_u16.to_be_bytes()), "not RFC 6455", &mut self.output);
        self.end().await;
    }

    /// Writes what there is and ends our side of the stream, then swallows what still comes, for a bounded time and size.
    /// Closing a socket with unread bytes makes the kernel reset it, and a reset overtakes the close frame.
    async fn end(&mut self) {
        let Self { stream, output, written, .. } = self;
        let write = async {
            stream.write_all(&output[*written..]).await?;
            stream.flush().await
        };
        let Ok(Ok(())) = timeout(FAREWELL_DEADLINE, write).await else { return };
        let swallow = async {
            let _ = stream.shutdown().await;
            let mut waste = vec![0; 2048];
            let mut left = MAX_SWALLOWED_BYTES;
            while let Ok(size @ 1..) = stream.read(&mut waste).await {
                left = left.saturating_sub(size);
                if left == 0 {
                    break;
                }
            }
        };
        let _ = timeout(FAREWELL_DEADLINE, swallow).await;
    }
}

thread_local! {
    /// Where this thread's connections read into, one after the other.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
    /// One that was used up, for the next.
    static INPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The same.
    static OUTPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// For the goodbye, and again for the client's answer to it.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);
/// A client that was told `too_large` may be in the middle of its message.
const MAX_SWALLOWED_BYTES: usize = 16 * 1024 * 1024;
/// A burst of offers and candidates; for all connections of a thread.
const READ_BYTES: usize = 64 * 1024;
/// What is waiting goes out in writes of this and one frame at most.
const WRITE_BYTES: usize = 16 * 1024;
/// Answers to pings, when nothing can be written.
const MAX_PONG_BACKLOG_BYTES: usize = 1024;
/// Clients that use the control frames of RFC 6455 as a keep-alive send a handful between two of our pings.
const MAX_CONTROL_FRAMES: u16 = 100;

#[cfg(test)]
mod tests;
