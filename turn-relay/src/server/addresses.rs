//! External addresses that were found out, looked at again: a provider may give another one at any time.

use std::time::Duration;

use super::{Control, StartError};

/// Looks every minute until the process ends, on a thread of its own, for names to resolve and servers to answer.
pub fn watch_addresses(control: Control) {
    let rounds = move || {
        let mut is_well = true;
        loop {
            std::thread::park_timeout(PAUSE);
            match control.find_addresses() {
                Ok(changed) => {
                    is_well = true;
                    changed.iter().for_each(|change| tracing::info!("{change}; newcomers are told so"));
                }
                // Said once, not every minute.
                Err(error) if is_well => {
                    is_well = false;
                    tracing::warn!("external addresses stay as they were: {error}");
                }
                Err(_) => {}
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("addresses".to_owned()).spawn(rounds) {
        tracing::error!("cannot start the thread that looks for external addresses: {error}");
    }
}

impl Control {
    /// Finds external addresses out again where that was asked for; what changed, in words. Allocations that stand keep what their
    /// clients were told. Blocks for as long as servers take to answer, and no reload waits for that.
    ///
    /// # Errors
    /// One line; then nothing has changed.
    pub fn find_addresses(&self) -> Result<Vec<String>, StartError> {
        let before = self.settings().clone();
        if !before.finds_addresses_out() {
            return Ok(Vec::new());
        }
        let found = before.addresses_again()?;
        let mut settings = self.settings();
        if found == settings.relay_addresses || !settings.has_the_sources_of(&before) {
            return Ok(Vec::new());
        }
        let mut new = settings.clone();
        new.relay_addresses = found;
        Ok(self.change(&mut settings, new)?.changed)
    }
}

const PAUSE: Duration = Duration::from_secs(60);
