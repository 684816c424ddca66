//! An entry that ends the process whenever it is applied would end every member at each of its starts.
//!
//! The store notes which entry is being applied ([`crate::store::Suspect`]). A member that ended three times in a row
//! while it applied the same one does not apply it again: it runs, votes, answers reads of level `none`, and says what it
//! stands at. A member that has applied the entry gives the others its state ([`super::reinstall`]); so does another
//! version of the program, which tries again. If all members stand there, the entry can be passed over: the leader
//! proposes that once each of them has said so, for what one of them has applied may have been acknowledged. The command
//! is found in the log behind the entry, before either is applied.
//!
//! What was passed over is noted before the state says that it was applied: the entry itself stays in the log, for
//! members that read it later, and must go into the archive as nothing ([`super::archive`]).

use super::Consensus;
use super::log_store::LogStore;
use super::membership::{describe, refuse};
use super::request_error::RequestError;
use super::skipped::Skipped;
use crate::observe::{Observe as _, Until as _};
use crate::store::{self, Store, Suspect};
use client::admin::{self, FatalEntry, Refusal, RefusalReason, SkipEntry};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// So many ends of the process at one entry are no coincidence.
const LIMIT: u64 = 3;
/// How long another member may take to say what it stands at.
const DESCRIBED: Duration = Duration::from_secs(2);
/// How long the leader waits until the entry is passed over.
const PASSED_OVER: Duration = Duration::from_secs(10);
/// Between two attempts to read the log.
const PAUSE: Duration = Duration::from_secs(1);

/// Stands before the entry that may have ended the process.
pub struct EntryGate {
    suspect: Option<Suspect>,
    skipped: Skipped,
    store: Store,
    verdict: watch::Sender<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It has not come yet.
    Awaited,
    /// It has come, and waits.
    Asked,
    /// It is tried once more.
    Apply,
    /// It is passed over.
    Skip,
    /// The member goes down.
    GoesDown,
}

impl EntryGate {
    /// Before what `store` suspects; what was passed over is noted in `directory`.
    pub fn open(store: Store, directory: &Path) -> io::Result<Self> {
        let skipped = Skipped::open(directory)?;
        let suspect = store.suspect();
        if let Some(Suspect { index, term, crashes }) = suspect {
            tracing::warn!(index, term, crashes, "this process ended while it applied an entry of the log");
        }
        Ok(Self { suspect, skipped, store, verdict: watch::Sender::new(Verdict::Awaited) })
    }

    /// Whether entry `index` was passed over: it is nothing.
    pub fn is_skipped(&self, index: u64) -> bool {
        self.skipped.contains(index)
    }

    /// Index of the entry that it stands before. Raft must not come to it before it runs: whether the entry is passed over is
    /// found out beside.
    pub fn first_held(&self) -> Option<u64> {
        let without_state = self.store.applied().index().map_or(0, |applied| applied + 1);
        let without_state = self.store.lacks_state().then_some(without_state);
        self.suspect.map(|suspect| suspect.index).or(without_state)
    }

    /// The entry as it is to be applied, once that is known.
    pub async fn pass(&self, entry: store::Entry) -> io::Result<store::Entry> {
        let index = entry.log_id.index;
        self.await_state().await?;
        if self.is_skipped(index) {
            return Ok(entry.passed_over());
        }
        if self.suspect.is_none_or(|suspect| suspect.index != index) {
            return Ok(entry);
        }
        self.verdict.send_if_modified(|verdict| {
            let is_first = *verdict == Verdict::Awaited;
            if is_first {
                *verdict = Verdict::Asked;
            }
            is_first
        });
        let mut verdict = self.verdict.subscribe();
        let decided = verdict.until(|verdict| !matches!(verdict, Verdict::Awaited | Verdict::Asked));
        tokio::select! {
            // The sender lives as long as this does.
            _ = decided => {}
            held = self.store.until_applied(index) => {
                held.map_err(io::Error::other)?;
                // Another member's state holds it: it will not be applied, and nothing waits any more.
                self.verdict.send_replace(Verdict::Apply);
            }
        }
        match self.verdict.current() {
            Verdict::Skip => Ok(entry.passed_over()),
            Verdict::GoesDown => Err(io::Error::other("going down before an entry that ends this process")),
            Verdict::Awaited | Verdict::Asked | Verdict::Apply => Ok(entry),
        }
    }

    /// Waits until there is a state to apply entries to.
    async fn await_state(&self) -> io::Result<()> {
        if !self.store.lacks_state() {
            return Ok(());
        }
        let mut verdict = self.verdict.subscribe();
        let goes_down = || Err(io::Error::other("going down before another member's state was here"));
        tokio::select! {
            has_state = self.store.until_it_has_state() => has_state.map_err(io::Error::other),
            _ = verdict.until(|verdict| *verdict == Verdict::GoesDown) => goes_down(),
        }
    }

    /// Resolves when the entry waits for a verdict.
    pub async fn asked(&self) {
        // The sender lives as long as this does.
        if self.verdict.subscribe().until(|verdict| *verdict == Verdict::Asked).await.is_err() {
            std::future::pending().await
        }
    }

    /// Whether the entry waits for a verdict.
    pub fn is_asked(&self) -> bool {
        self.verdict.current() == Verdict::Asked
    }

