//! What the operator hears and may do: the admin listener, the webhook, the collector, the log.

use reqwest::Url;
use turn_relay::operation::{
    AdminAddress, StartError,
    access::Access,
    console,
    hook::{HookSecret, HookUrl},
    telemetry,
};

use super::Config;

/// Where the admin listener is, and who may use it.
#[derive(Clone, Debug)]
pub(crate) struct AdminRules {
    /// `None`: there is none.
    pub(crate) address: Option<AdminAddress>,
    pub(crate) access: Access,
}

/// What hears about rooms and peers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Webhook {
    pub(crate) url: HookUrl,
    pub(crate) secret: HookSecret,
}

/// How is logged. It has been checked; a start of the log takes the same texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) level: Option<String>,
    pub(crate) format: Option<String>,
}

impl Log {
    /// The level that holds.
    pub(crate) fn level(&self) -> &str {
        self.level.as_deref().unwrap_or("info")
    }
}

pub(super) fn admin(config: &Config) -> Result<AdminRules, StartError> {
    let address = match config.admin.as_deref().unwrap_or(DEFAULT_ADMIN) {
        "off" => None,
        given => Some(console::address(given)?),
    };
    let access = console::access(config.admin_token_file.as_deref(), &config.admin_host)?;
    if address.is_none() && access.token.is_some() {
        return Err(StartError::new(
            "admin_token_file: with admin = \"off\" there is nothing that it would open",
        ));
    }
    Ok(AdminRules { address, access })
}

pub(super) fn webhook(config: &Config) -> Result<Option<Webhook>, StartError> {
    let secret = config.webhook_secret_file.as_deref();
    match (config.webhook.as_deref(), secret) {
        (None, None) => Ok(None),
        (Some(url), Some(file)) => Ok(Some(Webhook {
            url: HookUrl::parse("webhook", url)?,
            secret: HookSecret::new(&console::secret_line("webhook_secret_file", file)?),
        })),
        (Some(_), None) => Err(StartError::new(
            "webhook: requests must be signed; give webhook_secret_file (make one with: openssl rand -hex 32)",
        )),
        (None, Some(_)) => {
            Err(StartError::new("webhook_secret_file: there is no webhook that it could be for"))
        }
    }
}

pub(super) fn otlp(config: &Config) -> Result<Option<Url>, StartError> {
    let Some(text) = config.otlp_endpoint.as_deref() else { return Ok(None) };
    if !cfg!(feature = "otel") {
        return Err(StartError::new(
            "otlp_endpoint: this signaling was built without it; build with cargo build --release -p signaling --features otel",
        ));
    }
    let is_bare = |url: &Url| url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let url = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https") && is_bare(url));
    // The text may hold a password.
    let refused = "otlp_endpoint: not the URL of a collector; write http://host:4318 or https://host, and what it \
         wants to see besides in OTEL_EXPORTER_OTLP_HEADERS in the environment";
    url.map(Some).ok_or_else(|| StartError::new(refused))
}

pub(super) fn log(config: &Config) -> Result<Log, StartError> {
    telemetry::check(config.log_level.as_deref())?;
    Ok(Log { level: config.log_level.clone(), format: config.log_format.clone() })
}

const DEFAULT_ADMIN: &str = "127.0.0.1:8081";
