//! Descriptors that the process was started with, as systemd hands sockets over.

#![expect(unsafe_code, reason = "a number becomes an owned descriptor")]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes what `LISTEN_FDS` announces for this process, with the names of `LISTEN_FDNAMES`, in order. Only the first call gets
/// them.
///
/// # Errors
/// When the variables contradict themselves or name what is no open descriptor.
pub(crate) fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    // Each of the numbers was found open by the library, which marks it close-on-exec.
    let announced = sd_notify::listen_fds_with_names()?;
    // SAFETY: whoever set the variables for this process id gave these descriptors to this process and to nobody in it; the
    // flag above lets them be taken once.
    Ok(announced.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}
