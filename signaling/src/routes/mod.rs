//! The whole route table, and what a request must show before a route sees it.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header},
    middleware::{self, Next},
    routing::{any, post},
};
use signaling_protocol::{AccessToken, RoomName};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use turn_relay::operation::Readiness;

use crate::{
    assets::{self, plain},
    authority::CurrentAuthority,
    metrics::{Metrics, Refusal},
    origin::{HostRefusal, Origin},
    outbox::Budget,
    report::Reports,
    rules::CurrentRules,
    shard::Shards,
    transport::{
        guest::{Guest, Transport},
        keyed::KeyedConnections,
        listen::ConnectionInfo,
    },
};

mod requests;
mod websocket;

/// What the routes share.
pub(crate) struct App {
    pub(crate) rules: CurrentRules,
    /// Cleared while the server drains.
    pub(crate) ready: Readiness,
    pub(crate) authority: CurrentAuthority,
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) keyed: KeyedConnections,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Every address that this server answers.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/rooms/{room}/ws", any(websocket::upgrade))
        .route("/v1/rooms/{room}/events", post(requests::events).options(requests::preflight))
        .route("/v1/rooms/{room}/poll", post(requests::poll).options(requests::preflight))
        .route("/v1/rooms/{room}/messages", post(requests::messages).options(requests::preflight))
        .fallback(page)
        .layer(middleware::from_fn_with_state(app.clone(), admit_host))
        .with_state(app)
}

/// Refuses what a rebound DNS name sends here, and what comes from too busy a client behind a proxy; tells the routes under
/// which origin the client sees us.
async fn admit_host(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let connection = match connection.for_request(request.headers()) {
        Ok(connection) => connection,
        Err(refusal) => return refuse(&app, refusal, TOO_MANY),
    };
    request.extensions_mut().insert(connection.clone());
    match app.rules.load().gate.admit_host(connection.scheme, host(&request)) {
        Ok(own) => {
            request.extensions_mut().insert(own);
            next.run(request).await
        }
        Err(refusal) => {
            app.metrics.refused(Refusal::Host);
            match refusal {
                HostRefusal::Malformed => {
                    plain(StatusCode::BAD_REQUEST, "the request has no usable Host header\n")
                }
                HostRefusal::Unknown => plain(
                    StatusCode::MISDIRECTED_REQUEST,
                    "this server was not told that it has this name: open it by its IP address, or start it with \
                     --public-url\n",
                ),
            }
        }
    }
}

/// Whom a request is for, if it says so once. Over HTTP/2 it does by `:authority` (RFC 9113 section 8.3.1).
fn host(request: &Request) -> Option<&str> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    match (authority, hosts.next(), hosts.next()) {
        (None, Some(host), None) => host.to_str().ok(),
        (Some(authority), None, _) => Some(authority.as_str()),
        (Some(authority), Some(host), None) if host == authority.as_str() => Some(authority.as_str()),
        (_, Some(_), _) | (None, None, _) => None,
    }
}

async fn page(
    State(app): State<Arc<App>>,
    Extension(own): Extension<Origin>,
    request: Request,
) -> Response<Body> {
    let rules = app.rules.load();
    let (public, elsewhere) = (rules.gate.public(), rules.elsewhere.as_ref());
    assets::respond(request.method(), request.uri().path(), request.headers(), &own, public, elsewhere)
}

type Answer = (StatusCode, &'static str);

/// What a request that belongs to a room must show, whatever the transport.
fn admit_client(
    app: &App,
    own: &Origin,
    room: &str,
    headers: &HeaderMap,
) -> Result<RoomName, (Refusal, Answer)> {
    // All of them: a second Origin would not be what we judged.
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (origin, second) = (origins.next(), origins.next());
    if second.is_some() || !app.rules.load().gate.admits_origin(own, origin.map(HeaderValue::as_bytes)) {
        return Err((Refusal::Origin, FOREIGN_ORIGIN));
    }
    if app.stop.is_cancelled() {
        return Err((Refusal::Stopping, STOPPING));
    }
    room.parse().map_err(|_| (Refusal::Handshake, BAD_ROOM))
}

/// Refuses a new connection while the server drains, in a form that a proxy understands and takes elsewhere. Where this server
/// knows a better address it lets the client say hello and tells it (`goaway`).
fn admit_newcomer(app: &App) -> Result<(), (Refusal, Answer)> {
    if app.ready.is_ready() || app.rules.load().elsewhere.is_some() {
        Ok(())
    } else {
        Err((Refusal::Stopping, STOPPING))
    }
}

/// The token that a program may show in `Authorization` (RFC 6750 section 2.1). Other schemes are for whoever stands in front.
fn bearer(headers: &HeaderMap) -> Result<Option<AccessToken>, Answer> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| BAD_TOKEN)?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    token.trim().parse().map(Some).map_err(|_| BAD_TOKEN)
}

/// What a connection needs from the request that opens it.
fn guest(
    app: &App,
    own: &Origin,
    connection: &ConnectionInfo,
    room: RoomName,
    transport: Transport,
    token: Option<AccessToken>,
) -> Guest {
    Guest {
        room,
        host: own.host().clone(),
        transport,
        token,
        authority: app.authority.clone(),
        admitted: connection.admitted.clone(),
        carrier: None,
        shards: app.shards.clone(),
        metrics: app.metrics.clone(),
        reports: app.reports.clone(),
        outbox: app.rules.load().outbox,
        budget: app.budget.clone(),
        stop: app.stop.clone(),
    }
}

fn refuse(app: &App, refusal: Refusal, (status, line): Answer) -> Response<Body> {
    app.metrics.refused(refusal);
    plain(status, line)
}

const FOREIGN_ORIGIN: Answer = (
    StatusCode::FORBIDDEN,
    "pages of this origin may not connect: start the server with --allow-origin, or --public-url behind a proxy\n",
);
const BAD_TOKEN: Answer =
    (StatusCode::BAD_REQUEST, "a bearer token is 1 to 8192 visible ASCII characters (Authorization)\n");
const TOO_MANY: Answer =
    (StatusCode::TOO_MANY_REQUESTS, "this address, or the server, has as many connections as it may\n");
const STOPPING: Answer = (StatusCode::SERVICE_UNAVAILABLE, "this server is stopping\n");
const BAD_ROOM: Answer = (
    StatusCode::BAD_REQUEST,
    "a room name is 1 to 64 of the characters A-Z a-z 0-9 . _ ~ - (and not . or ..)\n",
);
