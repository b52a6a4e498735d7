//! Who may enter: which of the ways of [`crate::authority`], and what it needs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use jsonwebtoken::DecodingKey;
use reqwest::Url;
use turn_relay::operation::{
    StartError,
    changes::{counted, list},
    console::secret_line,
    hook::{Hook, HookSecret, HookUrl},
};

use super::{Config, numbers::within};
use crate::authority::{Authority, HookAuthority, KeySet, KeySource, Keys, TokenAuthority, digest_of_keys};
use crate::hub::Identity;
use crate::webhook::CALLER;

/// Who may enter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Access {
    source: Source,
    audience: Vec<String>,
    issuer: Option<String>,
    identity: Identity,
}

#[derive(Clone, PartialEq)]
enum Source {
    Open,
    Secrets(Vec<String>),
    /// Of a file the SHA-256 too: other keys under the same path are another source.
    Keys(KeySource, Option<[u8; 32]>),
    Hook {
        url: HookUrl,
        secret: HookSecret,
        keep: Duration,
    },
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Secrets(secrets) => write!(f, "Secrets({})", secrets.len()),
            Self::Keys(keys, _) => keys.fmt(f),
            Self::Hook { url, keep, .. } => write!(f, "Hook({url:?}, {keep:?})"),
        }
    }
}

impl Access {
    /// Makes ready what was asked for. Keys at a web address are fetched when the first token comes.
    pub(crate) fn open(&self) -> Result<Authority, StartError> {
        let keys = match &self.source {
            Source::Open => return Ok(Authority::Open),
            Source::Hook { url, secret, keep } => {
                let hook = Hook::new("auth_hook", url, secret, CALLER)?;
                return Ok(Authority::Hook(Box::new(HookAuthority::new(hook, *keep, self.identity))));
            }
            Source::Secrets(secrets) => {
                Keys::Secrets(secrets.iter().map(|line| DecodingKey::from_secret(line.as_bytes())).collect())
            }
            Source::Keys(source, _) => Keys::Set(
                KeySet::new(source.clone()).map_err(|why| StartError::new(format!("token_keys: {why}")))?,
            ),
        };
        let (audience, issuer) = (self.audience.clone(), self.issuer.clone());
        Ok(Authority::Tokens(Box::new(TokenAuthority { keys, audience, issuer, identity: self.identity })))
    }

    /// What is different in `new`, in words, without secrets.
    pub(super) fn changes_to(&self, new: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        let Self { source, audience, issuer, identity } = self;
        match (source, &new.source) {
            (Source::Secrets(old), Source::Secrets(new)) => {
                let added = new.iter().filter(|secret| !old.contains(secret)).count();
                let removed = old.iter().filter(|secret| !new.contains(secret)).count();
                changed.extend(counted("token_secret_file", &[(added, "added"), (removed, "removed")]));
            }
            (Source::Keys(..), Source::Keys(..)) if *source != new.source => {
                changed.push("token_keys: other keys".to_owned());
            }
            (Source::Hook { .. }, Source::Hook { .. }) if *source != new.source => {
                changed.push("auth_hook, its secret or its cache".to_owned());
            }
            (old, new_source) if *old != *new_source => {
                changed.push(format!("who enters: {}", new.summary()))
            }
            (Source::Open | Source::Secrets(_) | Source::Keys(..) | Source::Hook { .. }, _) => {}
        }
        list(&mut changed, "token_audience", audience, &new.audience, String::clone);
        if *issuer != new.issuer {
            changed.push("token_issuer".to_owned());
        }
        if *identity != new.identity {
            changed.push("identity".to_owned());
        }
        changed
    }

    /// In a few words, for a person.
    pub(crate) const fn summary(&self) -> &'static str {
        match self.source {
            Source::Open => "whoever knows the name of a room (see --token-secret-file and --token-keys)",
            Source::Secrets(_) => "with a token that was signed with the secret",
            Source::Keys(..) => "with a token that was signed with a key of the set",
            Source::Hook { .. } => "with a token that the hook knows",
        }
    }
}

