//! The routes of the API. Each is described in `ADMIN.md`, and a test plays the examples there.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use super::operator::{Cursor, NotRevoked, Operator, Unanswered};
use super::shown::ShownAllocation;
use crate::operation::Readiness;
use crate::operation::access::Door;
use crate::operation::api::{Nothing, Queried, bounded, guarded, parsed, queried};
use crate::operation::problem::Problem;
use crate::relay::AllocationId;
use crate::server::{Control, Reloader, Stopping};

/// Every route with its methods: a test asks `ADMIN.md` for them.
#[cfg(test)]
pub(super) const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/numbers", &["GET"]),
    ("/v1/allocations", &["GET"]),
    ("/v1/allocations/{id}", &["GET", "DELETE"]),
    ("/v1/revocations", &["GET", "POST", "DELETE"]),
    ("/v1/reload", &["POST"]),
    ("/v1/drain", &["POST", "DELETE"]),
];

type Answer = Result<Json<serde_json::Value>, Problem>;

#[derive(Clone, Debug)]
struct Desk {
    operator: Operator,
    reloader: Reloader,
    ready: Readiness,
}

pub(super) fn api(operator: Operator, reloader: Reloader, ready: Readiness, door: Door) -> Router {
    let routes = Router::new()
        .route("/numbers", get(numbers))
        .route("/allocations", get(list))
        .route("/allocations/{id}", get(show).delete(end))
        .route("/revocations", get(revocations).post(revoke).delete(lift))
        .route("/reload", post(reload))
        .route("/drain", post(drain).delete(welcome));
    guarded(routes, door).with_state(Desk { operator, reloader, ready })
}

