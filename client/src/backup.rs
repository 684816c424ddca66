//! Wire types of backups: what a member is told of a store (`-backup-config`), and the API under `/cluster/backups` and
//! `/cluster/restore` (port 4001).
//!
//! | request | body | answer |
//! |---|---|---|
//! | `POST /cluster/backups` | [`StartBackup`] | [`BackupJob`]; the member that was asked makes it; repeatable by name |
//! | `GET /cluster/backups/jobs` | – | [`BackupJobs`] of the member that was asked, since it started |
//! | `GET /cluster/backups` | – | [`Catalogue`]: what is in the store, of the member's cluster |
//! | `DELETE /cluster/backups` | [`DeleteBackups`] | [`Deleted`]; repeatable: what is gone already is no error |
//! | `POST /cluster/backups/probe` | – | [`Probe`]: writes, reads, lists and deletes an object |
//! | `POST /cluster/restore` | [`StartRestore`] | [`RestoreJob`]; of the leader only; repeatable by name |
//! | `GET /cluster/restore` | – | [`RestoreJobs`] of the member that was asked, since it started, and the last of the state |
//!
//! Errors answer with [`crate::admin::Refusal`]. Times are RFC 3339 in UTC.

use serde::{Deserialize, Serialize};

/// The file of `-backup-config` and of `-restore-config`, YAML or JSON. Changes are followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupConfig {
    /// Where backups are.
    pub store: StoreConfig,
    /// Encryption before anything leaves the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionConfig>,
    /// The continuous archive of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuous: Option<ContinuousConfig>,
    /// Bytes per second that backups send at most; absent: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// The other kind of file that `-restore-config` may be, YAML or JSON: a cluster may begin with what is at a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportFile {
    /// What is imported.
    pub import: ImportConfig,
}

/// A database over HTTP: a SQLite file or SQL text, as it is or packed by gzip, Zstandard or LZ4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImportConfig {
    /// `http://` or `https://`; of a cluster of rqlite, `https://host:4001/db/backup`.
    pub url: String,
    /// Directory with the files `username` and `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<String>,
    /// PEM file of the CAs that the server's certificate is checked against, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Where backups are: one of the four.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum StoreConfig {
    /// Amazon S3, or what speaks its protocol.
    S3(S3Config),
    /// Google Cloud Storage.
    Gcs(GcsConfig),
    /// Azure Blob Storage.
    Azure(AzureConfig),
    /// A directory that all members see.
    Filesystem(FilesystemConfig),
}

/// S3 and what speaks its protocol. Without `credentials_dir` the environment's identity is used (web identity, instance).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Of a server other than Amazon's: `https://host:port`. With `http` everybody on the way can read along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The bucket is part of the path, not of the host.
    #[serde(default)]
    pub force_path_style: bool,
    /// Directory with the files `accessKeyId`, `secretAccessKey` and, for temporary ones, `sessionToken`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<String>,
    /// PEM file of the CAs that the endpoint's certificate is checked against, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GcsConfig {
    /// The bucket.
    pub bucket: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Of a server other than Google's public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Directory with the file `serviceAccount.json`; absent: the environment's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<String>,
    /// PEM file of the CAs that the endpoint's certificate is checked against, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AzureConfig {
    /// The container.
    pub container: String,
    /// What all names begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The storage account, where it is not in `credentials_dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Of a server other than Azure's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Directory with the files `accountName` and `accountKey`; absent: the environment's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_dir: Option<String>,
    /// PEM file of the CAs that the endpoint's certificate is checked against, beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// A directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FilesystemConfig {
    /// The directory.
    pub path: String,
}

/// Encryption with AES-256-GCM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EncryptionConfig {
    /// A file of keys, one on each line: 32 bytes in base64. The first one encrypts, all of them decrypt; a key is changed
    /// by putting a new one before it.
    pub key_file: String,
    /// What to do with objects that are not encrypted. Written only where it is said: members of before do not know it.
    #[serde(default, skip_serializing_if = "Unencrypted::is_default")]
    pub unencrypted: Unencrypted,
}

/// What to do, where there are keys, with what was not encrypted by any of them: whoever can write to the store could have
/// put it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Unencrypted {
    /// It is not restored.
    #[default]
    Refuse,
    /// It is restored: for backups from before there were keys.
    Accept,
}

