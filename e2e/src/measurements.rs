//! What proofs measured: kept test by test, so that proving one again leaves the numbers of the others, and shown as the
//! tables of docs/measurements.md. Pure, tested by table.

use crate::ledger::Report;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A line of what a run of tests wrote down: a time, or what became of a ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Name of the test.
    pub test: String,
    /// What was measured.
    pub what: String,
    /// A time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// The most that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_ms: Option<u64>,
    /// A ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Report>,
}

/// How a proof was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// By which command.
    pub command: String,
    /// Of which commit.
    pub commit: String,
    /// On which day.
    pub date: String,
    /// On what.
    pub machine: String,
}

/// What the last proof of a test measured: a line of docs/measurements.jsonl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Name of the test.
    pub test: String,
    /// How it was run.
    #[serde(flatten)]
    pub run: Run,
    /// Sums over all its ledgers, by what was measured.
    #[serde(default)]
    pub ledgers: Vec<Ledgers>,
    /// Times, by what was measured.
    #[serde(default)]
    pub times: Vec<Times>,
}

/// Ledgers of the same happening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledgers {
    /// What was measured.
    pub what: String,
    /// How often.
    pub runs: usize,
    /// Writes due a second.
    pub rate: u32,
    /// How often one was sent again.
    pub retries: u32,
    /// How long each attempt might take.
    pub timeout_ms: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Acknowledged and missing.
    pub lost: usize,
    /// There more than once.
    pub duplicates: usize,
    /// Given up.
    pub failed: u64,
    /// Attempts without success; not counted by earlier ledgers.
    pub attempts_failed: Option<u64>,
    /// Median over the runs of the 99th percentile in peace; none without a time of peace.
    pub baseline_p99_us: Option<u64>,
    /// The same of the time after it.
    pub p99_us: Option<u64>,
    /// Median over the runs of the longest pause.
    pub median_pause_ms: u64,
    /// The longest of all.
    pub longest_pause_ms: u64,
}

/// Times of the same happening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// What was measured.
    pub what: String,
    /// How often.
    pub runs: usize,
    /// Median.
    pub median_ms: u64,
    /// The longest of all.
    pub longest_ms: u64,
    /// The most that it may be.
    pub limit_ms: Option<u64>,
}

/// One value for each line of JSON.
pub fn lines<T: DeserializeOwned>(text: &str) -> Result<Vec<T>> {
    let line = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    text.lines().filter(|line| !line.trim().is_empty()).map(line).collect()
}

/// What a run measured, test by test.
pub fn summary(measured: &[Measured], run: &Run) -> Vec<Proof> {
    let mut tests = BTreeMap::<&str, BTreeMap<&str, Vec<&Measured>>>::new();
    for one in measured {
        tests.entry(&one.test).or_default().entry(&one.what).or_default().push(one);
    }
    let proof = |(test, happenings): (&str, BTreeMap<&str, Vec<&Measured>>)| Proof {
        test: test.to_owned(),
        run: run.clone(),
        ledgers: happenings.iter().filter_map(|(what, all)| ledgers(what, all)).collect(),
        times: happenings.iter().filter_map(|(what, all)| times(what, all)).collect(),
    };
    tests.into_iter().map(proof).collect()
}

fn ledgers(what: &str, measured: &[&Measured]) -> Option<Ledgers> {
    let reports: Vec<_> = measured.iter().filter_map(|one| one.ledger.as_ref()).collect();
    let first = reports.first()?;
    let pauses = sorted(reports.iter().map(|report| report.longest_gap.length_ms));
    let in_peace = reports.iter().filter(|report| report.baseline.writes > 0);
    Some(Ledgers {
        what: what.to_owned(),
        runs: reports.len(),
        rate: first.rate,
        retries: first.retries,
        timeout_ms: first.timeout_ms,
        acknowledged: reports.iter().map(|report| report.acknowledged).sum(),
        lost: reports.iter().map(|report| report.lost.len()).sum(),
        duplicates: reports.iter().map(|report| report.duplicates.len()).sum(),
        failed: reports.iter().map(|report| report.failed + report.unknown).sum(),
        attempts_failed: Some(reports.iter().map(|report| report.attempts_failed).sum()),
        baseline_p99_us: median(&sorted(in_peace.map(|report| report.baseline.p99_us))),
        p99_us: median(&sorted(reports.iter().map(|report| report.latency.p99_us))),
        median_pause_ms: median(&pauses)?,
        longest_pause_ms: *pauses.last()?,
    })
}

