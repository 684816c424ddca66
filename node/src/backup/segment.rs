//! A piece of the archive: entries of the log in order, and checksums of the states after some of them.
//!
//! ```text
//! name    = log/<epoch>/<first index>-<last index>-<time of the last entry, µs since 1970>, or
//!           backups/<path>/log/<the same>, of entries that are kept with one backup ([`super::undo`])
//! segment = version u8 (1) · cluster id: length u8 · text · epoch u64 · foreign keys u8 · first u64 · last u64 ·
//!           entry × (last - first + 1) · count u32 · checksum × count
//! entry   = term u64 · leader u64 · kind u8 · length u32 · bytes   (0 blank · 1 command · 2 membership)
//! checksum = index u64 · sum u64
//! ```
//! Little endian, then sealed ([`super::seal`]). Only committed entries are archived: two leaders that archive the same
//! entries say the same of them, so overlaps do no harm.

use crate::identity::ClusterIdentity;
use crate::store::{Checksum, Entry, LogId, Payload, Store};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const VERSION: u8 = 1;
/// Bytes that a segment holds at most, before it is compressed, but for its last entry.
pub const BYTES: usize = 8 << 20;
/// The largest segment that is read.
pub const LARGEST: usize = 256 << 20;
/// Checksums in a segment.
const CHECKSUMS: usize = 64;

/// What a segment's name says, and a list of names beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// The cluster's epoch.
    pub epoch: u64,
    /// First entry.
    pub first: u64,
    /// Last entry.
    pub last: u64,
    /// Time of the last entry, in microseconds since 1970.
    pub time_us: i64,
    /// Path of the backup that it is kept with, and goes with; none: it is the archive's.
    pub of: Option<String>,
    /// Bytes that it takes in the store; 0 where it was not listed there.
    pub stored_bytes: u64,
}

impl SegmentName {
    /// The object's name.
    pub fn object(&self) -> String {
        let Self { epoch, first, last, time_us, of, stored_bytes: _ } = self;
        let directory = of.as_ref().map_or_else(|| directory(*epoch), |path| directory_of(path));
        format!("{directory}/{first:020}-{last:020}-{time_us:016}")
    }

    /// From the name of an object of the archive; none if it is none of a segment.
    pub fn parse(object: &str) -> Option<Self> {
        let (epoch, rest) = object.strip_prefix(DIRECTORY)?.strip_prefix('/')?.split_once('/')?;
        Self::read(object, epoch.parse().ok()?, rest, None)
    }

    /// From the name of an object of the archive that takes so many bytes.
    pub fn parse_listed(object: &str, stored_bytes: u64) -> Option<Self> {
        Some(Self { stored_bytes, ..Self::parse(object)? })
    }

    /// From the name of an object that is kept with the backup at `path`, of this epoch; none if it is none of a segment.
    pub fn parse_of(path: &str, epoch: u64, object: &str) -> Option<Self> {
        let rest = object.strip_prefix(&directory_of(path))?.strip_prefix('/')?;
        Self::read(object, epoch, rest, Some(path.to_owned()))
    }

    fn read(object: &str, epoch: u64, rest: &str, of: Option<String>) -> Option<Self> {
        let mut numbers = rest.splitn(3, '-');
        let (first, last, time_us) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let name = Self {
            epoch,
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            time_us: time_us.parse().ok()?,
            of,
            stored_bytes: 0,
        };
        (name.first <= name.last && name.object() == object).then_some(name)
    }
}

/// Directory of the archive's segments.
pub const DIRECTORY: &str = "log";

/// Directory of the segments of an epoch.
pub fn directory(epoch: u64) -> String {
    format!("{DIRECTORY}/{epoch:08}")
}

/// What the names of an epoch's segments come after that begin with entry `first` or later ones.
pub fn before(epoch: u64, first: u64) -> String {
    format!("{}/{first:020}", directory(epoch))
}

/// Directory of the segments that are kept with the backup at `path`.
pub fn directory_of(path: &str) -> String {
    format!("backups/{path}/log")
}

/// What is in a segment.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Of which cluster.
    pub cluster_id: String,
    /// Its epoch.
    pub epoch: u64,
    /// Whether foreign keys were enforced: counts where the state says nothing of it.
    pub foreign_keys: bool,
    /// Entries in order, without a hole.
    pub entries: Vec<Entry>,
    /// Checksums of the states after some of them, in order.
    pub checksums: Vec<Checksum>,
}

