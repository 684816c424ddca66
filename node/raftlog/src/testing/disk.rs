//! What is on the disk, and what only seems to be.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::fault_io::FaultIo;
use crate::io::Io;

const SECTOR: usize = 512;

/// What of the unsynced changes survives a power cut. Synced changes always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Everything.
    Everything,
    /// A prefix in the order of the calls; the last write may be cut within.
    Prefix,
    /// Any 512-byte sectors of any writes, any directory operations.
    RandomSectors,
}

/// What shall go wrong. Operations that change something (create, write, sync, rename, unlink) are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    None,
    /// Power fails at this operation: it may or may not happen, and nothing after it does.
    CutAt(u64),
    /// This operation fails with this error number. A write has written a part then; a sync has lost what it should
    /// have synced, although reads go on to show it.
    FailAt(u64, i32),
}

/// A disk. Clones share it; processes come and go ([`FaultDisk::process`]).
#[derive(Clone, Debug)]
pub struct FaultDisk(pub(super) Arc<Mutex<Disk>>);

#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub inodes: Vec<Inode>,
    /// What processes see.
    pub names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<(u64, NameChange)>,
    /// Number of the living process.
    pub process: u64,
    pub lock_holder: Option<u64>,
    is_cut: bool,
    plan: Plan,
    operations: u64,
    random: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub cache: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(u64, usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Unlink(PathBuf, usize),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Create(path, _) | Self::Rename(_, path, _) | Self::Unlink(path, _) => path.parent(),
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path, inode);
            }
            Self::Rename(from, to, inode) => {
                if names.get(&from) == Some(&inode) {
                    names.remove(&from);
                }
                names.insert(to, inode);
            }
            Self::Unlink(path, inode) => {
                if names.get(&path) == Some(&inode) {
                    names.remove(&path);
                }
            }
        }
    }
}

impl FaultDisk {
    /// An empty disk; the seed decides everything random.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk {
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            process: 0,
            lock_holder: None,
            is_cut: false,
            plan: Plan::None,
            operations: 0,
            random: seed,
        })))
    }

    /// Starts a process; the one before is killed, what it wrote stays visible. Without a [`FaultDisk::crash`]
    /// before, that includes what is not durable.
    pub fn process(&self) -> Arc<dyn Io> {
        let mut disk = self.0.lock();
        disk.is_cut = false;
        disk.process += 1;
        disk.lock_holder = None;
        Arc::new(FaultIo::new(self.clone(), disk.process))
    }

    /// Sets what shall go wrong, counting from now.
    pub fn set_plan(&self, plan: Plan) {
        let mut disk = self.0.lock();
        disk.operations = 0;
        disk.plan = plan;
    }

    /// Changing operations since the plan was set.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Power fails: the process is dead, and of what was not synced only a part is left.
    pub fn crash(&self, survival: Survival) {
        self.0.lock().crash(survival);
    }

    /// An independent copy of disk and page cache.
    pub fn fork(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Paths and contents of all files, as a process would see them.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let disk = self.0.lock();
        disk.names.iter().map(|(path, inode)| (path.clone(), disk.inodes[*inode].cache.clone())).collect()
    }

    /// Whether a creation, renaming or removal is not durable yet.
    pub fn has_unsynced_names(&self) -> bool {
        !self.0.lock().pending_names.is_empty()
    }

    /// Damages a file: the bits of `mask` are flipped in the byte at `offset`, on disk and in the cache.
    pub fn flip(&self, path: &Path, offset: usize, mask: u8) {
        let mut disk = self.0.lock();
        let inode = disk.names.get(path).copied();
        if let Some(inode) = inode.and_then(|inode| disk.inodes.get_mut(inode)) {
            for bytes in [&mut inode.cache, &mut inode.durable] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= mask;
                }
            }
        }
    }

    /// Shortens a file, on disk and in the cache.
    pub fn cut_file(&self, path: &Path, len: usize) {
        let mut disk = self.0.lock();
        let inode = disk.names.get(path).copied();
        if let Some(inode) = inode.and_then(|inode| disk.inodes.get_mut(inode)) {
            inode.cache.truncate(len);
            inode.durable.truncate(len);
        }
    }

    /// Removes a file durably.
    pub fn remove(&self, path: &Path) {
        let mut disk = self.0.lock();
        disk.names.remove(path);
        disk.durable_names.remove(path);
    }
}

/// What the plan says about one operation.
pub(super) enum Verdict {
    Go,
    /// It is the last one, and it is unknown whether it happened.
    Cut,
    Fail(io::Error),
}

