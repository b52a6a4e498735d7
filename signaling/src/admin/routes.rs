//! The routes of the API. Each is described in `ADMIN.md`, and a test plays the examples there.

use std::time::Duration;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        Path, State,
        rejection::{BytesRejection, PathRejection},
    },
    http::StatusCode,
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use signaling_protocol::{DisplayName, Door, MAX_BAN, Notice, NoticeText, PeerId, PeerState, RoomName};
use turn_relay::operation::{
    Readiness, access,
    api::{Nothing, Queried, bounded, guarded, parsed, queried},
    problem::Problem,
};

use super::{
    bans,
    operator::{Cursor, Operator, Order, Unanswered},
};
use crate::{
    hub::{PeerView, RoomView},
    reload::Reloader,
};

/// Every route with its methods: a test asks `ADMIN.md` for them.
#[cfg(test)]
const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/numbers", &["GET"]),
    ("/v1/rooms", &["GET"]),
    ("/v1/rooms/{room}", &["GET"]),
    ("/v1/rooms/{room}/notice", &["POST"]),
    ("/v1/rooms/{room}/door", &["POST"]),
    ("/v1/rooms/{room}/kick", &["POST"]),
    ("/v1/rooms/{room}/bans", &["GET", "DELETE"]),
    ("/v1/reload", &["POST"]),
    ("/v1/drain", &["POST", "DELETE"]),
];

pub(super) type Answer = Result<Json<Value>, Problem>;
type Body = Result<Bytes, BytesRejection>;
pub(super) type Room = Result<Path<String>, PathRejection>;

#[derive(Clone)]
pub(super) struct Desk {
    pub(super) operator: Operator,
    reloader: Reloader,
    ready: Readiness,
}

pub(super) fn api(operator: Operator, reloader: Reloader, ready: Readiness, door: access::Door) -> Router {
    let routes = Router::new()
        .route("/numbers", get(numbers))
        .route("/rooms", get(rooms))
        .route("/rooms/{room}", get(room))
        .route("/rooms/{room}/notice", post(notice))
        .route("/rooms/{room}/door", post(set_door))
        .route("/rooms/{room}/kick", post(kick))
        .route("/rooms/{room}/bans", get(bans::list).delete(bans::lift))
        .route("/reload", post(reload))
        .route("/drain", post(drain).delete(call_off_drain));
    guarded(routes, door).with_state(Desk { operator, reloader, ready })
}

