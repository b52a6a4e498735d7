//! Takes renewed certificates from their files without being told.

use std::path::PathBuf;

use super::{Control, StartError};
use crate::config;
use crate::operation::certificate_watch;

/// Watches the certificate files until the process ends.
pub fn watch_certificates(control: Control) {
    let files = {
        let control = control.clone();
        move || control.certificate_files()
    };
    certificate_watch::watch(files, move || control.reload_certificates());
}

impl Control {
    fn certificate_files(&self) -> Vec<(PathBuf, PathBuf)> {
        self.settings().certificate_files.clone()
    }

    /// Reads the certificates again, and nothing else; tells whether they are others.
    ///
    /// # Errors
    /// One line; then nothing has changed.
    pub fn reload_certificates(&self) -> Result<bool, StartError> {
        let mut settings = self.settings();
        let load = |(cert, key): &(PathBuf, PathBuf)| config::load(cert, key);
        let identities = settings.certificate_files.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let others = settings.identities != identities;
        let certificates = self.reins().admission().certificates();
        certificates.install(certificates.prepare(&identities)?);
        settings.identities = identities;
        Ok(others)
    }
}
