//! Raft's view of the store: hands committed entries to the writer and answers who waits for them.

use super::applying::Applying;
use super::fatal_entry::EntryGate;
use super::replace::StagedFiles;
use super::teller::{Asked, Teller};
use super::types::{
    Applied, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, log_id_from, log_id_to,
};
use super::waiters::{Leadership, Waiters};
use super::wire::{membership_from_store, membership_to_bytes};
use crate::identity::Identity;
use crate::observe::Observe as _;
use crate::store::{self, LocalFailure, Meta, PinnedSnapshot, ReadySnapshot, Store};
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use std::io;
use std::sync::Arc;

/// Entries given to the writer at once.
const BATCH: usize = 256;

/// Implements Raft's state machine on a [`Store`].
pub struct StateMachine {
    store: Store,
    identity: Arc<Identity>,
    waiters: Arc<Waiters>,
    staged: Arc<StagedFiles>,
    gate: Arc<EntryGate>,
    applying: Arc<Applying>,
    teller: Teller,
}

/// What a snapshot is, by where it is.
pub enum SnapshotData {
    /// On the sender: a read transaction on the present state.
    Pinned(Box<PinnedSnapshot>),
    /// On the receiver: a checked file that is not yet the present database.
    Received(Box<ReadySnapshot>),
    /// The database file itself, synced up to the snapshot's position: what makes purging the log safe.
    Durable,
}

/// Brings the database file up to date on disk; there is nothing else to build.
pub struct DurableState {
    store: Store,
    applying: Arc<Applying>,
}

impl StateMachine {
    /// On the store of the member `identity`; has `teller` tell `waiters` what is applied.
    pub fn new(
        store: Store,
        identity: Arc<Identity>,
        waiters: Arc<Waiters>,
        (staged, gate): (Arc<StagedFiles>, Arc<EntryGate>),
        applying: Arc<Applying>,
        teller: Teller,
    ) -> Self {
        Self { store, identity, waiters, staged, gate, applying, teller }
    }
}

/// An entry as the store knows it, on the member `identity`.
pub fn entry_to_store(entry: Entry, identity: &Identity, wants_reply: bool) -> store::Entry {
    let log_id = log_id_to(&entry.log_id);
    let payload = match entry.payload {
        EntryPayload::Blank => store::Payload::Blank,
        EntryPayload::Normal(command) => store::Payload::Command(command.0),
        EntryPayload::Membership(membership) => {
            let cluster = identity.cluster();
            store::Payload::Membership {
                bytes: membership_to_bytes(&membership),
                epoch: cluster.as_ref().map_or(0, |c| c.epoch),
                cluster_id: cluster.map(|c| c.cluster_id).unwrap_or_default(),
            }
        }
    };
    store::Entry { log_id, payload, wants_reply }
}

fn leadership(id: store::LogId) -> Leadership {
    Leadership { term: id.term, node: id.leader }
}

/// A local failure ends Raft on this member.
fn fatal(error: LocalFailure) -> io::Error {
    io::Error::other(error)
}

/// The position and membership of a state, as Raft names them.
pub fn snapshot_meta(meta: &Meta) -> io::Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_log_id: meta.applied.log_id.map(log_id_from),
        last_membership: membership_from_store(&meta.membership)?,
    })
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = DurableState;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.store.state().current();
        Ok((state.applied.log_id.map(log_id_from), membership_from_store(&state.membership)?))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut ready = entries.ready_chunks(BATCH);
        while let Some(chunk) = ready.next().await {
            let mut batch = Vec::with_capacity(chunk.len());
            let mut asked = Vec::with_capacity(chunk.len());
            let mut responders = Vec::new();
            let mut last = None;
            for item in chunk {
                let (entry, responder) = item?;
                let interested = match &entry.payload {
                    EntryPayload::Normal(command) => self.waiters.interested(&command.0),
                    EntryPayload::Blank | EntryPayload::Membership(_) => Vec::new(),
                };
                let entry = entry_to_store(entry, &self.identity, !interested.is_empty());
                let entry = self.gate.pass(entry).await?;
                self.staged.ensure(&entry).await?;
                last = Some(entry.log_id);
                asked.push(Asked { index: entry.log_id.index, requests: interested });
                responders.extend(responder);
                batch.push(entry);
            }
            let teller = self.teller.clone();
            let committed = move |replies| teller.applied(asked, replies, last.map(leadership));
            let turn = self.applying.turn().await;
            self.store.apply_telling(batch, Box::new(committed)).await.map_err(fatal)?;
            drop(turn);
            for responder in responders {
                responder.send(Applied);
            }
            if let Some(last) = last {
                self.applying.reach(last.index);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> DurableState {
        DurableState { store: self.store.clone(), applying: self.applying.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let ready = match snapshot {
            SnapshotData::Received(ready) => *ready,
            SnapshotData::Pinned(pinned) => {
                let store = self.store.clone();
                tokio::task::spawn_blocking(move || store.copy_snapshot(&pinned)).await?.map_err(fatal)?
            }
            // It is this member's own state.
            SnapshotData::Durable => return Ok(()),
        };
        let turn = self.applying.turn().await;
        self.store.install(ready).await.map_err(fatal)?;
        drop(turn);
        let last = meta.last_log_id.as_ref().map(log_id_to);
        self.teller.skipped(last.map(leadership));
        if let Some(last) = last {
            self.applying.reach(last.index);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        // Nobody is sent what stands in for a damaged database.
        if self.store.lacks_state() {
            return Ok(None);
        }
        let pinned = self.store.pin_to_send().await.map_err(fatal)?;
        if pinned.meta.applied.log_id.is_none() {
            return Ok(None);
        }
        let meta = snapshot_meta(&pinned.meta)?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Pinned(Box::new(pinned)) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for DurableState {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let durable = self.store.durable().await.map_err(fatal)?;
        if let Some(last) = durable.log_id {
            self.applying.known(last.index).await?;
        }
        let meta = SnapshotMeta {
            last_log_id: durable.log_id.map(log_id_from),
            last_membership: membership_from_store(&durable.membership)?,
        };
        Ok(Snapshot { meta, snapshot: SnapshotData::Durable })
    }
}