impl Unencrypted {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The continuous archive of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContinuousConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// How far it may be behind, in seconds.
    #[serde(default = "default_rpo")]
    pub rpo_target_seconds: u32,
    /// How often the archive makes a base backup of its own, in hours: a restore replays at most so much of the log.
    #[serde(default = "default_base_hours")]
    pub base_every_hours: u32,
}

fn default_rpo() -> u32 {
    5
}

fn default_base_hours() -> u32 {
    24
}

/// What a backup is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupKind {
    /// Asked for, or by a schedule.
    Full,
    /// Where a cluster was before something was done to it: what an undo goes back to.
    Pin,
    /// Made by the continuous archive, for itself.
    Base,
}

/// Body of `POST /cluster/backups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartBackup {
    /// Its name, unique in the cluster: lower-case letters, digits, `-` and `.`, at most 253.
    pub name: String,
    /// What it is for.
    pub kind: BackupKind,
    /// For how many seconds a store that is away is waited for, from now on; absent: an hour. Written only where it is said:
    /// members of before do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_seconds: Option<u64>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// Under way.
    Running,
    /// Done.
    Succeeded,
    /// Ended without a result; the message says why.
    Failed,
}

/// A backup in the making, or made since the member started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupJob {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: JobState,
    /// Hundredths of the database that are in the store.
    pub progress_percent: u8,
    /// What was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// Why it failed, or, of one that is under way, what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answer of `GET /cluster/backups/jobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupJobs {
    /// Newest last.
    pub jobs: Vec<BackupJob>,
}

/// A complete backup in the store, as its manifest tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: BackupKind,
    /// Where it is: the name of its directory below the prefix and the cluster's id. What [`DeleteBackups`] and
    /// [`RestoreTarget::Backup`] name.
    pub path: String,
    /// Of which cluster.
    pub cluster_id: String,
    /// The cluster's epoch.
    pub epoch: u64,
    /// The last entry that is in it.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// When the state was pinned.
    pub time: String,
    /// Size of the database, in bytes.
    pub size_bytes: u64,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// SHA-256 of the database file, in hexadecimal digits.
    pub sha256: String,
    /// The page checksum on which the cluster's members agree after that entry, in hexadecimal digits; absent if it was not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_checksum: Option<String>,
    /// Version of SQLite that wrote it.
    pub sqlite_version: String,
    /// Name of the member that made it.
    pub member: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Answer of `GET /cluster/backups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Catalogue {
    /// Complete ones, oldest first.
    pub backups: Vec<Backup>,
    /// Those whose manifest cannot be read: nothing is restored from them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<DamagedBackup>,
    /// From when to when a restore can reach any moment; oldest first, absent where there is no archive.
    #[serde(default)]
    pub windows: Vec<Window>,
    /// What is archived, by which a restore decides; by epoch and first entry. Absent from members of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archived: Vec<Archived>,
    /// Up to when everything of an epoch is known to be archived, where that is written down; a time after it cannot be
    /// restored yet. Absent from members of before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known: Vec<KnownUntil>,
}

/// Everything that was written in an epoch up to a moment is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownUntil {
    /// The cluster's epoch.
    pub epoch: u64,
    /// The last entry then.
    pub index: u64,
    /// The moment.
    pub time: String,
}

/// Entries that are in the store one after the other, without a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archived {
    /// The cluster's epoch.
    pub epoch: u64,
    /// First entry.
    pub first_index: u64,
    /// Last entry.
    pub last_index: u64,
    /// Time of the last entry; absent from members of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Path of the backup that they are kept with; absent: they are the archive's, which goes on from any backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
}

/// A backup whose manifest is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedBackup {
    /// Its path in the store, by which it can be deleted.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// A range of entries that a restore can reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// The cluster's epoch.
    pub epoch: u64,
    /// First entry: that of a backup.
    pub first_index: u64,
    /// Last entry in the archive.
    pub last_index: u64,
    /// Time of the first entry.
    pub earliest: String,
    /// Time of the last one.
    pub latest: String,
}

/// Body of `DELETE /cluster/backups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteBackups {
    /// Their paths ([`Backup::path`]).
    pub paths: Vec<String>,
    /// Also what of the archive, and of the archive's own base backups, only served moments before this time. The newest
    /// base backup and what follows it always stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_before: Option<String>,
}

/// Answer of `DELETE /cluster/backups`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// Objects that were deleted.
    pub objects: u64,
}

