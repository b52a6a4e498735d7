//! The whole route table, and what a request must show before a route sees it.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header},
    middleware::{self, Next},
    routing::any,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::upgrade::OnUpgrade;
use signaling_protocol::{RoomName, SUBPROTOCOL};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    assets::{self, plain},
    metrics::{Metrics, Refusal},
    origin::{Gate, HostRefusal, Origin},
    outbox::{Budget, OutboxLimits},
    report::Reports,
    shard::Shards,
    transport::{
        listen::ConnectionInfo,
        websocket::{self, Guest},
    },
};

/// What the routes share.
pub(crate) struct App {
    pub(crate) gate: Gate,
    pub(crate) shards: Arc<Shards>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reports: Arc<Reports>,
    pub(crate) outbox: OutboxLimits,
    pub(crate) budget: Arc<Budget>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// Every address that this server answers.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/rooms/{room}/ws", any(websocket))
        .fallback(page)
        .layer(middleware::from_fn_with_state(app.clone(), admit_host))
        .with_state(app)
}

/// Refuses what a rebound DNS name sends here, and tells the routes under which origin the client sees us.
async fn admit_host(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (Some(_), Some(_)) | (None, _) => None,
    };
    match app.gate.admit_host(connection.scheme, host) {
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

async fn page(
    State(app): State<Arc<App>>,
    Extension(own): Extension<Origin>,
    request: Request,
) -> Response<Body> {
    assets::respond(request.method(), request.uri().path(), request.headers(), &own, app.gate.public())
}

async fn websocket(
    State(app): State<Arc<App>>,
    Extension(own): Extension<Origin>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(room): Path<String>,
    mut request: Request,
) -> Response<Body> {
    let handshake = admit_handshake(&app, &own, &room, &request);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (room, accept) = match (handshake, &upgrade) {
        (Ok(admitted), Some(_)) => admitted,
        (Ok(_), None) => return refuse(&app, Refusal::Handshake, UPGRADE_REQUIRED),
        (Err((refusal, answer)), _) => return refuse(&app, refusal, answer),
    };
    if let Some(upgrade) = upgrade {
        let guest = Guest {
            room,
            host: own.host().clone(),
            admitted: connection.admitted,
            shards: app.shards.clone(),
            metrics: app.metrics.clone(),
            reports: app.reports.clone(),
            outbox: app.outbox,
            budget: app.budget.clone(),
            stop: app.stop.clone(),
        };
        app.tasks.spawn(websocket::serve(upgrade, guest));
    }
    switching_protocols(accept)
}

type Answer = (StatusCode, &'static str);

/// RFC 6455 section 4.2.1, and what PROTOCOL.md asks beyond it. Gives the room and the `Sec-WebSocket-Accept`.
fn admit_handshake(
    app: &App,
    own: &Origin,
    room: &str,
    request: &Request,
) -> Result<(RoomName, String), (Refusal, Answer)> {
    let headers = request.headers();
    let wrong = |answer| Err((Refusal::Handshake, answer));
    if request.method() != Method::GET {
        return wrong((StatusCode::METHOD_NOT_ALLOWED, "a room is entered with GET\n"));
    }
    // All of them: a second Origin would not be what we judged.
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let (origin, second) = (origins.next(), origins.next());
    if second.is_some() || !app.gate.admits_origin(own, origin.map(HeaderValue::as_bytes)) {
        return Err((Refusal::Origin, FOREIGN_ORIGIN));
    }
    if app.stop.is_cancelled() {
        return Err((Refusal::Stopping, (StatusCode::SERVICE_UNAVAILABLE, "this server is stopping\n")));
    }
    let Ok(room) = room.parse::<RoomName>() else {
        return wrong((
            StatusCode::BAD_REQUEST,
            "a room name is 1 to 64 of the characters A-Z a-z 0-9 . _ ~ - (and not . or ..)\n",
        ));
    };
    let upgrades = request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, |token| token.eq_ignore_ascii_case("upgrade"))
        && has_token(headers, &header::UPGRADE, |token| token.eq_ignore_ascii_case("websocket"))
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !upgrades {
        return wrong(UPGRADE_REQUIRED);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if BASE64.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        return wrong((StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is 16 bytes in base64\n"));
    }
    if !has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, |token| token == SUBPROTOCOL) {
        return wrong((
            StatusCode::BAD_REQUEST,
            "the subprotocol signaling.v1 is required (Sec-WebSocket-Protocol)\n",
        ));
    }
    Ok((room, derive_accept_key(key)))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, fits: impl Fn(&str) -> bool) -> bool {
    let mut lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.any(|list| list.split(',').any(|token| fits(token.trim())))
}

fn refuse(app: &App, refusal: Refusal, (status, line): Answer) -> Response<Body> {
    app.metrics.refused(refusal);
    let mut response = plain(status, line);
    if status == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

fn switching_protocols(accept: String) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

const UPGRADE_REQUIRED: Answer =
    (StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket, version 13 (RFC 6455)\n");
const FOREIGN_ORIGIN: Answer = (
    StatusCode::FORBIDDEN,
    "pages of this origin may not connect: start the server with --allow-origin, or --public-url behind a proxy\n",
);
