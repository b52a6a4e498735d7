//! Where the admin listeners are and who may use them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::de::{Deserialize, Deserializer};

use super::Config;
use super::addresses::socket_address;
use crate::admin::{Access, Token};
use crate::operation::{AdminAddress, StartError};

/// `admin = "..."` is as good as `admin = ["..."]`.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(serde::Deserialize)]
    #[serde(untagged, expecting = "an address or a list of addresses")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

pub(super) fn addresses(written: &[String]) -> Result<Vec<AdminAddress>, StartError> {
    written.iter().map(|text| address(text)).collect()
}

fn address(text: &str) -> Result<AdminAddress, StartError> {
    let Some(path) = text.strip_prefix("unix:") else {
        return socket_address("admin", text).map(AdminAddress::Tcp);
    };
    if !Path::new(path).is_absolute() {
        return Err(StartError::new(format!(
            "admin: {text:?} is not an absolute path; write it as unix:/run/turn-relay/admin.sock"
        )));
    }
    Ok(AdminAddress::Unix(path.into()))
}

pub(super) fn access(config: &Config) -> Result<Access, StartError> {
    let token =
        config.admin_token_file.as_deref().map(|path| secret_line("admin_token_file", path)).transpose()?;
    for name in &config.admin_host {
        // A port would never match: names are compared without it.
        if name.is_empty() || name.contains([':', '/']) {
            return Err(StartError::new(format!(
                "admin_host: {name:?} is not a name; write it without a port"
            )));
        }
    }
    Ok(Access { token: token.as_deref().map(Token::new), hosts: config.admin_host.clone() })
}

/// The one line of a file that holds a token or a secret.
pub(super) fn secret_line(key: &str, path: &Path) -> Result<String, StartError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("{key}: cannot read {shown}: {error}")))?;
    let line = text.trim();
    if line.len() < MIN_SECRET_BYTES || !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(StartError::new(format!(
            "{key}: {shown} must hold one line of at least {MIN_SECRET_BYTES} visible ASCII characters; make one with: \
             openssl rand -hex 32"
        )));
    }
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        tracing::warn!("{key}: {shown} can be read by every user of this machine; chmod 640 it");
    }
    Ok(line.to_owned())
}

/// 128 random bits are 22 characters in base64; what is shorter than this is no random secret.
const MIN_SECRET_BYTES: usize = 20;
