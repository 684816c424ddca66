//! The member's own table inside the database: what has been applied, and to which cluster it belongs.
//!
//! It is one row with one BLOB of fixed size, written through SQLite's incremental I/O inside the entry's transaction:
//! an UPDATE would change `changes()` and `total_changes()`, which are part of what users see. The row lives and dies
//! with the data, so a copy of the database always knows up to where it goes.
//!
//! ```text
//! offset  0  magic "SQLDMETA" · format u32 · sum u32 of these and of what follows up to the epoch
//!        16  applied term u64 · applied leader u64 · applied index + 1 u64 (0 = nothing)
//!        40  last timestamp i64 (µs) · last_insert_rowid i64 · changes i64 · total_changes i64
//!        72  epoch u64
//!        80  cluster id: length u8 · 63 bytes
//!       144  membership term u64 · leader u64 · index + 1 u64 (0 = none) · length u32 · bytes · sum u32
//!     57344  extensions: length u32 (0 = none) · bytes · sum u32
//!     61440  mark: length u32 (0 = none) · bytes
//!     65512  foreign keys u8 (0 = nothing is said, 1 = off, 2 = on) · reserved [3]
//!     65516  sum u32 of epoch and cluster id
//!     65520  last automatic VACUUM i64 (µs, 0 = none) · last automatic optimization i64
//! ```
//! Sums are CRC-32C. What the disk changed here would be another position or other members, which shows too late by the
//! checksum of the state. Format 1 has none: a database that was made with it keeps it, because the bytes of the row are the
//! same on every replica.

use super::damage::tells_of_damage;
use super::extensions::ExtensionSet;
use super::foreign_keys;
use rusqlite::blob::Blob;
use rusqlite::{Connection, MAIN_DB, OptionalExtension};
use std::io::{Read, Seek, SeekFrom, Write};

/// Name of the table; users can neither read nor change it.
pub const TABLE: &str = "_sqlited_meta";
/// Prefix of names that are the product's own.
pub const RESERVED_PREFIX: &str = "_sqlited_";

const MAGIC: &[u8; 8] = b"SQLDMETA";
const FORMAT: u32 = 2;
const UNSUMMED: u32 = 1;
const FORMAT_AT: u64 = 8;
const APPLIED_SUM_AT: u64 = 12;
const APPLIED_AT: u64 = 16;
const EPOCH_AT: u64 = 72;
const MEMBERSHIP_AT: u64 = 144;
const MEMBERSHIP_HEAD: usize = 28;
const EXTENSIONS_AT: u64 = 56 * 1024;
/// Bytes that the extensions may take.
pub const EXTENSIONS_ROOM: usize = (MARK_AT - EXTENSIONS_AT) as usize - 8;
const MARK_AT: u64 = 60 * 1024;
const SIZE: usize = 64 * 1024;
const MAINTAINED_AT: u64 = SIZE as u64 - 16;
const CLUSTER_SUM_AT: u64 = MAINTAINED_AT - 4;
const FOREIGN_KEYS_AT: u64 = CLUSTER_SUM_AT - 4;

/// Position of an entry in Raft's log, free of any Raft library's types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// Term of the leader that proposed it.
    pub term: u64,
    /// Raft id of that leader.
    pub leader: u64,
    /// Index in the log; the first entry of a cluster has 0.
    pub index: u64,
}

/// What is written with every entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last entry applied; none in a new database.
    pub log_id: Option<LogId>,
    /// The clock of the last entry, in microseconds since 1970: the next one is later.
    pub timestamp_us: i64,
    /// What `last_insert_rowid()` returns.
    pub last_insert_rowid: i64,
    /// What `changes()` returns.
    pub changes: i64,
    /// What `total_changes()` returns.
    pub total_changes: i64,
}

impl Applied {
    /// Index of the last entry applied.
    pub fn index(&self) -> Option<u64> {
        self.log_id.map(|id| id.index)
    }
}

/// When what is done for the database at an interval was done last, or its interval began: by the clock of the entries, in
/// microseconds since 1970; 0 if that never happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// An automatic VACUUM.
    pub vacuum_us: i64,
    /// An automatic optimization.
    pub optimize_us: i64,
}

