//! What is made of files that change while the member runs: users, certificates.
//!
//! They are read once a second and compared: notifications miss what a Kubernetes volume does, which swaps a symbolic
//! link of a directory above. What changed and makes no sense is not taken; the last good reading stays in force.

use arc_swap::ArcSwap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Largest file.
const LIMIT: u64 = 4 << 20;

/// Paths with what is in them.
pub type Files = Vec<(PathBuf, Vec<u8>)>;

/// A value made of files.
pub struct Reloaded<T> {
    current: ArcSwap<T>,
}

/// Reads one file.
pub fn read_file(path: &Path) -> io::Result<(PathBuf, Vec<u8>)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(named)?;
    if bytes.len() as u64 > LIMIT {
        return Err(named(io::Error::other(format!("larger than {LIMIT} bytes"))));
    }
    Ok((path.to_owned(), bytes))
}

/// Reads the files of a directory that are wanted, by their names in order.
pub fn read_directory(directory: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<Files> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        // Names with a dot in front are how Kubernetes swaps versions.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && wanted(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| read_file(path)).collect()
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads with `read`, makes of it with `make`, and goes on doing so in the background until it is dropped. `what`
    /// names it in the log.
    pub fn follow(
        what: &'static str,
        read: impl Fn() -> io::Result<Files> + Send + Sync + 'static,
        make: impl Fn(&Files) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let files = read().map_err(|e| e.to_string())?;
        let made = make(&files)?;
        Ok(Self::begin(Follower { what, read, make, seen: files, trouble: None }, made))
    }

    /// The same, but beginning with what `otherwise` makes of the error if it cannot be had yet.
    pub fn follow_from(
        what: &'static str,
        read: impl Fn() -> io::Result<Files> + Send + Sync + 'static,
        make: impl Fn(&Files) -> Result<T, String> + Send + Sync + 'static,
        otherwise: impl FnOnce(String) -> T,
    ) -> Result<Arc<Self>, String> {
        let seen = read();
        let made = seen.as_ref().map_err(ToString::to_string).and_then(&make);
        let follower = Follower { what, read, make, seen: seen.unwrap_or_default(), trouble: None };
        Ok(Self::begin(follower, made.unwrap_or_else(otherwise)))
    }

    fn begin<R, M>(follower: Follower<R, M>, made: T) -> Arc<Self>
    where
        R: Fn() -> io::Result<Files> + Send + Sync + 'static,
        M: Fn(&Files) -> Result<T, String> + Send + Sync + 'static,
    {
        let reloaded = Arc::new(Self { current: ArcSwap::from_pointee(made) });
        tokio::spawn(keep(follower, Arc::downgrade(&reloaded)));
        reloaded
    }

    /// As the files were when they last made sense.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }
}

struct Follower<R, M> {
    what: &'static str,
    read: R,
    make: M,
    seen: Files,
    /// What was last complained about.
    trouble: Option<String>,
}

impl<R, M> Follower<R, M> {
    fn look<T>(&mut self, into: &Reloaded<T>)
    where
        R: Fn() -> io::Result<Files>,
        M: Fn(&Files) -> Result<T, String>,
    {
        let made = match (self.read)() {
            Ok(files) if files == self.seen => return,
            Ok(files) => {
                let made = (self.make)(&files);
                self.seen = files;
                made
            }
            Err(error) => Err(error.to_string()),
        };
        match made {
            Ok(made) => {
                into.current.store(Arc::new(made));
                self.trouble = None;
                tracing::info!(what = self.what, "read anew");
            }
            Err(error) if self.trouble.as_ref() == Some(&error) => {}
            Err(error) => {
                tracing::error!(
                    what = self.what,
                    error,
                    "what changed is not taken; what was there before stays"
                );
                self.trouble = Some(error);
            }
        }
    }
}

async fn keep<T, R, M>(mut follower: Follower<R, M>, into: Weak<Reloaded<T>>)
where
    T: Send + Sync + 'static,
    R: Fn() -> io::Result<Files> + Send + Sync + 'static,
    M: Fn(&Files) -> Result<T, String> + Send + Sync + 'static,
{
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(into) = into.upgrade() else { return };
        let looked = tokio::task::spawn_blocking(move || {
            follower.look(&into);
            follower
        });
        follower = match looked.await {
            Ok(follower) => follower,
            Err(error) => {
                tracing::error!(%error, "files are not followed any more");
                return;
            }
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_makes_no_sense_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let make = |files: &Files| -> Result<u32, String> {
            String::from_utf8_lossy(&files[0].1).parse().map_err(|_| "no number".to_owned())
        };
        let read = || Ok(vec![read_file(&path)?]);
        let into = Reloaded { current: ArcSwap::from_pointee(0) };
        let mut follower = Follower { what: "a number", read, make, seen: Vec::new(), trouble: None };
        for (content, expected) in [(Some("1"), 1), (Some("x"), 1), (None, 1), (Some("2"), 2), (Some("2"), 2)]
        {
            match content {
                Some(content) => std::fs::write(&path, content).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            follower.look(&into);
            assert_eq!(*into.current(), expected, "{content:?}");
        }
    }

    #[test]
    fn a_directory_is_read_without_what_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.json", "a.json", ".c.json", "d.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let files = read_directory(dir.path(), |path| path.extension().is_some_and(|e| e == "json")).unwrap();
        let contents: Vec<_> = files.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        assert_eq!(contents, [b"a.json", b"b.json"]);
    }
}
