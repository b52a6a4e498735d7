//! Rooms without a WebSocket: an event stream or polls for the server's frames, POST for the client's.
//!
//! Every refusal that a WebSocket would get as an `error` frame and a close comes in that form here too, so that a
//! client has one way to treat both. HTTP statuses tell what no frame can: no room, no key, no permission.
//!
//! The `Origin` is judged with every request. A page of another origin that we admit is told so (CORS); it sends no
//! cookies, and there are none.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, RequestPartsExt,
    body::{Body, Bytes},
    extract::{FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use signaling_protocol::{AccessToken, ClientFrame, CloseCode, MAX_FRAME_BYTES, MAX_HELLO_BYTES, RoomName};
use tokio::time::timeout;

use super::{Answer, App, STOPPING, TOO_MANY, admit_client, admit_newcomer, bearer, guest, refuse};
use crate::{
    assets::plain,
    metrics::Refusal,
    origin::Origin,
    transport::{
        events,
        guest::{Greeting, HELLO_DEADLINE, Transport, farewell, hello_of, hello_too_large},
        keyed::{Entry, Keyed},
        listen::ConnectionInfo,
        poll::{self, Over, Polls},
    },
};

/// A request that may speak to the room in its path.
pub(super) struct Door {
    app: Arc<App>,
    own: Origin,
    connection: ConnectionInfo,
    room: RoomName,
    /// What the request shows; a hello may show another.
    token: Option<AccessToken>,
    /// The page that asks, if one does; it was admitted.
    origin: Option<HeaderValue>,
}

impl FromRequestParts<Arc<App>> for Door {
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Response<Body>> {
        let unusable = |_| plain(StatusCode::BAD_REQUEST, "the path is not UTF-8\n");
        let Path(room) = parts.extract::<Path<String>>().await.map_err(unusable)?;
        let lost = |_| plain(StatusCode::INTERNAL_SERVER_ERROR, "the request came by no listener\n");
        let Extension(own) = parts.extract::<Extension<Origin>>().await.map_err(lost)?;
        let Extension(connection) = parts.extract::<Extension<ConnectionInfo>>().await.map_err(lost)?;
        let room = admit_client(app, &own, &room, &parts.headers)
            .map_err(|(refusal, answer)| refuse(app, refusal, answer))?;
        let token = bearer(&parts.headers).map_err(|answer| refuse(app, Refusal::Handshake, answer))?;
        let origin = parts.headers.get(header::ORIGIN).cloned();
        Ok(Self { app: app.clone(), own, connection, room, token, origin })
    }
}

/// How the server's frames reach a client that says hello here.
#[derive(Clone, Copy)]
enum Carrier {
    Events,
    Polls,
}

impl From<Carrier> for Transport {
    fn from(carrier: Carrier) -> Self {
        match carrier {
            Carrier::Events => Self::Events,
            Carrier::Polls => Self::Poll,
        }
    }
}

/// Permits the POST that a browser asks about before it sends it for a page of another origin.
pub(super) async fn preflight(door: Door) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("content-type, signaling-connection"),
    );
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    door.dress(response)
}

/// `hello` in, an event stream out.
pub(super) async fn events(door: Door, body: Body) -> Response<Body> {
    let response = door.greet(Carrier::Events, body).await;
    door.dress(response)
}

/// `hello` in, or the key of a connection and its frames; then the frames that there are.
pub(super) async fn poll(door: Door, headers: HeaderMap, body: Body) -> Response<Body> {
    let response = if headers.contains_key(CONNECTION_KEY) {
        door.poll_again(&headers, body).await.unwrap_or_else(|refused| refused)
    } else {
        door.greet(Carrier::Polls, body).await
    };
    door.dress(response)
}

/// The key of a connection and its frames.
pub(super) async fn messages(door: Door, headers: HeaderMap, body: Body) -> Response<Body> {
    let response = match door.receive(&headers, body).await {
        Ok(_keyed) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(refused) => refused,
    };
    door.dress(response)
}

