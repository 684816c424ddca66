//! A file as objects of a few MiB: each is sent and tried again by itself, and no more than a few are in memory.

use super::manifest::{Parts, part_name};
use super::objects::{ObjectError, Objects};
use crate::failpoint::{Place, pass};
use crate::store::WriteBehind;
use futures::{StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes of the file in each part.
pub const PART: usize = 8 << 20;
/// The largest part that is read.
const LARGEST: u64 = 64 << 20;
/// Parts on their way to the store at once.
const SENDING: usize = 4;
/// Parts on their way from the store at once: each is in memory until the disk has taken it. More were not faster.
const FETCHING: usize = 3;

/// A file did not come out of the store.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The store did not give a part.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The parts do not make up the file.
    #[error("{0}: its parts do not make up a file of its size")]
    Parts(String),
    /// It could not be written.
    #[error("write a file from the store: {0}")]
    Io(#[from] io::Error),
}

/// Puts the pieces of a file, each [`PART`] bytes long but for the last one, below `directory` as they come; returns the
/// parts and the bytes in the store.
pub async fn put_parts(
    objects: &Objects,
    directory: &str,
    pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<(Parts, u64), ObjectError> {
    let mut parts = Parts { part_bytes: PART as u64, ..Parts::default() };
    let mut stored_bytes = 0;
    let mut put = ReceiverStream::new(pieces)
        .enumerate()
        .map(|(n, piece)| async move {
            let size = piece.len() as u64;
            let (stored, sum) = objects.put_sealed(&part_name(directory, n), piece.into()).await?;
            pass(Place::BackupPart).map_err(ObjectError::Local)?;
            Ok::<_, ObjectError>((size, stored, sum))
        })
        .buffered(SENDING);
    while let Some((size, stored, sum)) = put.try_next().await? {
        parts.size_bytes += size;
        parts.sums.push(sum);
        stored_bytes += stored;
    }
    Ok((parts, stored_bytes))
}

/// Whether what is below `directory` is what was put there as `parts`, by the sums at their ends.
pub async fn are_there(objects: &Objects, directory: &str, parts: &Parts) -> Result<bool, ObjectError> {
    let named = parts.sums.iter().enumerate().map(|(n, sum)| (part_name(directory, n), sum.clone()));
    let mut ends = futures::stream::iter(named.collect::<Vec<_>>())
        .map(|(name, sum)| async move { objects.ends_with(&name, &sum).await })
        .buffer_unordered(SENDING);
    while let Some(is_there) = ends.try_next().await? {
        if !is_there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes the file that `parts` below `directory` make up to `path`, synced; tells `fetched` how many bytes have come.
pub async fn fetch_parts(
    objects: &Objects,
    directory: &str,
    parts: &Parts,
    path: &Path,
    fetched: impl Fn(u64),
) -> Result<(), FetchError> {
    let whole = parts.part_bytes > 0
        && parts.part_bytes <= LARGEST
        && parts.size_bytes.div_ceil(parts.part_bytes) == parts.sums.len() as u64;
    if !whole {
        return Err(FetchError::Parts(directory.into()));
    }
    let behind = WriteBehind::new(File::create(path)?);
    let (file, behind) = (behind.file().clone(), Arc::new(Mutex::new(behind)));
    let mut done = 0;
    let mut coming = futures::stream::iter(parts.sums.iter().enumerate())
        .map(|(n, sum)| {
            let (file, behind) = (file.clone(), behind.clone());
            async move {
                let size = parts.size_of(n);
                let plain = objects.get_sealed(&part_name(directory, n), size as usize, Some(sum)).await?;
                if plain.len() as u64 != size {
                    return Err(FetchError::Parts(directory.into()));
                }
                let at = parts.part_bytes * n as u64;
                let write = move || file.write_all_at(&plain, at).and_then(|()| behind.lock().wrote(size));
                tokio::task::spawn_blocking(write).await.map_err(ObjectError::from)??;
                Ok(size)
            }
        })
        .buffer_unordered(FETCHING);
    while let Some(size) = coming.try_next().await? {
        done += size;
        fetched(done);
    }
    drop(coming);
    let gone = || io::Error::other("a part is still being written");
    let behind = Arc::into_inner(behind).ok_or_else(gone)?.into_inner();
    Ok(tokio::task::spawn_blocking(move || behind.finish()).await.map_err(ObjectError::from)??)
}
