//! Counts the frames of HTTP/2 (RFC 9113 section 4.1) that a client sends: requests, and above all those that ask for nothing (PING,
//! SETTINGS, PRIORITY, RST_STREAM, empty DATA, types that are not known). What costs more than [`RATE`] ends the connection.
//!
//! The library answers each of them as long as it can write, which is bounded in memory and not in time: a client that sends nothing
//! else keeps a core busy (RFC 9113 section 10.5). It reads what the library reads, and changes nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    hub::{Bucket, Rate},
    metrics::{Metrics, Refusal},
};

/// A connection whose frames are counted.
pub(super) struct Counted<S> {
    stream: S,
    frames: Frames,
    bucket: Bucket,
    metrics: Arc<Metrics>,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, metrics: Arc<Metrics>) -> Self {
        Self { stream, frames: Frames::default(), bucket: Bucket::full(Instant::now()), metrics }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let cost = this.frames.pass(&buffer.filled()[before..]);
        if cost > 0 && this.bucket.take_many(Instant::now(), cost, RATE).is_err() {
            this.metrics.refused(Refusal::Flood);
            return Poll::Ready(Err(io::Error::other("too many frames in a second")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Where one is in the bytes of a connection.
struct Frames {
    /// The head of the next frame, as far as it has come.
    head: [u8; HEAD_BYTES],
    come: usize,
    /// Bytes until the next head.
    rest: usize,
}

impl Default for Frames {
    fn default() -> Self {
        Self { head: [0; HEAD_BYTES], come: 0, rest: PREFACE_BYTES }
    }
}

impl Frames {
    /// Goes over what came; tells what the frames cost that began in it.
    fn pass(&mut self, mut bytes: &[u8]) -> u32 {
        let mut costs = 0;
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEAD_BYTES - self.come).min(bytes.len());
            self.head[self.come..self.come + taken].copy_from_slice(&bytes[..taken]);
            self.come += taken;
            bytes = &bytes[taken..];
            if self.come == HEAD_BYTES {
                let [a, b, c, kind, flags, ..] = self.head;
                (self.come, self.rest) = (0, u32::from_be_bytes([0, a, b, c]) as usize);
                costs += cost(kind, flags, self.rest);
            }
        }
        costs
    }
}

const fn cost(kind: u8, flags: u8, length: usize) -> u32 {
    match kind {
        DATA if length > 0 || flags & END_STREAM != 0 => 0,
        WINDOW_UPDATE | CONTINUATION => 0,
        HEADERS => 1,
        _ => IDLE_COST,
    }
}

const HEAD_BYTES: usize = 9;
/// `PRI * HTTP/2.0` and what follows it, RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;
/// RFC 9113 section 6. A window is updated for what was sent, and the library bounds continuations.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
/// Requests: some forty load the page, and a client that polls makes one for each of the hundred frames a second that it may send.
const RATE: Rate = Rate { per_second: 2_000, burst: 2_000 };
/// Or 500 that ask for nothing: a browser sends some ten when it connects, one for each request that it gives up, and a PING every few
/// seconds.
const IDLE_COST: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let (ping, settings, reset, priority) = (6, 4, 3, 2);
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(settings, 0, &[0; 12]),
            frame(HEADERS, 4, &[6; 300]),
            frame(DATA, 0, &[ping; 20_000]),
            frame(DATA, 0, &[]),
            frame(DATA, END_STREAM, &[]),
            frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]),
            frame(ping, 0, &[0; 8]),
            frame(reset, 0, &[0; 4]),
            frame(priority, 0, &[0; 5]),
            frame(0xfe, 0, &[1; 7]),
        ]
        .concat();
        for size in [1, 2, 8, 9, 10, 4096, bytes.len()] {
            let mut frames = Frames::default();
            let costs: u32 = bytes.chunks(size).map(|part| frames.pass(part)).sum();
            assert_eq!((costs, frames.come, frames.rest), (1 + 6 * IDLE_COST, 0, 0), "{size}");
        }
    }
}
