//! Another database in the place of the present one, on every member: the leader checks it and spreads it before an
//! entry names it, so that the log stays small and no member needs the file in memory.
//!
//! ```text
//! load call   = nothing, then the file       answer = index u64, or the error
//! stage call  = sha256 · size u64, then the file        answer = nothing
//! staged call = sha256                       answer = size u64, then the file
//! ```
//! A member that applies the entry without having the file fetches it from whoever has it; until then it applies
//! nothing. If nobody has it, it takes the whole state of a member that applied the entry ([`super::reinstall`]). A staged
//! file is kept as long as the log reaches back to the entry, because a member that joins may be sent it; once every member
//! has applied the entry the log is purged up to there.

use super::Consensus;
use super::calls::{CallError, Peers};
use super::command::{Replacement, RequestEncoder, RequestFlags};
use super::log_store::LogStore;
use super::membership::describe;
use super::request_error::RequestError;
use super::route::Route;
use super::staged_names::StagedNames;
use super::stream_calls::{PeerStream, StreamKind};
use super::waiters::{Leadership, Outcome};
use super::whereabouts::Whereabouts;
use super::wire::get_u64;
use crate::observe::{Observe as _, Until as _};
use crate::store::{CanonicalError, Receiving, Scratch, Sha256Sum, Staging, Store, Taken};
use bytes::{BufMut, Bytes, BytesMut};
use client::admin::{Member, NodeId, quorum};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Bytes read from a staged file at once.
const PIECE: usize = 1 << 20;
/// How long members have to receive and sync a file, after it was sent.
const CONFIRM: Duration = Duration::from_secs(120);
/// How long the others are waited for once a quorum has confirmed: they would fetch it anyway.
const GRACE: Duration = Duration::from_secs(2);
/// How long checking an upload may take, as seen by the member that sent it.
const CHECKED: Duration = Duration::from_secs(1800);
/// How long the entry may take.
const COMMIT: Duration = Duration::from_secs(60);
/// Between two rounds of asking for a file, and of looking whether it is still needed.
const ROUND: Duration = Duration::from_millis(500);
const TIDY: Duration = Duration::from_secs(10);

/// Why a database was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not one, or not one that is taken.
    #[error("{0}")]
    Invalid(String),
    /// This member does not lead.
    #[error("not leader")]
    NotLeader,
    /// There are other members.
    #[error("not single-node")]
    NotSingleNode,
    /// The upload ended early, or a file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// As of any request.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl LoadError {
    /// Whether it is known that the database did not take the place of the present one, and will not.
    pub(super) fn is_certain(&self) -> bool {
        !matches!(self, Self::Request(RequestError::OutcomeUnknown(_)))
    }
}

impl From<CanonicalError> for LoadError {
    fn from(error: CanonicalError) -> Self {
        match error {
            CanonicalError::Invalid(_) => Self::Invalid(error.to_string()),
            CanonicalError::Io(error) => Self::Io(error),
        }
    }
}

/// A database that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// Index of its entry.
    pub index: u64,
    /// Peer address of the leader that did it.
    pub forwarded_to: Option<String>,
}

/// An upload: pieces up to an empty one.
pub type Upload = mpsc::Receiver<io::Result<Bytes>>;

impl Consensus {
    /// Loads a database in the place of the present one.
    pub async fn load(self: &Arc<Self>, upload: Upload) -> Result<Loaded, LoadError> {
        match self.route() {
            Route::Here(_) => Ok(Loaded { index: self.load_here(upload).await?, forwarded_to: None }),
            Route::Leader { leader, address } => {
                let there = self.load_there(leader, &address, upload);
                let lost = || RequestError::OutcomeUnknown("leadership lost while loading a database".into());
                let index = self.while_led_by(leader, there).await.ok_or_else(lost)??;
                Ok(Loaded { index, forwarded_to: Some(address) })
            }
            Route::Nobody => Err(RequestError::NoLeader.into()),
        }
    }

    /// The same, on a leader that has no other member.
    pub async fn boot(self: &Arc<Self>, upload: Upload) -> Result<Loaded, LoadError> {
        self.may_boot()?;
        self.load(upload).await
    }

    /// Whether this member may be booted.
    pub fn may_boot(&self) -> Result<(), LoadError> {
        if !self.is_leader() {
            return Err(LoadError::NotLeader);
        }
        match describe(&self.metrics()).members.len() {
            1 => Ok(()),
            _ => Err(LoadError::NotSingleNode),
        }
    }

