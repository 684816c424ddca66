//! A full backup: the database as it is after one entry, page for page, while writes go on.
//!
//! The state is pinned together with the checksum on which the cluster's members agree after that entry, and what is sent
//! is summed up as it is read: pages that are not what was written there do not become a backup. A store that is slow must
//! not keep the pin, or the WAL would grow with every write: what it has not taken is moved to a file at the disk's speed.

use super::duty::DutyCycle;
use super::manifest::{Manifest, ManifestError, SealManifestError};
use super::objects::{ObjectError, Objects};
use super::parts::{PART, are_there, put_parts};
use super::seal::hex;
use crate::failpoint::{Place, pass};
use crate::store::{
    Checksum, ForeignKeys, LocalFailure, PageSum, PinnedSnapshot, Staging, Store, Streamed, sqlite_version,
};
use aws_lc_rs::digest::{Context, SHA256};
use client::backup::{Backup, BackupKind};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::time::{Instant, sleep};

/// How long the store may take for a part before the rest is moved to a file.
const PATIENCE: Duration = Duration::from_secs(2);
/// A member that has just started reads its pages before it knows their checksum. A backup waits for that so long.
const CHECKSUM: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// A backup was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupFailure {
    /// The store did not take it.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The database could not be read.
    #[error(transparent)]
    Local(#[from] LocalFailure),
    /// A file for what a slow store has not taken could not be written.
    #[error("keep what the store has not taken yet: {0}")]
    Io(#[from] io::Error),
    /// Pages are not what was written there.
    #[error(
        "the database of this member is not what the cluster agreed on after entry {index}: its page checksum is \
         {found:016x}, not {expected:016x}; the backup is not finished"
    )]
    Damaged {
        /// After which entry.
        index: u64,
        /// Of what was read.
        found: u64,
        /// What the cluster has.
        expected: u64,
    },
    /// The pin was held for too long.
    #[error("the database changes faster than it can be read; try again when fewer pages are written")]
    Expired,
    /// There is nothing yet.
    #[error("the cluster has no entry yet")]
    Empty,
    /// The manifest could not be made.
    #[error(transparent)]
    Manifest(#[from] SealManifestError),
    /// There is one of that name which cannot be read.
    #[error(transparent)]
    Present(#[from] ManifestError),
    /// Two members were asked for it at once, at the same entry.
    #[error("{0}: another member made it at the same time, and neither is whole")]
    Mixed(String),
    /// There is another one of that name.
    #[error("there is another backup of that name, at {path}, of kind {kind:?}; nothing is written over it")]
    Taken {
        /// Where.
        path: String,
        /// What it is for.
        kind: BackupKind,
    },
    /// The thread that read the database ended.
    #[error("a thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl BackupFailure {
    /// That `made` has the name that another one was to have.
    pub fn taken(made: Manifest) -> Self {
        Self::Taken { path: made.backup.path, kind: made.backup.kind }
    }

    /// Whether it may be made once the store is back.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Objects(error) | Self::Present(ManifestError::Objects(error)) => error.may_pass(),
            Self::Mixed(_) => true,
            _ => false,
        }
    }
}

/// What a backup is made of and called.
pub struct Source {
    /// The database.
    pub store: Store,
    /// Name of the member.
    pub member: String,
}

/// Bytes of the database that are on their way, of how many.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    all: AtomicU64,
}

impl Progress {
    /// In hundredths.
    pub fn percent(&self) -> u8 {
        let (done, all) = (self.done.load(Ordering::Relaxed), self.all.load(Ordering::Relaxed));
        (done.min(all) * 100).checked_div(all).unwrap_or(0) as u8
    }
}

/// Name of a backup's directory.
pub fn path_of(epoch: u64, index: u64, name: &str) -> String {
    format!("{epoch:08}-{index:020}-{name}")
}