/// Bytes that an entry takes in a segment.
pub fn size_of(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        Payload::Blank => 0,
        Payload::Command(bytes) => bytes.len(),
        Payload::Membership { bytes, .. } => bytes.len(),
    };
    payload + 21
}

/// The cluster's clock after an entry that is applied when it stands at `clock`, both in microseconds since 1970; none if
/// the entry has no time. As members count it (`store/apply.rs`): it never stands still or goes back.
pub fn clock_after(entry: &Entry, clock: i64) -> Option<i64> {
    entry.readable_command().map(|command| command.context.timestamp_us.max(clock.saturating_add(1)))
}

/// Of `known` those that belong into a segment of the entries from `first` to `last`.
pub fn checksums_for(known: &[Checksum], first: u64, last: u64) -> Vec<Checksum> {
    let within: Vec<Checksum> =
        known.iter().filter(|checksum| (first..=last).contains(&checksum.index)).copied().collect();
    let every = within.len().div_ceil(CHECKSUMS).max(1);
    // Counted from the end, so that the last one is among them.
    let mut some: Vec<Checksum> = within.into_iter().rev().step_by(every).collect();
    some.reverse();
    some
}

impl Segment {
    /// Of entries of the cluster's log, and what of the checksums that `store` knows belongs to them.
    pub fn of(entries: Vec<Entry>, cluster: &ClusterIdentity, store: &Store) -> Self {
        let (cluster_id, epoch) = (cluster.cluster_id.clone(), cluster.epoch);
        let foreign_keys = store.foreign_keys().are_enforced();
        let mut segment = Self { cluster_id, epoch, foreign_keys, entries, checksums: Vec::new() };
        let (first, last) = segment.range();
        segment.checksums = checksums_for(&store.checksums(), first, last);
        segment
    }

    /// Its name, if the cluster's clock stands at `clock_us` before it, as the archive's or as one kept with the backup at
    /// the path `of`.
    pub fn name(&self, clock_us: i64, of: Option<String>) -> SegmentName {
        let (first, last) = self.range();
        let after = |clock, entry| clock_after(entry, clock).unwrap_or(clock);
        let time_us = self.entries.iter().fold(clock_us, after);
        SegmentName { epoch: self.epoch, first, last, time_us, of, stored_bytes: 0 }
    }

    /// Its bytes; there must be entries.
    pub fn encode(&self) -> Bytes {
        let (first, last) = self.range();
        let size: usize = self.entries.iter().map(size_of).sum();
        let mut out = BytesMut::with_capacity(size + 64 + self.cluster_id.len() + 16 * self.checksums.len());
        out.put_u8(VERSION);
        out.put_u8(self.cluster_id.len() as u8);
        out.put_slice(self.cluster_id.as_bytes());
        out.put_u64_le(self.epoch);
        out.put_u8(self.foreign_keys.into());
        out.put_u64_le(first);
        out.put_u64_le(last);
        for entry in &self.entries {
            let (kind, bytes): (u8, &[u8]) = match &entry.payload {
                Payload::Blank => (0, &[]),
                Payload::Command(bytes) => (1, bytes),
                Payload::Membership { bytes, .. } => (2, bytes),
            };
            out.put_u64_le(entry.log_id.term);
            out.put_u64_le(entry.log_id.leader);
            out.put_u8(kind);
            out.put_u32_le(bytes.len() as u32);
            out.put_slice(bytes);
        }
        out.put_u32_le(self.checksums.len() as u32);
        for checksum in &self.checksums {
            out.put_u64_le(checksum.index);
            out.put_u64_le(checksum.sum);
        }
        out.freeze()
    }

