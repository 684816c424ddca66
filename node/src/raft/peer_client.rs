//! Raft's messages to one other member.

use super::calls::{CallError, Kind, Peers};
use super::connection::{FrameReader, Purpose, put_frame, write_out};
use super::snapshot_send::{SendError, Sending};
use super::snapshot_stream::Intent;
use super::state_machine::SnapshotData;
use super::types::{PeerInfo, Snapshot, TypeConfig, Vote};
use super::whereabouts::Whereabouts;
use super::wire::{self, AppendRequest, put_append};
use crate::tls::{ReadHalf, WriteHalf};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Bytes of appends gathered into one write.
const WRITE_BYTES: usize = 1 << 20;

/// Makes the clients that Raft asks for.
#[derive(Clone)]
pub struct PeerClients {
    peers: Arc<Peers>,
    whereabouts: Whereabouts,
}

impl PeerClients {
    /// Clients that speak for the member that `peers` speaks for, with members where `whereabouts` says they are.
    pub fn new(peers: Arc<Peers>, whereabouts: Whereabouts) -> Self {
        Self { peers, whereabouts }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerClients {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &PeerInfo) -> PeerClient {
        let (peers, whereabouts) = (self.peers.clone(), self.whereabouts.clone());
        PeerClient { peers, whereabouts, target, address: node.raft_addr.clone(), stream: None }
    }
}

/// Talks to one member, for one purpose of Raft's: replication, heartbeats and snapshots have one each, so that a
/// large append delays no heartbeat.
pub struct PeerClient {
    peers: Arc<Peers>,
    whereabouts: Whereabouts,
    target: u64,
    /// Where it was when Raft asked for this.
    address: String,
    stream: Option<AppendStream>,
}

struct AppendStream {
    frames: FrameReader<ReadHalf>,
    write: WriteHalf,
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn network(error: &(impl std::error::Error + 'static)) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl PeerClient {
    /// Where the member is now.
    fn address(&self) -> String {
        self.whereabouts.of(self.target).unwrap_or_else(|| self.address.clone())
    }

    async fn call(&self, kind: Kind, body: &[u8], option: &RPCOption) -> Rpc<Bytes> {
        let address = self.address();
        let answer = self.peers.call(self.target, &address, kind, body, option.soft_ttl()).await;
        answer.map_err(|error| match error {
            CallError::NotSent(_) => unreachable(&error),
            CallError::Broken(_)
            | CallError::TimedOut(_)
            | CallError::Remote(_)
            | CallError::Unauthorized(_) => network(&error),
        })
    }

    /// Sends requests as they come, several in one write, and yields the answers, which come in the same order.
    fn pipeline<'s, S>(
        &'s mut self,
        mut stream: AppendStream,
        mut input: S,
    ) -> BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async_stream::stream! {
            let mut out = BytesMut::new();
            let mut unanswered = 0_u64;
            let mut input_ended = false;
            loop {
                match stream.frames.buffered() {
                    Err(error) => { yield Err(network(&error)); break }
                    Ok(None) => {}
                    Ok(Some(mut frame)) => {
                        let answer = wire::get_u32(&mut frame)
                            .and_then(|answered| Ok((u64::from(answered), wire::get_append_result(&mut frame)?)));
                        match answer {
                            Err(error) => { yield Err(network(&error)); break }
                            Ok((answered, result)) => {
                                unanswered = unanswered.saturating_sub(answered);
                                let ends = result.is_err();
                                yield Ok(result);
                                if ends { break }
                            }
                        }
                        continue;
                    }
                }
                if input_ended && unanswered == 0 {
                    self.stream = Some(stream);
                    break;
                }
                tokio::select! {
                    biased;
                    request = input.next(), if !input_ended => {
                        let mut next = Some(request);
                        while let Some(request) = next.take() {
                            let Some(request) = request else { input_ended = true; break };
                            put_frame(&mut out, |out| put_append(out, &request));
                            unanswered += 1;
                            if out.len() < WRITE_BYTES {
                                next = input.next().now_or_never();
                            }
                        }
                        if !out.is_empty() && let Err(error) = write_out(&mut stream.write, &mut out).await {
                            yield Err(network(&error));
                            break;
                        }
                    }
                    more = stream.frames.fill() => match more {
                        Ok(true) => {}
                        Ok(false) => { yield Err(network(&io::Error::from(io::ErrorKind::UnexpectedEof))); break }
                        Err(error) => { yield Err(network(&error)); break }
                    },
                }
            }
        })
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let exchange = async {
            let mut answers = self.stream_append(futures::stream::iter([request]), option.clone()).await?;
            answers
                .next()
                .await
                .unwrap_or_else(|| Err(network(&io::Error::from(io::ErrorKind::UnexpectedEof))))
        };
        let answer = tokio::time::timeout(option.soft_ttl(), exchange).await.map_err(|e| network(&e))??;
        Ok(match answer {
            Ok(None) => AppendEntriesResponse::Success,
            Ok(id) => AppendEntriesResponse::PartialSuccess(id),
            Err(openraft::raft::StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(openraft::raft::StreamAppendError::HigherVote(vote)) => {
                AppendEntriesResponse::HigherVote(vote)
            }
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // After a failure the pause is in front of the first request: whoever calls before there is one calls again
            // for each entry that is written.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let stream = match self.stream.take() {
                Some(stream) => stream,
                None => {
                    let dialled = self.peers.connect(Purpose::Append, self.target, &self.address()).await;
                    let (read, write) = dialled.map_err(|e| unreachable(&e))?.0.into_split();
                    AppendStream { frames: FrameReader::new(read), write }
                }
            };
            Ok(self.pipeline(stream, futures::stream::iter([first]).chain(input)))
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut body = BytesMut::new();
        wire::put_vote_request(&mut body, &request);
        let mut answer = self.call(Kind::Vote, &body, &option).await?;
        wire::get_vote_response(&mut answer).map_err(|e| network(&e))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut body = BytesMut::new();
        wire::put_vote_request(&mut body, &request);
        let mut answer = self.call(Kind::PreVote, &body, &option).await?;
        wire::get_vote_response(&mut answer).map_err(|e| network(&e))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let body = serde_json::to_vec(&request).map_err(|e| network(&e))?;
        let answer = self.call(Kind::TransferLeader, &body, &option).await?;
        serde_json::from_slice(&answer).map_err(|e| network(&e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Pinned(pinned) = snapshot.snapshot else {
            let error = io::Error::other("only a pinned snapshot can be sent");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let address = self.address();
        let sending = Sending::new(&self.peers, self.target, &address, vote, Intent::CatchUp, *pinned);
        let sent = tokio::select! {
            sent = sending.run() => sent,
            closed = cancel => return Err(StreamingError::Closed(closed)),
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(error) => {
                // Who is down is asked again and again.
                if !matches!(error, SendError::Connect(_)) {
                    tracing::warn!(%error, to = address, "a snapshot was not installed");
                }
                Err(match error {
                    SendError::Broken(_) => StreamingError::Network(NetworkError::new(&error)),
                    // Tried again after a pause.
                    _ => StreamingError::Unreachable(Unreachable::new(&error)),
                })
            }
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        // A restarted member is to be heard again soon; a refused connection on a LAN costs next to nothing.
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}
