//! The limit on open descriptors: every allocation needs one socket.

#![expect(unsafe_code, reason = "getrlimit and setrlimit have no safe wrapper here")]

use std::io;

/// Raises the soft limit to the hard one and tells the limit that now holds.
///
/// # Errors
/// When the operating system refuses; the old limit then stays in force.
pub(crate) fn raise_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit that outlives the call, which writes nothing else.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid rlimit that outlives the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    #[test]
    fn raising_twice_gives_the_same_limit() {
        let first = super::raise_limit().expect("a process may use its hard limit");
        assert!(first > 0);
        assert_eq!(super::raise_limit().expect("a process may use its hard limit"), first);
    }
}