    /// First and last index; 0 and 0 without entries.
    pub fn range(&self) -> (u64, u64) {
        let index = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.log_id.index);
        (index(self.entries.first()), index(self.entries.last()))
    }

    /// Reads its bytes; an error says what is wrong.
    pub fn decode(bytes: Vec<u8>) -> Result<Self, &'static str> {
        let mut bytes = Bytes::from(bytes);
        Self::read(&mut bytes).ok_or("it is cut short or of another version")
    }

    fn read(b: &mut Bytes) -> Option<Self> {
        if b.try_get_u8().ok()? != VERSION {
            return None;
        }
        let length = usize::from(b.try_get_u8().ok()?);
        let cluster_id = String::from_utf8(take(b, length)?.to_vec()).ok()?;
        let epoch = b.try_get_u64_le().ok()?;
        let foreign_keys = b.try_get_u8().ok()? != 0;
        let (first, last) = (b.try_get_u64_le().ok()?, b.try_get_u64_le().ok()?);
        if last < first || last - first > b.remaining() as u64 {
            return None;
        }
        let mut entries = Vec::with_capacity((last - first + 1) as usize);
        for index in first..=last {
            let (term, leader) = (b.try_get_u64_le().ok()?, b.try_get_u64_le().ok()?);
            let kind = b.try_get_u8().ok()?;
            let length = b.try_get_u32_le().ok()? as usize;
            let bytes = take(b, length)?;
            let payload = match kind {
                0 => Payload::Blank,
                1 => Payload::Command(bytes),
                2 => Payload::Membership { bytes: bytes.to_vec(), cluster_id: cluster_id.clone(), epoch },
                _ => return None,
            };
            entries.push(Entry { log_id: LogId { term, leader, index }, payload, wants_reply: false });
        }
        let count = b.try_get_u32_le().ok()? as usize;
        if count > b.remaining() / 16 {
            return None;
        }
        let mut checksums = Vec::with_capacity(count);
        for _ in 0..count {
            checksums.push(Checksum { index: b.try_get_u64_le().ok()?, sum: b.try_get_u64_le().ok()? });
        }
        (!b.has_remaining()).then_some(Self { cluster_id, epoch, foreign_keys, entries, checksums })
    }
}

fn take(b: &mut Bytes, length: usize) -> Option<Bytes> {
    (b.remaining() >= length).then(|| b.split_to(length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn segment() -> Segment {
        let at = |index| LogId { term: 3, leader: 9, index };
        let entry = |index, payload| Entry { log_id: at(index), payload, wants_reply: false };
        Segment {
            cluster_id: "cluster".into(),
            epoch: 2,
            foreign_keys: true,
            entries: vec![
                entry(7, Payload::Blank),
                entry(8, Payload::Command(Bytes::from_static(b"command"))),
                entry(9, Payload::Membership { bytes: vec![1, 2], cluster_id: "cluster".into(), epoch: 2 }),
            ],
            checksums: vec![Checksum { index: 8, sum: u64::MAX }],
        }
    }

    #[test]
    fn bytes_and_back() {
        let segment = segment();
        let read = Segment::decode(segment.encode().to_vec()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{segment:?}"));
        let bytes = segment.encode();
        for cut in 0..bytes.len() {
            assert!(Segment::decode(bytes[..cut].to_vec()).is_err(), "cut to {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(Segment::decode(longer).is_err());
    }

    #[test]
    fn names_and_back() {
        let (time_us, stored_bytes) = (1_764_216_138_123_456, 0);
        let name = SegmentName { epoch: 1, first: 5, last: 17, time_us, of: None, stored_bytes };
        assert_eq!(name.object(), "log/00000001/00000000000000000005-00000000000000000017-1764216138123456");
        assert_eq!(SegmentName::parse(&name.object()), Some(name.clone()));
        let kept = SegmentName { of: Some("1-2-undo".into()), ..name };
        assert!(kept.object().starts_with("backups/1-2-undo/log/0"), "{}", kept.object());
        assert_eq!(SegmentName::parse_of("1-2-undo", 1, &kept.object()), Some(kept.clone()));
        assert_eq!(SegmentName::parse_of("1-2-other", 1, &kept.object()), None);
        assert_eq!(SegmentName::parse(&kept.object()), None);
        for other in ["log/1/2-3-4", "log/00000001/x", "backups/x", "log/00000001/00000000000000000005-3-1"] {
            assert_eq!(SegmentName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn some_checksums_and_the_last_one() {
        let known: Vec<Checksum> = (0..1000).map(|index| Checksum { index, sum: index }).collect();
        let some = checksums_for(&known, 100, 899);
        assert!(some.len() <= CHECKSUMS && some.last().unwrap().index == 899 && some[0].index >= 100);
        assert_eq!(checksums_for(&known, 5, 6).len(), 2);
        assert!(checksums_for(&known, 2000, 3000).is_empty());
    }
}
