//! The documentation holds together: every page is in the site, every link leads somewhere, and what is called by name in
//! the running text exists.
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

/// The running text: the lines that are in no block.
fn prose(page: &str) -> Vec<&str> {
    let mut fenced = false;
    let outside = |line: &&str| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !is_fence && !fenced
    };
    page.lines().filter(outside).collect()
}

/// Code in the running text: what stands between backticks.
fn code(page: &str) -> Vec<String> {
    let prose = prose(page).join("\n");
    prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " ")).collect()
}

/// Links and pictures, as what is shown and where it is, without those on other hosts and what is code.
fn links(page: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    for line in prose(page) {
        // Every second piece is between backticks.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let pieces: Vec<&str> = prose.split("](").collect();
        for pair in pieces.windows(2) {
            let shown = pair[0].rsplit_once('[').map_or("", |(_, shown)| shown);
            let Some((target, _)) = pair[1].split_once(')').filter(|(target, _)| !target.contains("://"))
            else {
                continue;
            };
            links.push((shown.to_owned(), target.to_owned()));
        }
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
        for (_, link) in links(&text) {
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
fn every_picture_says_what_it_shows() {
    let mut silent = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let is_picture = |target: &str| target.ends_with(".svg") || target.ends_with(".png");
        for (shown, target) in links(&text).into_iter().filter(|(_, target)| is_picture(target)) {
            let picture = page.parent().unwrap().join(&target);
            // Who hears a page has the text; who opens the drawing alone has its title.
            let titled = target.ends_with(".png")
                || fs::read_to_string(picture).is_ok_and(|drawing| drawing.contains("<title>"));
            if shown.is_empty() || !titled {
                silent.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn every_page_is_in_the_site() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let listed: BTreeSet<String> = links(&summary).into_iter().map(|(_, target)| target).collect();
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

/// Flags of other programs that the running text names: Helm's and Docker's.
const FLAGS_OF_OTHERS: [&str; 2] = ["--take-ownership", "--target"];

/// Flags of `sqlited`, from their table: those of it, those of rqlite that are taken without effect, and those of restores.
fn flags_of_sqlited() -> BTreeSet<String> {
    let table = fs::read_to_string(root().join("node/src/config/flags.rs")).unwrap();
    let (_, table) = table.split_once("pub const FLAGS").unwrap();
    let (table, without_effect) = table.split_once("pub const WITHOUT_EFFECT").unwrap();
    let (without_effect, _) = without_effect.split_once("];").unwrap();
    let entries = table.split("flag(").chain(table.split("switch(")).chain(without_effect.split('('));
    let names = entries.filter_map(|entry| entry.trim_start().strip_prefix('"')?.split_once('"'));
    // As Go has it, by one dash or by two.
    let mut flags: BTreeSet<String> =
        names.flat_map(|(name, _)| [format!("-{name}"), format!("--{name}")]).collect();
    // Of its subcommands: one on each line of their usage.
    let usage = fs::read_to_string(root().join("node/src/backup/command.rs")).unwrap();
    let (_, usage) = usage.split_once("\nFlags:\n").unwrap();
    let (usage, _) = usage.split_once("\";").unwrap();
    flags.extend(usage.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
    let known = ["-http-addr", "-fk", "-raft-snap", "-to", "-replay", "-progress"];
    assert!(known.iter().all(|flag| flags.contains(*flag)), "{flags:?}");
    flags.insert("-h".to_owned());
    flags
}

/// Flags of a program whose command line is a struct for clap.
fn flags_of_clap(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let mut flags = BTreeSet::from(["-h", "--help", "--version"].map(str::to_owned));
    for argument in text.split("#[arg(").skip(1) {
        let (attribute, rest) = argument.split_once(")]\n").unwrap();
        let field = rest.trim_start().trim_start_matches("pub ");
        let field = field.split(':').next().unwrap().replace('_', "-");
        // `short`, or `short = 'x'`.
        for word in attribute.split(',').map(str::trim) {
            let (name, value) = word.split_once(" = ").unwrap_or((word, ""));
            let value = value.trim_matches(['\'', '"']);
            match name {
                "short" if value.is_empty() => drop(flags.insert(format!("-{}", &field[..1]))),
                "short" => drop(flags.insert(format!("-{value}"))),
                "long" if value.is_empty() => drop(flags.insert(format!("--{field}"))),
                "long" => drop(flags.insert(format!("--{value}"))),
                _ => {}
            }
        }
    }
    flags
}

/// Flags of the words of a command: without values, of those that are cut short (`-raft-reap-…`) the beginning.
fn flags_in(command: &str) -> impl Iterator<Item = &str> {
    let is_flag = |word: &&str| word.trim_start_matches('-').starts_with(char::is_alphabetic);
    let words = command.split_whitespace().filter(|word| word.starts_with('-')).filter(is_flag);
    words.map(|word| word.split(['=', '|', ',']).next().unwrap())
}

fn is_known(flag: &str, flags: &BTreeSet<String>) -> bool {
    match flag.strip_suffix('…') {
        Some(beginning) => flags.iter().any(|known| known.starts_with(beginning)),
        None => flags.contains(flag),
    }
}

#[test]
fn every_flag_in_the_text_exists() {
    let sqlited = flags_of_sqlited();
    let shell = flags_of_clap("operator/cli/src/args.rs");
    let plugin = flags_of_clap("operator/cli/src/plugin/args.rs");
    let operator = flags_of_clap("operator/src/config.rs");
    assert!(shell.contains("-H") && shell.contains("--ca-cert") && operator.contains("--dir"), "{shell:?}");
    let others = FLAGS_OF_OTHERS.map(str::to_owned).into();
    let mut wrong = Vec::new();
    for page in pages() {
        for code in code(&fs::read_to_string(&page).unwrap()) {
            let programs: Vec<&BTreeSet<String>> = match code.split(' ').next() {
                Some("sqlited") => vec![&sqlited],
                Some("sqlite-cli") => vec![&shell],
                Some("sqlite-operator") => vec![&operator],
                Some("kubectl") if code.starts_with("kubectl sqlite ") => vec![&plugin],
                // A flag alone: the page says whose it is.
                Some(word) if word.starts_with('-') => vec![&sqlited, &shell, &plugin, &operator, &others],
                _ => continue,
            };
            let unknown = |flag: &&str| !programs.iter().any(|flags| is_known(flag, flags));
            wrong.extend(flags_in(&code).filter(unknown).map(|flag| format!("{}: {flag}", page.display())));
        }
    }
    assert!(wrong.is_empty(), "no program has these flags: {wrong:#?}");
}

#[test]
fn every_variable_of_sqlited_in_the_text_exists() {
    let flags = flags_of_sqlited();
    let mut wrong = Vec::new();
    for page in pages() {
        for code in code(&fs::read_to_string(&page).unwrap()) {
            let Some(name) = code.split('=').next().and_then(|name| name.strip_prefix("SQLITED_")) else {
                continue;
            };
            let flag = format!("-{}", name.to_lowercase().replace('_', "-"));
            if flag != "-data-dir" && !flags.contains(&flag) {
                wrong.push(format!("{}: SQLITED_{name}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no flag has these variables: {wrong:#?}");
}

#[test]
fn every_target_of_make_in_the_text_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(": ## ")).map(|(target, _)| target).collect();
    assert!(targets.contains("test"), "{targets:?}");
    let mut wrong = Vec::new();
    for page in pages() {
        for code in code(&fs::read_to_string(&page).unwrap()) {
            let Some(words) = code.strip_prefix("make ") else { continue };
            for word in words.split(' ').filter(|word| !word.starts_with('-')) {
                let exists = match word.split_once('=') {
                    Some((variable, _)) => makefile.contains(&format!("{variable}=")),
                    None => targets.contains(word),
                };
                if !exists {
                    wrong.push(format!("{}: make {words}: {word}", page.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "the Makefile does not know {wrong:#?}");
}
