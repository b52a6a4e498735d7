//! A connection over long polling: each answer brings the frames that are there, or waits for the first.
//!
//! ```text
//! POST hello -> the key, welcome         one task for the connection, which outlives its requests;
//! POST (key) -> frames ...               a request hands it a place for the answer
//! POST (key) -> frames, close
//! ```
//!
//! An answer that is lost on its way takes its frames along: the client sees a gap, or waits in vain, and resumes its
//! session. So nothing is kept here that the session keeps already.

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::Duration,
};

use signaling_protocol::CloseCode;
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::keyed::{Entry, close_text};
use crate::{
    hub::{Frame, GoneReason},
    metrics::Metrics,
    outbox::{Next, Outbox},
};

/// Where the polls of one connection wait for their answers, JSON texts. The latest is the one that is answered.
#[derive(Clone)]
pub(crate) struct Polls(mpsc::Sender<oneshot::Sender<String>>);

/// What the connection's task takes polls from.
pub(crate) struct Waiting(mpsc::Receiver<oneshot::Sender<String>>);

/// The connection has ended.
#[derive(Debug)]
pub(crate) struct Over;

pub(crate) fn polls() -> (Polls, Waiting) {
    let (sender, receiver) = mpsc::channel(1);
    (Polls(sender), Waiting(receiver))
}

impl Polls {
    /// Waits for the answer. To give up is to drop this; then nothing is lost.
    pub(crate) async fn answer(&self) -> Result<String, Over> {
        let (reply, answer) = oneshot::channel();
        self.0.send(reply).await.map_err(|_| Over)?;
        answer.await.map_err(|_| Over)
    }
}

/// The whole answer to a hello that is refused.
pub(crate) fn refusal(frame: Option<&Frame>, code: CloseCode) -> String {
    let mut answer = Answer { end: Some(code), ..Answer::default() };
    if let Some(frame) = frame {
        answer.push(frame);
    }
    answer.text()
}

/// Runs the connection until it is closed or nobody polls any more.
pub(crate) async fn serve(entry: Entry, waiting: Waiting, stop: CancellationToken) {
    let attached = entry.attached();
    attached.metrics().connections.inc();
    let first = Answer { connection: Some(entry.key()), ..Answer::default() };
    let end = converse(first, waiting, attached.outbox(), attached.metrics(), &stop).await;
    if end.is_none() {
        attached.gone(GoneReason::Closed).await;
    }
    attached.metrics().connections.dec();
    attached.metrics().closed(end);
}

/// Gives the code with which the connection was closed, or `None` if the client was lost.
async fn converse(
    first: Answer,
    Waiting(mut polls): Waiting,
    outbox: &Outbox,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Option<CloseCode> {
    let mut answer = first;
    let mut next = None;
    loop {
        let reply = match next.take() {
            Some(reply) => Some(reply),
            None => tokio::select! {
                reply = polls.recv() => reply,
                () = patience(stop) => None,
            },
        };
        let Some(mut reply) = reply else { return answer.end };
        tokio::select! {
            biased;
            () = poll_fn(|cx| answer.poll_fill(cx, outbox, metrics)) => {}
            () = sleep(POLL_DEADLINE) => {}
            () = reply.closed() => continue,
            later = polls.recv() => {
                // The client gave this one up without a word that we have heard: the later one gets what comes.
                let _ = reply.send(Answer::default().text());
                next = later;
                continue;
            }
        }
        // What the request does not take any more is for the next one.
        if reply.send(answer.text()).is_ok() {
            if answer.end.is_some() {
                return answer.end;
            }
            answer = Answer::default();
        }
    }
}

/// How long a connection stands without a poll; a server that stops does not wait as long.
async fn patience(stop: &CancellationToken) {
    tokio::select! {
        () = sleep(POLL_GAP) => {}
        () = async { stop.cancelled().await; sleep(FAREWELL).await } => {}
    }
}

/// One answer while it is put together.
#[derive(Default)]
struct Answer {
    /// The key, in the first answer.
    connection: Option<String>,
    /// JSON texts, with commas between them.
    frames: String,
    end: Option<CloseCode>,
}

impl Answer {
    fn poll_fill(&mut self, cx: &Context<'_>, outbox: &Outbox, metrics: &Metrics) -> Poll<()> {
        while self.end.is_none() && self.frames.len() < ANSWER_BYTES {
            match outbox.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Next::Close(code)) => self.end = Some(code),
                Poll::Ready(Next::Frame(frame)) => {
                    self.push(&frame);
                    metrics.frames_sent.inc();
                }
            }
        }
        if self.frames.is_empty() && self.end.is_none() { Poll::Pending } else { Poll::Ready(()) }
    }

    fn push(&mut self, frame: &Frame) {
        if !self.frames.is_empty() {
            self.frames.push(',');
        }
        frame.write(&mut self.frames);
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.frames.len() + 128);
        text.push('{');
        if let Some(connection) = &self.connection {
            text.push_str("\"connection\":\"");
            text.push_str(connection);
            text.push_str("\",");
        }
        text.push_str("\"frames\":[");
        text.push_str(&self.frames);
        text.push(']');
        if let Some(code) = self.end {
            text.push_str(",\"close\":");
            text.push_str(&close_text(code));
        }
        text.push('}');
        text
    }
}

