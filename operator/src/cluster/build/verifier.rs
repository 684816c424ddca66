//! The Job that tests a backup: the members' own program restores it beside the cluster, in a pod that may do nothing else.

use super::backup::{Mounts, StoreAccess, Use, of_store, queries_path};
use super::metadata_of;
use super::owner;
use super::pod::{confined, security_context};
use crate::cluster::backups::verify::{ANNOTATION_TESTS, NewVerifier};
use crate::cluster::validate::Desired;
use crate::names::{CONTAINER, LABEL_CLUSTER, LABEL_VERIFIES};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EphemeralVolumeSource, PersistentVolumeClaimSpec,
    PersistentVolumeClaimTemplate, PodSpec, PodTemplateSpec, ResourceRequirements, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Name of the volume that the backup is restored to.
const SCRATCH: &str = "scratch";
/// A test that takes longer is ended. Counted from when its pod is on a Kubernetes node.
const DEADLINE_SECONDS: i64 = 6 * 3_600;
/// A test whose pod finds no node, or that goes on all the same, ends after that. Counted from when it was made.
const JOB_DEADLINE_SECONDS: i64 = DEADLINE_SECONDS + 3_600;
/// For how long a test that has ended can be looked at.
const KEPT_SECONDS: i32 = 3_600;

/// The Job of a test; none where the cluster has no store, or no id.
pub fn job(desired: &Desired, cluster_id: &str, new: &NewVerifier) -> Option<Job> {
    let store = Mounts::of(&StoreAccess::of(desired.spec.backup.as_ref()?));
    // Not the labels of members: Services and the observation of pods go by them.
    let mut labels = desired.name.labels("verifier", None);
    labels.remove(LABEL_CLUSTER);
    labels.insert(LABEL_VERIFIES.to_owned(), desired.name.name.clone());
    let annotations = BTreeMap::from([(ANNOTATION_TESTS.to_owned(), new.backup.clone())]);
    let metadata = ObjectMeta {
        labels: Some(labels.clone()),
        annotations: Some(annotations.clone()),
        ..metadata_of(&desired.name, owner(desired, true), new.job.clone(), "verifier")
    };
    let (mut volumes, mut mounts): (Vec<_>, Vec<_>) =
        of_store(desired, Use::Backup, store).into_iter().unzip();
    for (volume, path) in [(scratch(desired, &new.volume_size), "/scratch"), (empty("tmp"), "/tmp")] {
        let name = volume.name.clone();
        mounts.push(VolumeMount { name, mount_path: path.into(), ..VolumeMount::default() });
        volumes.push(volume);
    }
    let placement = &desired.spec.placement;
    let pod = PodSpec {
        active_deadline_seconds: Some(DEADLINE_SECONDS),
        automount_service_account_token: Some(false),
        containers: vec![container(desired, cluster_id, new, mounts)],
        enable_service_links: Some(false),
        node_selector: Some(placement.node_selector.clone()).filter(|selector| !selector.is_empty()),
        restart_policy: Some("Never".into()),
        security_context: Some(security_context()),
        service_account_name: Some(desired.name.service_account()),
        tolerations: Some(placement.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        volumes: Some(volumes),
        ..PodSpec::default()
    };
    Some(Job {
        metadata,
        spec: Some(JobSpec {
            active_deadline_seconds: Some(JOB_DEADLINE_SECONDS),
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        status: None,
    })
}

fn container(desired: &Desired, cluster_id: &str, new: &NewVerifier, mounts: Vec<VolumeMount>) -> Container {
    let database = &desired.spec.database;
    let extensions = [database.extensions.as_slice(), database.former_extensions.as_slice()].concat();
    let pairs = [
        ("-backup-config", Some(Use::Backup.config_path())),
        ("-cluster-id", Some(cluster_id.to_owned())),
        ("-to", Some(format!("backup:{}", new.path))),
        ("-queries", new.has_queries.then(|| queries_path(&new.schedule))),
        ("-extensions-path", (!extensions.is_empty()).then(|| extensions.join(","))),
        ("-report", Some("/dev/termination-log".to_owned())),
    ];
    let flags = pairs.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten();
    let replay = new.replay.then(|| "-replay".to_owned());
    let args = std::iter::once("verify".to_owned()).chain(flags).chain(replay).chain(["/scratch".to_owned()]);
    let quantities = |list: &[(&str, &str)]| {
        Some(list.iter().map(|(name, n)| ((*name).to_owned(), Quantity((*n).to_owned()))).collect())
    };
    Container {
        name: CONTAINER.into(),
        image: Some(desired.image.clone()),
        image_pull_policy: Some("IfNotPresent".into()),
        args: Some(args.collect()),
        resources: Some(ResourceRequirements {
            limits: quantities(&[("cpu", "1"), ("memory", "512Mi")]),
            requests: quantities(&[("cpu", "50m"), ("memory", "128Mi")]),
            ..ResourceRequirements::default()
        }),
        security_context: Some(confined()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn empty(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// As large as a member's volume, and gone with the pod.
fn scratch(desired: &Desired, size: &str) -> Volume {
    if desired.is_in_memory() {
        return empty(SCRATCH);
    }
    let requests = BTreeMap::from([("storage".to_owned(), Quantity(size.to_owned()))]);
    let spec = PersistentVolumeClaimSpec {
        access_modes: Some(vec!["ReadWriteOnce".into()]),
        resources: Some(VolumeResourceRequirements {
            requests: Some(requests),
            ..VolumeResourceRequirements::default()
        }),
        storage_class_name: desired.spec.storage.storage_class_name.clone(),
        ..PersistentVolumeClaimSpec::default()
    };
    let template = PersistentVolumeClaimTemplate { metadata: None, spec };
    let source = EphemeralVolumeSource { volume_claim_template: Some(template) };
    Volume { name: SCRATCH.into(), ephemeral: Some(source), ..Volume::default() }
}