/// The membership of the last membership entry that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredMembership {
    /// That entry.
    pub log_id: Option<LogId>,
    /// The membership, encoded by the Raft layer; empty if there was none.
    pub bytes: Vec<u8>,
}

/// The whole row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// What is written with every entry.
    pub applied: Applied,
    /// Raised by the recovery from a lost quorum.
    pub epoch: u64,
    /// Of which cluster the data are; empty before the first entry.
    pub cluster_id: String,
    /// The last membership.
    pub membership: StoredMembership,
    /// By which extensions entries are executed.
    pub extensions: ExtensionSet,
    /// Whether entries are executed with foreign keys enforced; none if each member goes by what it was started with.
    pub foreign_keys: Option<bool>,
    /// What the state itself says of how it came here; empty if it did not come from elsewhere. It is in the file before
    /// an entry names that file, so that every member has the same, and lasts until another database takes its place.
    pub mark: Vec<u8>,
}

/// How far a state is, as clients carry it from one member to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The cluster's epoch; positions of different epochs have nothing to do with each other.
    pub epoch: u64,
    /// Index of the last entry applied.
    pub index: u64,
}

/// The internal table could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// SQLite failed.
    #[error("internal table: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Its BLOB could not be read or written.
    #[error("internal table: {0}")]
    Blob(#[from] std::io::Error),
    /// It is of another version.
    #[error("internal table: {0}; the database was not written by this version of sqlited")]
    Format(&'static str),
    /// It is not what was written there.
    #[error("internal table: {0}; the database is damaged, or is none of sqlited")]
    Damaged(&'static str),
    /// A value does not fit.
    #[error("internal table: {0} is too long")]
    TooLong(&'static str),
}

impl MetaError {
    /// What SQLite said, if that is the cause.
    pub fn sqlite(&self) -> Option<&rusqlite::Error> {
        match self {
            Self::Sqlite(error) => Some(error),
            Self::Blob(error) => error.get_ref()?.downcast_ref(),
            Self::Format(_) | Self::Damaged(_) | Self::TooLong(_) => None,
        }
    }

    /// Whether the cause is that the database's file cannot be read, or is not what was written there.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_)) || self.sqlite().is_some_and(tells_of_damage)
    }
}

/// Creates the table in a database that has none.
pub fn create(connection: &Connection) -> Result<(), MetaError> {
    connection
        .execute_batch(&format!("CREATE TABLE {TABLE}(id INTEGER PRIMARY KEY, state BLOB NOT NULL)"))?;
    let mut state = vec![0; SIZE];
    state[..8].copy_from_slice(MAGIC);
    state[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let sum = applied_sum(&state[FORMAT_AT as usize..], &state[APPLIED_AT as usize..]);
    state[12..16].copy_from_slice(&sum.to_le_bytes());
    connection.execute(&format!("INSERT INTO {TABLE}(id, state) VALUES(1, ?1)"), [state])?;
    Ok(())
}

/// Creates the table in a database that has none, of a state that is `meta`.
pub fn create_of(connection: &Connection, meta: &Meta) -> Result<(), MetaError> {
    create(connection)?;
    write_cluster(connection, &meta.cluster_id, meta.epoch)?;
    write_membership(connection, &meta.membership)?;
    write_applied(connection, &meta.applied)?;
    write_extensions(connection, &meta.extensions)?;
    write_foreign_keys(connection, meta.foreign_keys)?;
    write_mark(connection, &meta.mark)
}

/// Reads the row; none if the database has no such table.
pub fn read(connection: &Connection) -> Result<Option<Meta>, MetaError> {
    let exists = connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", [TABLE], |_| Ok(()))
        .optional()?;
    if exists.is_none() {
        return Ok(None);
    }
    let mut state = vec![0; SIZE];
    open(connection, true)?.read_exact(&mut state)?;
    decode(&state).map(Some)
}

/// Reads the row of a database that has it.
pub fn read_existing(connection: &Connection) -> Result<Meta, MetaError> {
    read(connection)?.ok_or(MetaError::Damaged("it is missing"))
}

/// Reads how far the state is: the part of the row that every query looks at.
pub fn read_position(connection: &Connection) -> Result<Position, MetaError> {
    let mut part = [0; (EPOCH_AT - APPLIED_AT) as usize + 8];
    let mut blob = open(connection, true)?;
    blob.seek(SeekFrom::Start(APPLIED_AT))?;
    blob.read_exact(&mut part)?;
    let word = |at: usize| part[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    Ok(Position { epoch: word((EPOCH_AT - APPLIED_AT) as usize), index: word(16).saturating_sub(1) })
}

/// Writes what changes with every entry. Part of the caller's transaction.
pub fn write_applied(connection: &Connection, applied: &Applied) -> Result<(), MetaError> {
    let mut part = [0; 56];
    let counters = [applied.timestamp_us, applied.last_insert_rowid, applied.changes, applied.total_changes];
    let words = log_id_words(applied.log_id).into_iter().chain(counters.map(|n| n as u64));
    for (chunk, word) in part.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let sum = applied_sum(&FORMAT.to_le_bytes(), &part);
    write_summed(connection, (APPLIED_AT, &part), (APPLIED_SUM_AT, sum))
}

/// Writes the membership. Part of the caller's transaction.
pub fn write_membership(connection: &Connection, membership: &StoredMembership) -> Result<(), MetaError> {
    if membership.bytes.len() > (EXTENSIONS_AT - MEMBERSHIP_AT) as usize - MEMBERSHIP_HEAD - 4 {
        return Err(MetaError::TooLong("the membership"));
    }
    let mut part = Vec::with_capacity(MEMBERSHIP_HEAD + membership.bytes.len());
    for word in log_id_words(membership.log_id) {
        part.extend_from_slice(&word.to_le_bytes());
    }
    part.extend_from_slice(&(membership.bytes.len() as u32).to_le_bytes());
    part.extend_from_slice(&membership.bytes);
    write_summed(connection, (MEMBERSHIP_AT, &part), (MEMBERSHIP_AT + part.len() as u64, sum(&part)))
}

/// Writes which extensions entries are executed by. Part of the caller's transaction.
pub fn write_extensions(connection: &Connection, extensions: &ExtensionSet) -> Result<(), MetaError> {
    let bytes = extensions.encode();
    if bytes.len() > EXTENSIONS_ROOM {
        return Err(MetaError::TooLong("the set of extensions"));
    }
    let part = [&(bytes.len() as u32).to_le_bytes(), bytes.as_slice()].concat();
    write_summed(connection, (EXTENSIONS_AT, &part), (EXTENSIONS_AT + part.len() as u64, sum(&part)))
}

/// Writes whether entries are executed with foreign keys enforced. Part of the caller's transaction.
pub fn write_foreign_keys(connection: &Connection, enforced: Option<bool>) -> Result<(), MetaError> {
    write_at(connection, FOREIGN_KEYS_AT, &[foreign_keys::encode(enforced)])
}

/// Writes the mark. Part of the caller's transaction.
pub fn write_mark(connection: &Connection, mark: &[u8]) -> Result<(), MetaError> {
    if mark.len() > (FOREIGN_KEYS_AT - MARK_AT) as usize - 4 {
        return Err(MetaError::TooLong("the mark of a restore"));
    }
    write_at(connection, MARK_AT, &[&(mark.len() as u32).to_le_bytes(), mark].concat())
}

/// Reads when what is done at an interval was done last.
pub fn read_maintained(connection: &Connection) -> Result<Maintained, MetaError> {
    let mut words = [[0; 8]; 2];
    let mut blob = open(connection, true)?;
    blob.seek(SeekFrom::Start(MAINTAINED_AT))?;
    blob.read_exact(words.as_flattened_mut())?;
    let [vacuum_us, optimize_us] = words.map(i64::from_le_bytes);
    Ok(Maintained { vacuum_us, optimize_us })
}

/// Writes when what is done at an interval was done last. Part of the caller's transaction.
pub fn write_maintained(connection: &Connection, maintained: Maintained) -> Result<(), MetaError> {
    let words = [maintained.vacuum_us.to_le_bytes(), maintained.optimize_us.to_le_bytes()];
    write_at(connection, MAINTAINED_AT, words.as_flattened())
}

/// Writes cluster id and epoch. Part of the caller's transaction.
pub fn write_cluster(connection: &Connection, cluster_id: &str, epoch: u64) -> Result<(), MetaError> {
    let mut part = [0; 8 + 64];
    part[..8].copy_from_slice(&epoch.to_le_bytes());
    if cluster_id.len() > 63 {
        return Err(MetaError::TooLong("the cluster id"));
    }
    part[8] = cluster_id.len() as u8;
    part[9..9 + cluster_id.len()].copy_from_slice(cluster_id.as_bytes());
    write_summed(connection, (EPOCH_AT, &part), (CLUSTER_SUM_AT, sum(&part)))
}

fn log_id_words(log_id: Option<LogId>) -> [u64; 3] {
    log_id.map_or([0; 3], |id| [id.term, id.leader, id.index + 1])
}

fn open(connection: &Connection, read_only: bool) -> Result<Blob<'_>, MetaError> {
    let blob = connection.blob_open(MAIN_DB, TABLE, "state", 1, read_only)?;
    if blob.len() != SIZE {
        return Err(MetaError::Damaged("its row has another size"));
    }
    Ok(blob)
}

fn write_at(connection: &Connection, at: u64, bytes: &[u8]) -> Result<(), MetaError> {
    let mut blob = open(connection, false)?;
    blob.seek(SeekFrom::Start(at))?;
    blob.write_all(bytes)?;
    Ok(blob.close()?)
}

/// The same of a part with its sum, in a row that has sums.
fn write_summed(
    connection: &Connection,
    (at, part): (u64, &[u8]),
    (sum_at, sum): (u64, u32),
) -> Result<(), MetaError> {
    let mut blob = open(connection, false)?;
    let mut format = [0; 4];
    blob.seek(SeekFrom::Start(FORMAT_AT))?;
    blob.read_exact(&mut format)?;
    blob.seek(SeekFrom::Start(at))?;
    blob.write_all(part)?;
    if format != UNSUMMED.to_le_bytes() {
        blob.seek(SeekFrom::Start(sum_at))?;
        blob.write_all(&sum.to_le_bytes())?;
    }
    Ok(blob.close()?)
}

/// Sum of a part; 0 of one that was never written.
fn sum(part: &[u8]) -> u32 {
    crc32c::crc32c(part) ^ crc32c::crc32c(&vec![0; part.len()])
}

/// Sum of what is written with every entry, and of what says how to read the row: of what the two begin with.
fn applied_sum(format: &[u8], applied: &[u8]) -> u32 {
    let length = (EPOCH_AT - APPLIED_AT) as usize;
    let head = crc32c::crc32c_append(crc32c::crc32c(MAGIC), &format[..4]);
    crc32c::crc32c_append(head, &applied[..length])
}

fn decode(state: &[u8]) -> Result<Meta, MetaError> {
    let u32_at = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&state[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    if &state[..8] != MAGIC {
        return Err(MetaError::Damaged("it is no such row"));
    }
    let is_summed = u32_at(FORMAT_AT as usize) != UNSUMMED;
    let expected = applied_sum(&state[FORMAT_AT as usize..], &state[APPLIED_AT as usize..]);
    if is_summed && u32_at(APPLIED_SUM_AT as usize) != expected {
        return Err(MetaError::Damaged("its position is damaged"));
    }
    if is_summed && u32_at(FORMAT_AT as usize) != FORMAT {
        return Err(MetaError::Format("it has another format"));
    }
    let whole = |part: &[u8], sum_at: usize| !is_summed || u32_at(sum_at) == sum(part);
    let cluster = &state[EPOCH_AT as usize..MEMBERSHIP_AT as usize];
    if !whole(cluster, CLUSTER_SUM_AT as usize) {
        return Err(MetaError::Damaged("its cluster id is damaged"));
    }
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&state[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let log_id = |at: usize| {
        word(at + 16).checked_sub(1).map(|index| LogId { term: word(at), leader: word(at + 8), index })
    };
    let at = APPLIED_AT as usize;
    let applied = Applied {
        log_id: log_id(at),
        timestamp_us: word(at + 24) as i64,
        last_insert_rowid: word(at + 32) as i64,
        changes: word(at + 40) as i64,
        total_changes: word(at + 48) as i64,
    };
    let id_length = usize::from(state[EPOCH_AT as usize + 8]).min(63);
    let id_at = EPOCH_AT as usize + 9;
    let cluster_id = std::str::from_utf8(&state[id_at..id_at + id_length])
        .map_err(|_| MetaError::Damaged("its cluster id is damaged"))?
        .to_owned();
    // With room for a sum behind it.
    let sized = |length_at: usize, damaged| {
        let end = length_at + 4 + u32_at(length_at) as usize;
        let fits = end + 4 <= state.len();
        fits.then(|| (&state[length_at + 4..end], end)).ok_or(MetaError::Damaged(damaged))
    };
    let at = MEMBERSHIP_AT as usize;
    let damaged = "its membership is damaged";
    let (bytes, end) = sized(at + MEMBERSHIP_HEAD - 4, damaged)?;
    if !whole(&state[at..end], end) {
        return Err(MetaError::Damaged(damaged));
    }
    let membership = StoredMembership { log_id: log_id(at), bytes: bytes.to_vec() };
    let damaged = "its extensions are damaged";
    let (extensions, end) = sized(EXTENSIONS_AT as usize, damaged)?;
    if !whole(&state[EXTENSIONS_AT as usize..end], end) {
        return Err(MetaError::Damaged(damaged));
    }
    let extensions =
        ExtensionSet::decode(extensions).map_err(|_| MetaError::Damaged("its extensions are damaged"))?;
    let foreign_keys = foreign_keys::decode(state[FOREIGN_KEYS_AT as usize])
        .ok_or(MetaError::Damaged("what it says of foreign keys is damaged"))?;
    let mark = sized(MARK_AT as usize, "its mark is damaged")?.0.to_vec();
    let epoch = word(EPOCH_AT as usize);
    Ok(Meta { applied, epoch, cluster_id, membership, extensions, foreign_keys, mark })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_back_and_leaves_the_counters_alone() {
        let c = Connection::open_in_memory().unwrap();
        assert_eq!(read(&c).unwrap(), None);
        create(&c).unwrap();
        assert_eq!(read(&c).unwrap(), Some(Meta::default()));
        c.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)").unwrap();
        let before = (c.changes(), c.total_changes(), c.last_insert_rowid());

        let log_id = Some(LogId { term: 0, leader: 0, index: 0 });
        let applied =
            Applied { log_id, timestamp_us: -5, last_insert_rowid: 2, changes: 2, total_changes: 3 };
        let membership = StoredMembership { log_id, bytes: vec![9; 5000] };
        write_applied(&c, &applied).unwrap();
        write_membership(&c, &membership).unwrap();
        write_cluster(&c, "c-1", 4).unwrap();
        let file =
            crate::store::ExtensionFile { name: "a.so".into(), sha256: crate::store::Sha256Sum([3; 32]) };
        let extensions = ExtensionSet::new([file], []).unwrap();
        write_extensions(&c, &extensions).unwrap();
        write_mark(&c, b"came from afar").unwrap();
        let foreign_keys = Some(false);
        write_foreign_keys(&c, foreign_keys).unwrap();
        let maintained = Maintained { vacuum_us: 7, optimize_us: i64::MAX };
        write_maintained(&c, maintained).unwrap();
        assert_eq!(read_position(&c).unwrap(), Position { epoch: 4, index: 0 });
        write_applied(&c, &Applied { log_id: Some(LogId { index: 1 << 40, ..LogId::default() }), ..applied })
            .unwrap();
        assert_eq!(read_position(&c).unwrap(), Position { epoch: 4, index: 1 << 40 });
        write_applied(&c, &applied).unwrap();
        let cluster_id = "c-1".to_owned();
        let mark = b"came from afar".to_vec();
        assert_eq!(
            read(&c).unwrap(),
            Some(Meta { applied, epoch: 4, cluster_id, membership, extensions, foreign_keys, mark })
        );
        assert_eq!(read_maintained(&c).unwrap(), maintained);
        assert_eq!((c.changes(), c.total_changes(), c.last_insert_rowid()), before);
    }

    fn raw(c: &Connection) -> Vec<u8> {
        c.query_row(&format!("SELECT state FROM {TABLE}"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_changed_bit_is_no_other_position_and_no_other_members() {
        let c = Connection::open_in_memory().unwrap();
        create(&c).unwrap();
        let log_id = Some(LogId { term: 3, leader: 7, index: 41 });
        let membership = StoredMembership { log_id, bytes: b"members".to_vec() };
        write_applied(&c, &Applied { log_id, timestamp_us: 5, ..Applied::default() }).unwrap();
        write_membership(&c, &membership).unwrap();
        write_cluster(&c, "c-1", 4).unwrap();
        let state = raw(&c);
        decode(&state).unwrap();
        let cluster = EPOCH_AT as usize..MEMBERSHIP_AT as usize;
        let members =
            MEMBERSHIP_AT as usize..MEMBERSHIP_AT as usize + MEMBERSHIP_HEAD + membership.bytes.len();
        let extensions = EXTENSIONS_AT as usize..EXTENSIONS_AT as usize + 4;
        for at in (0..EPOCH_AT as usize).chain(cluster).chain(members).chain(extensions) {
            for bit in 0..8 {
                let mut damaged = state.clone();
                damaged[at] ^= 1 << bit;
                let decoded = decode(&damaged);
                assert!(matches!(decoded, Err(MetaError::Damaged(_))), "byte {at}, bit {bit}: {decoded:?}");
            }
        }
        let mut newer = state.clone();
        newer[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
        let sum = applied_sum(&newer[8..], &newer[16..]);
        newer[12..16].copy_from_slice(&sum.to_le_bytes());
        assert!(matches!(decode(&newer), Err(MetaError::Format(_))));
    }

    #[test]
    fn a_row_without_sums_stays_one() {
        let c = Connection::open_in_memory().unwrap();
        create(&c).unwrap();
        let mut state = vec![0; SIZE];
        state[..8].copy_from_slice(MAGIC);
        state[8..12].copy_from_slice(&UNSUMMED.to_le_bytes());
        c.execute(&format!("UPDATE {TABLE} SET state = ?1"), [&state]).unwrap();
        let log_id = Some(LogId { term: 3, leader: 7, index: 41 });
        let membership = StoredMembership { log_id, bytes: b"members".to_vec() };
        write_applied(&c, &Applied { log_id, ..Applied::default() }).unwrap();
        write_membership(&c, &membership).unwrap();
        write_cluster(&c, "c-1", 4).unwrap();
        write_extensions(&c, &ExtensionSet::default()).unwrap();
        let meta = read(&c).unwrap().unwrap();
        assert_eq!((meta.applied.log_id, meta.membership, meta.epoch), (log_id, membership, 4));
        let state = raw(&c);
        let sums = [APPLIED_SUM_AT, CLUSTER_SUM_AT, MEMBERSHIP_AT + MEMBERSHIP_HEAD as u64 + 7];
        assert!(sums.iter().all(|at| state[*at as usize..][..4] == [0; 4]));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let c = Connection::open_in_memory().unwrap();
        create(&c).unwrap();
        let membership = StoredMembership { log_id: None, bytes: vec![0; SIZE] };
        assert!(matches!(write_membership(&c, &membership), Err(MetaError::TooLong(_))));
        assert!(matches!(write_cluster(&c, &"x".repeat(64), 0), Err(MetaError::TooLong(_))));
        assert!(matches!(write_mark(&c, &[0; 5000]), Err(MetaError::TooLong(_))));
    }
}
