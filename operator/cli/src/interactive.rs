//! The prompt.

use crate::ShellError;
use crate::command::{Command, is_command};
use crate::complete::{candidates, wants_file};
use crate::highlight::highlight;
use crate::session::{Flow, Session};
use crate::splitter::Splitter;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper, Hinter};
use std::borrow::Cow;
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
        .completion_type(CompletionType::List)
        .build();
    let mut editor =
        Editor::<Statements, DefaultHistory>::with_config(config).map_err(ShellError::Terminal)?;
    let coloured = std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    editor.set_helper(Some(Statements { names: Vec::new(), files: FilenameCompleter::new(), coloured }));
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
        if let Some(names) = runtime.block_on(session.changed_names())
            && let Some(statements) = editor.helper_mut()
        {
            statements.names = names;
        }
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

/// What the editor knows of SQL: where a statement is complete, what may be completed, in which colours.
#[derive(Helper, Hinter)]
struct Statements {
    names: Vec<String>,
    files: FilenameCompleter,
    coloured: bool,
}

impl Validator for Statements {
    /// Lets the editor go on to the next line until a statement is complete.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) {
            ValidationResult::Valid(None)
        } else {
            ValidationResult::Incomplete
        })
    }
}

impl Completer for Statements {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        if is_command(line) && wants_file(before) {
            return self.files.complete_path(line, at);
        }
        let (start, found) = candidates(before, &self.names);
        let pair = |word: String| Pair { display: word.clone(), replacement: word };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl Highlighter for Statements {
    fn highlight<'l>(&self, line: &'l str, _at: usize) -> Cow<'l, str> {
        if self.coloured { highlight(line) } else { line.into() }
    }

    fn highlight_char(&self, _line: &str, _at: usize, _kind: CmdKind) -> bool {
        self.coloured
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
