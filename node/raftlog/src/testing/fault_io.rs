//! One process's view of a [`FaultDisk`].

use std::io;
use std::path::Path;

use super::disk::{FaultDisk, Verdict};
use crate::io::{DirLock, Io, IoFile};

#[derive(Debug)]
pub(super) struct FaultIo {
    disk: FaultDisk,
    process: u64,
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    process: u64,
    inode: usize,
}

struct FaultLock {
    disk: FaultDisk,
    process: u64,
}

impl Drop for FaultLock {
    fn drop(&mut self) {
        let mut disk = self.disk.0.lock();
        if disk.lock_holder == Some(self.process) {
            disk.lock_holder = None;
        }
    }
}

impl FaultIo {
    pub(super) fn new(disk: FaultDisk, process: u64) -> Self {
        Self { disk, process }
    }

    fn file(&self, inode: usize) -> Box<dyn IoFile> {
        Box::new(FaultFile { disk: self.disk.clone(), process: self.process, inode })
    }
}

fn cut() -> io::Error {
    io::Error::other("the power went off")
}

impl Io for FaultIo {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        self.disk.0.lock().check(self.process)
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<DirLock>> {
        let mut disk = self.disk.0.lock();
        disk.check(self.process)?;
        if disk.lock_holder.is_some() {
            return Ok(None);
        }
        disk.lock_holder = Some(self.process);
        Ok(Some(Box::new(FaultLock { disk: self.disk.clone(), process: self.process })))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.disk.0.lock();
        disk.check(self.process)?;
        let inside = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        let mut disk = self.disk.0.lock();
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        match disk.step(self.process)? {
            Verdict::Go => Ok(self.file(disk.create(path))),
            Verdict::Cut => {
                disk.create(path);
                Err(cut())
            }
            Verdict::Fail(error) => Err(error),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        let disk = self.disk.0.lock();
        disk.check(self.process)?;
        let inode = disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(*inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.step(self.process)? {
            Verdict::Go => disk.rename(from, to),
            Verdict::Cut => disk.rename(from, to).and(Err(cut())),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.step(self.process)? {
            Verdict::Go => disk.unlink(path),
            Verdict::Cut => disk.unlink(path).and(Err(cut())),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.step(self.process)? {
            Verdict::Go => {
                disk.sync_dir(dir);
                Ok(())
            }
            Verdict::Cut => Err(cut()),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn nonce(&self) -> u32 {
        self.disk.0.lock().below(1 << 32) as u32
    }
}

impl IoFile for FaultFile {
    fn byte_len(&self) -> io::Result<u64> {
        let disk = self.disk.0.lock();
        disk.check(self.process)?;
        Ok(disk.inodes[self.inode].cache.len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let disk = self.disk.0.lock();
        disk.check(self.process)?;
        let cache = &disk.inodes[self.inode].cache;
        let bytes = cache.get(offset as usize..offset as usize + buf.len());
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.step(self.process)? {
            Verdict::Go => {
                disk.write(self.inode, buf, offset as usize);
                Ok(())
            }
            Verdict::Cut => {
                disk.write(self.inode, buf, offset as usize);
                Err(cut())
            }
            Verdict::Fail(error) => {
                let written = disk.below(buf.len() as u64 + 1) as usize;
                disk.write(self.inode, &buf[..written], offset as usize);
                Err(error)
            }
        }
    }

    fn reserve(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write_all_at(&vec![0; len as usize], offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk.0.lock();
        match disk.step(self.process)? {
            Verdict::Go => {
                disk.sync(self.inode);
                Ok(())
            }
            Verdict::Cut => Err(cut()),
            Verdict::Fail(error) => {
                disk.fail_sync(self.inode);
                Err(error)
            }
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
}
