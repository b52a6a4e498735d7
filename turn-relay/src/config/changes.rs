//! What a reload changes: the difference between two configurations, in words.
//!
//! Every field of [`Settings`] is named in [`Settings::changes_to`], by a pattern without `..`: a new key is either put into force
//! by a reload or said to need a restart, and never forgotten.

use std::collections::BTreeMap;

use super::Settings;
use super::access::UserKey;
use crate::credentials::{Credential, Secret};
use crate::operation::changes::{counted, keep, list, value};

/// What is different, and the settings that hold from then on.
#[derive(Debug)]
pub(crate) struct Changes {
    /// In words, one entry per key.
    pub(crate) changed: Vec<String>,
    /// Keys whose old values stay.
    pub(crate) needs_restart: Vec<&'static str>,
    /// The new settings, with the old values of `needs_restart`.
    pub(crate) new: Settings,
}

impl Settings {
    /// Compares `new` with the settings that hold now.
    pub(crate) fn changes_to(&self, mut new: Self) -> Changes {
        let mut changed = Vec::new();
        let mut needs_restart = Vec::new();
        let Self {
            listen,
            // Tells only what to do about a family that this host lacks.
            listen_is_default: _,
            relay_addresses,
            external,
            realm,
            users,
            secrets,
            allow_peers,
            deny_peers,
            ports,
            threads,
            admin,
            admin_access,
            hooks,
            log_addresses,
            limits,
            nat_discovery,
            identities,
            rules,
            user_keys,
            expire_with_credential,
            strict_channels,
            third_party,
            certificate_files,
            drain,
            mobility,
            xdp,
        } = self;
        list(&mut changed, "relay_address", relay_addresses, &new.relay_addresses, super::shown);
        list(&mut changed, "external_address", external, &new.external, ToString::to_string);
        value(&mut changed, "realm", realm, &new.realm);
        changed.extend(changed_users(users, &new.users));
        changed.extend(changed_user_keys(user_keys, &new.user_keys));
        changed.extend(changed_secrets(secrets, &new.secrets));
        value(&mut changed, "expire_with_credential", expire_with_credential, &new.expire_with_credential);
        if *third_party != new.third_party {
            changed.push("keys or name for tokens (oauth_key_file, oauth_server_name)".to_owned());
        }
        list(&mut changed, "allow_peer", allow_peers, &new.allow_peers, ToString::to_string);
        list(&mut changed, "deny_peer", deny_peers, &new.deny_peers, ToString::to_string);
        if *ports != new.ports {
            changed.push(format!("port_range is {}-{}", new.ports.first, new.ports.last));
        }
        if *limits != new.limits {
            changed.push("limits".to_owned());
        }
        if *identities != new.identities {
            changed.push("certificates".to_owned());
        }
        list(&mut changed, "proxy_protocol_from", &rules.proxies, &new.rules.proxies, ToString::to_string);
        if (rules.per_address, rules.first_message) != (new.rules.per_address, new.rules.first_message) {
            changed.push("limits of connections".to_owned());
        }
        value(&mut changed, "log_addresses", log_addresses, &new.log_addresses);
        value(&mut changed, "mobility", mobility, &new.mobility);
        value(&mut changed, "strict_channels", strict_channels, &new.strict_channels);
        if *certificate_files != new.certificate_files {
            changed.push("tls_cert and tls_key are other files".to_owned());
        }
        if *drain != new.drain {
            changed.push("alternate_server, alternate_domain or drain_deadline".to_owned());
        }
        list(&mut changed, "listen", listen, &new.listen, ToString::to_string);
        if *nat_discovery != new.nat_discovery {
            changed.push("nat_discovery".to_owned());
        }
        keep(&mut needs_restart, "threads", threads, &mut new.threads);
        keep(&mut needs_restart, "xdp", xdp, &mut new.xdp);
        keep(&mut needs_restart, "admin", admin, &mut new.admin);
        hooks.keep(&mut needs_restart, &mut new.hooks);
        if admin_access.token != new.admin_access.token {
            changed.push("admin_token_file".to_owned());
        }
        list(&mut changed, "admin_host", &admin_access.hosts, &new.admin_access.hosts, String::clone);
        Changes { changed, needs_restart, new }
    }
}

/// In numbers: names of users are personal data.
fn changed_users(old: &[Credential], new: &[Credential]) -> Option<String> {
    let passwords = |users: &[Credential]| -> BTreeMap<String, String> {
        users.iter().map(|user| (user.username.clone(), user.password.clone())).collect()
    };
    let (old, new) = (passwords(old), passwords(new));
    let added = new.keys().filter(|name| !old.contains_key(*name)).count();
    let removed = old.keys().filter(|name| !new.contains_key(*name)).count();
    let other =
        new.iter().filter(|(name, word)| old.get(*name).is_some_and(|before| before != *word)).count();
    counted("user", &[(added, "added"), (removed, "removed"), (other, "with another password")])
}

fn changed_user_keys(old: &[UserKey], new: &[UserKey]) -> Option<String> {
    let known = |key: &UserKey, keys: &[UserKey]| {
        let (name, algorithm, digest) = key;
        keys.iter().any(|(other, with, as_digest)| {
            other == name && with == algorithm && as_digest.to_hex() == digest.to_hex()
        })
    };
    let added = new.iter().filter(|key| !known(key, old)).count();
    let removed = old.iter().filter(|key| !known(key, new)).count();
    counted("user_key", &[(added, "added"), (removed, "removed")])
}

fn changed_secrets(old: &[Secret], new: &[Secret]) -> Option<String> {
    let added = new.iter().filter(|secret| !old.contains(secret)).count();
    let removed = old.iter().filter(|secret| !new.contains(secret)).count();
    counted("secret", &[(added, "added"), (removed, "removed")])
}
