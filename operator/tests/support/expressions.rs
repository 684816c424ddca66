//! What alerts and panels ask Prometheus for, and what a program tells it: every series and every label that is asked for
//! must be there.

use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// Labels by which Prometheus names where it read something. A series with a label of its own of that name keeps it only where
/// that is asked for.
pub const OF_THE_TARGET: [&str; 7] =
    ["container", "endpoint", "instance", "job", "namespace", "pod", "service"];

/// Labels of series, by name.
pub type Series = BTreeMap<String, BTreeSet<String>>;

/// The series of a page of metrics. A family prints nothing before it has a member.
pub fn series(page: &str) -> Series {
    let label = Regex::new(r#"([a-z_]+)=""#).unwrap();
    let mut series = Series::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once('{').unwrap_or_else(|| (line.split(' ').next().unwrap(), ""));
        let labels = label.captures_iter(labels).map(|found| found[1].to_owned());
        series.entry(name.to_owned()).or_default().extend(labels);
    }
    series
}

/// What an expression asks of the series whose names begin so, and what there is none of. `quoting` is text that may quote
/// labels of the result.
pub fn asked(
    expression: &str,
    quoting: &str,
    prefix: &str,
    series: &Series,
) -> (BTreeSet<String>, Vec<String>) {
    let selector = Regex::new(&format!(r"\b({prefix}\w+)(?:\{{([^}}]*)\}})?")).unwrap();
    let matcher = Regex::new(r#"(\w+)\s*(?:=~|!~|!=|=)\s*""#).unwrap();
    let grouping = Regex::new(r"\bby \(([^)]*)\)").unwrap();
    let quote = Regex::new(r"\$labels\.(\w+)").unwrap();
    let of_target = |label: &str| OF_THE_TARGET.contains(&label);
    let (mut names, mut missing) = (BTreeSet::new(), Vec::new());
    let mut there = BTreeSet::new();
    for found in selector.captures_iter(expression) {
        let name = &found[1];
        names.insert(name.to_owned());
        let Some(labels) = series.get(name) else {
            missing.push(name.to_owned());
            continue;
        };
        there.extend(labels.iter().map(String::as_str));
        let matched = matcher.captures_iter(found.get(2).map_or("", |labels| labels.as_str()));
        let unknown = matched.map(|label| label[1].to_owned());
        let unknown = unknown.filter(|label| !labels.contains(label) && !of_target(label));
        missing.extend(unknown.map(|label| format!("{name}{{{label}}}")));
    }
    if names.is_empty() {
        return (names, missing);
    }
    let groups: Vec<&str> = grouping
        .captures_iter(expression)
        .flat_map(|found| found.get(1).unwrap().as_str().split(',').map(str::trim))
        .collect();
    let is_there = |label: &&str| there.contains(*label) || of_target(label);
    missing.extend(groups.iter().filter(|label| !is_there(label)).map(|label| format!("by ({label})")));
    // What is absent has no labels, and what is summed up has those by which it is.
    let aggregates =
        !groups.is_empty() || expression.starts_with("absent(") || expression.starts_with("sum(");
    for found in quote.captures_iter(quoting) {
        let label = found.get(1).unwrap().as_str();
        if !(if aggregates { groups.contains(&label) } else { is_there(&label) }) {
            missing.push(format!("$labels.{label}"));
        }
    }
    (names, missing)
}
