//! Which entry is being applied, for the next start: one that ends the process would end it at every start.
//!
//! ```text
//! applying = index u64 · term u64 · crashes u64 · program u64 · crc32c u32 of these
//! ```
//! Little endian, written in place before each command and not synced: it outlives the process, and an entry does not
//! take the machine's power away.

use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const FILE: &str = "applying";
const LENGTH: usize = 36;

/// The entry that was being applied when the process ended last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspect {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// How often the process ended then, one time after the other.
    pub crashes: u64,
}

/// Notes which entry is being applied.
#[derive(Debug)]
pub struct Attempts {
    file: File,
    /// Which program this is: another one may get over what ended this one.
    program: u64,
    noted: Mutex<Noted>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    entry: Suspect,
    /// The process is ended by somebody: that is no entry's doing.
    is_excused: bool,
}

impl Attempts {
    /// Opens the note in `directory`, whose database holds everything up to `applied`; counts the end of the last process,
    /// and says which entry may have caused it.
    pub fn open(
        directory: &Path,
        applied: Option<u64>,
        program: &str,
    ) -> io::Result<(Self, Option<Suspect>)> {
        let path = directory.join(FILE);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let program = u64::from(crc32c::crc32c(program.as_bytes()));
        let mut bytes = [0; LENGTH];
        let read = file.read_exact_at(&mut bytes, 0);
        // A file that was just made has nothing in it.
        let before = read.ok().and_then(|()| decode(&bytes));
        let suspect = before
            // The first entry of a log is a membership, and 0 says that none is applied.
            .filter(|(entry, by)| entry.index > applied.unwrap_or(0) && *by == program)
            .map(|(entry, _)| Suspect { crashes: entry.crashes + 1, ..entry });
        let entry = suspect.unwrap_or_default();
        let attempts = Self { file, program, noted: Mutex::new(Noted { entry, is_excused: false }) };
        attempts.write(entry)?;
        Ok((attempts, suspect))
    }

    /// The entry with this index and term is about to be applied.
    pub fn begin(&self, index: u64, term: u64) -> io::Result<()> {
        let mut noted = self.noted.lock();
        if noted.is_excused {
            return Ok(());
        }
        if (noted.entry.index, noted.entry.term) != (index, term) {
            noted.entry = Suspect { index, term, crashes: 0 };
        }
        self.write(noted.entry)
    }

    /// From now on the process ends for another reason than the entry that it applies.
    pub fn excuse(&self) {
        let mut noted = self.noted.lock();
        *noted = Noted { is_excused: true, ..Noted::default() };
        if let Err(error) = self.write(Suspect::default()) {
            tracing::warn!(%error, "cannot note that the process ends for a reason of its own");
        }
    }

    fn write(&self, entry: Suspect) -> io::Result<()> {
        self.file.write_all_at(&encode(entry, self.program), 0)
    }
}

fn encode(Suspect { index, term, crashes }: Suspect, program: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    for (at, word) in [(0, index), (8, term), (16, crashes), (24, program)] {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let sum = crc32c::crc32c(&bytes[..32]);
    bytes[32..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// The entry and the program; none of bytes that are no note.
fn decode(bytes: &[u8; LENGTH]) -> Option<(Suspect, u64)> {
    let mut words = bytes[..32].chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let entry = Suspect { index: words.next()?, term: words.next()?, crashes: words.next()? };
    let program = words.next()?;
    (encode(entry, program) == *bytes).then_some((entry, program))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a process that ends without a word leaves to the next one.
    fn ended(directory: &Path, applied: Option<u64>, does: impl FnOnce(&Attempts)) -> Option<Suspect> {
        let (attempts, suspect) = Attempts::open(directory, applied, "1").unwrap();
        does(&attempts);
        suspect
    }

    #[test]
    fn an_entry_that_ends_the_process_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let dies_at = |index: u64| move |attempts: &Attempts| attempts.begin(index, 2).unwrap();
        assert_eq!(ended(dir.path(), None, |_| {}), None);
        assert_eq!(ended(dir.path(), None, dies_at(7)), None);
        for crashes in 1..=4 {
            let suspect = ended(dir.path(), Some(6), dies_at(7));
            assert_eq!(suspect, Some(Suspect { index: 7, term: 2, crashes }));
        }
        // Not tried any more: it stays what it is.
        assert_eq!(ended(dir.path(), Some(6), |_| {}), Some(Suspect { index: 7, term: 2, crashes: 5 }));
        // Another one begins from nothing, and so does what was applied after all.
        assert_eq!(ended(dir.path(), Some(6), dies_at(8)), Some(Suspect { index: 7, term: 2, crashes: 6 }));
        assert_eq!(ended(dir.path(), Some(7), |_| {}), Some(Suspect { index: 8, term: 2, crashes: 1 }));
        assert_eq!(ended(dir.path(), Some(8), |_| {}), None);
        assert_eq!(ended(dir.path(), Some(8), dies_at(9)), None);
        // Another leader's entry in its place is another entry.
        let replaced = |attempts: &Attempts| attempts.begin(9, 3).unwrap();
        assert_eq!(ended(dir.path(), Some(8), replaced), Some(Suspect { index: 9, term: 2, crashes: 1 }));
        assert_eq!(ended(dir.path(), Some(8), |_| {}), Some(Suspect { index: 9, term: 3, crashes: 1 }));
    }

    #[test]
    fn an_end_that_somebody_asked_for_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let asked = |attempts: &Attempts| {
            attempts.begin(7, 2).unwrap();
            attempts.excuse();
            attempts.begin(8, 2).unwrap();
        };
        assert_eq!(ended(dir.path(), Some(6), asked), None);
        assert_eq!(ended(dir.path(), Some(6), |_| {}), None);
    }

    #[test]
    fn another_program_tries_again() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            ended(dir.path(), Some(6), |attempts| attempts.begin(7, 2).unwrap());
        }
        assert_eq!(Attempts::open(dir.path(), Some(6), "2").unwrap().1, None);
        assert_eq!(ended(dir.path(), Some(6), |_| {}), None);
    }

    #[test]
    fn what_is_no_note_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let note = encode(Suspect { index: 7, term: 2, crashes: 2 }, u64::from(crc32c::crc32c(b"1")));
        for at in 0..LENGTH {
            let mut damaged = note;
            damaged[at] ^= 1;
            std::fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(ended(dir.path(), Some(6), |_| {}), None, "byte {at}");
            std::fs::write(dir.path().join(FILE), &note[..at]).unwrap();
            assert_eq!(ended(dir.path(), Some(6), |_| {}), None, "cut to {at}");
        }
    }
}
