//! The objects of one cluster in a store, by names below its directory:
//!
//! ```text
//! backups/<epoch>-<index>-<name>/manifest.json, 00000, 00001, …     a backup; complete once it has its manifest
//! log/<epoch>/<first>-<last>-<time>                                 entries of the log, see [`super::segment`]
//! archived/<epoch>                                                  up to when everything is in log/<epoch>, see [`super::until`]
//! deleted                                                           when something was deleted last, see [`super::retention`]
//! files/<sha256>/parts.json, 00000, …                               a database that an entry of the log names
//! ```
//! Numbers have leading zeros, so that names in order are numbers in order.

use super::duty::DutyCycle;
use super::pace::Pace;
use super::seal::{Keyring, SUM, SealError, sum_of};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// For how long answers that are cut short are asked for again, and how long in between.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How long a store that does not answer is waited for by what would be begun anew.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// The store did not do what it was asked, or what it has is not what was put there.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// It did not do it.
    #[error("{action} {name}: {why}")]
    Store {
        /// What it was asked.
        action: &'static str,
        /// Of which object.
        name: String,
        /// Why it did not, in short.
        why: String,
        /// Whether that is because of who asked.
        refused: bool,
        /// Whether it may do it later.
        may_pass: bool,
    },
    /// An object is not there.
    #[error("{0} is not in the store")]
    Missing(String),
    /// An object could not be made or read.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A step failed here.
    #[error(transparent)]
    Local(std::io::Error),
    /// The thread that worked on it ended.
    #[error("a thread ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl ObjectError {
    /// Whether the store refused who asks: waiting does not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Store { refused: true, .. })
    }

    /// Whether the store may do it once it is back.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store { may_pass: true, .. })
    }
}

/// The objects of one cluster.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    root: Path,
    keys: Arc<Keyring>,
    pace: Option<Arc<Pace>>,
    /// Who takes turns when they are made.
    duty: Option<Arc<DutyCycle>>,
    /// Whether what is put there waits for its turn where there is a pace.
    queues: bool,
    /// How long a store that does not answer is asked again, when something is put there and when it is read.
    patience: [Duration; 2],
}

