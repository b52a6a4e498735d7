//! Who is kept out of a room: the list, and letting somebody in again.

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};
use signaling_protocol::PeerId;
use turn_relay::operation::{
    api::{Nothing, Queried, queried},
    problem::Problem,
};

use super::{
    operator::Order,
    routes::{Answer, Desk, Room, room_name},
};
use crate::hub::{BanView, KeptOut, Subject};

pub(super) async fn list(State(desk): State<Desk>, room: Room, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let name = room_name(room)?;
    let bans: Vec<Value> = desk.operator.bans(&name).await?.iter().map(shown).collect();
    Ok(Json(json!({ "room": name, "bans": bans })))
}

/// One of the two.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LiftQuery {
    peer: Option<PeerId>,
    subject: Option<String>,
}

pub(super) async fn lift(State(desk): State<Desk>, room: Room, query: Queried<LiftQuery>) -> Answer {
    let (name, query) = (room_name(room)?, queried(query)?);
    let whom = match (query.peer, query.subject.as_deref().map(Subject::new)) {
        (Some(peer), None) => KeptOut::Peer(peer),
        (None, Some(Some(subject))) => KeptOut::Subject(subject),
        (None, Some(None)) => return Err(Problem::bad_request("subject: 1 to 256 bytes")),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Problem::bad_request("say who may come in again: peer=ID or subject=NAME"));
        }
    };
    let bans = desk.operator.bans(&name).await?;
    let lifted = lifted_with(&bans, &whom);
    if lifted == 0 {
        return Err(Problem::not_found("nobody of that name is kept out of that room"));
    }
    desk.operator.order(&name, Order::Lift(whom)).await?;
    tracing::info!(lifted, "the operator lifted a ban");
    Ok(Json(json!({ "room": name, "lifted": lifted })))
}

/// How many bans end together with this one: all of the same user.
fn lifted_with(bans: &[BanView], whom: &KeptOut) -> usize {
    let subject = match whom {
        KeptOut::Subject(subject) => Some(subject),
        KeptOut::Peer(peer) => match bans.iter().find(|ban| ban.peer == Some(*peer)) {
            Some(ban) if ban.subject.is_none() => return 1,
            Some(ban) => ban.subject.as_ref(),
            None => None,
        },
    };
    bans.iter().filter(|ban| subject.is_some() && ban.subject.as_ref() == subject).count()
}

fn shown(ban: &BanView) -> Value {
    let BanView { peer, subject, name: _, remaining } = ban;
    json!({ "peer": peer, "subject": subject.as_ref().map(Subject::as_str), "seconds": remaining.as_secs() })
}
