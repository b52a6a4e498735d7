//! What a client may do, as the driver has verified it. The hub believes it and asks nobody.

use std::fmt;
use std::sync::Arc;

/// What a client was granted in the room that it says hello to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Who the client is to whoever granted it; `None` where nobody says so.
    pub subject: Option<Subject>,
    /// It may remove peers and keep them out.
    pub may_kick: bool,
    /// It may open and close the room's door, and come in through a closed one.
    pub may_lock: bool,
}

/// Name of a user at the one who grants, at most [`Self::MAX_BYTES`] bytes. It may be a person's, so it does not show
/// itself in `Debug`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// `None` if the name is empty or too long.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        (1..=Self::MAX_BYTES).contains(&name.len()).then(|| Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subject(..)")
    }
}