impl Disk {
    /// Whether a process may still do anything.
    pub(super) fn check(&self, process: u64) -> io::Result<()> {
        if self.is_cut || self.process != process {
            Err(io::Error::other("the power is off"))
        } else {
            Ok(())
        }
    }

    /// Counts a changing operation.
    pub(super) fn step(&mut self, process: u64) -> io::Result<Verdict> {
        self.check(process)?;
        let now = self.operations;
        self.operations += 1;
        Ok(match self.plan {
            Plan::CutAt(at) if at == now => {
                self.is_cut = true;
                Verdict::Cut
            }
            Plan::FailAt(at, number) if at == now => Verdict::Fail(io::Error::from_raw_os_error(number)),
            _ => Verdict::Go,
        })
    }

    pub(super) fn write(&mut self, inode: usize, bytes: &[u8], offset: usize) {
        let now = self.operations;
        if let Some(inode) = self.inodes.get_mut(inode) {
            put(&mut inode.cache, offset, bytes);
            inode.pending.push((now, offset, bytes.to_vec()));
        }
    }

    pub(super) fn sync(&mut self, inode: usize) {
        if let Some(inode) = self.inodes.get_mut(inode) {
            for (_, offset, bytes) in inode.pending.drain(..) {
                put(&mut inode.durable, offset, &bytes);
            }
        }
    }

    /// A sync that fails: a part is on disk, the rest counts as clean and will never be written.
    pub(super) fn fail_sync(&mut self, inode: usize) {
        let pending = self.inodes.get_mut(inode).map(|inode| std::mem::take(&mut inode.pending));
        for (_, offset, bytes) in pending.unwrap_or_default() {
            self.survive_sectors(inode, offset, &bytes);
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> usize {
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.change(NameChange::Create(path.to_owned(), inode));
        inode
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = *self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let inode = *self.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        self.change(NameChange::Unlink(path.to_owned(), inode));
        Ok(())
    }

    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.pending_names.push((self.operations, change));
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let (synced, rest) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition(|(_, change)| change.dir() == Some(dir));
        self.pending_names = rest;
        let synced: Vec<_> = synced;
        for (_, change) in synced {
            change.apply(&mut self.durable_names);
        }
    }

    fn crash(&mut self, survival: Survival) {
        let last = self.last_survivor(survival);
        for inode in 0..self.inodes.len() {
            let pending = std::mem::take(&mut self.inodes[inode].pending);
            for (at, offset, bytes) in pending {
                match survival {
                    Survival::RandomSectors => self.survive_sectors(inode, offset, &bytes),
                    Survival::Prefix if at == last => {
                        let sectors = bytes.len().div_ceil(SECTOR) as u64 + 1;
                        let len = bytes.len().min(self.below(sectors) as usize * SECTOR);
                        put(&mut self.inodes[inode].durable, offset, &bytes[..len]);
                    }
                    _ if at < last => put(&mut self.inodes[inode].durable, offset, &bytes),
                    _ => {}
                }
            }
        }
        for (at, change) in std::mem::take(&mut self.pending_names) {
            if at < last || (survival == Survival::RandomSectors && self.below(2) == 0) {
                change.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
        for inode in &mut self.inodes {
            inode.cache = inode.durable.clone();
        }
        self.process += 1;
        self.lock_holder = None;
        self.is_cut = false;
        self.plan = Plan::None;
    }

    /// Operations before this one survive as a whole.
    fn last_survivor(&mut self, survival: Survival) -> u64 {
        let mut times: Vec<u64> = self.pending_names.iter().map(|(at, _)| *at).collect();
        times.extend(self.inodes.iter().flat_map(|inode| inode.pending.iter().map(|(at, ..)| *at)));
        times.sort_unstable();
        match survival {
            Survival::Everything => u64::MAX,
            Survival::Prefix => {
                let choice = self.below(times.len() as u64 + 1) as usize;
                times.get(choice).copied().unwrap_or(u64::MAX)
            }
            Survival::Nothing | Survival::RandomSectors => 0,
        }
    }

    fn survive_sectors(&mut self, inode: usize, offset: usize, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            // Sectors are those of the disk, not of the write.
            let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
            if self.below(2) == 0 {
                put(&mut self.inodes[inode].durable, offset + at, &bytes[at..end]);
            }
            at = end;
        }
    }

    /// A random number below `bound` (splitmix64).
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, new: &[u8]) {
    let end = offset + new.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(new);
}
