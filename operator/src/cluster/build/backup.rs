//! What members know of stores of backups: a ConfigMap for each store, and the user's Secrets beside it, mounted as they
//! are. Changes of what is in them reach the members without a restart; other ones to mount restart them.

use super::metadata;
use crate::cluster::validate::Desired;
use crate::crd::{BackupEncryption, BackupStore, Backups, BootstrapImport, SecretKeyRef, UnencryptedObjects};
use client::backup::{
    AzureConfig, BackupConfig, ContinuousConfig, EncryptionConfig, FilesystemConfig, GcsConfig, ImportConfig,
    ImportFile, S3Config, StoreConfig, Unencrypted, VerifyQuery,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, KeyToPath, PersistentVolumeClaimVolumeSource, SecretVolumeSource,
    Volume, VolumeMount,
};
use serde::Serialize;

/// Name of the file with what a member is told of a store.
const CONFIG_FILE: &str = "config.json";
/// Name of the file with encryption keys.
const KEY_FILE: &str = "keys";
/// Name of the file with certificates of authorities.
const CA_FILE: &str = "ca.crt";

/// Which store, as a member sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// That which backups are written to.
    Backup,
    /// That which the cluster began with, or what it imported.
    Restore,
}

impl Use {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Backup, Self::Restore];

    fn word(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }

    /// Where everything about it is.
    fn directory(self) -> String {
        format!("/etc/sqlited/{}", self.word())
    }

    /// Where the volume of a filesystem store is.
    fn files(self) -> &'static str {
        match self {
            Self::Backup => "/var/lib/sqlited-backups",
            Self::Restore => "/var/lib/sqlited-restore",
        }
    }

    /// The file that tells a member of it.
    pub fn config_path(self) -> String {
        format!("{}/config/{CONFIG_FILE}", self.directory())
    }
}

/// A store and the keys to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreAccess {
    /// Where.
    pub store: BackupStore,
    /// By which keys what is there is encrypted.
    pub encryption: Option<BackupEncryption>,
}

impl StoreAccess {
    /// Where a spec wants backups.
    pub fn of(backups: &Backups) -> Self {
        Self { store: backups.store.clone(), encryption: backups.encryption.clone() }
    }
}

/// What a cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Something in a store of backups.
    Store(Box<StoreAccess>),
    /// Something at a URL.
    Import(BootstrapImport),
}

impl Beginning {
    /// What a pod mounts for it.
    pub fn mounts(&self) -> Mounts {
        match self {
            Self::Store(access) => Mounts::of(access),
            Self::Import(import) => Mounts {
                credentials: import.secret_ref.as_ref().map(|secret| secret.name.clone()),
                ca: import.ca_secret_ref.clone(),
                keys: None,
                claim: None,
            },
        }
    }

    fn config(&self) -> serde_json::Result<Option<String>> {
        match self {
            Self::Store(access) => {
                config(Use::Restore, access, None).as_ref().map(serde_json::to_string_pretty).transpose()
            }
            Self::Import(import) => {
                let directory = Use::Restore.directory();
                let import = ImportConfig {
                    url: import.url.clone(),
                    credentials_dir: import.secret_ref.as_ref().map(|_| format!("{directory}/credentials")),
                    ca_file: import.ca_secret_ref.as_ref().map(|_| format!("{directory}/ca/{CA_FILE}")),
                };
                serde_json::to_string_pretty(&ImportFile { import }).map(Some)
            }
        }
    }
}

/// What a pod mounts for a store: all of a store that makes the pod's template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mounts {
    /// The Secret with credentials.
    credentials: Option<String>,
    /// The Secret with certificates of authorities.
    ca: Option<SecretKeyRef>,
    /// The Secret with encryption keys.
    keys: Option<SecretKeyRef>,
    /// The claim with the files.
    claim: Option<String>,
}

