//! What stands in the place of the export in a build without it: nothing is sent.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use reqwest::Url;
use turn_relay::operation::StartError;

/// There is none.
pub(crate) struct Export;

/// They go nowhere.
#[derive(Clone)]
pub(crate) struct SessionSpans;

/// The configuration has refused an endpoint before.
///
/// # Errors
/// None.
#[expect(clippy::unnecessary_wraps, reason = "the same as with the feature")]
pub(crate) fn open(
    _endpoint: Option<&Url>,
    _registry: &Arc<Registry>,
) -> Result<(Export, SessionSpans), StartError> {
    Ok((Export, SessionSpans))
}

impl SessionSpans {
    /// Nobody hears of it.
    #[expect(clippy::unused_self, reason = "the same as with the feature")]
    pub(crate) const fn ended(&self, _lived: Duration, _transport: &'static str, _reason: &'static str) {}
}

impl Export {
    /// Nothing is left.
    #[expect(clippy::unused_async, reason = "the same as with the feature")]
    pub(crate) async fn flush(self) {}
}
