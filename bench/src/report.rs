//! Records as Markdown tables.

use crate::cli::By;
use crate::record::{FailoverRecord, LoadRecord, Record};
use std::collections::BTreeMap;
use std::fmt::Write;

const LOAD_HEAD: &str = "| target | clients | rows/s, median [min–max] | n | p50 ms | p99 ms | p99.9 ms | \
CPU s per 10,000 rows, by member (client) | KB written a row, by member | flushes a row | RSS MB | errors |
|---|--:|--:|--:|--:|--:|--:|---|---|--:|---|--:|\n";

const FAILOVER_HEAD: &str = "| target | clients | s without an acknowledgement, median [min–max] | n | \
inserts/s before | after | acknowledged | of these missing |
|---|--:|--:|--:|--:|--:|--:|--:|\n";

/// One table a work, one line a target and number of clients, one more table for failovers. Noisy repetitions count
/// only where there are no quiet ones, and are marked.
pub fn tables(records: &[Record]) -> String {
    let mut works: Vec<&str> = Vec::new();
    let mut loads: BTreeMap<(usize, &str, usize), Vec<&LoadRecord>> = BTreeMap::new();
    let mut failovers: BTreeMap<(By, &str, usize), Vec<&FailoverRecord>> = BTreeMap::new();
    for record in records {
        match record {
            Record::Failover(record) => {
                failovers.entry((record.by, &record.tag, record.clients)).or_default().push(record);
            }
            Record::Load(record) => {
                let known = works.iter().position(|work| *work == record.work);
                let work = known.unwrap_or_else(|| {
                    works.push(&record.work);
                    works.len() - 1
                });
                loads.entry((work, &record.tag, record.clients)).or_default().push(record);
            }
        }
    }
    let mut out = String::new();
    let mut last_work = None;
    for ((work, tag, clients), records) in loads {
        if last_work.replace(work) != Some(work) {
            heading(&mut out, works[work], LOAD_HEAD);
        }
        load_line(&mut out, tag, clients, &records);
    }
    let mut last_by = None;
    for ((by, tag, clients), records) in failovers {
        if last_by.replace(by) != Some(by) {
            let title = match by {
                By::Kill => "kill -9 of the leader under inserts",
                By::Transfer => "leadership transfer under inserts",
            };
            heading(&mut out, title, FAILOVER_HEAD);
        }
        failover_line(&mut out, tag, clients, &records);
    }
    out
}

fn heading(out: &mut String, title: &str, head: &str) {
    let gap = if out.is_empty() { "" } else { "\n" };
    // Writing to a String does not fail, here and below.
    let _ = write!(out, "{gap}### {title}\n\n{head}");
}

fn load_line(out: &mut String, tag: &str, clients: usize, records: &[&LoadRecord]) {
    let quiet: Vec<&LoadRecord> = records.iter().copied().filter(|record| !record.noisy).collect();
    let (records, mark) = if quiet.is_empty() { (records, " noisy") } else { (&quiet[..], "") };
    let mid = |value: fn(&LoadRecord) -> f64| median(records.iter().copied().map(value));
    let members = |value: fn(&LoadRecord) -> &[f64]| by_member(records.iter().copied().map(value));
    let flushes: Vec<f64> = records.iter().filter_map(|r| r.usage.disk).map(|d| d.flushes_per_row).collect();
    let flushes = if flushes.is_empty() { String::new() } else { format!("{:.3}", median(flushes)) };
    let kilobytes = |record: &LoadRecord| -> Vec<f64> {
        record.usage.written_bytes_per_row.iter().map(|bytes| bytes / 1024.0).collect()
    };
    let kilobytes: Vec<Vec<f64>> = records.iter().copied().map(kilobytes).collect();
    let _ = writeln!(
        out,
        "| {tag} | {clients} | {} | {}{mark} | {:.2} | {:.2} | {:.2} | {} ({:.2}) | {} | {flushes} | {} | {} |",
        spread(records.iter().map(|r| r.rows_per_s), 0),
        records.len(),
        mid(|r| r.p50_ms),
        mid(|r| r.p99_ms),
        mid(|r| r.p999_ms),
        members(|r| &r.usage.cpu_s_per_10k_rows),
        mid(|r| r.usage.client_cpu_s_per_10k_rows),
        by_member(kilobytes.iter().map(Vec::as_slice)),
        members(|r| &r.usage.rss_mb),
        records.iter().map(|r| r.errors).sum::<usize>(),
    );
}

