//! The shape of a JSON API on an admin listener: who is let in, how bodies and queries are read, what a mistake is answered with.
//!
//! Nothing here knows what the API is about. Bodies and pages are bounded, and a key that is not known is refused: a mistyped one
//! would be an order that was never given.

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::access::{Door, guard};
use super::problem::Problem;

/// Puts the guard in front of an API's routes, and answers what is none of them.
pub fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>, door: Door) -> Router<S> {
    routes
        .fallback(|| async { Problem::not_found("there is no such route; see ADMIN.md") })
        .method_not_allowed_fallback(|| async {
            let message = "the route knows other methods; see ADMIN.md";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(door, guard))
}

/// A query as axum read it; [`queried`] says what is wrong with it.
pub type Queried<T> = Result<Query<T>, QueryRejection>;

/// A query without parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// What a query says.
///
/// # Errors
/// Names the parameter.
pub fn queried<T>(query: Queried<T>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|refused| Problem::bad_request(refused.body_text()))
}

/// What a JSON body says.
///
/// # Errors
/// Names the key, or the size.
pub fn parsed<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, Problem> {
    let body = body.map_err(|refused| {
        let message = format!("the body is longer than {MAX_BODY_BYTES} bytes, or broke off");
        Problem::new(refused.status(), "bad_body", message)
    })?;
    serde_json::from_slice(&body).map_err(|error| Problem::bad_request(format!("the body: {error}")))
}

/// How much a page holds.
///
/// # Errors
/// When that is nothing, or more than [`MAX_LIMIT`].
pub fn bounded(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit: 1 to {MAX_LIMIT}"))),
    }
}

/// Longest body: some text that an operator writes.
const MAX_BODY_BYTES: usize = 16 * 1024;
const DEFAULT_LIMIT: usize = 100;
/// The most that a page holds: an answer of some 300 KB.
pub const MAX_LIMIT: usize = 1000;
