//! What a reload changes, in words: one entry per key, for a person.

use std::fmt;

use super::{StartError, supervisor};

/// Reads and applies a new configuration by `change`, tells the supervisor meanwhile, and says in one log line what came of it.
///
/// # Errors
/// Those of `change`, which has changed nothing then.
pub fn reload<T: fmt::Display>(change: impl FnOnce() -> Result<T, StartError>) -> Result<T, StartError> {
    supervisor::reloading();
    let reloaded = change();
    supervisor::ready();
    match &reloaded {
        Ok(reloaded) => tracing::info!("reloaded: {reloaded}"),
        Err(error) => tracing::error!("not reloaded, everything stays as it was: {error}"),
    }
    reloaded
}

/// Sums up: what changed, then what would need a restart.
///
/// # Errors
/// Those of the formatter.
pub fn summary(f: &mut fmt::Formatter<'_>, changed: &[String], needs_restart: &[&str]) -> fmt::Result {
    if changed.is_empty() {
        f.write_str("nothing has changed")?;
    } else {
        f.write_str(&changed.join("; "))?;
    }
    if !needs_restart.is_empty() {
        write!(f, "; needs a restart: {}", needs_restart.join(", "))?;
    }
    Ok(())
}

/// Tells a value that is another one.
pub fn value<T: PartialEq + fmt::Display>(changed: &mut Vec<String>, key: &str, old: &T, new: &T) {
    if old != new {
        changed.push(format!("{key} is {new}"));
    }
}

/// Keeps the old value, and says that a restart would take the new one.
pub fn keep<T: PartialEq + Clone>(
    needs_restart: &mut Vec<&'static str>,
    key: &'static str,
    old: &T,
    new: &mut T,
) {
    if old != new {
        needs_restart.push(key);
        new.clone_from(old);
    }
}

/// Tells what was added to a list and what was taken out.
pub fn list<T: PartialEq>(
    changed: &mut Vec<String>,
    key: &str,
    old: &[T],
    new: &[T],
    shown: impl Fn(&T) -> String,
) {
    let with = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+{}", shown(item)));
    let without = old.iter().filter(|item| !new.contains(item)).map(|item| format!("-{}", shown(item)));
    let items: Vec<String> = with.chain(without).collect();
    if !items.is_empty() {
        changed.push(format!("{key} {}", items.join(" ")));
    }
}

/// Tells how many were added, taken out and so on, if any were: names and secrets are nobody's business.
pub fn counted(key: &str, counts: &[(usize, &str)]) -> Option<String> {
    let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}"));
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| format!("{key}: {}", words.join(", ")))
}
