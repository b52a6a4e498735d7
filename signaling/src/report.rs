//! What clients report about the relay, for the operator's log.
//!
//! A relay that refuses our credentials refuses every client alike, and neither this server nor a person in a call
//! would learn why. The relay's own log says it; so does ours, since the two are often not read by the same person.
//! Everything in a report is a client's word: no text of it is logged, and the log line comes at a bounded rate.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use signaling_protocol::Report;
use tracing::{debug, warn};

use crate::{metrics::Metrics, turn::IceIssuer};

/// Counts reports and logs the first of each interval.
pub(crate) struct Reports {
    /// Knows the URLs that we hand out ourselves, and therefore may name.
    ice: Arc<IceIssuer>,
    metrics: Arc<Metrics>,
    logged: Mutex<Option<Instant>>,
}

impl Reports {
    pub(crate) fn new(ice: Arc<IceIssuer>, metrics: Arc<Metrics>) -> Self {
        Self { ice, metrics, logged: Mutex::default() }
    }

    /// Takes one report of a client.
    pub(crate) fn note(&self, report: &Report) {
        let Report::TurnError { url, code } = report else {
            return debug!("a client sent a report of a kind that is not known here");
        };
        self.metrics.turn_error(*code);
        if !self.is_due() {
            return;
        }
        let server = if self.ice.names(url) { url } else { "its TURN server" };
        match code {
            401 => warn!(
                "a client could not allocate on {server}: 401 Unauthorized: does --turn-secret-file hold the secret \
                 of that server, and are both clocks right?"
            ),
            701 => warn!("a client did not reach {server} (701): is it running, and are its ports open?"),
            _ => warn!("a client could not allocate on {server}: error {code}; the relay's log says why"),
        }
    }

    fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if due {
            *logged = Some(now);
        }
        due
    }
}

/// One line tells the operator; a room full of clients would fill the log.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
