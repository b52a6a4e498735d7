//! Takes renewed certificates from their files without being told.
//!
//! By looking at the files every two seconds, and not by the kernel's notices: certbot swaps symbolic links, Kubernetes swaps the folder
//! above them, others write in place or mount over the network, and what the path leads to is the one thing that all of
//! them change. A pair of files is loaded once it has been the same twice, so that half of a renewal is not.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::StartError;

/// Device, inode, size and time of change of each file; `None` for one that is not there.
type Print = Vec<Option<(u64, u64, u64, i64, i64)>>;

/// What was seen at the files.
#[derive(Debug, Default)]
struct Watch {
    loaded: Print,
    last: Print,
}

impl Watch {
    /// Whether what is there now is new and has come to rest. Each state of the files is announced once.
    fn settled(&mut self, now: Print) -> bool {
        let rests = now == self.last;
        let new = now != self.loaded;
        self.last = now;
        if rests && new {
            self.loaded.clone_from(&self.last);
        }
        rests && new
    }
}

/// Follows symbolic links, wherever they lead now.
fn print(files: &[(PathBuf, PathBuf)]) -> Print {
    let of = |path: &Path| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
    };
    files.iter().flat_map(|(cert, key)| [of(cert), of(key)]).collect()
}

/// Watches pairs of certificate and key until the process ends, on a thread of its own: whatever pairs `files` names at the time,
/// and has `renew` take them when they have changed, and once at the beginning: they may have changed since they were loaded. It
/// tells whether they are others than before.
pub fn watch(
    files: impl Fn() -> Vec<(PathBuf, PathBuf)> + Send + 'static,
    renew: impl Fn() -> Result<bool, StartError> + Send + 'static,
) {
    let rounds = move || {
        let mut watch = Watch::default();
        loop {
            std::thread::park_timeout(PAUSE);
            if !watch.settled(print(&files())) {
                continue;
            }
            match renew() {
                Ok(false) => {}
                Ok(true) => tracing::info!("certificates were renewed"),
                Err(error) => tracing::error!("certificates stay as they were: {error}"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("certificates".to_owned()).spawn(rounds) {
        tracing::error!("cannot start the thread that watches certificates: {error}");
    }
}

const PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_renewal_is_taken_once_it_rests_however_it_is_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for generation in ["1", "2", "3"] {
            fs::create_dir(at(generation)).expect("creates");
            fs::write(at(generation).join("cert.pem"), generation).expect("writes");
            fs::write(at(generation).join("key.pem"), generation).expect("writes");
        }
        symlink("1", at("..data")).expect("links");
        symlink("..data/cert.pem", at("cert.pem")).expect("links");
        symlink("..data/key.pem", at("key.pem")).expect("links");
        let files = [(at("cert.pem"), at("key.pem"))];
        let mut watch = Watch::default();
        // Nobody knows whether they are the ones that were loaded.
        assert_eq!([watch.settled(print(&files)), watch.settled(print(&files))], [false, true]);
        assert!(!watch.settled(print(&files)));

        // Kubernetes: the folder above is another one.
        symlink("2", at("..next")).expect("links");
        fs::rename(at("..next"), at("..data")).expect("renames");
        assert_eq!([watch.settled(print(&files)), watch.settled(print(&files))], [false, true]);
        assert!(!watch.settled(print(&files)), "announced once");

        // certbot: a link of each file, the key a moment later.
        symlink("3/cert.pem", at("next")).expect("links");
        fs::rename(at("next"), at("cert.pem")).expect("renames");
        assert!(!watch.settled(print(&files)));
        symlink("3/key.pem", at("next")).expect("links");
        fs::rename(at("next"), at("key.pem")).expect("renames");
        assert_eq!([watch.settled(print(&files)), watch.settled(print(&files))], [false, true]);

        // In place, and away.
        fs::write(at("3/cert.pem"), "another").expect("writes");
        assert_eq!([watch.settled(print(&files)), watch.settled(print(&files))], [false, true]);
        fs::remove_file(at("key.pem")).expect("removes");
        assert_eq!([watch.settled(print(&files)), watch.settled(print(&files))], [false, true]);
    }
}
