//! All targets side by side, next to what we aim at: one table, written into a page between two marks.

use crate::BenchError;
use crate::cli::{By, CompareOptions};
use crate::record::{self, FailoverRecord, LoadRecord, Record};
use crate::report::median;
use std::fmt::Write;
use std::fs;

const BEGIN: &str = "<!-- bench -->";
const END: &str = "<!-- /bench -->";
/// The target whose aims these are.
const OURS: &str = "sqlited";
/// Targets that ratios are taken against.
const PEERS: [&str; 2] = ["etcd", "hiqlite"];

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Aim {
    /// So many times what etcd does.
    TimesEtcd(f64),
    /// No more than this.
    AtMost(f64),
}

/// What a line says of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Rate,
    P50,
    P99,
    P999,
    Max,
    Cpu,
    Written,
    Flushes,
    Memory,
}

impl Measure {
    /// What it is called, for rows of this name.
    fn name(self) -> &'static str {
        match self {
            Self::Rate => "",
            Self::P50 => "p50, ms",
            Self::P99 => "p99, ms",
            Self::P999 => "p99.9, ms",
            Self::Max => "longest, ms",
            Self::Cpu => "CPU s per 10,000 rows, all members (by member)",
            Self::Written => "KB written a row and member, mean (by member)",
            Self::Flushes => "flushes of the disk a row",
            Self::Memory => "RSS MB, largest member (by member)",
        }
    }

    fn digits(self) -> usize {
        match self {
            Self::Rate | Self::Memory => 0,
            Self::Flushes => 3,
            _ => 2,
        }
    }

    fn of(self, r: &LoadRecord) -> Option<f64> {
        let usage = &r.usage;
        let count = usage.written_bytes_per_row.len().max(1) as f64;
        Some(match self {
            Self::Rate => r.rows_per_s,
            Self::P50 => r.p50_ms,
            Self::P99 => r.p99_ms,
            Self::P999 => r.p999_ms,
            Self::Max => r.max_ms,
            Self::Cpu => usage.cpu_s_per_10k_rows.iter().sum(),
            Self::Written => usage.written_bytes_per_row.iter().sum::<f64>() / 1024.0 / count,
            Self::Flushes => usage.disk?.flushes_per_row,
            Self::Memory => usage.rss_mb.iter().copied().fold(0.0, f64::max),
        })
    }

    /// The values of the members, where there is one for each.
    fn by_member(self, r: &LoadRecord) -> Vec<f64> {
        let mut values: Vec<f64> = match self {
            Self::Cpu => r.usage.cpu_s_per_10k_rows.clone(),
            Self::Written => r.usage.written_bytes_per_row.iter().map(|bytes| bytes / 1024.0).collect(),
            Self::Memory => r.usage.rss_mb.clone(),
            _ => Vec::new(),
        };
        values.sort_by(|a, b| b.total_cmp(a));
        values
    }
}

/// What we aim at, by work, clients and measure.
const AIMS: &[(&str, usize, Measure, Aim)] = &[
    ("insert", 1, Measure::Rate, Aim::TimesEtcd(2.0)),
    ("insert", 1, Measure::P50, Aim::AtMost(0.5)),
    ("insert", 16, Measure::Rate, Aim::TimesEtcd(3.0)),
    ("insert", 64, Measure::Rate, Aim::TimesEtcd(5.0)),
    ("insert", 64, Measure::P99, Aim::AtMost(8.0)),
    ("insert", 64, Measure::Cpu, Aim::AtMost(0.45)),
    ("insert", 64, Measure::Written, Aim::AtMost(0.8)),
    ("insert", 64, Measure::Flushes, Aim::AtMost(0.1)),
    ("insert", 256, Measure::Rate, Aim::TimesEtcd(6.0)),
    ("insert", 256, Measure::P99, Aim::AtMost(20.0)),
    ("bulk", 1, Measure::Rate, Aim::TimesEtcd(3.5)),
    ("bulk", 4, Measure::Rate, Aim::TimesEtcd(3.5)),
    ("bulk", 1, Measure::Max, Aim::AtMost(30.0)),
    ("query-none", 64, Measure::Rate, Aim::TimesEtcd(2.7)),
    ("query-linearizable", 1, Measure::Rate, Aim::TimesEtcd(1.9)),
    ("query-linearizable", 64, Measure::Rate, Aim::TimesEtcd(3.8)),
    ("mixed", 64, Measure::Rate, Aim::TimesEtcd(4.0)),
];

