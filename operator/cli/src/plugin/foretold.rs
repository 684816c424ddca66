//! What a restore would take of a store, or why it would be refused. Pure: the decision of a member, by what its catalogue
//! tells. That both say the same is tested by the cases of `client/cases/restores.json`, here and at the member.

use anyhow::{Context, Result, bail};
use client::backup::{Archived, Backup, Catalogue, DamagedBackup, RestoreSource, RestoreTarget, Window};
use jiff::Timestamp;
use kube::ResourceExt;
use operator::cluster::restore::wire_target;
use operator::cluster::validate::restore_store;
use operator::crd::{SqliteBackup, SqliteCluster, SqliteRestore};
use operator::restore::plan::{store_not_known, way};

/// Nothing in the store brings back that moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no complete backup.
    #[error("the store has no complete backup of this cluster")]
    NoBackup,
    /// The backup cannot be read.
    #[error("backup {path} is damaged: {message}")]
    Damaged {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// A later backup cannot be read: what would come back is not what was asked for.
    #[error(
        "backup {path} is damaged, and what is left does not reach it: {message}; the last moment that can be restored is \
         entry {last}"
    )]
    NewerDamaged {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
        /// Last entry that can be reached.
        last: u64,
    },
    /// There is none that is named so.
    #[error("the store has no complete backup {0}")]
    NoSuchBackup(String),
    /// The time cannot be read.
    #[error("{0}: not a time such as 2026-01-31T12:00:00Z")]
    NotATime(String),
    /// The first backup is later.
    #[error("the first backup is of entry {index}, {time}: nothing before that can be restored")]
    TooEarly {
        /// Its entry.
        index: u64,
        /// Its time.
        time: String,
    },
    /// Nothing reaches so far.
    #[error("nothing in the store brings back entry {wanted}: the last one before it is entry {last}")]
    TooLate {
        /// Last entry that can be reached.
        last: u64,
        /// The one that was asked for.
        wanted: u64,
    },
    /// Entries are missing.
    #[error(
        "the archive lacks entries {from} to {to}: what comes after them cannot be reached from the backup before; the \
         last moment before the hole is entry {last}"
    )]
    Hole {
        /// First missing entry.
        from: u64,
        /// Last missing entry.
        to: u64,
        /// Last entry that can be reached.
        last: u64,
    },
}

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
}

/// From what a moment would be brought back, in words.
pub fn foretold(catalogue: &Catalogue, target: &RestoreTarget) -> Result<String, Refused> {
    let Reached { base, last } = reached(catalogue, target)?;
    let (path, index) = (&base.path, base.index);
    Ok(match (target, last) {
        (RestoreTarget::Latest {}, last) => {
            let last = last.unwrap_or(index);
            let time = end(catalogue, base, last).map_or(&base.time, |window| &window.latest);
            format!("it would begin with {path} and end with entry {last}, of {time}")
        }
        (_, Some(last)) if last == index => format!("it would be what {path} holds"),
        (RestoreTarget::Time(_), Some(last)) => {
            let time = end(catalogue, base, last).map(|window| format!(", of {}", window.latest));
            format!(
                "it would begin with {path} and go on with the archive, to entry {last}, the last one{}",
                time.unwrap_or_default()
            )
        }
        _ => format!("it would begin with {path} and go on with the archive"),
    })
}

fn reached<'a>(catalogue: &'a Catalogue, target: &RestoreTarget) -> Result<Reached<'a>, Refused> {
    match target {
        RestoreTarget::Backup(path) => {
            if let Some(damaged) = catalogue.damaged.iter().find(|damaged| damaged.path == *path) {
                return Err(damaged_one(damaged));
            }
            let found = catalogue.backups.iter().find(|backup| backup.path == *path);
            let base = found.ok_or_else(|| Refused::NoSuchBackup(path.clone()))?;
            Ok(Reached { base, last: Some(base.index) })
        }
        RestoreTarget::Latest {} => {
            let base = catalogue.backups.last().ok_or_else(|| no_backup(catalogue))?;
            let chain = chain(catalogue, base);
            chain.check_hole()?;
            check_later(catalogue, base.epoch, chain.last)?;
            Ok(Reached { base, last: Some(chain.last) })
        }
        RestoreTarget::Index(wanted) => {
            let is_early = |backup: &Backup| backup.index <= *wanted;
            let reaches = |backup: &Backup| is_early(backup) && chain(catalogue, backup).last >= *wanted;
            let base = before(catalogue, reaches).or_else(|_| before(catalogue, is_early))?;
            let chain = chain(catalogue, base);
            if chain.last < *wanted {
                chain.check_hole()?;
                check_later(catalogue, base.epoch, chain.last)?;
                return Err(Refused::TooLate { last: chain.last, wanted: *wanted });
            }
            Ok(Reached { base, last: (base.index == *wanted).then_some(*wanted) })
        }
        RestoreTarget::Time(text) => {
            let time: Timestamp = text.parse().map_err(|_| Refused::NotATime(text.clone()))?;
            let first = catalogue.backups.first().map(|backup| backup.epoch);
            let is_until = |text: &str| text.parse::<Timestamp>().is_ok_and(|begun| begun <= time);
            let base = before(catalogue, |backup| {
                // Another epoch was not yet before its first backup was made.
                let had_begun = Some(backup.epoch) == first || is_until(&backup.time);
                had_begun && is_until(begun(catalogue, backup))
            })?;
            let chain = chain(catalogue, base);
            let window = end(catalogue, base, chain.last).filter(|_| chain.last > base.index);
            if window.is_some_and(|window| !is_until(&window.latest)) {
                return Ok(Reached { base, last: None });
            }
            chain.check_hole()?;
            check_later(catalogue, base.epoch, chain.last)?;
            Ok(Reached { base, last: Some(chain.last) })
        }
    }
}

