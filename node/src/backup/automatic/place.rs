//! The place of one backup: an object of a store, or a file of a directory. With it is kept what state it is of.
//!
//! ```text
//! s3    metadata x-rqlite-auto-backup-id of the object
//! gcs   metadata rqlite-auto-backup-id of the object
//! file  METADATA.json in the directory: {"id", "timestamp", "name"}
//! ```

use super::config::{FileConfig, GcsConfig, S3Config, StorageConfig};
use crate::backup::objects::{ObjectError, failed};
use crate::backup::repository::{client, retry};
use crate::store::{Receiving, Scratch, Staging};
use bytes::Bytes;
use futures::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::buffered::BufWriter;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore, ObjectStoreExt as _};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

/// Size of a part that is sent, in bytes, and parts on their way at once.
const PART: usize = 8 << 20;
const PARTS: usize = 2;
/// Bytes copied at once.
const PIECE: usize = 1 << 20;
/// The file beside backups in a directory.
const METADATA: &str = "METADATA.json";

/// A backup did not come to its place, or not from there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] ObjectError),
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The copy of the database was not whole.
    #[error("the copy of the database: {0}")]
    Copy(io::Error),
    /// It could not be put on the disk here.
    #[error("receive a backup: {0}")]
    Receive(io::Error),
}

/// Where a backup is put or taken.
pub struct Place {
    kind: Kind,
    shown: String,
}

enum Kind {
    Object { store: Arc<dyn ObjectStore>, path: ObjectPath, id: &'static str },
    File { directory: PathBuf, name: String },
}

/// What is beside backups in a directory.
#[derive(Serialize, Deserialize)]
struct Metadata {
    id: String,
    /// Milliseconds since 1970.
    #[serde(default)]
    timestamp: i64,
    /// The newest backup.
    #[serde(default)]
    name: String,
}

fn at(path: &Path) -> impl Fn(io::Error) -> PlaceError {
    move |source| PlaceError::File { path: path.to_owned(), source }
}

impl Place {
    /// As configured; nothing is asked yet.
    pub fn open(config: &StorageConfig) -> Result<Self, PlaceError> {
        match config {
            StorageConfig::S3(s3) => open_s3(s3),
            StorageConfig::Gcs(gcs) => open_gcs(gcs),
            StorageConfig::File(FileConfig { dir, name }) => {
                let shown = dir.join(name).display().to_string();
                Ok(Self { kind: Kind::File { directory: dir.clone(), name: name.clone() }, shown })
            }
        }
    }

    /// What the backup there is of, if there is one.
    pub async fn stored_id(&self) -> Result<Option<String>, PlaceError> {
        match &self.kind {
            Kind::Object { store, path, id } => {
                let head = store.get_opts(path, GetOptions::new().with_head(true)).await;
                match head {
                    Ok(head) => {
                        let metadata = head.attributes.get(&Attribute::Metadata((*id).into()));
                        Ok(metadata.map(|id| id.to_string()))
                    }
                    Err(object_store::Error::NotFound { .. }) => Ok(None),
                    Err(error) => Err(failed("look at", &self.shown, error).into()),
                }
            }
            Kind::File { directory, .. } => {
                let path = directory.join(METADATA);
                Ok(read_metadata(&path)?.map(|metadata| metadata.id))
            }
        }
    }

