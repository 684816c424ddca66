//! Which staged files entries name, or are about to name: these are kept.
//!
//! A file is called by what is in it, so that one that is loaded twice is one file. It is not removed because the first
//! entry does not need it any more while the second one is on its way.

use crate::store::{Sha256Sum, Staging};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// A staged file that no entry named within this time never will be.
const ORPHAN: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last entry that named it, of those that this process met.
    index: Option<u64>,
    /// How many entries more are to name it.
    awaited: u32,
}

/// What is known of the files in a staging directory.
#[derive(Debug)]
pub struct StagedNames {
    staging: Staging,
    /// The lock is held while a file is removed, and not while one gets its name: that it gets it is said before.
    known: Mutex<BTreeMap<Sha256Sum, Known>>,
}

impl StagedNames {
    /// What is there already was named by an entry up to `applied`, or will be by one that is met again.
    pub fn new(staging: Staging, applied: u64) -> Self {
        let found = staging.staged().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the staging directory");
            Vec::new()
        });
        let known = |(sum, _)| (sum, Known { index: Some(applied), awaited: 0 });
        Self { known: Mutex::new(found.into_iter().map(known).collect()), staging }
    }

    /// A file of this name is about to be staged, and named by an entry after that.
    pub fn await_entry(&self, sum: Sha256Sum) {
        self.known.lock().entry(sum).or_default().awaited += 1;
    }

    /// It will not be named after all. The file goes if no other entry named it or is about to.
    pub fn give_up(&self, sum: Sha256Sum) -> io::Result<()> {
        let mut known = self.known.lock();
        let of_file = known.entry(sum).or_default();
        of_file.awaited = of_file.awaited.saturating_sub(1);
        if of_file.awaited > 0 || of_file.index.is_some() {
            return Ok(());
        }
        known.remove(&sum);
        self.staging.remove(sum)
    }

    /// The entry with this index names it.
    pub fn met(&self, sum: Sha256Sum, index: u64) {
        let mut known = self.known.lock();
        let of_file = known.entry(sum).or_default();
        of_file.index = of_file.index.max(Some(index));
        of_file.awaited = of_file.awaited.saturating_sub(1);
    }

    /// The last entry that named it, unless another one is about to.
    pub fn last_entry(&self, sum: Sha256Sum) -> Option<u64> {
        self.known.lock().get(&sum).filter(|known| known.awaited == 0)?.index
    }

    /// Removes the file, which was last named by entry `index`, unless it is needed again.
    pub fn remove(&self, sum: Sha256Sum, index: u64) -> io::Result<()> {
        let mut known = self.known.lock();
        let is_last = known.get(&sum).is_some_and(|of| of.awaited == 0 && of.index == Some(index));
        if is_last {
            self.staging.remove(sum)?;
            known.remove(&sum);
        }
        Ok(())
    }

    /// No longer awaits entries that did not come for long, and removes the files that none has named.
    pub fn remove_orphans(&self) -> io::Result<()> {
        let mut known = self.known.lock();
        // Looked at under the lock: one that is staged again meanwhile is young.
        for (sum, _) in self.staging.staged()?.into_iter().filter(|(_, age)| *age > ORPHAN) {
            match known.get_mut(&sum) {
                Some(of_file) if of_file.index.is_some() => of_file.awaited = 0,
                _ => {
                    self.staging.remove(sum)?;
                    known.remove(&sum);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn staged() -> (tempfile::TempDir, Staging, Sha256Sum) {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path()).unwrap();
        let scratch = staging.scratch();
        std::fs::write(scratch.path(), b"abc").unwrap();
        let sum = staging.adopt(&scratch).unwrap().0;
        (dir, staging, sum)
    }

    #[test]
    fn a_file_that_is_loaded_again_is_not_removed_with_its_first_entry() {
        let (_dir, staging, sum) = staged();
        let names = StagedNames::new(staging.clone(), 0);
        names.await_entry(sum);
        names.met(sum, 22);
        assert_eq!(names.last_entry(sum), Some(22));
        names.await_entry(sum);
        assert_eq!(names.last_entry(sum), None, "entry 23 is on its way");
        names.remove(sum, 22).unwrap();
        assert!(staging.has(sum));
        names.met(sum, 23);
        names.remove(sum, 22).unwrap();
        assert!(staging.has(sum));
        names.remove(sum, 23).unwrap();
        assert!(!staging.has(sum));
    }

    #[test]
    fn a_member_that_meets_the_first_entry_after_the_second_file_came_waits_for_the_second_entry() {
        let (_dir, staging, sum) = staged();
        let names = StagedNames::new(staging.clone(), 0);
        names.await_entry(sum);
        names.await_entry(sum);
        names.met(sum, 22);
        names.remove(sum, 22).unwrap();
        assert!(staging.has(sum) && names.last_entry(sum).is_none());
    }

    #[test]
    fn what_is_given_up_goes_unless_an_entry_names_it() {
        let (_dir, staging, sum) = staged();
        // Found at the start: an entry names it.
        let names = StagedNames::new(staging.clone(), 7);
        names.await_entry(sum);
        names.give_up(sum).unwrap();
        assert_eq!((staging.has(sum), names.last_entry(sum)), (true, Some(7)));
        names.remove(sum, 7).unwrap();

        let scratch = staging.scratch();
        std::fs::write(scratch.path(), b"abc").unwrap();
        names.await_entry(sum);
        staging.adopt(&scratch).unwrap();
        names.remove_orphans().unwrap();
        assert!(staging.has(sum), "its entry may come for an hour");
        names.give_up(sum).unwrap();
        assert!(!staging.has(sum));
    }

    #[test]
    fn an_entry_that_does_not_come_is_not_awaited_for_ever() {
        let (_dir, staging, sum) = staged();
        let age = || {
            let file = std::fs::File::options().write(true).open(staging.path(sum)).unwrap();
            file.set_modified(file.metadata().unwrap().modified().unwrap() - 2 * ORPHAN).unwrap();
        };
        age();
        let names = StagedNames::new(staging.clone(), 0);
        names.met(sum, 22);
        names.await_entry(sum);
        names.remove_orphans().unwrap();
        assert_eq!((staging.has(sum), names.last_entry(sum)), (true, Some(22)), "entry 22 names it still");
        names.remove(sum, 22).unwrap();

        let scratch = staging.scratch();
        std::fs::write(scratch.path(), b"abc").unwrap();
        names.await_entry(sum);
        staging.adopt(&scratch).unwrap();
        age();
        names.remove_orphans().unwrap();
        assert!(!staging.has(sum));
    }
}
