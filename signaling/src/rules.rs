//! What holds for connections that begin now. A reload exchanges it as a whole; a connection that has begun keeps what it began with.

use std::{net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::{
    config::Settings,
    hub::Limits,
    origin::{Gate, Origin},
    outbox::OutboxLimits,
    server::{OUTBOX_EXTRA_BYTES, OUTBOX_EXTRA_FRAMES},
    transport::forwarded::Forwarding,
};

/// The rules of one configuration.
pub(crate) struct Rules {
    /// Which names and pages are admitted.
    pub(crate) gate: Gate,
    /// Whose word counts about a client's address.
    pub(crate) forwarding: Arc<Forwarding>,
    /// Whose connections begin with a PROXY header.
    introducers: Vec<IpNet>,
    /// Where clients are sent while the server drains.
    pub(crate) elsewhere: Option<Origin>,
    pub(crate) outbox: OutboxLimits,
}

/// The rules that hold now, as everybody sees them.
pub(crate) type CurrentRules = Arc<ArcSwap<Rules>>;

impl Rules {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            gate: Gate::new(settings.public.clone(), settings.allowed.clone()),
            forwarding: Arc::new(settings.forwarding.clone()),
            introducers: settings.introducers.clone(),
            elsewhere: settings.drain.url.clone(),
            outbox: outbox(&settings.limits),
        }
    }

    /// Whether connections from this address begin with a PROXY header.
    pub(crate) fn introduces(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.introducers.iter().any(|proxy| proxy.contains(&ip))
    }
}

fn outbox(limits: &Limits) -> OutboxLimits {
    OutboxLimits {
        frames: limits.replay_messages + OUTBOX_EXTRA_FRAMES,
        bytes: limits.replay_bytes + OUTBOX_EXTRA_BYTES,
    }
}
