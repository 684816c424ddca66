//! rqlite's own backups: the database as `/db/backup` gives it, put at one place again and again (`-auto-backup`), and
//! taken from there by a new cluster (`-auto-restore`). Beside [the archive](super) it is what a command line of rqlite's
//! asks for: one object, as old as the interval, without a catalogue.

mod config;
mod place;
mod restore;
mod upload;

pub use config::{AutoBackupConfig, AutoRestoreConfig};
pub use place::PlaceError;
pub use restore::{AutoRestore, AutoRestoreError, is_pending};
pub use upload::{AutoBackups, LastBackup};

pub(super) use place::Place;
