//! The store that a file of settings names, with what belongs to it: keys, pace, the archive's settings.

use super::objects::Objects;
use super::pace::Pace;
use super::seal::Keyring;
use crate::reload::{Files, Reloaded, read_directory, read_file};
use client::backup::{
    AzureConfig, BackupConfig, ContinuousConfig, FilesystemConfig, GcsConfig, S3Config, StoreConfig,
    Unencrypted,
};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long one request may take: an object is at most some MiB.
const REQUEST: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);
/// How long failed requests are tried again before the caller hears of it; it tries again itself.
const RETRY: Duration = Duration::from_secs(15);

/// A store and how it is used.
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    keys: Arc<Keyring>,
    pace: Option<Arc<Pace>>,
    /// Settings of the archive, if there is to be one.
    pub continuous: Option<ContinuousConfig>,
    /// Whether everybody on the way to the store can read along.
    pub plaintext: bool,
}

/// A store that cannot be used until what its settings name is there: a member serves all the same.
pub struct Missing {
    /// What is wrong.
    pub why: String,
    /// Settings of the archive, if there is to be one.
    pub continuous: Option<ContinuousConfig>,
}

/// A store, if everything that its settings name is there.
pub type Known = Result<Repository, Missing>;

impl Repository {
    /// Reads the file of settings at `path`, and follows it and what it names. Settings that make no sense are an error, and
    /// files that are not there yet are none.
    pub fn follow(what: &'static str, path: PathBuf) -> Result<Arc<Reloaded<Known>>, String> {
        let (_, bytes) = read_file(&path).map_err(|error| error.to_string())?;
        let continuous = parse(&path, &bytes)?.continuous.filter(|continuous| continuous.enabled);
        let missing = move |why| Err(Missing { why, continuous });
        Reloaded::follow_from(what, move || files(&path), |files| Self::of(files).map(Ok), missing)
    }

    /// Reads it once.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::of(&files(path).map_err(|error| error.to_string())?)
    }

    /// Of the file of settings, which comes first, and the files that it names.
    fn of(files: &Files) -> Result<Self, String> {
        let (path, bytes) = files.first().ok_or("there is no file of settings")?;
        let config = parse(path, bytes)?;
        let (store, prefix, plaintext) = open(&config.store, files)?;
        let keys = match &config.encryption {
            Some(encryption) => {
                let file = Path::new(&encryption.key_file);
                let text = text_of(files, file)?;
                Keyring::parse(text)
                    .map_err(|error| format!("{}: {error}", file.display()))?
                    .accepting_unencrypted(encryption.unencrypted == Unencrypted::Accept)
            }
            None => Keyring::default(),
        };
        Ok(Self {
            store,
            prefix: prefix.trim_matches('/').to_owned(),
            keys: Arc::new(keys),
            pace: config.bytes_per_second.map(|rate| Arc::new(Pace::new(rate))),
            continuous: config.continuous.filter(|continuous| continuous.enabled),
            plaintext,
        })
    }

    /// The objects of a cluster.
    pub fn cluster(&self, cluster_id: &str) -> Objects {
        let root = if self.prefix.is_empty() {
            ObjectPath::from(cluster_id)
        } else {
            ObjectPath::from(format!("{}/{cluster_id}", self.prefix))
        };
        Objects::new(self.store.clone(), root, self.keys.clone(), self.pace.clone())
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<BackupConfig, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // By way of JSON's values: in YAML's own way which store it is would be a tag.
    let value: serde_json::Value = serde_yaml::from_slice(bytes).map_err(|error| named(&error))?;
    serde_json::from_value(value).map_err(|error| named(&error))
}

/// Whether the file of settings at `path` names an import, not a store. What cannot be read is a store's: it says why.
pub fn is_import(path: &Path) -> bool {
    let value = std::fs::read(path).ok().and_then(|bytes| serde_yaml::from_slice(&bytes).ok());
    value.is_some_and(|value: serde_json::Value| value.get("import").is_some())
}

