//! Reads the repository that it lies in, for tests of what must hold between its parts. Reads nothing else, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// The repository's root: where cargo runs the test, which need not be where it was compiled.
///
/// # Panics
/// Outside of cargo.
#[must_use]
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this");
    Path::new(&package).parent().expect("this package lies below the root").to_owned()
}

/// Every file below `folder` with this ending, what is built or fetched left out.
#[must_use]
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            let skipped =
                name == "target" || name == "node_modules" || name.to_string_lossy().starts_with('.');
            found.extend((!skipped).then(|| files(&path, ending)).into_iter().flatten());
        } else if name.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A file's text.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between `open` and the next `close`, for each `open` of a text.
#[must_use]
pub fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(inner, _)| inner).collect()
}