    async fn load_there(
        &self,
        leader: Leadership,
        address: &str,
        mut upload: Upload,
    ) -> Result<u64, LoadError> {
        let broken = |_| LoadError::from(RequestError::from(CallError::Broken(address.to_owned())));
        let opened = self.open_for_caller(leader, address, StreamKind::Load, &[]).await;
        let mut stream = opened.map_err(RequestError::from)?;
        // The leader may answer before it has everything: then sending fails, and its answer says why.
        drop(stream.send_all(&mut upload).await);
        let head = stream.head(CHECKED).await.map_err(broken)?;
        match head {
            Ok(mut head) => Ok(get_u64(&mut head).map_err(io::Error::from)?),
            Err(message) => Err(match message.split_once('\n') {
                Some(("invalid", message)) => LoadError::Invalid(message.into()),
                Some(("no leader", _)) => RequestError::NoLeader.into(),
                Some(("unknown", message)) => RequestError::OutcomeUnknown(message.into()).into(),
                _ => RequestError::Internal(message).into(),
            }),
        }
    }

    pub(super) async fn answer_load(self: &Arc<Self>, _: Bytes, stream: &mut PeerStream) -> io::Result<()> {
        let (send, upload) = mpsc::channel(4);
        let loading = self.load_here(upload);
        let (loaded, ()) = tokio::join!(loading, async {
            let is_heard = stream.pass_on(&send).await;
            drop(send);
            // An upload that failed early is heard to its end, so that the answer is.
            while !is_heard && matches!(stream.receive().await, Ok(Some(_))) {}
        });
        match loaded {
            Ok(index) => stream.accept(&index.to_le_bytes()).await,
            Err(error) => {
                let kind = match &error {
                    LoadError::Invalid(_) => "invalid",
                    LoadError::NotLeader | LoadError::Request(RequestError::NoLeader) => "no leader",
                    LoadError::Request(RequestError::OutcomeUnknown(_)) => "unknown",
                    _ => "failed",
                };
                stream.refuse(&format!("{kind}\n{error}")).await
            }
        }
    }

    async fn load_here(self: &Arc<Self>, upload: Upload) -> Result<u64, LoadError> {
        self.may_serve()?;
        self.may_apply()?;
        let staging = self.store().staging().clone();
        let receiver = staging.clone();
        let receiving = blocking(move || receiver.receive(0)).await?;
        let received = receive(receiving, upload, None).await?.into_scratch();
        // Not before: an upload may take as long as it likes.
        let turn = self.loading.lock().await;
        let canonical = staging.scratch();
        self.store().write_canonical(received.path(), canonical.path(), Taken::Database).await?;
        drop(received);
        let index = self.spread_and_propose(canonical).await;
        drop(turn);
        index
    }

    /// Spreads a checked file, and proposes that it becomes the database.
    async fn spread_and_propose(&self, file: Scratch) -> Result<u64, LoadError> {
        let (sha256, size) = self.stage(file).await?;
        let outcome = async {
            self.spread(sha256, size).await?;
            let Route::Here(leader) = self.route() else { return Err(RequestError::NoLeader.into()) };
            let replacement = Replacement { sha256: sha256.0, size, epoch: 0 };
            self.propose_replacement(replacement, leader).await?.await
        };
        let outcome = outcome.await;
        if outcome.as_ref().is_err_and(LoadError::is_certain) {
            self.unstage(sha256).await?;
        }
        outcome
    }

    /// Takes a checked file, which an entry is to name, to the staging directory.
    pub(super) async fn stage(&self, file: Scratch) -> io::Result<(Sha256Sum, u64)> {
        let staging = self.store().staging().clone();
        let staged = self.staged.clone();
        let name = move || {
            let (sha256, size) = staging.sync(&file)?;
            staged.names.await_entry(sha256);
            staging.name(&file, sha256)?;
            Ok((sha256, size))
        };
        let (sha256, size) = blocking(name).await?;
        tracing::info!(%sha256, megabytes = size >> 20, "checked a database that is to take the place of this one");
        Ok((sha256, size))
    }

    /// No entry is to name a staged file after all.
    pub(super) async fn unstage(&self, sha256: Sha256Sum) -> io::Result<()> {
        let staged = self.staged.clone();
        blocking(move || staged.names.give_up(sha256)).await
    }

