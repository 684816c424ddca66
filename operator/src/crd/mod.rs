//! The custom resources, and their definitions as files.
//!
//! The types are the source; `crds/`, the chart's templates and the reference in `docs/` are generated from them and only
//! ever checked.

mod backup;
mod bootstrap;
mod change_capture;
mod cluster;
mod concise;
mod observability;
mod placement;
mod reference;
mod schema;
mod security;
mod service;
mod sqlite_backup;
mod sqlite_restore;
mod status;
mod storage;
mod tls;
mod update;

pub use backup::{
    AzureStore, BackupEncryption, BackupSchedule, BackupStore, Backups, ContinuousBackup, FilesystemStore,
    GcsStore, Retention, S3Store, SecretKeyRef, UnencryptedObjects, Verify, VerifyQuery, parse_period,
};
pub use bootstrap::{Bootstrap, BootstrapImport, BootstrapRestore, ObjectRef, RestoreTarget};
pub use change_capture::{ChangeCapture, RetryPolicy};
pub use cluster::{
    Database, Disruption, DisruptionBudget, Fence, LossPoint, PodMetadata, PodTemplate, QuorumLoss, Raft,
    RaftProfile, Recovery, Resources, SkippedEntry, SqliteCluster, SqliteClusterSpec,
};
pub use observability::{LogLevel, Observability, Otlp};
pub use placement::{Placement, Spread};
pub use security::{Authentication, AuthenticationMode, NetworkPolicyMode, SecretRef, Security};
pub use service::{ServiceSpec, ServiceTarget, ServiceType};
pub use sqlite_backup::{
    BackupDeletion, BackupFailures, BackupImport, BackupPurpose, Bookmark, SqliteBackup, SqliteBackupSpec,
    SqliteBackupStatus, Verification, VerificationResult,
};
pub use sqlite_restore::{
    RestoreApproval, RestoreSource, SqliteRestore, SqliteRestoreSpec, SqliteRestoreStatus, UndoBookmark,
};
pub use status::{
    ArchiveStatus, BackupStatus, BootstrapPhase, BootstrapRestoreStatus, BootstrapStatus, CanaryStatus,
    CertificateStatus, ChecksumState, FatalEntryStatus, Lag, LeaderStatus, MemberRole, MemberStatus,
    QuorumStatus, RecoveryWindow, RestorePhase, RolloutState, RolloutStatus, ScheduleStatus,
    SqliteClusterStatus, StorageStatus, VersionStatus, VolumeBucket,
};
pub use storage::{Autogrow, Medium, RetentionPolicy, Storage};
pub use tls::{ClientTraffic, IssuerRef, PeerTraffic, PlaintextClients, Port, Tls, TlsMode, Traffic};
pub use update::{Canary, CanaryFailure, MaintenanceWindow, Update, UpdateStrategy};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A member's number as the API has it, whose integers are signed.
pub fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Where the generated files go, below the root of the repository.
const PLAIN: &str = "crds";
/// Where the chart keeps its copy.
const CHART: &str = "charts/sqlite-operator/templates/crds";

/// The reference for people.
const REFERENCE: &str = "docs/crds.md";

/// Why definitions could not be written or checked.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// A definition cannot be written as YAML.
    #[error("the definition of {kind} cannot be written as YAML")]
    Render {
        /// Which.
        kind: String,
        /// Why.
        #[source]
        source: serde_yaml::Error,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file differs from what the types say.
    #[error("{path} is not what the types say: run `sqlite-operator crds --dir {root}`")]
    Stale {
        /// Which.
        path: PathBuf,
        /// The directory to generate into.
        root: String,
    },
}

/// All definitions.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut definitions = described();
    definitions.iter_mut().for_each(concise::say_once);
    definitions
}

/// All definitions, with a word on every field.
fn described() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![SqliteCluster::crd(), SqliteBackup::crd(), SqliteRestore::crd()];
    definitions.iter_mut().for_each(begin_unobserved);
    for version in definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        schema.into_iter().for_each(drop_nulls);
    }
    definitions
}

/// Null is as good as absent: the API server takes it away, or puts the default in its place, where a schema does not ask
/// to keep it. (Kubernetes documentation, "Defaulting and Nullable".)
fn drop_nulls(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(drop_nulls);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        drop_nulls(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_nulls(values);
    }
}

/// A new object has a status by which generic tools see that nobody looked at it yet; without one they take it for
/// complete.
fn begin_unobserved(definition: &mut CustomResourceDefinition) {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
        }
    }
}

/// All definitions as one YAML stream.
pub fn yaml_stream() -> Result<String, CrdError> {
    let mut stream = String::new();
    for definition in definitions() {
        stream.push_str("---\n");
        stream.push_str(&yaml(&definition)?);
    }
    Ok(stream)
}

