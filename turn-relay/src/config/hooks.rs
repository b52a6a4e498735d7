//! Which programs of the operator's are called, and how.

use std::path::Path;
use std::time::Duration;

use super::Config;
use super::changes::keep;
use super::console::secret_line;
use crate::hook::{HookSecret, HookUrl};
use crate::operation::StartError;

/// The hooks that were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) usage: Option<UsageHook>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UsageHook {
    pub(crate) url: HookUrl,
    pub(crate) secret: HookSecret,
    /// Between two events of an allocation that goes on.
    pub(crate) interval: Option<Duration>,
}

impl Hooks {
    /// Keeps the hooks as they are, and says what a restart would change.
    pub(super) fn keep(&self, needs_restart: &mut Vec<&'static str>, new: &mut Self) {
        keep(needs_restart, "usage_hook", &self.usage, &mut new.usage);
    }
}

pub(super) fn hooks(config: &Config) -> Result<Hooks, StartError> {
    let secret = config.hook_secret_file.as_deref().map(secret).transpose()?;
    let usage = config.usage_hook.as_deref().map(|url| HookUrl::parse("usage_hook", url)).transpose()?;
    if usage.is_none() && secret.is_some() {
        return Err(StartError::new("hook_secret_file: there is no hook to use it for; give usage_hook too"));
    }
    let Some(url) = usage else {
        return match config.usage_interval {
            Some(_) => Err(StartError::new("usage_interval: there is no usage_hook that it could be for")),
            None => Ok(Hooks::default()),
        };
    };
    let secret = secret.ok_or_else(|| {
        StartError::new("usage_hook: requests must be signed; give hook_secret_file (make one with: openssl rand -hex 32)")
    })?;
    Ok(Hooks { usage: Some(UsageHook { url, secret, interval: interval(config.usage_interval)? }) })
}

fn secret(path: &Path) -> Result<HookSecret, StartError> {
    secret_line("hook_secret_file", path).map(|line| HookSecret::new(&line))
}

fn interval(written: Option<u32>) -> Result<Option<Duration>, StartError> {
    match written.unwrap_or(DEFAULT_USAGE_INTERVAL) {
        0 => Ok(None),
        seconds @ 1..=86_400 => Ok(Some(Duration::from_secs(seconds.into()))),
        seconds => {
            Err(StartError::new(format!("usage_interval: {seconds} is not between 0 and 86400 seconds")))
        }
    }
}

/// Five minutes, in seconds: what a crash loses of an account, against events per allocation.
pub(super) const DEFAULT_USAGE_INTERVAL: u32 = 300;
