//! Raft's log storage on crate `raftlog`: translates, and nothing else.

use super::command::CommandView;
use super::types::{Entry, LogId, TypeConfig, Vote, log_id_to};
use super::wire::{
    get_entry, get_log_id, get_option, get_purged, get_vote, membership_to_bytes, put_entry, put_option,
    put_purged, put_vote,
};
use crate::failpoint::{Place, pass};
use crate::observe::Observe as _;
use crate::store::{Store, StoredMembership};
use bytes::BytesMut;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use raftlog::{Callback, LogError, RaftLog, SubmitError};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use tokio::sync::oneshot;

/// Bytes of entries read for one append to a follower.
const APPEND_BYTES: usize = 2 << 20;
/// Bytes of entries read at once where all of them are looked at.
const PIECE: usize = 1 << 20;
const ALL: usize = usize::MAX;

/// Implements Raft's log storage; clones share the log.
#[derive(Clone)]
pub struct LogStore {
    log: RaftLog,
    /// Raft is told of commits before this index only when it starts.
    starts_before: u64,
    /// Whose membership is noted where the log is purged.
    store: Option<Store>,
}

impl LogStore {
    /// On an open log.
    pub fn new(log: RaftLog) -> Self {
        Self { log, starts_before: u64::MAX, store: None }
    }

    /// From now on the membership that `store` holds is noted where the log is purged: whoever cannot read the database any
    /// more finds it there.
    pub fn note_members_of(&mut self, store: Store) {
        self.store = Some(store);
    }

    /// The membership at entry `upto`, unless a later entry holds another one; none if it is not known.
    fn membership_at(&self, upto: u64) -> StoredMembership {
        let known = self.store.as_ref().map(|store| store.state().current());
        let known = known.filter(|state| state.applied.index() >= Some(upto));
        known.map(|state| state.membership).unwrap_or_default()
    }

    /// The last entry that was purged, and the membership at that; none if none ever was.
    pub fn purged(&self) -> io::Result<Option<(LogId, StoredMembership)>> {
        Ok(self.log.purged().map(|(_, mut kept)| get_purged(&mut kept)).transpose()?)
    }

    /// The last membership in the log, committed or not: of an entry, or as it was when the last entry was purged.
    pub fn last_membership(&self) -> io::Result<StoredMembership> {
        let mut last = self.purged()?.map(|(_, membership)| membership).unwrap_or_default();
        let (mut next, end) = (self.log.first_index().unwrap_or(0), self.log.last_index());
        while Some(next) <= end {
            let entries = self.entries(next, u64::MAX, PIECE)?;
            let Some(read) = entries.last() else { break };
            next = read.index() + 1;
            for entry in &entries {
                if let EntryPayload::Membership(membership) = &entry.payload {
                    let log_id = Some(log_id_to(&entry.log_id()));
                    last = StoredMembership { log_id, bytes: membership_to_bytes(membership) };
                }
            }
        }
        Ok(last)
    }

    /// From index `first` on nothing is applied before a leader says that it is committed, though it is known already.
    pub fn start_before(&mut self, first: u64) {
        self.starts_before = first;
    }

    /// Up to where entries are known to be committed.
    pub fn committed(&self) -> io::Result<Option<LogId>> {
        Ok(self.log.committed().map(|mut b| get_option(&mut b)).transpose()?.flatten())
    }

    /// Submits something and waits until it is on disk.
    async fn durable(&self, submit: impl FnOnce(Callback) -> Result<(), SubmitError>) -> io::Result<()> {
        let (done, durable) = oneshot::channel();
        // Who no longer waits does not want to know.
        submit(Box::new(move |result| drop(done.send(result)))).map_err(io::Error::other)?;
        match durable.await {
            Ok(result) => result.map_err(io::Error::other),
            Err(_) => Err(io::Error::other("the log was closed")),
        }
    }

    /// Appends one entry and waits until it is on disk: for what is done before Raft runs.
    pub async fn append_one(&self, entry: Entry) -> io::Result<()> {
        let mut b = BytesMut::with_capacity(super::wire::entry_size(&entry));
        put_entry(&mut b, &entry);
        self.durable(|done| self.log.append([(entry.index(), b.freeze())], done)).await
    }

