//! The examples of the API's page say what happens. Other pages are followed by `tests/pages.rs`.

use super::support::Cluster;
use std::process::Command;

/// A command and what it prints.
struct Example {
    command: String,
    output: String,
}

/// The examples: in blocks of the language `console`, a command after `$ `, what it prints below it.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(language) => inside = !inside && language == "console",
            None if !inside => {}
            None => match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => {
                    examples.push(Example { command: command.to_owned(), output: String::new() })
                }
                (None, Some(example)) => {
                    example.output.push_str(line);
                    example.output.push('\n');
                }
                (None, None) => panic!("output without a command: {line}"),
            },
        }
    }
    examples
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    for part in parts {
        match rest.find(part) {
            Some(_) if part.is_empty() => rest = "",
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

#[test]
fn the_examples_of_the_api_page() {
    let page = include_str!("../../../docs/api.md");
    let examples = examples(page);
    assert!(examples.len() >= 20, "{}", examples.len());
    let mut c = Cluster::empty();
    let capture = c.root().join("cdc.json");
    std::fs::write(&capture, "{}").unwrap();
    c.add_members(1, &["-cdc-config", capture.to_str().unwrap()]);
    c.start(0);
    c.await_ready(0);
    c.until("capture", |c| (c.status(0, "cdc.enabled") == true).then_some(()));
    let address = format!("127.0.0.1:{}", c.members[0].http);
    let directory = tempfile::tempdir().unwrap();
    for Example { command, output } in examples {
        let here = command.replace("localhost:4001", &address);
        let ran = Command::new("bash").args(["-c", &here]).current_dir(&directory).output().unwrap();
        assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        let printed = String::from_utf8(ran.stdout).unwrap().replace(&address, "localhost:4001");
        assert!(
            matches(output.trim_end(), printed.trim_end()),
            "{command}\nprinted\n{printed}\nnot\n{output}"
        );
    }
    c.terminate(0);
}

#[test]
fn patterns() {
    for (pattern, text, expected) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a…c", "abbc", true),
        ("a…c", "abb", false),
        ("…", "anything", true),
        ("a…", "a", true),
        ("a…b…", "axb", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
    }
}

/// What `/licenses` shows: the crates that `sqlited` is made of. `UPDATE_LICENSES=1` writes it anew.
#[test]
fn licences_are_those_of_the_crates() {
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};
    let run = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let metadata: Value = serde_json::from_slice(&run.stdout).unwrap();
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let list = list.as_array().unwrap().iter();
        list.map(|item| (item["id"].as_str().unwrap().to_owned(), item.clone())).collect()
    };
    let (packages, nodes) = (by_id(&metadata["packages"]), by_id(&metadata["resolve"]["nodes"]));
    let own = packages.values().find(|p| p["name"] == "node").unwrap()["id"].as_str().unwrap();
    let (mut seen, mut todo) = (BTreeSet::new(), vec![own.to_owned()]);
    while let Some(id) = todo.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        for dependency in nodes[&id]["deps"].as_array().unwrap() {
            // Not what only tests and build scripts need.
            if dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null()) {
                todo.push(dependency["pkg"].as_str().unwrap().to_owned());
            }
        }
    }
    let lines: BTreeSet<String> = seen
        .iter()
        .map(|id| &packages[id])
        .filter(|package| !package["source"].is_null())
        .map(|package| {
            let text = |key: &str| package[key].as_str().unwrap_or("see its source").to_owned();
            format!("{} {}: {}\n", text("name"), text("version"), text("license"))
        })
        .collect();
    let head = "sqlited: Apache-2.0\nSQLite: public domain, https://www.sqlite.org/copyright.html\n\nIt is made of these crates, https://crates.io:\n\n";
    let expected = head.to_owned() + &lines.into_iter().collect::<String>();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/licenses.txt");
    if std::env::var_os("UPDATE_LICENSES").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let present = std::fs::read_to_string(path).unwrap();
    assert!(present == expected, "run this test with UPDATE_LICENSES=1 and commit {path}");
}
