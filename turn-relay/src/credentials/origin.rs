//! Which entry of the configuration a key comes from.

use sha2::{Digest as _, Sha256};

use super::{PasswordDigest, Secret};

/// A digest of the user and password, or of the secret. The same entry in another configuration has the same origin, so a
/// reload can tell whether what authorised an allocation is still there, also when the realm, and with it every key, is
/// another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Origin([u8; 16]);

impl Origin {
    pub(super) fn of_user(name: &str, password: &str) -> Self {
        Self::of(0, &[name.as_bytes(), password.as_bytes()])
    }

    pub(super) fn of_secret(secret: &Secret) -> Self {
        Self::of(1, &[secret.bytes()])
    }

    /// A stored key by itself: another one of the same user may come or go.
    pub(super) fn of_stored(name: &str, digest: &PasswordDigest) -> Self {
        Self::of(2, &[name.as_bytes(), digest.bytes()])
    }

    pub(super) fn of_token_key(key_id: &str, key: &[u8]) -> Self {
        Self::of(3, &[key_id.as_bytes(), key])
    }

    fn of(kind: u8, parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new_with_prefix([kind]);
        for part in parts {
            // With its length, so that no two lists of parts are one text.
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut origin = [0; 16];
        origin.copy_from_slice(&digest.finalize()[..16]);
        Self(origin)
    }
}
