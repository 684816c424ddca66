//! What `-extensions-path` names: files, directories of files, archives of files. All of them are copied into a scratch
//! directory, each under its SHA-256.

use super::super::staging::{self, Sha256Sum};
use super::ExtensionError;
use super::archive::Archive;
use super::set::ExtensionFile;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

/// Bytes of all files together, at most.
const LARGEST: u64 = 512 << 20;
/// Files, at most.
const MOST: usize = 256;
/// Directories in directories, at most.
const DEEPEST: usize = 4;

/// Copies what is named, and counts it.
pub struct Sources<'a> {
    scratch: &'a Path,
    files: Vec<ExtensionFile>,
    bytes: u64,
}

impl<'a> Sources<'a> {
    /// Copies all that `paths` name into `scratch`; returns what that is.
    pub fn gather(paths: &[PathBuf], scratch: &'a Path) -> Result<Vec<ExtensionFile>, ExtensionError> {
        let mut sources = Self { scratch, files: Vec::new(), bytes: 0 };
        for path in paths {
            let before = sources.files.len();
            sources.add(path, 0)?;
            if sources.files.len() == before {
                return Err(ExtensionError::refused(path, "there is no extension in it"));
            }
        }
        Ok(sources.files)
    }

    fn add(&mut self, path: &Path, depth: usize) -> Result<(), ExtensionError> {
        let io = || ExtensionError::io(path);
        let kind = fs::metadata(path).map_err(io())?;
        if kind.is_dir() {
            if depth == DEEPEST {
                return Err(ExtensionError::refused(path, "directories nested too deeply"));
            }
            let mut inside = Vec::new();
            for entry in fs::read_dir(path).map_err(io())? {
                inside.push(entry.map_err(io())?.path());
            }
            inside.sort();
            // Kubernetes keeps in hidden directories what the files of a volume are links to.
            inside.retain(|path| !name_of(path).starts_with('.'));
            return inside.iter().try_for_each(|path| self.add(path, depth + 1));
        }
        if !kind.is_file() {
            return Err(ExtensionError::refused(path, "neither a file nor a directory"));
        }
        match Archive::of(name_of(path)) {
            Some(archive) => archive.unpack(path, &mut |name, content| self.copy(path, name, content)),
            None => {
                let mut content = File::open(path).map_err(io())?;
                self.copy(path, name_of(path), &mut content)
            }
        }
    }

    fn copy(&mut self, from: &Path, name: &str, content: &mut dyn Read) -> Result<(), ExtensionError> {
        let refused = |what: String| Err(ExtensionError::refused(from, what));
        if !ExtensionFile::is_name(name) {
            return refused(format!(
                "{name:?} is not the name of an extension: up to 64 letters, digits, '.', '_', '-' and '+'"
            ));
        }
        if self.files.len() == MOST {
            return refused(format!("more than {MOST} files"));
        }
        let part = self.scratch.join("part");
        let in_scratch = ExtensionError::io(&part);
        let mut file = File::create(&part).map_err(&in_scratch)?;
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return refused(format!("{name} in it cannot be read: {error}")),
            };
            self.bytes += n as u64;
            if self.bytes > LARGEST {
                return refused(format!("the extensions are larger than {} MiB together", LARGEST >> 20));
            }
            hash.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(&in_scratch)?;
        }
        file.sync_all().map_err(&in_scratch)?;
        let sha256 = Sha256Sum(hash.finalize().into());
        let directory = self.scratch.join(sha256.to_string());
        fs::create_dir_all(&directory).map_err(ExtensionError::io(&directory))?;
        let path = directory.join(name);
        fs::rename(&part, &path).map_err(ExtensionError::io(&path))?;
        self.files.push(ExtensionFile { name: name.to_owned(), sha256 });
        Ok(())
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The SHA-256 of the file at `path`.
pub fn sum_of(path: &Path) -> io::Result<Sha256Sum> {
    Ok(staging::sum_of(&mut File::open(path)?)?.0)
}