    /// The first thing that `find` makes of the commands of the entries from index `start` to before `end`. Bytes that make
    /// no sense are met again, and reported, when the entry is applied.
    pub fn find_command<T>(
        &self,
        start: u64,
        end: u64,
        find: impl Fn(u64, CommandView<'_>) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut next = start;
        while next < end {
            let entries = self.entries(next, end, PIECE)?;
            let Some(last) = entries.last() else { break };
            next = last.index() + 1;
            for entry in &entries {
                let EntryPayload::Normal(command) = &entry.payload else { continue };
                let command = CommandView::parse(&command.0).ok();
                if let Some(found) = command.and_then(|command| find(entry.index(), command)) {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// Reads entries: from memory, unless a follower is far behind or this member has just started.
    pub fn entries(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let raw = self.log.read(start..end, bytes)?;
        raw.into_iter().map(|(_, mut payload)| Ok(get_entry(&mut payload)?)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, ALL)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, APPEND_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.vote().map(|mut b| get_vote(&mut b)).transpose()?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let purged = self.log.purged().map(|(_, mut id)| get_log_id(&mut id)).transpose()?;
        let last = match self.log.last_index() {
            Some(index) => {
                let entries = self.entries(index, index + 1, ALL)?;
                entries.first().map(|entry| entry.log_id())
            }
            None => None,
        };
        Ok(LogState { last_purged_log_id: purged, last_log_id: last.or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut b = BytesMut::with_capacity(17);
        put_vote(&mut b, vote);
        pass(Place::VoteDecided)?;
        self.durable(|done| self.log.submit_vote(b.freeze(), done)).await?;
        pass(Place::VoteDurable)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let mut b = BytesMut::with_capacity(25);
        put_option(&mut b, committed.as_ref());
        self.log.submit_committed(b.freeze()).map_err(io::Error::other)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let committed = self.committed()?;
        if committed.as_ref().is_none_or(|committed| committed.index < self.starts_before) {
            return Ok(committed);
        }
        // None of what is purged, which is applied.
        let Some(last) = self.starts_before.checked_sub(1) else { return Ok(None) };
        let first = self.log.first_index().unwrap_or(u64::MAX);
        let entries = if last < first { Vec::new() } else { self.entries(last, last + 1, ALL)? };
        Ok(entries.first().map(|entry| entry.log_id()))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encode = |entry: Entry| {
            let mut b = BytesMut::with_capacity(super::wire::entry_size(&entry));
            put_entry(&mut b, &entry);
            (entry.index(), b.freeze())
        };
        let done = |result: Result<(), LogError>| {
            flushed.io_completed(result.map_err(io::Error::other).and_then(|()| pass(Place::AppendDurable)));
        };
        pass(Place::AppendSubmitted)?;
        self.log.append(entries.into_iter().map(encode), Box::new(done)).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last_kept: Option<LogId>) -> io::Result<()> {
        self.durable(|done| self.log.truncate_after(last_kept.map(|id| id.index), done)).await?;
        pass(Place::TruncateDurable)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        pass(Place::PurgeSubmitted)?;
        let membership = self.membership_at(upto.index);
        let mut kept = BytesMut::with_capacity(52 + membership.bytes.len());
        put_purged(&mut kept, &upto, &membership);
        self.durable(|done| self.log.purge(upto.index, kept.freeze(), done)).await?;
        pass(Place::PurgeDurable)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::raft::applying::Applying;
    use crate::raft::calls::Peers;
    use crate::raft::fatal_entry::EntryGate;
    use crate::raft::replace::StagedFiles;
    use crate::raft::state_machine::StateMachine;
    use crate::raft::teller::Teller;
    use crate::raft::waiters::{Leadership, Waiters};
    use crate::raft::whereabouts::Whereabouts;
    use crate::store::Store;
    use openraft::testing::log::{StoreBuilder, Suite};
    use std::sync::Arc;

    struct Builder;

    impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
        async fn build(
            &self,
        ) -> Result<(tempfile::TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
            let dir = tempfile::tempdir().unwrap();
            let options = raftlog::Options { segment_bytes: 64 << 10, ..raftlog::Options::default() };
            let (log, _) = RaftLog::open(dir.path().join("raft"), options, Arc::new(raftlog::OsIo)).unwrap();
            let store = Store::open(dir.path(), false, std::time::Duration::MAX).unwrap();
            let identity = Arc::new(crate::identity::Identity::open(dir.path()).unwrap());
            let waiters = Waiters::new(Leadership::default());
            let teller = Teller::start(waiters.clone(), &tokio::runtime::Handle::current());
            let peers = Arc::new(Peers::new(identity.clone(), None));
            let staged = StagedFiles::new(store.clone(), identity.node_id(), peers, Whereabouts::default());
            let gate = Arc::new(EntryGate::open(store.clone(), dir.path()).unwrap());
            let applying = Arc::new(Applying::from(0));
            Ok((
                dir,
                LogStore::new(log),
                StateMachine::new(store, identity, waiters, (staged, gate), applying, teller),
            ))
        }
    }

    /// openraft's own conformance suite for log and state machine.
    #[test]
    fn conforms_to_raft() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async { Suite::test_all(Builder).await.unwrap() });
    }
}
