//! Bytes that are gathered, cut back and read again in order: in memory up to a size, beyond it in a file without a name.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// Bytes in memory.
const IN_MEMORY: usize = 4 << 20;

/// Bytes that are gathered.
pub struct Spool {
    directory: PathBuf,
    file: Option<File>,
    /// Bytes in the file; what is in memory comes after them.
    in_file: u64,
    memory: Vec<u8>,
}

impl Spool {
    /// An empty one, whose file is made in `directory` if there has to be one.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), file: None, in_file: 0, memory: Vec::new() }
    }

    /// How many bytes it holds.
    pub fn len(&self) -> u64 {
        self.in_file + self.memory.len() as u64
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.memory.is_empty() && self.memory.len() + bytes.len() > IN_MEMORY {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(nameless(&self.directory)?),
            };
            file.write_all(&self.memory)?;
            self.in_file += self.memory.len() as u64;
            self.memory.clear();
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    /// Cuts it back to `length` bytes.
    pub fn truncate(&mut self, length: u64) -> io::Result<()> {
        match length.checked_sub(self.in_file) {
            Some(in_memory) => self.memory.truncate(usize::try_from(in_memory).unwrap_or(usize::MAX)),
            None => {
                self.memory.clear();
                self.in_file = length;
                if let Some(file) = &mut self.file {
                    file.set_len(length)?;
                    file.seek(SeekFrom::Start(length))?;
                }
            }
        }
        Ok(())
    }

    /// Empties it, and gives back the room on the disk and most of that in memory.
    pub fn clear(&mut self) {
        self.file = None;
        self.in_file = 0;
        self.memory.clear();
        self.memory.shrink_to(IN_MEMORY / 16);
    }

    /// Reads it from its beginning.
    pub fn read(&mut self) -> io::Result<impl Read + use<'_>> {
        let file = match &mut self.file {
            Some(file) => {
                file.seek(SeekFrom::Start(0))?;
                Some(BufReader::with_capacity(256 << 10, file))
            }
            None => None,
        };
        Ok(Chained { file, memory: &self.memory })
    }
}

struct Chained<'a> {
    file: Option<BufReader<&'a mut File>>,
    memory: &'a [u8],
}

impl Read for Chained<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.file {
            let n = file.read(out)?;
            if n > 0 || out.is_empty() {
                return Ok(n);
            }
            self.file = None;
        }
        self.memory.read(out)
    }
}

/// A file that goes with its handle.
fn nameless(directory: &Path) -> io::Result<File> {
    let path = directory.join("changes.spool");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_was_not_cut_off_from_memory_and_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(directory.path());
        let piece = |n: u8| vec![n; IN_MEMORY / 2 - 1];
        let all = |spool: &mut Spool| {
            let mut bytes = Vec::new();
            spool.read().unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        };
        spool.push(&piece(1)).unwrap();
        assert!(all(&mut spool) == piece(1));
        for n in 2..=6 {
            spool.push(&piece(n)).unwrap();
        }
        let whole: Vec<u8> = (1..=6).flat_map(piece).collect();
        assert!(spool.file.is_some() && spool.len() == whole.len() as u64);
        for keep in [whole.len(), whole.len() - 5, 3 * piece(0).len() + 7, 10] {
            spool.truncate(keep as u64).unwrap();
            assert_eq!(spool.len(), keep as u64);
            assert!(all(&mut spool) == whole[..keep]);
        }
        spool.push(b"more").unwrap();
        assert!(all(&mut spool) == [&whole[..10], b"more"].concat());
        spool.clear();
        assert_eq!((spool.len(), all(&mut spool).len()), (0, 0));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
