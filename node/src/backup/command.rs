//! `sqlited restore` and `sqlited verify`: what of a cluster is only in the store becomes a database file again, or is
//! tried out.

use super::catalogue::{Choice, Contents};
use super::objects::{ObjectError, Objects};
use super::repository::Repository;
use super::restore::{Rebuilt, RestoreError, check_integrity, rebuild};
use crate::foreign_directory;
use crate::store::{self, BackupError, ExtensionError, ExtensionsConfig, Loaded, Shelf};
use client::backup::{RestoreReport, RestoreTarget, Restored, VerifyQuery};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// The subcommands.
pub const RESTORE: &str = "restore";
/// Restores, checks, and keeps nothing.
pub const VERIFY: &str = "verify";
/// How far it is goes to standard output, a number on each line.
pub const PROGRESS: &str = "-progress";
/// Where extensions are that the state needs.
pub const EXTENSIONS: &str = "-extensions-path";

/// How often a restore begins anew because what it reads was deleted meanwhile.
const ATTEMPTS: u32 = 3;

/// What is to be restored, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The file of settings.
    pub config: PathBuf,
    /// The cluster.
    pub cluster_id: String,
    /// Which moment.
    pub target: RestoreTarget,
    /// Whether all that is archived after the backup at the target's path is replayed too.
    pub replay: bool,
    /// A file of queries whose answers are compared.
    pub queries: Option<PathBuf>,
    /// Where what it came to is written.
    pub report: Option<PathBuf>,
    /// Whether the file keeps the internal table, by which a cluster goes on with it.
    pub keep_internal: bool,
    /// Whether progress goes to standard output.
    pub progress: bool,
    /// Extensions of SQLite, of all times that the restore goes through.
    pub extensions: Vec<PathBuf>,
    /// Restore: the database file to be. Verify: a directory to work in.
    pub output: PathBuf,
    /// Whether it is a verification.
    pub verify: bool,
}

