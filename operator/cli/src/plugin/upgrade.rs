//! How an update of the members is taken back: by the edit of the spec that a person would make. Pure.

use super::edit::Edit;
use anyhow::{Context, Result, bail};
use operator::cluster::validate::validate;
use operator::crd::{RolloutState, SqliteCluster};
use operator::names::{ANNOTATION_RESTARTED, ANNOTATION_UPDATE};
use serde_json::{Value, json};

/// One thing that may be taken back.
#[derive(Clone, Copy, PartialEq)]
enum Change {
    /// The image is the one that all members last had in service, and the spec names it: the template does not tell whether it
    /// was named before.
    Image,
    /// Nobody asked for a restart.
    Restart,
    /// The release of the operator is not followed.
    Follow,
}

/// What may be taken back together, the least first.
const ATTEMPTS: [&[Change]; 6] = [
    &[Change::Image],
    &[Change::Restart],
    &[Change::Follow],
    &[Change::Image, Change::Restart],
    &[Change::Image, Change::Follow],
    &[Change::Restart, Change::Follow],
];

/// Takes the update back that waits or is under way: whatever leads exactly to the template that all members last had
/// together. Going back to that waits for nothing, neither a window nor an approval.
pub fn abort(cluster: &SqliteCluster) -> Result<Edit> {
    let status = cluster.status.clone().unwrap_or_default();
    let rollout = status.rollout.context("no update is under way")?;
    if rollout.state == RolloutState::Complete {
        bail!("no update is under way");
    }
    let stable = rollout
        .stable_revision
        .context("the members never had a template together that they could go back to")?;
    if rollout.revision.as_ref() == Some(&stable) {
        bail!("the members are on their way back to revision {stable} already");
    }
    let image = status.version.stable.clone().or(status.version.target).unwrap_or_default();
    let leads_back = |changes: &&&[Change]| {
        let before = taken_back(cluster, &image, changes);
        validate(&before, &image).is_ok_and(|desired| desired.voter_revision == stable)
    };
    if validate(cluster, &image).is_ok_and(|desired| desired.voter_revision == stable) {
        bail!("only restarts for other compute resources wait: put the former spec.resources back");
    }
    let changes = ATTEMPTS.iter().find(leads_back).with_context(|| {
        let mut why = format!(
            "the update changes more than an image or a restart: put the former spec back, from where it is kept; \
             going back to revision {stable} waits for nothing"
        );
        if cluster.spec.update.follow_operator {
            // The hash has the release of who counts it.
            why += concat!(
                ". With update.followOperator a revision depends on the operator's release as well, and a plugin of \
                 another release than the operator cannot find the way back; this plugin is ",
                env!("CARGO_PKG_VERSION")
            );
        }
        why
    })?;
    let mut what = format!("the members keep revision {stable}, or go back to it");
    if changes.contains(&Change::Image) {
        what += &format!("; spec.image names {image} from now on");
    }
    Ok(Edit { patch: patch(cluster, &image, changes), what })
}

/// The cluster without these changes.
fn taken_back(cluster: &SqliteCluster, image: &str, changes: &[Change]) -> SqliteCluster {
    let mut cluster = cluster.clone();
    let former = former_update(&cluster);
    for change in changes {
        let annotations = cluster.metadata.annotations.get_or_insert_default();
        match change {
            Change::Image => cluster.spec.image = Some(image.to_owned()),
            Change::Restart => drop(annotations.remove(ANNOTATION_RESTARTED)),
            Change::Follow => {
                cluster.spec.update.follow_operator = false;
                match &former {
                    Some(former) => annotations.insert(ANNOTATION_UPDATE.to_owned(), former.clone()),
                    None => annotations.remove(ANNOTATION_UPDATE),
                };
            }
        }
    }
    cluster
}

/// The same as a merge patch.
fn patch(cluster: &SqliteCluster, image: &str, changes: &[Change]) -> Value {
    let mut patch = json!({});
    for change in changes {
        match change {
            Change::Image => patch["spec"]["image"] = json!(image),
            Change::Restart => patch["metadata"]["annotations"][ANNOTATION_RESTARTED] = Value::Null,
            Change::Follow => {
                patch["spec"]["update"]["followOperator"] = json!(false);
                patch["metadata"]["annotations"][ANNOTATION_UPDATE] = json!(former_update(cluster));
            }
        }
    }
    patch
}

