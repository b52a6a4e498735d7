//! The accept loop: one task per TCP connection, from the first byte to the answer or to the upgrade.
//!
//! Nothing here waits without an end: TLS has a deadline, a request head has one, and a connection that is neither
//! upgraded nor in the middle of a long answer has a bounded life. Connections are counted before a byte is read: in
//! total, per address, and per address once more for those that have not said hello yet, since these cost us something
//! and have shown us nothing.
//!
//! An own loop instead of `axum::serve`: that one leaves Nagle's algorithm on, cannot bound anything, and does
//! TLS handshakes one after the other.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    admission::{Admission, Admitted, InTotal, accountable},
    forwarded::Forwarding,
    http2, introduction,
};
use crate::{
    acme::CHALLENGE,
    metrics::{Metrics, Refusal},
    origin::Scheme,
    rules::CurrentRules,
};

/// What every connection of a listener needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) routes: Router,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) admission: Admission,
    pub(crate) rules: CurrentRules,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// What a request handler may know about the connection that brought the request.
#[derive(Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) scheme: Scheme,
    pub(crate) admitted: Arc<Admitted>,
    pub(crate) long_answers: LongAnswers,
    /// The connection is a proxy's of ours, with this address.
    proxy: Option<(IpAddr, Arc<Forwarding>)>,
    /// Over HTTP/2: whose turn it is to have its body read.
    pub(crate) bodies: Option<Arc<Semaphore>>,
}

impl ConnectionInfo {
    /// The same as this request is to see it. What a proxy brings counts for the client that it names, or else for itself, as
    /// long as the request does.
    pub(crate) fn for_request(&self, headers: &HeaderMap) -> Result<Self, Refusal> {
        let Some((proxy, forwarding)) = &self.proxy else { return Ok(self.clone()) };
        let client = forwarding.client(headers).unwrap_or(*proxy);
        let admitted = self.admitted.for_client(accountable(client))?;
        Ok(Self { admitted: Arc::new(admitted), ..self.clone() })
    }
}

/// The answers of one connection that are under way for longer than a file takes.
#[derive(Clone, Default)]
pub(crate) struct LongAnswers(watch::Sender<usize>);

/// One of them: its connection stands while this lives.
pub(crate) struct LongAnswer(watch::Sender<usize>);

impl LongAnswers {
    pub(crate) fn begin(&self) -> LongAnswer {
        self.0.send_modify(|count| *count += 1);
        LongAnswer(self.0.clone())
    }

    /// Waits until none is under way.
    pub(super) async fn none(&self) {
        // It fails only when there is no sender, and `self` is one.
        let _ = self.0.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Waits until one is.
    pub(super) async fn some(&self) {
        let _ = self.0.subscribe().wait_for(|count| *count > 0).await;
    }
}

impl Drop for LongAnswer {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Listener {
    /// Accepts until `stop` is cancelled. Connections go on in their own tasks, tracked by `tasks`.
    pub(crate) async fn serve(self, socket: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = self.next(&socket) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => self.accept_failed(&error).await,
            }
        }
    }

    /// What comes faster than the rate of handshakes, or than hellos follow, waits in the kernel, and beyond its backlog in
    /// the clients.
    async fn next(&self, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        while let Err(wait) = self.admission.pace() {
            self.metrics.handshakes_delayed.inc();
            sleep(wait).await;
        }
        // When everybody comes back at once there is room again in a moment. If there is none, somebody holds it: those who
        // wait are told one by one, so that they do not wait for nothing.
        if self.admission.is_crowded() {
            self.metrics.handshakes_delayed.inc();
            let _ = timeout(CROWD_PATIENCE, self.admission.room()).await;
        }
        socket.accept().await
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let (rules, ip) = (self.rules.load(), peer.ip());
        let introduced = rules.introduces(ip);
        // A proxy's connections are as many as its clients': each connection, or each request, counts for its own.
        let address = (!introduced && !rules.forwarding.believes(ip)).then(|| accountable(ip));
        let admitted = match self.admission.count(address, InTotal::OneMore) {
            Ok(admitted) => admitted,
            Err(refusal) => return self.metrics.refused(refusal),
        };
        if let Err(error) = prepare(&stream) {
            debug!(%error, "a connection was gone before it could be set up");
            return;
        }
        let listener = self.clone();
        if introduced {
            self.tasks.spawn(async move { listener.introduced(stream, admitted, ip).await });
        } else {
            self.tasks.spawn(async move { listener.connection(stream, admitted, ip).await });
        }
    }

    /// A connection that begins with a PROXY header, which says whose it is.
    async fn introduced(self, mut stream: TcpStream, mut admitted: Admitted, proxy: IpAddr) {
        let client = match timeout(INTRODUCTION_DEADLINE, introduction::read(&mut stream)).await {
            Ok(Ok(client)) => client.map_or(proxy, |client| client.ip()),
            Ok(Err(_)) | Err(_) => return self.metrics.refused(Refusal::Introduction),
        };
        if !self.rules.load().forwarding.believes(client)
            && let Err(refusal) = admitted.identify(accountable(client))
        {
            return self.metrics.refused(refusal);
        }
        self.connection(stream, admitted, client).await;
    }