fn failover_line(out: &mut String, tag: &str, clients: usize, records: &[&FailoverRecord]) {
    let missing =
        |record: &&FailoverRecord| record.found.map(|found| record.acknowledged.saturating_sub(found));
    let missing = records.iter().map(missing).sum::<Option<u64>>();
    let _ = writeln!(
        out,
        "| {tag} | {clients} | {} | {} | {:.0} | {:.0} | {} | {} |",
        spread(records.iter().map(|r| r.outage_s), 3),
        records.len(),
        median(records.iter().map(|r| r.before_per_s)),
        median(records.iter().map(|r| r.after_per_s)),
        records.iter().map(|r| r.acknowledged).sum::<u64>(),
        missing.map_or("not counted".into(), |missing| missing.to_string()),
    );
}

/// `median [min–max]`
fn spread(values: impl Iterator<Item = f64>, digits: usize) -> String {
    let values: Vec<f64> = values.collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.digits$} [{least:.digits$}–{most:.digits$}]", median(values))
}

/// Medians by rank, largest first: the leader may be another member in each repetition.
fn by_member<'a>(records: impl Iterator<Item = &'a [f64]>) -> String {
    let mut ranks: Vec<Vec<f64>> = Vec::new();
    for record in records {
        let mut sorted = record.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        for (rank, value) in sorted.into_iter().enumerate() {
            if ranks.len() <= rank {
                ranks.push(Vec::new());
            }
            ranks[rank].push(value);
        }
    }
    ranks.into_iter().map(|values| format!("{:.2}", median(values))).collect::<Vec<_>>().join(" / ")
}

/// Between the two in the middle if their number is even; 0 of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Usage;

    fn load(work: &str, clients: usize, rows_per_s: f64, noisy: bool) -> Record {
        let usage = Usage {
            cpu_s_per_10k_rows: vec![0.5, 2.0],
            written_bytes_per_row: vec![512.0, 1024.0],
            rss_mb: vec![30.0, 40.0],
            ..Usage::default()
        };
        let (tag, work) = ("ours".into(), work.into());
        Record::Load(LoadRecord { tag, work, clients, rows_per_s, noisy, usage, ..LoadRecord::default() })
    }

    #[test]
    fn medians_by_table() {
        for (values, expected) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![9.0, 1.0, 2.0], 2.0), (vec![1.0, 4.0], 2.5)]
        {
            assert_eq!(median(values.clone()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_number_of_clients_in_order() {
        let failover = FailoverRecord {
            tag: "ours".into(),
            outage_s: 1.5,
            acknowledged: 10,
            found: Some(11),
            ..FailoverRecord::default()
        };
        let records = [
            load("insert", 16, 200.0, false),
            load("insert", 1, 100.0, false),
            load("insert", 1, 300.0, false),
            load("insert", 1, 9.0, true),
            load("bulk", 1, 5.0, true),
            Record::Failover(failover),
        ];
        let text = tables(&records);
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("| ours")).collect();
        let cost = "0.00 | 0.00 | 0.00 | 2.00 / 0.50 (0.00) | 1.00 / 0.50 |  | 40.00 / 30.00 | 0 |";
        assert_eq!(
            lines,
            [
                format!("| ours | 1 | 200 [100–300] | 2 | {cost}"),
                format!("| ours | 16 | 200 [200–200] | 1 | {cost}"),
                format!("| ours | 1 | 5 [5–5] | 1 noisy | {cost}"),
                "| ours | 0 | 1.500 [1.500–1.500] | 1 | 0 | 0 | 10 | 0 |".into(),
            ]
        );
        assert_eq!(text.matches("###").count(), 3);
    }
}
