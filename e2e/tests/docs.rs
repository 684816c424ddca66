//! The documentation holds together: every page is in the site, and every link leads somewhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.push(root().join("README.md"));
    pages
}

/// Targets of links and pictures, without those on other hosts and what is code.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second piece is between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.extend(targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")));
    }
    links
}

/// What a heading is called in a link, as GitHub and mdBook do.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let name = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        text.chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect()
    };
    headings.map(name).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let found = match fs::read_to_string(&target) {
                Ok(text) => anchor.is_empty() || anchors(&text).contains(anchor),
                // A picture, or a folder.
                Err(_) => target.exists() && anchor.is_empty(),
            };
            if !found {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_page_is_in_the_site() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    let there: BTreeSet<String> = pages()
        .iter()
        .map(|page| page.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !["README.md", "SUMMARY.md"].contains(&name.as_str()))
        .collect();
    assert_eq!(listed, there);
}

/// Tests that follow pages block by block (`node/tests/support/page.rs`), or run their examples.
const FOLLOWERS: [&str; 4] = [
    "node/tests/pages.rs",
    "node/tests/contract/docs.rs",
    "e2e/tests/kubernetes/pages.rs",
    "operator/cli/tests/terminal.rs",
];

#[test]
fn every_page_with_blocks_is_followed_by_a_test() {
    let followers = FOLLOWERS.map(|file| fs::read_to_string(root().join(file)).unwrap());
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let mut fences = text.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        let Some(first) = fences.next() else { continue };
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(
            followers.iter().any(|follower| follower.contains(name)),
            "{name}: blocks (the first one: {first}) that none of {FOLLOWERS:?} follows"
        );
        // One that opens, one that closes.
        let opening = std::iter::once(first).chain(fences.skip(1).step_by(2));
        for language in opening {
            assert!(!language.is_empty(), "{name}: a block does not say what it is");
        }
    }
}
