//! What stands in the place of the XDP path in a build without it: no [`Driver`] can be had.

use std::num::NonZeroUsize;

use crate::operation::StartError;

/// There is none.
#[derive(Debug)]
pub(crate) enum Driver {}

/// The configuration has refused interfaces before.
///
/// # Errors
/// None.
#[expect(clippy::unnecessary_wraps, reason = "the same as with the feature")]
pub(crate) fn open(_interfaces: &[String], _workers: NonZeroUsize) -> Result<Vec<Driver>, StartError> {
    Ok(Vec::new())
}