const READS: &[Measure] = &[Measure::Rate, Measure::P50, Measure::P99, Measure::P999];
const WRITES: &[Measure] = &[
    Measure::Rate,
    Measure::P50,
    Measure::P99,
    Measure::P999,
    Measure::Max,
    Measure::Cpu,
    Measure::Written,
    Measure::Flushes,
    Measure::Memory,
];

/// One line of the table.
struct Line {
    name: String,
    /// Median and what is shown, by target.
    values: Vec<Option<(f64, String)>>,
    aim: Option<Aim>,
}

/// Reads the records and writes the table into the page.
pub fn write(options: &CompareOptions) -> Result<(), BenchError> {
    let path = &options.into;
    let failed = |source| BenchError::File { path: path.clone(), source };
    let page = fs::read_to_string(path).map_err(failed)?;
    let records = record::read(&options.files)?;
    let section = format!("{BEGIN}\n{}\n\n{}", options.about.trim(), table(&records));
    let page =
        replace(&page, &section).ok_or(BenchError::Markers { path: path.clone(), begin: BEGIN, end: END })?;
    fs::write(path, page).map_err(failed)
}

/// The page with what is from the first mark to the second replaced.
fn replace(page: &str, section: &str) -> Option<String> {
    let begin = page.find(BEGIN)?;
    let end = begin + page[begin..].find(END)?;
    Some(format!("{}{section}{}", &page[..begin], &page[end..]))
}

fn table(records: &[Record]) -> String {
    let tags = targets(records);
    let mut lines = Vec::new();
    for (work, clients) in loads(records) {
        let writes = matches!(work, "insert" | "bulk");
        for measure in if writes { WRITES } else { READS } {
            lines.push(load_line(records, &tags, work, clients, *measure));
        }
    }
    lines.extend(failover_lines(records, &tags));
    let mut out = String::from("| |");
    for tag in &tags {
        // Writing to a String does not fail, here and below.
        let _ = write!(out, " {tag} |");
    }
    let peers: Vec<(usize, &str)> =
        PEERS.iter().filter_map(|peer| Some((tags.iter().position(|tag| tag == peer)?, *peer))).collect();
    for (_, peer) in &peers {
        let _ = write!(out, " {OURS} ÷ {peer} |");
    }
    out.push_str(" aim | reached |\n|---|");
    out.push_str(&"--:|".repeat(tags.len() + peers.len() + 2));
    out.push('\n');
    for line in lines {
        let _ = write!(out, "| {} |", line.name);
        for value in &line.values {
            let _ = write!(out, " {} |", value.as_ref().map_or("–", |(_, text)| text));
        }
        let value = |at: usize| line.values.get(at).and_then(Option::as_ref).map(|(median, _)| *median);
        let ours = tags.iter().position(|tag| *tag == OURS).and_then(value);
        let ratio = |peer: usize| ours.zip(value(peer).filter(|v| *v > 0.0)).map(|(ours, peer)| ours / peer);
        for (peer, _) in &peers {
            let _ = write!(out, " {} |", ratio(*peer).map_or("–".into(), |ratio| format!("{ratio:.2}")));
        }
        let etcd = peers.iter().find(|(_, name)| *name == "etcd").and_then(|(at, _)| ratio(*at));
        let (aim, reached) = match line.aim {
            None => (String::new(), None),
            Some(Aim::TimesEtcd(factor)) => (format!("≥ {factor} × etcd"), etcd.map(|ratio| ratio / factor)),
            Some(Aim::AtMost(limit)) => (format!("≤ {limit}"), ours.map(|ours| share_of_limit(limit, ours))),
        };
        let reached = reached.map_or(String::new(), |share| {
            if share > 10.0 { "> 1000 %".into() } else { format!("{:.0} %", share * 100.0) }
        });
        let _ = writeln!(out, " {aim} | {reached} |");
    }
    out
}

