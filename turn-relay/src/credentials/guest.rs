//! A user whom the authorization hook knows and the configuration does not.

use std::fmt;

use super::key::{Key, PasswordAlgorithm, PasswordDigest, digest};
use super::{Authenticated, Hashes, Unauthenticated};

/// What the hook said about one username.
#[derive(Clone, Debug)]
pub enum Authorization {
    /// It may come in with these.
    Allowed(Guest),
    /// There is no such user, or it may not.
    Refused,
    /// The hook does not answer, or there are too many questions: nobody comes in.
    Unavailable,
}

/// What a user is verified with. At least one of both is there.
#[derive(Clone)]
pub struct Guest {
    md5: Option<PasswordDigest>,
    sha256: Option<PasswordDigest>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guest(..)")
    }
}

impl Guest {
    /// A user with this password.
    #[must_use]
    pub fn with_password(username: &str, realm: &str, password: &str) -> Self {
        let made = |algorithm| Some(digest(algorithm, username, realm, password));
        Self { md5: made(PasswordAlgorithm::Md5), sha256: made(PasswordAlgorithm::Sha256) }
    }

    /// A user of whom only keys are stored; `None` without any.
    #[must_use]
    pub fn with_digests(md5: Option<PasswordDigest>, sha256: Option<PasswordDigest>) -> Option<Self> {
        (md5.is_some() || sha256.is_some()).then_some(Self { md5, sha256 })
    }

    /// The key under which `verifies` holds.
    pub(crate) fn authenticate(
        &self,
        username: &str,
        hashes: Hashes,
        verifies: impl Fn(&Key) -> bool,
    ) -> Result<Authenticated, Unauthenticated> {
        let digest = match hashes.password {
            PasswordAlgorithm::Md5 => self.md5.as_ref(),
            PasswordAlgorithm::Sha256 => self.sha256.as_ref(),
        };
        let key = digest.map(|digest| Key::stored(digest, hashes.integrity)).filter(verifies);
        let key = key.ok_or(Unauthenticated::WrongPassword)?;
        Ok(Authenticated { username: username.into(), key, until: None })
    }
}