    /// Nothing waits for a verdict any more: the member goes down.
    pub fn stop(&self) {
        self.verdict.send_replace(Verdict::GoesDown);
    }

    /// The entry that is not applied any more.
    fn fatal(&self) -> Option<Suspect> {
        let suspect = self.suspect.filter(|suspect| suspect.crashes >= LIMIT)?;
        let is_behind = self.store.applied().index() < Some(suspect.index);
        (is_behind && self.verdict.current() != Verdict::Skip).then_some(suspect)
    }
}

impl Consensus {
    /// The entry that this member does not apply any more, because that ended it again and again.
    pub fn fatal_entry(&self) -> Option<FatalEntry> {
        let Suspect { index, term, crashes } = self.entry_gate.fatal()?;
        Some(FatalEntry { index, term, crashes })
    }

    /// Whether what is proposed here now can be applied here.
    pub(super) fn may_apply(&self) -> Result<(), RequestError> {
        match self.fatal_entry() {
            Some(fatal) => Err(RequestError::FatalEntry(fatal.index)),
            None => Ok(()),
        }
    }

    /// Finds out what is to become of the entry that waits: it is passed over, tried once more, or another member's state
    /// takes the place of this one's.
    pub(super) async fn judge_entry(&self) {
        let Some(suspect) = self.entry_gate.suspect else { return };
        let skip = match self.skip_of(suspect.index).await {
            Ok(skip) => skip,
            Err(error) => {
                tracing::warn!(%error, "cannot read the log behind an entry that ended this process");
                return sleep(PAUSE).await;
            }
        };
        let committed = self.metrics().local_committed.map(|id| id.index);
        match skip {
            Some(by) if committed >= Some(by) => self.pass_over_entry(suspect.index, by).await,
            None if suspect.crashes < LIMIT => self.settle(Verdict::Apply),
            Some(_) | None => self.take_over_state(suspect.index).await,
        }
    }

    async fn pass_over_entry(&self, index: u64, by: u64) {
        let gate = self.entry_gate.clone();
        let noted = tokio::task::spawn_blocking(move || gate.skipped.add(index)).await;
        match noted.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => {
                tracing::warn!(index, by, "passes over an entry, as the log says");
                self.settle(Verdict::Skip);
            }
            Err(error) => {
                tracing::error!(%error, index, "cannot note that an entry is passed over");
                sleep(PAUSE).await;
            }
        }
    }

    fn settle(&self, verdict: Verdict) {
        self.entry_gate.verdict.send_if_modified(|present| {
            let waits = *present == Verdict::Asked;
            if waits {
                *present = verdict;
            }
            waits
        });
    }

    /// Index of the entry that has members pass over entry `index`, committed or not.
    async fn skip_of(&self, index: u64) -> io::Result<Option<u64>> {
        let log = LogStore::new(self.log.clone());
        let find = move || {
            log.find_command(index + 1, u64::MAX, |at, command| (command.skip == Some(index)).then_some(at))
        };
        tokio::task::spawn_blocking(find).await?
    }

    /// Has every member pass over an entry; on the leader.
    pub(super) async fn skip_here(&self, entry: SkipEntry) -> Result<admin::Skipped, Refusal> {
        let SkipEntry { index, term } = entry;
        let internal = |message: String| Refusal { reason: RefusalReason::Internal, message };
        if let Some(by) = self.skip_of(index).await.map_err(|error| internal(error.to_string()))? {
            self.until_passed_over(by).await?;
            return Ok(admin::Skipped { index: by });
        }
        for member in describe(&self.metrics()).members {
            let name = &member.name;
            let described = self.describe_member(&member, DESCRIBED).await;
            let fatal = match described {
                Ok(described) => described.fatal_entry,
                Err(error) => {
                    let message = format!(
                        "member {name} does not say whether it has applied entry {index} ({error}): bring it back, or \
                         remove it if it is lost"
                    );
                    return refuse(RefusalReason::NotFatal, message);
                }
            };
            match fatal {
                Some(fatal) if (fatal.index, fatal.term) == (index, term) => {}
                Some(other) => {
                    let message = format!(
                        "member {name} stands at entry {} of term {}, not at {index} of term {term}",
                        other.index, other.term
                    );
                    return refuse(RefusalReason::NotFatal, message);
                }
                None => {
                    let message = format!("entry {index} does not keep member {name} from applying entries");
                    return refuse(RefusalReason::NotFatal, message);
                }
            }
        }
        tracing::warn!(index, "an entry that ends every member is to be passed over, as was agreed to");
        match timeout(PASSED_OVER, self.proposer.propose_skip(index)).await {
            Ok(Ok(by)) => Ok(admin::Skipped { index: by }),
            Ok(Err(error)) => refuse(RefusalReason::OutcomeUnknown, error.to_string()),
            Err(_) => refuse(RefusalReason::OutcomeUnknown, "the entry was not passed over in time"),
        }
    }

    async fn until_passed_over(&self, by: u64) -> Result<(), Refusal> {
        match timeout(PASSED_OVER, self.store.until_applied(by)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => refuse(RefusalReason::Internal, error.to_string()),
            Err(_) => refuse(RefusalReason::OutcomeUnknown, "the entry was not passed over in time"),
        }
    }
}