/// The file of settings and all that it names.
fn files(path: &Path) -> io::Result<Files> {
    let mut files = vec![read_file(path)?];
    // What makes no sense is noticed where it is used.
    let Ok(config) = parse(path, &files[0].1) else { return Ok(files) };
    let (directory, ca) = match &config.store {
        StoreConfig::S3(s3) => (&s3.credentials_dir, &s3.ca_file),
        StoreConfig::Gcs(gcs) => (&gcs.credentials_dir, &gcs.ca_file),
        StoreConfig::Azure(azure) => (&azure.credentials_dir, &azure.ca_file),
        StoreConfig::Filesystem(_) => (&None, &None),
    };
    if let Some(directory) = directory {
        files.extend(read_directory(Path::new(directory), |_| true)?);
    }
    let single = [ca.as_deref(), config.encryption.as_ref().map(|e| e.key_file.as_str())];
    for file in single.into_iter().flatten() {
        files.push(read_file(Path::new(file))?);
    }
    Ok(files)
}

fn bytes_of<'a>(files: &'a Files, path: &Path) -> Option<&'a [u8]> {
    files.iter().find(|(name, _)| name == path).map(|(_, bytes)| bytes.as_slice())
}

fn text_of<'a>(files: &'a Files, path: &Path) -> Result<&'a str, String> {
    let bytes = bytes_of(files, path).ok_or_else(|| format!("{} is missing", path.display()))?;
    std::str::from_utf8(bytes).map(str::trim_end).map_err(|_| format!("{} is not text", path.display()))
}

/// A credential: a file of the directory that is named for them.
struct CredentialsDir<'a> {
    files: &'a Files,
    directory: Option<&'a str>,
}

impl<'a> CredentialsDir<'a> {
    fn is_configured(&self) -> bool {
        self.directory.is_some()
    }

    fn required(&self, name: &str) -> Result<&'a str, String> {
        text_of(self.files, &Path::new(self.directory.unwrap_or_default()).join(name))
    }

    fn optional(&self, name: &str) -> Option<&'a str> {
        self.required(name).ok()
    }
}

type Opened = (Arc<dyn ObjectStore>, String, bool);

fn open(config: &StoreConfig, files: &Files) -> Result<Opened, String> {
    let of = |directory: &'_ Option<String>| -> Option<String> { directory.clone() };
    match config {
        StoreConfig::S3(s3) => {
            let directory = of(&s3.credentials_dir);
            open_s3(s3, &CredentialsDir { files, directory: directory.as_deref() })
        }
        StoreConfig::Gcs(gcs) => {
            let directory = of(&gcs.credentials_dir);
            open_gcs(gcs, &CredentialsDir { files, directory: directory.as_deref() })
        }
        StoreConfig::Azure(azure) => {
            let directory = of(&azure.credentials_dir);
            open_azure(azure, &CredentialsDir { files, directory: directory.as_deref() })
        }
        StoreConfig::Filesystem(filesystem) => open_filesystem(filesystem),
    }
}

/// How failed requests are tried again.
pub fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 4, retry_timeout: RETRY }
}

/// How long requests may take.
pub fn client() -> ClientOptions {
    ClientOptions::new().with_timeout(REQUEST).with_connect_timeout(CONNECT)
}

/// The same, for a server whose certificate is of one of these authorities.
fn trusting(ca_file: Option<&str>, files: &Files) -> Result<ClientOptions, String> {
    let mut client = client();
    if let Some(file) = ca_file {
        let pem = bytes_of(files, Path::new(file)).ok_or_else(|| format!("{file} is missing"))?;
        for certificate in Certificate::from_pem_bundle(pem).map_err(|e| format!("{file}: {e}"))? {
            client = client.with_root_certificate(certificate);
        }
    }
    Ok(client)
}

