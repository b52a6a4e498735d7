//! HTTP/2 (RFC 9113), where the TLS handshake settled on it: many requests beside each other, and WebSockets among them
//! (RFC 8441), over one connection.
//!
//! What a client of HTTP/1.1 can do with as many connections as it may have, one can do here with one, so what one can make us
//! hold is bounded by its windows, by [`MAX_STREAMS`], and by [`BODIES`] that are read at the same time. Each WebSocket counts
//! as a connection of its own, and after the first also as one that arrives. A connection on which nothing is under way is closed
//! as early as one of HTTP/1.1. Frames that cost and carry nothing are counted ([`super::flood`]).

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::Request,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::sleep,
};
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::flood::Counted;
use super::listen::{
    ConnectionInfo, HEAD_DEADLINE, LAST_ANSWER, Listener, LongAnswer, LongAnswers, MAX_HEAD_BYTES,
    REQUESTS_LIFE, answer,
};

/// The protocol's name in the TLS handshake (RFC 7301).
pub(crate) const ALPN: &[u8] = b"h2";

impl Listener {
    /// Serves a connection until it ends. Its WebSockets have tasks of their own, and keep it up.
    pub(super) async fn multiplexed(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        mut info: ConnectionInfo,
    ) {
        info.bodies = Some(Arc::new(Semaphore::new(BODIES)));
        let (long_answers, requests) = (info.long_answers.clone(), LongAnswers::default());
        let (routes, metrics, under_way) = (self.routes, self.metrics, requests.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let this = under_way.begin();
            let answer = answer(&routes, &info, request);
            async move { Ok::<_, Infallible>(answer.await.map(|body| Answering { body, _under_way: this })) }
        });
        let connection = http2::Builder::new(Tracked(self.tasks.clone()))
            .timer(TokioTimer::new())
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .serve_connection(TokioIo::new(Counted::new(stream, metrics)), service);
        tokio::pin!(connection);
        let over = async {
            tokio::select! {
                () = sleep(REQUESTS_LIFE) => {}
                () = self.stop.cancelled() => {}
                () = idle([&requests, &long_answers]) => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = over => {
                connection.as_mut().graceful_shutdown();
                let over = async { long_answers.none().await; sleep(LAST_ANSWER).await };
                tokio::select! { ended = connection => ended, () = over => Ok(()) }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "an HTTP/2 connection ended early");
        }
    }
}

/// Ends once nothing has been under way for as long as a client of HTTP/1.1 may take for its next request.
async fn idle([requests, long]: [&LongAnswers; 2]) {
    loop {
        requests.none().await;
        long.none().await;
        tokio::select! {
            () = sleep(HEAD_DEADLINE) => return,
            () = requests.some() => {}
            () = long.some() => {}
        }
    }
}

/// The body of an answer, which is under way until it is sent.
struct Answering {
    body: Body,
    _under_way: LongAnswer,
}

impl HttpBody for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The server waits for these tasks when it stops.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// The fewest that RFC 9113 section 6.5.2 recommends. All tabs of a browser share one connection, and a page that waits for a free
/// stream behind as many WebSockets does so until the connection takes no more requests.
const MAX_STREAMS: u32 = 100;
/// Request bodies that are read at the same time; more wait in the connection's window.
const BODIES: usize = 4;
/// What may come on a stream, and on all of them, before it is read: RFC 9113's defaults, or a frame of the largest size and another.
const STREAM_WINDOW_BYTES: u32 = 65_535;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 65_535;
/// What a stream holds that its client does not take; the rest stays where it is bounded.
const SEND_BUFFER_BYTES: usize = 16 * 1024;
#[expect(clippy::cast_possible_truncation, reason = "it is 8 KiB")]
const MAX_HEADER_LIST_BYTES: u32 = MAX_HEAD_BYTES as u32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{io::AsyncReadExt as _, time::Instant};

    use super::*;
    use crate::transport::listen::testing;

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_under_way_is_closed_like_one_of_http_1() {
        let start = Instant::now();
        let (listener, info) = testing::connection(testing::route(Duration::ZERO, false));
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let served = tokio::spawn(listener.multiplexed(near, info));
        let mut greeting = Vec::new();
        far.read_to_end(&mut greeting).await.expect("reads");
        served.await.expect("no panic");
        assert_eq!(start.elapsed().as_secs(), (HEAD_DEADLINE + LAST_ANSWER).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_stands_for_as_long_as_a_long_answer_takes_and_no_longer() {
        for (takes, long, arrives) in [
            (HEAD_DEADLINE * 2, false, true),
            (REQUESTS_LIFE * 10, true, true),
            (REQUESTS_LIFE * 10, false, false),
        ] {
            let start = Instant::now();
            let (listener, info) = testing::connection(testing::route(takes, long));
            let (near, far) = tokio::io::duplex(64 * 1024);
            let served = tokio::spawn(listener.multiplexed(near, info));
            let (mut client, connection) = h2::client::handshake(far).await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = Request::get("https://localhost/").body(()).expect("a request");
            let (answer, _) = client.send_request(request, true).expect("sent");
            assert_eq!(answer.await.is_ok(), arrives, "{takes:?}");
            served.await.expect("no panic");
            drop(connection.await.expect("no panic"));
            let over = if arrives { takes + HEAD_DEADLINE } else { REQUESTS_LIFE + LAST_ANSWER };
            assert!(start.elapsed() <= over + LAST_ANSWER, "{:?}", start.elapsed());
        }
    }
}