/// It did not come to a good end.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The settings make no sense.
    #[error("-backup-config: {0}")]
    Config(String),
    /// The state did not come back.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The extensions cannot be used.
    #[error("-extensions-path: {0}")]
    Extensions(#[source] ExtensionError),
    /// The file of queries makes no sense.
    #[error("-queries: {0}")]
    Queries(serde_yaml::Error),
    /// A query answered something else.
    #[error("query {sql:?} answered {found}, not {expected:?}")]
    Query {
        /// The query.
        sql: String,
        /// What it answered.
        found: String,
        /// What it was to answer.
        expected: String,
    },
    /// The internal table could not be left out.
    #[error("write the database: {0}")]
    LeaveOut(#[from] BackupError),
    /// What it came to could not be written as text.
    #[error("the report: {0}")]
    Report(#[from] serde_json::Error),
}

impl CommandError {
    /// Whether the store did not answer, or not as a store that works.
    fn is_unanswered(&self) -> bool {
        let Self::Restore(error) = self else { return false };
        error.object_error().is_some_and(|error| matches!(error, ObjectError::Store { .. }))
    }
}

/// The usage.
pub const USAGE: &str = "\
Usage: sqlited restore -backup-config FILE -cluster-id ID [flags] DATABASE   a cluster's backup as a database file
       sqlited verify  -backup-config FILE -cluster-id ID [flags] DIRECTORY  the same in a directory, checked and removed

Flags:
  -to MOMENT        latest (default), index:N, time:2026-01-31T12:00:00Z, or backup:PATH
  -replay           with -to backup:PATH: go on from there with all that is archived after it, to its end or first hole
  -queries FILE     [{sql, expect}]: queries, and what the first value of their answer must be
  -report FILE      where what it came to is written, as JSON
  -extensions-path PATHS  extensions that the cluster has or had, as its members were given them
  -keep-internal    restore: keep the internal table, by which a cluster would go on with the file
  -progress         how far it is, in hundredths, on standard output
";

fn target_of(text: &str) -> Option<RestoreTarget> {
    match text.split_once(':') {
        None => (text == "latest").then_some(RestoreTarget::Latest {}),
        Some(("index", n)) => n.parse().ok().map(RestoreTarget::Index),
        Some(("time", time)) => Some(RestoreTarget::Time(time.into())),
        Some(("backup", path)) => Some(RestoreTarget::Backup(path.into())),
        Some(_) => None,
    }
}

/// A target as `-to` has it.
pub fn target_text(target: &RestoreTarget) -> String {
    match target {
        RestoreTarget::Latest {} => "latest".into(),
        RestoreTarget::Index(index) => format!("index:{index}"),
        RestoreTarget::Time(time) => format!("time:{time}"),
        RestoreTarget::Backup(path) => format!("backup:{path}"),
    }
}

impl Command {
    /// Reads the arguments after the subcommand's name; an error is the message before the usage.
    pub fn parse(verify: bool, arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let mut command = Self {
            config: PathBuf::new(),
            cluster_id: String::new(),
            target: RestoreTarget::Latest {},
            replay: false,
            queries: None,
            report: None,
            keep_internal: false,
            progress: false,
            extensions: Vec::new(),
            output: PathBuf::new(),
            verify,
        };
        while let Some(argument) = arguments.next() {
            let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                if !command.output.as_os_str().is_empty() {
                    return Err(format!("{argument}: there may be one file or directory, at the end"));
                }
                command.output = argument.into();
                continue;
            };
            let (name, given) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            match name {
                "keep-internal" => command.keep_internal = true,
                "progress" => command.progress = true,
                "replay" => command.replay = true,
                _ => {
                    let known = ["backup-config", "cluster-id", "extensions-path", "to", "queries", "report"];
                    if !known.contains(&name) {
                        return Err(format!("flag provided but not defined: -{name}"));
                    }
                    let value = given
                        .or_else(|| arguments.next())
                        .ok_or_else(|| format!("flag needs an argument: -{name}"))?;
                    command.set(name, value)?;
                }
            }
        }
        for (missing, is_missing) in [
            ("-backup-config", command.config.as_os_str().is_empty()),
            ("-cluster-id", command.cluster_id.is_empty()),
            (
                if verify { "the directory" } else { "the database file" },
                command.output.as_os_str().is_empty(),
            ),
        ] {
            if is_missing {
                return Err(format!("{missing} is missing"));
            }
        }
        if command.replay && !matches!(command.target, RestoreTarget::Backup(_)) {
            return Err("-replay goes on from a backup: name it with -to backup:PATH".into());
        }
        Ok(command)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "backup-config" => self.config = value.into(),
            "cluster-id" => self.cluster_id = value,
            "extensions-path" => {
                self.extensions.extend(value.split(',').filter(|path| !path.is_empty()).map(PathBuf::from));
            }
            "queries" => self.queries = Some(value.into()),
            "report" => self.report = Some(value.into()),
            _ => {
                let what = "none of latest, index:N, time:T, backup:PATH";
                self.target = target_of(&value).ok_or_else(|| format!("-to {value}: {what}"))?;
            }
        }
        Ok(())
    }

    /// Does it, and reports.
    pub async fn run(&self) -> Result<Restored, CommandError> {
        let outcome = self.work().await;
        if let Some(path) = &self.report {
            let report = RestoreReport {
                restored: outcome.as_ref().ok().cloned(),
                message: outcome.as_ref().err().map(ToString::to_string),
                unanswered: outcome.as_ref().is_err_and(CommandError::is_unanswered),
            };
            std::fs::write(path, serde_json::to_vec(&report)?).map_err(at(path))?;
        }
        outcome
    }

    async fn work(&self) -> Result<Restored, CommandError> {
        let repository = Repository::read(&self.config).map_err(CommandError::Config)?;
        let queries: Vec<VerifyQuery> = match &self.queries {
            Some(path) => {
                serde_yaml::from_reader(File::open(path).map_err(at(path))?).map_err(CommandError::Queries)?
            }
            None => Vec::new(),
        };
        if !self.verify && self.output.exists() {
            return Err(at(&self.output)(io::ErrorKind::AlreadyExists.into()));
        }
        let room = WorkRoom::beside(&self.output, self.verify)?;
        let shown = AtomicU8::new(u8::MAX);
        let show = |percent: u8| {
            if self.progress && shown.swap(percent, Ordering::Relaxed) != percent {
                println!("{percent}");
            }
        };
        let objects = repository.cluster(&self.cluster_id).patient();
        // Of all times, so that several may have the same name.
        let extensions = ExtensionsConfig { former: self.extensions.clone(), ..ExtensionsConfig::default() };
        let directory = room.path.clone();
        let shelf = tokio::task::spawn_blocking(move || Shelf::stock(&directory, &extensions)).await;
        let shelf = shelf.map_err(|error| at(&room.path)(error.into()))?.map_err(CommandError::Extensions)?;
        let rebuilt = self.bring_back(&objects, &room, shelf, &show).await?;
        if self.verify {
            check_integrity(rebuilt.database.clone(), rebuilt.extensions.clone()).await?;
        }
        for query in queries {
            ask(&rebuilt.database, &query, &rebuilt.extensions)?;
        }
        if !self.verify {
            self.keep(&rebuilt.database)?;
        }
        Ok(rebuilt.restored)
    }

    /// Retention may delete what was chosen while it is read: then something else brings the moment back.
    async fn bring_back(
        &self,
        objects: &Objects,
        room: &WorkRoom,
        shelf: Shelf,
        show: &(impl Fn(u8) + Sync),
    ) -> Result<Rebuilt, CommandError> {
        let mut choice = self.choose(objects).await?;
        let mut attempt = 1;
        loop {
            let directory = room.path.join(attempt.to_string());
            let error = match rebuild(objects, &choice, &directory, shelf.clone(), show).await {
                Ok(rebuilt) => return Ok(rebuilt),
                Err(error) => error,
            };
            let Some(gone) = missing(&error).filter(|_| attempt < ATTEMPTS) else { return Err(error.into()) };
            choice = self.choose(objects).await?;
            if choice.reads(gone) {
                return Err(error.into());
            }
            std::fs::remove_dir_all(&directory).map_err(at(&directory))?;
            attempt += 1;
        }
    }

    async fn choose(&self, objects: &Objects) -> Result<Choice, CommandError> {
        let contents = match &self.target {
            RestoreTarget::Time(_) => Contents::read_for_times(objects).await,
            _ => Contents::read(objects, None).await,
        };
        let contents = contents.map_err(RestoreError::from)?;
        let choice = match &self.target {
            RestoreTarget::Backup(path) if self.replay => contents.choose_all_after(path),
            target => contents.choose(target),
        };
        Ok(choice.map_err(RestoreError::from)?)
    }

    /// Makes the database the output. It has its name once all of it is on the disk.
    fn keep(&self, database: &Path) -> Result<(), CommandError> {
        if !self.keep_internal {
            store::leave_out_own_tables(database)?;
        }
        File::open(database).and_then(|file| file.sync_all()).map_err(at(database))?;
        std::fs::rename(database, &self.output).map_err(at(&self.output))?;
        let parent = self.output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new("."));
        foreign_directory::sync(directory).map_err(at(directory))
    }
}

