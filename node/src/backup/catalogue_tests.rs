#![allow(clippy::unwrap_used)]
use super::super::manifest::Parts;
use super::*;
use client::backup::Backup;

/// One that was never made.
pub fn backup(kind: BackupKind, path: String, (epoch, index): (u64, u64), time: String) -> Backup {
    Backup {
        name: "n".into(),
        kind,
        path,
        cluster_id: "c".into(),
        epoch,
        index,
        term: 1,
        time,
        size_bytes: 0,
        stored_bytes: 0,
        sha256: String::new(),
        page_checksum: None,
        sqlite_version: String::new(),
        member: String::new(),
        encrypted: false,
    }
}

pub fn base(epoch: u64, index: u64, kind: BackupKind) -> Manifest {
    let backup = backup(kind, format!("{epoch}-{index}"), (epoch, index), time_text(index as i64));
    // The clock of entry n is n seconds.
    Manifest::new(backup, index as i64 * 1_000_000, false, Parts::default())
}

pub fn segment(epoch: u64, first: u64, last: u64) -> SegmentName {
    SegmentName { epoch, first, last, time_us: last as i64 * 1_000_000, of: None, stored_bytes: 0 }
}

pub fn contents(bases: &[(u64, u64)], segments: &[(u64, u64, u64)]) -> Contents {
    let mut contents = Contents {
        damaged: Vec::new(),
        until: BTreeMap::new(),
        manifests: bases.iter().map(|(epoch, index)| base(*epoch, *index, BackupKind::Base)).collect(),
        segments: segments.iter().map(|&(epoch, first, last)| segment(epoch, first, last)).collect(),
    };
    contents.segments.sort();
    contents
}

fn index(n: u64) -> RestoreTarget {
    RestoreTarget::Index(n)
}

fn second(n: i64) -> RestoreTarget {
    RestoreTarget::Time(time_text(n * 1_000_000))
}

#[test]
fn what_brings_back_which_moment() {
    let latest = RestoreTarget::Latest {};
    let hole = |from, to| NotReachable::Hole { from, to, last: from - 1 };
    let whole: &[(u64, u64, u64)] = &[(1, 5, 10), (1, 11, 20), (1, 18, 30), (1, 31, 40)];
    let holed: &[(u64, u64, u64)] = &[(1, 5, 10), (1, 21, 30), (1, 31, 40)];
    let over: &[(u64, u64, u64)] = &[(1, 1, 10), (1, 1, 40), (1, 11, 20)];
    let two_epochs: &[(u64, u64, u64)] = &[(1, 1, 40), (2, 31, 35)];
    // (bases, segments, target) → (index of the base, first entries of the segments), or why not.
    type Row<'a> =
        (&'a [(u64, u64)], &'a [(u64, u64, u64)], RestoreTarget, Result<(u64, Vec<u64>), NotReachable>);
    let table: Vec<Row<'_>> = vec![
        (&[], whole, latest.clone(), Err(NotReachable::NoBackup)),
        (&[(1, 5)], &[], latest.clone(), Ok((5, vec![]))),
        (&[(1, 5)], whole, latest.clone(), Ok((5, vec![5, 11, 18, 31]))),
        (&[(1, 5), (1, 19)], whole, latest.clone(), Ok((19, vec![11, 18, 31]))),
        (&[(1, 5), (1, 19)], whole, index(12), Ok((5, vec![5, 11]))),
        (&[(1, 5), (1, 19)], whole, index(19), Ok((19, vec![]))),
        (&[(1, 5)], whole, index(40), Ok((5, vec![5, 11, 18, 31]))),
        (&[(1, 5)], whole, index(41), Err(NotReachable::TooLate { last: 40, wanted: 41 })),
        (&[(1, 5)], whole, index(4), Err(NotReachable::TooEarly { index: 5, time: time_text(5_000_000) })),
        (&[(1, 5)], holed, index(10), Ok((5, vec![5]))),
        (&[(1, 5)], holed, index(15), Err(hole(11, 20))),
        (&[(1, 5)], holed, latest.clone(), Err(hole(11, 20))),
        (&[(1, 5), (1, 22)], holed, latest.clone(), Ok((22, vec![21, 31]))),
        (&[(1, 5), (1, 22)], holed, index(33), Ok((22, vec![21, 31]))),
        (&[(1, 0)], over, latest.clone(), Ok((0, vec![1, 1]))),
        // The segment in which the time is passed holds where to stop.
        (&[(1, 5)], whole, second(12), Ok((5, vec![5, 11]))),
        (&[(1, 5)], whole, second(99), Ok((5, vec![5, 11, 18, 31]))),
        (&[(1, 5)], whole, second(4), Err(NotReachable::TooEarly { index: 5, time: time_text(5_000_000) })),
        (&[(1, 5)], holed, second(9), Ok((5, vec![5]))),
        (&[(1, 5)], holed, second(10), Err(hole(11, 20))),
        // After the loss of a quorum another future begins; the old one stays reachable by index.
        (&[(1, 0), (2, 30)], two_epochs, latest, Ok((30, vec![31]))),
        (&[(1, 0), (2, 30)], two_epochs, index(29), Ok((0, vec![1]))),
        (&[(1, 0), (2, 30)], two_epochs, index(33), Ok((30, vec![31]))),
    ];
    for (bases, segments, target, wanted) in table {
        let found = contents(bases, segments).choose(&target).map(|choice| {
            let firsts = choice.segments.iter().map(|segment| segment.first).collect();
            (choice.manifest.backup.index, firsts)
        });
        assert_eq!(found, wanted, "{bases:?} {segments:?} {target:?}");
    }
    let found = contents(&[(1, 5)], whole).choose(&RestoreTarget::Backup("1-5".into())).unwrap();
    assert_eq!((found.until, found.segments.len()), (Until::Index(5), 0));
    let after = |segments| contents(&[(1, 5), (1, 22)], segments).choose_all_after("1-5").unwrap();
    assert_eq!((after(whole).until, after(whole).segments.len()), (Until::End, 4));
    assert_eq!(after(holed).segments.len(), 1, "up to the hole");
    assert!(after(whole).reads(&segment(1, 18, 30).object()) && after(whole).reads("backups/1-5/00000"));
    assert!(!after(holed).reads(&segment(1, 21, 30).object()) && !after(holed).reads("backups/1-55/00000"));
    let missing = RestoreTarget::Backup("1-6".into());
    assert_eq!(contents(&[(1, 5)], whole).choose(&missing), Err(NotReachable::NoSuchBackup("1-6".into())));
}

