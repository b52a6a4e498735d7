//! What stands in the place of the mirror in a build without the XDP path.

use std::time::Instant;

use crate::metrics::Counters;
use crate::relay::{AllocationId, Relay, Traffic};
use crate::xdp::Driver;

/// There is none.
#[derive(Debug)]
pub(crate) enum Mirror {}

impl Mirror {
    pub(crate) fn new(driver: Driver, _relay: &mut Relay) -> Self {
        match driver {}
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match *self {}
    }

    pub(crate) fn follow(&mut self, _now: Instant, _relay: &mut Relay, _counters: &Counters) {
        match *self {}
    }

    pub(crate) fn look(&mut self, _now: Instant, _relay: &mut Relay, _counters: &Counters) {
        match *self {}
    }

    pub(crate) fn rest_of(&mut self, _id: AllocationId) -> Traffic {
        match *self {}
    }
}
