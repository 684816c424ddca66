//! Reading entries back: from memory, or from the segment with verification.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::frame::{HEADER_LEN, Header, frame_len, u64_at};
use crate::index::Slot;
use crate::segment::Segment;
use crate::shared::{Inner, Shared};

/// Frames that lie close together are read at once, up to this many bytes.
const RUN_BYTES: u64 = 1 << 20;

/// Entries that must come from a segment.
struct Stored {
    index: u64,
    slot: Slot,
    segment: Arc<Segment>,
}

/// Reads the entries of `range` that are present, in order, until their payloads exceed `max_bytes`.
pub(crate) fn read(shared: &Shared, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Bytes)>> {
    let (stored, cached) = locate(&shared.lock(), range, max_bytes)?;
    let mut entries = Vec::with_capacity(stored.len() + cached.len());
    let mut rest = &stored[..];
    while let Some(first) = rest.first() {
        let start = first.slot.offset();
        let in_run = |next: &Stored| {
            Arc::ptr_eq(&next.segment, &first.segment) && end_of(&next.slot) <= start + RUN_BYTES
        };
        // A single entry may be larger than a run.
        let count = rest.iter().skip(1).take_while(|next| in_run(next)).count() + 1;
        let (run, after) = rest.split_at(count);
        read_run(run, &mut entries)?;
        rest = after;
    }
    entries.extend(cached);
    Ok(entries)
}

type Located = (Vec<Stored>, Vec<(u64, Bytes)>);

/// Looks up where the entries are. Holding a segment's handle keeps its bytes from being used again.
fn locate(inner: &Inner, range: Range<u64>, max_bytes: usize) -> io::Result<Located> {
    let mut stored: Vec<Stored> = Vec::new();
    let mut cached = Vec::new();
    let mut bytes = 0_usize;
    for index in range.start.max(inner.state.first)..range.end.min(inner.state.next) {
        let payload = inner.cache.get(index);
        let slot = if payload.is_some() { None } else { inner.index.get(index) };
        bytes = bytes.saturating_add(match (&payload, &slot) {
            (Some(payload), _) => payload.len(),
            (None, Some(slot)) => slot.payload_len as usize,
            (None, None) => return Err(io::Error::other(format!("entry {index} is in no segment"))),
        });
        if bytes > max_bytes && !(stored.is_empty() && cached.is_empty()) {
            break;
        }
        if let Some(payload) = payload {
            cached.push((index, payload.clone()));
        } else if let Some(slot) = slot {
            let segment = match stored.last() {
                Some(last) if last.slot.segment == slot.segment => last.segment.clone(),
                _ => segment_of(inner, index, &slot)?,
            };
            stored.push(Stored { index, slot, segment });
        }
    }
    Ok((stored, cached))
}

fn segment_of(inner: &Inner, index: u64, slot: &Slot) -> io::Result<Arc<Segment>> {
    let at = inner.segments.binary_search_by_key(&slot.segment, |segment| segment.counter());
    at.ok()
        .and_then(|at| inner.segments.get(at).cloned())
        .ok_or_else(|| io::Error::other(format!("the segment of entry {index} is gone")))
}

fn end_of(slot: &Slot) -> u64 {
    slot.offset() + frame_len(8 + slot.payload_len as usize)
}

/// Reads neighbours with one call.
fn read_run(run: &[Stored], entries: &mut Vec<(u64, Bytes)>) -> io::Result<()> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
    let start = first.slot.offset();
    let mut bytes = BytesMut::zeroed((end_of(&last.slot).saturating_sub(start)) as usize);
    first.segment.file.read_exact_at(&mut bytes, start)?;
    let bytes = bytes.freeze();
    for stored in run {
        let at = (stored.slot.offset() - start) as usize;
        let payload = verify(stored, &bytes, at).ok_or_else(|| {
            let path = first.segment.path.display();
            let (index, offset) = (stored.index, stored.slot.offset());
            let message = format!("{path} is damaged: entry {index} at offset {offset} is unreadable");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        entries.push((stored.index, payload));
    }
    Ok(())
}

/// The payload, if the frame is the one the index knows, byte for byte.
fn verify(stored: &Stored, bytes: &Bytes, at: usize) -> Option<Bytes> {
    let header = Header::decode(bytes.get(at..)?)?;
    let body_start = at + HEADER_LEN;
    let body_end = body_start + 8 + stored.slot.payload_len as usize;
    let body = bytes.get(body_start..body_end)?;
    let is_same = header.check == stored.slot.check
        && header.generation == stored.segment.generation
        && header.is_intact(body)
        && u64_at(body, 0) == Some(stored.index);
    is_same.then(|| bytes.slice(body_start + 8..body_end))
}
