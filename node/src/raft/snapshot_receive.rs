//! Receives a snapshot from the leader, and installs it.

use super::Consensus;
use super::connection::{FrameReader, put_frame, write_out};
use super::snapshot_stream::{Chunk, Head, Intent, Reply};
use super::state_machine::{SnapshotData, snapshot_meta};
use super::types::{Snapshot, Vote};
use super::wire::WireError;
use crate::observe::Until as _;
use crate::store::{LogId, StagedSnapshot};
use crate::tls::{PeerSocket, ReadHalf, WriteHalf};
use bytes::{Bytes, BytesMut};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

/// How long the sender may take for one chunk.
const STALLED: Duration = Duration::from_secs(20);
/// Chunks that wait for the disk.
const WAITING: usize = 4;

/// What is being received. One transfer at a time: two would write the same generation.
#[derive(Debug, Default)]
pub struct Receiving {
    /// Held by the connection that receives; what an earlier one left.
    turn: Mutex<Option<Partial>>,
    /// Counts connections. The newest one has the turn: an older one is most likely dead, whoever sent it.
    newest: watch::Sender<u64>,
    /// This member asked for another one's state, and applies nothing meanwhile.
    wants_replacement: AtomicBool,
}

/// While it lives, a snapshot may take the place of a database that has applied as much.
#[derive(Debug)]
pub struct OpenForReplacement<'a>(&'a AtomicBool);

impl Drop for OpenForReplacement<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Receiving {
    /// From now on, and until this is dropped, a replacement is taken.
    pub fn open_for_replacement(&self) -> OpenForReplacement<'_> {
        self.wants_replacement.store(true, Ordering::Release);
        OpenForReplacement(&self.wants_replacement)
    }

    /// Tells of each connection of a sender.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Whether `head` may be received, on a member that has applied up to `applied`.
    fn admits(&self, head: &Head, applied: Option<LogId>) -> Result<(), &'static str> {
        match head.intent {
            Intent::CatchUp => Ok(()),
            Intent::Replace if !self.wants_replacement.load(Ordering::Acquire) => {
                Err("its state is not wrong")
            }
            Intent::Replace if head.meta.applied.log_id < applied => Err("it has applied more"),
            Intent::Replace => Ok(()),
        }
    }
}

/// A transfer whose connection broke.
#[derive(Debug)]
struct Partial {
    transfer: u64,
    staged: StagedSnapshot,
}

/// Serves one connection of a sender.
pub async fn serve(socket: PeerSocket, consensus: &Consensus) -> io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut frames = FrameReader::new(read);
    let mut out = BytesMut::new();
    let received = receive(&mut frames, &mut write, consensus).await;
    let reply = match &received {
        Ok(vote) => Reply::Done(*vote),
        Err(error) => Reply::Failed(error.to_string()),
    };
    put_frame(&mut out, |out| reply.put(out));
    // A connection that broke hears nothing.
    drop(write_out(&mut write, &mut out).await);
    received.map(drop)
}

