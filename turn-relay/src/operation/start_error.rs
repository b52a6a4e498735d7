//! The one way a program refuses to start: one line that says what to do, and exit code 2.

use std::io::Write as _;
use std::process::ExitCode;

/// Why a program does not start. Its text is one line, meant for the person who typed the command.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{line}")]
pub struct StartError {
    line: String,
}

impl StartError {
    /// Line breaks in `text` are folded, so that what is printed stays one line.
    pub fn new(text: impl AsRef<str>) -> Self {
        let words: Vec<&str> = text.as_ref().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Self { line: words.join(" ") }
    }

    /// For a socket that could not be bound: names the address, the cause, and what to do about it.
    pub fn bind(what: &str, address: std::net::SocketAddr, error: &std::io::Error, remedy: &str) -> Self {
        let cause = match error.raw_os_error() {
            Some(libc::EADDRINUSE) => "the port is taken by another process".to_owned(),
            Some(libc::EADDRNOTAVAIL) => "this host does not have that address".to_owned(),
            Some(libc::EACCES) => "not permitted (ports below 1024 need privileges)".to_owned(),
            _ => error.to_string(),
        };
        Self::new(format!("cannot listen on {address} ({what}): {cause}; {remedy}"))
    }
}

/// Exit code for "did not start": bad flags, bad configuration, a taken port.
pub const EXIT_START: u8 = 2;

/// Prints `error: ...` as one line on standard error and gives the exit code for it.
pub fn report(error: &StartError) -> ExitCode {
    // Nobody is left to tell when standard error itself is closed.
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(EXIT_START)
}

/// Prints what was asked for (`--help`, `--print-config`) on standard output. A reader that went away is no error.
///
/// # Errors
/// When standard output cannot be written for another reason.
pub fn print(text: &str) -> Result<(), StartError> {
    match writeln!(std::io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(StartError::new(format!("cannot write to standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::StartError;

    #[test]
    fn a_start_error_is_always_one_line() {
        assert_eq!(StartError::new("first\n\n   second\n").to_string(), "first second");
    }
}