/// An empty answer after this time tells proxies and clients that somebody is there. Our pings come sooner, unless
/// they are configured away.
const POLL_DEADLINE: Duration = Duration::from_secs(25);
/// A client polls again at once; what takes longer is a lost connection.
const POLL_GAP: Duration = Duration::from_secs(15);
/// For a client of a stopping server to fetch the news.
const FAREWELL: Duration = Duration::from_secs(2);
/// Frames go into one answer up to this size; the last one may go beyond it.
const ANSWER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::outbox::{Budget, OutboxLimits};

    struct Bench {
        outbox: Arc<Outbox>,
        polls: Polls,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<Option<CloseCode>>,
    }

    fn bench() -> Bench {
        let metrics = Arc::new(Metrics::default());
        let limits = OutboxLimits { frames: 100, bytes: 1_000_000 };
        let budget = Arc::new(Budget::new(usize::MAX, 0));
        let outbox = Arc::new(Outbox::new(limits, budget, metrics.clone()));
        let (polls, waiting) = polls();
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (outbox, stop) = (outbox.clone(), stop.clone());
            async move { converse(Answer::default(), waiting, &outbox, &metrics, &stop).await }
        });
        Bench { outbox, polls, stop, task }
    }

    fn say(outbox: &Outbox, message: &str) {
        let frame = Frame::farewell(CloseCode::SlowReader, message, None).expect("an error frame");
        outbox.push(frame).expect("there is room");
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_waits_for_the_first_frame_and_at_most_25_seconds() {
        let bench = bench();
        let start = Instant::now();
        assert_eq!(bench.polls.answer().await.expect("an answer"), r#"{"frames":[]}"#);
        assert_eq!(start.elapsed(), POLL_DEADLINE);
        let (answer, ()) = tokio::join!(bench.polls.answer(), async {
            sleep(Duration::from_secs(1)).await;
            say(&bench.outbox, "here");
        });
        assert!(answer.expect("an answer").contains("here"));
        assert_eq!(start.elapsed(), POLL_DEADLINE + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_that_is_given_up_takes_nothing_along() {
        let bench = bench();
        let waited = tokio::time::timeout(Duration::from_secs(1), bench.polls.answer()).await;
        assert!(waited.is_err());
        say(&bench.outbox, "still here");
        assert!(bench.polls.answer().await.expect("an answer").contains("still here"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_gave_its_poll_up_has_fifteen_seconds_from_then() {
        let bench = bench();
        let start = Instant::now();
        let second = Duration::from_secs(1);
        assert!(tokio::time::timeout(second, bench.polls.answer()).await.is_err());
        assert_eq!(bench.task.await.expect("no panic"), None);
        assert_eq!(start.elapsed(), second + POLL_GAP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_poll_gets_what_comes_and_the_earlier_one_an_empty_answer() {
        let bench = bench();
        let earlier = tokio::spawn({
            let polls = bench.polls.clone();
            async move { polls.answer().await }
        });
        sleep(Duration::from_secs(1)).await;
        let later = tokio::spawn({
            let polls = bench.polls.clone();
            async move { polls.answer().await }
        });
        assert_eq!(earlier.await.expect("no panic").expect("an answer"), r#"{"frames":[]}"#);
        say(&bench.outbox, "news");
        assert!(later.await.expect("no panic").expect("an answer").contains("news"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_the_poll_that_fetches_it() {
        let bench = bench();
        bench.outbox.close(CloseCode::Replaced);
        sleep(Duration::from_secs(5)).await;
        let answer = bench.polls.answer().await.expect("an answer");
        assert_eq!(answer, r#"{"frames":[],"close":{"code":4203,"reason":"replaced"}}"#);
        assert_eq!(bench.task.await.expect("no panic"), Some(CloseCode::Replaced));
        bench.polls.answer().await.expect_err("it is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_poll_for_fifteen_seconds_is_lost_and_sooner_when_the_server_stops() {
        let start = Instant::now();
        assert_eq!(bench().task.await.expect("no panic"), None);
        assert_eq!(start.elapsed(), POLL_GAP);
        let stopping = bench();
        stopping.stop.cancel();
        assert_eq!(stopping.task.await.expect("no panic"), None);
        assert_eq!(start.elapsed(), POLL_GAP + FAREWELL);
    }
}