#[test]
fn windows_are_what_can_be_reached_without_a_hole() {
    let windows = |bases, segments| -> Vec<(u64, u64)> {
        let found = contents(bases, segments).windows();
        found.iter().map(|window| (window.first_index, window.last_index)).collect()
    };
    let holed: &[(u64, u64, u64)] = &[(1, 5, 10), (1, 21, 30), (1, 31, 40)];
    assert_eq!(windows(&[(1, 4), (1, 8), (1, 22)], holed), [(4, 10), (22, 40)]);
    assert_eq!(windows(&[(1, 12)], holed), [(12, 12)]);
    let all = contents(&[(1, 4), (1, 8), (1, 22)], holed);
    assert_eq!(all.first_base(1, 40).unwrap().backup.index, 22);
    assert_eq!(all.first_base(1, 10).unwrap().backup.index, 4);
    assert!(all.first_base(2, 10).is_none());
    assert_eq!(all.last_archived(1), Some(40));
    for (next, from) in [(41, 21), (35, 21), (21, 21), (20, 20), (15, 15), (11, 5), (3, 3), (50, 50)] {
        assert_eq!(all.unbroken_from(1, next), from, "before {next}");
    }
    let lacks = |next| all.hole_before(1, next).map(|hole| (hole.message, hole.reached_us));
    assert_eq!(lacks(41), None);
    assert_eq!(lacks(11), None);
    let missing = |to| Some((format!("entries 11 to {to} are missing in the archive"), 10_000_000));
    assert_eq!(
        (lacks(21), lacks(15)),
        (missing(20), missing(14)),
        "the base after the hole is not there yet"
    );
    assert_eq!(lacks(3), None);
    // Leaders that overlap.
    let over = contents(&[], &[(1, 1, 10), (1, 1, 40), (1, 11, 20), (1, 38, 45), (2, 46, 50)]);
    assert_eq!((over.unbroken_from(1, 46), over.unbroken_from(2, 51)), (1, 46));
}

#[test]
fn what_a_damaged_backup_takes_away_and_what_not() {
    let segments: &[(u64, u64, u64)] = &[(1, 1, 10), (1, 11, 20)];
    let damaged = |index| super::super::full::path_of(1, index, "n");
    let with = |bases: &[(u64, u64)], index| {
        let mut all = contents(bases, segments);
        all.damaged.push(DamagedBackup { path: damaged(index), message: "torn".into() });
        all
    };
    let newer = |last| NotReachable::NewerDamaged { path: damaged(30), message: "torn".into(), last };
    let itself = |index| NotReachable::Damaged { path: damaged(index), message: "torn".into() };
    let latest = RestoreTarget::Latest {};
    // (sound backups, entry of the damaged one, target) → base, or why not.
    type Row<'a> = (&'a [(u64, u64)], u64, RestoreTarget, Result<u64, NotReachable>);
    let table: Vec<Row<'_>> = vec![
        (&[(1, 0)], 15, latest.clone(), Ok(0)),
        (&[(1, 0)], 20, latest.clone(), Ok(0)),
        (&[(1, 0)], 30, latest.clone(), Err(newer(20))),
        (&[(1, 0)], 30, index(20), Ok(0)),
        (&[(1, 0)], 30, index(30), Err(newer(20))),
        (&[(1, 0)], 30, second(12), Ok(0)),
        (&[(1, 0)], 30, second(99), Err(newer(20))),
        (&[(1, 0), (2, 31)], 30, latest.clone(), Ok(31)),
        (&[], 15, latest, Err(itself(15))),
        (&[(1, 0)], 15, RestoreTarget::Backup(damaged(15)), Err(itself(15))),
    ];
    for (bases, broken, target, wanted) in table {
        let found = with(bases, broken).choose(&target).map(|choice| choice.manifest.backup.index);
        assert_eq!(found, wanted, "{bases:?} {broken} {target:?}");
    }
}

