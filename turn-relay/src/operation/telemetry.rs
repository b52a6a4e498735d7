//! Logs on standard error: text for people, JSON lines for machines.
//!
//! Levels: error = we stop; warn = an operator may act; info = a user would notice; debug = a branch worth knowing;
//! trace = every packet. Network addresses, tokens and SDP never appear above debug.

use std::io::IsTerminal as _;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::operation::StartError;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One human-readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = StartError;

    fn from_str(text: &str) -> Result<Self, StartError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(StartError::new(format!(
                "log_format: {other:?} is not a format; use \"text\" or \"json\""
            ))),
        }
    }
}

/// Changes the level while the process runs. Clones are the same one.
#[derive(Clone)]
pub struct Levels(Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl std::fmt::Debug for Levels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Levels(..)")
    }
}

impl Levels {
    /// Logs at this level from now on.
    ///
    /// # Errors
    /// As [`check`]; the level stays as it was then.
    pub fn set(&self, level: Option<&str>) -> Result<(), StartError> {
        let filter = filter(level)?;
        if (self.0)(filter) { Ok(()) } else { Err(StartError::new("log_level: logging has ended")) }
    }
}

/// Starts logging for the whole process. `level` is `error`, `warn`, `info`, `debug` or `trace`, or a filter such as
/// `info,turn_relay::relay=debug`; `None` means `info`. `None` for `format` means text.
///
/// # Errors
/// When `level` or `format` cannot be read, or when logging was already started in this process.
pub fn start(format: Option<&str>, level: Option<&str>) -> Result<Levels, StartError> {
    let format = format.map_or_else(|| Ok(Format::default()), str::parse)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    let (levels, started) = match format {
        Format::Text => {
            let lines =
                lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = lines.reload_handle();
            (Levels(Arc::new(move |filter| handle.reload(filter).is_ok())), lines.finish().try_init())
        }
        Format::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            (Levels(Arc::new(move |filter| handle.reload(filter).is_ok())), lines.finish().try_init())
        }
    };
    started.map_err(|error| StartError::new(format!("logging cannot be started: {error}")))?;
    Ok(levels)
}

/// Whether [`start`] could read this level.
///
/// # Errors
/// One line that says how to write it.
pub fn check(level: Option<&str>) -> Result<(), StartError> {
    filter(level).map(|_| ())
}

fn filter(level: Option<&str>) -> Result<EnvFilter, StartError> {
    let level = level.unwrap_or("info");
    // A client may send frames that this library warns about, one line each; what is said of it in `level` counts.
    if !level.is_ascii() {
        // The library panics at some.
        return Err(StartError::new(format!(
            "log_level: {level:?} cannot be read (letters outside ASCII); use error, warn, info, debug or trace"
        )));
    }
    EnvFilter::builder().parse(format!("h2=error,{level}")).map_err(|error| {
        StartError::new(format!(
            "log_level: {level:?} cannot be read ({error}); use error, warn, info, debug or trace"
        ))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unknown_format_or_level_is_refused_by_name() {
        let refused = super::start(Some("xml"), None).expect_err("xml is no format").to_string();
        assert!(refused.contains("log_format") && refused.contains("xml"), "{refused}");
        for level in ["lo=ud=er", "  ʓ=-4z", "k[ք=-"] {
            let refused = super::start(None, Some(level)).expect_err("no such level").to_string();
            assert!(refused.contains("log_level"), "{refused}");
        }
    }
}