/// Epoch and index of the backup in a directory.
pub fn position_of(path: &str) -> Option<(u64, u64)> {
    let mut parts = path.splitn(3, '-').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// Name of the backup in a directory.
pub fn name_of(path: &str) -> Option<&str> {
    path.splitn(3, '-').nth(2)
}

/// Makes a backup; it is complete when this returns. One of that name and kind that was made of the same entry is the same
/// backup.
pub async fn make_backup(
    source: &Source,
    objects: &Objects,
    name: &str,
    kind: BackupKind,
    progress: Arc<Progress>,
) -> Result<Manifest, BackupFailure> {
    let duty = Arc::new(DutyCycle::beside(&source.store));
    let objects = &objects.patient().in_turns(duty.clone());
    await_checksum(&source.store).await?;
    let pinned = source.store.pin_checked().await?;
    let checksum = pinned.checksum;
    let time = crate::clock::now();
    let meta = pinned.meta.clone();
    let Some(last) = meta.applied.log_id else { return Err(BackupFailure::Empty) };
    pass(Place::BackupPinned)?;
    // Of an attempt before this one nothing counts.
    progress.done.store(0, Ordering::Relaxed);
    progress.all.store(pinned.size, Ordering::Relaxed);
    let path = path_of(meta.epoch, last.index, name);
    if let Some(made) = find_made(objects, &path, kind).await? {
        return Ok(made);
    }
    let directory = format!("backups/{path}");

    let (send, pieces) = mpsc::channel(1);
    let feed = Feed::new(&pinned, source.store.staging().clone(), send, duty, progress)?;
    let reading = tokio::task::spawn_blocking(move || feed.run(pinned, checksum));
    let put = put_parts(objects, &directory, pieces).await;
    // Ends soon: nobody takes its pieces any more.
    let read = reading.await?;
    let (parts, stored_bytes) = put?;
    let sha256 = read?;
    pass(Place::BackupParts)?;
    let backup = Backup {
        name: name.into(),
        kind,
        path,
        cluster_id: meta.cluster_id,
        epoch: meta.epoch,
        index: last.index,
        term: last.term,
        time: time.to_string(),
        size_bytes: parts.size_bytes,
        stored_bytes,
        sha256,
        page_checksum: checksum.map(|checksum| format!("{:016x}", checksum.sum)),
        sqlite_version: sqlite_version().into(),
        member: source.member.clone(),
        encrypted: objects.are_encrypted(),
    };
    let foreign_keys = ForeignKeys { present: meta.foreign_keys, ..source.store.foreign_keys() };
    let manifest = Manifest::new(backup, meta.applied.timestamp_us, foreign_keys.are_enforced(), parts);
    let manifest = manifest.sealed(objects.keys())?;
    let text = manifest.encode().map_err(SealManifestError::from)?;
    if let Some(made) = find_made(objects, &manifest.backup.path, kind).await? {
        return settle(objects, made).await;
    }
    objects.put(&manifest.object(), text).await?;
    pass(Place::BackupComplete)?;
    Ok(manifest)
}

/// The complete backup at `path`, if there is one: nothing is ever written over it.
async fn find_made(
    objects: &Objects,
    path: &str,
    kind: BackupKind,
) -> Result<Option<Manifest>, BackupFailure> {
    match Manifest::read(objects, path).await {
        Ok(Some(made)) if made.backup.kind != kind || !objects.accepts(made.backup.encrypted) => {
            Err(BackupFailure::taken(made))
        }
        Ok(made) => Ok(made),
        // Credentials that only write are enough; who has them does not give a name twice.
        Err(ManifestError::Objects(error)) if error.is_refusal() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Another member has made the backup that this one was making, of the same entry: its parts may be of the one and of the
/// other. Pages of members differ in some bytes, and what is encrypted is never the same twice.
async fn settle(objects: &Objects, made: Manifest) -> Result<Manifest, BackupFailure> {
    if are_there(objects, &format!("backups/{}", made.backup.path), &made.parts).await? {
        return Ok(made);
    }
    objects.delete(vec![made.object()]).await?;
    Err(BackupFailure::Mixed(made.backup.path))
}

/// Waits for a while until the checksum of the database is known.
async fn await_checksum(store: &Store) -> Result<(), LocalFailure> {
    let until = Instant::now() + CHECKSUM;
    while store.checksum().await?.is_none() && Instant::now() < until {
        sleep(LOOK).await;
    }
    Ok(())
}

/// Reads the pinned state and gives it on in pieces.
struct Feed {
    send: mpsc::Sender<Vec<u8>>,
    runtime: tokio::runtime::Handle,
    staging: Staging,
    duty: Arc<DutyCycle>,
    piece: Vec<u8>,
    /// What the store has not taken in time.
    moved: Option<File>,
    sha256: Context,
    sum: PageSum,
    progress: Arc<Progress>,
}

impl Feed {
    fn new(
        pinned: &PinnedSnapshot,
        staging: Staging,
        send: mpsc::Sender<Vec<u8>>,
        duty: Arc<DutyCycle>,
        progress: Arc<Progress>,
    ) -> Result<Self, LocalFailure> {
        Ok(Self {
            send,
            runtime: tokio::runtime::Handle::current(),
            staging,
            duty,
            piece: Vec::with_capacity(PART),
            moved: None,
            sha256: Context::new(&SHA256),
            sum: pinned.page_sum()?,
            progress,
        })
    }

    /// Gives on everything; returns the SHA-256 of the file.
    fn run(mut self, pinned: PinnedSnapshot, checksum: Option<Checksum>) -> Result<String, BackupFailure> {
        let mut outcome = Ok(());
        let streamed = pinned.stream(0, |pages| {
            let duty = self.duty.clone();
            duty.step(|| {
                self.sha256.update(&pages);
                self.sum.add(&pages);
            });
            outcome = self.add(&pages);
            outcome.is_ok()
        });
        outcome?;
        if streamed? == Streamed::Expired {
            return Err(BackupFailure::Expired);
        }
        drop(pinned);
        // Before the last piece: without it the manifest is not written.
        if let Some(Checksum { index, sum: expected }) = checksum
            && self.sum.sum() != expected
        {
            return Err(BackupFailure::Damaged { index, found: self.sum.sum(), expected });
        }
        let piece = std::mem::take(&mut self.piece);
        if !piece.is_empty() {
            self.give(piece)?;
        }
        if let Some(mut moved) = self.moved.take() {
            moved.rewind()?;
            loop {
                let mut piece = Vec::with_capacity(PART);
                if (&mut moved).take(PART as u64).read_to_end(&mut piece)? == 0 {
                    break;
                }
                self.hand_over(piece, None)?;
            }
        }
        Ok(hex(self.sha256.finish().as_ref()))
    }

    fn add(&mut self, mut pages: &[u8]) -> io::Result<()> {
        while !pages.is_empty() {
            let (now, later) = pages.split_at(pages.len().min(PART - self.piece.len()));
            self.piece.extend_from_slice(now);
            pages = later;
            if self.piece.len() == PART {
                let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PART));
                self.give(piece)?;
            }
        }
        Ok(())
    }

    fn give(&mut self, piece: Vec<u8>) -> io::Result<()> {
        let left = if self.moved.is_some() { Some(piece) } else { self.hand_over(piece, Some(PATIENCE))? };
        let Some(piece) = left else { return Ok(()) };
        if self.moved.is_none() {
            self.staging.check_room(self.progress.all.load(Ordering::Relaxed))?;
            self.moved = Some(self.staging.unnamed()?);
        }
        self.moved.as_mut().map_or(Ok(()), |moved| moved.write_all(&piece))
    }

    /// Hands a piece to who puts it into the store; returns it if nobody takes it within `patience`.
    fn hand_over(&self, piece: Vec<u8>, patience: Option<Duration>) -> io::Result<Option<Vec<u8>>> {
        let size = piece.len() as u64;
        let gone = || io::Error::other("nobody puts the backup into the store any more");
        match patience {
            None => self.send.blocking_send(piece).map_err(|_| gone())?,
            Some(patience) => match self.runtime.block_on(self.send.send_timeout(piece, patience)) {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(piece)) => return Ok(Some(piece)),
                Err(SendTimeoutError::Closed(_)) => return Err(gone()),
            },
        }
        self.progress.done.fetch_add(size, Ordering::Relaxed);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backup::catalogue::tests::backup;
    use crate::backup::seal::Keyring;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn what_two_members_made_at_once_is_kept_only_if_it_is_whole() {
        let root = object_store::path::Path::from("cluster");
        let keys = Arc::new(Keyring::parse(&format!("{}=\n", "A".repeat(43))).unwrap());
        let objects = Objects::new(Arc::new(InMemory::new()), root, keys, None);
        let path = path_of(1, 7, "one");
        let directory = format!("backups/{path}");
        let put = || async {
            let (send, pieces) = mpsc::channel(2);
            send.send(vec![1; PART]).await.unwrap();
            send.send(vec![2; 10]).await.unwrap();
            drop(send);
            put_parts(&objects, &directory, pieces).await.unwrap().0
        };
        let parts = put().await;
        let made = backup(BackupKind::Full, path.clone(), (1, 7), "2026-01-31T12:00:00Z".into());
        let made = Manifest::new(made, 7, true, parts).sealed(objects.keys()).unwrap();
        objects.put(&made.object(), made.encode().unwrap()).await.unwrap();
        assert_eq!(settle(&objects, made.clone()).await.unwrap(), made);
        // The same bytes, encrypted once more.
        put().await;
        let mixed = settle(&objects, made.clone()).await.unwrap_err();
        assert!(matches!(&mixed, BackupFailure::Mixed(of) if *of == path) && mixed.may_pass(), "{mixed}");
        assert_eq!(Manifest::read(&objects, &path).await.unwrap(), None);
    }
}
