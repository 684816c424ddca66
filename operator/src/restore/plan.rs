//! (what is asked for, what is) → the next step of a restore. Pure: no client, no clock.

use super::observed::{Cluster, Observed, Undo};
use crate::cluster::restore::{is_told_by_state_alone, wire_target};
use crate::crd::BackupStore;
use client::backup::{JobState, RestoreJob, RestoreSource, StartRestore};
use jiff::{SignedDuration, Timestamp};

/// How long members may not be heard after the leader was asked for a restore.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// How long a request may be on its way.
const ON_ITS_WAY: SignedDuration = SignedDuration::from_secs(30);

/// The next step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It is over.
    Nothing,
    /// Something has to come first.
    Wait {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
    /// Keeps where the cluster is.
    Pin,
    /// Writes down that the leader is asked, then asks.
    Start {
        /// Who leads.
        member: String,
        /// For what.
        body: Box<StartRestore>,
    },
    /// The leader was asked, and nobody who answers knows of it.
    AwaitWord,
    /// The leader is at it.
    Follow {
        /// Hundredths that are done.
        percent: u8,
    },
    /// The cluster has what was asked for.
    Succeed,
    /// It will not have it by this object.
    Fail {
        /// For programs.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// The next step.
pub fn plan(observed: &Observed) -> Step {
    let object = &observed.object;
    if object.status.completion_time.is_some() {
        return Step::Nothing;
    }
    match observed.job.as_ref().map(|job| (job, job.state)) {
        // The leader saw the backup in the store; the object that stands for it says so a moment later.
        Some((job, JobState::Succeeded))
            if matches!(observed.undo, Undo::Running(_)) || tells_more_soon(job, observed) =>
        {
            return Step::Follow { percent: 100 };
        }
        Some((_, JobState::Succeeded)) => return Step::Succeed,
        Some((job, JobState::Failed)) => {
            let why = job.message.clone().unwrap_or_else(|| "no member says why".into());
            return match &observed.undo {
                Undo::Failed(pin) => pin_failed(&format!("{pin}; {why}")),
                _ => Step::Fail { reason: "RestoreFailed", message: why },
            };
        }
        Some((job, JobState::Running)) => return Step::Follow { percent: job.progress_percent.min(100) },
        None => {}
    }
    let wait = |reason, message: String| Step::Wait { reason, message };
    let name = &object.spec.cluster_ref.name;
    let Some(cluster) = &observed.cluster else {
        return wait("RefNotFound", format!("there is no SqliteCluster {name} in this namespace"));
    };
    if object.spec.approval.confirm_cluster_name.as_ref() != Some(name) {
        let message = format!(
            "everything that {name} holds is replaced, once spec.approval.confirmClusterName is {name}"
        );
        return wait("AwaitingApproval", message);
    }
    if let Some(ahead) = &observed.ahead {
        return wait("AnotherRestore", format!("SqliteRestore {ahead} of the same cluster comes first"));
    }
    let source = match &observed.source {
        Ok(source) => source,
        Err(missing) if observed.source_comes => return wait("SourceNotReady", missing.clone()),
        Err(missing) => return wait("SourceNotFound", missing.clone()),
    };
    if cluster.own.is_none() {
        let message = format!(
            "{name} has no store of backups, so that where it is cannot be kept first: set its spec.backup"
        );
        return wait("NoStore", message);
    }
    let [own, other] = [&cluster.own, &cluster.other].map(|access| access.as_ref().map(|a| &a.store));
    let from = way(own, other, &source.access.store);
    let Some((from, cluster_id)) = from.zip(cluster.cluster_id.as_ref()) else {
        return no_way(cluster, name);
    };
    if let Some(step) = object.status.start_time.as_ref().and_then(|asked| after_asking(observed, asked.0)) {
        return step;
    }
    let Some(leader) = &cluster.leader else { return wait("NoLeader", format!("{name} has no leader")) };
    match &observed.undo {
        Undo::Missing => Step::Pin,
        Undo::Foreign => {
            let message = format!("SqliteBackup {} is not this restore's: delete it", object.undo_name());
            wait("NameConflict", message)
        }
        Undo::Failed(why) => pin_failed(why),
        // The leader brings the other state back while the backup is made, and replaces nothing before that is in the store.
        Undo::Running(undo) | Undo::Done(undo, _) => Step::Start {
            member: leader.clone(),
            body: Box::new(StartRestore {
                name: object.job_name(),
                source: from,
                cluster_id: Some(source.cluster_id.clone()),
                target: wire_target(object.spec.target.as_ref(), source.path.as_deref()),
                confirm_cluster_id: Some(cluster_id.clone()),
                undo: Some(undo.clone()),
            }),
        },
    }
}

/// Whether the member that was at it, which alone knows the last entry that was replaced, may be one that did not answer.
/// A member that is gone for good is not waited for for ever.
fn tells_more_soon(job: &RestoreJob, observed: &Observed) -> bool {
    let asked = observed.object.status.start_time.as_ref();
    is_told_by_state_alone(job)
        && !observed.all_heard
        && asked.is_some_and(|asked| observed.now.duration_since(asked.0) < PATIENCE)
}

fn pin_failed(why: &str) -> Step {
    let message = format!("where the cluster is could not be kept, so that nothing was restored: {why}");
    Step::Fail { reason: "PinFailed", message }
}

/// The leader was asked and no member that answered knows of it; none: it may be asked again.
///
/// A restore that came to its end is part of the state, and the leader asks a quorum before it says what it knows, so that
/// when all members have answered and none knows of it, it did not happen: whoever did it was started again in the middle.
/// A member that did not answer may still be at it.
fn after_asking(observed: &Observed, asked: Timestamp) -> Option<Step> {
    let since = observed.now.duration_since(asked);
    if observed.all_heard && since >= ON_ITS_WAY {
        return None;
    }
    if since < PATIENCE {
        return Some(Step::AwaitWord);
    }
    let undo = observed.object.undo_name();
    let message = format!(
        "the leader was asked, and members that may know what came of it do not answer: look at what the cluster holds. Another SqliteRestore tries again; SqliteBackup {undo} holds what was there before"
    );
    Some(Step::Fail { reason: "OutcomeUnknown", message })
}

/// How members that know the stores `own` and `other` reach a source in `store`, if they do.
pub fn way(
    own: Option<&BackupStore>,
    other: Option<&BackupStore>,
    store: &BackupStore,
) -> Option<RestoreSource> {
    // Keys are a file of several: what the store is read with is the members' own.
    match (own == Some(store), other == Some(store)) {
        (true, _) => Some(RestoreSource::Own),
        (false, true) => Some(RestoreSource::Other),
        (false, false) => None,
    }
}

fn no_way(cluster: &Cluster, name: &str) -> Step {
    if cluster.cluster_id.is_none() {
        return Step::Wait { reason: "NotBegun", message: format!("{name} has not begun yet") };
    }
    Step::Fail { reason: "StoreNotKnown", message: store_not_known(name) }
}

/// Why a cluster is not restored from a store that its members do not know.
pub fn store_not_known(name: &str) -> String {
    format!(
        "the members of {name} do not know that store: bring the backup up as a new cluster by spec.bootstrap.restore, or make the store that of its spec.backup first"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::backup::StoreAccess;
    use crate::crd::{Bookmark, SqliteRestoreStatus, UndoBookmark};
    use crate::restore::observed::{Object, Source};
    use client::backup::{RestoreJob, RestoreTarget};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    fn store(bucket: &str) -> StoreAccess {
        let store = serde_json::from_value(json!({"s3": {"bucket": bucket}})).unwrap();
        StoreAccess { store, encryption: None }
    }

    fn done() -> Undo {
        let bookmark = Bookmark { index: 7, term: 1, time: Time(Timestamp::UNIX_EPOCH) };
        Undo::Done("back-undo-1".into(), UndoBookmark { backup: "back-undo".into(), bookmark })
    }

    fn running() -> Undo {
        Undo::Running("back-undo-1".into())
    }

    /// Approved, and everything there.
    fn ready() -> Observed {
        Observed {
            now: Timestamp::UNIX_EPOCH,
            object: Object {
                namespace: "shop".into(),
                name: "back".into(),
                uid: "u".into(),
                generation: 1,
                spec: serde_json::from_value(json!({
                    "clusterRef": {"name": "orders"}, "source": {"backupRef": {"name": "nightly"}},
                    "approval": {"confirmClusterName": "orders"},
                }))
                .unwrap(),
                status: SqliteRestoreStatus::default(),
            },
            cluster: Some(Cluster {
                cluster_id: Some("c1".into()),
                own: Some(store("b")),
                other: None,
                leader: Some("orders-0".into()),
            }),
            source: Ok(Source { access: store("b"), cluster_id: "c1".into(), path: Some("p".into()) }),
            source_comes: false,
            undo: done(),
            ahead: None,
            job: None,
            all_heard: true,
        }
    }

    fn edited(edit: impl FnOnce(&mut Observed)) -> Observed {
        let mut observed = ready();
        edit(&mut observed);
        observed
    }

    /// It succeeded, say those who have the state that it came to; not all are heard so many seconds after it was asked for.
    fn told_by_state(seconds: i64) -> Observed {
        Observed { job: job(JobState::Succeeded).job, ..asked(seconds, false) }
    }

    fn job(state: JobState) -> Observed {
        edited(|o| {
            o.job = Some(RestoreJob {
                name: "restore-u".into(),
                state,
                progress_percent: 30,
                restored: None,
                message: None,
            });
        })
    }

    fn with(state: JobState, undo: Undo) -> Observed {
        Observed { undo, ..job(state) }
    }

    /// The leader was asked so many seconds ago, and no member that answered knows of it.
    fn asked(seconds: i64, all_heard: bool) -> Observed {
        edited(|o| {
            o.now = Timestamp::from_second(seconds).unwrap();
            o.object.status.start_time = Some(Time(Timestamp::UNIX_EPOCH));
            o.cluster.as_mut().unwrap().leader = Some("orders-1".into());
            o.all_heard = all_heard;
        })
    }

    fn told(observed: &Observed) -> String {
        match plan(observed) {
            Step::Nothing => "nothing".into(),
            Step::Wait { reason, .. } => format!("wait {reason}"),
            Step::Pin => "pin".into(),
            Step::Start { member, .. } => format!("start {member}"),
            Step::AwaitWord => "await word".into(),
            Step::Follow { percent } => format!("follow {percent}"),
            Step::Succeed => "succeed".into(),
            Step::Fail { reason, .. } => format!("fail {reason}"),
        }
    }

    #[test]
    fn the_way_of_a_restore() {
        let cluster = |edit: fn(&mut Cluster)| edited(|o| edit(o.cluster.as_mut().unwrap()));
        for (what, observed, wanted) in [
            ("no cluster", edited(|o| o.cluster = None), "wait RefNotFound"),
            (
                "nobody agreed",
                edited(|o| o.object.spec.approval.confirm_cluster_name = None),
                "wait AwaitingApproval",
            ),
            (
                "to another cluster",
                edited(|o| o.object.spec.approval.confirm_cluster_name = Some("order".into())),
                "wait AwaitingApproval",
            ),
            ("one at a time", edited(|o| o.ahead = Some("first".into())), "wait AnotherRestore"),
            ("no such backup", edited(|o| o.source = Err("no".into())), "wait SourceNotFound"),
            (
                "it is being made",
                edited(|o| (o.source, o.source_comes) = (Err("not yet".into()), true)),
                "wait SourceNotReady",
            ),
            ("another store", cluster(|c| c.own = Some(store("c"))), "fail StoreNotKnown"),
            ("no store", cluster(|c| c.own = None), "wait NoStore"),
            ("not begun", cluster(|c| c.cluster_id = None), "wait NotBegun"),
            ("nobody leads", cluster(|c| c.leader = None), "wait NoLeader"),
            ("first where it is", edited(|o| o.undo = Undo::Missing), "pin"),
            ("which takes a while", edited(|o| o.undo = running()), "start orders-0"),
            ("or cannot be", edited(|o| o.undo = Undo::Failed("no".into())), "fail PinFailed"),
            ("somebody else's", edited(|o| o.undo = Undo::Foreign), "wait NameConflict"),
            ("then the leader", ready(), "start orders-0"),
            ("asked just now", asked(1, true), "await word"),
            ("asked, and it did not happen", asked(40, true), "start orders-1"),
            ("asked, and a member is not heard", asked(599, false), "await word"),
            ("asked, and a member is not heard for long", asked(600, false), "fail OutcomeUnknown"),
            ("under way", job(JobState::Running), "follow 30"),
            ("done", job(JobState::Succeeded), "succeed"),
            ("done, and who did it is not heard", told_by_state(599), "follow 100"),
            ("done, and who did it is not heard for long", told_by_state(600), "succeed"),
            ("done, and the object does not say so yet", with(JobState::Succeeded, running()), "follow 100"),
            ("done, and somebody deleted the object", with(JobState::Succeeded, Undo::Missing), "succeed"),
            // The leader may have found it in the store all the same: it says how it ends.
            (
                "under way, and the backup failed",
                with(JobState::Running, Undo::Failed("no".into())),
                "follow 30",
            ),
            ("failed", job(JobState::Failed), "fail RestoreFailed"),
            ("failed for want of it", with(JobState::Failed, Undo::Failed("no".into())), "fail PinFailed"),
            (
                "over",
                edited(|o| o.object.status.completion_time = Some(Time(Timestamp::UNIX_EPOCH))),
                "nothing",
            ),
        ] {
            assert_eq!(told(&observed), wanted, "{what}");
        }
    }

    #[test]
    fn the_leader_is_asked_with_the_clusters_own_id_as_a_confirmation() {
        let Step::Start { body, .. } = plan(&ready()) else { panic!("not asked") };
        assert_eq!(body.confirm_cluster_id.as_deref(), Some("c1"));
        assert_eq!(body.target, RestoreTarget::Backup("p".into()));
        assert_eq!((body.source, body.name.as_str()), (RestoreSource::Own, "restore-u"));
        // By its name in the store, which is not the object's.
        assert_eq!(body.undo.as_deref(), Some("back-undo-1"));
    }
}
