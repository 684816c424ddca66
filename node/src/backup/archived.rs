//! What is archived without holes, for those who ask what could be restored. They decide as [`Contents::choose`] does; that
//! both say the same is tested by the cases of `client/cases/restores.json`, here and where they decide.
//!
//! [`Contents::choose`]: super::catalogue::Contents::choose

use super::catalogue::time_text;
use super::segment::SegmentName;
use client::backup::Archived;

/// Ranges of entries without a hole, of sorted segments: of the archive, and of each backup that has some of its own.
pub fn archived(segments: &[SegmentName]) -> Vec<Archived> {
    let mut ranges: Vec<Archived> = Vec::new();
    for segment in segments {
        let goes_on = |range: &&mut Archived| {
            range.epoch == segment.epoch && range.of == segment.of && segment.first <= range.last_index + 1
        };
        match ranges.iter_mut().rev().find(goes_on) {
            Some(range) if segment.last <= range.last_index => {}
            Some(range) => {
                (range.last_index, range.latest) = (segment.last, Some(time_text(segment.time_us)));
            }
            None => ranges.push(Archived {
                epoch: segment.epoch,
                first_index: segment.first,
                last_index: segment.last,
                latest: Some(time_text(segment.time_us)),
                of: segment.of.clone(),
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::backup::catalogue::Contents;
    use crate::backup::catalogue::tests::backup;
    use crate::backup::full::path_of;
    use crate::backup::manifest::{Manifest, Parts};
    use crate::backup::ranges::Ranges;
    use crate::backup::until::ArchivedUntil;
    use client::backup::{DamagedBackup, RestoreTarget};
    use client::not_reachable::NotReachable;
    use serde_json::Value;

    /// Entry n is of second n.
    fn second(n: u64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(n.try_into().unwrap()).unwrap()
    }

    fn numbers<const N: usize>(row: &Value) -> [u64; N] {
        let row: Vec<u64> = row.as_array().unwrap().iter().filter_map(Value::as_u64).take(N).collect();
        row.try_into().unwrap()
    }

    fn rows<'a>(store: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
        store[field].as_array().into_iter().flatten()
    }

    fn manifest(row: &Value) -> Manifest {
        let [epoch, index] = numbers(row);
        let kind = serde_json::from_value(row[2].clone()).unwrap();
        let backup = backup(kind, path_of(epoch, index, "n"), (epoch, index), second(index).to_string());
        Manifest::new(backup, second(index).as_microsecond(), false, Parts::default())
    }

    fn contents(store: &Value) -> Contents {
        let segment = |row: &Value| {
            let [epoch, first, last] = numbers(row);
            let of = row[3].as_u64().map(|index| path_of(epoch, index, "n"));
            SegmentName { epoch, first, last, time_us: second(last).as_microsecond(), of, stored_bytes: 0 }
        };
        let damaged = |row: &Value| {
            let [epoch, index] = numbers(row);
            DamagedBackup { path: path_of(epoch, index, "n"), message: "torn".into() }
        };
        let known = |row: &Value| {
            let [epoch, index, until] = numbers(row);
            (epoch, ArchivedUntil { index, time_us: second(until).as_microsecond() })
        };
        let mut contents = Contents {
            manifests: rows(store, "backups").map(manifest).collect(),
            damaged: rows(store, "damaged").map(damaged).collect(),
            segments: rows(store, "segments").map(segment).collect(),
            until: rows(store, "known").map(known).collect(),
        };
        contents.segments.sort();
        contents
    }

    /// As it is read for who restores nothing.
    fn in_ranges(mut contents: Contents) -> Contents {
        let (own, archived) = contents.segments.into_iter().partition(|segment| segment.of.is_some());
        let archived: Vec<SegmentName> = archived;
        let mut ranges = Ranges::default();
        archived.iter().rev().for_each(|segment| ranges.add(segment));
        contents.segments = own;
        contents.segments.extend(ranges.into_segments());
        contents.segments.sort();
        contents
    }

    fn target(text: &str) -> RestoreTarget {
        let (kind, number) = text.split_once(' ').unwrap_or((text, "0"));
        let number = number.parse().unwrap();
        match kind {
            "index" => RestoreTarget::Index(number),
            "second" => RestoreTarget::Time(second(number).to_string()),
            "backup" => RestoreTarget::Backup(path_of(1, number, "n")),
            _ => RestoreTarget::Latest {},
        }
    }

    include!("../../../client/cases/refusal.rs");

    fn outcome(contents: &Contents, wanted: &RestoreTarget) -> String {
        match contents.choose(wanted) {
            Ok(choice) => format!("from {}", choice.manifest.backup.index),
            Err(refused) => refusal(&refused),
        }
    }

    #[test]
    fn what_is_told_of_a_store_decides_as_the_store_does() {
        let stores: Value =
            serde_json::from_str(include_str!("../../../client/cases/restores.json")).unwrap();
        for store in stores.as_array().unwrap() {
            let what = &store["what"];
            let contents = contents(store);
            let told = contents.catalogue();
            let of = |path: &String| super::super::full::position_of(path).unwrap().1;
            let archived: Vec<Value> = told
                .archived
                .iter()
                .map(|range| match &range.of {
                    None => serde_json::json!([range.epoch, range.first_index, range.last_index]),
                    Some(path) => {
                        serde_json::json!([range.epoch, range.first_index, range.last_index, of(path)])
                    }
                })
                .collect();
            assert_eq!(Value::from(archived), store["archived"], "{what}: what is archived");
            let windows: Vec<Value> = told
                .windows
                .iter()
                .map(|window| serde_json::json!([window.epoch, window.first_index, window.last_index]))
                .collect();
            assert_eq!(Value::from(windows), store["windows"], "{what}: windows");
            assert_eq!(in_ranges(contents.clone()).catalogue(), told, "{what}: without the segments");
            for (asked, wanted) in store["cases"].as_object().unwrap() {
                assert_eq!(outcome(&contents, &target(asked)), *wanted, "{what}: {asked}");
            }
        }
    }
}