/// The object that was not there.
fn missing(error: &RestoreError) -> Option<&str> {
    match error.object_error() {
        Some(ObjectError::Missing(name)) => Some(name),
        _ => None,
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> CommandError + '_ {
    move |source| CommandError::Io { path: path.display().to_string(), source }
}

fn ask(database: &Path, query: &VerifyQuery, extensions: &Loaded) -> Result<(), CommandError> {
    let found = store::first_value(database, &query.sql, extensions);
    let found = found.unwrap_or_else(|error| Some(format!("error: {error}")));
    match found {
        Some(found) if found == query.expect => Ok(()),
        // The report has to fit into what Kubernetes keeps of a container's last words: 4096 bytes.
        found => Err(CommandError::Query {
            sql: in_short(&query.sql),
            found: found.map_or_else(|| "no row".into(), |found| in_short(&format!("{found:?}"))),
            expected: in_short(&query.expect),
        }),
    }
}

/// The beginning of a text that may be long.
fn in_short(text: &str) -> String {
    const LONGEST: usize = 200;
    let beginning: String = text.chars().take(LONGEST).collect();
    if beginning.len() == text.len() { beginning } else { beginning + "…" }
}

/// Where the state is worked on: gone at the end.
struct WorkRoom {
    path: PathBuf,
}

impl WorkRoom {
    /// Beside the file that is to be, on the same disk; for a verification in the directory itself.
    fn beside(output: &Path, verify: bool) -> Result<Self, CommandError> {
        let path = if verify {
            output.join("verify")
        } else {
            let mut name = output.as_os_str().to_owned();
            name.push(".restore");
            name.into()
        };
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
        Ok(Self { path })
    }
}

impl Drop for WorkRoom {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("cannot remove {}: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn arguments_by_table() {
        let parse = |line: &str| Command::parse(false, line.split_whitespace().map(str::to_owned));
        let command =
            parse("-backup-config c --cluster-id=id -to index:7 -keep-internal out.sqlite").unwrap();
        assert_eq!((command.target, command.keep_internal), (RestoreTarget::Index(7), true));
        assert!(parse("-backup-config c -cluster-id i -replay -to backup:a b").unwrap().replay);
        for text in ["latest", "index:3", "time:2026-01-31T12:00:00Z", "backup:a"] {
            assert_eq!(target_text(&target_of(text).unwrap()), text);
        }
        for line in [
            "out",
            "-backup-config c out",
            "-backup-config c -cluster-id i",
            "-backup-config c -cluster-id i a b",
            "-backup-config c -cluster-id i -to yesterday a",
            "-backup-config c -cluster-id i -to index:7 -replay a",
            "-backup-config c -cluster-id i -nope a",
            "-backup-config",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
