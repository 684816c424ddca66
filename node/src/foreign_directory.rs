//! A directory that is not ours and lists something of ours: a mount point, or where somebody wants a file.

use std::fs::File;
use std::io;
use std::path::Path;

/// Brings the names in it to the disk, where it can be opened. One may be written to without being read
/// (`EACCES`), and what is in it cannot be synced by name then; that is no failure of what was put there.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_there_is_synced_and_one_that_is_not_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        sync(parent.path()).unwrap();
        assert_eq!(sync(&parent.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
