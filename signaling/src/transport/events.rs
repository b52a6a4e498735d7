//! A connection over server-sent events: the frames of the server are the events of one answer that does not end.
//!
//! ```text
//! POST hello -> open (the key), frames ..., close          one task; one chunk at a time goes to the answer
//! POST frames with the key -> keyed -> shard
//! ```
//!
//! Nothing is queued beside the outbox but one chunk, so a reader that does not read fills the outbox and is given up
//! like a WebSocket.

use std::{convert::Infallible, future::poll_fn, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use signaling_protocol::CloseCode;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    guest::STALL_DEADLINE,
    keyed::{Entry, close_text},
    listen::LongAnswer,
};
use crate::{
    hub::{Frame, GoneReason},
    metrics::Metrics,
    outbox::{Next, Outbox},
};

/// Makes the body of the answer and the task that writes it.
pub(crate) fn stream(entry: Entry, answer: LongAnswer) -> (Body, impl Future<Output = ()> + Send + 'static) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let chunks = stream::poll_fn(move |cx| {
        let _under_way = &answer;
        receiver.poll_recv(cx).map(|chunk| chunk.map(Ok::<_, Infallible>))
    });
    (Body::from_stream(chunks), serve(entry, sender))
}

/// The whole answer to a hello that is refused.
pub(crate) fn refusal(frame: Option<&Frame>, code: CloseCode) -> Body {
    let mut text = String::new();
    if let Some(frame) = frame {
        push_frame(&mut text, frame);
    }
    push_close(&mut text, code);
    Body::from(text)
}

async fn serve(entry: Entry, sender: mpsc::Sender<Bytes>) {
    let attached = entry.attached();
    attached.metrics().connections.inc();
    let opening = format!("event: open\ndata: {{\"connection\":\"{}\"}}\n\n", entry.key());
    let end = match write(opening, attached.outbox(), attached.metrics(), &sender).await {
        Ended::Closing(code) => Some(code),
        Ended::Lost => {
            attached.gone(GoneReason::Closed).await;
            None
        }
        Ended::Stalled => {
            attached.gone(GoneReason::SlowReader).await;
            Some(CloseCode::SlowReader)
        }
    };
    attached.metrics().connections.dec();
    attached.metrics().closed(end);
}

/// How the stream ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The outbox ended with this code, and the client was told.
    Closing(CloseCode),
    /// The client went away.
    Lost,
    /// Nothing could be written for [`STALL_DEADLINE`].
    Stalled,
}

async fn write(opening: String, outbox: &Outbox, metrics: &Metrics, sender: &mpsc::Sender<Bytes>) -> Ended {
    let mut text = opening;
    loop {
        // There is room when what was written before has been taken.
        let room = match timeout(STALL_DEADLINE, sender.reserve()).await {
            Ok(Ok(room)) => room,
            Ok(Err(_gone)) => return Ended::Lost,
            Err(_elapsed) => return Ended::Stalled,
        };
        let mut end = None;
        while end.is_none() && text.len() < CHUNK_BYTES {
            let next = tokio::select! {
                biased;
                next = poll_fn(|cx| outbox.poll_next(cx)) => next,
                () = std::future::ready(()), if !text.is_empty() => break,
                () = sender.closed() => return Ended::Lost,
                () = sleep(COMMENT_INTERVAL) => {
                    text.push_str(COMMENT);
                    break;
                }
            };
            match next {
                Next::Frame(frame) => {
                    push_frame(&mut text, &frame);
                    metrics.frames_sent.inc();
                }
                Next::Close(code) => {
                    push_close(&mut text, code);
                    end = Some(code);
                }
            }
        }
        room.send(std::mem::take(&mut text).into());
        if let Some(code) = end {
            return Ended::Closing(code);
        }
    }
}

/// What peers say may hold line breaks between its tokens, and a line break ends a line of an event, whatever is meant.
fn push_frame(text: &mut String, frame: &Frame) {
    for line in frame.to_text().split(['\n', '\r']) {
        text.push_str("data: ");
        text.push_str(line);
        text.push('\n');
    }
    text.push('\n');
}

fn push_close(text: &mut String, code: CloseCode) {
    text.push_str("event: close\ndata: ");
    text.push_str(&close_text(code));
    text.push_str("\n\n");
}

/// Collects small frames into one write; the last one may go beyond it.
const CHUNK_BYTES: usize = 16 * 1024;
/// Proxies give up an answer that is silent for 30 to 60 s. Our pings come sooner, unless they are configured away.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
const COMMENT: &str = ":\n\n";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::outbox::{Budget, OutboxLimits};

    fn outbox() -> (Outbox, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::default());
        let limits = OutboxLimits { frames: 100, bytes: 1_000_000 };
        (Outbox::new(limits, Arc::new(Budget::new(usize::MAX, 0)), metrics.clone()), metrics)
    }

    fn frame(message: &str) -> Frame {
        Frame::farewell(CloseCode::SlowReader, message, None).expect("an error frame")
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_carries_a_comment_every_fifteen_seconds() {
        let (outbox, metrics) = outbox();
        let (sender, mut receiver) = mpsc::channel(1);
        let start = Instant::now();
        let reader = async {
            assert_eq!(receiver.recv().await.expect("the opening"), "hello");
            for n in 1..=3 {
                assert_eq!(receiver.recv().await.expect("a comment"), COMMENT);
                assert_eq!(start.elapsed(), n * COMMENT_INTERVAL);
            }
        };
        tokio::select! {
            ended = write("hello".into(), &outbox, &metrics, &sender) => panic!("{ended:?}"),
            () = reader => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_nobody_reads_is_given_up_after_ten_seconds() {
        let (outbox, metrics) = outbox();
        let (sender, _receiver) = mpsc::channel(1);
        outbox.push(frame("it stays in the outbox")).expect("there is room");
        let start = Instant::now();
        assert_eq!(write("hello".into(), &outbox, &metrics, &sender).await, Ended::Stalled);
        assert_eq!(start.elapsed(), STALL_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_whose_reader_goes_away_ends_at_once() {
        let (outbox, metrics) = outbox();
        let (sender, mut receiver) = mpsc::channel(1);
        let start = Instant::now();
        let reader = async move {
            receiver.recv().await.expect("the opening");
            sleep(Duration::from_secs(1)).await;
        };
        let (ended, ()) = tokio::join!(write("hello".into(), &outbox, &metrics, &sender), reader);
        assert_eq!((ended, start.elapsed()), (Ended::Lost, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_queued_before_the_end_is_written_before_it() {
        let (outbox, metrics) = outbox();
        let (sender, mut receiver) = mpsc::channel(1);
        outbox.push(frame("last words")).expect("there is room");
        outbox.close(CloseCode::Replaced);
        let ended = write(String::new(), &outbox, &metrics, &sender).await;
        assert_eq!(ended, Ended::Closing(CloseCode::Replaced));
        let text = String::from_utf8(receiver.try_recv().expect("a chunk").into()).expect("text");
        let (words, close) = text.split_once("\n\n").expect("two events");
        assert!(words.contains("last words"), "{text}");
        assert_eq!(close, "event: close\ndata: {\"code\":4203,\"reason\":\"replaced\"}\n\n");
    }
}
