//! Commands of the shell: lines that begin with a dot.

use crate::render::Mode;
use clap::ValueEnum;
use client::sql::{Level, UnknownLevel};
use std::path::PathBuf;

/// What there is, for `.help`.
const HELP: &[(&str, &str)] = &[
    (".consistency [LEVEL]", "how fresh reads are: none, weak, linearizable, strong, auto"),
    (".exit, .quit", "leave the shell"),
    (".help", "this list"),
    (".indexes", "indexes and their tables"),
    (".leader", "the member that leads"),
    (".mode [MODE]", "how rows are shown: column, csv, json, line, markdown"),
    (".nodes [all]", "members of the cluster; all: read replicas too"),
    (".output [FILE]", "write rows to a file; without a name to the terminal again"),
    (".read FILE", "run the statements and commands of a file"),
    (".ready", "whether the member is in service"),
    (".remove ID", "remove a member from the cluster"),
    (".schema", "statements that make the tables, indexes, views and triggers"),
    (".show", "what is set at present"),
    (".status [KEY]", "diagnostics of the member; KEY: a part of them, as store.raft"),
    (".stepdown [ID]", "let another member lead"),
    (".tables", "tables and views"),
    (".timer on|off", "show how long each statement took"),
];

/// The text of `.help`.
pub fn help() -> String {
    let lines = HELP.iter().map(|(usage, text)| format!("{usage:<21} {text}\n"));
    lines.chain(["Anything else is SQL and ends with `;`.\n".to_owned()]).collect()
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `.consistency`: show or set it.
    Consistency(Option<Level>),
    /// `.exit`
    Exit,
    /// `.help`
    Help,
    /// `.indexes`
    Indexes,
    /// `.leader`
    Leader,
    /// `.mode`: show or set it.
    Mode(Option<Mode>),
    /// `.nodes`
    Nodes {
        /// Read replicas too.
        all: bool,
    },
    /// `.output`: to a file, or to standard output.
    Output(Option<PathBuf>),
    /// `.read`
    Read(PathBuf),
    /// `.ready`
    Ready,
    /// `.remove`
    Remove(String),
    /// `.schema`
    Schema,
    /// `.show`
    Show,
    /// `.status`: all, or one part.
    Status(Option<String>),
    /// `.stepdown`: for anyone, or for this member.
    StepDown(Option<String>),
    /// `.tables`
    Tables,
    /// `.timer`
    Timer(bool),
}

/// A line that begins with a dot and is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such command.
    #[error("{0} is no command; .help lists them")]
    Unknown(String),
    /// It needs something else behind it.
    #[error("write it as: {0}")]
    Usage(&'static str),
    /// There is no such mode.
    #[error("`{0}` is no mode: choose column, csv, json, line or markdown")]
    Mode(String),
    /// There is no such level.
    #[error(transparent)]
    Level(#[from] UnknownLevel),
}

/// Whether a line is a command.
pub fn is_command(line: &str) -> bool {
    line.trim_start().starts_with('.')
}

impl Command {
    /// Reads a line. A semicolon at its end is forgiven.
    pub fn parse(line: &str) -> Result<Self, CommandError> {
        let line = line.trim().trim_end_matches(';').trim_end();
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = Some(unquote(argument.trim())).filter(|argument| !argument.is_empty());
        let alone = |command| if argument.is_none() { Ok(command) } else { Err(usage(name)) };
        let text = || argument.map(str::to_owned);
        match name {
            ".consistency" => Ok(Self::Consistency(argument.map(str::parse).transpose()?)),
            ".exit" | ".quit" => alone(Self::Exit),
            ".help" => Ok(Self::Help),
            ".indexes" => alone(Self::Indexes),
            ".leader" => alone(Self::Leader),
            ".mode" => Ok(Self::Mode(argument.map(mode).transpose()?)),
            ".nodes" => match argument {
                None => Ok(Self::Nodes { all: false }),
                Some("all") => Ok(Self::Nodes { all: true }),
                Some(_) => Err(usage(name)),
            },
            ".output" => Ok(Self::Output(argument.filter(|name| *name != "stdout").map(PathBuf::from))),
            ".read" => argument.map(|path| Self::Read(path.into())).ok_or_else(|| usage(name)),
            ".ready" => alone(Self::Ready),
            ".remove" => text().map(Self::Remove).ok_or_else(|| usage(name)),
            ".schema" => alone(Self::Schema),
            ".show" => alone(Self::Show),
            ".status" => Ok(Self::Status(text())),
            ".stepdown" => Ok(Self::StepDown(text())),
            ".tables" => alone(Self::Tables),
            ".timer" => match argument {
                Some("on") => Ok(Self::Timer(true)),
                Some("off") => Ok(Self::Timer(false)),
                _ => Err(usage(name)),
            },
            _ => Err(CommandError::Unknown(name.into())),
        }
    }
}

fn usage(name: &str) -> CommandError {
    let found = HELP.iter().find(|(usage, _)| usage.split([' ', ',']).any(|word| word == name));
    found.map_or_else(|| CommandError::Unknown(name.into()), |(usage, _)| CommandError::Usage(usage))
}

fn mode(name: &str) -> Result<Mode, CommandError> {
    Mode::from_str(name, true).map_err(|_| CommandError::Mode(name.into()))
}

fn unquote(text: &str) -> &str {
    let within = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_by_table() {
        for (line, expected) in [
            (".help", Ok(Command::Help)),
            ("  .exit ", Ok(Command::Exit)),
            (".quit;", Ok(Command::Exit)),
            (".exit now", Err(CommandError::Usage(".exit, .quit"))),
            (".tables", Ok(Command::Tables)),
            (".nodes", Ok(Command::Nodes { all: false })),
            (".nodes all", Ok(Command::Nodes { all: true })),
            (".nodes some", Err(CommandError::Usage(".nodes [all]"))),
            (".consistency", Ok(Command::Consistency(None))),
            (".consistency Strong", Ok(Command::Consistency(Some(Level::Strong)))),
            (".consistency much", Err(CommandError::Level(UnknownLevel("much".into())))),
            (".mode JSON", Ok(Command::Mode(Some(Mode::Json)))),
            (".mode xml", Err(CommandError::Mode("xml".into()))),
            (".timer on", Ok(Command::Timer(true))),
            (".timer", Err(CommandError::Usage(".timer on|off"))),
            (".read 'a file.sql'", Ok(Command::Read("a file.sql".into()))),
            (".read", Err(CommandError::Usage(".read FILE"))),
            (".output", Ok(Command::Output(None))),
            (".output out.csv", Ok(Command::Output(Some("out.csv".into())))),
            (".status store.raft", Ok(Command::Status(Some("store.raft".into())))),
            (".remove", Err(CommandError::Usage(".remove ID"))),
            (".remove n2", Ok(Command::Remove("n2".into()))),
            (".stepdown", Ok(Command::StepDown(None))),
            (".tabels", Err(CommandError::Unknown(".tabels".into()))),
            (".", Err(CommandError::Unknown(".".into()))),
        ] {
            assert_eq!(Command::parse(line), expected, "{line}");
        }
    }

    #[test]
    fn help_names_what_can_be_parsed() {
        for (usage, _) in HELP {
            let name = usage.split([' ', ',']).next().unwrap_or_default();
            assert!(!matches!(Command::parse(name), Err(CommandError::Unknown(_))), "{name}");
        }
    }
}