/// Writes every generated file below `root`, the root of the repository.
pub fn write(root: &Path) -> Result<Vec<PathBuf>, CrdError> {
    let mut written = Vec::new();
    for (path, content) in files(root)? {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| CrdError::File { path: parent.to_owned(), source })?;
        }
        std::fs::write(&path, content).map_err(|source| CrdError::File { path: path.clone(), source })?;
        written.push(path);
    }
    Ok(written)
}

/// Fails if a generated file below `root` differs from what the types say.
pub fn check(root: &Path) -> Result<(), CrdError> {
    for (path, content) in files(root)? {
        let found =
            std::fs::read_to_string(&path).map_err(|source| CrdError::File { path: path.clone(), source })?;
        if found != content {
            return Err(CrdError::Stale { path, root: root.display().to_string() });
        }
    }
    Ok(())
}

fn files(root: &Path) -> Result<Vec<(PathBuf, String)>, CrdError> {
    let mut files = vec![(root.join(REFERENCE), reference::page(&described()))];
    for definition in definitions() {
        let name = format!("{}.yaml", definition.spec.names.plural);
        let plain = yaml(&definition)?;
        files.push((root.join(CHART).join(&name), chart_template(&plain)));
        files.push((root.join(PLAIN).join(&name), plain));
    }
    Ok(files)
}

fn yaml(definition: &CustomResourceDefinition) -> Result<String, CrdError> {
    serde_yaml::to_string(definition)
        .map_err(|source| CrdError::Render { kind: definition.spec.names.kind.clone(), source })
}

/// The definition as a template of the chart: installed on demand, and kept when the release goes.
fn chart_template(plain: &str) -> String {
    let mut template = String::from("{{- if .Values.crds.install }}\n");
    for line in plain.lines() {
        // Writing to a String cannot fail.
        let _ = writeln!(template, "{}", line.replace("{{", "{{ \"{{\" }}"));
        if line == "metadata:" {
            template.push_str(
                "  annotations:\n    helm.sh/resource-policy: keep\n  labels:\n    {{- include \"sqlite-operator.labels\" . | nindent 4 }}\n",
            );
        }
    }
    template.push_str("{{- end }}\n");
    template
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn schema_of(crd: &CustomResourceDefinition) -> Value {
        let crd = serde_json::to_value(crd).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    fn schema() -> Value {
        schema_of(&SqliteCluster::crd())
    }

    #[test]
    fn generated_files_are_what_the_types_say() {
        check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    }

    #[test]
    fn a_definition_stays_under_100_kb() {
        for definition in definitions() {
            assert!(yaml(&definition).unwrap().len() < 100_000);
        }
    }

    #[test]
    fn the_minimal_manifest_is_enough_and_its_defaults_are_in_the_schema() {
        let spec: SqliteClusterSpec =
            serde_json::from_value(serde_json::json!({"storage": {"size": "1Gi"}})).unwrap();
        assert_eq!(spec.voters, 3);
        assert_eq!(spec.services.len(), 3);
        let properties = &schema()["properties"]["spec"]["properties"];
        assert_eq!(properties["voters"]["default"], 3);
        assert_eq!(properties["readReplicas"]["default"], 0);
        assert_eq!(properties["storage"]["properties"]["onDelete"]["default"], "Retain");
        assert_eq!(properties["recovery"]["properties"]["memberReplacementAfterSeconds"]["default"], 300);
    }

    #[test]
    fn every_rule_says_what_to_do() {
        fn rules<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::Array(list)) = map.get("x-kubernetes-validations") {
                        found.extend(list);
                    }
                    map.values().for_each(|value| rules(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| rules(value, found)),
                _ => {}
            }
        }
        for definition in definitions() {
            let schema = schema_of(&definition);
            let mut found = Vec::new();
            rules(&schema, &mut found);
            assert!(!found.is_empty());
            for rule in found {
                assert!(rule["message"].as_str().is_some_and(|message| message.len() > 20), "{rule}");
            }
        }
    }

    #[test]
    fn every_list_and_string_of_the_spec_is_bounded() {
        fn walk(path: &str, value: &Value, loose: &mut Vec<String>) {
            let Value::Object(map) = value else { return };
            let closed = map.contains_key("enum") || map.contains_key("x-kubernetes-int-or-string");
            match map.get("type").and_then(Value::as_str) {
                Some("array") if !map.contains_key("maxItems") => loose.push(path.into()),
                Some("string") if !closed && !map.contains_key("maxLength") => loose.push(path.into()),
                _ => {}
            }
            for key in ["properties"] {
                if let Some(Value::Object(properties)) = map.get(key) {
                    for (name, property) in properties {
                        walk(&format!("{path}.{name}"), property, loose);
                    }
                }
            }
            for key in ["items", "additionalProperties"] {
                if let Some(value) = map.get(key) {
                    walk(&format!("{path}[]"), value, loose);
                }
            }
        }
        for definition in definitions() {
            let mut loose = Vec::new();
            walk("spec", &schema_of(&definition)["properties"]["spec"], &mut loose);
            assert!(loose.is_empty(), "{loose:?}");
        }
    }
}
