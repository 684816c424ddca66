//! What a restore would take of a store, or why it would be refused. Pure: the decision of a member, by what its catalogue
//! tells. That both say the same is tested by the cases of `client/cases/restores.json`, here and at the member.

use anyhow::{Context, Result, bail};
use client::backup::{Archived, Backup, Catalogue, DamagedBackup, RestoreSource, RestoreTarget, Window};
use client::not_reachable::NotReachable;
use jiff::Timestamp;
use kube::ResourceExt;
use operator::cluster::restore::wire_target;
use operator::cluster::validate::restore_store;
use operator::crd::{SqliteBackup, SqliteCluster, SqliteRestore};
use operator::restore::plan::{store_not_known, way};

/// Which moment of what is in the store of a cluster's members a restore is for, and why they do not list that, where they do
/// not. An error says what the operator would refuse.
pub fn asked(
    cluster: &SqliteCluster,
    restore: &SqliteRestore,
    backup: Option<&SqliteBackup>,
) -> Result<(RestoreTarget, Option<&'static str>)> {
    let name = cluster.name_any();
    let source = &restore.spec.source;
    let status = backup.and_then(|backup| backup.status.as_ref());
    let path = status.and_then(|status| status.path.as_deref());
    if let (Some(reference), None) = (&source.backup_ref, path) {
        bail!("there is no SqliteBackup {} that is in the store", reference.name);
    }
    let own = cluster.spec.backup.as_ref().map(|backups| &backups.store);
    if own.is_none() {
        bail!(
            "{name} has no store of backups, so that where it is cannot be kept first: set its spec.backup"
        );
    }
    let target = wire_target(restore.spec.target.as_ref(), path);
    let other = restore_store(cluster).map(|access| access.store);
    let store = status.map_or(source.store.as_ref(), |status| status.store.as_ref());
    let reads = store.map(|store| way(own, other.as_ref(), store).with_context(|| store_not_known(&name)));
    if reads.transpose()? == Some(RestoreSource::Other) {
        return Ok((target, Some("it is in the store that the cluster began with, which no member lists")));
    }
    let id = status.map_or(source.cluster_id.as_ref(), |status| status.cluster_id.as_ref());
    let ours = cluster.status.as_ref().and_then(|status| status.cluster_id.as_ref());
    let is_foreign = id.is_some_and(|id| Some(id) != ours);
    Ok((target, is_foreign.then_some("it is of another cluster, whose backups no member lists")))
}

/// What a restore reads.
struct Reached<'a> {
    base: &'a Backup,
    /// The last entry; none: one before the end of what is archived.
    last: Option<u64>,
    /// Its time, if that is known.
    latest: Option<String>,
}

impl<'a> Reached<'a> {
    /// A moment within what is there.
    fn within(base: &'a Backup, last: Option<u64>) -> Self {
        Self { base, last, latest: None }
    }
}

/// From what a moment would be brought back, in words.
pub fn foretold(catalogue: &Catalogue, target: &RestoreTarget) -> Result<String, NotReachable> {
    let Reached { base, last, latest } = reached(catalogue, target)?;
    let (path, index) = (&base.path, base.index);
    Ok(match (target, last) {
        (RestoreTarget::Latest {}, last) => {
            let last = last.unwrap_or(index);
            let time = latest.as_ref().unwrap_or(&base.time);
            format!("it would begin with {path} and end with entry {last}, of {time}")
        }
        (_, Some(last)) if last == index => format!("it would be what {path} holds"),
        (RestoreTarget::Time(_), Some(last)) => {
            let time = latest.map(|time| format!(", of {time}"));
            format!(
                "it would begin with {path} and go on with the archive, to entry {last}, the last one{}",
                time.unwrap_or_default()
            )
        }
        _ => format!("it would begin with {path} and go on with the archive"),
    })
}