impl Door {
    async fn greet(&self, carrier: Carrier, body: Body) -> Response<Body> {
        if let Err((refusal, answer)) = admit_newcomer(&self.app) {
            return self.refuse(refusal, answer);
        }
        // Before the hello: the hub tells by the number that a hello was held up behind that of a later connection.
        let conn = self.app.shards.number();
        let text = match self.read(body, MAX_HELLO_BYTES, HELLO_DEADLINE).await {
            Ok(text) => text,
            Err(Unread::Lost) => return self.refuse(Refusal::Handshake, LOST),
            Err(Unread::Late) => {
                return self.close(carrier, CloseCode::HelloTimeout, "say hello within 5 seconds".into());
            }
            Err(Unread::TooLarge) => {
                return self.close(carrier, CloseCode::TooLarge, hello_too_large());
            }
        };
        let (ack, mut hello) = match hello_of(ClientFrame::parse(&text)) {
            Ok(hello) => hello,
            Err((code, why)) => return self.close(carrier, code, why),
        };
        let counted = match self.connection.admitted.another() {
            Ok(counted) => counted,
            Err(refusal) => return self.refuse(refusal, TOO_MANY),
        };
        let guest = guest(
            &self.app,
            &self.own,
            &self.connection,
            self.room.clone(),
            carrier.into(),
            self.token.clone(),
        );
        let grant = match guest.authorize(&mut hello).await {
            Ok(grant) => grant,
            Err((code, why)) => return self.close(carrier, code, why),
        };
        self.connection.admitted.greeted();
        let Ok(attached) = guest.attach(conn, Greeting { ack, hello, grant }).await else {
            return self.refuse(Refusal::Stopping, STOPPING);
        };
        let enter = |polls: Option<Polls>| self.app.keyed.enter(self.room.clone(), attached, polls, counted);
        match carrier {
            Carrier::Events => self.stream(enter(None)),
            Carrier::Polls => {
                let (polls, waiting) = poll::polls();
                let entry = enter(Some(polls.clone()));
                self.app.tasks.spawn(poll::serve(entry, waiting, self.app.stop.clone()));
                self.answer(&polls).await.unwrap_or_else(|Over| self.refuse(Refusal::Stopping, STOPPING))
            }
        }
    }

    fn stream(&self, entry: Entry) -> Response<Body> {
        let (body, task) = events::stream(entry, self.connection.long_answers.begin());
        self.app.tasks.spawn(task);
        typed(body, EVENT_STREAM)
    }

    async fn poll_again(&self, headers: &HeaderMap, body: Body) -> Result<Response<Body>, Response<Body>> {
        let keyed = self.receive(headers, body).await?;
        let polls = keyed.polls().ok_or_else(|| self.refuse(Refusal::Handshake, NO_POLLS))?;
        self.answer(polls).await.map_err(|Over| self.refuse(Refusal::Key, NO_CONNECTION))
    }

    async fn answer(&self, polls: &Polls) -> Result<Response<Body>, Over> {
        let _under_way = self.connection.long_answers.begin();
        polls.answer().await.map(|text| typed(Body::from(text), JSON))
    }

    /// Hands the frames of a body to the connection whose key the request shows.
    async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Arc<Keyed>, Response<Body>> {
        let keyed = headers
            .get(CONNECTION_KEY)
            .and_then(|key| self.app.keyed.find(&self.room, key.to_str().ok()?))
            .ok_or_else(|| self.refuse(Refusal::Key, NO_CONNECTION))?;
        self.connection.admitted.greeted();
        let heard = match self.read(body, MAX_FRAME_BYTES, BODY_DEADLINE).await {
            Ok(body) => keyed.hear(&body).await,
            Err(Unread::TooLarge) => keyed.too_large(MAX_FRAME_BYTES + 1).await,
            Err(Unread::Late | Unread::Lost) => return Err(self.refuse(Refusal::Handshake, LOST)),
        };
        heard.map_err(|_stopped| self.refuse(Refusal::Stopping, STOPPING))?;
        Ok(keyed)
    }

    /// Reads a body of at most this size, when it is its turn.
    async fn read(&self, body: Body, most: usize, deadline: Duration) -> Result<Bytes, Unread> {
        let read = async {
            let _turn = match &self.connection.bodies {
                Some(bodies) => Some(bodies.acquire().await),
                None => None,
            };
            Limited::new(body, most).collect().await
        };
        match timeout(deadline, read).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
            Ok(Err(_)) => Err(Unread::Lost),
            Err(_elapsed) => Err(Unread::Late),
        }
    }

    /// Refuses a hello in the form in which its connection would have been closed.
    fn close(&self, carrier: Carrier, code: CloseCode, why: String) -> Response<Body> {
        self.app.metrics.closed(Some(code));
        let frame = farewell(code, why);
        match carrier {
            Carrier::Events => typed(events::refusal(frame.as_ref(), code), EVENT_STREAM),
            Carrier::Polls => typed(Body::from(poll::refusal(frame.as_ref(), code)), JSON),
        }
    }

    fn refuse(&self, refusal: Refusal, answer: Answer) -> Response<Body> {
        refuse(&self.app, refusal, answer)
    }

    /// Headers that every answer has: for the page that asked, and against whatever stores or holds back.
    fn dress(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        // nginx, and what is built on it, else collects an answer before it hands it on.
        headers.insert(header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        if let Some(origin) = &self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        }
        response
    }
}

/// Why there is no body.
enum Unread {
    TooLarge,
    Late,
    Lost,
}

fn typed(body: Body, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Not `Authorization`: a proxy may ask for a password by that one, and a browser then sends it with every request.
const CONNECTION_KEY: &str = "signaling-connection";
const EVENT_STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";
/// For a body of 64 KiB over a bad network.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

const LOST: Answer = (StatusCode::REQUEST_TIMEOUT, "the request has no body, or it did not arrive in time\n");
const NO_POLLS: Answer = (StatusCode::CONFLICT, "this connection is an event stream: it is not polled\n");
const NO_CONNECTION: Answer = (
    StatusCode::NOT_FOUND,
    "no connection of this room has this key (any more): say hello again, with the resume token\n",
);
