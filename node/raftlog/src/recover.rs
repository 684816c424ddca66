//! Opening what an earlier process left: deciding what is the log, what is a torn tail and what is damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::OpenError;
use crate::catalog::Catalog;
use crate::io::Io;
use crate::options::MIN_SEGMENT_BYTES;
use crate::record::Sealed;
use crate::replay::{Opening, Replay};
use crate::scan::{Found, Window};
use crate::segment::{Role, Segment, counter_of, file_name, sync_dir, unlink};

/// Bytes copied at once when unvouched frames are written again.
const REWRITE_BYTES: u64 = 1 << 20;

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last committed hint that reached the disk.
    pub committed: Option<Bytes>,
    /// Index of the last purged entry and its opaque log id.
    pub purged: Option<(u64, Bytes)>,
    /// First entry present.
    pub first_index: Option<u64>,
    /// Last entry present.
    pub last_index: Option<u64>,
    /// What was cut off the end, if anything: records of a batch that nobody was told about.
    pub torn_tail: Option<TornTail>,
}

/// The end of a log that a crash left half written; it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub path: PathBuf,
    /// Where the tail started, in bytes.
    pub offset: u64,
    /// Sequence of the record that was torn.
    pub sequence: u64,
}

/// What recovery hands to the writer. Everything in it is durable.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// `None` for a log that holds nothing at all.
    pub replay: Option<Replay>,
    /// A prepared segment without a Checkpoint: the next one, or the only one.
    pub unopened: Option<Segment>,
    pub spares: Vec<Segment>,
    pub last_counter: u32,
    pub torn_tail: Option<TornTail>,
}

/// The segments that make up the log.
struct Run {
    /// In log order.
    segments: Vec<(Arc<Segment>, Opening)>,
    unopened: Option<Segment>,
    /// Why the run does not reach further back. That is no error unless entries are missing.
    broken: Option<OpenError>,
}

/// Reads the directory, decides, repairs the end, and makes everything durable.
pub(crate) fn recover(io: &dyn Io, dir: &Path) -> Result<Recovery, OpenError> {
    let mut catalog = Catalog::read(io, dir)?;
    let mut run = find_run(dir, &mut catalog)?;
    let replay = replay_run(&mut run)?;
    let beyond = match &run.unopened {
        Some(segment) => Window::new(segment).find_frames(0)?,
        None => Found::default(),
    };
    let torn_tail = match &replay {
        Some(replay) => settle_end(replay, run.unopened.as_ref(), beyond)?,
        None => None,
    };
    if let Some(segment) = &run.unopened {
        settle_unopened(segment, replay.as_ref().map_or(1, |replay| replay.sequence + 1), beyond)?;
    }
    for path in &catalog.leftovers {
        unlink(io, path)?;
    }
    sync_dir(io, dir)?;
    Ok(Recovery {
        replay,
        unopened: run.unopened,
        spares: catalog.spares,
        last_counter: catalog.last_counter,
        torn_tail,
    })
}

/// Follows the log from its last segment back. Segments that it does not reach become leftovers.
fn find_run(dir: &Path, catalog: &mut Catalog) -> Result<Run, OpenError> {
    let mut run = Run { segments: Vec::new(), unopened: None, broken: None };
    let Some(last) = catalog.segments.pop() else {
        // Spares are made from retired segments, so a log with spares has segments.
        return match catalog.spares.first() {
            Some(spare) => Err(missing(dir, spare.generation)),
            None => Ok(run),
        };
    };
    let (last, opening) = match Opening::read(&last)? {
        Some(opening) => (last, opening),
        None => {
            // It had this size before it got its name.
            check_len(&last, MIN_SEGMENT_BYTES)?;
            let unopened = run.unopened.insert(last);
            let Some(last) = catalog.segments.pop() else {
                // A first segment whose Checkpoint never arrived, or a log that lost all it had.
                return if counter_of(unopened.generation) == 1 && catalog.spares.is_empty() {
                    Ok(run)
                } else {
                    Err(missing(dir, unopened.generation.saturating_sub(1 << 32)))
                };
            };
            let opening = Opening::read(&last)?.ok_or_else(|| unreadable(&last))?;
            (last, opening)
        }
    };
    let mut previous = opening.checkpoint.previous_generation;
    run.segments.push((Arc::new(last), opening));
    while previous != 0 && run.broken.is_none() {
        let at = catalog.segments.iter().rposition(|segment| segment.generation == previous);
        let Some(segment) = at.map(|at| catalog.segments.remove(at)) else {
            run.broken = Some(missing(dir, previous));
            break;
        };
        match Opening::read(&segment)? {
            Some(opening) => {
                previous = opening.checkpoint.previous_generation;
                run.segments.push((Arc::new(segment), opening));
            }
            None => {
                run.broken = Some(unreadable(&segment));
                catalog.leftovers.push(segment.path.clone());
            }
        }
    }
    run.segments.reverse();
    catalog.leftovers.extend(catalog.segments.drain(..).map(|segment| segment.path.clone()));
    Ok(run)
}