fn times(what: &str, measured: &[&Measured]) -> Option<Times> {
    let times = sorted(measured.iter().filter_map(|one| one.milliseconds));
    Some(Times {
        what: what.to_owned(),
        runs: times.len(),
        median_ms: median(&times)?,
        longest_ms: *times.last()?,
        limit_ms: measured.iter().find_map(|one| one.limit_ms),
    })
}

fn sorted(values: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values
}

fn median(sorted: &[u64]) -> Option<u64> {
    sorted.get(sorted.len() / 2).copied()
}

/// The proofs there were, with the new ones in the place of those of the same tests.
pub fn merged(kept: Vec<Proof>, new: Vec<Proof>) -> Vec<Proof> {
    let all = kept.into_iter().chain(new).map(|proof| (proof.test.clone(), proof));
    all.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// What stands above the first section of docs/measurements.md.
pub fn page(proofs: &[Proof]) -> String {
    let mut machines: Vec<_> = proofs.iter().map(|proof| proof.run.machine.as_str()).collect();
    machines.sort_unstable();
    machines.dedup();
    let mut page = format!("# Measurements\n\n{INTRODUCTION}\n\n");
    // Written to a string, which takes everything.
    let _ = writeln!(page, "Machines: {}.\n", numbered(&machines));
    let measured = |proof: &Proof| {
        let machine = machines.iter().position(|machine| *machine == proof.run.machine).unwrap_or_default();
        format!("`{}`, {}, on ({}) | `{}`", proof.run.commit, proof.run.date, machine + 1, proof.run.command)
    };
    page.push_str(
        "| what | runs | client | acknowledged | lost | written twice | failed | attempts without success \
         | p99 in peace | p99 | pause, median | pause, longest | measured | by |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (proof, row) in proofs.iter().flat_map(|proof| proof.ledgers.iter().map(move |row| (proof, row))) {
        let _ = writeln!(page, "| {} | {} |", row.cells(), measured(proof));
    }
    page.push_str(
        "\n| what | runs | median | longest | aim | measured | by |\n|---|---|---|---|---|---|---|\n",
    );
    for (proof, row) in proofs.iter().flat_map(|proof| proof.times.iter().map(move |row| (proof, row))) {
        let _ = writeln!(page, "| {} | {} |", row.cells(), measured(proof));
    }
    page
}

const INTRODUCTION: &str = "By `make prove`, from docs/measurements.jsonl; what stands below the tables was \
measured by other commands. Members and operator are compiled as releases; until 29 November 2026, as the \
tests are. An open loop: writes are sent when they are due, whatever became of those before. 200/s, \
250 ms, 2 retries: the client sends 200 writes a second, waits 250 ms for each answer and sends a write again at most \
twice, under one `Idempotency-Key`; one that failed was given up. p99 is the 99th percentile of the time from when a \
write was due to its acknowledgement, the median of the runs; in peace, before anything was changed, and from then on. \
A pause is the longest time between two acknowledgements. Of what is changed on purpose, p99 may be at most \
5 × max(p99 in peace, 5 ms): below that, the moment at which a thread gets its processor decides.";

fn numbered(machines: &[&str]) -> String {
    let numbered = (1..).zip(machines).map(|(number, machine)| format!("({number}) {machine}"));
    numbered.collect::<Vec<_>>().join("; ")
}

fn seconds(ms: u64) -> String {
    format!("{} s", ms as f64 / 1e3)
}

fn or_dash(value: Option<u64>, told: impl Fn(u64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), told)
}

impl Ledgers {
    fn cells(&self) -> String {
        let ms = |us| format!("{} ms", us as f64 / 1e3);
        [
            self.what.clone(),
            self.runs.to_string(),
            format!("{}/s, {} ms, {} retries", self.rate, self.timeout_ms, self.retries),
            self.acknowledged.to_string(),
            self.lost.to_string(),
            self.duplicates.to_string(),
            self.failed.to_string(),
            or_dash(self.attempts_failed, |count| count.to_string()),
            or_dash(self.baseline_p99_us, ms),
            or_dash(self.p99_us, ms),
            seconds(self.median_pause_ms),
            seconds(self.longest_pause_ms),
        ]
        .join(" | ")
    }
}

impl Times {
    fn cells(&self) -> String {
        [
            self.what.clone(),
            self.runs.to_string(),
            seconds(self.median_ms),
            seconds(self.longest_ms),
            or_dash(self.limit_ms, seconds),
        ]
        .join(" | ")
    }
}

