//! What a member had that comes back as a new one, because its log is damaged and it may have forgotten what it promised.
//! It lies in the data directory until the member is in service again, so that no state is thrown away before there is
//! another one.
//!
//! First the decision is on disk: a directory `damaged-<seconds>.new`. What makes the member is moved into it, at this start
//! or at the next one, and then it gets its name. As long as it is there the member makes no cluster of its own
//! ([`Former`]). Where one is there already, of a member that has not been in service since, that one is worth keeping, and
//! not what came later.

use crate::identity::{Former, Identity, IdentityError};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "damaged-";
const NEW: &str = ".new";

/// Decides it, at that time in seconds since 1970; returns after it is on disk.
pub fn begin(directory: &Path, now: i64) -> io::Result<()> {
    if find(directory, true)?.is_none() {
        fs::create_dir(directory.join(format!("{PREFIX}{now}{NEW}")))?;
    }
    sync(directory)
}

/// Does what was decided. Nothing of the member may be open.
pub fn resume(directory: &Path) -> io::Result<()> {
    let Some(new) = find(directory, true)? else { return Ok(()) };
    // All of them first: what is listed while it changes may lack some.
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name()));
    for name in names.collect::<io::Result<Vec<_>>>()? {
        if name.to_str().is_some_and(makes_the_member) {
            fs::rename(directory.join(&name), new.join(&name))?;
        }
    }
    sync(&new)?;
    sync(directory)?;
    match find(directory, false)? {
        Some(_) => fs::remove_dir_all(&new)?,
        None => fs::rename(&new, new.with_extension(""))?,
    }
    sync(directory)
}

/// Where it is, if anything is set aside.
pub fn kept(directory: &Path) -> io::Result<Option<PathBuf>> {
    find(directory, false)
}

/// Who the member was; none if nothing is set aside.
pub fn former(directory: &Path) -> Result<Option<Former>, IdentityError> {
    let read = |source| IdentityError::Read { path: directory.to_owned(), source };
    kept(directory).map_err(read)?.map_or(Ok(None), |kept| Identity::former_in(&kept))
}

/// Throws it away: the member is in service again.
pub fn remove(directory: &Path) -> io::Result<()> {
    let Some(kept) = kept(directory)? else { return Ok(()) };
    fs::remove_dir_all(kept)?;
    sync(directory)
}

fn find(directory: &Path, new: bool) -> io::Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_it = |name: &str| name.starts_with(PREFIX) && name.ends_with(NEW) == new;
        if name.to_str().is_some_and(is_it) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Everything but what every member of this disk may have: extensions, and what somebody else put there.
fn makes_the_member(name: &str) -> bool {
    let files = ["identity.json", "raft", "recovery.json", "skipped.json", "applying", "staging"];
    files.contains(&name) || name.starts_with("db.sqlite") || name.starts_with("db-")
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::ClusterIdentity;

    /// A data directory of a member of cluster `c`.
    fn member(directory: &Path) -> Former {
        let cluster = ClusterIdentity { cluster_id: "c".into(), epoch: 1 };
        let identity = Identity::open(directory).unwrap();
        identity.adopt(&cluster).unwrap();
        fs::create_dir_all(directory.join("raft/log")).unwrap();
        fs::create_dir_all(directory.join("extensions")).unwrap();
        fs::write(directory.join("db-1.sqlite"), b"pages").unwrap();
        std::os::unix::fs::symlink("db-1.sqlite", directory.join("db.sqlite")).unwrap();
        Former { node_id: identity.node_id(), cluster_id: "c".into() }
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_makes_the_member_is_moved_whole_wherever_that_was_cut_short() {
        let all = ["db-1.sqlite", "db.sqlite", "identity.json", "raft"];
        for moved in 0..=all.len() {
            let dir = tempfile::tempdir().unwrap();
            let was = member(dir.path());
            resume(dir.path()).unwrap();
            assert_eq!(former(dir.path()).unwrap(), None, "nothing was decided");
            begin(dir.path(), 17).unwrap();
            for name in &all[..moved] {
                fs::rename(dir.path().join(name), dir.path().join("damaged-17.new").join(name)).unwrap();
            }
            // It may be decided again before it is done.
            begin(dir.path(), 18).unwrap();
            resume(dir.path()).unwrap();
            assert_eq!(names(dir.path()), ["damaged-17", "extensions"]);
            assert_eq!(names(&dir.path().join("damaged-17")), all);
            assert_eq!(former(dir.path()).unwrap(), Some(was));
            resume(dir.path()).unwrap();
            remove(dir.path()).unwrap();
            remove(dir.path()).unwrap();
            assert_eq!(names(dir.path()), ["extensions"]);
        }
    }

    #[test]
    fn one_at_most_is_kept_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = member(dir.path());
        begin(dir.path(), 1).unwrap();
        resume(dir.path()).unwrap();
        member(dir.path());
        begin(dir.path(), 2).unwrap();
        resume(dir.path()).unwrap();
        assert_eq!(names(dir.path()), ["damaged-1", "extensions"]);
        assert_eq!(former(dir.path()).unwrap(), Some(first));
    }
}
