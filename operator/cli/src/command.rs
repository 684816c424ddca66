//! Commands of the shell: lines that begin with a dot.

use crate::render::Mode;
use clap::ValueEnum;
use client::sql::{Level, UnknownLevel};
use std::path::PathBuf;

/// What there is, for `.help`.
const HELP: &[(&str, &str)] = &[
    (".backup FILE", "copy the database into a file"),
    (".blobarray on|off", "show BLOBs as lists of bytes instead of base64"),
    (".boot FILE", "a SQLite file in the place of the database; only on a cluster of one"),
    (".changes on|off", "tell how many rows a write changed"),
    (".consistency [LEVEL]", "how fresh reads are: none, weak, linearizable, strong, auto"),
    (".dump FILE [T,T]", "write the database, or these tables, as SQL into a file"),
    (".exit, .quit", "leave the shell"),
    (".expvar [KEY]", "counters of the member; KEY: one map, as http"),
    (".extensions", "extensions of SQLite that are loaded"),
    (".forcewrites on|off", "send everything to be executed, reads too"),
    (".help", "this list"),
    (".indexes", "indexes and their tables"),
    (".leader", "the member that leads"),
    (".load FILE", "run a file of SQL in one transaction; a SQLite file takes the place of the database"),
    (".mode [MODE]", "how rows are shown: column, csv, json, line, markdown"),
    (".nodes [all]", "members of the cluster; all: read replicas too"),
    (".output [FILE]", "write rows to a file; without a name to the terminal again"),
    (".pager on|off", "show page by page what is larger than the screen"),
    (".read FILE", "run the statements and commands of a file"),
    (".ready", "whether the member is in service"),
    (".reap", "bring the database file up to date on disk"),
    (".remove ID", "remove a member from the cluster"),
    (".restore FILE", "the same as .load"),
    (".schema", "statements that make the tables, indexes, views and triggers"),
    (".show", "what is set at present"),
    (".snapshot [N]", "bring the database file up to date and purge the log; keep N entries"),
    (".status [KEY]", "diagnostics of the member; KEY: a part of them, as store.raft"),
    (".stepdown [ID]", "let another member lead"),
    (".sysdump FILE", "diagnostics of all members that the shell was told of, into a file"),
    (".tables", "tables and views"),
    (".timer on|off", "show how long each statement took"),
];

/// What stands behind a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Argument {
    /// `on` or `off`
    Switch,
    /// A consistency level.
    Level,
    /// A mode.
    Mode,
    /// A file.
    File,
    /// `all`, or nothing.
    All,
    /// Nothing, or what nobody can guess.
    Other,
}

/// Names of all commands.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    HELP.iter().flat_map(|(usage, _)| usage.split([' ', ',']).filter(|word| word.starts_with('.')))
}

/// What stands behind a command, as its line of help says.
pub(crate) fn argument_of(name: &str) -> Argument {
    let Some((usage, _)) = HELP.iter().find(|(usage, _)| usage.split([' ', ',']).any(|word| word == name))
    else {
        return Argument::Other;
    };
    match usage.split(' ').nth(1).unwrap_or_default() {
        "on|off" => Argument::Switch,
        "[LEVEL]" => Argument::Level,
        "[MODE]" => Argument::Mode,
        "FILE" | "[FILE]" => Argument::File,
        "[all]" => Argument::All,
        _ => Argument::Other,
    }
}

