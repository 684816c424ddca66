//! What a measurement leaves: one JSON line.

use crate::BenchError;
use crate::cli::By;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Record {
    /// Of `bench failover`.
    Failover(FailoverRecord),
    /// Of `bench run`.
    Load(LoadRecord),
}

/// One repetition of a work with a number of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadRecord {
    /// What was measured.
    pub tag: String,
    /// What clients did.
    pub work: String,
    /// How many there were.
    pub clients: usize,
    /// Which repetition.
    pub repetition: usize,
    /// Measured seconds.
    pub seconds: f64,
    /// Acknowledged operations.
    pub operations: usize,
    /// Acknowledged rows a second.
    pub rows_per_s: f64,
    /// Half of the operations took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// 999 of 1000 took no longer.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// Operations and connections that failed.
    pub errors: usize,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    /// Whether other processes used too much of the machine.
    pub noisy: bool,
    /// What it cost.
    #[serde(flatten)]
    pub usage: Usage,
}

/// What the processes used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds of each server for 10,000 rows.
    pub cpu_s_per_10k_rows: Vec<f64>,
    /// Bytes that each server made dirty for a row: at most so many reached the disk.
    pub written_bytes_per_row: Vec<f64>,
    /// Memory of each server at the end.
    pub rss_mb: Vec<f64>,
    /// CPU seconds of this program for 10,000 rows.
    pub client_cpu_s_per_10k_rows: f64,
    /// CPU seconds a second that neither the servers nor this program used.
    pub other_cpu_per_s: f64,
    /// Share of the machine's time that its host took.
    pub stolen: f64,
    /// What the disk did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskUsage>,
}

/// What the disk did, for all processes of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// Bytes written.
    pub bytes_per_row: f64,
    /// Write requests.
    pub writes_per_row: f64,
    /// Flushes of its cache.
    pub flushes_per_row: f64,
}

/// The leader was killed under inserts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// What was measured.
    pub tag: String,
    /// How leadership was lost.
    #[serde(default)]
    pub by: By,
    /// Number of clients.
    pub clients: usize,
    /// Longest time after the kill without an acknowledgement.
    pub outage_s: f64,
    /// When that began, after the kill.
    pub outage_began_s: f64,
    /// Acknowledged inserts a second before the kill.
    pub before_per_s: f64,
    /// The same in the last three seconds.
    pub after_per_s: f64,
    /// Acknowledged inserts.
    pub acknowledged: u64,
    /// Inserts that the survivors have: more than acknowledged where an answer was lost, never fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// Operations and connections that failed.
    pub errors: usize,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
}

/// Where records go: to the standard output, and to a file.
#[derive(Debug)]
pub struct Journal {
    file: Option<(PathBuf, File)>,
}

impl Journal {
    /// Appends to `path`, if there is one.
    pub fn open(path: Option<&Path>) -> Result<Self, BenchError> {
        let open = |path: &Path| match OpenOptions::new().create(true).append(true).open(path) {
            Ok(file) => Ok((path.to_owned(), file)),
            Err(source) => Err(BenchError::File { path: path.into(), source }),
        };
        Ok(Self { file: path.map(open).transpose()? })
    }

    /// Writes a record.
    pub fn write(&mut self, record: &Record) -> Result<(), BenchError> {
        let line = serde_json::to_string(record).map_err(BenchError::Encode)?;
        println!("{line}");
        if let Some((path, file)) = &mut self.file {
            writeln!(file, "{line}").map_err(|source| BenchError::File { path: path.clone(), source })?;
        }
        Ok(())
    }
}

/// Reads the records of files.
pub fn read(files: &[PathBuf]) -> Result<Vec<Record>, BenchError> {
    let mut records = Vec::new();
    for path in files {
        let failed = |source| BenchError::File { path: path.clone(), source };
        for (at, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
            let record = serde_json::from_str(&line.map_err(failed)?);
            let line = at + 1;
            records.push(record.map_err(|source| BenchError::Record { path: path.clone(), line, source })?);
        }
    }
    Ok(records)
}

/// Reads the records of a file that need not be there yet.
pub fn read_if_any(path: &Path) -> Result<Vec<Record>, BenchError> {
    if path.exists() { read(&[path.to_owned()]) } else { Ok(Vec::new()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("records.jsonl");
        let records = [
            Record::Load(LoadRecord { work: "insert".into(), rows_per_s: 12.5, ..LoadRecord::default() }),
            Record::Failover(FailoverRecord { outage_s: 1.25, found: Some(3), ..FailoverRecord::default() }),
        ];
        let mut journal = Journal::open(Some(&path)).unwrap();
        records.iter().for_each(|record| journal.write(record).unwrap());
        assert_eq!(read(&[path]).unwrap(), records);
    }
}