impl Objects {
    /// Those below `root`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, keys: Arc<Keyring>, pace: Option<Arc<Pace>>) -> Self {
        Self { store, root, keys, pace, duty: None, queues: true, patience: [Duration::ZERO, READ_AGAIN] }
    }

    /// The same, for what takes long and would be begun anew if the store is away for a moment.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { patience: [PATIENCE; 2], ..self.clone() }
    }

    /// The same, made in steps of `duty`.
    #[must_use]
    pub fn in_turns(&self, duty: Arc<DutyCycle>) -> Self {
        Self { duty: Some(duty), ..self.clone() }
    }

    /// The same, for what must not wait behind a backup that keeps to a pace: it counts, and is sent at once.
    #[must_use]
    pub fn at_once(&self) -> Self {
        Self { queues: false, ..self.clone() }
    }

    /// Whether what is put there is encrypted.
    pub fn are_encrypted(&self) -> bool {
        self.keys.encrypts()
    }

    /// Whether objects that are `encrypted`, or not, are read.
    pub fn accepts(&self, encrypted: bool) -> bool {
        encrypted || self.keys.accepts_unencrypted()
    }

    /// What seals and opens them.
    pub fn keys(&self) -> &Keyring {
        &self.keys
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.root.clone(), |path, part| path.join(part))
    }

    /// Seals `plain` and puts it there; returns the size of what is in the store, and the sum that it ends with.
    pub async fn put_sealed(&self, name: &str, plain: Bytes) -> Result<(u64, String), ObjectError> {
        let (keys, of, duty) = (self.keys.clone(), name.to_owned(), self.duty.clone());
        let sealed = tokio::task::spawn_blocking(move || {
            let sealed = keys.seal(&of, &plain, duty.as_deref())?;
            let sum = sum_of(&sealed);
            Ok::<_, SealError>((sealed, sum))
        });
        let (sealed, sum) = sealed.await??;
        let size = sealed.len() as u64;
        self.put(name, sealed).await?;
        Ok((size, sum))
    }

    /// What was sealed, at most `at_most` bytes of it; if `sum` is said, what is in the store must end with it.
    pub async fn get_sealed(
        &self,
        name: &str,
        at_most: usize,
        sum: Option<&str>,
    ) -> Result<Vec<u8>, ObjectError> {
        let sealed = self.fetch(name).await?;
        let found = sum_of(&sealed);
        let plain = self.open(name, sealed, at_most).await?;
        if sum.is_some_and(|sum| sum != found) {
            let what = "it is not the object that the manifest names";
            return Err(SealError::Damaged { name: name.into(), what }.into());
        }
        Ok(plain)
    }

    /// The bytes of an object that has to be there.
    pub async fn fetch(&self, name: &str) -> Result<Bytes, ObjectError> {
        self.get(name).await?.ok_or_else(|| ObjectError::Missing(name.into()))
    }

    /// What was sealed as `sealed`, at most `at_most` bytes of it.
    pub async fn open(&self, name: &str, sealed: Bytes, at_most: usize) -> Result<Vec<u8>, ObjectError> {
        let (keys, of) = (self.keys.clone(), name.to_owned());
        Ok(tokio::task::spawn_blocking(move || keys.open(&of, sealed, at_most)).await??)
    }

    /// Whether what is there ends with a sum of what was sealed, as [`Objects::put_sealed`] said it.
    pub async fn ends_with(&self, name: &str, sum: &str) -> Result<bool, ObjectError> {
        let path = self.path(name);
        // Not all stores know ranges from the end on.
        let get = || {
            async {
                let size = self.store.head(&path).await?.size;
                self.store.get_range(&path, size.saturating_sub(SUM as u64)..size).await
            }
            .boxed()
        };
        match again(self.patience[1], get).await {
            Ok(end) => Ok(sum_of(&end) == sum),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(failed("read", name, source)),
        }
    }

    /// Puts bytes there as they are.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        if let Some(pace) = &self.pace {
            let from = pace.admit(bytes.len()).await;
            if self.queues {
                sleep_until(from).await;
            }
        }
        let path = self.path(name);
        let put = || self.store.put(&path, PutPayload::from_bytes(bytes.clone())).boxed();
        again(self.patience[0], put).await.map(drop).map_err(|source| failed("write", name, source))
    }

    /// The bytes of an object, if it is there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, ObjectError> {
        let path = self.path(name);
        let get = || async { self.store.get(&path).await?.bytes().await }.boxed();
        match again(self.patience[1], get).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("read", name, source)),
        }
    }

    /// Names and sizes below a directory, in order.
    pub async fn list(&self, directory: &str) -> Result<Vec<(String, u64)>, ObjectError> {
        let take = |all: &mut Vec<_>, name: &str, meta: &ObjectMeta| all.push((name.to_owned(), meta.size));
        let mut listed = self.gather(directory, None, take).await?;
        listed.sort();
        Ok(listed)
    }

    /// Names below a directory, in order, with when each was last written, in microseconds since 1970 by the store's clock.
    pub async fn written(&self, directory: &str) -> Result<Vec<(String, i64)>, ObjectError> {
        let take = |all: &mut Vec<_>, name: &str, meta: &ObjectMeta| {
            all.push((name.to_owned(), meta.last_modified.timestamp_micros()));
        };
        let mut listed = self.gather(directory, None, take).await?;
        listed.sort();
        Ok(listed)
    }

    /// Has `take` put what is below a directory into a value, one object after the other, in no order. With `after` only
    /// names that come after that, which most stores need not go through the others for.
    pub async fn gather<T: Default + Send>(
        &self,
        directory: &str,
        after: Option<&str>,
        take: impl Fn(&mut T, &str, &ObjectMeta) + Sync,
    ) -> Result<T, ObjectError> {
        let (under, after) = (self.path(directory), after.map(|after| self.path(after)));
        let gather = || {
            async {
                let mut gathered = T::default();
                let mut listed = match &after {
                    Some(after) => self.store.list_with_offset(Some(&under), after),
                    None => self.store.list(Some(&under)),
                };
                while let Some(meta) = listed.try_next().await? {
                    let is_meant = after.as_ref().is_none_or(|after| meta.location > *after);
                    if let Some(name) = self.name_of(&meta.location).filter(|_| is_meant) {
                        take(&mut gathered, name, &meta);
                    }
                }
                Ok(gathered)
            }
            .boxed()
        };
        again(self.patience[1], gather).await.map_err(|source| failed("list", directory, source))
    }

    /// Which version of an object is there: another one after each time that it was written; none if it is not there.
    pub async fn version(&self, name: &str) -> Result<Option<String>, ObjectError> {
        let path = self.path(name);
        let head = || self.store.head(&path).boxed();
        match again(self.patience[1], head).await {
            Ok(meta) => Ok(Some(meta.e_tag.unwrap_or_else(|| meta.last_modified.to_string()))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(failed("look up", name, source)),
        }
    }

    /// Directories directly below a directory, in order.
    pub async fn directories(&self, directory: &str) -> Result<Vec<String>, ObjectError> {
        let under = self.path(directory);
        let list = || self.store.list_with_delimiter(Some(&under)).boxed();
        let listed = again(self.patience[1], list).await;
        let listed = listed.map_err(|source| failed("list", directory, source))?;
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }

    /// Deletes objects; what is not there is no error. Returns how many were deleted.
    pub async fn delete(&self, names: Vec<String>) -> Result<u64, ObjectError> {
        let Some(first) = names.first().cloned() else { return Ok(0) };
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        self.delete_all(&first, futures::stream::iter(paths).boxed()).await
    }

    /// Deletes what of a directory `is_gone` says of, while it is listed: it is not held in memory, however much that is, and
    /// what was deleted when it fails stays deleted. Returns how many objects were.
    pub async fn delete_those(
        &self,
        directory: &str,
        is_gone: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<u64, ObjectError> {
        let listed = self.store.list(Some(&self.path(directory)));
        let objects = self.clone();
        let gone = move |meta: ObjectMeta| {
            let is_gone = objects.name_of(&meta.location).is_some_and(&is_gone);
            futures::future::ready(Ok(is_gone.then_some(meta.location)))
        };
        self.delete_all(directory, listed.try_filter_map(gone).boxed()).await
    }

    async fn delete_all(
        &self,
        what: &str,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> Result<u64, ObjectError> {
        let mut deleted = 0;
        let mut outcomes = self.store.delete_stream(paths);
        while let Some(outcome) = outcomes.next().await {
            match outcome {
                Ok(_) => deleted += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(failed("delete", what, source)),
            }
        }
        Ok(deleted)
    }

    /// A path in the store as a name below the root.
    fn name_of<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let below = path.as_ref().strip_prefix(self.root.as_ref())?;
        let name = if self.root.as_ref().is_empty() { below } else { below.strip_prefix('/')? };
        (!name.is_empty()).then_some(name)
    }
}

/// Asks the store, and again for as long as `patience` where that may help: its client tries requests again for a second or
/// two, and their answers not.
async fn again<'a, T>(
    patience: Duration,
    ask: impl Fn() -> BoxFuture<'a, object_store::Result<T>>,
) -> object_store::Result<T> {
    let until = Instant::now() + patience;
    loop {
        match ask().await {
            Err(error) if may_pass(&error) && Instant::now() < until => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

fn may_pass(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. }) && !is_refusal(error)
}

/// Whether the store refused who asks. Of a list that is refused the client of the store only says so in words.
fn is_refusal(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => true,
        E::Generic { .. } => {
            let text = error.to_string();
            ["status code: 401", "status code: 403"].iter().any(|status| text.contains(status))
        }
        _ => false,
    }
}

