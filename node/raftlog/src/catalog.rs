//! The files of a log's directory.

use std::path::{Path, PathBuf};

use crate::OpenError;
use crate::io::Io;
use crate::segment::{Role, Segment, counter_of, file_name, parse_name};

/// What was found at open.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// In log order.
    pub segments: Vec<Segment>,
    /// Retired segments.
    pub spares: Vec<Segment>,
    /// Files of no use.
    pub leftovers: Vec<PathBuf>,
    /// Highest counter in use; 0 in a new directory, also after a first attempt that left no segment.
    pub last_counter: u32,
}

impl Catalog {
    /// Lists the directory and opens its files.
    pub(crate) fn read(io: &dyn Io, dir: &Path) -> Result<Self, OpenError> {
        let names = io.list(dir).map_err(|source| OpenError::List { path: dir.to_owned(), source })?;
        let mut files: Vec<_> = names.iter().filter_map(|name| parse_name(name)).collect();
        files.sort_unstable_by_key(|(generation, _)| *generation);
        let mut catalog =
            Self { segments: Vec::new(), spares: Vec::new(), leftovers: Vec::new(), last_counter: 0 };
        for (generation, role) in files {
            if role != Role::New {
                catalog.last_counter = catalog.last_counter.max(counter_of(generation));
            }
            let path = dir.join(file_name(generation, role));
            match role {
                Role::New => catalog.leftovers.push(path),
                Role::Segment => catalog.segments.push(open(io, path, generation)?),
                Role::Spare => catalog.spares.push(open(io, path, generation)?),
            }
        }
        Ok(catalog)
    }
}

fn open(io: &dyn Io, path: PathBuf, generation: u64) -> Result<Segment, OpenError> {
    let opened = io.open(&path).and_then(|file| Ok((file.byte_len()?, file)));
    match opened {
        Ok((len, file)) => Ok(Segment { generation, len, path, file }),
        Err(source) => Err(OpenError::OpenSegment { path, source }),
    }
}
