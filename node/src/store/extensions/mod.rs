//! Extensions of SQLite that the members of a cluster have alike.
//!
//! Which ones is part of the replicated state ([`ExtensionSet`] in the internal table) and changes only by an entry of the
//! log: what an entry does depends on the functions that it calls, so every member must execute it with the same ones. What
//! a member was configured with goes onto its [`Shelf`], beside what it had before; whatever set the state names is loaded
//! from there ([`Loaded`]) and put on each connection that compiles statements of users or checks a database.

mod archive;
mod library;
mod loaded;
mod set;
mod shelf;
mod sources;

pub use loaded::Loaded;
pub use set::{ExtensionFile, ExtensionSet};
pub use shelf::Shelf;

use std::io;
use std::path::{Path, PathBuf};

/// What a member is configured with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionsConfig {
    /// Files, directories and archives of extensions.
    pub paths: Vec<PathBuf>,
    /// The same of extensions that it does not want, and may need for the entries of before.
    pub former: Vec<PathBuf>,
    /// Modules whose virtual tables writes may use.
    pub modules: Vec<String>,
}

/// Extensions cannot be used as they were configured, or as the replicated state needs them.
#[derive(Debug, thiserror::Error)]
pub enum ExtensionError {
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be one of a set.
    #[error("{path}: {what}")]
    Refused {
        /// Which.
        path: String,
        /// Why not.
        what: String,
    },
    /// It is no shared library that this system can load.
    #[error("{name}: it cannot be loaded as a shared library: {message}")]
    NotLoaded {
        /// The file.
        name: String,
        /// What the system says.
        message: String,
    },
    /// It is not an extension of SQLite.
    #[error(
        "{name}: it is a shared library, but no extension of SQLite: it has none of the entry points {looked_for}; name it \
         after its entry point, or leave it out"
    )]
    NoEntryPoint {
        /// The file.
        name: String,
        /// What it was to have.
        looked_for: String,
    },
    /// It could not be put on a connection.
    #[error("{name}: {source}")]
    NotInstalled {
        /// The file.
        name: String,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The state needs what is not here.
    #[error(
        "the state needs the extensions {needed}, and of these {missing} is not here: start this program with \
         -extensions-path naming files with the same contents"
    )]
    Missing {
        /// All that it needs.
        needed: ExtensionSet,
        /// What is not here.
        missing: String,
    },
}

impl ExtensionError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.display().to_string(), source }
    }

    fn refused(path: &Path, what: impl Into<String>) -> Self {
        Self::Refused { path: path.display().to_string(), what: what.into() }
    }
}
