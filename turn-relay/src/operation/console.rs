//! Where admin listeners are and who may use them, as a configuration says it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::de::{Deserialize, Deserializer};

use super::access::{Access, Token};
use super::{AdminAddress, StartError};

/// `admin = "..."` is as good as `admin = ["..."]`.
///
/// # Errors
/// For what is neither.
pub fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
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

/// An address of an admin listener: `IP:PORT` or `unix:/PATH`.
///
/// # Errors
/// One line that says how to write it.
pub fn address(text: &str) -> Result<AdminAddress, StartError> {
    let Some(path) = text.strip_prefix("unix:") else {
        return text.parse().map(AdminAddress::Tcp).map_err(|_| {
            StartError::new(format!(
                "admin: {text:?} is not an address; write IP:PORT, such as 127.0.0.1:9641, or unix:/PATH"
            ))
        });
    };
    if !Path::new(path).is_absolute() {
        return Err(StartError::new(format!(
            "admin: {text:?} is not an absolute path; write it like unix:/run/turn-relay/admin.sock"
        )));
    }
    Ok(AdminAddress::Unix(path.into()))
}

/// Who may use the admin API on a port: `admin_token_file` and `admin_host`.
///
/// # Errors
/// One line that names the key.
pub fn access(token_file: Option<&Path>, hosts: &[String]) -> Result<Access, StartError> {
    let token = token_file.map(|path| secret_line("admin_token_file", path)).transpose()?;
    for name in hosts {
        // A port would never match: names are compared without it.
        if name.is_empty() || name.contains([':', '/']) {
            return Err(StartError::new(format!(
                "admin_host: {name:?} is not a name; write it without a port"
            )));
        }
    }
    Ok(Access { token: token.as_deref().map(Token::new), hosts: hosts.to_vec() })
}

/// The one line of a file that holds a token or a secret.
///
/// # Errors
/// When it cannot be read, or holds too little to be random.
pub fn secret_line(key: &str, path: &Path) -> Result<String, StartError> {
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