async fn receive(
    frames: &mut FrameReader<ReadHalf>,
    write: &mut WriteHalf,
    consensus: &Consensus,
) -> io::Result<Vote> {
    let receiving = consensus.receiving();
    let mut newest = receiving.newest.subscribe();
    let mut own = 0;
    receiving.newest.send_modify(|n| {
        *n += 1;
        own = *n;
    });
    let mut turn = receiving.turn.lock().await;
    let head = Head::get(&mut next_frame(frames).await?)?;
    let applied = consensus.store().applied().log_id;
    receiving.admits(&head, applied).map_err(io::Error::other)?;
    may_catch_up(consensus, &head)?;
    if head.intent == Intent::CatchUp && applied >= head.meta.applied.log_id {
        // An earlier connection of this transfer, or the log, brought it that far.
        *turn = None;
        return install(consensus, &head, SnapshotData::Durable).await;
    }
    // Not after all of it has come.
    let (shelf, set) = (consensus.store().shelf().clone(), head.meta.extensions.clone());
    if let Err(error) = tokio::task::spawn_blocking(move || shelf.load(&set)).await? {
        tracing::error!(%error, "cannot take over the state of another member");
        return Err(io::Error::other(error));
    }
    let staged = match turn.take() {
        Some(partial) if partial.transfer == head.transfer => partial.staged,
        _ => {
            let store = consensus.store().clone();
            tokio::task::spawn_blocking(move || store.stage_snapshot()).await??
        }
    };
    if !consensus.space.has_room_for(head.size - staged.received().min(head.size))? {
        staged.discard()?;
        return Err(io::Error::new(io::ErrorKind::StorageFull, "there is no room for the snapshot"));
    }
    tracing::info!(
        megabytes = head.size >> 20,
        from = staged.received(),
        index = head.meta.applied.log_id.map(|id| id.index),
        "receiving a snapshot"
    );
    let mut out = BytesMut::new();
    put_frame(&mut out, |out| Reply::From(staged.received()).put(out));
    write_out(write, &mut out).await?;

    let mut offset = staged.received();
    let (chunks, mut queue) = mpsc::channel::<Bytes>(WAITING);
    let writer = tokio::task::spawn_blocking(move || {
        let mut staged = staged;
        let mut written = Ok(());
        while let Some(bytes) = queue.blocking_recv() {
            written = staged.write(&bytes);
            if written.is_err() {
                break;
            }
        }
        (staged, written)
    });
    let arrived = tokio::select! {
        arrived = take_chunks(frames, &mut offset, &chunks) => arrived,
        _ = newest.until(|n| *n != own) => Err(io::Error::other("another connection took over")),
    };
    drop(chunks);
    let (staged, written) = writer.await?;
    if let Err(error) = written {
        staged.discard()?;
        return Err(error);
    }
    let checksum = match arrived {
        Ok(checksum) => checksum,
        Err(error) => {
            *turn = Some(Partial { transfer: head.transfer, staged });
            return Err(error);
        }
    };
    if staged.received() != head.size {
        return Err(WireError("snapshot: its size is wrong").into());
    }
    let expected = head.meta.clone();
    let ready = tokio::task::spawn_blocking(move || staged.finish(&expected, checksum)).await?;
    let ready = ready.map_err(io::Error::other)?;
    may_catch_up(consensus, &head)?;
    let vote = match head.intent {
        Intent::CatchUp => install(consensus, &head, SnapshotData::Received(Box::new(ready))).await?,
        Intent::Replace => {
            receiving.admits(&head, consensus.store().applied().log_id).map_err(io::Error::other)?;
            // Raft need not know: it goes on with entries that are in it, and those are passed over.
            consensus.store().install(ready).await.map_err(io::Error::other)?;
            head.vote
        }
    };
    tracing::info!("installed a snapshot");
    Ok(vote)
}

/// Raft installs a snapshot after the entries before it. While one of these waits for a database that no member has, or is
/// not applied because it ended the process, only another member's state in the place of this one's leads on, and that must
/// not wait for a snapshot that waits for Raft.
fn may_catch_up(consensus: &Consensus, head: &Head) -> io::Result<()> {
    if head.intent != Intent::CatchUp {
        return Ok(());
    }
    if consensus.staged.is_nowhere() {
        return Err(io::Error::other("an entry names a database that no member has"));
    }
    if consensus.entry_gate.is_asked() {
        return Err(io::Error::other("an entry ended this process, and waits"));
    }
    Ok(())
}

async fn install(consensus: &Consensus, head: &Head, data: SnapshotData) -> io::Result<Vote> {
    let snapshot = Snapshot { meta: snapshot_meta(&head.meta)?, snapshot: data };
    let response =
        consensus.raft.install_full_snapshot(head.vote, snapshot).await.map_err(io::Error::other)?;
    Ok(response.vote)
}

/// Hands chunks on to the disk until the last one; returns the state's checksum, if the sender knows it.
async fn take_chunks(
    frames: &mut FrameReader<ReadHalf>,
    offset: &mut u64,
    chunks: &mpsc::Sender<Bytes>,
) -> io::Result<Option<u64>> {
    loop {
        match Chunk::get(*offset, &mut next_frame(frames).await?)? {
            Chunk::Bytes(bytes) => {
                *offset += bytes.len() as u64;
                if chunks.send(bytes).await.is_err() {
                    return Ok(None); // The disk failed; the writer says how.
                }
            }
            Chunk::End(checksum) => return Ok(checksum),
            Chunk::Failed => return Err(io::Error::other("the sender failed")),
        }
    }
}

async fn next_frame(frames: &mut FrameReader<ReadHalf>) -> io::Result<Bytes> {
    let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
    timeout(STALLED, frames.next()).await??.ok_or_else(eof)
}
