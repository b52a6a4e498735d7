//! What one connection still has to write: a queue bounded in frames and bytes between a shard and a transport.
//!
//! The shard never waits for a reader: a queue that is full refuses the frame, and the shard then gives the
//! connection up. Frames share their bodies with the replay buffers, so a queue costs little while it is read.
//! After [`Outbox::close`] nothing more is accepted; what is queued before it is still written.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use signaling_protocol::CloseCode;

use crate::{hub::Frame, metrics::Metrics};

/// One connection's queue; the shard and the transport each hold it.
pub(crate) struct Outbox {
    state: Mutex<State>,
    limits: OutboxLimits,
    metrics: Arc<Metrics>,
}

/// Bounds of one queue. They must hold a whole replay behind a `welcome`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// What the transport is to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Write this.
    Frame(Frame),
    /// Say goodbye; the queue has ended.
    Close(CloseCode),
}

/// The reader is too slow: the frame was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: Option<CloseCode>,
    reader: Option<Waker>,
}

impl Outbox {
    pub(crate) fn new(limits: OutboxLimits, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), limits, metrics }
    }

    /// Queues a frame. After the end, frames go nowhere and that is fine: the session keeps them.
    pub(crate) fn push(&self, frame: Frame) -> Result<(), Full> {
        let bytes = frame.max_len();
        let mut state = self.lock();
        if state.end.is_some() {
            return Ok(());
        }
        if state.frames.len() >= self.limits.frames || state.bytes + bytes > self.limits.bytes {
            return Err(Full);
        }
        state.frames.push_back(frame);
        state.bytes += bytes;
        self.metrics.outbox_bytes.inc_by(signed(bytes));
        wake(state);
        Ok(())
    }

    /// Ends the queue with a close code, behind what is queued. The first end counts.
    pub(crate) fn close(&self, code: CloseCode) {
        let mut state = self.lock();
        state.end.get_or_insert(code);
        wake(state);
    }

    /// Drops what is queued, for a reader that does not read.
    pub(crate) fn discard(&self) {
        let mut state = self.lock();
        self.metrics.outbox_bytes.dec_by(signed(state.bytes));
        state.bytes = 0;
        state.frames = VecDeque::new();
    }

    /// The next thing to write. After [`Next::Close`] the transport does not come back.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut state = self.lock();
        if let Some(frame) = state.frames.pop_front() {
            let bytes = frame.max_len();
            state.bytes -= bytes;
            self.metrics.outbox_bytes.dec_by(signed(bytes));
            if state.frames.is_empty() {
                // An idle connection holds no memory for a queue.
                state.frames = VecDeque::new();
            }
            return Poll::Ready(Next::Frame(frame));
        }
        if let Some(code) = state.end {
            return Poll::Ready(Next::Close(code));
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.discard();
    }
}

/// Wakes the transport after the lock is released, so that it does not run into it.
fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// Sizes are bounded by [`OutboxLimits`].
fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Frame {
        Frame::farewell(CloseCode::SlowReader, "x".repeat(size), None).expect("an error frame")
    }

    fn outbox(frames: usize, bytes: usize) -> (Outbox, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        (Outbox::new(OutboxLimits { frames, bytes }, metrics.clone()), metrics)
    }

    fn next(outbox: &Outbox) -> Poll<Next> {
        outbox.poll_next(&Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_queue_is_bounded_in_frames_and_in_bytes() {
        let (few, _) = outbox(2, usize::MAX);
        assert_eq!([few.push(frame(1)), few.push(frame(1)), few.push(frame(1))], [Ok(()), Ok(()), Err(Full)]);
        let size = frame(100).max_len();
        let (small, _) = outbox(100, 2 * size);
        assert_eq!([100, 100, 100].map(|size| small.push(frame(size))), [Ok(()), Ok(()), Err(Full)]);
        assert!(matches!(next(&small), Poll::Ready(Next::Frame(_))));
        assert_eq!(small.push(frame(100)), Ok(()));
    }

    #[test]
    fn what_is_queued_before_the_end_comes_before_it() {
        let (outbox, _) = outbox(10, 10_000);
        outbox.push(frame(1)).expect("there is room");
        outbox.close(CloseCode::Replaced);
        outbox.close(CloseCode::GoingAway);
        assert_eq!(outbox.push(frame(1)), Ok(()), "a frame after the end goes nowhere");
        assert!(matches!(next(&outbox), Poll::Ready(Next::Frame(_))));
        assert!(matches!(next(&outbox), Poll::Ready(Next::Close(CloseCode::Replaced))));
    }

    #[test]
    fn every_way_out_gives_the_bytes_back() {
        let (outbox, metrics) = outbox(10, 10_000);
        for _ in 0..3 {
            outbox.push(frame(1)).expect("there is room");
        }
        let one = signed(frame(1).max_len());
        assert_eq!(metrics.outbox_bytes.get(), 3 * one);
        assert!(next(&outbox).is_ready());
        assert_eq!(metrics.outbox_bytes.get(), 2 * one);
        outbox.discard();
        assert_eq!(metrics.outbox_bytes.get(), 0);
        outbox.push(frame(1)).expect("there is room");
        drop(outbox);
        assert_eq!(metrics.outbox_bytes.get(), 0);
    }
}