/// The wish for the operator's release that was followed to its end last.
fn former_update(cluster: &SqliteCluster) -> Option<String> {
    cluster.status.as_ref().and_then(|status| status.version.updated_at.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE: &str = "example/sqlited:1.0.0";

    /// A cluster whose members have the template of `stable`, and whose object was changed by `edit` since.
    fn updating(stable: Value, edit: impl FnOnce(&mut SqliteCluster)) -> SqliteCluster {
        let mut cluster: SqliteCluster = serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "annotations": {}}, "spec": stable,
            "status": {
                "bootstrap": {"member": "orders-0", "phase": "Complete"}, "peerTraffic": "Tls", "clientTraffic": "Tls",
                "version": {"stable": STABLE, "target": STABLE},
            },
        }))
        .expect("a cluster");
        let revision = |cluster: &SqliteCluster| validate(cluster, STABLE).expect("valid").voter_revision;
        let stable = revision(&cluster);
        edit(&mut cluster);
        let now = revision(&cluster);
        let state = if now == stable { "Complete" } else { "WaitingForApproval" };
        let rollout =
            json!({"state": state, "updated": 0, "total": 3, "revision": now, "stableRevision": stable});
        cluster.status.as_mut().expect("a status").rollout =
            serde_json::from_value(rollout).expect("a rollout");
        cluster
    }

    fn spec() -> Value {
        json!({"storage": {"size": "1Gi"}})
    }

    fn annotate(cluster: &mut SqliteCluster, key: &str) {
        cluster
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(key.into(), "2026-01-01T00:00:00Z".into());
    }

    #[test]
    fn what_a_person_changed_is_taken_back() {
        let named = json!({"storage": {"size": "1Gi"}, "image": STABLE});
        let other = |cluster: &mut SqliteCluster| cluster.spec.image = Some("example/sqlited:2.0.0".into());
        let restart = |cluster: &mut SqliteCluster| annotate(cluster, ANNOTATION_RESTARTED);
        for (what, cluster, expected) in [
            ("an image", updating(named, other), json!({"spec": {"image": STABLE}})),
            (
                "a restart",
                updating(spec(), restart),
                json!({"metadata": {"annotations": {ANNOTATION_RESTARTED: null}}}),
            ),
            (
                "both",
                updating(spec(), |cluster| {
                    other(cluster);
                    restart(cluster);
                }),
                json!({"spec": {"image": STABLE}, "metadata": {"annotations": {ANNOTATION_RESTARTED: null}}}),
            ),
            (
                "the operator's release",
                updating(spec(), |cluster| annotate(cluster, ANNOTATION_UPDATE)),
                json!({
                    "spec": {"update": {"followOperator": false}},
                    "metadata": {"annotations": {ANNOTATION_UPDATE: null}},
                }),
            ),
        ] {
            assert_eq!(
                abort(&cluster).map(|edit| edit.patch).map_err(|e| e.to_string()),
                Ok(expected),
                "{what}"
            );
        }
    }

    #[test]
    fn an_image_that_is_named_from_now_on_is_told() {
        let told = |cluster: &SqliteCluster| abort(cluster).expect("an edit").what;
        // The spec named none before.
        let image = updating(spec(), |cluster| cluster.spec.image = Some("i:2".into()));
        assert!(
            told(&image).ends_with(&format!("spec.image names {STABLE} from now on")),
            "{}",
            told(&image)
        );
        let restart = updating(spec(), |cluster| annotate(cluster, ANNOTATION_RESTARTED));
        assert!(!told(&restart).contains("spec.image"), "{}", told(&restart));
    }

    #[test]
    fn what_cannot_be_taken_back_is_said() {
        let message = |cluster: &SqliteCluster| abort(cluster).expect_err("an edit").to_string();
        assert!(message(&updating(spec(), |_| {})).contains("no update is under way"));
        let deeper = updating(spec(), |cluster| cluster.spec.database.foreign_keys = true);
        assert!(message(&deeper).contains("put the former spec back"), "{}", message(&deeper));
        assert!(!message(&deeper).contains("this plugin"), "{}", message(&deeper));
        let mut foreign = updating(spec(), |cluster| {
            cluster.spec.update.follow_operator = true;
            cluster.spec.image = Some("i:2".into());
        });
        let rollout = foreign.status.as_mut().and_then(|status| status.rollout.as_mut()).expect("a rollout");
        rollout.stable_revision = Some("counted-by-another-release".into());
        let told = concat!("this plugin is ", env!("CARGO_PKG_VERSION"));
        assert!(message(&foreign).ends_with(told), "{}", message(&foreign));
        // Resources are in no template: what waits has a name of its own.
        let mut resources = updating(spec(), |_| {});
        let rollout =
            resources.status.as_mut().and_then(|status| status.rollout.as_mut()).expect("a rollout");
        (rollout.state, rollout.revision) =
            (RolloutState::WaitingForApproval, Some("stable-resources".into()));
        assert!(message(&resources).contains("former spec.resources"), "{}", message(&resources));
        let mut back = updating(spec(), |cluster| cluster.spec.image = Some("i:2".into()));
        let rollout = back.status.as_mut().and_then(|status| status.rollout.as_mut()).expect("a rollout");
        rollout.revision.clone_from(&rollout.stable_revision);
        assert!(message(&back).contains("already"));
    }
}
