//! How a request becomes a WebSocket: RFC 6455 section 4.2, and what PROTOCOL.md asks beyond it.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::upgrade::OnUpgrade;
use signaling_protocol::{AccessToken, RoomName, SUBPROTOCOL};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Answer, App, admit_client, admit_newcomer, bearer, guest, refuse};
use crate::{
    metrics::Refusal,
    origin::Origin,
    transport::{guest::Transport, listen::ConnectionInfo, websocket},
};

/// Answers a handshake, and starts the connection's task.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(own): Extension<Origin>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(room): Path<String>,
    mut request: Request,
) -> Response<Body> {
    let handshake = admit_handshake(&app, &own, &room, &request);
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (room, token, accept) = match (handshake, &upgrade) {
        (Ok(admitted), Some(_)) => admitted,
        (Ok(_), None) => return refuse_handshake(&app, Refusal::Handshake, UPGRADE_REQUIRED),
        (Err((refusal, answer)), _) => return refuse_handshake(&app, refusal, answer),
    };
    if let Some(upgrade) = upgrade {
        let guest = guest(&app, &own, &connection, room, Transport::WebSocket, token);
        app.tasks.spawn(websocket::serve(upgrade, guest));
    }
    switching_protocols(accept)
}

/// RFC 6455 section 4.2.1, and what PROTOCOL.md asks beyond it. Gives the room, the token that it shows, and the
/// `Sec-WebSocket-Accept`.
fn admit_handshake(
    app: &App,
    own: &Origin,
    room: &str,
    request: &Request,
) -> Result<(RoomName, Option<AccessToken>, String), (Refusal, Answer)> {
    let headers = request.headers();
    let wrong = |answer| Err((Refusal::Handshake, answer));
    if request.method() != Method::GET {
        return wrong((StatusCode::METHOD_NOT_ALLOWED, "a room is entered with GET\n"));
    }
    let room = admit_client(app, own, room, headers)?;
    admit_newcomer(app)?;
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
    let token = bearer(headers).map_err(|answer| (Refusal::Handshake, answer))?;
    Ok((room, token, derive_accept_key(key)))
}

fn has_token(headers: &HeaderMap, name: &header::HeaderName, fits: impl Fn(&str) -> bool) -> bool {
    let mut lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.any(|list| list.split(',').any(|token| fits(token.trim())))
}

fn refuse_handshake(app: &App, refusal: Refusal, answer: Answer) -> Response<Body> {
    let mut response = refuse(app, refusal, answer);
    if response.status() == StatusCode::UPGRADE_REQUIRED {
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