impl Mounts {
    /// What a pod mounts for a store.
    pub fn of(access: &StoreAccess) -> Self {
        let BackupStore { s3, gcs, azure, filesystem } = &access.store;
        let secret = [
            s3.as_ref().and_then(|store| store.secret_ref.as_ref()),
            gcs.as_ref().and_then(|store| store.secret_ref.as_ref()),
            azure.as_ref().and_then(|store| store.secret_ref.as_ref()),
        ];
        let authorities = [
            s3.as_ref().and_then(|store| store.ca_secret_ref.as_ref()),
            gcs.as_ref().and_then(|store| store.ca_secret_ref.as_ref()),
            azure.as_ref().and_then(|store| store.ca_secret_ref.as_ref()),
        ];
        Self {
            credentials: secret.into_iter().flatten().next().map(|secret| secret.name.clone()),
            ca: authorities.into_iter().flatten().next().cloned(),
            keys: access.encryption.as_ref().map(|encryption| encryption.key_secret_ref.clone()),
            claim: filesystem.as_ref().map(|store| store.claim_name.clone()),
        }
    }
}

/// What each thing is used for that members of the cluster are told of, and what is mounted for it.
fn told(desired: &Desired) -> impl Iterator<Item = (Use, Mounts)> {
    let mounts = |purpose| match purpose {
        Use::Backup => desired.spec.backup.as_ref().map(|backups| Mounts::of(&StoreAccess::of(backups))),
        Use::Restore => desired.beginning.as_ref().map(Beginning::mounts),
    };
    Use::ALL.into_iter().filter_map(move |purpose| Some((purpose, mounts(purpose)?)))
}

/// A ConfigMap for each store.
pub fn config_maps(desired: &Desired) -> Vec<ConfigMap> {
    let backups = desired.spec.backup.as_ref();
    told(desired)
        .filter_map(|(purpose, _)| {
            let json = match purpose {
                Use::Backup => {
                    let config = config(purpose, &StoreAccess::of(backups?), backups)?;
                    serde_json::to_string_pretty(&config).ok()?
                }
                Use::Restore => desired.beginning.as_ref()?.config().ok()??,
            };
            let mut metadata = metadata(desired, desired.name.config_map(purpose.word()), purpose.word());
            // It is the same whatever the members run.
            if let Some(labels) = &mut metadata.labels {
                labels.remove("app.kubernetes.io/version");
            }
            let queries = backups.filter(|_| purpose == Use::Backup).map(queries).into_iter().flatten();
            let data = Some(queries.chain([(CONFIG_FILE.to_owned(), json)]).collect());
            Some(ConfigMap { metadata, data, ..ConfigMap::default() })
        })
        .collect()
}

/// The file with the queries by which backups of a schedule are tested.
pub fn queries_path(schedule: &str) -> String {
    format!("{}/config/{}", Use::Backup.directory(), queries_file(schedule))
}

fn queries_file(schedule: &str) -> String {
    format!("queries-{schedule}.json")
}

/// The files of queries. They are beside what members are told, because a test mounts the same.
fn queries(backups: &Backups) -> impl Iterator<Item = (String, String)> {
    backups.schedules.iter().filter_map(|schedule| {
        let queries: Vec<VerifyQuery> = schedule
            .verify
            .iter()
            .flat_map(|verify| &verify.queries)
            .map(|query| VerifyQuery { sql: query.sql.clone(), expect: query.expect.clone() })
            .collect();
        let json = serde_json::to_string_pretty(&queries).ok()?;
        (!queries.is_empty()).then(|| (queries_file(&schedule.name), json))
    })
}

