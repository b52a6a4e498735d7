//! What the documents say exists, exists.

use std::collections::BTreeSet;

use workspace_tests::{between, files, root, text};

#[test]
fn every_relative_link_of_a_document_leads_somewhere() {
    let documents = files(&root(), ".md");
    assert!(documents.iter().any(|path| path.ends_with("README.md")));
    let mut broken = Vec::new();
    for document in documents {
        let folder = document.parent().expect("a file lies in a folder");
        for link in between(&text(&document), "](", ")") {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_is_short_and_names_only_options_that_exist() {
    let readme = text(&root().join("README.md"));
    assert!(readme.lines().count() < 150);

    let configs = text(&root().join("signaling/src/config/written.rs"))
        + &text(&root().join("turn-relay/src/config/mod.rs"));
    // Of cargo, of tests/run, and those that are no keys of the configuration.
    let others = ["release", "help", "check", "print-config", "config"];
    let named = readme
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter_map(|word| word.strip_prefix("--"));
    let unknown: BTreeSet<&str> = named
        .filter(|flag| !flag.is_empty() && !flag.starts_with('-') && !others.contains(flag))
        .filter(|flag| !configs.contains(&format!("pub {}:", flag.replace('-', "_"))))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_test_that_rfc_md_names_exists() {
    let document = text(&root().join("turn-relay/RFC.md"));
    let sources: String = files(&root().join("turn-relay"), ".rs").iter().map(|path| text(path)).collect();
    // Between backticks, and what lies between two of these is no single word.
    let names: BTreeSet<&str> = document
        .split('`')
        .filter(|word| {
            word.matches('_').count() >= 3
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect();
    assert!(names.len() >= 20, "only {} tests are named", names.len());
    let missing: Vec<&&str> = names.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