async fn numbers(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let Operator { shards, metrics, since } = &desk.operator;
    Ok(Json(json!({
        "uptime_seconds": since.elapsed().as_secs(),
        "shards": shards.len(),
        "connections": metrics.connections.get(),
        "sessions": metrics.sessions.get(),
        "sessions_here": metrics.sessions_here.get(),
        "rooms": metrics.rooms.get(),
        "ready": desk.ready.is_ready(),
    })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn rooms(State(desk): State<Desk>, query: Queried<ListQuery>) -> Answer {
    let ListQuery { cursor, limit } = queried(query)?;
    let cursor = cursor.map_or_else(|| Ok(Cursor::default()), |text| cursor_of(&text))?;
    let (rooms, next) = desk.operator.rooms(cursor, bounded(limit)?).await?;
    let rooms: Vec<Value> = rooms.iter().map(shown_room).collect();
    let next = next.map(|Cursor { shard, place }| format!("{shard}-{place}"));
    Ok(Json(json!({ "rooms": rooms, "next": next })))
}

async fn room(State(desk): State<Desk>, room: Room) -> Answer {
    let (room, peers) = desk.operator.room(&room_name(room)?).await?.ok_or_else(no_room)?;
    let mut shown = shown_room(&room);
    shown["peers"] = peers.iter().map(shown_peer).collect();
    Ok(Json(shown))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeBody {
    text: NoticeText,
}

async fn notice(State(desk): State<Desk>, room: Room, body: Body) -> Answer {
    let (name, NoticeBody { text }) = (room_name(room)?, parsed(body)?);
    let (room, _) = desk.operator.room(&name).await?.ok_or_else(no_room)?;
    desk.operator.order(&name, Order::Notice(Notice { text })).await?;
    tracing::info!("the operator sent a notice to a room");
    Ok(Json(json!({ "room": name, "peers": room.peers })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DoorBody {
    door: Door,
}

async fn set_door(State(desk): State<Desk>, room: Room, body: Body) -> Answer {
    let (name, DoorBody { door }) = (room_name(room)?, parsed(body)?);
    desk.operator.room(&name).await?.ok_or_else(no_room)?;
    desk.operator.order(&name, Order::Door(door)).await?;
    tracing::info!(?door, "the operator set the door of a room");
    Ok(Json(json!({ "room": name, "door": door })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KickBody {
    peer: PeerId,
    ban_seconds: Option<u64>,
    reason: Option<DisplayName>,
}

async fn kick(State(desk): State<Desk>, room: Room, body: Body) -> Answer {
    let (name, KickBody { peer, ban_seconds, reason }) = (room_name(room)?, parsed(body)?);
    let ban = ban_seconds.map(Duration::from_secs);
    if ban.is_some_and(|ban| ban.is_zero() || ban > MAX_BAN) {
        return Err(Problem::bad_request(format!("ban_seconds: 1 to {}", MAX_BAN.as_secs())));
    }
    let found = desk.operator.room(&name).await?;
    let here = found.is_some_and(|(_, peers)| peers.iter().any(|other| other.peer == peer));
    if !here && ban.is_none() {
        return Err(Problem::not_found("there is no such peer in a room of that name"));
    }
    let reason = reason.map(|reason| reason.as_str().into());
    desk.operator.order(&name, Order::Kick { peer, ban, reason }).await?;
    tracing::info!(banned = ban.is_some(), "the operator removed a peer");
    Ok(Json(json!({ "room": name, "peer": peer, "kicked": here, "ban_seconds": ban_seconds })))
}

async fn reload(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let refused = |error: turn_relay::operation::StartError| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", error.to_string())
    };
    desk.reloader.reload().await.map(|reloaded| Json(json!(reloaded))).map_err(refused)
}

async fn drain(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let window = desk.reloader.control().send_away().await;
    let sessions = desk.operator.metrics.sessions_here.get();
    tracing::info!("the operator drains: newcomers are turned away, {sessions} clients are asked to leave");
    Ok(Json(json!({ "ready": false, "sessions_here": sessions, "seconds": window.as_secs() })))
}

async fn call_off_drain(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    if !desk.reloader.control().call_off_drain().await {
        return Err(Problem::new(StatusCode::CONFLICT, "stopping", "the server is about to end"));
    }
    tracing::info!("the operator called the drain off: newcomers are welcome");
    Ok(Json(json!({ "ready": true, "sessions_here": desk.operator.metrics.sessions_here.get() })))
}

fn shown_room(room: &RoomView) -> Value {
    let RoomView { name, door, peers, here, age } = room;
    json!({ "room": name, "door": door, "peer_count": peers, "here": here, "seconds": age.as_secs() })
}

fn shown_peer(peer: &PeerView) -> Value {
    let PeerView { peer, session, name, state, age, received, sent } = peer;
    json!({
        "peer": peer,
        "session": session,
        "name": name,
        "here": *state == PeerState::Here,
        "seconds": age.as_secs(),
        "frames_received": received,
        "frames_sent": sent,
    })
}

fn cursor_of(text: &str) -> Result<Cursor, Problem> {
    let wrong = || Problem::bad_request("cursor: take the value of \"next\" of the page before");
    let (shard, place) = text.split_once('-').ok_or_else(wrong)?;
    Ok(Cursor { shard: shard.parse().map_err(|_| wrong())?, place: place.parse().map_err(|_| wrong())? })
}

pub(super) fn room_name(room: Room) -> Result<RoomName, Problem> {
    let Ok(Path(text)) = room else { return Err(Problem::bad_request("the path is not UTF-8")) };
    text.parse().map_err(|_| Problem::bad_request("a room name is 1 to 64 of A-Z a-z 0-9 . _ ~ -"))
}

fn no_room() -> Problem {
    Problem::not_found("there is no room of that name")
}

impl From<Unanswered> for Problem {
    fn from(_: Unanswered) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "a shard does not answer; try again")
    }
}

#[cfg(test)]
mod tests {
    use super::ROUTES;

    #[test]
    fn every_route_has_its_place_on_the_page_and_nothing_else_has() {
        let headings = include_str!("../../ADMIN.md").lines().filter_map(|line| line.strip_prefix("### "));
        let mut described: Vec<String> = headings.map(str::to_owned).collect();
        let methods = |(path, methods): &(&str, &[&str])| {
            methods.iter().map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        };
        let mut routes: Vec<String> = ROUTES.iter().flat_map(methods).collect();
        described.sort();
        routes.sort();
        assert_eq!(described, routes);
    }
}