/// What a member is told of a store; none if the spec names none. `backups` are the settings of those that it writes.
pub fn config(purpose: Use, access: &StoreAccess, backups: Option<&Backups>) -> Option<BackupConfig> {
    let directory = purpose.directory();
    let credentials_dir = |secret: bool| secret.then(|| format!("{directory}/credentials"));
    let ca_file = |authorities: bool| authorities.then(|| format!("{directory}/ca/{CA_FILE}"));
    let BackupStore { s3, gcs, azure, filesystem } = access.store.clone();
    let s3 = s3.map(|s3| {
        StoreConfig::S3(S3Config {
            bucket: s3.bucket,
            prefix: s3.prefix.unwrap_or_default(),
            endpoint: s3.endpoint,
            region: s3.region,
            force_path_style: s3.force_path_style,
            credentials_dir: credentials_dir(s3.secret_ref.is_some()),
            ca_file: ca_file(s3.ca_secret_ref.is_some()),
        })
    });
    let gcs = gcs.map(|gcs| {
        StoreConfig::Gcs(GcsConfig {
            bucket: gcs.bucket,
            prefix: gcs.prefix.unwrap_or_default(),
            endpoint: gcs.endpoint,
            credentials_dir: credentials_dir(gcs.secret_ref.is_some()),
            ca_file: ca_file(gcs.ca_secret_ref.is_some()),
        })
    });
    let azure = azure.map(|azure| {
        StoreConfig::Azure(AzureConfig {
            container: azure.container,
            prefix: azure.prefix.unwrap_or_default(),
            account: azure.account,
            endpoint: azure.endpoint,
            credentials_dir: credentials_dir(azure.secret_ref.is_some()),
            ca_file: ca_file(azure.ca_secret_ref.is_some()),
        })
    });
    let files =
        filesystem.map(|_| StoreConfig::Filesystem(FilesystemConfig { path: purpose.files().to_owned() }));
    let key_file = format!("{directory}/keys/{KEY_FILE}");
    let continuous = backups.and_then(|backups| backups.continuous.as_ref());
    Some(BackupConfig {
        store: s3.or(gcs).or(azure).or(files)?,
        encryption: access.encryption.as_ref().map(|encryption| EncryptionConfig {
            key_file,
            unencrypted: match encryption.unencrypted {
                UnencryptedObjects::Refuse => Unencrypted::Refuse,
                UnencryptedObjects::Accept => Unencrypted::Accept,
            },
        }),
        continuous: continuous.map(|continuous| ContinuousConfig {
            enabled: continuous.enabled,
            rpo_target_seconds: u32::try_from(continuous.rpo_target_seconds).unwrap_or(u32::MAX),
            base_every_hours: u32::try_from(continuous.base_every_hours).unwrap_or(u32::MAX),
        }),
        bytes_per_second: backups
            .and_then(|backups| backups.bytes_per_second)
            .and_then(|bytes| u64::try_from(bytes).ok()),
    })
}

/// Volumes of a pod, with where they are mounted.
pub fn volumes(desired: &Desired) -> Vec<(Volume, VolumeMount)> {
    told(desired).flat_map(|(purpose, mounts)| of_store(desired, purpose, mounts)).collect()
}

/// A Secret that is not there does not keep a member from starting: the database goes on, and the condition tells.
pub(super) fn of_store(desired: &Desired, purpose: Use, mounts: Mounts) -> Vec<(Volume, VolumeMount)> {
    let Mounts { credentials, ca, keys, claim } = mounts;
    let name = |part: &str| format!("{}-{part}", purpose.word());
    let at = |part: &str| format!("{}/{part}", purpose.directory());
    let mount = |part: &str, path: String, read_only: bool| VolumeMount {
        name: name(part),
        mount_path: path,
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let secret = |part: &str, secret: String, items: Option<Vec<KeyToPath>>| {
        let source = SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            optional: Some(true),
            items,
        };
        let volume = Volume { name: name(part), secret: Some(source), ..Volume::default() };
        (volume, mount(part, at(part), true))
    };
    let item = |key: &SecretKeyRef, path: &str| {
        Some(vec![KeyToPath { key: key.key.clone(), path: path.to_owned(), mode: None }])
    };
    let config = Volume {
        name: name("config"),
        config_map: Some(ConfigMapVolumeSource {
            name: desired.name.config_map(purpose.word()),
            default_mode: Some(0o444),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let files = claim.map(|claim| {
        // A restore only reads.
        let reads = purpose == Use::Restore;
        let source =
            PersistentVolumeClaimVolumeSource { claim_name: claim, read_only: reads.then_some(true) };
        let volume =
            Volume { name: name("files"), persistent_volume_claim: Some(source), ..Volume::default() };
        (volume, mount("files", purpose.files().to_owned(), reads))
    });
    [(config, mount("config", at("config"), true))]
        .into_iter()
        .chain(credentials.map(|name| secret("credentials", name, None)))
        .chain(ca.map(|key| secret("ca", key.name.clone(), item(&key, CA_FILE))))
        .chain(keys.map(|key| secret("keys", key.name.clone(), item(&key, KEY_FILE))))
        .chain(files)
        .collect()
}

/// What tells a member of the stores.
pub fn args(desired: &Desired) -> impl Iterator<Item = String> {
    told(desired).map(|(purpose, _)| format!("-{}-config={}", purpose.word(), purpose.config_path()))
}
