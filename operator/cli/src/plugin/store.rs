//! What a cluster has in its store, and what a restore would take of it. Pure.

use super::backups::Moment;
use anyhow::{Context, Result, bail};
use client::backup::{Backup, Catalogue, Window};
use jiff::Timestamp;
use std::fmt::Write;

/// Backups and the moments that can be restored, one a line, oldest first.
pub fn list(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "{:<52} {:<5} {:<21} {:>12} ENCRYPTED", "PATH", "KIND", "TIME", "BYTES");
    for Backup { path, kind, time, size_bytes, encrypted, .. } in &catalogue.backups {
        let kind = format!("{kind:?}");
        // Without what is after the seconds.
        let time = time.parse::<Timestamp>().map_or(time.clone(), |time| format!("{time:.0}"));
        let encrypted = if *encrypted { "yes" } else { "no" };
        let _ = writeln!(text, "{path:<52} {kind:<5} {time:<21} {size_bytes:>12} {encrypted}");
    }
    for damaged in &catalogue.damaged {
        let _ = writeln!(text, "{} is damaged: {}", damaged.path, damaged.message);
    }
    for Window { first_index, last_index, earliest, latest, .. } in &catalogue.windows {
        let _ = writeln!(
            text,
            "any moment from {earliest} (entry {first_index}) to {latest} (entry {last_index}) can be restored"
        );
    }
    text
}

/// From what a moment would be brought back, in words; an error says why nothing does.
pub fn foretold(catalogue: &Catalogue, moment: &Moment) -> Result<String> {
    let windows = catalogue.windows.iter().rev();
    match moment {
        Moment::Latest => {
            let newest =
                catalogue.backups.last().context("the store has no complete backup of this cluster")?;
            let reached = windows.map(|window| (window.epoch, window.last_index, &window.latest)).max();
            let reached =
                reached.filter(|(epoch, index, _)| (*epoch, *index) >= (newest.epoch, newest.index));
            let (_, index, time) = reached.unwrap_or((newest.epoch, newest.index, &newest.time));
            Ok(format!("it would begin with {} and end with entry {index}, of {time}", newest.path))
        }
        Moment::Index(wanted) => {
            let wanted = u64::try_from(*wanted)?;
            let has = |window: &&Window| window.first_index <= wanted && wanted <= window.last_index;
            let whole = |backup: &&Backup| backup.index == wanted;
            match (windows.into_iter().find(has), catalogue.backups.iter().rfind(whole)) {
                (_, Some(backup)) => Ok(format!("it would be what {} holds", backup.path)),
                (Some(window), None) => {
                    Ok(before(catalogue, |b| b.epoch == window.epoch && b.index <= wanted))
                }
                (None, None) => {
                    bail!("nothing in the store brings back entry {wanted}: see backup list --in-store")
                }
            }
        }
        Moment::Time(text) => {
            let time: Timestamp = text.parse()?;
            let at = |text: &str| text.parse::<Timestamp>();
            let mut found = None;
            for window in windows {
                if at(&window.earliest)? <= time {
                    found = Some(window);
                    break;
                }
            }
            let window = found.with_context(|| format!("nothing in the store brings back {text}"))?;
            let told = before(catalogue, |b| {
                b.epoch == window.epoch && at(&b.time).is_ok_and(|begun| begun <= time)
            });
            Ok(if at(&window.latest)? < time {
                format!("{told}, to entry {}, the last one, of {}", window.last_index, window.latest)
            } else {
                told
            })
        }
        Moment::Backup(_) | Moment::After { .. } => bail!("that is a matter of its SqliteBackup"),
    }
}

fn before(catalogue: &Catalogue, is_early: impl Fn(&Backup) -> bool) -> String {
    let base = catalogue.backups.iter().rfind(|backup| is_early(backup));
    let base = base.map_or("a backup", |backup| backup.path.as_str());
    format!("it would begin with {base} and go on with the archive")
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::backup::BackupKind;
    use serde_json::json;

    fn catalogue() -> Catalogue {
        let backup = |kind: BackupKind, index: u64| {
            json!({
                "name": "n", "kind": kind, "path": format!("p{index}"), "clusterId": "c", "epoch": 1, "index": index,
                "term": 1, "time": format!("2026-01-01T00:00:{index:02}.123Z"), "sizeBytes": 4096, "storedBytes": 1,
                "sha256": "", "sqliteVersion": "3", "member": "m", "encrypted": index == 5,
            })
        };
        serde_json::from_value(json!({
            "backups": [backup(BackupKind::Full, 5), backup(BackupKind::Base, 20), backup(BackupKind::Full, 30)],
            "damaged": [{"path": "p9", "message": "cut short"}],
            "windows": [{
                "epoch": 1, "firstIndex": 20, "lastIndex": 40,
                "earliest": "2026-01-01T00:00:20Z", "latest": "2026-01-01T00:00:40Z",
            }],
        }))
        .expect("a catalogue")
    }

    #[test]
    fn what_is_there_one_a_line() {
        let text = list(&catalogue());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(
            lines[1].starts_with("p5 ") && lines[1].ends_with(" yes") && lines[1].contains("00:00:05Z "),
            "{text}"
        );
        assert!(lines[2].contains(" Base ") && lines[2].ends_with(" no"), "{text}");
        assert_eq!(lines[4], "p9 is damaged: cut short");
        assert!(lines[5].starts_with("any moment from 2026-01-01T00:00:20Z (entry 20) to "), "{text}");
    }

    #[test]
    fn from_what_a_moment_would_come() {
        let time = |second: u32| Moment::Time(format!("2026-01-01T00:00:{second:02}Z"));
        for (moment, wanted) in [
            (Moment::Latest, Some("it would begin with p30 and end with entry 40, of 2026-01-01T00:00:40Z")),
            (Moment::Index(5), Some("it would be what p5 holds")),
            (Moment::Index(25), Some("it would begin with p20 and go on with the archive")),
            (Moment::Index(35), Some("it would begin with p30 and go on with the archive")),
            (Moment::Index(15), None),
            (Moment::Index(41), None),
            (time(25), Some("it would begin with p20 and go on with the archive")),
            (
                time(50),
                Some(
                    "it would begin with p30 and go on with the archive, to entry 40, the last one, of 2026-01-01T00:00:40Z",
                ),
            ),
            (time(10), None),
        ] {
            assert_eq!(foretold(&catalogue(), &moment).ok().as_deref(), wanted, "{moment:?}");
        }
        assert!(foretold(&Catalogue::default(), &Moment::Latest).is_err());
    }
}
