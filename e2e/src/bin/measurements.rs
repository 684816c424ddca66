//! `measurements`: takes what a proof measured into docs/measurements.jsonl, and writes the tables of docs/measurements.md
//! from that. Called by `e2e/prove.sh`.

use anyhow::{Context, Result};
use clap::Parser;
use e2e::measurements::{Run, lines, merged, summary, with_tables};
use std::fs;
use std::path::PathBuf;

/// Keeps what a proof measured.
#[derive(Parser)]
struct Options {
    /// What the tests wrote down.
    #[arg(long)]
    results: PathBuf,
    /// Folder of measurements.jsonl and measurements.md.
    #[arg(long)]
    docs: PathBuf,
    /// The command by which it was measured.
    #[arg(long)]
    command: String,
    /// The commit that was measured.
    #[arg(long)]
    commit: String,
    /// When.
    #[arg(long)]
    date: String,
    /// On what.
    #[arg(long)]
    machine: String,
}

fn main() -> Result<()> {
    let Options { results, docs, command, commit, date, machine } = Options::parse();
    let read = |file: &PathBuf| fs::read_to_string(file).with_context(|| file.display().to_string());
    let (kept, page) = (docs.join("measurements.jsonl"), docs.join("measurements.md"));
    let new = summary(&lines(&read(&results)?)?, &Run { command, commit, date, machine });
    let proofs = merged(lines(&read(&kept)?)?, new);
    let mut text = String::new();
    for proof in &proofs {
        text += &serde_json::to_string(proof)?;
        text.push('\n');
    }
    fs::write(&kept, text)?;
    let before = read(&page)?;
    fs::write(&page, with_tables(&before, &proofs))?;
    Ok(())
}
