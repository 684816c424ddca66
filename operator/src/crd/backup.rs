//! Where backups go, how often they are made, and for how long they are kept.

use super::security::SecretRef;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A span of time that people write: minutes, hours, days or weeks.
const PERIOD: &str = r"^[1-9][0-9]{0,5}(m|h|d|w)$";

/// Where backups go, how often they are made, and for how long they are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Backups {
    /// Where they go.
    pub store: BackupStore,
    /// Encryption before anything leaves a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<BackupEncryption>,
    /// A continuous archive of all writes, by which a restore can reach any moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<ContinuousBackup>,
    /// Bytes per second that backups send at most. Absent: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65536))]
    pub bytes_per_second: Option<i64>,
    /// Backups by the clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<BackupSchedule>,
}

impl Backups {
    /// Whether every write is archived.
    pub fn has_archive(&self) -> bool {
        self.continuous.as_ref().is_some_and(|continuous| continuous.enabled)
    }
}

/// Where backups are: one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("[has(self.s3), has(self.gcs), has(self.azure), has(self.filesystem)].filter(set, set).size() == 1")
    .message("exactly one of s3, gcs, azure and filesystem must be set: choose one, and leave the others out"))]
#[serde(rename_all = "camelCase")]
pub struct BackupStore {
    /// Amazon S3, or what speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStore>,
    /// Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStore>,
    /// A volume that all members can mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemStore>,
}

/// Amazon S3, or what speaks its protocol.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://') || self.endpoint.startsWith('http://')")
    .message("endpoint must begin with https:// (or http://, by which everybody on the way can read along): write it as https://host:port"))]
#[x_kube(validation = Rule::new("!has(self.prefix) || !self.prefix.startsWith('/')")
    .message("prefix must not begin with a slash: take the slash away"))]
#[serde(rename_all = "camelCase")]
pub struct S3Store {
    /// The bucket. It is not created.
    #[schemars(length(min = 1, max = 255))]
    pub bucket: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// Of a server other than Amazon's, as https://host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Whether the bucket is part of the path, not of the host, as most servers other than Amazon's want it.
    #[serde(default)]
    pub force_path_style: bool,
    /// A Secret of this namespace with the keys accessKeyId, secretAccessKey and, for temporary ones, sessionToken.
    /// Absent: the identity of the pod's surroundings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// A key of a Secret with the certificates of the authorities that the endpoint is checked against, in PEM, beside
    /// those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://') || self.endpoint.startsWith('http://')")
    .message("endpoint must begin with https:// (or http://, by which everybody on the way can read along): write it as https://host:port"))]
#[x_kube(validation = Rule::new("!has(self.prefix) || !self.prefix.startsWith('/')")
    .message("prefix must not begin with a slash: take the slash away"))]
#[serde(rename_all = "camelCase")]
pub struct GcsStore {
    /// The bucket. It is not created.
    #[schemars(length(min = 1, max = 255))]
    pub bucket: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// Of a server other than Google's public one, as https://host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// A Secret of this namespace with the key serviceAccount.json. Absent: the identity of the pod's surroundings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// A key of a Secret with the certificates of the authorities that the endpoint is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("!has(self.endpoint) || self.endpoint.startsWith('https://') || self.endpoint.startsWith('http://')")
    .message("endpoint must begin with https:// (or http://, by which everybody on the way can read along): write it as https://host:port"))]
#[x_kube(validation = Rule::new("!has(self.prefix) || !self.prefix.startsWith('/')")
    .message("prefix must not begin with a slash: take the slash away"))]
#[x_kube(validation = Rule::new("has(self.account) || has(self.secretRef)")
    .message("the storage account is not named: set account, or secretRef to a Secret with the key accountName"))]
#[serde(rename_all = "camelCase")]
pub struct AzureStore {
    /// The container. It is not created.
    #[schemars(length(min = 1, max = 255))]
    pub container: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub prefix: Option<String>,
    /// The storage account, where it is not in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub account: Option<String>,
    /// Of a server other than Azure's, as https://host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512))]
    pub endpoint: Option<String>,
    /// A Secret of this namespace with the keys accountName and accountKey. Absent: the identity of the pod's surroundings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// A key of a Secret with the certificates of the authorities that the endpoint is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
}

/// A volume that all members can mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemStore {
    /// A PersistentVolumeClaim of this namespace, with access mode ReadWriteMany unless there is one member.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