pub(super) fn access(config: &Config) -> Result<Access, StartError> {
    let hook = hook(config)?;
    let source = match (&config.token_secret_file, &config.token_keys) {
        (None, None) => hook.unwrap_or(Source::Open),
        _ if hook.is_some() => {
            return Err(StartError::new(
                "auth_hook: with token_secret_file or token_keys nobody is asked; leave one of them out",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(StartError::new(
                "token_secret_file and token_keys: give one of them; a token is verified in one way only",
            ));
        }
        (Some(file), None) => Source::Secrets(secrets(file)?),
        (None, Some(keys)) => key_source(keys)?,
    };
    let (audience, issuer) = (config.token_audience.clone(), config.token_issuer.clone());
    let identity = match config.identity.as_deref() {
        None | Some("several") => Identity::Several,
        Some("replace") => Identity::Replace,
        Some("reject") => Identity::Reject,
        Some(other) => {
            return Err(StartError::new(format!(
                "identity: {other:?} is not known; write several, replace or reject"
            )));
        }
    };
    match source {
        Source::Open if !matches!(config.room_door.as_deref(), None | Some("open")) => Err(StartError::new(
            "room_door: nobody may open it where no token is asked for; give token_secret_file or token_keys too",
        )),
        Source::Open if config.identity.is_some() => Err(StartError::new(
            "identity: nobody is asked for a token, which would say who somebody is; give token_secret_file or token_keys too",
        )),
        Source::Open if !audience.is_empty() || issuer.is_some() => Err(StartError::new(
            "token_audience and token_issuer: nobody is asked for a token; give token_secret_file or token_keys too",
        )),
        Source::Hook { .. } if !audience.is_empty() || issuer.is_some() => Err(StartError::new(
            "token_audience and token_issuer: the hook reads the tokens, not this server; leave them out",
        )),
        // Whoever publishes keys signs for others too.
        Source::Keys(..) if audience.is_empty() => Err(StartError::new(
            "token_keys: it needs token_audience, or tokens that were made for other programs would open rooms",
        )),
        Source::Open | Source::Secrets(_) | Source::Keys(..) | Source::Hook { .. } => {
            Ok(Access { source, audience, issuer, identity })
        }
    }
}

/// The hook, if there is one.
fn hook(config: &Config) -> Result<Option<Source>, StartError> {
    let Some(url) = config.auth_hook.as_deref() else {
        if config.auth_hook_secret_file.is_some() {
            return Err(StartError::new("auth_hook_secret_file: there is no auth_hook that it could be for"));
        }
        return Ok(None);
    };
    let url = HookUrl::parse("auth_hook", url)?;
    let Some(file) = &config.auth_hook_secret_file else {
        return Err(StartError::new(
            "auth_hook: requests are signed; give auth_hook_secret_file (make one with: openssl rand -hex 32)",
        ));
    };
    let secret = HookSecret::new(&secret_line("auth_hook_secret_file", file)?);
    let keep = within("auth_hook_cache_seconds", config.auth_hook_cache_seconds, 10, 0..=3_600)?;
    Ok(Some(Source::Hook { url, secret, keep: Duration::from_secs(keep) }))
}

fn key_source(text: &str) -> Result<Source, StartError> {
    if !text.contains("://") {
        let path = PathBuf::from(text);
        let digest = digest_of_keys(&path).map_err(|why| StartError::new(format!("token_keys: {why}")))?;
        return Ok(Source::Keys(KeySource::File(path), Some(digest)));
    }
    let url = text.parse::<Url>().ok();
    // Whoever can change what is read on its way makes tokens.
    let safe = |url: &Url| url.scheme() == "https" || url.scheme() == "http" && is_this_machine(url);
    url.filter(safe).map(|url| Source::Keys(KeySource::Web(url), None)).ok_or_else(|| {
        StartError::new(format!(
            "token_keys: {text:?} is no address to trust keys from; write https://host/path, or the path of a file"
        ))
    })
}

fn is_this_machine(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// RFC 7518 section 3.2: a secret has at least as many bits as the hash.
fn secrets(file: &Path) -> Result<Vec<String>, StartError> {
    let refused = |why: String| StartError::new(format!("token_secret_file: {why}"));
    let text = std::fs::read_to_string(file)
        .map_err(|error| refused(format!("cannot read {}: {error}", file.display())))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    if lines.is_empty() || lines.len() > MAX_SECRETS || lines.iter().any(|line| line.len() < MIN_SECRET_BYTES)
    {
        return Err(refused(format!(
            "{} must hold 1 to {MAX_SECRETS} lines of at least {MIN_SECRET_BYTES} characters; make one with: openssl \
             rand -hex 32",
            file.display()
        )));
    }
    Ok(lines)
}

/// Two are enough to replace one by another without a gap.
const MAX_SECRETS: usize = 8;
const MIN_SECRET_BYTES: usize = 32;
