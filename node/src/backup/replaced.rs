//! Databases that entries of the log put in the place of the present one (`/db/load`, `/boot`, a restore): the entry names
//! a file by its SHA-256, and the archive keeps that file beside the log.

use super::manifest::Parts;
use super::objects::{ObjectError, Objects};
use super::parts::{FetchError, PART, fetch_parts, put_parts};
use crate::raft::command::Replacement;
use crate::store::{Entry, Sha256Sum, Staging};
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::BTreeMap;
use std::io::{self, Read as _};
use tokio::sync::mpsc;

/// The list of parts is read up to this size.
const LIST: usize = 64 << 20;

/// A database that an entry names was not kept or did not come back.
#[derive(Debug, thiserror::Error)]
pub enum ReplacedError {
    /// The store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// Its parts.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The list of its parts makes no sense.
    #[error("{name}: {source}")]
    List {
        /// The object.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The file could not be read or written.
    #[error("a database that an entry names: {0}")]
    Io(#[from] io::Error),
}

/// The database that an entry puts in the place of the present one.
pub fn replacement_of(entry: &Entry) -> Option<Replacement> {
    entry.readable_command()?.replacement
}

/// Where they are.
const DIRECTORY: &str = "files";
/// The store's clock may differ from the cluster's by so much, in microseconds.
const CLOCKS_DIFFER_US: i64 = 3600 * 1_000_000;

fn directory_of(sha256: Sha256Sum) -> String {
    format!("{DIRECTORY}/{sha256}")
}

/// Names of files that only moments before `before_us` need. A file is written, or its list once more, after its entry was
/// applied: one that was last written before then was named by an entry before then.
pub async fn only_before(objects: &Objects, before_us: i64) -> Result<Vec<String>, ObjectError> {
    let all = objects.written(DIRECTORY).await?;
    let of = |name: &str| name.split('/').nth(1).unwrap_or_default().to_owned();
    let mut newest = BTreeMap::<String, i64>::new();
    for (name, written_us) in &all {
        let newest = newest.entry(of(name)).or_insert(*written_us);
        *newest = (*newest).max(*written_us);
    }
    let is_old = |name: &str| newest.get(&of(name)).is_some_and(|us| *us < before_us - CLOCKS_DIFFER_US);
    Ok(all.into_iter().map(|(name, _)| name).filter(|name| is_old(name)).collect())
}

fn list_of(sha256: Sha256Sum) -> String {
    format!("{}/parts.json", directory_of(sha256))
}

/// Keeps the file that an entry names; false if this member does not have it any more.
pub async fn keep(
    objects: &Objects,
    staging: &Staging,
    replacement: Replacement,
) -> Result<bool, ReplacedError> {
    let sha256 = Sha256Sum(replacement.sha256);
    let mut file = match staging.open_checked(sha256) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Another leader may have kept it. Written once more, it counts as needed from now on.
            let name = list_of(sha256);
            return match objects.get(&name).await? {
                Some(list) => objects.put(&name, list).await.map(|()| true).map_err(Into::into),
                None => Ok(false),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let (send, pieces) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || -> io::Result<()> {
        let mut sum = Context::new(&SHA256);
        loop {
            let mut piece = Vec::with_capacity(PART);
            if (&mut file).take(PART as u64).read_to_end(&mut piece)? == 0 {
                // Once the database changes that the file became, nobody who reads for very long is waited for.
                let is_whole = sum.finish().as_ref() == replacement.sha256;
                return if is_whole { Ok(()) } else { Err(io::Error::other("it has changed meanwhile")) };
            }
            sum.update(&piece);
            if send.blocking_send(piece).is_err() {
                return Ok(());
            }
        }
    });
    let (parts, _) = put_parts(objects, &directory_of(sha256), pieces).await?;
    reading.await.map_err(ObjectError::from)??;
    if parts.size_bytes != replacement.size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let name = list_of(sha256);
    let list =
        serde_json::to_vec(&parts).map_err(|source| ReplacedError::List { name: name.clone(), source })?;
    objects.put_sealed(&name, list.into()).await?;
    Ok(true)
}

/// Brings the file that an entry names into `staging`.
pub async fn bring_back(
    objects: &Objects,
    staging: &Staging,
    replacement: Replacement,
) -> Result<(), ReplacedError> {
    let sha256 = Sha256Sum(replacement.sha256);
    if staging.has(sha256) {
        return Ok(());
    }
    let name = list_of(sha256);
    let list = objects.get_sealed(&name, LIST, None).await?;
    let parts: Parts =
        serde_json::from_slice(&list).map_err(|source| ReplacedError::List { name, source })?;
    staging.check_room(replacement.size)?;
    let scratch = staging.scratch();
    fetch_parts(objects, &directory_of(sha256), &parts, scratch.path(), |_| ()).await?;
    let keeper = staging.clone();
    let adopted = tokio::task::spawn_blocking(move || keeper.adopt(&scratch)).await;
    match adopted.map_err(ObjectError::from)?? {
        (found, _) if found == sha256 => Ok(()),
        (found, _) => {
            staging.remove(found)?;
            Err(io::Error::other(format!("the file {sha256} came back as {found}")).into())
        }
    }
}