    /// Puts `first` and the pieces after it, up to an empty one, there under `id`; `stamp` is what the last part of the
    /// name begins with. Returns how many bytes it were. What was there before stays until all of it is.
    pub async fn put(
        &self,
        first: Bytes,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        id: &str,
        stamp: Option<&str>,
    ) -> Result<u64, PlaceError> {
        match &self.kind {
            Kind::Object { store, path, id: key } => {
                let path = match (stamp, path.filename()) {
                    (Some(stamp), Some(name)) => {
                        let mut parts: Vec<_> = path.parts().collect();
                        parts.pop();
                        parts.into_iter().collect::<ObjectPath>().join(format!("{stamp}_{name}"))
                    }
                    _ => path.clone(),
                };
                let attributes = Attributes::from_iter([(Attribute::Metadata((*key).into()), id.to_owned())]);
                let mut writer = BufWriter::with_capacity(store.clone(), path, PART)
                    .with_max_concurrency(PARTS)
                    .with_attributes(attributes);
                match self.send(&mut writer, first, pieces).await {
                    Ok(size) => {
                        // Of one that ends badly nothing is left.
                        let ended = writer.shutdown().await.map_err(of_store);
                        ended.map_err(|error| failed("write", &self.shown, error))?;
                        Ok(size)
                    }
                    Err(error) => {
                        if let Err(error) = writer.abort().await {
                            tracing::warn!(to = self.shown, %error, "parts of a backup may be left there");
                        }
                        Err(error)
                    }
                }
            }
            Kind::File { directory, name } => {
                let name = stamp.map_or_else(|| name.clone(), |stamp| format!("{stamp}_{name}"));
                write_file(directory, &name, first, pieces, id).await
            }
        }
    }

