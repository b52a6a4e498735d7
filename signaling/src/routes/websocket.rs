//! How a request becomes a WebSocket: RFC 6455 section 4.2, over HTTP/2 RFC 8441, and what PROTOCOL.md asks beyond them.

use std::sync::Arc;

use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hyper::{ext::Protocol, upgrade::OnUpgrade};
use signaling_protocol::{AccessToken, RoomName, SUBPROTOCOL};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Answer, App, TOO_MANY, admit_client, admit_newcomer, bearer, guest, refuse};
use crate::{
    metrics::Refusal,
    origin::Origin,
    transport::{
        guest::{Carrier, Transport},
        listen::ConnectionInfo,
        websocket,
    },
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
    let (room, token, opening) = match (handshake, &upgrade) {
        (Ok(admitted), Some(_)) => admitted,
        (Ok(_), None) => return refuse_handshake(&app, Refusal::Handshake, UPGRADE_REQUIRED),
        (Err((refusal, answer)), _) => return refuse_handshake(&app, refusal, answer),
    };
    let mut guest = guest(&app, &own, &connection, room, Transport::WebSocket, token);
    let counted = match opening {
        Opening::Switched(_) => connection.admitted.handshake(),
        // As many as have connections of their own.
        Opening::Connected => connection.admitted.another().map(|admitted| {
            let _stands = connection.long_answers.begin();
            guest.carrier = Some(Carrier { admitted: connection.admitted, _stands });
            guest.admitted = Arc::new(admitted);
        }),
    };
    if let Err(refusal) = counted {
        return refuse(&app, refusal, TOO_MANY);
    }
    if let Some(upgrade) = upgrade {
        app.metrics.opened(opening.http());
        app.tasks.spawn(websocket::serve(upgrade, guest));
    }
    opening.answer()
}

/// How a handshake is answered.
enum Opening {
    /// HTTP/1.1, with the `Sec-WebSocket-Accept`.
    Switched(String),
    /// HTTP/2: the stream is open.
    Connected,
}

/// RFC 6455 section 4.2.1 or RFC 8441 section 5, and what PROTOCOL.md asks beyond it. Gives the room, the token that it shows, and
/// how it is answered.
fn admit_handshake(
    app: &App,
    own: &Origin,
    room: &str,
    request: &Request,
) -> Result<(RoomName, Option<AccessToken>, Opening), (Refusal, Answer)> {
    let headers = request.headers();
    let wrong = |answer| Err((Refusal::Handshake, answer));
    let over_http2 = request.version() == Version::HTTP_2;
    if request.method() != if over_http2 { Method::CONNECT } else { Method::GET } {
        let line = "a room is entered with GET, over HTTP/2 with CONNECT\n";
        return wrong((StatusCode::METHOD_NOT_ALLOWED, line));
    }
    let room = admit_client(app, own, room, headers)?;
    admit_newcomer(app)?;
    let upgrades = if over_http2 {
        request.extensions().get::<Protocol>().is_some_and(|protocol| protocol.as_str() == "websocket")
    } else {
        request.version() == Version::HTTP_11
            && has_token(headers, &header::CONNECTION, |token| token.eq_ignore_ascii_case("upgrade"))
            && has_token(headers, &header::UPGRADE, |token| token.eq_ignore_ascii_case("websocket"))
    };
    if !upgrades || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return wrong(UPGRADE_REQUIRED);
    }
    let opening = if over_http2 { Opening::Connected } else { Opening::Switched(accept(headers)?) };
    if !has_token(headers, &header::SEC_WEBSOCKET_PROTOCOL, |token| token == SUBPROTOCOL) {
        return wrong((
            StatusCode::BAD_REQUEST,
            "the subprotocol signaling.v1 is required (Sec-WebSocket-Protocol)\n",
        ));
    }
    let token = bearer(headers).map_err(|answer| (Refusal::Handshake, answer))?;
    Ok((room, token, opening))
}

fn accept(headers: &HeaderMap) -> Result<String, (Refusal, Answer)> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if BASE64.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        let answer = (StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is 16 bytes in base64\n");
        return Err((Refusal::Handshake, answer));
    }
    Ok(derive_accept_key(key))
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

impl Opening {
    const fn http(&self) -> &'static str {
        match self {
            Self::Switched(_) => "1.1",
            Self::Connected => "2",
        }
    }

    fn answer(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        // A stream of HTTP/2 is open with the status 200.
        let Self::Switched(accept) = self else { return response };
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::try_from(accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
    }
}

const UPGRADE_REQUIRED: Answer =
    (StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket, version 13 (RFC 6455)\n");
