//! Resume tokens: which session, and the key to it.
//!
//! A token is rotated with every `welcome`. The one that the client came with stays valid until a frame on the new
//! connection shows that the `welcome` arrived: if it was lost, the client comes again with the old one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use signaling_protocol::{ResumeToken, SessionId};
use subtle::ConstantTimeEq as _;

/// 128 random bits.
pub(super) type Key = [u8; 16];

/// Which hub a token is of: random for each start, so that a token from before a restart is told from an old one.
pub(super) type Epoch = [u8; 4];

pub(super) struct Token {
    pub(super) epoch: Epoch,
    pub(super) session: SessionId,
    pub(super) key: Key,
}

/// The keys that open a session.
pub(super) struct Keys {
    current: Key,
    former: Option<Key>,
}

impl Token {
    /// Reads what a client presents; `None` if this is no token of ours.
    pub(super) fn read(token: &ResumeToken) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token.as_str()).ok()?;
        let (epoch, rest) = bytes.split_first_chunk()?;
        let (session, key) = rest.split_first_chunk()?;
        Some(Self {
            epoch: *epoch,
            session: SessionId::from_bits(u64::from_be_bytes(*session)),
            key: key.try_into().ok()?,
        })
    }

    pub(super) fn write(&self) -> ResumeToken {
        let bytes = [self.epoch.as_slice(), &self.session.to_bits().to_be_bytes(), &self.key].concat();
        URL_SAFE_NO_PAD.encode(bytes).parse().expect("38 characters are within the bounds of a token")
    }
}

impl Keys {
    pub(super) const fn new(key: Key) -> Self {
        Self { current: key, former: None }
    }

    pub(super) const fn current(&self) -> Key {
        self.current
    }

    /// In a time that does not depend on where the difference is.
    pub(super) fn accept(&self, key: &Key) -> bool {
        let current = self.current.ct_eq(key);
        let former = self.former.unwrap_or(self.current).ct_eq(key);
        (current | former).into()
    }

    /// Makes `fresh` the key to hand out; `presented`, which the client surely has, stays valid.
    pub(super) const fn rotate(&mut self, presented: Key, fresh: Key) {
        *self = Self { current: fresh, former: Some(presented) };
    }

    /// The client was heard on the connection that the current key was sent on.
    pub(super) const fn confirm(&mut self) {
        self.former = None;
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}
