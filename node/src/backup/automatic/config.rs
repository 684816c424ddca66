//! The files of `-auto-backup` and `-auto-restore`: JSON in rqlite's form, with variables of the environment in it.

use crate::config::expand_environment;
use crate::http::params::parse_duration;
use crate::secret::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The newest form that is known.
const VERSION: u64 = 1;
/// How long a restore may take to come, unless it is said.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Where a backup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageConfig {
    /// Amazon S3, or what speaks its protocol.
    S3(S3Config),
    /// Google Cloud Storage.
    Gcs(GcsConfig),
    /// A file in a directory.
    File(FileConfig),
}

/// `sub` of type `s3`. Without keys the environment's identity is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3Config {
    /// URL or host of a server other than Amazon's.
    pub endpoint: String,
    /// The region.
    pub region: String,
    /// Who asks.
    pub access_key_id: Secret,
    /// Its password.
    pub secret_access_key: Secret,
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub path: String,
    /// The bucket in the path of requests, not in the host.
    pub force_path_style: bool,
}

/// `sub` of type `gcs`. Without a file of credentials the environment's identity is used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcsConfig {
    /// URL of a server other than Google's.
    pub endpoint: String,
    /// Needed by nothing here: the bucket is there.
    #[serde(rename = "project_id")]
    pub _project_id: String,
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub name: String,
    /// The file of a service account.
    pub credentials_path: String,
}

/// `sub` of type `file`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileConfig {
    /// The directory; absolute.
    pub dir: PathBuf,
    /// The file in it; of a restore, if empty, the one that `METADATA.json` names.
    #[serde(alias = "file")]
    pub name: String,
}

/// What a file of `-auto-backup` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoBackupConfig {
    /// Where to.
    pub storage: StorageConfig,
    /// Between two looks whether there is something new.
    pub interval: Duration,
    /// Each under a name of its own, which begins with the time.
    pub timestamp: bool,
    /// As it is, not packed by gzip.
    pub no_compress: bool,
    /// Without free space.
    pub vacuum: bool,
}