/// What an error of a store is, without what nobody wants to read.
pub fn failed(action: &'static str, name: &str, error: object_store::Error) -> ObjectError {
    let (refused, text) = (is_refusal(&error), error.to_string());
    let why = match &error {
        // Some stores say no more than that.
        object_store::Error::NotFound { .. } if !text.contains("<Code>") => {
            "the bucket or container is not there, or may not be seen".into()
        }
        _ => with_cause(in_short(&text), &error, &text),
    };
    ObjectError::Store { action, name: name.to_owned(), why, refused, may_pass: may_pass(&error) }
}

/// With what is at the bottom of it, as a certificate that is not trusted: on the way up it becomes a request that could not
/// be sent.
fn with_cause(told: String, error: &(dyn std::error::Error + 'static), text: &str) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    match causes.last().map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{told}: {}", in_short(&cause)),
        _ => told,
    }
}

/// What people need of an error: stores answer with pages of XML, and tell of each attempt.
fn in_short(error: &str) -> String {
    const LONGEST: usize = 300;
    let between = |tag: &str| {
        let (_, rest) = error.split_once(&format!("<{tag}>"))?;
        rest.split_once('<').map(|(inside, _)| inside)
    };
    let told = match (between("Code"), between("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        _ => error.lines().next().unwrap_or_default().to_owned(),
    };
    told.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the layers of an HTTP client are: each says only what it was about.
    #[derive(Debug, thiserror::Error)]
    #[error("{about}")]
    struct Layer {
        about: &'static str,
        source: std::io::Error,
    }

    #[test]
    fn what_is_at_the_bottom_of_an_error_is_told_once() {
        let why = |about| {
            let source = std::io::Error::other("invalid peer certificate: UnknownIssuer");
            let source = Box::new(Layer { about, source });
            failed("put", "x", object_store::Error::Generic { store: "S3", source }).to_string()
        };
        let told = "put x: Generic S3 error: error sending request: invalid peer certificate: UnknownIssuer";
        assert_eq!(why("error sending request"), told);
        assert_eq!(why("error sending request: invalid peer certificate: UnknownIssuer"), told);
    }

    #[test]
    fn pages_of_xml_are_cut_down_to_what_they_say() {
        let page = "Generic S3 error: Error performing PUT http://h/b in 1ms - Server returned non-2xx status code: 400 \
                    Bad Request: <?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code><Message>There is none.</Message></Error>";
        assert_eq!(in_short(page), "NoSuchBucket: There is none.");
        assert_eq!(in_short("connection refused\nand more"), "connection refused");
        assert_eq!(in_short(&"x".repeat(1000)).len(), 300);
    }
}
