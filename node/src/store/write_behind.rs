//! Large files that are synced while they are written: the disk works while the next bytes come, and what is left at the
//! end is little. One sync of all of it would take seconds, in which it holds up the syncs of everybody else on the disk.

use rustix::fs::ioctl_ficlone;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Bytes after which what was written is synced. As many are written meanwhile, and no more.
const BYTES: u64 = 16 << 20;
/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// A file that is written and synced at the same time.
#[derive(Debug)]
pub struct WriteBehind {
    file: Arc<File>,
    /// Written since a sync was last asked for.
    unsynced: u64,
    /// None until it is needed: small files are synced at their end.
    syncing: Option<Syncing>,
}

/// The thread that syncs.
#[derive(Debug)]
struct Syncing {
    /// Taken by the thread when the sync before has ended, so that whoever asks waits for that.
    ask: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Syncing {
    fn start(file: Arc<File>) -> io::Result<Self> {
        let (ask, asked) = sync_channel::<()>(0);
        let sync = move || {
            while asked.recv().is_ok() {
                file.sync_data()?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("write-behind".into()).spawn(sync)?;
        Ok(Self { ask, thread })
    }

    fn end(self) -> io::Result<()> {
        drop(self.ask);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs ended")))
    }
}

impl WriteBehind {
    /// On a file that is open for writing.
    pub fn new(file: File) -> Self {
        Self { file: Arc::new(file), unsynced: 0, syncing: None }
    }

    /// The file, for who writes at places of its own choice and says so ([`Self::wrote`]).
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Appends bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.file).write_all(bytes)?;
        self.wrote(bytes.len() as u64)
    }

    /// So many bytes more were written. Waits while the disk is two syncs behind.
    pub fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.unsynced += bytes;
        if self.unsynced < BYTES {
            return Ok(());
        }
        self.unsynced = 0;
        let syncing = match self.syncing.take() {
            Some(syncing) => syncing,
            None => Syncing::start(self.file.clone())?,
        };
        if syncing.ask.send(()).is_err() {
            // The sync before failed.
            return syncing.end().and(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.syncing = Some(syncing);
        Ok(())
    }

    /// Everything was written: it is on disk when this returns.
    pub fn finish(mut self) -> io::Result<()> {
        self.syncing.take().map_or(Ok(()), Syncing::end)?;
        self.file.sync_all()
    }
}

/// Copies all that is in `from`, of which nothing was read yet, to the new file `to`, synced: as a clone, where the file
/// system can.
pub fn copy_synced(mut from: &File, to: &Path) -> io::Result<()> {
    let to = File::create_new(to)?;
    // What it cannot do, and across which file systems, each says in its own way; reading and writing tell what is wrong.
    if ioctl_ficlone(&to, from).is_ok() {
        return to.sync_all();
    }
    let mut to = WriteBehind::new(to);
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return to.finish(),
            n => to.write_all(&piece[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn what_is_written_is_there_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("f"), dir.path().join("copy"));
        let piece: Vec<u8> = (0..PIECE).map(|n| (n % 251) as u8).collect();
        let pieces = 2 * BYTES as usize / PIECE + 3;
        let mut behind = WriteBehind::new(File::create(&path).unwrap());
        for n in 0..pieces {
            if n % 2 == 0 {
                behind.write_all(&piece).unwrap();
            } else {
                // Elsewhere in the file, as who fetches parts in any order does.
                let end = (n + 1) * PIECE;
                behind.file().write_all_at(&piece, (n * PIECE) as u64).unwrap();
                behind.wrote(piece.len() as u64).unwrap();
                io::Seek::seek(&mut &**behind.file(), io::SeekFrom::Start(end as u64)).unwrap();
            }
        }
        assert!(behind.syncing.is_some());
        behind.finish().unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(written.len() == pieces * PIECE && written.chunks(PIECE).all(|found| found == piece));
        copy_synced(&File::open(&path).unwrap(), &copy).unwrap();
        assert!(std::fs::read(&copy).unwrap() == written);
        assert!(copy_synced(&File::open(&path).unwrap(), &copy).is_err(), "it is there already");
    }

    #[test]
    fn a_sync_that_fails_is_told() {
        // A pipe cannot be synced.
        let (reader, writer) = io::pipe().unwrap();
        let reading = std::thread::spawn(move || io::copy(&mut { reader }, &mut io::sink()));
        let mut behind = WriteBehind::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let piece = vec![0; BYTES as usize];
        let told = (0..3).try_for_each(|_| behind.write_all(&piece));
        assert_eq!(told.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        drop(behind);
        reading.join().unwrap().unwrap();
    }
}
