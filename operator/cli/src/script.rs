//! Statements and commands that nobody types: `-c`, standard input, `.read`. The first failure ends them.

use crate::ShellError;
use crate::command::{Command, is_command};
use crate::session::{Flow, Session};
use crate::splitter::Splitter;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// How many files may read each other.
const MAX_DEPTH: usize = 16;

/// Runs an input, line by line.
pub async fn run(session: &mut Session, input: impl BufRead) -> Result<(), ShellError> {
    run_lines(session, input).await.map(drop)
}

/// Runs a file.
pub async fn read(session: &mut Session, path: &Path) -> Result<Flow, ShellError> {
    if session.depth >= MAX_DEPTH {
        return Err(ShellError::TooDeep { path: path.into() });
    }
    let file = File::open(path).map_err(|source| ShellError::File { path: path.into(), source })?;
    session.depth += 1;
    // Boxed, because a file may read another.
    let flow = Box::pin(run_lines(session, BufReader::new(file))).await;
    session.depth -= 1;
    flow
}

async fn run_lines(session: &mut Session, input: impl BufRead) -> Result<Flow, ShellError> {
    let mut splitter = Splitter::default();
    let mut begun = 1;
    for (at, line) in input.lines().enumerate() {
        let (line, number) = (line.map_err(ShellError::Input)?, at + 1);
        let at_line = |line| move |error| ShellError::Line { line, source: Box::new(error) };
        if splitter.is_blank() {
            begun = number;
            if is_command(&line) {
                let command = Command::parse(&line).map_err(|error| at_line(number)(error.into()))?;
                if session.run_command(command).await.map_err(at_line(number))? == Flow::Exit {
                    return Ok(Flow::Exit);
                }
                continue;
            }
        }
        for statement in splitter.push(&format!("{line}\n")) {
            session.run_statement(&statement).await.map_err(at_line(begun))?;
            begun = number;
        }
    }
    if let Some(statement) = splitter.finish() {
        let failed = |error| ShellError::Line { line: begun, source: Box::new(error) };
        session.run_statement(&statement).await.map_err(failed)?;
    }
    Ok(Flow::Continue)
}
