//! Calls to programs of the operator's over HTTP: usage events go out, and questions about users.
//!
//! ```text
//! worker --> bounded queue --> runtime of the admin listener --> HTTPS
//! ```
//!
//! Refuses to do: anything on a worker's thread but putting a value into a queue or leaving it out. How a hook is called is in
//! [`crate::operation::hook`].

pub(crate) mod authorization;
pub(crate) mod usage;

use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::admin::Operator;
use crate::config::Hooks;
use crate::operation::StartError;
use crate::operation::hook::{Caller, Delivery, Hook, Outcomes, queue};
use authorization::{AskQueue, Authorizer, Forget};
use usage::{UsageEvent, UsageQueue};

/// What the hooks have to do while the server runs: give it to a runtime.
#[derive(Debug, Default)]
pub struct HookWork {
    usage: Option<(Delivery<UsageEvent>, Hook)>,
    reports: Option<(Duration, Operator)>,
    auth: Option<(Authorizer, Hook)>,
}

/// Where workers put what hooks are to hear.
#[derive(Clone, Debug, Default)]
pub(crate) struct HookQueues {
    pub(crate) usage: Option<UsageQueue>,
    pub(crate) asks: Option<AskQueue>,
    /// Of what the authorization hook answered, if there is one.
    pub(crate) forget: Forget,
}

/// Makes the hooks that were asked for ready to be called.
///
/// # Errors
/// When no HTTP client can be made: the system has no certificates.
pub(crate) fn open(
    hooks: &Hooks,
    realm: &str,
    operator: &Operator,
    registry: &mut Registry,
) -> Result<(HookQueues, HookWork), StartError> {
    let (mut queues, mut work) = (HookQueues::default(), HookWork::default());
    if let Some(usage) = &hooks.usage {
        let outcomes = Outcomes::registered(registry, "usage_events", "Usage events by what became of them");
        let (events, delivery) = queue("usage_hook", usage::CAPACITY, outcomes);
        queues.usage = Some(UsageQueue(events));
        work.usage = Some((delivery, Hook::new("usage_hook", &usage.url, &usage.secret, CALLER)?));
        work.reports = usage.interval.map(|interval| (interval, operator.clone()));
    }
    if let Some(auth) = &hooks.auth {
        let (queue, authorizer) = authorization::open(realm, auth.keep, queues.forget.clone(), registry);
        queues.asks = Some(queue);
        work.auth = Some((authorizer, Hook::new("auth_hook", &auth.url, &auth.secret, CALLER)?));
    }
    Ok((queues, work))
}

impl HookWork {
    /// Works until the server has ended and everything was said.
    pub async fn run(self) {
        let said = async {
            if let Some((delivery, hook)) = self.usage {
                delivery.run(hook).await;
            }
        };
        let reports = async {
            match self.reports {
                Some((interval, operator)) => report_every(interval, operator).await,
                None => std::future::pending().await,
            }
        };
        let asked = async {
            if let Some((authorizer, hook)) = self.auth {
                authorizer.run(hook).await;
            }
        };
        let all_said = async { tokio::join!(said, asked) };
        tokio::select! {
            _ = all_said => {}
            () = reports => {}
        }
    }
}

/// Has the workers report on what stands, every so often, for as long as they answer.
async fn report_every(interval: Duration, operator: Operator) {
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    loop {
        ticks.tick().await;
        operator.report(interval / 2).await;
    }
}

/// How hooks know who calls.
const CALLER: Caller =
    Caller { agent: concat!("turn-relay/", env!("CARGO_PKG_VERSION")), signature: "turn-relay-signature" };