/// Answer of `POST /cluster/backups/probe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// Writing works: enough to back up.
    pub writable: bool,
    /// Reading and listing work: needed to restore, to verify and to find out what there is.
    pub readable: bool,
    /// Deleting works: needed by retention.
    pub deletable: bool,
    /// What does not work, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far the continuous archive of a cluster is; in the leader's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveReport {
    /// In a word.
    pub state: ArchiveState,
    /// Time of the first moment that a restore can reach without a hole up to now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest: Option<String>,
    /// While it is not on target, and of a leader that goes down and has archived everything: the last moment that a restore
    /// can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// A leader has just taken over and goes by what it heard of the archive: it has not read yet where it ends. What the
    /// leader before it said of the window still holds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taking_over: bool,
    /// What is wrong, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How far the continuous archive is, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchiveState {
    /// The archive was just switched on and has no base backup yet; or, where it is said, a leader has just taken over.
    Starting,
    /// At most its target behind.
    OnTarget,
    /// Further behind.
    Behind,
    /// Entries are missing that no member has any more. A new base backup is being made; moments before it, back to where
    /// the hole begins, cannot be reached.
    Broken,
}

/// Which moment a restore brings back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RestoreTarget {
    /// The last one in the archive, or the newest backup where there is none.
    Latest {},
    /// After this entry.
    Index(u64),
    /// The last one not after this time (RFC 3339).
    Time(String),
    /// A backup ([`Backup::path`]), and nothing after it.
    Backup(String),
}

/// Which store a restore reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreSource {
    /// That of `-backup-config`.
    #[default]
    Own,
    /// What `-restore-config` names: a store, or an import.
    Other,
}

/// Body of `POST /cluster/restore`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StartRestore {
    /// Names the job: asked again, it is not begun again.
    pub name: String,
    /// Which store.
    #[serde(default)]
    pub source: RestoreSource,
    /// The cluster whose backups are meant; absent: this one. Of no use for an import, like any target but the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Which moment.
    pub target: RestoreTarget,
    /// Needed where the database holds anything: this cluster's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_cluster_id: Option<String>,
    /// Name of the backup of this cluster, of kind Pin, that undoes the restore. It may still be in the making. What is
    /// written between it and the restore is kept beside it, so that nothing is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
}

/// A restore under way, or done since the member started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreJob {
    /// Its name.
    pub name: String,
    /// How far it is.
    pub state: JobState,
    /// Hundredths of the work, by bytes fetched and entries replayed.
    pub progress_percent: u8,
    /// What it came to; absent for an import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// Why it failed, or what it cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Answer of `GET /cluster/restore`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreJobs {
    /// Newest last. The first may be one of which only the state itself tells: the last that came to its end.
    pub jobs: Vec<RestoreJob>,
    /// Whether the member led, as a quorum confirmed, when it read the state: a restore that came to its end before is not
    /// missing in the answer.
    #[serde(default)]
    pub confirmed: bool,
}

/// What a restore found and made. Also what `sqlited restore -report FILE` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The cluster that the state is of.
    pub cluster_id: String,
    /// Its epoch then.
    pub epoch: u64,
    /// Path of the backup that it began with.
    pub backup: String,
    /// The last entry of the state.
    pub index: u64,
    /// Its time.
    pub time: String,
    /// Entries replayed after the backup.
    pub replayed: u64,
    /// Size of the database, in bytes.
    pub size_bytes: u64,
    /// The entry after which the page checksum was last compared with the cluster's; absent if none was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_index: Option<u64>,
    /// The page checksum of the state, in hexadecimal digits: members have the same one after that entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_checksum: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// In a running cluster: the entry by which the state took the place of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_index: Option<u64>,
    /// In a running cluster: the last entry of the state before. Restoring to it brings back everything that was
    /// acknowledged. Absent where nothing brings it back, and where no member knows it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_index: Option<u64>,
    /// In a running cluster: path of the backup from which, with the entries that are kept beside it, the state before
    /// comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<String>,
    /// What is to be known of the state, for people: that what is in the store ends before the time that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What `sqlited restore -report FILE` writes: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreReport {
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// It failed because the store did not answer, which says nothing about what is in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unanswered: bool,
}

/// A query whose answer a verification compares: its first value, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifyQuery {
    /// The query.
    pub sql: String,
    /// What its first row's first column must be.
    pub expect: String,
}
