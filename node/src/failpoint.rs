//! Places at which a test ends or fails this process: between every two steps of what has to survive being cut short
//! between them.
//!
//! Without feature `failpoints`, which only test builds have, a place is nothing at all. With it, the variable
//! `FAILPOINTS` arms places when the process starts, in the language of crate `fail`, for example
//! `install.linked=return(abort)` or `checkpoint.synced=3*off->return(eio)`:
//!
//! | action | what happens at the place |
//! |---|---|
//! | `return(abort)` | the process ends at once, as by SIGKILL: nothing is flushed or closed |
//! | `return(eio)`, `return(enospc)`, `return(enomem)` | the step fails as if the operating system had said so |
//! | `sleep(ms)`, `off`, `3*off->…` | as crate `fail` has it |

use std::io;

macro_rules! places {
    ($($(#[$doc:meta])* $place:ident = $name:literal,)*) => {
        /// A place between two steps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Place { $($(#[$doc])* $place,)* }

        impl Place {
            /// All of them, for the tests that crash at each.
            pub const ALL: &[Self] = &[$(Self::$place),*];

            /// What `FAILPOINTS` calls it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$place => $name,)* }
            }
        }
    };
}

places! {
    /// Sending a snapshot: the state is pinned.
    SendPinned = "send.pinned",
    /// Sending a snapshot: the receiver has said from where on it wants it.
    SendBegun = "send.begun",
    /// Sending a snapshot: a chunk is on its way.
    SendChunk = "send.chunk",
    /// Sending a snapshot: all is on its way, the pin is gone, the receiver has not answered yet.
    SendEnded = "send.ended",
    /// Receiving a snapshot: the file is made.
    ReceiveStaged = "receive.staged",
    /// Receiving a snapshot: a chunk is written.
    ReceiveChunk = "receive.chunk",
    /// Receiving a snapshot: the file is complete.
    ReceiveComplete = "receive.complete",
    /// Receiving a snapshot: the file is synced.
    ReceiveSynced = "receive.synced",
    /// Receiving a snapshot: the file is checked, and nothing refers to it yet.
    ReceiveChecked = "receive.checked",
    /// Another database: it has its second name and a WAL that says which entry it came by, and nothing refers to it yet.
    ReplaceShared = "replace.shared",
    /// Another database: what members may still be sent is copied, the copy has not its name yet.
    UnshareCopied = "unshare.copied",
    /// Installing a snapshot: the old database is closed.
    InstallClosed = "install.closed",
    /// Making a generation the present one: the new link is there under its first name.
    ActivateLinked = "activate.linked",
    /// Making a generation the present one: the link is renamed, the directory not synced.
    ActivateRenamed = "activate.renamed",
    /// Making a generation the present one: done.
    ActivateSynced = "activate.synced",
    /// Installing a snapshot: the new database is open.
    InstallOpened = "install.opened",
    /// Installing a snapshot: the old database is removed; Raft does not know yet.
    InstallRemoved = "install.removed",
    /// Start: what an interrupted install left is removed.
    StartCleaned = "start.cleaned",
    /// Start: a new database is made; nothing refers to it yet.
    StartCreated = "start.created",
    /// Start: the database is open.
    StartOpened = "start.opened",
    /// Start: Raft's log is open too.
    StartLogOpened = "start.log-opened",
    /// Recovery by `peers.json`: the membership is in the log.
    PeersAppended = "peers.appended",
    /// Recovery by `peers.json`: the epoch is raised, the file is still there.
    PeersRaised = "peers.raised",
    /// Making a cluster: it is noted who makes it, and Raft knows nothing yet.
    ClusterFounded = "cluster.founded",
    /// Checkpoint: due, not begun.
    CheckpointDue = "checkpoint.due",
    /// Checkpoint: the bulk is in the synced database file.
    CheckpointBulk = "checkpoint.bulk",
    /// Checkpoint: complete, nobody knows yet.
    CheckpointSynced = "checkpoint.synced",
    /// Purge: decided, Raft does not know of the checkpoint yet.
    PurgeDecided = "purge.decided",
    /// Purge: Raft knows the checkpoint.
    PurgeKnown = "purge.known",
    /// Purge: about to be written to the log.
    PurgeSubmitted = "purge.submitted",
    /// Purge: on disk.
    PurgeDurable = "purge.durable",
    /// Vote: decided, not in the log.
    VoteDecided = "vote.decided",
    /// Vote: on disk, nobody told.
    VoteDurable = "vote.durable",
    /// Append: about to go to the log.
    AppendSubmitted = "append.submitted",
    /// Append: on disk, nobody told.
    AppendDurable = "append.durable",
    /// Truncation of entries that another leader replaces: on disk.
    TruncateDurable = "truncate.durable",
    /// Apply: a batch of entries has come, none is begun.
    ApplyBegun = "apply.begun",
    /// Apply: it is noted which command is applied, nothing of it ran.
    ApplyNoted = "apply.noted",
    /// Apply: the entry's statements ran, its transaction is not committed.
    ApplyRan = "apply.ran",
    /// SQLite asks for memory, for anything but a query: a piece that it does not get is null.
    SqliteMemory = "sqlite.memory",
    /// Apply: the database is vacuumed, which no transaction undoes, and does not know of the entry that wanted it.
    ApplyVacuumed = "apply.vacuumed",
    /// Apply: the entry is committed in the database, nobody told.
    ApplyCommitted = "apply.committed",
    /// Backup: the state is pinned, nothing is in the store.
    BackupPinned = "backup.pinned",
    /// Backup or database that an entry names: a part is in the store.
    BackupPart = "backup.part",
    /// Backup: all parts are in the store, the manifest is not.
    BackupParts = "backup.parts",
    /// Backup: complete, nobody knows yet.
    BackupComplete = "backup.complete",
    /// Archive: entries are read, none of them is in the store.
    ArchiveRead = "archive.read",
    /// Archive: a database that an entry names is in the store, the entry is not.
    ArchiveFile = "archive.file",
    /// Archive: entries are in the store, nobody knows yet.
    ArchivePut = "archive.put",
    /// Restore: the state is back on the leader.
    RestoreRebuilt = "restore.rebuilt",
    /// Restore: the state says how it came.
    RestoreMarked = "restore.marked",
    /// Restore: writes wait, nothing of what they wrote last is kept.
    RestoreFenced = "restore.fenced",
    /// Restore: what brings the present back is kept, nothing is proposed.
    RestoreKept = "restore.kept",
    /// Restore: Raft has the entry by which the state takes the place of the one before, and nobody knows whether it is in
    /// any log.
    RestoreProposed = "restore.proposed",
    /// Restore: the state took the place of the one before, nobody who asked knows yet.
    RestoreInstalled = "restore.installed",
}

/// What a test has this process call its engine, by the variable `FAILPOINT_ENGINE`.
#[cfg(feature = "failpoints")]
pub fn engine() -> Option<String> {
    std::env::var("FAILPOINT_ENGINE").ok()
}

/// What a test has this process call its engine: nothing, in this build.
#[cfg(not(feature = "failpoints"))]
pub fn engine() -> Option<String> {
    None
}

/// Passes a place. Fails only where a test says so.
#[cfg(feature = "failpoints")]
pub fn pass(place: Place) -> io::Result<()> {
    // Read locks of crate `fail` cost some 50 ns, which test builds can spare.
    fail::fail_point!(place.name(), |action| act(place, action.as_deref()));
    Ok(())
}

/// Passes a place: nothing, in this build.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn pass(_: Place) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
fn act(place: Place, action: Option<&str>) -> io::Result<()> {
    match action {
        Some("abort") => {
            // Where a test looks for it; the log's own buffers are lost like everything else.
            eprintln!("failpoint {}: abort", place.name());
            std::process::abort()
        }
        Some("eio") => Err(io::Error::from_raw_os_error(libc::EIO)),
        Some("enospc") => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        Some("enomem") => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
        other => Err(io::Error::other(format!("failpoint {}: unknown action {other:?}", place.name()))),
    }
}

/// Arms the places that `FAILPOINTS` names, until the guard is dropped.
#[cfg(feature = "failpoints")]
pub fn arm() -> fail::FailScenario<'static> {
    fail::FailScenario::setup()
}

/// Arms one place of this process, or disarms it by `off`.
#[cfg(feature = "failpoints")]
pub fn set(place: Place, actions: &str) -> Result<(), String> {
    fail::cfg(place.name(), actions)
}

/// Calls `passed` at each pass of a place of this process, until it is armed or disarmed.
#[cfg(feature = "failpoints")]
pub fn watch(place: Place, passed: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
    fail::cfg_callback(place.name(), passed)
}