    /// Serves whoever is at the other end, or on the far side of a proxy.
    async fn connection(self, stream: TcpStream, admitted: Admitted, ip: IpAddr) {
        let forwarding = self.rules.load().forwarding.clone();
        let proxy = forwarding.believes(ip).then_some((ip, forwarding));
        let admitted = Arc::new(admitted);
        let info = |scheme| ConnectionInfo {
            scheme,
            admitted,
            long_answers: LongAnswers::default(),
            proxy,
            bodies: None,
        };
        let Some(tls) = self.tls.clone() else {
            return self.requests(stream, info(Scheme::Http)).await;
        };
        match timeout(TLS_DEADLINE, tls.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(http2::ALPN) => {
                // Large, and rare among those that are held for long.
                Box::pin(self.multiplexed(stream, info(Scheme::Https))).await;
            }
            // The handshake was all that it is about.
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(CHALLENGE) => {}
            Ok(Ok(stream)) => self.requests(stream, info(Scheme::Https)).await,
            Ok(Err(error)) => {
                self.metrics.refused(Refusal::Tls);
                debug!(%error, "TLS handshake failed");
            }
            Err(_elapsed) => self.metrics.refused(Refusal::Tls),
        }
    }

    async fn requests(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        info: ConnectionInfo,
    ) {
        let routes = self.routes;
        let long_answers = info.long_answers.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&routes, &info, request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = async { tokio::select! { () = sleep(REQUESTS_LIFE) => {}, () = self.stop.cancelled() => {} } } => {
                connection.as_mut().graceful_shutdown();
                let over = async { long_answers.none().await; sleep(LAST_ANSWER).await };
                tokio::select! { ended = connection => ended, () = over => Ok(()) }
            }
        };
        if let Err(error) = ended {
            debug!(%error, "an HTTP connection ended early");
        }
    }

    /// A failed `accept` is about one client, unless we ran out of descriptors: then waiting is all that helps.
    async fn accept_failed(&self, error: &io::Error) {
        self.metrics.refused(Refusal::Accept);
        let of_the_client = matches!(
            error.kind(),
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
        );
        if !of_the_client {
            warn!(%error, "cannot accept connections: raise the limit of open files if that is what it says");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Hands a request to its route, which sees by what connection it came.
pub(super) fn answer(
    routes: &Router,
    info: &ConnectionInfo,
    request: Request<Incoming>,
) -> impl Future<Output = Response<Body>> + Send + use<> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(info.clone());
    let answer = routes.clone().oneshot(request);
    async move {
        let Ok(response) = answer.await;
        response
    }
}

/// Binds the listening socket. A second listener on the same port is refused by the system: no `SO_REUSEPORT`.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: what a reader that stopped can make the kernel hold.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // Data that stays unacknowledged this long means that nobody is there (RFC 5482); kills half-open connections.
    SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// A proxy sends its header at once.
const INTRODUCTION_DEADLINE: Duration = Duration::from_secs(5);
/// A handshake takes two round trips; the rest is patience with a phone on a bad network.
const TLS_DEADLINE: Duration = Duration::from_secs(10);
/// For a request head to arrive, and for an idle connection to send its next one: clients without a WebSocket answer
/// our pings, one every ten seconds, on the same connection.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(15);
/// How long a connection that is not upgraded takes requests: the page has a few hundred KiB to load.
pub(super) const REQUESTS_LIFE: Duration = Duration::from_secs(120);
/// After that, and after a stop, for the answer that is under way. Polls and event streams end by themselves first.
pub(super) const LAST_ANSWER: Duration = Duration::from_secs(2);
/// hyper's smallest permitted buffer; a browser's request head has about 1 KiB.
pub(super) const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
/// Twice the largest frame; the kernel doubles it for its own bookkeeping.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
const BACKLOG: i32 = 1024;
/// Many times what a handshake takes on a busy machine.
const CROWD_PATIENCE: Duration = Duration::from_millis(100);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections for tests of what is done with them.
#[cfg(test)]
pub(super) mod testing {
    use arc_swap::ArcSwap;
    use axum::routing::{MethodRouter, get};

    use super::{super::admission::ConnectionLimits, *};
    use crate::{
        config::{Config, Settings},
        rules::Rules,
    };

    /// Answers after a while.
    pub(in super::super) fn route(answer_after: Duration, long: bool) -> MethodRouter {
        get(move |axum::Extension(info): axum::Extension<ConnectionInfo>| async move {
            let _under_way = long.then(|| info.long_answers.begin());
            sleep(answer_after).await;
            "at last"
        })
    }

    /// A listener with this one route, and a connection of it.
    pub(in super::super) fn connection(route: MethodRouter) -> (Listener, ConnectionInfo) {
        let settings = Settings::try_from(Config::default()).expect("the defaults are good");
        let listener = Listener {
            rules: Arc::new(ArcSwap::from_pointee(Rules::new(&settings))),
            routes: Router::new().route("/", route),
            tls: None,
            admission: Admission::new(ConnectionLimits::default()),
            metrics: Arc::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        let here = "192.0.2.1".parse().expect("an address");
        let admitted = listener.admission.count(Some(here), InTotal::OneMore).expect("admitted");
        let info = ConnectionInfo {
            scheme: Scheme::Http,
            admitted: Arc::new(admitted),
            long_answers: LongAnswers::default(),
            proxy: None,
            bodies: None,
        };
        (listener, info)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_stands_for_as_long_as_a_long_answer_takes_and_no_longer() {
        for (long, arrives) in [(true, true), (false, false)] {
            let start = Instant::now();
            let (listener, info) = testing::connection(testing::route(10 * REQUESTS_LIFE, long));
            let (near, mut far) = tokio::io::duplex(1024);
            let task = tokio::spawn(listener.requests(near, info));
            far.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("writes");
            let mut answer = String::new();
            far.read_to_string(&mut answer).await.expect("reads");
            task.await.expect("no panic");
            assert_eq!(answer.ends_with("at last"), arrives, "{answer:?}");
            let took = if arrives { 10 * REQUESTS_LIFE } else { REQUESTS_LIFE + LAST_ANSWER };
            assert_eq!(start.elapsed().as_secs(), took.as_secs());
        }
    }
}
