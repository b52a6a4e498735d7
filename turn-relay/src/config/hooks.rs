//! Which programs of the operator's are called, and how.

use std::path::Path;
use std::time::Duration;

use super::Config;
use crate::operation::StartError;
use crate::operation::changes::keep;
use crate::operation::console::secret_line;
use crate::operation::hook::{HookSecret, HookUrl};

/// The hooks that were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) usage: Option<UsageHook>,
    pub(crate) auth: Option<AuthHook>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UsageHook {
    pub(crate) url: HookUrl,
    pub(crate) secret: HookSecret,
    /// Between two events of an allocation that goes on.
    pub(crate) interval: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AuthHook {
    pub(crate) url: HookUrl,
    pub(crate) secret: HookSecret,
    /// The longest that an answer is remembered.
    pub(crate) keep: Duration,
}

impl Hooks {
    /// Keeps the hooks as they are, and says what a restart would change.
    pub(super) fn keep(&self, needs_restart: &mut Vec<&'static str>, new: &mut Self) {
        keep(needs_restart, "usage_hook", &self.usage, &mut new.usage);
        keep(needs_restart, "auth_hook", &self.auth, &mut new.auth);
    }
}

pub(super) fn hooks(config: &Config) -> Result<Hooks, StartError> {
    let secret = config.hook_secret_file.as_deref().map(secret).transpose()?;
    if config.usage_hook.is_none() && config.auth_hook.is_none() && secret.is_some() {
        return Err(StartError::new(
            "hook_secret_file: there is no hook to use it for; give usage_hook or auth_hook too",
        ));
    }
    if config.usage_hook.is_none() && config.usage_interval.is_some() {
        return Err(StartError::new("usage_interval: there is no usage_hook that it could be for"));
    }
    if config.auth_hook.is_none() && config.auth_cache.is_some() {
        return Err(StartError::new("auth_cache: there is no auth_hook that it could be for"));
    }
    let (usage, auth) = (
        target("usage_hook", config.usage_hook.as_deref(), secret.as_ref())?,
        target("auth_hook", config.auth_hook.as_deref(), secret.as_ref())?,
    );
    let (interval, keep) = (interval(config.usage_interval)?, keep_for(config.auth_cache)?);
    Ok(Hooks {
        usage: usage.map(|(url, secret)| UsageHook { url, secret, interval }),
        auth: auth.map(|(url, secret)| AuthHook { url, secret, keep }),
    })
}

/// Where a hook is and what signs for it.
fn target(
    key: &str,
    url: Option<&str>,
    secret: Option<&HookSecret>,
) -> Result<Option<(HookUrl, HookSecret)>, StartError> {
    let Some(url) = url else { return Ok(None) };
    let url = HookUrl::parse(key, url)?;
    let unsigned = || {
        StartError::new(format!(
            "{key}: requests must be signed; give hook_secret_file (make one with: openssl rand -hex 32)"
        ))
    };
    Ok(Some((url, secret.ok_or_else(unsigned)?.clone())))
}

fn keep_for(written: Option<u32>) -> Result<Duration, StartError> {
    match written.unwrap_or(DEFAULT_AUTH_CACHE) {
        seconds @ 0..=86_400 => Ok(Duration::from_secs(seconds.into())),
        seconds => Err(StartError::new(format!("auth_cache: {seconds} is not between 0 and 86400 seconds"))),
    }
}

/// Five minutes, in seconds: how long a user that was locked out may still begin an allocation.
const DEFAULT_AUTH_CACHE: u32 = 300;

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
const DEFAULT_USAGE_INTERVAL: u32 = 300;