fn reached<'a>(catalogue: &'a Catalogue, target: &RestoreTarget) -> Result<Reached<'a>, NotReachable> {
    match target {
        RestoreTarget::Backup(path) => {
            if let Some(damaged) = catalogue.damaged.iter().find(|damaged| damaged.path == *path) {
                return Err(damaged.into());
            }
            let found = catalogue.backups.iter().find(|backup| backup.path == *path);
            let base = found.ok_or_else(|| NotReachable::NoSuchBackup(path.clone()))?;
            Ok(Reached::within(base, Some(base.index)))
        }
        RestoreTarget::Latest {} => {
            let base = catalogue.backups.last().ok_or_else(|| no_backup(catalogue))?;
            let chain = chain(catalogue, base);
            chain.check_hole()?;
            check_later(catalogue, base.epoch, chain.last)?;
            Ok(Reached { base, last: Some(chain.last), latest: chain.latest })
        }
        RestoreTarget::Index(wanted) => {
            let is_early = |backup: &Backup| backup.index <= *wanted;
            let reaches = |backup: &Backup| is_early(backup) && chain(catalogue, backup).last >= *wanted;
            let base = before(catalogue, reaches).or_else(|_| before(catalogue, is_early))?;
            let chain = chain(catalogue, base);
            if chain.last < *wanted {
                chain.check_hole()?;
                check_later(catalogue, base.epoch, chain.last)?;
                return Err(NotReachable::TooLate { last: chain.last, wanted: *wanted });
            }
            Ok(Reached::within(base, (base.index == *wanted).then_some(*wanted)))
        }
        RestoreTarget::Time(text) => {
            let time: Timestamp = text.parse().map_err(|_| NotReachable::NotATime(text.clone()))?;
            let first = catalogue.backups.first().map(|backup| backup.epoch);
            let is_until = |text: &str| text.parse::<Timestamp>().is_ok_and(|begun| begun <= time);
            let base = before(catalogue, |backup| {
                // Another epoch was not yet before its first backup was made.
                let had_begun = Some(backup.epoch) == first || is_until(&backup.time);
                had_begun && is_until(begun(catalogue, backup))
            })?;
            let chain = chain(catalogue, base);
            if chain.latest.as_ref().is_some_and(|latest| !is_until(latest)) {
                return Ok(Reached::within(base, None));
            }
            chain.check_hole()?;
            check_later(catalogue, base.epoch, chain.last)?;
            check_known(catalogue, base, &chain, time)?;
            Ok(Reached { base, last: Some(chain.last), latest: chain.latest })
        }
    }
}

/// Entries that go on without a hole after a backup.
struct Chain {
    /// Last entry.
    last: u64,
    /// Its time, if that is told; none, where it is the backup's own.
    latest: Option<String>,
    /// First entry after the hole that ends it, if more comes.
    resumes: Option<u64>,
}

impl Chain {
    fn check_hole(&self) -> Result<(), NotReachable> {
        self.resumes.map_or(Ok(()), |resumes| Err(NotReachable::hole(self.last, resumes)))
    }
}

/// Of the archive and of what is kept with the backup itself.
fn chain(catalogue: &Catalogue, base: &Backup) -> Chain {
    let mut chain = Chain { last: base.index, latest: None, resumes: None };
    let is_next = |range: &&Archived| {
        range.epoch == base.epoch
            && range.last_index > base.index
            && range.of.as_ref().is_none_or(|of| *of == base.path)
    };
    for range in archived(catalogue).iter().filter(is_next) {
        if range.first_index > chain.last + 1 {
            chain.resumes = Some(range.first_index);
            break;
        }
        if range.last_index > chain.last {
            (chain.last, chain.latest) = (range.last_index, range.latest.clone());
        }
    }
    chain
}

/// What is archived; as far as windows tell of it, where the member is one of before.
fn archived(catalogue: &Catalogue) -> Vec<Archived> {
    if !catalogue.archived.is_empty() {
        return catalogue.archived.clone();
    }
    let has_entries = catalogue.windows.iter().filter(|window| window.last_index > window.first_index);
    let range = |window: &Window| Archived {
        epoch: window.epoch,
        first_index: window.first_index + 1,
        last_index: window.last_index,
        latest: Some(window.latest.clone()),
        of: None,
    };
    has_entries.map(range).collect()
}

/// The time of a backup's last entry, where it is told, else that at which it was made.
fn begun<'a>(catalogue: &'a Catalogue, base: &'a Backup) -> &'a str {
    let window = catalogue
        .windows
        .iter()
        .find(|window| window.epoch == base.epoch && window.first_index == base.index);
    window.map_or(&base.time, |window| &window.earliest)
}

fn before(catalogue: &Catalogue, is_early: impl Fn(&Backup) -> bool) -> Result<&Backup, NotReachable> {
    let first = catalogue.backups.first().ok_or_else(|| no_backup(catalogue))?;
    catalogue.backups.iter().rfind(|backup| is_early(backup)).ok_or_else(|| NotReachable::TooEarly {
        index: first.index,
        time: begun(catalogue, first).to_owned(),
    })
}