/// A key of a Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Encryption with AES-256-GCM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupEncryption {
    /// A key of a Secret that holds encryption keys, one on each line: 32 bytes in base64. The first one encrypts, all of
    /// them decrypt; a key is changed by putting a new one before it.
    pub key_secret_ref: SecretKeyRef,
    /// What to do with objects of the store that none of the keys encrypted.
    #[serde(default)]
    pub unencrypted: UnencryptedObjects,
}

/// What to do with objects of the store that none of the keys encrypted: whoever can write to it may have put them there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnencryptedObjects {
    /// They are not restored.
    #[default]
    Refuse,
    /// They are: for backups from before there were keys.
    Accept,
}

/// A continuous archive of all writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContinuousBackup {
    /// Whether there is one.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How far it may be behind, in seconds.
    #[serde(default = "default_rpo")]
    #[schemars(range(min = 1, max = 3600))]
    pub rpo_target_seconds: i32,
    /// How often it makes a base backup of its own, in hours: a restore replays at most the writes of this time.
    #[serde(default = "default_base_hours")]
    #[schemars(range(min = 1, max = 720))]
    pub base_every_hours: i32,
    /// Moments older than so many days need not be reachable. Absent: as far back as schedules keep backups; without them,
    /// for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3650))]
    pub retention_days: Option<i32>,
}

/// Backups by the clock.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("self.cron.split(' ').filter(field, size(field) > 0).size() == 5")
    .message("cron must have five fields, as in \"15 1 * * *\": minute, hour, day of month, month, day of week"))]
#[serde(rename_all = "camelCase")]
pub struct BackupSchedule {
    /// Its name, of which the names of its backups are made.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// When: minute, hour, day of month, month, day of week.
    #[schemars(length(min = 9, max = 100))]
    pub cron: String,
    /// Time zone by its name in the IANA database.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
    /// Whether it rests. A schedule that goes on makes up for at most one backup.
    #[serde(default)]
    pub suspend: bool,
    /// A backup that could not begin within this time is missed. Absent: it is made up for whenever it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 604800))]
    pub starting_deadline_seconds: Option<i32>,
    /// A backup begins up to so much later, by an offset that is the cluster's own, so that many clusters do not begin at
    /// once.
    #[serde(default)]
    #[schemars(range(min = 0, max = 86400))]
    pub jitter_seconds: i32,
    /// Which of its backups are kept. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// How its backups are tested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// Which backups of a schedule are kept: what any of the counts keeps, and nothing that is older than maxAge. The last
/// successful one is always kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.keepLast) || has(self.keepDaily) || has(self.keepWeekly) || has(self.keepMonthly) || has(self.maxAge)")
    .message("retention is empty: set keepLast, keepDaily, keepWeekly, keepMonthly or maxAge, or leave retention out to keep every backup"))]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// So many of the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_last: Option<i32>,
    /// The last one of each of so many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_daily: Option<i32>,
    /// The last one of each of so many weeks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_weekly: Option<i32>,
    /// The last one of each of so many months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep_monthly: Option<i32>,
    /// None that is older, as 365d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 7), regex(pattern = PERIOD))]
    pub max_age: Option<String>,
}

/// Tests of backups: the newest one is restored, checked and asked, beside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verify {
    /// How often, as 24h.
    #[schemars(length(min = 2, max = 7), regex(pattern = PERIOD))]
    pub every: String,
    /// Queries whose answers are compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub queries: Vec<VerifyQuery>,
}

/// A query whose answer is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifyQuery {
    /// The query.
    #[schemars(length(min = 1, max = 4096))]
    pub sql: String,
    /// What the first column of its first row must be, as text.
    #[schemars(length(max = 1024))]
    pub expect: String,
}

/// Seconds of a period as 24h or 365d; none if it is none.
pub fn parse_period(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0)
}

fn yes() -> bool {
    true
}

fn default_rpo() -> i32 {
    5
}

fn default_base_hours() -> i32 {
    24
}

fn utc() -> String {
    "UTC".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        for (text, seconds) in [
            ("1m", Some(60)),
            ("24h", Some(86_400)),
            ("365d", Some(31_536_000)),
            ("2w", Some(1_209_600)),
            ("0d", None),
            ("d", None),
            ("", None),
            ("1y", None),
            ("-1d", None),
            ("9999999999999999999w", None),
        ] {
            assert_eq!(parse_period(text), seconds, "{text}");
        }
    }
}
