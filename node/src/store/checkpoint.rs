//! Moves what the WAL holds into the database file without holding up the writer, and says up to which entry the
//! database file is on disk: the log may be purged up to there, and no further.
//!
//! A thread of its own does the bulk with PASSIVE checkpoints beside the writer; then the writer itself does the rest
//! between two entries, which is short, and is *complete* if no reader still needs older pages. The next commit then
//! starts the WAL anew, so it does not grow.
//!
//! The same thread brings the WAL to the disk bit by bit as it grows. Nobody needs that; but otherwise a checkpoint
//! begins with a sync of all of it, and on a disk that the log shares, the log's syncs wait behind that.
//!
//! A reader that runs for long keeps the WAL from starting anew. It may, until the WAL is large; then it is ended with
//! an error that says so, because writes go before reads that can be asked again.

use super::apply::LocalFailure;
use super::meta::{LogId, StoredMembership};
use crate::failpoint::{Place, pass};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

/// Pages in the WAL (4 KiB each) from which on a checkpoint is due: 16 MiB.
pub const DUE_PAGES: u64 = 4096;
/// The same, while the database's file is a staged one as well: mostly it is not any more before that many are written, and
/// need not be copied.
pub const SHARED_DUE_PAGES: u64 = 4 * DUE_PAGES;
/// So many new pages in the WAL are brought to the disk at once: 1 MiB.
pub const FLUSH_PAGES: u64 = 256;
/// How often the bulk is done: again for what was written meanwhile, so that little is left to the writer.
const PASSES: u32 = 3;
/// Bytes in the WAL from which on readers that keep it from starting anew have to give way, unless said otherwise.
pub const WAL_LIMIT: u64 = 256 << 20;
/// Those that run for longer than this have to.
pub const GIVE_WAY_AGE: Duration = Duration::from_secs(5);

/// One PASSIVE checkpoint; returns whether every frame of the WAL is now in the synced database file. Somebody else's
/// checkpoint at the same time is no failure: then it is not known.
pub fn passive(connection: &Connection) -> Result<bool, LocalFailure> {
    match connection.wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE) {
        Ok((log, checkpointed)) => Ok(log == checkpointed),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
        Err(source) => Err(LocalFailure::Sqlite { what: "checkpoint", source }),
    }
}

/// The bulk of a checkpoint, beside the writer. Being cut short by a reader is no failure.
pub fn bulk(path: &Path) -> Result<(), LocalFailure> {
    let place = |place| pass(place).map_err(|source| LocalFailure::Io { what: "checkpoint", source });
    place(Place::CheckpointDue)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0")?;
        Ok(connection)
    };
    let connection =
        open().map_err(|source| LocalFailure::Sqlite { what: "open for a checkpoint", source })?;
    for _ in 0..PASSES {
        passive(&connection)?;
    }
    place(Place::CheckpointBulk)
}

/// Brings what is in the WAL of the database at `path` to the disk.
pub fn flush_wal(path: &Path) -> Result<(), LocalFailure> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    // Another handle on the WAL is harmless: SQLite's locks are on the other files.
    match File::open(wal).and_then(|wal| wal.sync_data()) {
        // The database was replaced meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        synced => synced.map_err(|source| LocalFailure::Io { what: "sync the WAL", source }),
    }
}

/// The state that the database file has on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Its last entry; none until the first complete checkpoint of this run.
    pub log_id: Option<LogId>,
    /// The membership at that entry.
    pub membership: StoredMembership,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn what_is_in_the_wal_is_synced_or_it_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite");
        flush_wal(&path).unwrap();
        std::fs::write(dir.path().join("t.sqlite-wal"), b"frames").unwrap();
        flush_wal(&path).unwrap();
        std::fs::remove_file(dir.path().join("t.sqlite-wal")).unwrap();
        // A file that takes no sync.
        std::os::unix::fs::symlink("/dev/full", dir.path().join("t.sqlite-wal")).unwrap();
        assert!(matches!(flush_wal(&path), Err(LocalFailure::Io { .. })));
    }

    #[test]
    fn two_checkpoints_at_once_are_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite");
        let open = || {
            let c = Connection::open(&path).unwrap();
            c.execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=NORMAL",
            )
            .unwrap();
            c
        };
        let writer = open();
        writer.execute_batch("CREATE TABLE t(a)").unwrap();
        let (other, begun) = (open(), Barrier::new(2));
        let writer = std::thread::scope(|scope| {
            let begun = &begun;
            let writing = scope.spawn(move || {
                begun.wait();
                for _ in 0..200 {
                    writer.execute_batch("INSERT INTO t VALUES(randomblob(4000))").unwrap();
                    passive(&writer).unwrap();
                }
                writer
            });
            begun.wait();
            while !writing.is_finished() {
                passive(&other).unwrap();
            }
            writing.join().unwrap()
        });
        assert!(passive(&writer).unwrap());
    }
}