/// Whether everybody on the way to a server can read along.
fn is_plaintext(endpoint: Option<&str>) -> bool {
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

fn open_s3(s3: &S3Config, credentials: &CredentialsDir<'_>) -> Result<Opened, String> {
    // Without credentials of its own: those of the environment, which may be a web identity or the machine's.
    let surroundings =
        if credentials.is_configured() { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
    let store = s3_builder(surroundings, s3, credentials)?.build().map_err(|error| error.to_string())?;
    Ok((Arc::new(store), s3.prefix.clone(), is_plaintext(s3.endpoint.as_deref())))
}

/// What the settings say, on top of what the surroundings do.
fn s3_builder(
    surroundings: AmazonS3Builder,
    s3: &S3Config,
    credentials: &CredentialsDir<'_>,
) -> Result<AmazonS3Builder, String> {
    let plaintext = is_plaintext(s3.endpoint.as_deref());
    let client = trusting(s3.ca_file.as_deref(), credentials.files)?.with_allow_http(plaintext);
    let mut builder = surroundings
        .with_bucket_name(&s3.bucket)
        .with_virtual_hosted_style_request(!s3.force_path_style && is_bucket_in_host(s3))
        .with_client_options(client)
        .with_retry(retry());
    // Without one it is that of the surroundings, or us-east-1.
    if let Some(region) = &s3.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    if credentials.is_configured() {
        builder = builder
            .with_access_key_id(credentials.required("accessKeyId")?)
            .with_secret_access_key(credentials.required("secretAccessKey")?);
        if let Some(token) = credentials.optional("sessionToken") {
            builder = builder.with_token(token);
        }
    }
    Ok(builder)
}

/// Whether the host that is asked is the bucket's own: Amazon's are, and an endpoint that begins with its name. Any other is
/// asked for the bucket by the path, which most servers take.
fn is_bucket_in_host(s3: &S3Config) -> bool {
    let Some(endpoint) = &s3.endpoint else { return true };
    let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
    host.strip_prefix(s3.bucket.as_str()).is_some_and(|rest| rest.starts_with('.'))
}

fn open_gcs(gcs: &GcsConfig, credentials: &CredentialsDir<'_>) -> Result<Opened, String> {
    let mut builder = if credentials.is_configured() {
        GoogleCloudStorageBuilder::new()
            .with_service_account_key(credentials.required("serviceAccount.json")?)
    } else {
        GoogleCloudStorageBuilder::from_env()
    };
    let plaintext = is_plaintext(gcs.endpoint.as_deref());
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    let client = trusting(gcs.ca_file.as_deref(), credentials.files)?.with_allow_http(plaintext);
    builder = builder.with_bucket_name(&gcs.bucket).with_client_options(client).with_retry(retry());
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok((Arc::new(store), gcs.prefix.clone(), plaintext))
}

fn open_azure(azure: &AzureConfig, credentials: &CredentialsDir<'_>) -> Result<Opened, String> {
    let mut builder = if credentials.is_configured() {
        MicrosoftAzureBuilder::new().with_access_key(credentials.required("accountKey")?)
    } else {
        MicrosoftAzureBuilder::from_env()
    };
    if let Some(account) = &azure.account {
        builder = builder.with_account(account);
    } else if credentials.is_configured() {
        builder = builder.with_account(credentials.required("accountName")?);
    }
    let plaintext = is_plaintext(azure.endpoint.as_deref());
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let client = trusting(azure.ca_file.as_deref(), credentials.files)?.with_allow_http(plaintext);
    builder = builder.with_container_name(&azure.container).with_client_options(client).with_retry(retry());
    let store = builder.build().map_err(|error| error.to_string())?;
    Ok((Arc::new(store), azure.prefix.clone(), plaintext))
}

fn open_filesystem(filesystem: &FilesystemConfig) -> Result<Opened, String> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", filesystem.path);
    std::fs::create_dir_all(&filesystem.path).map_err(|error| named(&error))?;
    let store = LocalFileSystem::new_with_prefix(&filesystem.path).map_err(|error| named(&error))?;
    Ok((Arc::new(store.with_fsync(true)), String::new(), false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use object_store::aws::AmazonS3ConfigKey;

    fn opened(dir: &Path, config: &str) -> Result<Repository, String> {
        let path = dir.join("config.yaml");
        std::fs::write(&path, config.replace("DIR", dir.to_str().unwrap())).unwrap();
        Repository::read(&path)
    }

    #[test]
    fn settings_by_table() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("s3")).unwrap();
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        std::fs::write(dir.path().join("s3/accessKeyId"), "id\n").unwrap();
        std::fs::write(dir.path().join("s3/secretAccessKey"), "secret\n").unwrap();
        for (directory, files) in
            [("azure", vec!["accountKey"]), ("named", vec!["accountKey", "accountName"])]
        {
            std::fs::create_dir(dir.path().join(directory)).unwrap();
            for file in files {
                std::fs::write(dir.path().join(directory).join(file), "AAAA\n").unwrap();
            }
        }
        std::fs::write(dir.path().join("keys"), "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n").unwrap();
        for (config, wanted) in [
            ("store: {filesystem: {path: DIR/fs}}", Ok(())),
            ("{\"store\": {\"s3\": {\"bucket\": \"b\", \"credentialsDir\": \"DIR/s3\"}}}", Ok(())),
            ("store: {s3: {bucket: b, endpoint: 'http://h:1', credentialsDir: DIR/s3}}", Ok(())),
            ("store: {filesystem: {path: DIR/fs}}\nencryption: {keyFile: DIR/keys}", Ok(())),
            ("store: {s3: {bucket: b, credentialsDir: DIR/empty}}", Err("accessKeyId is missing")),
            ("store: {s3: {bucket: b, credentialsDir: DIR/s3, caFile: DIR/none}}", Err("No such file")),
            ("store: {gcs: {bucket: b, caFile: DIR/none}}", Err("No such file")),
            ("store: {azure: {container: b, account: a, caFile: DIR/none}}", Err("No such file")),
            ("store: {azure: {container: b, account: a, caFile: DIR/keys}}", Ok(())),
            ("store: {azure: {container: b, account: a, credentialsDir: DIR/azure}}", Ok(())),
            ("store: {azure: {container: b, account: a, credentialsDir: DIR/named}}", Ok(())),
            ("store: {azure: {container: b, credentialsDir: DIR/named}}", Ok(())),
            ("store: {azure: {container: b, credentialsDir: DIR/azure}}", Err("accountName is missing")),
            (
                "store: {azure: {container: b, account: a, credentialsDir: DIR/empty}}",
                Err("accountKey is missing"),
            ),
            ("store: {s3: {bucket: b, credentialsDir: DIR/none}}", Err("No such file")),
            ("store: {s3: {bucket: b, typo: 1}}", Err("unknown field `typo`")),
            ("store: {tape: {}}", Err("unknown variant `tape`")),
            ("store: {filesystem: {path: DIR/fs}}\nencryption: {keyFile: DIR/config.yaml}", Err("not a key")),
        ] {
            match (opened(dir.path(), config), wanted) {
                (Ok(_), Ok(())) => {}
                (Err(error), Err(part)) => assert!(error.contains(part), "{config}: {error}"),
                (Ok(_), Err(_)) => unreachable!("{config} was taken"),
                (Err(error), Ok(())) => unreachable!("{config}: {error}"),
            }
        }
    }

    #[test]
    fn the_region_and_the_host_of_a_bucket_are_what_is_said_of_them() {
        let none = Files::default();
        let credentials = CredentialsDir { files: &none, directory: None };
        let (aws, minio) = (None, Some("https://minio:9000"));
        for (endpoint, path_style, region, surroundings, told) in [
            (aws, false, None, None, (None, "true")),
            (aws, true, None, None, (None, "false")),
            // What a pod is told of where it runs.
            (aws, false, None, Some("eu-central-1"), (Some("eu-central-1"), "true")),
            (aws, false, Some("eu-west-1"), Some("eu-central-1"), (Some("eu-west-1"), "true")),
            (minio, false, None, None, (None, "false")),
            (minio, true, Some("eu-west-1"), None, (Some("eu-west-1"), "false")),
            (Some("https://b.oss.example.com"), false, None, None, (None, "true")),
            (Some("https://b.oss.example.com"), true, None, None, (None, "false")),
            (Some("https://b2.example.com"), false, None, None, (None, "false")),
            (Some("http://b:9000"), false, None, None, (None, "false")),
        ] {
            let config = serde_json::json!({
                "bucket": "b", "endpoint": endpoint, "forcePathStyle": path_style, "region": region,
            });
            let s3: S3Config = serde_json::from_value(config.clone()).unwrap();
            let base = AmazonS3Builder::new();
            let base = surroundings.map_or_else(|| base.clone(), |region| base.clone().with_region(region));
            let builder = s3_builder(base, &s3, &credentials).unwrap();
            let value = |key| builder.get_config_value(&key);
            let found =
                (value(AmazonS3ConfigKey::Region), value(AmazonS3ConfigKey::VirtualHostedStyleRequest));
            let told = (told.0.map(str::to_owned), Some(told.1.to_owned()));
            assert_eq!(found, told, "{config}, in {surroundings:?}");
        }
    }
}
