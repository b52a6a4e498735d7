//! Takes the relay from sessions that were put out of their rooms: their allocations end, and their credentials are refused until
//! they expire.
//!
//! ```text
//! shard --session--> bounded queue --> relay in this process, or the admin API of another
//! ```
//!
//! A session that merely ended keeps what it has: its media may go on, and its credentials expire by themselves.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use reqwest::{Url, redirect::Policy};
use serde::Serialize;
use signaling_protocol::SessionId;
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, warn};
use turn_relay::{admin::Operator, operation::StartError};

use crate::config::TurnAdmin;

/// Where shards put sessions. Clones are the same queue.
#[derive(Clone)]
pub(crate) struct Revoker {
    reach: CurrentReach,
    queue: mpsc::Sender<SessionId>,
}

/// What reaches into the relay now, and how long credentials hold. A reload exchanges it.
pub(crate) struct Reach {
    pub(crate) hand: Arc<Hand>,
    pub(crate) lifetime: Duration,
}

pub(crate) type CurrentReach = Arc<ArcSwap<Reach>>;

/// What reaches into the relay.
pub(crate) enum Hand {
    /// There is no relay that can be told.
    None,
    /// The relay in this process.
    Embedded(Operator),
    /// The admin API of another.
    External { client: reqwest::Client, url: Url, token: String },
}

#[derive(Serialize)]
struct Revocation<'a> {
    user: &'a str,
    seconds: u64,
}

impl Revoker {
    /// Never waits: what does not fit is said in the log.
    pub(crate) fn revoke(&self, session: SessionId) {
        let somebody = !matches!(*self.reach.load().hand, Hand::None);
        if somebody && self.queue.try_send(session).is_err() {
            warn!(%session, "too many sessions are put out at once: this one keeps the relay until its credentials expire");
        }
    }
}

impl Hand {
    /// The admin API of a relay elsewhere, if there is one.
    ///
    /// # Errors
    /// As [`Self::external`].
    pub(crate) fn of_other_relay(admin: Option<&TurnAdmin>) -> Result<Self, StartError> {
        admin.map_or(Ok(Self::None), |TurnAdmin { url, token }| Self::external(url, token))
    }

    /// The admin API at this address, which has the path of the relay's (`/v1/revocations`) below it.
    ///
    /// # Errors
    /// When no HTTP client can be made: the system has no certificates.
    fn external(url: &Url, token: &str) -> Result<Self, StartError> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("signaling/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .build()
            .map_err(|error| {
                StartError::new(format!("turn_admin_url: no HTTP client can be made: {error}"))
            })?;
        Ok(Self::External { client, url: url.clone(), token: token.to_owned() })
    }

    async fn revoke(&self, session: SessionId, time: Duration) -> Result<(), String> {
        let user = session.to_string();
        match self {
            Self::None => Ok(()),
            Self::Embedded(operator) => {
                let ended = operator.revoke(&user, time).await.map_err(|error| error.to_string())?;
                debug!(%session, ended, "the relay was taken from a session");
                Ok(())
            }
            Self::External { client, url, token } => {
                let url = url.join("v1/revocations").map_err(|error| error.to_string())?;
                let body = serde_json::to_vec(&Revocation {
                    user: &user,
                    seconds: time.as_secs().clamp(1, 2_592_000),
                })
                .map_err(|error| error.to_string())?;
                let request = client
                    .post(url)
                    .bearer_auth(token)
                    .header(reqwest::header::CONTENT_TYPE, "application/json")
                    .body(body);
                let response = request.send().await.map_err(|error| error.without_url().to_string())?;
                if response.status().is_success() {
                    Ok(())
                } else {
                    Err(format!("status {}", response.status()))
                }
            }
        }
    }
}

/// A queue, and what works it off until every [`Revoker`] is gone.
pub(crate) fn open(reach: CurrentReach) -> (Revoker, impl Future<Output = ()> + Send + 'static) {
    let (sender, queue) = mpsc::channel(WAITING);
    (Revoker { reach: reach.clone(), queue: sender }, work(reach, queue))
}

async fn work(reach: CurrentReach, mut queue: mpsc::Receiver<SessionId>) {
    while let Some(session) = queue.recv().await {
        let mut pause = FIRST_PAUSE;
        for attempt in 1..=ATTEMPTS {
            let now = reach.load_full();
            match now.hand.revoke(session, now.lifetime).await {
                Ok(()) => break,
                Err(why) if attempt == ATTEMPTS => {
                    warn!(%session, "the relay was not taken from a session that was put out: {why}");
                }
                Err(_) => {
                    sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

/// Of one call.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sessions that wait for their turn: far more than moderators put out while a relay restarts.
const WAITING: usize = 1024;
const ATTEMPTS: u32 = 5;
/// Doubled from one attempt to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        Router,
        body::Bytes,
        http::{HeaderMap, StatusCode},
        routing::post,
    };
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_session_that_was_put_out_is_revoked_at_the_other_relay_again_until_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/relay/", listener.local_addr().expect("an address"));
        let (heard, mut hears) = mpsc::unbounded_channel();
        let failures = Arc::new(Mutex::new(2));
        let answer = move |headers: HeaderMap, body: Bytes| async move {
            let authorization = headers["authorization"].to_str().expect("text").to_owned();
            heard.send((authorization, body)).expect("the test listens");
            let mut left = failures.lock().expect("not poisoned");
            if *left > 0 {
                *left -= 1;
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            StatusCode::OK
        };
        let routes = Router::new().route("/relay/v1/revocations", post(answer));
        tokio::spawn(async move { axum::serve(listener, routes).await });

        let hand = Hand::external(&url.parse().expect("a URL"), "a token of the operator").expect("a client");
        let (revoker, work) = open(reach(hand, Duration::from_secs(43_200)));
        let [first, second] = [7, 8].map(SessionId::from_bits);
        revoker.revoke(first);
        revoker.revoke(second);
        drop(revoker);
        work.await;

        let mut users = Vec::new();
        while let Ok((authorization, body)) = hears.try_recv() {
            assert_eq!(authorization, "Bearer a token of the operator");
            let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(body["seconds"], 43_200);
            users.push(body["user"].as_str().expect("text").to_owned());
        }
        let [first, second] = [first.to_string(), second.to_string()];
        assert_eq!(users, [first.clone(), first.clone(), first, second]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_left_out_and_nobody_waits() {
        let hand = Hand::external(&"http://127.0.0.1:9/".parse().expect("a URL"), "token").expect("a client");
        let (revoker, _idle) = open(reach(hand, Duration::from_secs(1)));
        for n in 0..=WAITING as u64 {
            revoker.revoke(SessionId::from_bits(n));
        }
        let (revoker, idle) = open(reach(Hand::None, Duration::from_secs(1)));
        revoker.revoke(SessionId::from_bits(0));
        drop(idle);
    }

    fn reach(hand: Hand, lifetime: Duration) -> CurrentReach {
        Arc::new(ArcSwap::from_pointee(Reach { hand: Arc::new(hand), lifetime }))
    }
}