/// How far a limit is kept; 1 is just kept.
fn share_of_limit(limit: f64, value: f64) -> f64 {
    match (limit > 0.0, value > 0.0) {
        (_, true) => limit / value,
        (true, false) => f64::INFINITY,
        (false, false) => 1.0,
    }
}

/// Ours first, then the others as they come.
fn targets(records: &[Record]) -> Vec<&str> {
    let mut tags = vec![OURS];
    for record in records {
        let (Record::Load(LoadRecord { tag, .. }) | Record::Failover(FailoverRecord { tag, .. })) = record;
        if !tags.contains(&tag.as_str()) {
            tags.push(tag);
        }
    }
    tags
}

/// Works and numbers of clients: works as they come, clients in order.
fn loads(records: &[Record]) -> Vec<(&str, usize)> {
    let mut works: Vec<&str> = Vec::new();
    let mut loads: Vec<(usize, usize)> = Vec::new();
    for record in records {
        let Record::Load(LoadRecord { work, clients, .. }) = record else { continue };
        let at = works.iter().position(|known| known == work).unwrap_or_else(|| {
            works.push(work);
            works.len() - 1
        });
        if !loads.contains(&(at, *clients)) {
            loads.push((at, *clients));
        }
    }
    loads.sort_unstable();
    loads.into_iter().map(|(work, clients)| (works[work], clients)).collect()
}

fn load_line(records: &[Record], tags: &[&str], work: &str, clients: usize, measure: Measure) -> Line {
    let plural = if clients == 1 { "client" } else { "clients" };
    let name = match measure {
        Measure::Rate => {
            let unit = if work == "mixed" || work.starts_with("query") { "operations" } else { "rows" };
            format!("**{work}, {clients} {plural}**: {unit}/s")
        }
        _ => format!("· {}", measure.name()),
    };
    let values = tags.iter().map(|tag| {
        let all: Vec<&LoadRecord> = records
            .iter()
            .filter_map(|record| match record {
                Record::Load(r) if r.tag == *tag && r.work == work && r.clients == clients => Some(r),
                _ => None,
            })
            .collect();
        let quiet: Vec<&LoadRecord> = all.iter().copied().filter(|r| !r.noisy).collect();
        let (used, mark) = if quiet.is_empty() { (all, " (noisy)") } else { (quiet, "") };
        let values: Vec<f64> = used.iter().filter_map(|r| measure.of(r)).collect();
        if values.is_empty() {
            return None;
        }
        let (middle, digits) = (median(values.iter().copied()), measure.digits());
        let mut text = format!("{middle:.digits$}");
        let ranks: Vec<Vec<f64>> = used.iter().map(|r| measure.by_member(r)).collect();
        let count = ranks.iter().map(Vec::len).min().unwrap_or_default();
        if count > 0 {
            let by_rank = (0..count).map(|i| format!("{:.digits$}", median(ranks.iter().map(|r| r[i]))));
            let _ = write!(text, " ({})", by_rank.collect::<Vec<_>>().join(" / "));
        }
        if measure == Measure::Rate {
            let errors: usize = used.iter().map(|r| r.errors).sum();
            let failed = if errors > 0 { format!(", {errors} failed") } else { String::new() };
            let _ = write!(text, " [n={}{failed}]{mark}", used.len());
        }
        Some((middle, text))
    });
    let aim = AIMS.iter().find(|a| (a.0, a.1, a.2) == (work, clients, measure)).map(|a| a.3);
    Line { name, values: values.collect(), aim }
}

