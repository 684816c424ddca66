//! Files of an archive: zip, tar, tar.gz. An archive holds extensions and nothing else; what is neither a file nor a
//! directory, or would lie outside, is refused.

use super::ExtensionError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};
use zip::ZipArchive;
use zip::result::ZipError;

/// Entries of an archive at most, directories too.
const MOST_ENTRIES: usize = 1024;
/// Bytes of an unpacked archive at most.
const LARGEST: u64 = 512 << 20;
/// Of the mode of a file, what kind it is; and the kind of a plain one.
const KIND: u32 = 0o170_000;
const PLAIN: u32 = 0o100_000;

/// A kind of archive, by how its name ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archive {
    Zip,
    Tar,
    TarGz,
}

impl Archive {
    /// What the file `name` is; none if it is no archive.
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        match () {
            () if ends(&[".zip"]) => Some(Self::Zip),
            () if ends(&[".tar"]) => Some(Self::Tar),
            () if ends(&[".tar.gz", ".tgz"]) => Some(Self::TarGz),
            () => None,
        }
    }

    /// Gives `take` each file of the archive at `path`: its name without directories, and its content.
    pub fn unpack(
        self,
        path: &Path,
        take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), ExtensionError>,
    ) -> Result<(), ExtensionError> {
        let file = File::open(path).map_err(ExtensionError::io(path))?;
        if file.metadata().map_err(ExtensionError::io(path))?.len() > LARGEST {
            return Err(ExtensionError::refused(path, format!("larger than {} MiB", LARGEST >> 20)));
        }
        let file = BufReader::new(file);
        match self {
            Self::Zip => unpack_zip(path, file, take),
            Self::Tar => unpack_tar(path, file.take(LARGEST), take),
            Self::TarGz => unpack_tar(path, MultiGzDecoder::new(file).take(LARGEST), take),
        }
    }
}

fn unpack_zip(
    path: &Path,
    file: BufReader<File>,
    take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), ExtensionError>,
) -> Result<(), ExtensionError> {
    let broken = |error: ZipError| ExtensionError::refused(path, format!("a broken zip archive: {error}"));
    let mut archive = ZipArchive::new(file).map_err(broken)?;
    count(path, archive.len())?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(broken)?;
        let inside = entry.name().map_err(broken)?.into_owned();
        let kind = entry.unix_mode().map_or(0, |mode| mode & KIND);
        if entry.is_dir() {
            base_name(path, &inside)?;
        } else if entry.is_symlink() || (kind != 0 && kind != PLAIN) {
            return Err(no_file(path, &inside));
        } else {
            take(base_name(path, &inside)?, &mut entry)?;
        }
    }
    Ok(())
}

fn unpack_tar(
    path: &Path,
    bytes: impl Read,
    take: &mut dyn FnMut(&str, &mut dyn Read) -> Result<(), ExtensionError>,
) -> Result<(), ExtensionError> {
    let broken =
        |error: std::io::Error| ExtensionError::refused(path, format!("a broken tar archive: {error}"));
    let mut archive = tar::Archive::new(bytes);
    for (i, entry) in archive.entries().map_err(broken)?.enumerate() {
        count(path, i + 1)?;
        let mut entry = entry.map_err(broken)?;
        let inside = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.header().entry_type() {
            tar::EntryType::Directory if entry.size() == 0 => drop(base_name(path, &inside)?),
            // What git writes about the commit.
            tar::EntryType::XGlobalHeader => {}
            tar::EntryType::Regular => take(base_name(path, &inside)?, &mut entry)?,
            _ => return Err(no_file(path, &inside)),
        }
    }
    Ok(())
}

fn count(path: &Path, entries: usize) -> Result<(), ExtensionError> {
    if entries > MOST_ENTRIES {
        return Err(ExtensionError::refused(path, format!("an archive of more than {MOST_ENTRIES} files")));
    }
    Ok(())
}

fn no_file(path: &Path, inside: &str) -> ExtensionError {
    ExtensionError::refused(
        path,
        format!(
            "{inside:?} in it is neither a file nor a directory; an archive holds extensions only, and no links"
        ),
    )
}

/// The last part of a name in the archive, which must not lead out of it.
fn base_name<'a>(path: &Path, inside: &'a str) -> Result<&'a str, ExtensionError> {
    let mut parts = Path::new(inside).components();
    if !parts.all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(ExtensionError::refused(path, format!("{inside:?} in it leads out of the archive")));
    }
    let name = Path::new(inside).file_name().and_then(|name| name.to_str());
    Ok(name.unwrap_or_default())
}