#[test]
fn what_only_the_archive_has_of_an_epoch_is_brought_back() {
    // The survivor had entries up to 150; the archive of the epoch before has 200. The next epoch began at second 300.
    let mut contents = contents(&[(1, 100), (2, 151)], &[(1, 101, 150), (1, 151, 200), (2, 152, 160)]);
    contents.manifests[1].backup.time = time_text(300_000_000);
    let chosen = |target: &RestoreTarget| {
        let choice = contents.choose(target).unwrap();
        let last = choice.segments.last().map(|segment| segment.last);
        (choice.manifest.backup.epoch, last)
    };
    for (target, expected) in [
        (index(155), (2, Some(160))),
        (index(175), (1, Some(200))),
        (index(120), (1, Some(150))),
        (second(175), (1, Some(200))),
        (second(250), (1, Some(200))),
        (second(310), (2, Some(160))),
        (RestoreTarget::Latest {}, (2, Some(160))),
    ] {
        assert_eq!(chosen(&target), expected, "{target:?}");
    }
}

#[test]
fn a_time_of_which_the_archive_knows_nothing_is_told_and_never_taken_for_a_quiet_one() {
    let whole: &[(u64, u64, u64)] = &[(1, 5, 10), (1, 11, 20)];
    let until = |index, second: i64| Some(ArchivedUntil { index, time_us: second * 1_000_000 });
    let not_yet = |until: i64, wanted: i64| {
        let text = |second| time_text(second * 1_000_000);
        Err(NotReachable::NotYet { until: text(until), wanted: text(wanted) })
    };
    // (what is said of the archive, the time) → the last entry and whether it is warned of, or why not.
    for (said, time, wanted) in [
        (None, 20, Ok((20, false))),
        (None, 21, Ok((20, true))),
        (until(20, 30), 15, Ok((20, false))),
        (until(20, 30), 30, Ok((20, false))),
        (until(20, 30), 31, not_yet(30, 31)),
        // It was said before the last entries came, or a clock is behind.
        (until(15, 17), 20, Ok((20, false))),
        (until(15, 17), 21, not_yet(20, 21)),
        (until(15, 25), 25, Ok((20, false))),
        // It was said of more entries than are there.
        (until(21, 30), 25, not_yet(20, 25)),
    ] {
        let mut all = contents(&[(1, 5)], whole);
        all.until.extend(said.map(|said| (1, said)));
        let found = all
            .choose(&second(time))
            .map(|choice| (choice.segments.last().unwrap().last, choice.warning.is_some()));
        assert_eq!(found, wanted, "{said:?}, second {time}");
        assert_eq!(
            all.choose(&RestoreTarget::Latest {}).unwrap().segments.len(),
            2,
            "latest goes on to work"
        );
    }
    // Without an archive a backup knows what was up to its making, and says what comes back after that.
    let mut alone = contents(&[(1, 5)], &[]);
    alone.manifests[0].backup.time = time_text(8_000_000);
    let warned = |time| alone.choose(&second(time)).unwrap().warning.is_some();
    assert_eq!((warned(8), warned(9)), (false, true));
}

/// Entries that are kept with a backup reach on from it alone.
#[test]
fn what_is_kept_with_a_backup_is_its_own() {
    let kept =
        |backup: u64, first, last| SegmentName { of: Some(format!("1-{backup}")), ..segment(1, first, last) };
    let mut all = contents(&[(1, 5), (1, 30)], &[]);
    all.manifests.insert(1, base(1, 20, BackupKind::Pin));
    all.segments = vec![kept(20, 21, 24), kept(20, 21, 25), kept(30, 31, 33)];
    let chosen = |target: RestoreTarget| {
        all.choose(&target).map(|choice| {
            let lasts: Vec<u64> = choice.segments.iter().map(|segment| segment.last).collect();
            (choice.manifest.backup.index, lasts)
        })
    };
    assert_eq!(chosen(index(25)), Ok((20, vec![24, 25])));
    assert_eq!(chosen(index(20)), Ok((20, vec![])));
    assert_eq!(chosen(index(26)), Err(NotReachable::TooLate { last: 25, wanted: 26 }));
    assert_eq!(chosen(RestoreTarget::Latest {}), Ok((30, vec![33])));
    // They are no archive: what is between two backups is no hole in one.
    assert_eq!(chosen(second(10)), Ok((5, vec![])));
    assert_eq!(chosen(second(24)), Ok((20, vec![24, 25])));
    assert_eq!(all.last_archived(1), None);
    assert_eq!(all.reach(&all.manifests[1].backup), 25);
}