/// What a file of `-auto-restore` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoRestoreConfig {
    /// Where from.
    pub storage: StorageConfig,
    /// How long it may take to come.
    pub timeout: Duration,
    /// Without it the cluster begins empty, if it does not come.
    pub continue_on_failure: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackupFile {
    #[serde(default)]
    version: u64,
    r#type: String,
    interval: String,
    #[serde(default)]
    timestamp: bool,
    #[serde(default)]
    no_compress: bool,
    #[serde(default)]
    vacuum: bool,
    sub: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreFile {
    #[serde(default)]
    version: u64,
    r#type: String,
    timeout: Option<String>,
    #[serde(default)]
    continue_on_failure: bool,
    sub: Value,
}

fn read<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    let parsed = text.and_then(|text| parse(&expand_environment(&text)));
    parsed.map_err(|error| format!("{}: {error}", path.display()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn duration(name: &str, text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| format!("{name}: {text:?} is not a duration such as 30s or 5m"))
}

fn storage(version: u64, kind: &str, sub: Value) -> Result<StorageConfig, String> {
    if version > VERSION {
        return Err(format!("version: {version} is not known, only up to {VERSION}"));
    }
    fn parse<T: DeserializeOwned>(sub: Value) -> Result<T, String> {
        serde_json::from_value(sub).map_err(|error| format!("sub: {error}"))
    }
    let set = |name: &str, value: &str| match value {
        "" => Err(format!("sub: {name} is missing")),
        _ => Ok(()),
    };
    match kind {
        "s3" => {
            let s3: S3Config = parse(sub)?;
            set("bucket", &s3.bucket).and_then(|()| set("path", &s3.path))?;
            if s3.access_key_id.0.is_empty() != s3.secret_access_key.0.is_empty() {
                return Err("sub: access_key_id and secret_access_key belong together".into());
            }
            Ok(StorageConfig::S3(s3))
        }
        "gcs" => {
            let gcs: GcsConfig = parse(sub)?;
            set("bucket", &gcs.bucket).and_then(|()| set("name", &gcs.name))?;
            Ok(StorageConfig::Gcs(gcs))
        }
        "file" => {
            let file: FileConfig = parse(sub)?;
            if !file.dir.is_absolute() {
                return Err(format!("sub: dir must be an absolute path, not {:?}", file.dir));
            }
            if file.name.contains('/') || file.name.starts_with('.') {
                return Err(format!("sub: name must be that of a file in dir, not {:?}", file.name));
            }
            Ok(StorageConfig::File(file))
        }
        other => Err(format!("type: {other:?} is not known; there are s3, gcs and file")),
    }
}

impl AutoBackupConfig {
    /// Reads a file. An error names it.
    pub fn read(path: &Path) -> Result<Self, String> {
        read(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let BackupFile { version, r#type, interval, timestamp, no_compress, vacuum, sub } = from_json(text)?;
        let storage = storage(version, &r#type, sub)?;
        if let StorageConfig::File(FileConfig { name, .. }) = &storage
            && name.is_empty()
        {
            return Err("sub: name is missing".into());
        }
        Ok(Self { storage, interval: duration("interval", &interval)?, timestamp, no_compress, vacuum })
    }
}

impl AutoRestoreConfig {
    /// Reads a file. An error names it.
    pub fn read(path: &Path) -> Result<Self, String> {
        read(path, Self::parse)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let RestoreFile { version, r#type, timeout, continue_on_failure, sub } = from_json(text)?;
        let timeout = timeout.map_or(Ok(TIMEOUT), |timeout| duration("timeout", &timeout))?;
        Ok(Self { storage: storage(version, &r#type, sub)?, timeout, continue_on_failure })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn files_by_table() {
        let file = r#""sub": {"dir": "/backups", "name": "db.sqlite"}"#;
        for (text, wanted) in [
            (format!(r#"{{"version": 1, "type": "file", "interval": "5m", {file}}}"#), Ok(())),
            (format!(r#"{{"type": "file", "interval": "1h30m", "vacuum": true, {file}}}"#), Ok(())),
            (
                r#"{"version": 1, "type": "s3", "interval": "30s", "timestamp": true, "no_compress": true,
                    "sub": {"region": "eu", "bucket": "b", "path": "a/b.gz", "endpoint": "h", "force_path_style": true,
                            "access_key_id": "id", "secret_access_key": "hush"}}"#
                    .into(),
                Ok(()),
            ),
            (
                r#"{"version": 1, "type": "gcs", "interval": "30s",
                    "sub": {"project_id": "p", "bucket": "b", "name": "n", "credentials_path": "/c"}}"#
                    .into(),
                Ok(()),
            ),
            (format!(r#"{{"version": 2, "type": "file", "interval": "5m", {file}}}"#), Err("version: 2 is not known")),
            (format!(r#"{{"version": 1, "type": "tape", "interval": "5m", {file}}}"#), Err("there are s3, gcs and file")),
            (format!(r#"{{"version": 1, "type": "file", "interval": "5", {file}}}"#), Err("not a duration")),
            (format!(r#"{{"version": 1, "type": "file", "interval": "0s", {file}}}"#), Err("not a duration")),
            (format!(r#"{{"version": 1, "type": "file", {file}}}"#), Err("missing field `interval`")),
            (format!(r#"{{"version": 1, "type": "file", "intervall": "5m", {file}}}"#), Err("unknown field `intervall`")),
            (r#"{"type": "file", "interval": "5m", "sub": {"dir": "a", "name": "b"}}"#.into(), Err("absolute path")),
            (r#"{"type": "file", "interval": "5m", "sub": {"dir": "/a", "name": "../b"}}"#.into(), Err("a file in dir")),
            (r#"{"type": "file", "interval": "5m", "sub": {"dir": "/a"}}"#.into(), Err("name is missing")),
            (r#"{"type": "s3", "interval": "5m", "sub": {"bucket": "b"}}"#.into(), Err("path is missing")),
            (
                r#"{"type": "s3", "interval": "5m", "sub": {"bucket": "b", "path": "p", "access_key_id": "a"}}"#.into(),
                Err("belong together"),
            ),
            ("{".into(), Err("EOF")),
        ] {
            match (AutoBackupConfig::parse(&text), wanted) {
                (Ok(config), Ok(())) => assert!(!format!("{config:?}").contains("hush")),
                (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
                (found, _) => assert!(found.is_ok() == wanted.is_ok(), "{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn restores_have_defaults() {
        let text = r#"{"version": 1, "type": "file", "sub": {"dir": "/backups"}}"#;
        let config = AutoRestoreConfig::parse(text).unwrap();
        assert_eq!((config.timeout, config.continue_on_failure), (Duration::from_secs(30), false));
        let text = r#"{"type": "s3", "timeout": "1m", "continue_on_failure": true, "sub": {"bucket": "b", "path": "p"}}"#;
        let config = AutoRestoreConfig::parse(text).unwrap();
        assert_eq!((config.timeout, config.continue_on_failure), (Duration::from_secs(60), true));
        let wrong = r#"{"type": "s3", "interval": "1m", "sub": {"bucket": "b", "path": "p"}}"#;
        assert!(AutoRestoreConfig::parse(wrong).is_err(), "that is a file of the other kind");
    }
}
