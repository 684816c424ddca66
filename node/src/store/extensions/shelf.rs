//! The extensions that a member has on its disk, by their content: what it was configured with, and what it had before.
//! While the cluster goes from one set to another, a member that was started with the new one goes on with its copy of the
//! old one until the entry of the change.
//!
//! `extensions/<sha256>/<name>` in the data directory. A copy is complete, synced and tried out before it has this name.

use super::library::Library;
use super::loaded::Loaded;
use super::set::{ExtensionFile, ExtensionSet};
use super::sources::{Sources, sum_of};
use super::{ExtensionError, ExtensionsConfig};
use crate::scratch_directory::ScratchDirectory;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const DIRECTORY: &str = "extensions";
/// Beside it while what was configured is looked at.
const SCRATCH: &str = "extensions.new";
/// Files that are kept though neither the state nor the configuration names them: a power cut may bring a state back that
/// does.
const KEPT: usize = 16;

/// The extensions of a data directory.
#[derive(Clone, Debug)]
pub struct Shelf {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data_dir: PathBuf,
    wanted: ExtensionSet,
    /// All that was configured, wanted or not.
    configured: Vec<ExtensionFile>,
    libraries: Mutex<BTreeMap<ExtensionFile, Library>>,
    loaded: Mutex<BTreeMap<ExtensionSet, Arc<Loaded>>>,
}

impl Shelf {
    /// What is in `data_dir`, wanting no extension.
    pub fn open(data_dir: &Path) -> Self {
        Self::wanting(data_dir, ExtensionSet::default(), Vec::new())
    }

    fn wanting(data_dir: &Path, wanted: ExtensionSet, configured: Vec<ExtensionFile>) -> Self {
        let (data_dir, libraries, loaded) = (data_dir.to_owned(), Mutex::default(), Mutex::default());
        Self { inner: Arc::new(Inner { data_dir, wanted, configured, libraries, loaded }) }
    }

    /// Puts what is configured onto the shelf of `data_dir`. An error leaves the directory as it was. Blocks.
    pub fn stock(data_dir: &Path, config: &ExtensionsConfig) -> Result<Self, ExtensionError> {
        let scratch = data_dir.join(SCRATCH);
        ScratchDirectory::clear(&scratch).map_err(ExtensionError::io(&scratch))?;
        if config.paths.is_empty() && config.former.is_empty() {
            return Ok(Self::open(data_dir));
        }
        let scratch = ScratchDirectory::make(&scratch).map_err(ExtensionError::io(&scratch))?;
        let wanted = Sources::gather(&config.paths, &scratch.path)?;
        let mut files = Sources::gather(&config.former, &scratch.path)?;
        files.extend_from_slice(&wanted);
        let wanted = ExtensionSet::new(wanted, config.modules.iter().cloned())?;
        Self::put(data_dir, &scratch, files, wanted)
    }