    /// Sends a staged file to the other members, until a quorum of the voters has it on disk, ready to become the database.
    pub(super) async fn spread(&self, sha256: Sha256Sum, size: u64) -> Result<(), LoadError> {
        let own = self.identity().node_id();
        let members = describe(&self.metrics()).members;
        let voters = members.iter().filter(|m| m.voter).count();
        let quorum = quorum(voters);
        let mut confirmed = members.iter().filter(|m| m.voter && m.node_id == own).count();
        let mut sending: FuturesUnordered<_> = members
            .into_iter()
            .filter(|m| m.node_id != own)
            .map(|member| async move {
                let sent = self.send_staged(&member, sha256, size).await;
                (member, sent)
            })
            .collect();
        let mut last_call = None;
        loop {
            let next = async { sending.next().await };
            let done = match last_call {
                None => next.await,
                Some(at) => tokio::time::timeout_at(at, next).await.unwrap_or(None),
            };
            match done {
                Some((member, Ok(()))) => confirmed += usize::from(member.voter),
                Some((member, Err(error))) => {
                    tracing::warn!(member = member.name, %error, "could not stage a database");
                }
                None if confirmed >= quorum => return Ok(()),
                None => return Err(RequestError::NoQuorum.into()),
            }
            if confirmed >= quorum && last_call.is_none() {
                last_call = Some(tokio::time::Instant::now() + GRACE);
            }
        }
    }

    async fn send_staged(&self, member: &Member, sha256: Sha256Sum, size: u64) -> io::Result<()> {
        let mut question = BytesMut::with_capacity(40);
        question.put_slice(&sha256.0);
        question.put_u64_le(size);
        let (id, address) = (member.node_id.0, &member.raft_address);
        let opened = self.peers.open_stream(id, address, StreamKind::Stage, &question).await;
        let mut stream = opened.map_err(io::Error::other)?;
        let mut pieces = read_staged(self.store().staging(), sha256)?.1;
        stream.send_all(&mut pieces).await?;
        stream.head(CONFIRM).await?.map(drop).map_err(io::Error::other)
    }

    pub(super) async fn answer_stage(&self, mut body: Bytes, stream: &mut PeerStream) -> io::Result<()> {
        let (sha256, size) = (get_sum(&mut body)?, get_u64(&mut body)?);
        let staging = self.store().staging().clone();
        self.staged.names.await_entry(sha256);
        let (send, upload) = mpsc::channel(4);
        let (kept, ()) = tokio::join!(keep(staging, upload, sha256, size), async {
            stream.pass_on(&send).await;
            drop(send);
        });
        match kept {
            Ok(()) => stream.accept(&[]).await,
            Err(error) => {
                self.unstage(sha256).await?;
                stream.refuse(&error.to_string()).await
            }
        }
    }

    pub(super) async fn answer_staged(&self, mut body: Bytes, stream: &mut PeerStream) -> io::Result<()> {
        match read_staged(self.store().staging(), get_sum(&mut body)?) {
            Ok((size, mut pieces)) => {
                stream.accept(&size.to_le_bytes()).await?;
                stream.send_all(&mut pieces).await
            }
            Err(error) => stream.refuse(&error.to_string()).await,
        }
    }

    /// Proposes the entry by `leader`, if that is this member; what comes back waits until this member has applied it. What
    /// is proposed after this has returned comes after it in the log.
    pub(super) async fn propose_replacement(
        &self,
        replacement: Replacement,
        leader: Leadership,
    ) -> Result<impl Future<Output = Result<u64, LoadError>> + Send + use<>, LoadError> {
        let id = self.proposer().next_request_id();
        let request = RequestEncoder::new(RequestFlags::default(), 0).finish(id);
        let mut ticket = self.waiters.wait_for(id);
        let failed = |error: super::propose::ProposeError| RequestError::Internal(error.to_string());
        self.proposer().propose_replacement(&replacement, &request, leader).await.map_err(failed)?;
        Ok(async move {
            match tokio::time::timeout(COMMIT, ticket.settled(leader)).await {
                Ok(Some(Outcome::Applied(done))) => Ok(done.index),
                Ok(None | Some(Outcome::NotAppended | Outcome::TooLate)) => {
                    Err(RequestError::NoLeader.into())
                }
                Ok(Some(Outcome::Skipped)) | Err(_) => {
                    let message = "leadership lost while committing log";
                    Err(RequestError::OutcomeUnknown(message.into()).into())
                }
            }
        })
    }

