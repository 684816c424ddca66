//! The prompt.

use crate::ShellError;
use crate::command::{Command, is_command};
use crate::session::{Flow, Session};
use crate::splitter::Splitter;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Completer, Config, Editor, Helper, Highlighter, Hinter};
use std::path::PathBuf;
use tokio::runtime::Handle;

const PROMPT: &str = "sqlite> ";
/// Lines that are remembered, unless RQLITE_HISTFILESIZE says otherwise.
const HISTORY_LINES: usize = 100;

/// Reads and runs what is typed, until the input ends. Failures are told and do not end it.
pub fn run(session: &mut Session, runtime: &Handle) -> Result<(), ShellError> {
    let lines = history_lines(std::env::var("RQLITE_HISTFILESIZE").ok().as_deref());
    let config = Config::builder()
        .max_history_size(lines)
        .and_then(|config| config.history_ignore_dups(true))
        .map_err(ShellError::Terminal)?
        .auto_add_history(true)
        .build();
    let mut editor =
        Editor::<Statements, DefaultHistory>::with_config(config).map_err(ShellError::Terminal)?;
    editor.set_helper(Some(Statements));
    let history = std::env::home_dir().filter(|_| lines > 0).map(|home| home.join(".sqlite_cli_history"));
    load_history(&mut editor, history.as_ref());
    println!("Statements end with `;`. .help lists the commands, .exit leaves.");
    let outcome = read_and_run(&mut editor, session, runtime);
    if let Some(path) = &history
        && let Err(error) = editor.save_history(path)
    {
        eprintln!("The history could not be saved in {}: {error}", path.display());
    }
    outcome
}

fn read_and_run(
    editor: &mut Editor<Statements, DefaultHistory>,
    session: &mut Session,
    runtime: &Handle,
) -> Result<(), ShellError> {
    loop {
        let input = match editor.readline(PROMPT) {
            Ok(input) => input,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(ShellError::Terminal(error)),
        };
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = run_input(session, &input) => outcome,
                _ = tokio::signal::ctrl_c() => Err(ShellError::Interrupted),
            }
        });
        match outcome {
            Ok(Flow::Continue) => {}
            Ok(Flow::Exit) => return Ok(()),
            Err(error) => error.report(),
        }
    }
}

async fn run_input(session: &mut Session, input: &str) -> Result<Flow, ShellError> {
    if is_command(input) {
        return session.run_command(Command::parse(input)?).await;
    }
    let mut splitter = Splitter::default();
    let complete = splitter.push(input);
    for statement in complete.into_iter().chain(splitter.finish()) {
        session.run_statement(&statement).await?;
    }
    Ok(Flow::Continue)
}

fn load_history(editor: &mut Editor<Statements, DefaultHistory>, path: Option<&PathBuf>) {
    if let Some(path) = path.filter(|path| path.exists())
        && let Err(error) = editor.load_history(path)
    {
        eprintln!("The history could not be read from {}: {error}", path.display());
    }
}

fn history_lines(setting: Option<&str>) -> usize {
    setting.and_then(|setting| setting.parse().ok()).unwrap_or(HISTORY_LINES)
}

/// Lets the editor go on to the next line until a statement is complete.
#[derive(Completer, Helper, Highlighter, Hinter)]
struct Statements;

impl Validator for Statements {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

fn is_complete(input: &str) -> bool {
    let mut splitter = Splitter::default();
    splitter.push(input);
    splitter.push("\n");
    is_command(input) || splitter.is_blank()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_are_complete() {
        for (input, complete) in [
            ("", true),
            (".tables", true),
            ("SELECT 1;", true),
            ("SELECT 1; -- done", true),
            ("SELECT 1", false),
            ("SELECT 1; SELECT", false),
            ("SELECT ';", false),
        ] {
            assert_eq!(is_complete(input), complete, "{input}");
        }
    }

    #[test]
    fn length_of_the_history() {
        for (setting, lines) in [(None, 100), (Some("7"), 7), (Some("0"), 0), (Some("many"), 100)] {
            assert_eq!(history_lines(setting), lines, "{setting:?}");
        }
    }
}