    /// Whether [`Shelf::stock`] would put it there, as far as that can be said without the data directory. Blocks.
    pub fn check(config: &ExtensionsConfig) -> Result<(), ExtensionError> {
        let name = format!("sqlited-extensions-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let elsewhere = ScratchDirectory::make(&path).map_err(ExtensionError::io(&path))?;
        Self::stock(&elsewhere.path, config).map(drop)
    }

    fn put(
        data_dir: &Path,
        scratch: &ScratchDirectory,
        files: Vec<ExtensionFile>,
        wanted: ExtensionSet,
    ) -> Result<Self, ExtensionError> {
        let shelf = Self::wanting(data_dir, wanted, files.clone());
        let new: BTreeSet<ExtensionFile> =
            files.into_iter().filter(|file| shelf.library(file).is_err()).collect();
        let in_scratch = |file: &ExtensionFile| place(&scratch.path, file);
        {
            let mut libraries = shelf.inner.libraries.lock();
            for file in &new {
                let library = Library::open(&in_scratch(file), &file.name)?;
                // Each alone: what needs another one to be there would depend on the order.
                let installed = Connection::open_in_memory().and_then(|alone| library.install(&alone));
                installed
                    .map_err(|source| ExtensionError::NotInstalled { name: file.name.clone(), source })?;
                libraries.insert(file.clone(), library);
            }
        }
        // All together, before anything of them stays.
        shelf.load(&shelf.inner.wanted)?;
        let shelved = shelf.directory();
        for file in &new {
            let path = place(&shelved, file);
            let directory = path.parent().unwrap_or(&shelved);
            let placed = fs::create_dir_all(directory)
                .and_then(|()| fs::rename(in_scratch(file), &path))
                .and_then(|()| File::open(directory)?.sync_all())
                .and_then(|()| File::open(&shelved)?.sync_all());
            placed.map_err(ExtensionError::io(&path))?;
        }
        let synced = File::open(data_dir).and_then(|directory| directory.sync_all());
        synced.map_err(ExtensionError::io(data_dir))?;
        Ok(shelf)
    }

    /// The files that the member was configured with, also those of before.
    pub fn configured(&self) -> &[ExtensionFile] {
        &self.inner.configured
    }

    /// The set that it is to have.
    pub fn wanted(&self) -> &ExtensionSet {
        &self.inner.wanted
    }

    /// Which files are on it.
    pub fn files(&self) -> io::Result<Vec<ExtensionFile>> {
        let mut files = Vec::new();
        for (path, file) in self.listed()? {
            if path.is_file() {
                files.push(file);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Where they are.
    pub fn directory(&self) -> PathBuf {
        self.inner.data_dir.join(DIRECTORY)
    }

    /// A set, open. Blocks on the disk when it is asked for the first time.
    pub fn load(&self, set: &ExtensionSet) -> Result<Arc<Loaded>, ExtensionError> {
        if set.is_empty() {
            return Ok(Loaded::none());
        }
        if let Some(loaded) = self.inner.loaded.lock().get(set) {
            return Ok(loaded.clone());
        }
        let mut libraries = Vec::with_capacity(set.files().len());
        let mut missing = Vec::new();
        for file in set.files() {
            match self.library(file) {
                Ok(library) => libraries.push(library),
                Err(ExtensionError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    missing.push(file.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            return Err(ExtensionError::Missing { needed: set.clone(), missing: missing.join(", ") });
        }
        let loaded = Arc::new(Loaded::new(set.clone(), &self.inner.data_dir, libraries)?);
        self.inner.loaded.lock().insert(set.clone(), loaded.clone());
        Ok(loaded)
    }

    /// Removes old files but for those of `present`, those that are configured, and those that were used last.
    pub fn tidy(&self, present: &ExtensionSet) -> io::Result<()> {
        let needed: BTreeSet<&ExtensionFile> = present.files().iter().chain(&self.inner.configured).collect();
        let mut others = Vec::new();
        for (path, file) in self.listed()? {
            let opened = File::open(&path)?;
            if needed.contains(&file) {
                // Used: the others are as old as their last use.
                opened.set_modified(crate::clock::now().into())?;
            } else {
                others.push((opened.metadata()?.modified()?, path));
            }
        }
        others.sort();
        let old = others.len().saturating_sub(KEPT);
        for (_, path) in &others[..old] {
            fs::remove_file(path)?;
            if let Some(directory) = path.parent() {
                // Another file with the same content may be in it.
                drop(fs::remove_dir(directory));
            }
        }
        Ok(())
    }

    fn listed(&self) -> io::Result<Vec<(PathBuf, ExtensionFile)>> {
        let mut listed = Vec::new();
        let directories = match fs::read_dir(self.directory()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listed),
            directories => directories?,
        };
        for directory in directories {
            let directory = directory?;
            let Some(sha256) = directory.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            for file in fs::read_dir(directory.path())? {
                let file = file?;
                if let Ok(name) = file.file_name().into_string() {
                    listed.push((file.path(), ExtensionFile { name, sha256 }));
                }
            }
        }
        Ok(listed)
    }

    /// A file of the shelf, open.
    fn library(&self, file: &ExtensionFile) -> Result<Library, ExtensionError> {
        let mut libraries = self.inner.libraries.lock();
        if let Some(library) = libraries.get(file) {
            return Ok(*library);
        }
        let path = place(&self.directory(), file);
        let sum = sum_of(&path).map_err(ExtensionError::io(&path))?;
        if sum != file.sha256 {
            return Err(ExtensionError::refused(
                &path,
                "this copy has been changed; remove it, and start the program with -extensions-path naming the file",
            ));
        }
        // The system takes a relative name for one to be looked for.
        let absolute = path.canonicalize().map_err(ExtensionError::io(&path))?;
        let library = Library::open(&absolute, &file.name)?;
        libraries.insert(file.clone(), library);
        Ok(library)
    }
}

fn place(directory: &Path, file: &ExtensionFile) -> PathBuf {
    directory.join(file.sha256.to_string()).join(&file.name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::super::staging::Sha256Sum;
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn what_was_used_last_is_kept_and_what_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path());
        let files: Vec<ExtensionFile> =
            (0..20).map(|n| ExtensionFile { name: "x.so".into(), sha256: Sha256Sum([n; 32]) }).collect();
        for (age, file) in files.iter().rev().enumerate() {
            let path = place(&shelf.directory(), file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let used = SystemTime::from(crate::clock::now()) - Duration::from_secs(60 * (1 + age as u64));
            File::create(&path).unwrap().set_modified(used).unwrap();
        }
        // The oldest one.
        let present = ExtensionSet::new([files[0].clone()], []).unwrap();
        shelf.tidy(&present).unwrap();
        assert_eq!(shelf.files().unwrap(), [&files[..1], &files[4..]].concat());
        assert_eq!(fs::read_dir(shelf.directory()).unwrap().count(), 17);
        // It counts as used.
        shelf.tidy(&ExtensionSet::default()).unwrap();
        assert!(shelf.files().unwrap().contains(&files[0]));
        assert_eq!(shelf.files().unwrap().len(), KEPT);
    }

    #[test]
    fn a_copy_that_was_changed_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path());
        let file = ExtensionFile { name: "x.so".into(), sha256: Sha256Sum([1; 32]) };
        let set = ExtensionSet::new([file.clone()], []).unwrap();
        let missing = shelf.load(&set).unwrap_err().to_string();
        assert!(missing.contains("x.so (sha256 010101010101…) is not here"), "{missing}");
        let path = place(&shelf.directory(), &file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "other").unwrap();
        assert!(shelf.load(&set).unwrap_err().to_string().contains("this copy has been changed"));
    }
}