async fn numbers(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let mut numbers = json!(desk.operator.numbers());
    numbers["ready"] = desk.ready.is_ready().into();
    Ok(Json(numbers))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    user: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn list(State(desk): State<Desk>, query: Queried<ListQuery>) -> Answer {
    let ListQuery { user, cursor, limit } = queried(query)?;
    let cursor: Cursor = match cursor {
        Some(text) => text
            .parse()
            .map_err(|_| Problem::bad_request("cursor: take the value of \"next\" of the page before"))?,
        None => Cursor::default(),
    };
    let page = desk.operator.page(cursor, user.as_deref(), bounded(limit)?).await?;
    let allocations: Vec<ShownAllocation> = page.allocations.into_iter().map(Into::into).collect();
    let next = page.next.map(|next| next.to_string());
    Ok(Json(json!({ "allocations": allocations, "next": next })))
}

async fn show(State(desk): State<Desk>, path: Pathed<String>) -> Answer {
    let found = desk.operator.find(allocation_id(path)?).await?.ok_or_else(no_allocation)?;
    Ok(Json(json!(ShownAllocation::from(found))))
}

async fn end(State(desk): State<Desk>, path: Pathed<String>) -> Answer {
    let id = allocation_id(path)?;
    if !desk.operator.end(id).await? {
        return Err(no_allocation());
    }
    tracing::info!(allocation = %id, "the operator ended an allocation");
    Ok(Json(json!({ "ended": id.to_string() })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokedQuery {
    after: Option<String>,
    limit: Option<usize>,
}

async fn revocations(State(desk): State<Desk>, query: Queried<RevokedQuery>) -> Answer {
    let RevokedQuery { after, limit } = queried(query)?;
    let (now, limit) = (Instant::now(), bounded(limit)?);
    let page = desk.operator.revocations().page(now, after.as_deref(), limit);
    let next = (page.len() == limit).then(|| page.last().map(|(user, _)| user.clone())).flatten();
    let shown = |(user, until): &(Box<str>, Instant)| {
        let seconds = until.saturating_duration_since(now).as_secs();
        json!({ "user": user, "seconds": seconds })
    };
    Ok(Json(json!({ "revocations": page.iter().map(shown).collect::<Vec<_>>(), "next": next })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    user: String,
    seconds: Option<u64>,
}

async fn revoke(State(desk): State<Desk>, body: Result<Bytes, BytesRejection>) -> Answer {
    let RevokeBody { user, seconds } = parsed(body)?;
    let seconds = seconds.unwrap_or(DEFAULT_REVOCATION);
    // RFC 8489 section 14.3: USERNAME is shorter than 509 bytes.
    if user.is_empty() || user.len() > 508 {
        return Err(Problem::bad_request("user: a name of 1 to 508 bytes"));
    }
    if !(1..=MAX_REVOCATION).contains(&seconds) {
        return Err(Problem::bad_request(format!("seconds: 1 to {MAX_REVOCATION}")));
    }
    let ended = desk.operator.revoke(&user, Duration::from_secs(seconds)).await?;
    tracing::info!(%user, seconds, ended, "the operator revoked a user");
    Ok(Json(json!({ "user": user, "seconds": seconds, "ended": ended })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LiftQuery {
    user: String,
}

async fn lift(State(desk): State<Desk>, query: Queried<LiftQuery>) -> Answer {
    let LiftQuery { user } = queried(query)?;
    if !desk.operator.revocations().lift(Instant::now(), &user) {
        return Err(Problem::not_found("the user is not revoked"));
    }
    tracing::info!(%user, "the operator lifted a revocation");
    Ok(Json(json!({ "user": user })))
}

async fn reload(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    // Reads files and waits for the workers.
    let reloaded = tokio::task::spawn_blocking(move || desk.reloader.reload()).await;
    let Ok(reloaded) = reloaded else { return Err(broken("the reload broke off; see the log")) };
    reloaded
        .map(|reloaded| Json(json!(reloaded)))
        .map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", error.to_string()))
}

async fn drain(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let (control, ready) = (desk.reloader.control().clone(), desk.ready);
    blocking(control, move |control| control.send_elsewhere(|| ready.set(false))).await?;
    let allocations = desk.reloader.control().allocations();
    tracing::info!("the operator drains: newcomers are sent elsewhere, {allocations} allocations run on");
    Ok(Json(json!({ "ready": false, "allocations": allocations })))
}

async fn welcome(State(desk): State<Desk>, query: Queried<Nothing>) -> Answer {
    queried(query)?;
    let (control, ready) = (desk.reloader.control().clone(), desk.ready);
    blocking(control, move |control| control.welcome(|| ready.set(true))).await?;
    tracing::info!("the operator called the drain off: newcomers are welcome");
    Ok(Json(json!({ "ready": true, "allocations": desk.reloader.control().allocations() })))
}

/// Waits for the workers.
async fn blocking(
    control: Control,
    change: impl FnOnce(&Control) -> Result<(), Stopping> + Send + 'static,
) -> Result<(), Problem> {
    let changed = tokio::task::spawn_blocking(move || change(&control)).await;
    let Ok(changed) = changed else { return Err(broken("the change broke off; see the log")) };
    changed.map_err(|error| Problem::new(StatusCode::CONFLICT, "stopping", error.to_string()))
}

fn broken(message: &'static str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", message)
}

type Pathed<T> = Result<Path<T>, PathRejection>;

fn allocation_id(path: Pathed<String>) -> Result<AllocationId, Problem> {
    let Ok(Path(text)) = path else { return Err(Problem::bad_request("the path is not UTF-8")) };
    text.parse().map_err(|error: crate::relay::NoAllocationId| Problem::bad_request(error.to_string()))
}

fn no_allocation() -> Problem {
    Problem::not_found("no allocation of that id stands")
}

impl From<Unanswered> for Problem {
    fn from(error: Unanswered) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string())
    }
}

impl From<NotRevoked> for Problem {
    fn from(error: NotRevoked) -> Self {
        match error {
            NotRevoked::Unanswered(unanswered) => unanswered.into(),
            NotRevoked::TooMany(full) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "too_many_revoked", full.to_string())
            }
        }
    }
}

/// A day, in seconds: time-limited credentials usually live no longer.
const DEFAULT_REVOCATION: u64 = 86_400;
/// Thirty days, in seconds. Whoever is to stay out for longer is taken out of the configuration.
const MAX_REVOCATION: u64 = 30 * 86_400;
