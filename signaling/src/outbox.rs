//! What one connection still has to write: a queue bounded in frames and bytes between a shard and a transport.
//!
//! The shard never waits for a reader: a queue that is full refuses the frame, and the shard then gives the
//! connection up. Frames share their bodies with the replay buffers, so a queue costs little while it is read. A
//! client may acknowledge what it has not read, or leave while it reads nothing: then only the queue holds the bodies.
//! So all queues together are bounded as well, and whoever holds more than a reserve when they are full pays for it.
//! After [`Outbox::close`] nothing more is accepted; what is queued before it is still written.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use signaling_protocol::CloseCode;

use crate::{hub::Frame, metrics::Metrics};

/// One connection's queue; the shard and the transport each hold it.
pub(crate) struct Outbox {
    state: Mutex<State>,
    limits: OutboxLimits,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
}

/// Bounds of one queue. They must hold a whole replay behind a `welcome`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// What all queues of a server may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    total: AtomicUsize,
    reserve: AtomicUsize,
    held: AtomicUsize,
}

impl Budget {
    /// When `total` bytes are queued, a queue may hold no more than `reserve`.
    pub(crate) const fn new(total: usize, reserve: usize) -> Self {
        Self { total: AtomicUsize::new(total), reserve: AtomicUsize::new(reserve), held: AtomicUsize::new(0) }
    }

    /// Other bounds from now on.
    pub(crate) fn limit(&self, total: usize, reserve: usize) {
        self.total.store(total, Ordering::Relaxed);
        self.reserve.store(reserve, Ordering::Relaxed);
    }

    /// Takes `bytes` for a queue that will then hold `queued`.
    fn take(&self, bytes: usize, queued: usize) -> Result<(), Full> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let full = before.saturating_add(bytes) > self.total.load(Ordering::Relaxed);
        if full && queued > self.reserve.load(Ordering::Relaxed) {
            self.give_back(bytes);
            return Err(Full);
        }
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
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
    pub(crate) fn new(limits: OutboxLimits, budget: Arc<Budget>, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), limits, budget, metrics }
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
        self.budget.take(bytes, state.bytes + bytes)?;
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
        self.keep_last(0);
    }

    /// Drops what is queued but the last frame, which says why.
    pub(crate) fn discard_before_last(&self) {
        self.keep_last(1);
    }

    fn keep_last(&self, count: usize) {
        let mut state = self.lock();
        let dropped = state.frames.len().saturating_sub(count);
        let bytes = state.frames.drain(..dropped).map(|frame| frame.max_len()).sum();
        state.frames.shrink_to_fit();
        state.bytes -= bytes;
        self.metrics.outbox_bytes.dec_by(signed(bytes));
        self.budget.give_back(bytes);
    }

    /// The next thing to write. After [`Next::Close`] the transport does not come back.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Next> {
        let mut state = self.lock();
        if let Some(frame) = state.frames.pop_front() {
            let bytes = frame.max_len();
            state.bytes -= bytes;
            self.metrics.outbox_bytes.dec_by(signed(bytes));
            self.budget.give_back(bytes);
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
        let budget = Arc::new(Budget::new(usize::MAX, 0));
        (Outbox::new(OutboxLimits { frames, bytes }, budget, metrics.clone()), metrics)
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
    fn when_all_queues_together_hold_too_much_only_who_holds_much_is_refused() {
        let size = frame(100).max_len();
        let budget = Arc::new(Budget::new(3 * size, size));
        let limits = OutboxLimits { frames: 100, bytes: 100 * size };
        let [greedy, modest] =
            [(); 2].map(|()| Outbox::new(limits, budget.clone(), Arc::new(Metrics::default())));
        assert_eq!([(); 4].map(|()| greedy.push(frame(100))), [Ok(()), Ok(()), Ok(()), Err(Full)]);
        assert_eq!([(); 2].map(|()| modest.push(frame(100))), [Ok(()), Err(Full)]);

        assert!(next(&greedy).is_ready());
        assert_eq!(modest.push(frame(100)), Err(Full), "what is taken for the reserve counts too");
        greedy.discard();
        assert_eq!(modest.push(frame(100)), Ok(()));
        drop(modest);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
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
        for size in [1, 1, 100] {
            outbox.push(frame(size)).expect("there is room");
        }
        outbox.discard_before_last();
        assert_eq!(metrics.outbox_bytes.get(), signed(frame(100).max_len()));
        drop(outbox);
        assert_eq!(metrics.outbox_bytes.get(), 0);
    }
}