    /// Removes staged files that nobody needs any more, now and then.
    pub(super) async fn tidy_staged(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            let staged = match self.store().staging().staged() {
                Ok(staged) => staged,
                Err(error) => {
                    tracing::warn!(%error, "cannot read the staging directory");
                    continue;
                }
            };
            for (sha256, _) in staged {
                let Some(index) = self.staged.names.last_entry(sha256) else { continue };
                if self.is_out_of_reach(index).await {
                    let staged = self.staged.clone();
                    if let Err(error) = blocking(move || staged.names.remove(sha256, index)).await {
                        tracing::warn!(%error, %sha256, "cannot remove a staged database");
                    }
                }
            }
            let staged = self.staged.clone();
            if let Err(error) = blocking(move || staged.names.remove_orphans()).await {
                tracing::warn!(%error, "cannot remove staged databases that no entry named");
            }
        }
    }

    /// Whether nobody can be sent entry `index` any more. A member that joins gets entries as long as the log has them, so
    /// that the log is purged first, once all that are members now have applied the entry.
    async fn is_out_of_reach(&self, index: u64) -> bool {
        let is_purged = || self.log.purged().is_some_and(|(purged, _)| purged >= index);
        if !is_purged()
            && self.everybody_applied(index).await
            && let Err(error) = self.purge_up_to(index).await
        {
            tracing::warn!(error, "the log is not purged of an entry that names a database");
        }
        is_purged()
    }

    async fn everybody_applied(&self, index: u64) -> bool {
        const ANSWER: Duration = Duration::from_secs(2);
        let own = self.identity().node_id();
        for member in describe(&self.metrics()).members {
            if member.node_id == own {
                continue;
            }
            match self.describe_peer(member.node_id, &member.raft_address, ANSWER).await {
                Ok(described) if described.applied_index.is_some_and(|applied| applied >= index) => {}
                _ => return false,
            }
        }
        true
    }
}

/// Makes sure that a staged file is here before an entry that names it is applied.
pub struct StagedFiles {
    store: Store,
    own: u64,
    peers: Arc<Peers>,
    whereabouts: Whereabouts,
    names: StagedNames,
    /// Index of an entry that waits for a file which every other member was asked for and none has.
    nowhere: watch::Sender<Option<u64>>,
    stop: watch::Sender<bool>,
}

/// What asking every other member for a file came to.
enum Search {
    Fetched,
    /// Each of them answered that it does not have it.
    Nowhere,
    /// Some did not answer.
    Unfinished,
}

impl StagedFiles {
    /// Of member `own`; the others are asked where `whereabouts` says they are.
    pub fn new(store: Store, own: NodeId, peers: Arc<Peers>, whereabouts: Whereabouts) -> Arc<Self> {
        let names = StagedNames::new(store.staging().clone(), store.applied().index().unwrap_or(0));
        let (nowhere, stop) = (watch::Sender::default(), watch::Sender::new(false));
        Arc::new(Self { store, own: own.0, peers, whereabouts, names, nowhere, stop })
    }

    /// Nothing is fetched any more: the member goes down.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until an entry cannot be applied because no member has the file that it names; returns its index.
    pub async fn nowhere(&self) -> u64 {
        let mut nowhere = self.nowhere.subscribe();
        // The sender lives as long as this does.
        while nowhere.until(Option::is_some).await.is_ok() {
            // It may be found again already.
            if let Some(index) = nowhere.current() {
                return index;
            }
        }
        std::future::pending().await
    }

    /// Whether an entry cannot be applied because no member has the file that it names.
    pub fn is_nowhere(&self) -> bool {
        self.nowhere.observe(Option::is_some)
    }

    /// Waits until the file that an entry names, if it names one, is here, or the entry need not be applied any more.
    pub async fn ensure(&self, entry: &crate::store::Entry) -> io::Result<()> {
        let replacement = entry.readable_command().and_then(|command| command.replacement);
        let Some(replacement) = replacement else { return Ok(()) };
        let (sha256, index) = (Sha256Sum(replacement.sha256), entry.log_id.index);
        self.names.met(sha256, index);
        let mut stop = self.stop.subscribe();
        while !self.has_applied(index) && !self.store.staging().has(sha256) {
            tokio::select! {
                () = self.look_for(sha256, replacement.size, index) => {}
                _ = stop.until(|stop| *stop) => {
                    return Err(io::Error::other("going down before a staged database was here"));
                }
            }
        }
        self.nowhere.send_replace(None);
        Ok(())
    }