fn failover_lines<'a>(records: &'a [Record], tags: &[&str]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (by, title, limit) in [
        (By::Kill, "**kill -9 of the leader under inserts**", 1.0),
        (By::Transfer, "**leadership transfer under inserts**", 0.05),
    ] {
        let of = |tag: &str| -> Vec<&'a FailoverRecord> {
            let of_tag = |record: &'a Record| match record {
                Record::Failover(r) if r.by == by && r.tag == tag => Some(r),
                _ => None,
            };
            records.iter().filter_map(of_tag).collect()
        };
        if tags.iter().all(|tag| of(tag).is_empty()) {
            continue;
        }
        let line = |name: String, aim, digits: usize, value: fn(&FailoverRecord) -> Option<f64>| {
            let values = tags.iter().map(|tag| {
                let values: Vec<f64> = of(tag).into_iter().filter_map(value).collect();
                let count = values.len();
                let middle = median(values.iter().copied());
                let most = values.iter().copied().fold(0.0, f64::max);
                (count > 0).then(|| (middle, format!("{middle:.digits$} (most {most:.digits$}) [n={count}]")))
            });
            Line { name, values: values.collect(), aim }
        };
        let seconds = format!("{title}: s without an acknowledgement");
        lines.push(line(seconds, Some(Aim::AtMost(limit)), 3, |r| Some(r.outage_s)));
        let failed = match by {
            By::Kill => None,
            By::Transfer => Some(Aim::AtMost(0.0)),
        };
        lines.push(line("· failed requests".into(), failed, 0, |r| Some(r.errors as f64)));
        let missing = |r: &FailoverRecord| Some(r.acknowledged.saturating_sub(r.found?) as f64);
        lines.push(line("· acknowledged rows that are missing".into(), None, 0, missing));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Usage;

    fn load(tag: &str, clients: usize, rows_per_s: f64, noisy: bool) -> Record {
        let usage = Usage { cpu_s_per_10k_rows: vec![0.1, 0.2], ..Usage::default() };
        let (tag, work) = (tag.into(), "insert".into());
        Record::Load(LoadRecord { tag, work, clients, rows_per_s, noisy, usage, ..LoadRecord::default() })
    }

    #[test]
    fn a_table_has_ratios_and_aims() {
        let failover = FailoverRecord {
            tag: "sqlited".into(),
            outage_s: 0.8,
            acknowledged: 5,
            found: Some(5),
            ..FailoverRecord::default()
        };
        let records = [
            load("etcd", 64, 100.0, false),
            load("sqlited", 64, 300.0, false),
            load("sqlited", 64, 500.0, false),
            load("sqlited", 64, 9.0, true),
            Record::Failover(failover),
        ];
        let text = table(&records);
        for expected in [
            "| | sqlited | etcd | sqlited ÷ etcd | aim | reached |",
            "| **insert, 64 clients**: rows/s | 400 [n=2] | 100 [n=1] | 4.00 | ≥ 5 × etcd | 80 % |",
            "| 0.30 (0.20 / 0.10) | 0.30 (0.20 / 0.10) | 1.00 | ≤ 0.45 | 150 % |",
            "| **kill -9 of the leader under inserts**: s without an acknowledgement | 0.800 (most 0.800) [n=1] \
             | – | – | ≤ 1 | 125 % |",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
    }

    #[test]
    fn limits_by_table() {
        for (limit, value, share) in
            [(8.0, 16.0, 0.5), (8.0, 4.0, 2.0), (0.0, 3.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, f64::INFINITY)]
        {
            assert_eq!(share_of_limit(limit, value), share, "{limit} {value}");
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replace(&page, "new\n").as_deref(), Some(&*format!("a\nnew\n{END}\nb\n")));
        for page in ["", END, BEGIN, &format!("{END}{BEGIN}")] {
            assert_eq!(replace(page, "new"), None, "{page}");
        }
    }
}
