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
    let token = config.admin_token_file.as_deref().map(token).transpose()?;
    for name in &config.admin_host {
        // A port would never match: names are compared without it.
        if name.is_empty() || name.contains([':', '/']) {
            return Err(StartError::new(format!(
                "admin_host: {name:?} is not a name; write it without a port"
            )));
        }
    }
    Ok(Access { token, hosts: config.admin_host.clone() })
}

fn token(path: &Path) -> Result<Token, StartError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("admin_token_file: cannot read {shown}: {error}")))?;
    let token = Token::parse_file(&text, path)?;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        tracing::warn!("admin_token_file: {shown} can be read by every user of this machine; chmod 640 it");
    }
    Ok(token)
}
