//! Tells a program of the operator's who is in which room: an event when a room begins or ends, and when a peer comes or goes.
//!
//! A shard never waits: an event that finds the queue full is counted and lost. What is sent names rooms and peers, and nothing that a
//! client wrote about itself.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use prometheus_client::registry::Registry;
use serde::Serialize;
use signaling_protocol::{PeerId, RoomName, SessionId};
use turn_relay::operation::{
    StartError,
    hook::{Caller, Events, Hook, Outcomes, milliseconds, queue},
};

use crate::{
    config::Webhook,
    hub::{EndReason, Event},
};

/// One event, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct RoomEvent {
    event: Kind,
    /// Milliseconds since 1970.
    time: u64,
    room: RoomName,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<PeerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<SessionId>,
    /// How long what ended has lasted.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    RoomStarted,
    RoomEnded,
    PeerJoined,
    PeerLeft,
}

/// What the hub tells, as an event for the hook; most of it is none.
fn event_of(event: &Event, now: SystemTime) -> Option<RoomEvent> {
    let bare = |event, room: &RoomName| RoomEvent {
        event,
        time: milliseconds(now),
        room: room.clone(),
        peer: None,
        session: None,
        seconds: None,
        reason: None,
    };
    let seconds = |time: Duration| Some(time.as_secs());
    match event {
        Event::RoomStarted { room } => Some(bare(Kind::RoomStarted, room)),
        Event::RoomEnded { room, lived } => {
            Some(RoomEvent { seconds: seconds(*lived), ..bare(Kind::RoomEnded, room) })
        }
        Event::Joined { room, peer, session } => {
            Some(RoomEvent { peer: Some(*peer), session: Some(*session), ..bare(Kind::PeerJoined, room) })
        }
        Event::Left { room, peer, session, reason, lived } => Some(RoomEvent {
            peer: Some(*peer),
            session: Some(*session),
            seconds: seconds(*lived),
            reason: Some(word(*reason)),
            ..bare(Kind::PeerLeft, room)
        }),
        Event::Started { .. }
        | Event::Resumed { .. }
        | Event::Away { .. }
        | Event::Overflowed { .. }
        | Event::Ended { .. }
        | Event::TurnedAway { .. }
        | Event::Relayed { .. }
        | Event::Refused { .. } => None,
    }
}

/// How a session ended, in the log and to the hook.
pub(crate) const fn word(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Bye => "bye",
        EndReason::Expired => "expired",
        EndReason::Replaced => "replaced",
        EndReason::Kicked => "kicked",
        EndReason::TokenExpired => "token_expired",
        EndReason::Drained => "shutdown",
    }
}

/// The hook that hears of rooms now, if there is one. A reload exchanges it: what waits goes to the new one.
pub(crate) type CurrentHook = Arc<ArcSwapOption<Hook>>;

/// Where shards put what they have to tell.
#[derive(Clone)]
pub(crate) struct RoomEvents {
    hook: CurrentHook,
    queue: Events<RoomEvent>,
}

impl RoomEvents {
    /// Never waits; does nothing where there is no hook.
    pub(crate) fn tell(&self, event: &Event) {
        if self.hook.load().is_some()
            && let Some(event) = event_of(event, SystemTime::now())
        {
            self.queue.put(event);
        }
    }
}

/// A queue for the hook, and what posts from it until every [`RoomEvents`] is gone.
pub(crate) fn open(
    hook: &CurrentHook,
    registry: &mut Registry,
) -> (RoomEvents, impl Future<Output = ()> + Send + 'static) {
    let registry = registry.sub_registry_with_prefix("signaling");
    let outcomes =
        Outcomes::registered(registry, "webhook_events", "Events for the webhook by what became of them");
    let (queue, delivery) = queue("webhook", CAPACITY, outcomes);
    let current = hook.clone();
    let posting = delivery.run_with(move || current.load().as_deref().cloned());
    (RoomEvents { hook: hook.clone(), queue }, posting)
}

/// Makes the hook ready to be called, if there is one.
///
/// # Errors
/// When no HTTP client can be made: the system has no certificates.
pub(crate) fn ready(webhook: Option<&Webhook>) -> Result<Option<Arc<Hook>>, StartError> {
    let Some(Webhook { url, secret }) = webhook else { return Ok(None) };
    Hook::new("webhook", url, secret, CALLER).map(|hook| Some(Arc::new(hook)))
}

/// Who we are to the programs that we call.
pub(crate) const CALLER: Caller =
    Caller { agent: concat!("signaling/", env!("CARGO_PKG_VERSION")), signature: "signaling-signature" };
/// Some 3 MB; minutes of a server where a hundred peers come and go each second.
const CAPACITY: usize = 16_384;
