//! What a cluster has in its store. Pure.

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use client::backup::BackupKind;
    use serde_json::json;

    pub(crate) fn catalogue() -> Catalogue {
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
}
