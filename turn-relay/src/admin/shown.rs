//! An allocation as the API shows it.

use std::net::SocketAddr;

use serde::Serialize;

use super::operator::Cursor;
use crate::relay::{AllocationView, WorkerIndex};

#[derive(Debug, Serialize)]
pub(super) struct ShownAllocation {
    id: String,
    user: Box<str>,
    transport: &'static str,
    client: SocketAddr,
    relayed: SocketAddr,
    /// The IPv6 address of a dual allocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    relayed_additional: Option<SocketAddr>,
    worker: u16,
    /// How long it has stood.
    seconds: u64,
    /// How long it will stand if nobody refreshes it.
    expires_in: u64,
    to_peer_bytes: u64,
    to_peer_packets: u64,
    to_client_bytes: u64,
    to_client_packets: u64,
}

impl From<(WorkerIndex, AllocationView)> for ShownAllocation {
    fn from((worker, view): (WorkerIndex, AllocationView)) -> Self {
        Self {
            id: view.id.to_string(),
            user: view.username,
            transport: view.client.transport.label(),
            client: view.client.client.0,
            relayed: view.relayed,
            relayed_additional: view.additional,
            worker: worker.0,
            seconds: view.age.as_secs(),
            expires_in: view.expires_in.as_secs(),
            to_peer_bytes: view.traffic.to_peer_bytes,
            to_peer_packets: view.traffic.to_peer_packets,
            to_client_bytes: view.traffic.to_client_bytes,
            to_client_packets: view.traffic.to_client_packets,
        }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.worker, self.place)
    }
}

/// Not what an earlier page said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoCursor;

impl std::str::FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (worker, place) = text.split_once('-').ok_or(NoCursor)?;
        let number = |text: &str| text.parse().map_err(|_| NoCursor);
        Ok(Self { worker: number(worker)?, place: number(place)? })
    }
}