/// The page with other tables: what begins with the first section stays.
pub fn with_tables(page_before: &str, proofs: &[Proof]) -> String {
    let sections = page_before.find("\n## ").map_or("", |at| &page_before[at..]);
    format!("{}{sections}", page(proofs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Account, Gap, Latency};
    use std::fs;
    use std::path::Path;

    fn run(commit: &str) -> Run {
        let [command, date, machine] = ["make prove", "2026-11-28", "2 cores"].map(str::to_owned);
        Run { command, commit: commit.to_owned(), date, machine }
    }

    fn ledger(test: &str, pause: u64, failed: u64) -> Measured {
        let latency = |p99_us| Latency { writes: 10, p50_us: 1, p99_us };
        let account = Account {
            acknowledged: 100,
            failed,
            attempts_failed: 3,
            longest_gap: Gap { begins_ms: 0, length_ms: pause },
            baseline: latency(2_000),
            latency: latency(pause * 1_000),
            ..Account::default()
        };
        let report = Report { rate: 200, retries: 2, timeout_ms: 250, duration_ms: 1, account };
        Measured {
            test: test.to_owned(),
            what: "leader killed".to_owned(),
            milliseconds: None,
            limit_ms: None,
            ledger: Some(report),
        }
    }

    fn time(test: &str, milliseconds: u64) -> Measured {
        let what = "create to Ready".to_owned();
        Measured {
            test: test.to_owned(),
            what,
            milliseconds: Some(milliseconds),
            limit_ms: Some(12_000),
            ledger: None,
        }
    }

    #[test]
    fn runs_of_a_test_become_one_line() {
        let measured = [
            ledger("a", 30, 0),
            time("a", 9),
            ledger("a", 10, 1),
            ledger("a", 20, 0),
            time("b", 7),
            time("a", 5),
        ];
        // As the file of results has them.
        let text: String = measured.iter().map(|one| serde_json::to_string(one).unwrap() + "\n").collect();
        let proofs = summary(&lines(&text).unwrap(), &run("1"));
        assert_eq!(proofs.iter().map(|proof| proof.test.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let [killed] = &proofs[0].ledgers[..] else { panic!("{proofs:?}") };
        assert_eq!((killed.runs, killed.acknowledged, killed.failed), (3, 300, 1));
        assert_eq!((killed.attempts_failed, killed.baseline_p99_us), (Some(9), Some(2_000)));
        assert_eq!(killed.p99_us, Some(20_000));
        assert_eq!((killed.median_pause_ms, killed.longest_pause_ms), (20, 30));
        let [created] = &proofs[0].times[..] else { panic!("{proofs:?}") };
        assert_eq!((created.runs, created.median_ms, created.longest_ms), (2, 9, 9));
        assert_eq!(created.limit_ms, Some(12_000));
        assert!(proofs[1].ledgers.is_empty());
    }

    #[test]
    fn tests_that_were_not_run_keep_their_numbers() {
        let before = summary(&[time("a", 1), time("b", 2)], &run("1"));
        let after = merged(before.clone(), summary(&[time("b", 3), time("c", 4)], &run("2")));
        let told: Vec<_> = after
            .iter()
            .map(|proof| (proof.test.as_str(), proof.run.commit.as_str(), proof.times[0].longest_ms))
            .collect();
        assert_eq!(told, [("a", "1", 1), ("b", "2", 3), ("c", "2", 4)]);
        assert_eq!(merged(before.clone(), Vec::new()), before);
    }

    #[test]
    fn the_page_names_commit_and_command_and_keeps_its_sections() {
        let proofs = summary(&[ledger("a", 30, 0), time("a", 900)], &run("1cf529a"));
        let before = "# Measurements\n\nold | table\n\n## By hand\nstays\n\n## Scale\nstays too\n";
        let page = with_tables(before, &proofs);
        let rows = [
            "| leader killed | 1 | 200/s, 250 ms, 2 retries | 100 | 0 | 0 | 0 | 3 | 2 ms | 30 ms | 0.03 s | 0.03 s \
             | `1cf529a`, 2026-11-28, on (1) | `make prove` |",
            "| create to Ready | 1 | 0.9 s | 0.9 s | 12 s | `1cf529a`, 2026-11-28, on (1) | `make prove` |",
        ];
        for row in rows {
            assert!(page.lines().any(|line| line == row), "{page}");
        }
        assert!(page.ends_with("\n\n## By hand\nstays\n\n## Scale\nstays too\n"), "{page}");
        assert!(!page.contains("old"), "{page}");
        assert_eq!(with_tables(&page, &proofs), page);
    }

    #[test]
    fn the_page_of_the_documentation_is_what_was_measured() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let proofs = lines(&fs::read_to_string(docs.join("measurements.jsonl")).unwrap()).unwrap();
        let page = fs::read_to_string(docs.join("measurements.md")).unwrap();
        assert_eq!(page, with_tables(&page, &proofs), "`make prove` writes it; edit only below the tables");
    }
}
