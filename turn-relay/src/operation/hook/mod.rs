//! Calls to programs of the operator's over HTTP: JSON in a signed POST.
//!
//! Refuses to do: following redirects, plain HTTP across a network that others share, unbounded answers or waits.

mod delivery;

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use sha2::{Digest as _, Sha256};

use super::StartError;
pub use delivery::{Delivery, Events, Outcomes, queue};

/// Where a hook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookUrl(Url);

impl HookUrl {
    /// `https`, or `http` to this machine or an address of a private network: what the hook hears are names and habits of
    /// users, and what it says lets them in.
    ///
    /// # Errors
    /// One line that names `key`.
    pub fn parse(key: &str, text: &str) -> Result<Self, StartError> {
        let refused = |why: &str| Err(StartError::new(format!("{key}: {text:?} {why}")));
        let Ok(url) = Url::parse(text) else { return refused("is not a URL; write https://host/path") };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(StartError::new(format!(
                "{key}: a URL with a password in it is refused; requests are signed with hook_secret_file"
            )));
        }
        match url.scheme() {
            "https" if url.host().is_some() => Ok(Self(url)),
            "http" if is_near(&url) => Ok(Self(url)),
            "http" => refused("is plain HTTP to another machine; use https, or a private address"),
            _ => refused("is not a URL of a web server; write https://host/path"),
        }
    }
}

/// Whether a URL leads to this machine or to a literal address of a private network.
fn is_near(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match ip {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
        Ok(IpAddr::V6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Err(_) => host == "localhost",
    }
}

/// The secret that requests to hooks are signed with, as keyed HMAC-SHA256 state.
#[derive(Clone)]
pub struct HookSecret {
    keyed: Hmac<Sha256>,
    /// Tells one secret from another at a reload.
    digest: [u8; 32],
}

impl PartialEq for HookSecret {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl std::fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HookSecret(..)")
    }
}

impl HookSecret {
    /// The line of a file.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        let keyed = Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
        Self { keyed, digest: Sha256::digest(secret).into() }
    }

    /// The value of [`Caller::signature`]: the time, so that an old request cannot be played again, and the tag over time and body.
    fn sign(&self, wall: SystemTime, body: &[u8]) -> String {
        let time = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let mac = self.keyed.clone().chain_update(format!("{time}.")).chain_update(body);
        let tag: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("t={time},v1={tag}")
    }
}

/// One hook, ready to be called. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Hook {
    client: reqwest::Client,
    url: Url,
    secret: HookSecret,
    signature: &'static str,
}

/// How a hook knows who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// `User-Agent`.
    pub agent: &'static str,
    /// Name of the header with the time and the tag of a request, in lower case.
    pub signature: &'static str,
}

/// The wall clock as events write it: milliseconds since 1970.
#[must_use]
pub fn milliseconds(wall: SystemTime) -> u64 {
    let since = wall.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// 2xx.
    Accepted(Vec<u8>),
    /// The body is at fault (400, 410, 413, 422): calling again with the same would not help.
    Refused(u16),
    /// No connection, no answer in time, or another status. In words, without addresses.
    Failed(String),
}

impl Hook {
    /// # Errors
    /// When the system has no certificates to verify a server with.
    pub fn new(key: &str, url: &HookUrl, secret: &HookSecret, caller: Caller) -> Result<Self, StartError> {
        let client = reqwest::Client::builder()
            .user_agent(caller.agent)
            .redirect(Policy::none())
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build()
            .map_err(|error| StartError::new(format!("{key}: no HTTP client can be made: {error}")))?;
        Ok(Self { client, url: url.0.clone(), secret: secret.clone(), signature: caller.signature })
    }

    /// Posts a JSON body, signed.
    pub async fn call(&self, body: Vec<u8>) -> Called {
        let signature = self.secret.sign(SystemTime::now(), &body);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(self.signature, signature)
            .body(body);
        match request.send().await {
            Ok(response) => take(response).await,
            Err(error) => Called::Failed(in_words(error)),
        }
    }
}

async fn take(mut response: reqwest::Response) -> Called {
    let status = response.status();
    if !status.is_success() {
        // What is wrong with the body stays wrong. A wrong path or key, a gateway, a pause are put right some day.
        return match status.as_u16() {
            code @ (400 | 410 | 413 | 422) => Called::Refused(code),
            _ => Called::Failed(format!("status {status}")),
        };
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER_BYTES => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Called::Failed(format!("an answer of more than {MAX_ANSWER_BYTES} bytes")),
            Ok(None) => return Called::Accepted(body),
            Err(error) => return Called::Failed(in_words(error)),
        }
    }
}

/// The innermost cause says what happened; the outer ones repeat the URL.
fn in_words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A hook that takes longer is as good as down.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers are a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Connections kept open between calls.
const IDLE_CONNECTIONS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hook_is_https_or_near() {
        for good in [
            "https://hooks.example/usage?relay=1",
            "http://127.0.0.1:8080/x",
            "http://localhost/x",
            "http://[::1]:1/",
            "http://10.1.2.3/",
            "http://[fd00::1]/",
        ] {
            HookUrl::parse("usage_hook", good).expect(good);
        }
        for bad in [
            "http://hooks.example/",
            "http://192.0.2.1/",
            "http://localhost.example/",
            "ftp://localhost/",
            "hooks.example",
            "https://",
            "",
        ] {
            let refused = HookUrl::parse("usage_hook", bad).expect_err(bad).to_string();
            assert!(refused.starts_with("usage_hook: ") && refused.contains(bad), "{refused}");
        }
        let refused =
            HookUrl::parse("usage_hook", "https://me:hunter2@x/").expect_err("a password").to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
    }

    #[test]
    fn signature_is_what_openssl_computes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of the hook'
        let secret = HookSecret::new("a secret of the hook");
        let wall = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let expected = "t=1700000000,v1=13129baa1dc366fdab6a66bd063843d7b15e42e622a30878a6a73eea7ec9a83a";
        assert_eq!(secret.sign(wall, br#"{"a":1}"#), expected);
        assert!(!format!("{secret:?}").contains("hook s"));
    }
}
