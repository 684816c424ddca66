//! Putting the parts together.

use std::path::Path;
use std::sync::Arc;

use crate::flush::FlushThread;
use crate::index::Index;
use crate::io::Io;
use crate::options::len_of_new;
use crate::prepare::{Preparer, Setup};
use crate::recover::{Recovery, recover};
use crate::segment::{Segment, sync_dir, unlink};
use crate::shared::Shared;
use crate::state::LogState;
use crate::writer::Writer;
use crate::{OpenError, Options, RaftLog, Recovered};

const LOCK_NAME: &str = "LOCK";

pub(crate) fn open(dir: &Path, options: Options, io: Arc<dyn Io>) -> Result<(RaftLog, Recovered), OpenError> {
    create_dir(io.as_ref(), dir)?;
    let path = dir.join(LOCK_NAME);
    let lock = match io.lock(&path) {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(OpenError::Locked { path }),
        Err(source) => return Err(OpenError::Lock { path, source }),
    };
    let mut recovery = recover(io.as_ref(), dir)?;
    drop_spares(io.as_ref(), dir, &options, &mut recovery.spares)?;
    let recovered = describe(&recovery);

    let Recovery { mut replay, mut unopened, spares, last_counter, .. } = recovery;
    if let Some(segment) = &mut unopened {
        // It was synced with this length before it got its name. An extension may not have been.
        segment.len = segment.len.min(len_of_new(segment.counter(), options.segment_bytes));
    }
    // The index is the reader's, the rest of the replay the writer's.
    let (state, index) = match &mut replay {
        Some(replay) => (replay.state.clone(), std::mem::take(&mut replay.index)),
        None => (LogState::default(), Index::default()),
    };
    let shared = Arc::new(Shared::new(state, index, options.on_poison));
    let is_open = replay.as_ref().is_some_and(|replay| replay.sealed.is_none());
    let (ready, unopened) = if is_open { (unopened, None) } else { (None, unopened) };
    let poisoned = shared.clone();
    let preparer = Preparer::start(Setup {
        io,
        dir: dir.to_owned(),
        segment_bytes: options.segment_bytes,
        max_spares: options.max_spares,
        spares,
        last_counter,
        ready,
        on_failure: Box::new(move |error| poisoned.poison(error)),
    })
    .map_err(OpenError::Spawn)?;

    let last = replay.as_ref().and_then(|replay| replay.uses.back()).map(|last| last.segment.clone());
    let mut writer = match (replay, last) {
        (Some(replay), Some(last)) => Writer::resume(preparer, replay, last, unopened)?,
        _ => {
            let first = match unopened {
                Some(first) => first,
                None => preparer.take()?,
            };
            Writer::create(preparer, first)?
        }
    };
    writer.take_output();
    shared.lock().segments.extend(writer.segments().cloned());
    let mut flush = FlushThread {
        shared: shared.clone(),
        writer,
        batch: Vec::new(),
        idle_delay: options.idle_delay,
        cache_bytes: options.cache_bytes,
        lock,
    };
    flush.retire_segments();
    let thread = std::thread::Builder::new()
        .name("raftlog-flush".to_owned())
        .spawn(move || flush.run())
        .map_err(OpenError::Spawn)?;
    tracing::info!(
        dir = %dir.display(), first = recovered.first_index, last = recovered.last_index, "opened the log"
    );
    Ok((RaftLog::new(shared, thread), recovered))
}

/// Creates the directory, durably.
fn create_dir(io: &dyn Io, dir: &Path) -> Result<(), OpenError> {
    io.create_dir_all(dir).map_err(|source| OpenError::CreateDirectory { path: dir.to_owned(), source })?;
    let parent = match dir.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    Ok(sync_dir(io, parent)?)
}

/// Removes spares that the options do not want.
fn drop_spares(
    io: &dyn Io,
    dir: &Path,
    options: &Options,
    spares: &mut Vec<Segment>,
) -> Result<(), OpenError> {
    let (mut keep, mut drop): (Vec<_>, Vec<_>) =
        spares.drain(..).partition(|spare| spare.len == options.segment_bytes);
    drop.extend(keep.drain(keep.len().min(options.max_spares)..));
    for spare in &drop {
        unlink(io, &spare.path)?;
    }
    if !drop.is_empty() {
        sync_dir(io, dir)?;
    }
    *spares = keep;
    Ok(())
}

fn describe(recovery: &Recovery) -> Recovered {
    let Some(replay) = &recovery.replay else { return Recovered::default() };
    let state = replay.state.clone();
    Recovered {
        first_index: state.first_index(),
        last_index: state.last_index(),
        vote: state.vote,
        committed: state.committed,
        purged: state.purged,
        torn_tail: recovery.torn_tail.clone(),
    }
}