    /// The first entry that is committed, not applied, and names a database that is not here. While Raft starts nobody can
    /// be asked for that: who else is a member is known, and this one can be told to end, only after that.
    pub fn first_lacking(&self, log: &LogStore) -> io::Result<Option<u64>> {
        let end = log.committed()?.map_or(0, |committed| committed.index + 1);
        let start = self.store.applied().index().map_or(0, |index| index + 1);
        log.find_command(start, end, |index, command| {
            let named = command.replacement.map(|named| Sha256Sum(named.sha256));
            named.is_some_and(|sha256| !self.store.staging().has(sha256)).then_some(index)
        })
    }

    fn has_applied(&self, index: u64) -> bool {
        self.store.applied().index() >= Some(index)
    }

    /// Asks every other member for the file that entry `index` names, once.
    async fn look_for(&self, sha256: Sha256Sum, size: u64, index: u64) {
        let found = self.fetch(sha256, size).await;
        match found {
            Search::Fetched => return,
            Search::Nowhere if self.nowhere.send_replace(Some(index)).is_none() => {
                tracing::warn!(%sha256, index, "no member has the database that an entry names");
            }
            Search::Nowhere | Search::Unfinished => {}
        }
        tokio::time::sleep(ROUND).await;
    }

    async fn fetch(&self, sha256: Sha256Sum, size: u64) -> Search {
        // Of Raft's membership, not of the database's: the entry that says who is a member may come in one batch with
        // the one that names the file, before any of them is applied.
        let others = self.whereabouts.all().into_iter().filter(|(id, _)| *id != self.own);
        let mut refused = 0;
        let mut asked = 0;
        for (id, address) in others {
            asked += 1;
            match self.fetch_from(id, &address, sha256, size).await {
                Ok(Ok(())) => {
                    tracing::info!(%sha256, from = address, "fetched a database that an entry names");
                    return Search::Fetched;
                }
                Ok(Err(refusal)) => {
                    refused += 1;
                    tracing::debug!(refusal, %sha256, from = address, "does not have it");
                }
                Err(error) => tracing::debug!(%error, %sha256, from = address, "not fetched"),
            }
        }
        if asked > 0 && refused == asked { Search::Nowhere } else { Search::Unfinished }
    }

    /// Fetches a file from one member; the inner error is that member's refusal.
    async fn fetch_from(
        &self,
        id: u64,
        address: &str,
        sha256: Sha256Sum,
        size: u64,
    ) -> io::Result<Result<(), String>> {
        const ANSWER: Duration = Duration::from_secs(5);
        let opened = self.peers.open_stream(id, address, StreamKind::Staged, &sha256.0).await;
        let mut stream = opened.map_err(io::Error::other)?;
        if let Err(refusal) = stream.head(ANSWER).await? {
            return Ok(Err(refusal));
        }
        let (send, upload) = mpsc::channel(4);
        let staging = self.store.staging().clone();
        let (kept, ()) = tokio::join!(keep(staging, upload, sha256, size), async {
            stream.pass_on(&send).await;
            drop(send);
        });
        kept.map(Ok)
    }
}

fn get_sum(body: &mut Bytes) -> io::Result<Sha256Sum> {
    if body.len() < 32 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(&body.split_to(32));
    Ok(Sha256Sum(sum))
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(f).await?
}

/// Writes an upload to disk as it comes.
async fn receive(mut receiving: Receiving, mut upload: Upload, size: Option<u64>) -> io::Result<Receiving> {
    blocking(move || {
        loop {
            match upload.blocking_recv() {
                Some(Ok(piece)) if piece.is_empty() => return Ok(receiving),
                Some(Ok(piece)) => receiving.write(&piece)?,
                Some(Err(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if size.is_some_and(|size| receiving.size() > size) {
                return Err(io::Error::other("a staged file is larger than announced"));
            }
        }
    })
    .await
}

/// Receives a staged file and keeps it.
async fn keep(staging: Staging, upload: Upload, sha256: Sha256Sum, size: u64) -> io::Result<()> {
    let receiving = blocking(move || staging.receive_checked(size)).await?;
    let receiving = receive(receiving, upload, Some(size)).await?;
    blocking(move || receiving.finish(sha256)).await
}

/// Reads a staged file; returns its size and its pieces.
fn read_staged(staging: &Staging, sha256: Sha256Sum) -> io::Result<(u64, Upload)> {
    let mut file = staging.open_checked(sha256)?;
    let size = file.size()?;
    let (send, pieces) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece);
            let is_last = !matches!(read, Ok(n) if n > 0);
            // Who hung up does not want to know.
            if send.blocking_send(read.map(|_| piece.into())).is_err() || is_last {
                return;
            }
        }
    });
    Ok((size, pieces))
}
