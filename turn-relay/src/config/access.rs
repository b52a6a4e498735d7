//! Who may use the relay, and whom they may reach through it.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::credentials::{
    Credential, MAX_REALM_BYTES, MAX_SERVER_NAME_BYTES, PasswordAlgorithm, PasswordDigest, Secret,
    ThirdParty, TokenKey,
};
use crate::operation::StartError;

pub(super) fn realm(written: Option<&str>) -> Result<String, StartError> {
    let realm = written.unwrap_or(DEFAULT_REALM);
    // Quotes and control characters survive neither a client's quoting nor a log line.
    if realm.is_empty() || realm.len() > MAX_REALM_BYTES || realm.chars().any(|c| c.is_control() || c == '"')
    {
        return Err(StartError::new(format!(
            "realm: {realm:?} must be 1 to {MAX_REALM_BYTES} bytes without quotes; use your domain name"
        )));
    }
    Ok(realm.to_owned())
}

pub(super) fn users(written: &[String]) -> Result<Vec<Credential>, StartError> {
    let mut users: Vec<Credential> = Vec::new();
    for text in written {
        // The value is a password: it is never repeated in the message.
        let Some((username, password)) =
            text.split_once(':').filter(|(name, word)| !name.is_empty() && !word.is_empty())
        else {
            return Err(StartError::new("user: an entry is not NAME:PASSWORD with both parts present"));
        };
        // RFC 8489 section 14.3: USERNAME is shorter than 509 bytes.
        if username.len() >= 509 {
            return Err(StartError::new("user: a name is longer than 508 bytes"));
        }
        if users.iter().any(|user| user.username == username) {
            return Err(StartError::new(format!("user: {username:?} is given twice; give it once")));
        }
        users.push(Credential { username: username.to_owned(), password: password.to_owned() });
    }
    Ok(users)
}

/// A user's name, and what its password becomes under one of the algorithms.
pub(crate) type UserKey = (String, PasswordAlgorithm, PasswordDigest);

/// Keys are as good as passwords, so no message repeats one.
pub(super) fn user_keys(written: &[String], users: &[Credential]) -> Result<Vec<UserKey>, StartError> {
    let mut keys: Vec<UserKey> = Vec::new();
    for text in written {
        let (name, algorithm, digest) = user_key(text).ok_or_else(|| {
            StartError::new(
                "user_key: an entry is neither NAME:md5: and 32 hexadecimal digits nor NAME:sha256: and 64 of them",
            )
        })?;
        if users.iter().any(|user| user.username == name) {
            return Err(StartError::new(format!(
                "user_key: {name:?} is a user with a password too; give one"
            )));
        }
        if keys.iter().any(|(other, with, _)| *other == name && *with == algorithm) {
            return Err(StartError::new(format!("user_key: {name:?} has two keys of one kind; give one")));
        }
        keys.push((name, algorithm, digest));
    }
    let has = |name: &str, algorithm| keys.iter().any(|(other, with, _)| other == name && *with == algorithm);
    let only = |here, not_there| {
        keys.iter().find(|(name, with, _)| *with == here && !has(name, not_there)).map(|(name, ..)| name)
    };
    let md5_only = only(PasswordAlgorithm::Md5, PasswordAlgorithm::Sha256);
    let sha256_only = only(PasswordAlgorithm::Sha256, PasswordAlgorithm::Md5);
    if let (Some(md5), Some(sha256)) = (md5_only, sha256_only) {
        return Err(StartError::new(format!(
            "user_key: {md5:?} has an md5 key alone and {sha256:?} a sha256 key alone: no algorithm can be offered to both"
        )));
    }
    Ok(keys)
}

fn user_key(text: &str) -> Option<UserKey> {
    let (name, key) = text.split_once(':')?;
    let (algorithm, hex) = match key.split_once(':')? {
        ("md5", hex) => (PasswordAlgorithm::Md5, hex),
        ("sha256", hex) => (PasswordAlgorithm::Sha256, hex),
        _ => return None,
    };
    let digits = hex.as_bytes().chunks(2);
    let bytes: Vec<u8> = digits.map(byte).collect::<Option<_>>()?;
    let named = !name.is_empty() && name.len() < 509;
    named.then_some(())?;
    Some((name.to_owned(), algorithm, PasswordDigest::from_stored(algorithm, &bytes)?))
}

fn byte(pair: &[u8]) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let [high, low] = *pair else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

pub(super) fn secret_file(path: Option<&Path>) -> Result<Vec<Secret>, StartError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("secret_file: cannot read {shown}: {error}")))?;
    let secrets = Secret::parse_file(&text)
        .map_err(|error| StartError::new(format!("secret_file: {shown} {error}")))?;
    warn_of_readers("secret_file", path);
    Ok(secrets)
}

/// The file of keys shared with authorization servers, and the name that tokens are sealed for: both or none.
pub(super) fn third_party(
    path: Option<&Path>,
    server_name: Option<&str>,
) -> Result<Option<ThirdParty>, StartError> {
    let (path, name) = match (path, server_name) {
        (None, None) => return Ok(None),
        (Some(path), Some(name)) => (path, name),
        (Some(_), None) => {
            return Err(StartError::new(
                "oauth_key_file: give --oauth-server-name too, the name that tokens are sealed for",
            ));
        }
        (None, Some(_)) => {
            return Err(StartError::new(
                "oauth_server_name: give --oauth-key-file too, the keys that tokens are sealed with",
            ));
        }
    };
    let visible = |c: char| c.is_ascii_graphic() && c != '"';
    if name.is_empty() || name.len() > MAX_SERVER_NAME_BYTES || !name.chars().all(visible) {
        return Err(StartError::new(format!(
            "oauth_server_name: {name:?} must be 1 to {MAX_SERVER_NAME_BYTES} visible ASCII characters, as a domain name is"
        )));
    }
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("oauth_key_file: cannot read {shown}: {error}")))?;
    let keys = TokenKey::parse_file(&text)
        .map_err(|error| StartError::new(format!("oauth_key_file: {shown} {error}")))?;
    warn_of_readers("oauth_key_file", path);
    Ok(Some(ThirdParty::new(name, keys)))
}

fn warn_of_readers(key: &str, path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        let shown = path.display();
        tracing::warn!("{key}: {shown} can be read by every user of this machine; chmod 640 it");
    }
}

/// Networks and single addresses, as written under `key`.
///
/// # Errors
/// One line that names the key and what is wrong.
pub fn networks(key: &str, written: &[String]) -> Result<Vec<IpNet>, StartError> {
    let network = |text: &String| {
        let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(network) = parsed else {
            return Err(StartError::new(format!(
                "{key}: {text:?} is not a network; write it as 10.0.0.0/8, fd00::/8 or a single address"
            )));
        };
        if network.trunc() != network {
            return Err(StartError::new(format!(
                "{key}: {text} has bits set behind its prefix; did you mean {}?",
                network.trunc()
            )));
        }
        // The policy knows addresses by their IPv4 form; in this one the entry would never apply.
        if let IpNet::V6(mapped) = network
            && let (Some(v4), Some(prefix)) =
                (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(96))
        {
            return Err(StartError::new(format!(
                "{key}: {text} is IPv4 in disguise; write it as {v4}/{prefix}"
            )));
        }
        Ok(network)
    };
    written.iter().map(network).collect()
}
pub(super) const DEFAULT_REALM: &str = "turn-relay";
