//! Puts another database in the place of the present one, as an entry of the log says.
//!
//! The file is in the staging directory of every member that goes on; here it becomes the next generation. It is not
//! copied, and not changed either, because other members may still fetch it ([`super::staging`]): what has been applied and
//! the membership are written into a WAL beside it, before it is made the present generation, so that a crash leaves the
//! old or the new one, whole. Writes wait for that, and it takes as long for a large database as for a small one.

use super::apply::{Applier, Entry, LocalFailure};
use super::changes;
use super::generation::Generations;
use super::meta::{self, Applied, Meta};
use super::snapshot::ReadySnapshot;
use super::staging::{Sha256Sum, Staging};
use crate::failpoint::{Place, pass};
use crate::raft::command::Replacement;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;

/// The database that an entry puts in the place of the present one, and the entry's time; none for other entries.
pub fn replacement_of(entry: &Entry) -> Result<Option<(Replacement, i64)>, LocalFailure> {
    let command = entry.command();
    let command = command.map_err(|source| LocalFailure::Malformed { index: entry.log_id.index, source })?;
    Ok(command.and_then(|command| Some((command.replacement?, command.context.timestamp_us))))
}

/// Makes a complete, synced generation of the staged file that `entry` names.
pub fn prepare(
    staging: &Staging,
    generations: &Generations,
    present: u64,
    applier: &Applier,
    entry: &Entry,
    (replacement, timestamp_us): (Replacement, i64),
) -> Result<ReadySnapshot, LocalFailure> {
    let io = |what| move |source| LocalFailure::Io { what, source };
    // Not the next number: a snapshot may be on its way into that.
    let generation = present + 2;
    let path = generations.path(generation);
    generations.remove(generation).map_err(io("make room for another database"))?;
    let sum = Sha256Sum(replacement.sha256);
    staging.share(sum, &path).map_err(io("make a database of a staged one"))?;

    let sqlite = |source| LocalFailure::Sqlite { what: "open another database", source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(sqlite)?;
    let before = meta::read_existing(applier.connection())?;
    let applied = Applied {
        log_id: Some(entry.log_id),
        // Entry time never stands still or goes back.
        timestamp_us: timestamp_us.max(applier.applied().timestamp_us.saturating_add(1)),
        ..Applied::default()
    };
    let epoch = if replacement.epoch == 0 { before.epoch } else { replacement.epoch };
    let mark = meta::read_existing(&connection)?.mark;
    let meta = Meta { applied, epoch, membership: applier.membership().clone(), mark, ..before };
    // The file itself is not to be written to, and the WAL is synced by the commit.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(sqlite)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; PRAGMA secure_delete=FAST;
             BEGIN IMMEDIATE",
        )
        .map_err(sqlite)?;
    meta::write_applied(&connection, &meta.applied)?;
    meta::write_membership(&connection, &meta.membership)?;
    meta::write_cluster(&connection, &meta.cluster_id, meta.epoch)?;
    meta::write_maintained(&connection, applier.maintained())?;
    // They are the cluster's, whatever the other database was executed by.
    meta::write_extensions(&connection, &meta.extensions)?;
    meta::write_foreign_keys(&connection, meta.foreign_keys)?;
    changes::carry_over(applier.connection(), &connection).map_err(sqlite)?;
    connection.execute_batch("COMMIT").map_err(sqlite)?;
    connection.close().map_err(|(_, source)| sqlite(source))?;
    File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync another database"))?;
    pass(Place::ReplaceShared).map_err(io("make a database of a staged one"))?;
    Ok(ReadySnapshot { generation, meta })
}
