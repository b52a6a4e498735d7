//! Certificates that an authority gives by ACME (RFC 8555): for which names, by which authority, and where they are kept.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::PathBuf,
};

use reqwest::Url;
use rustix::fs::{Access, access};
use turn_relay::operation::StartError;

use super::Config;
use crate::origin::{Host, Origin};

/// What is asked of which authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcmeRules {
    /// At least one, in lower case.
    pub(crate) domains: Vec<String>,
    /// A mail address without `mailto:`.
    pub(crate) contact: Option<String>,
    pub(crate) directory: Url,
    pub(crate) cache: PathBuf,
}

impl AcmeRules {
    /// Looks at the folder, if it is there; touches no network.
    pub(super) fn check(&self) -> Result<(), StartError> {
        let Self { cache, .. } = self;
        let refused = |why: &str| StartError::new(format!("acme_cache: {} {why}", cache.display()));
        let found = match fs::metadata(cache) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(refused(&format!("cannot be looked at: {error}"))),
        };
        if !found.is_dir() {
            return Err(refused("is no folder"));
        }
        // Private keys are kept in it, in files of any mode.
        if found.permissions().mode() & 0o077 != 0 {
            return Err(refused("is open to others; run: chmod 700 on it"));
        }
        access(cache, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|error| refused(&format!("cannot be written to: {error}")))
    }

    /// Makes the folder if it is not there.
    pub(crate) fn prepare(&self) -> Result<(), StartError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.cache).map_err(|error| {
            StartError::new(format!("acme_cache: {} cannot be made: {error}", self.cache.display()))
        })?;
        self.check()
    }

    /// In a few words, for a person.
    pub(crate) fn summary(&self) -> String {
        let authority = self.directory.host_str().unwrap_or_default();
        format!("certificate for {} from {authority}, by ACME", self.domains.join(", "))
    }
}

/// `None` if no authority is asked.
pub(super) fn rules(config: &Config, public: Option<&Origin>) -> Result<Option<AcmeRules>, StartError> {
    let Config { acme_domain, acme_cache, acme_contact, acme_directory, .. } = config;
    if acme_domain.is_empty() {
        if acme_cache.is_some() || acme_contact.is_some() || acme_directory.is_some() {
            return Err(StartError::new(
                "acme_domain: without it no certificate is asked for; give the server's name",
            ));
        }
        return Ok(None);
    }
    if config.tls.is_some() || config.tls_cert.is_some() || config.tls_key.is_some() {
        return Err(StartError::new(
            "acme_domain: a certificate comes from one place; leave it out, or tls, tls_cert and tls_key",
        ));
    }
    let domains = acme_domain.iter().map(|text| domain(text)).collect::<Result<Vec<_>, _>>()?;
    let Some(cache) = acme_cache.clone() else {
        return Err(StartError::new(
            "acme_domain: it needs acme_cache, a folder; without it each restart would ask for another certificate",
        ));
    };
    let known = public.is_some_and(|public| domains.contains(&public.host().to_string()));
    if !known {
        return Err(StartError::new(
            "acme_domain: people open the server by a name that the certificate is for; give public_url with one of them",
        ));
    }
    let contact = acme_contact.as_deref().map(contact).transpose()?;
    let directory = directory(acme_directory.as_deref().unwrap_or(LETS_ENCRYPT))?;
    Ok(Some(AcmeRules { domains, contact, directory, cache }))
}

/// A name that TLS-ALPN-01 can prove (RFC 8737 section 3: neither a wildcard nor an address).
fn domain(text: &str) -> Result<String, StartError> {
    let host = format!("https://{text}").parse::<Origin>().ok().map(|origin| origin.host().clone());
    match host {
        Some(Host::Name(name)) if *name == *text.to_ascii_lowercase() => Ok(name.into()),
        Some(_) | None => Err(StartError::new(format!(
            "acme_domain: {text:?} is no name that can be proven; write one like call.example.org, without * or a port"
        ))),
    }
}

fn contact(text: &str) -> Result<String, StartError> {
    let address = text.strip_prefix("mailto:").unwrap_or(text);
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic() && c != ',');
    match address.split_once('@') {
        Some((name, host)) if plain(name) && plain(host) => Ok(address.to_owned()),
        Some(_) | None => Err(StartError::new(format!("acme_contact: {text:?} is no mail address"))),
    }
}

fn directory(text: &str) -> Result<Url, StartError> {
    let url = text.parse::<Url>().ok().filter(|url| url.scheme() == "https" && url.host_str().is_some());
    url.ok_or_else(|| {
        StartError::new(format!("acme_directory: {text:?} is no address to trust; write https://host/path"))
    })
}

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
