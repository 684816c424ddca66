//! Files that came from elsewhere packed: by what, and what is in them, which is bounded.

use crate::store::{Receiving, Scratch, Staging};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

/// Bytes unpacked at once.
const PIECE: usize = 1 << 20;
/// So much may come out of any file, in bytes; beyond that at most [`RATIO`] times the packed file.
const FREE: u64 = 64 << 20;
/// Databases pack to a third or a tenth; one that is mostly zeros to a hundredth. What is made to fill a disk goes to a
/// thousandth and beyond.
const RATIO: u64 = 200;

/// By what a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstandard,
    /// Its frame format, 1.6.
    Lz4,
}

impl Packing {
    /// As the beginning of a file tells; none if it is not packed.
    pub fn of(beginning: &[u8]) -> Option<Self> {
        match beginning {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstandard),
            [0x04, 0x22, 0x4d, 0x18, ..] => Some(Self::Lz4),
            _ => None,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstandard => "Zstandard",
            Self::Lz4 => "LZ4",
        }
    }

    fn reader(self, file: File) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Self::Zstandard => Box::new(zstd::stream::read::Decoder::new(file)?),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(file)),
        })
    }
}

/// A file does not unpack.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// What comes out has no measure.
    #[error(
        "{file}: {packed} bytes of {} unpack to more than {most}, over {RATIO} times as much: it looks as if it was made \
         to fill the disk; if it is a database of yours, unpack it first",
        .packing.name()
    )]
    Bomb {
        /// The file, for people.
        file: String,
        /// By what it is packed.
        packing: Packing,
        /// Its size.
        packed: u64,
        /// So much it may unpack to.
        most: u64,
    },
    /// It is damaged, or could not be read or written.
    #[error("{file}: unpack it: {source}")]
    Io {
        /// The file, for people.
        file: String,
        /// Why.
        source: io::Error,
    },
}

/// Unpacks `fetched`, if it is packed; `file` is what it is called.
pub async fn unpacked(file: String, fetched: Scratch, staging: &Staging) -> Result<Scratch, UnpackError> {
    let (staging, named) = (staging.clone(), file.clone());
    let unpacking = tokio::task::spawn_blocking(move || unpack(named, fetched, &staging, FREE));
    unpacking.await.unwrap_or_else(|error| Err(UnpackError::Io { file, source: error.into() }))
}

/// Unpacks what is packed in a way that its first bytes tell. Blocks.
fn unpack(file: String, fetched: Scratch, staging: &Staging, free: u64) -> Result<Scratch, UnpackError> {
    let opened = open(&fetched).map_err(|source| UnpackError::Io { file: file.clone(), source })?;
    let Some(Packed { packing, size: packed, mut content }) = opened else { return Ok(fetched) };
    let most = free.saturating_add(packed.saturating_mul(RATIO));
    match copy(&mut content, staging, most) {
        Ok(Some(received)) => Ok(received.into_scratch()),
        Ok(None) => Err(UnpackError::Bomb { file, packing, packed, most }),
        Err(source) => Err(UnpackError::Io { file, source }),
    }
}

/// A packed file.
struct Packed {
    packing: Packing,
    size: u64,
    /// What is in it.
    content: Box<dyn Read>,
}

/// Looks into a file; none if it is not packed.
fn open(fetched: &Scratch) -> io::Result<Option<Packed>> {
    let mut file = File::open(fetched.path())?;
    let mut beginning = Vec::new();
    (&mut file).take(4).read_to_end(&mut beginning)?;
    let Some(packing) = Packing::of(&beginning) else { return Ok(None) };
    file.seek(SeekFrom::Start(0))?;
    let size = file.metadata()?.len();
    Ok(Some(Packed { packing, size, content: packing.reader(file)? }))
}

/// All of `content`; none if that is more than `most`.
fn copy(content: &mut dyn Read, staging: &Staging, most: u64) -> io::Result<Option<Receiving>> {
    let mut receiving = staging.receive(0)?;
    let mut piece = vec![0; PIECE];
    let mut written = 0;
    loop {
        match content.read(&mut piece)? {
            0 => return Ok(Some(receiving)),
            n if written + n as u64 > most => return Ok(None),
            n => {
                receiving.write(&piece[..n])?;
                written += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write as _;

    /// The same, packed in every way.
    fn pack(plain: &[u8]) -> [(Packing, Vec<u8>); 3] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(plain).unwrap();
        let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
        lz4.write_all(plain).unwrap();
        [
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Zstandard, zstd::encode_all(plain, 1).unwrap()),
            (Packing::Lz4, lz4.finish().unwrap()),
        ]
    }

    fn scratch(staging: &Staging, bytes: &[u8]) -> Scratch {
        let scratch = staging.scratch();
        std::fs::write(scratch.path(), bytes).unwrap();
        scratch
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path()).unwrap();
        let plain = b"CREATE TABLE t(a);".repeat(100);
        let packed = pack(&plain);
        let all = packed.iter().map(|(_, bytes)| bytes.as_slice()).chain([plain.as_slice()]);
        for bytes in all {
            let unpacked = unpack("f".into(), scratch(&staging, bytes), &staging, FREE).unwrap();
            assert_eq!(std::fs::read(unpacked.path()).unwrap(), plain);
        }
        for (packing, bytes) in &packed {
            assert_eq!(Packing::of(bytes), Some(*packing));
            let short = scratch(&staging, &bytes[..bytes.len() / 2]);
            let error = unpack("f".into(), short, &staging, FREE).err().unwrap();
            assert!(matches!(error, UnpackError::Io { .. }), "one that is cut short: {error}");
        }
    }

    #[test]
    fn what_has_no_measure_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(dir.path()).unwrap();
        let free = 1 << 20;
        let zeros = vec![0; 32 << 20];
        for (packing, bytes) in pack(&zeros) {
            let error = unpack("f.packed".into(), scratch(&staging, &bytes), &staging, free).err().unwrap();
            assert!(matches!(error, UnpackError::Bomb { .. }), "{packing:?} {error}");
            let said = error.to_string();
            let expected =
                format!("f.packed: {} bytes of {} unpack to more than", bytes.len(), packing.name());
            assert!(said.starts_with(&expected) && said.contains("200 times"), "{said}");
        }
        // As much as may come out of any file, and what a database packs to.
        for (packing, bytes) in pack(&zeros[..free as usize]) {
            assert!(unpack("f".into(), scratch(&staging, &bytes), &staging, free).is_ok(), "{packing:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("staging")).unwrap().count(), 0, "nothing is left");
    }
}