/// Entries that go on without a hole after a backup.
struct Chain {
    /// Last entry.
    last: u64,
    /// First entry after the hole that ends it, if more comes.
    resumes: Option<u64>,
}

impl Chain {
    fn check_hole(&self) -> Result<(), Refused> {
        let hole = |resumes| Refused::Hole { from: self.last + 1, to: resumes - 1, last: self.last };
        self.resumes.map_or(Ok(()), |resumes| Err(hole(resumes)))
    }
}

/// Of the archive and of what is kept with the backup itself.
fn chain(catalogue: &Catalogue, base: &Backup) -> Chain {
    let mut chain = Chain { last: base.index, resumes: None };
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
        chain.last = chain.last.max(range.last_index);
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
        of: None,
    };
    has_entries.map(range).collect()
}

/// The window in which a backup is, if it ends with that entry.
fn end<'a>(catalogue: &'a Catalogue, base: &Backup, last: u64) -> Option<&'a Window> {
    catalogue.windows.iter().find(|window| {
        window.epoch == base.epoch && window.first_index <= base.index && window.last_index == last
    })
}

/// The time of a backup's last entry, where it is told, else that at which it was made.
fn begun<'a>(catalogue: &'a Catalogue, base: &'a Backup) -> &'a str {
    let window = catalogue
        .windows
        .iter()
        .find(|window| window.epoch == base.epoch && window.first_index == base.index);
    window.map_or(&base.time, |window| &window.earliest)
}

fn before(catalogue: &Catalogue, is_early: impl Fn(&Backup) -> bool) -> Result<&Backup, Refused> {
    let first = catalogue.backups.first().ok_or_else(|| no_backup(catalogue))?;
    catalogue
        .backups
        .iter()
        .rfind(|backup| is_early(backup))
        .ok_or_else(|| Refused::TooEarly { index: first.index, time: begun(catalogue, first).to_owned() })
}

/// That no backup which cannot be read is of a later entry than the last one that is reached.
fn check_later(catalogue: &Catalogue, epoch: u64, last: u64) -> Result<(), Refused> {
    // A path begins with epoch and entry.
    let position = |path: &str| {
        let mut parts = path.splitn(3, '-').map(|part| part.parse::<u64>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let is_later = |damaged: &&DamagedBackup| position(&damaged.path) > Some((epoch, last));
    match catalogue.damaged.iter().rfind(is_later) {
        Some(DamagedBackup { path, message }) => {
            Err(Refused::NewerDamaged { path: path.clone(), message: message.clone(), last })
        }
        None => Ok(()),
    }
}

fn no_backup(catalogue: &Catalogue) -> Refused {
    catalogue.damaged.last().map_or(Refused::NoBackup, damaged_one)
}

fn damaged_one(DamagedBackup { path, message }: &DamagedBackup) -> Refused {
    Refused::Damaged { path: path.clone(), message: message.clone() }
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
        let archived = |row: &Value| {
            let [epoch, first, last] = numbers(row);
            let of = row[3].as_u64().map(|index| path(epoch, index));
            json!({"epoch": epoch, "firstIndex": first, "lastIndex": last, "of": of})
        };
        serde_json::from_value(json!({
            "backups": rows(store, "backups").map(backup).collect::<Vec<_>>(),
            "damaged": rows(store, "damaged").map(damaged).collect::<Vec<_>>(),
            "windows": rows(store, "windows").map(window).collect::<Vec<_>>(),
            "archived": rows(store, "archived").map(archived).collect::<Vec<_>>(),
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

    fn outcome(catalogue: &Catalogue, target: &RestoreTarget) -> String {
        match reached(catalogue, target) {
            Ok(found) => format!("from {}", found.base.index),
            Err(Refused::NoBackup) => "no backup".into(),
            Err(Refused::Damaged { .. }) => "damaged".into(),
            Err(Refused::NewerDamaged { last, .. }) => format!("newer damaged, last {last}"),
            Err(Refused::NoSuchBackup(_)) => "no such backup".into(),
            Err(Refused::NotATime(_)) => "not a time".into(),
            Err(Refused::TooEarly { index, .. }) => format!("too early, first {index}"),
            Err(Refused::TooLate { last, .. }) => format!("too late, last {last}"),
            Err(Refused::Hole { from, to, .. }) => format!("hole {from} to {to}"),
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
