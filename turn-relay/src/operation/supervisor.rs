//! What systemd, or whatever else set `NOTIFY_SOCKET`, is told about this process: ready, reloading, stopping, alive, and which
//! sockets it shall keep for the next one. Without a supervisor nothing happens.
//!
//! A message that cannot be delivered is logged at debug level and changes nothing: the supervisor has its own deadlines.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

/// The service is up (again, after [`reloading`]).
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends that, whether it was good or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the supervisor was not told of a reload: {error}"),
    }
}

/// The service is on its way down; `status` says to the operator what it still waits for.
pub fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Every worker has answered.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// Within which time the supervisor wants to hear [`alive`], if it does.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// Whether there is anybody to keep sockets.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Lets the supervisor keep a copy of a socket for the process that comes after this one (`FileDescriptorStoreMax=`).
pub(crate) fn store(name: &str, socket: &OwnedFd) {
    let states = [NotifyState::FdStore, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify_with_fds(&states, &[socket.as_fd()]) {
        tracing::debug!("the supervisor did not take {name}: {error}");
    }
}

/// Lets the supervisor close what it keeps under that name.
pub(crate) fn forget(name: &str) {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the supervisor was not told: {error}");
    }
}