/// The text of `.help`.
pub fn help() -> String {
    let lines = HELP.iter().map(|(usage, text)| format!("{usage:<21} {text}\n"));
    lines.chain(["Anything else is SQL and ends with `;`.\n".to_owned()]).collect()
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `.backup`
    Backup(PathBuf),
    /// `.blobarray`
    BlobArray(bool),
    /// `.boot`
    Boot(PathBuf),
    /// `.changes`
    Changes(bool),
    /// `.consistency`: show or set it.
    Consistency(Option<Level>),
    /// `.dump`: all tables, or those with commas between them.
    Dump {
        /// Where to.
        path: PathBuf,
        /// Which; none: all.
        tables: Option<String>,
    },
    /// `.exit`
    Exit,
    /// `.expvar`: all counters, or one map.
    Expvar(Option<String>),
    /// `.extensions`
    Extensions,
    /// `.forcewrites`
    ForceWrites(bool),
    /// `.help`
    Help,
    /// `.indexes`
    Indexes,
    /// `.leader`
    Leader,
    /// `.load`, `.restore`
    Load(PathBuf),
    /// `.mode`: show or set it.
    Mode(Option<Mode>),
    /// `.nodes`
    Nodes {
        /// Read replicas too.
        all: bool,
    },
    /// `.output`: to a file, or to standard output.
    Output(Option<PathBuf>),
    /// `.pager`
    Pager(bool),
    /// `.read`
    Read(PathBuf),
    /// `.ready`
    Ready,
    /// `.reap`
    Reap,
    /// `.remove`
    Remove(String),
    /// `.schema`
    Schema,
    /// `.show`
    Show,
    /// `.snapshot`: keep so many entries.
    Snapshot(Option<u64>),
    /// `.status`: all, or one part.
    Status(Option<String>),
    /// `.stepdown`: for anyone, or for this member.
    StepDown(Option<String>),
    /// `.sysdump`
    SystemDump(PathBuf),
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
        let argument = Some(argument.trim()).filter(|argument| !argument.is_empty());
        let argument = if name == ".dump" { argument } else { argument.map(unquote) };
        let alone = |command| if argument.is_none() { Ok(command) } else { Err(usage(name)) };
        let text = || argument.map(str::to_owned);
        let file = || argument.map(PathBuf::from).ok_or_else(|| usage(name));
        let switch = || match argument {
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            _ => Err(usage(name)),
        };
        match name {
            ".backup" => file().map(Self::Backup),
            ".blobarray" => switch().map(Self::BlobArray),
            ".boot" => file().map(Self::Boot),
            ".changes" => switch().map(Self::Changes),
            ".dump" => dump(argument).ok_or_else(|| usage(name)),
            ".expvar" => Ok(Self::Expvar(text())),
            ".extensions" => alone(Self::Extensions),
            ".forcewrites" => switch().map(Self::ForceWrites),
            ".load" | ".restore" => file().map(Self::Load),
            ".pager" => switch().map(Self::Pager),
            ".reap" => alone(Self::Reap),
            ".snapshot" => match argument.map(str::parse) {
                None => Ok(Self::Snapshot(None)),
                Some(Ok(kept)) => Ok(Self::Snapshot(Some(kept))),
                Some(Err(_)) => Err(usage(name)),
            },
            ".sysdump" => file().map(Self::SystemDump),
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
            ".read" => file().map(Self::Read),
            ".ready" => alone(Self::Ready),
            ".remove" => text().map(Self::Remove).ok_or_else(|| usage(name)),
            ".schema" => alone(Self::Schema),
            ".show" => alone(Self::Show),
            ".status" => Ok(Self::Status(text())),
            ".stepdown" => Ok(Self::StepDown(text())),
            ".tables" => alone(Self::Tables),
            ".timer" => switch().map(Self::Timer),
            _ => Err(CommandError::Unknown(name.into())),
        }
    }
}

fn usage(name: &str) -> CommandError {
    let found = HELP.iter().find(|(usage, _)| usage.split([' ', ',']).any(|word| word == name));
    found.map_or_else(|| CommandError::Unknown(name.into()), |(usage, _)| CommandError::Usage(usage))
}

/// `FILE [T,T]`; a name with spaces is quoted.
fn dump(argument: Option<&str>) -> Option<Command> {
    let argument = argument?;
    let (path, tables) = match argument.rsplit_once(char::is_whitespace) {
        // Of a quoted name this is a part.
        Some((path, tables)) if !tables.ends_with(['"', '\'']) => (path.trim(), Some(tables.to_owned())),
        _ => (argument, None),
    };
    Some(Command::Dump { path: unquote(path).into(), tables })
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
            (".backup b.sqlite", Ok(Command::Backup("b.sqlite".into()))),
            (".backup", Err(CommandError::Usage(".backup FILE"))),
            (".restore 'a b'", Ok(Command::Load("a b".into()))),
            (".dump d.sql", Ok(Command::Dump { path: "d.sql".into(), tables: None })),
            (".dump 'a d.sql' t,u", Ok(Command::Dump { path: "a d.sql".into(), tables: Some("t,u".into()) })),
            (".dump 'a d.sql'", Ok(Command::Dump { path: "a d.sql".into(), tables: None })),
            (".snapshot", Ok(Command::Snapshot(None))),
            (".snapshot 10", Ok(Command::Snapshot(Some(10)))),
            (".snapshot all", Err(CommandError::Usage(".snapshot [N]"))),
            (".expvar http", Ok(Command::Expvar(Some("http".into())))),
            (".forcewrites on", Ok(Command::ForceWrites(true))),
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