/// Replays the segments; all but the last must be whole.
fn replay_run(run: &mut Run) -> Result<Option<Replay>, OpenError> {
    let Some((_, first)) = run.segments.first() else { return Ok(None) };
    let mut replay = Replay::starting_with(first);
    for (position, (segment, opening)) in run.segments.iter().enumerate() {
        replay.read(segment, opening)?;
        check_len(segment, opening.checkpoint.segment_len)?;
        if let Some((next, next_opening)) = run.segments.get(position + 1)
            && replay.sealed.is_none_or(|sealed| sealed.next_generation != next.generation)
        {
            return Err(OpenError::Rot {
                path: segment.path.clone(),
                offset: replay.offset,
                sequence: replay.sequence + 1,
                synced: next_opening.sequence.saturating_sub(1),
            });
        }
    }
    let has_all = replay.state.is_empty() || replay.index.start() <= replay.state.first;
    if has_all {
        return Ok(Some(replay));
    }
    // Without a broken run, the very first segment claims entries that nothing holds.
    let path = run.segments[0].0.path.clone();
    Err(run.broken.take().unwrap_or(OpenError::Impossible { path, offset: 0, source: None }))
}

/// Decides between end, torn tail and rot in the last segment, and repairs it.
fn settle_end(
    replay: &Replay,
    unopened: Option<&Segment>,
    beyond: Found,
) -> Result<Option<TornTail>, OpenError> {
    let Some(last) = replay.uses.back().map(|last| last.segment.clone()) else { return Ok(None) };
    if let Some(Sealed { next_generation, next_len }) = replay.sealed {
        match unopened.filter(|segment| segment.generation == next_generation) {
            Some(segment) => check_len(segment, next_len)?,
            None => {
                let path = last.path.with_file_name(file_name(next_generation, Role::Segment));
                return Err(OpenError::MissingSegment { path });
            }
        }
    }
    let missing = replay.sequence + 1;
    let mut window = Window::new(&last);
    let found = if replay.sealed.is_some() { Found::default() } else { window.find_frames(replay.offset)? };
    let synced = replay.synced.max(found.synced).max(beyond.synced);
    if synced >= missing {
        return Err(match (replay.sealed, unopened) {
            (Some(_), Some(segment)) => rot_at_start(segment, missing, synced),
            _ => OpenError::Rot { path: last.path.clone(), offset: replay.offset, sequence: missing, synced },
        });
    }

    rewrite(&last, replay.unvouched_from(synced), replay.offset)?;
    let mut torn_tail = None;
    if replay.sealed.is_none() {
        let half = window.header(replay.offset)?.map(|header| replay.offset + header.frame_len());
        if let Some(end) = half.max(found.end) {
            last.write_zeros(replay.offset, end)?;
            let tail = TornTail { path: last.path.clone(), offset: replay.offset, sequence: missing };
            tracing::warn!(path = %tail.path.display(), offset = tail.offset, "cut a torn tail off the log");
            torn_tail = Some(tail);
        }
    }
    last.sync()?;
    Ok(torn_tail)
}

/// Empties a segment without a Checkpoint, so that nothing in it can become part of the log.
fn settle_unopened(segment: &Segment, missing: u64, found: Found) -> Result<(), OpenError> {
    if found.synced >= missing {
        return Err(rot_at_start(segment, missing, found.synced));
    }
    if let Some(end) = found.end {
        segment.write_zeros(0, end)?;
        segment.sync()?;
    }
    Ok(())
}

/// Writes frames again that perhaps exist only in the page cache: after a failed fsync the kernel considers them
/// written, and only writing makes them dirty again.
fn rewrite(segment: &Segment, from: u64, to: u64) -> Result<(), OpenError> {
    let mut offset = from;
    let mut bytes = Vec::new();
    while offset < to {
        bytes.resize(REWRITE_BYTES.min(to - offset) as usize, 0);
        let read = segment.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| OpenError::Read { path: segment.path.clone(), offset, source })?;
        segment.write(&bytes, offset)?;
        offset += bytes.len() as u64;
    }
    Ok(())
}

fn check_len(segment: &Segment, expected: u64) -> Result<(), OpenError> {
    if segment.len < expected {
        return Err(OpenError::Shortened { path: segment.path.clone(), len: segment.len, expected });
    }
    Ok(())
}

fn unreadable(segment: &Segment) -> OpenError {
    OpenError::NoCheckpoint { path: segment.path.clone() }
}

fn missing(dir: &Path, generation: u64) -> OpenError {
    OpenError::MissingSegment { path: dir.join(file_name(generation, Role::Segment)) }
}

fn rot_at_start(segment: &Segment, sequence: u64, synced: u64) -> OpenError {
    OpenError::Rot { path: segment.path.clone(), offset: 0, sequence, synced }
}