/// That no backup which cannot be read is of a later entry than the last one that is reached.
fn check_later(catalogue: &Catalogue, epoch: u64, last: u64) -> Result<(), NotReachable> {
    // A path begins with epoch and entry.
    let position = |path: &str| {
        let mut parts = path.splitn(3, '-').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let is_later = |damaged: &&DamagedBackup| position(&damaged.path) > Some((epoch, last));
    match catalogue.damaged.iter().rfind(is_later) {
        Some(DamagedBackup { path, message }) => {
            Err(NotReachable::NewerDamaged { path: path.clone(), message: message.clone(), last })
        }
        None => Ok(()),
    }
}

/// That nothing was written between the end of a chain and `time`, as far as the archive knows.
fn check_known(
    catalogue: &Catalogue,
    base: &Backup,
    chain: &Chain,
    time: Timestamp,
) -> Result<(), NotReachable> {
    let Some(known) = catalogue.known.iter().find(|known| known.epoch == base.epoch) else { return Ok(()) };
    let last = chain.latest.as_deref().map_or([begun(catalogue, base), &base.time], |latest| [latest; 2]);
    // What is known holds of an archive that goes on that far.
    let known = (known.index <= chain.last).then_some(known.time.as_str());
    let until: Option<Timestamp> = last.into_iter().chain(known).filter_map(|text| text.parse().ok()).max();
    match until {
        Some(until) if until < time => {
            Err(NotReachable::NotYet { until: until.to_string(), wanted: time.to_string() })
        }
        _ => Ok(()),
    }
}

fn no_backup(catalogue: &Catalogue) -> NotReachable {
    catalogue.damaged.last().map_or(NotReachable::NoBackup, NotReachable::from)
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::catalogue;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn from_what_a_moment_would_come() {
        let time = |second: u32| RestoreTarget::Time(format!("2026-01-01T00:00:{second:02}Z"));
        for (target, wanted) in [
            (
                RestoreTarget::Latest {},
                Some("it would begin with p30 and end with entry 40, of 2026-01-01T00:00:40Z"),
            ),
            (RestoreTarget::Index(5), Some("it would be what p5 holds")),
            (RestoreTarget::Index(25), Some("it would begin with p20 and go on with the archive")),
            (RestoreTarget::Index(35), Some("it would begin with p30 and go on with the archive")),
            (RestoreTarget::Index(15), None),
            (RestoreTarget::Index(41), None),
            (time(25), Some("it would begin with p20 and go on with the archive")),
            (
                time(50),
                Some(
                    "it would begin with p30 and go on with the archive, to entry 40, the last one, of 2026-01-01T00:00:40Z",
                ),
            ),
            (time(10), None),
            (RestoreTarget::Backup("p20".into()), Some("it would be what p20 holds")),
            (RestoreTarget::Backup("p9".into()), None),
            (RestoreTarget::Backup("p6".into()), None),
        ] {
            assert_eq!(foretold(&catalogue(), &target).ok().as_deref(), wanted, "{target:?}");
        }
        assert!(foretold(&Catalogue::default(), &RestoreTarget::Latest {}).is_err());
    }

    /// Entry n is of second n.
    fn second(n: u64) -> String {
        Timestamp::from_second(n.try_into().expect("a time")).expect("a time").to_string()
    }

    fn path(epoch: u64, index: u64) -> String {
        format!("{epoch:08}-{index:020}-n")
    }

    fn numbers<const N: usize>(row: &Value) -> [u64; N] {
        let row: Vec<u64> = row.as_array().expect("a row").iter().filter_map(Value::as_u64).take(N).collect();
        row.try_into().expect("a whole row")
    }

    fn rows<'a>(store: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
        store[field].as_array().into_iter().flatten()
    }

    fn told(store: &Value) -> Catalogue {
        let backup = |row: &Value| {
            let [epoch, index] = numbers(row);
            json!({
                "name": "n", "kind": row[2], "path": path(epoch, index), "clusterId": "c", "epoch": epoch, "index": index,
                "term": 1, "time": second(index), "sizeBytes": 0, "storedBytes": 0, "sha256": "", "sqliteVersion": "",
                "member": "", "encrypted": false,
            })
        };
        let damaged = |row: &Value| {
            let [epoch, index] = numbers(row);
            json!({"path": path(epoch, index), "message": "torn"})
        };
        let window = |row: &Value| {
            let [epoch, first, last] = numbers(row);
            json!({"epoch": epoch, "firstIndex": first, "lastIndex": last,
                "earliest": second(first), "latest": second(last)})
        };
        let known = |row: &Value| {
            let [epoch, index, until] = numbers(row);
            json!({"epoch": epoch, "index": index, "time": second(until)})
        };
        let archived = |row: &Value| {
            let [epoch, first, last] = numbers(row);
            let of = row[3].as_u64().map(|index| path(epoch, index));
            json!({"epoch": epoch, "firstIndex": first, "lastIndex": last, "latest": second(last), "of": of})
        };
        serde_json::from_value(json!({
            "backups": rows(store, "backups").map(backup).collect::<Vec<_>>(),
            "damaged": rows(store, "damaged").map(damaged).collect::<Vec<_>>(),
            "windows": rows(store, "windows").map(window).collect::<Vec<_>>(),
            "archived": rows(store, "archived").map(archived).collect::<Vec<_>>(),
            "known": rows(store, "known").map(known).collect::<Vec<_>>(),
        }))
        .expect("a catalogue")
    }

    fn target(text: &str) -> RestoreTarget {
        let (kind, number) = text.split_once(' ').unwrap_or((text, "0"));
        let number = number.parse().expect("a number");
        match kind {
            "index" => RestoreTarget::Index(number),
            "second" => RestoreTarget::Time(second(number)),
            "backup" => RestoreTarget::Backup(path(1, number)),
            _ => RestoreTarget::Latest {},
        }
    }

    include!("../../../../client/cases/refusal.rs");

    fn outcome(catalogue: &Catalogue, target: &RestoreTarget) -> String {
        match reached(catalogue, target) {
            Ok(found) => format!("from {}", found.base.index),
            Err(refused) => refusal(&refused),
        }
    }

    #[test]
    fn what_the_member_would_refuse_is_foretold() {
        let stores: Vec<Value> =
            serde_json::from_str(include_str!("../../../../client/cases/restores.json")).expect("cases");
        for store in &stores {
            let told = told(store);
            for (asked, wanted) in store["cases"].as_object().expect("cases") {
                assert_eq!(outcome(&told, &target(asked)), *wanted, "{}: {asked}", store["what"]);
            }
        }
    }

    #[test]
    fn what_the_operator_would_refuse_is_foretold() {
        let cluster = |spec: Value| -> SqliteCluster {
            let mut whole = json!({"storage": {"size": "1Gi"}});
            if !spec.is_null() {
                whole["backup"] = spec;
            }
            serde_json::from_value(json!({
                "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
                "metadata": {"name": "orders", "namespace": "shop"},
                "spec": whole, "status": {"clusterID": "c1"},
            }))
            .expect("a cluster")
        };
        let backed_up = || cluster(json!({"store": {"s3": {"bucket": "b"}}}));
        let restore: SqliteRestore = serde_json::from_value(json!({
            "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteRestore", "metadata": {"name": "back"},
            "spec": {"clusterRef": {"name": "orders"}, "source": {"backupRef": {"name": "nightly"}}},
        }))
        .expect("a restore");
        let backup = |status: Value| -> SqliteBackup {
            serde_json::from_value(json!({
                "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteBackup", "metadata": {"name": "nightly"},
                "spec": {"clusterRef": {"name": "orders"}}, "status": status,
            }))
            .expect("a backup")
        };
        let status = |bucket: &str, id: &str| json!({"path": "p5", "store": {"s3": {"bucket": bucket}}, "clusterID": id});
        for (what, cluster, backup, wanted) in [
            ("in the store", backed_up(), backup(status("b", "c1")), Ok(true)),
            ("of another cluster", backed_up(), backup(status("b", "c2")), Ok(false)),
            ("in another store", backed_up(), backup(status("other", "c1")), Err("do not know that store")),
            ("not made yet", backed_up(), backup(json!({})), Err("no SqliteBackup nightly")),
            ("no store", cluster(Value::Null), backup(status("b", "c1")), Err("set its spec.backup")),
        ] {
            let found = asked(&cluster, &restore, Some(&backup)).map(|(target, unlisted)| {
                assert_eq!(target, RestoreTarget::Backup("p5".into()), "{what}");
                unlisted.is_none()
            });
            match (found, wanted) {
                (Ok(listed), Ok(wanted)) => assert_eq!(listed, wanted, "{what}"),
                (Err(error), Err(wanted)) => assert!(error.to_string().contains(wanted), "{what}: {error}"),
                (found, wanted) => panic!("{what}: {found:?}, not {wanted:?}"),
            }
        }
    }
}
