//! What a reload changes: the difference between two configurations, in words.
//!
//! Every field of [`Settings`] is named in [`Settings::changes_to`], by a pattern without `..`: a new key is either put into force
//! by a reload or said to need a restart, and never forgotten.

use std::mem::discriminant;

use turn_relay::operation::changes::{keep, list, value};

use super::{RelayChoice, Settings, Tls};

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
        let (mut changed, mut needs_restart) = (Vec::new(), Vec::new());
        let Self {
            listen,
            admin,
            webhook,
            otlp,
            public,
            allowed,
            forwarding,
            introducers,
            access,
            tls,
            http2,
            relay,
            turn_admin,
            credential_lifetime,
            shards,
            connections,
            limits,
            drain,
            log,
        } = self;
        list(&mut changed, "allow_origin", allowed, &new.allowed, ToString::to_string);
        list(
            &mut changed,
            "forwarded_from",
            &forwarding.proxies,
            &new.forwarding.proxies,
            ToString::to_string,
        );
        list(&mut changed, "proxy_protocol_from", introducers, &new.introducers, ToString::to_string);
        if forwarding.header != new.forwarding.header {
            changed.push("forwarded_header".to_owned());
        }
        // What is said to a relay waits for the restart that takes that relay.
        let other_kind = discriminant(relay) != discriminant(&new.relay);
        changed.extend(other_relay(relay, &mut new.relay, &mut needs_restart));
        if other_kind {
            new.turn_admin.clone_from(turn_admin);
        } else if *turn_admin != new.turn_admin {
            changed.push("turn_admin_url or turn_admin_token_file".to_owned());
        }
        if *credential_lifetime != new.credential_lifetime {
            changed.push(format!("turn_credential_seconds is {}", new.credential_lifetime.as_secs()));
        }
        if *connections != new.connections {
            changed.push("limits of connections".to_owned());
        }
        if *limits != new.limits {
            changed.push("limits".to_owned());
        }
        if *drain != new.drain {
            changed.push("drain_seconds or drain_url".to_owned());
        }
        changed.extend(access.changes_to(&new.access));
        if *webhook != new.webhook {
            changed.push("webhook or webhook_secret_file".to_owned());
        }
        if admin.access.token != new.admin.access.token {
            changed.push("admin_token_file".to_owned());
        }
        list(&mut changed, "admin_host", &admin.access.hosts, &new.admin.access.hosts, String::clone);
        value(&mut changed, "log_level", &log.level(), &new.log.level());
        match (tls, &new.tls) {
            (Tls::Files { .. }, Tls::Files { .. }) if *tls != new.tls => {
                changed.push("tls_cert and tls_key are other files".to_owned());
            }
            (Tls::Files { .. }, Tls::Files { .. }) => {}
            (Tls::Off | Tls::SelfSigned | Tls::Acme(_), _)
            | (Tls::Files { .. }, Tls::Off | Tls::SelfSigned | Tls::Acme(_)) => {
                keep(&mut needs_restart, "tls", tls, &mut new.tls);
            }
        }
        keep(&mut needs_restart, "http2", http2, &mut new.http2);
        keep(&mut needs_restart, "listen", listen, &mut new.listen);
        keep(&mut needs_restart, "admin", &admin.address, &mut new.admin.address);
        keep(&mut needs_restart, "otlp_endpoint", otlp, &mut new.otlp);
        keep(&mut needs_restart, "public_url", public, &mut new.public);
        keep(&mut needs_restart, "shards", shards, &mut new.shards);
        keep(&mut needs_restart, "log_format", &log.format, &mut new.log.format);
        Changes { changed, needs_restart, new }
    }
}

/// Another server of the same kind is a change; from one kind to another it takes a restart.
fn other_relay(
    old: &RelayChoice,
    new: &mut RelayChoice,
    needs_restart: &mut Vec<&'static str>,
) -> Vec<String> {
    let mut changed = Vec::new();
    match (old, &new) {
        (
            RelayChoice::External { urls, secret },
            RelayChoice::External { urls: new_urls, secret: new_secret },
        ) => {
            list(&mut changed, "turn_url", urls, new_urls, String::clone);
            if secret != new_secret {
                changed.push("turn_secret_file holds another secret".to_owned());
            }
        }
        (RelayChoice::Embedded { .. }, RelayChoice::Embedded { .. }) => {
            keep(needs_restart, "relay_listen", old, new);
        }
        (RelayChoice::None, _) | (_, RelayChoice::None) => keep(needs_restart, "no_embedded_relay", old, new),
        (RelayChoice::External { .. }, _) | (_, RelayChoice::External { .. }) => {
            keep(needs_restart, "turn_url", old, new);
        }
    }
    changed
}