    async fn send(
        &self,
        writer: &mut BufWriter,
        first: Bytes,
        mut pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<u64, PlaceError> {
        let (mut size, mut next) = (0, first);
        while !next.is_empty() {
            size += next.len() as u64;
            writer.put(next).await.map_err(|error| failed("write", &self.shown, error))?;
            next = receive(&mut pieces).await?;
        }
        Ok(size)
    }

    /// Brings what is there, packed or not.
    pub async fn fetch(&self, staging: &Staging) -> Result<Scratch, PlaceError> {
        match &self.kind {
            Kind::Object { store, path, .. } => {
                let of = |error| PlaceError::from(failed("read", &self.shown, error));
                let got = store.get(path).await.map_err(of)?;
                let mut receiving = staging.receive(got.meta.size).map_err(PlaceError::Receive)?;
                let mut pieces = got.into_stream();
                while let Some(piece) = pieces.next().await {
                    let piece = piece.map_err(of)?;
                    let writing = tokio::task::spawn_blocking(move || -> io::Result<Receiving> {
                        receiving.write(&piece)?;
                        Ok(receiving)
                    });
                    let written = writing.await.map_err(io::Error::from).and_then(|written| written);
                    receiving = written.map_err(PlaceError::Receive)?;
                }
                Ok(receiving.into_scratch())
            }
            Kind::File { directory, name } => {
                let path = newest(directory, name)?;
                let staging = staging.clone();
                let copied = tokio::task::spawn_blocking(move || copy(&path, &staging)).await;
                copied.map_err(io::Error::from).map_err(PlaceError::Receive)?
            }
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// The error of the store that is inside.
fn of_store(error: io::Error) -> object_store::Error {
    let other = |error| object_store::Error::Generic { store: "the store", source: Box::new(error) };
    error.downcast().unwrap_or_else(other)
}

/// The next piece; an empty one is the end.
async fn receive(pieces: &mut mpsc::Receiver<io::Result<Bytes>>) -> Result<Bytes, PlaceError> {
    let cut_short = || Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    pieces.recv().await.unwrap_or_else(cut_short).map_err(PlaceError::Copy)
}

fn open_s3(s3: &S3Config) -> Result<Place, PlaceError> {
    let settings = |why: &dyn std::fmt::Display| PlaceError::Settings(why.to_string());
    let mut builder = if s3.access_key_id.0.is_empty() {
        AmazonS3Builder::from_env()
    } else {
        AmazonS3Builder::new()
            .with_access_key_id(&s3.access_key_id.0)
            .with_secret_access_key(&s3.secret_access_key.0)
    };
    let region = if s3.region.is_empty() { "us-east-1" } else { &s3.region };
    builder = builder
        .with_bucket_name(&s3.bucket)
        .with_region(region)
        .with_virtual_hosted_style_request(!s3.force_path_style)
        .with_client_options(client())
        .with_retry(retry());
    let mut shown = format!("s3://{}/{}", s3.bucket, s3.path);
    if !s3.endpoint.is_empty() {
        let (scheme, host) = s3.endpoint.split_once("://").unwrap_or(("https", &s3.endpoint));
        let host = host.trim_end_matches('/');
        shown = format!("{scheme}://{host}/{}/{}", s3.bucket, s3.path);
        let endpoint = if s3.force_path_style {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{}.{host}", s3.bucket)
        };
        builder = builder.with_endpoint(endpoint).with_allow_http(scheme == "http");
    }
    let store = Arc::new(builder.build().map_err(|error| settings(&error))?);
    let path = ObjectPath::parse(&s3.path).map_err(|error| settings(&error))?;
    Ok(Place { kind: Kind::Object { store, path, id: "x-rqlite-auto-backup-id" }, shown })
}

fn open_gcs(gcs: &GcsConfig) -> Result<Place, PlaceError> {
    let settings = |why: &dyn std::fmt::Display| PlaceError::Settings(why.to_string());
    let mut builder = if gcs.credentials_path.is_empty() {
        GoogleCloudStorageBuilder::from_env()
    } else {
        GoogleCloudStorageBuilder::new().with_service_account_path(&gcs.credentials_path)
    };
    let mut options = client();
    if !gcs.endpoint.is_empty() {
        options = options.with_allow_http(gcs.endpoint.starts_with("http://"));
        builder = builder.with_base_url(gcs.endpoint.trim_end_matches('/'));
    }
    builder = builder.with_bucket_name(&gcs.bucket).with_client_options(options).with_retry(retry());
    let store = Arc::new(builder.build().map_err(|error| settings(&error))?);
    let path = ObjectPath::parse(&gcs.name).map_err(|error| settings(&error))?;
    let shown = format!("gs://{}/{}", gcs.bucket, gcs.name);
    Ok(Place { kind: Kind::Object { store, path, id: "rqlite-auto-backup-id" }, shown })
}

fn read_metadata(path: &Path) -> Result<Option<Metadata>, PlaceError> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let metadata = serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(at(path))?;
            Ok(Some(metadata))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// The file of that name, or without a name the one that was written last.
fn newest(directory: &Path, name: &str) -> Result<PathBuf, PlaceError> {
    if !name.is_empty() {
        return Ok(directory.join(name));
    }
    let path = directory.join(METADATA);
    let metadata = read_metadata(&path)?;
    // The directory may have been another one where it was written.
    let name = metadata.as_ref().and_then(|metadata| Path::new(&metadata.name).file_name());
    let none = || at(&path)(io::Error::new(io::ErrorKind::NotFound, "it names no backup"));
    Ok(directory.join(name.ok_or_else(none)?))
}

fn copy(path: &Path, staging: &Staging) -> Result<Scratch, PlaceError> {
    let mut file = File::open(path).map_err(at(path))?;
    let size = file.metadata().map_err(at(path))?.len();
    let mut receiving = staging.receive(size).map_err(PlaceError::Receive)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(at(path))? {
            0 => return Ok(receiving.into_scratch()),
            n => receiving.write(&piece[..n]).map_err(PlaceError::Receive)?,
        }
    }
}

/// Writes a file beside its place, and moves it there; then says in `METADATA.json` that it is there.
async fn write_file(
    directory: &Path,
    name: &str,
    first: Bytes,
    mut pieces: mpsc::Receiver<io::Result<Bytes>>,
    id: &str,
) -> Result<u64, PlaceError> {
    let (path, partial) = (directory.join(name), directory.join(format!(".{name}.partial")));
    tokio::fs::create_dir_all(directory).await.map_err(at(directory))?;
    let written = async {
        let mut file = tokio::fs::File::create(&partial).await.map_err(at(&partial))?;
        let (mut size, mut next) = (0, first);
        while !next.is_empty() {
            size += next.len() as u64;
            file.write_all(&next).await.map_err(at(&partial))?;
            next = receive(&mut pieces).await?;
        }
        file.flush().await.map_err(at(&partial))?;
        file.sync_all().await.map_err(at(&partial))?;
        Ok(size)
    };
    let size = match written.await {
        Ok(size) => size,
        Err(error) => {
            if let Err(error) = tokio::fs::remove_file(&partial).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %partial.display(), %error, "part of a backup is left there");
            }
            return Err(error);
        }
    };
    let metadata = Metadata {
        id: id.to_owned(),
        timestamp: crate::clock::now().as_millisecond(),
        name: path.display().to_string(),
    };
    let (directory, id_file) = (directory.to_owned(), directory.join(METADATA));
    let moved = tokio::task::spawn_blocking(move || -> Result<(), PlaceError> {
        let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all()).map_err(at(path));
        std::fs::rename(&partial, &path).map_err(at(&path))?;
        let new = directory.join(format!(".{METADATA}.partial"));
        let json = serde_json::to_vec(&metadata).map_err(io::Error::from).map_err(at(&new))?;
        std::fs::write(&new, json).map_err(at(&new))?;
        sync(&new)?;
        std::fs::rename(&new, &id_file).map_err(at(&id_file))?;
        sync(&directory)
    });
    moved.await.map_err(io::Error::from).map_err(PlaceError::Copy)??;
    Ok(size)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::Secret;

    fn pieces(all: Vec<io::Result<Bytes>>) -> mpsc::Receiver<io::Result<Bytes>> {
        let (send, pieces) = mpsc::channel(16);
        all.into_iter().for_each(|piece| send.try_send(piece).unwrap());
        pieces
    }

    #[tokio::test]
    async fn a_file_is_replaced_when_the_next_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let staging = Staging::open(&dir.path().join("data")).unwrap();
        let backups = dir.path().join("backups");
        let of = |name: &str| {
            Place::open(&StorageConfig::File(FileConfig { dir: backups.clone(), name: name.into() })).unwrap()
        };
        let place = of("db");
        assert_eq!(place.stored_id().await.unwrap(), None);
        assert!(place.fetch(&staging).await.is_err());
        let whole =
            |text: &'static str| pieces(vec![Ok(Bytes::from_static(text.as_bytes())), Ok(Bytes::new())]);
        let first = || Bytes::from_static(b"a");
        assert_eq!(place.put(first(), whole("b"), "1", None).await.unwrap(), 2);
        assert_eq!(place.stored_id().await.unwrap().as_deref(), Some("1"));
        for cut_short in [vec![], vec![Ok(first())], vec![Ok(first()), Err(io::Error::other("no"))]] {
            assert!(matches!(
                place.put(first(), pieces(cut_short), "2", None).await,
                Err(PlaceError::Copy(_))
            ));
        }
        let fetched = place.fetch(&staging).await.unwrap();
        assert_eq!(std::fs::read(fetched.path()).unwrap(), b"ab");
        assert_eq!(place.put(first(), whole("c"), "3", Some("20260131120000")).await.unwrap(), 2);
        let mut names: Vec<String> = std::fs::read_dir(&backups)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["20260131120000_db", METADATA, "db"]);
        let newest = of("").fetch(&staging).await.unwrap();
        assert_eq!(std::fs::read(newest.path()).unwrap(), b"ac");
    }

    #[test]
    fn where_objects_are() {
        let s3 = |endpoint: &str, force_path_style| {
            let config = S3Config {
                endpoint: endpoint.into(),
                bucket: "b".into(),
                path: "dir/db.gz".into(),
                access_key_id: Secret("id".into()),
                secret_access_key: Secret("secret".into()),
                force_path_style,
                ..S3Config::default()
            };
            Place::open(&StorageConfig::S3(config)).map(|place| place.to_string()).unwrap()
        };
        assert_eq!(s3("", false), "s3://b/dir/db.gz");
        assert_eq!(s3("minio.example", true), "https://minio.example/b/dir/db.gz");
        assert_eq!(s3("http://h:1/", false), "http://h:1/b/dir/db.gz");
    }
}
