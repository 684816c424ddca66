//! What other members ask of this one.

use super::Consensus;
use super::calls::Kind;
use super::connection::{
    CONNECT_TIMEOUT, FrameReader, Hello, Purpose, Refused, UNACKNOWLEDGED, answer_hello, put_frame,
    read_hello, write_out,
};
use super::on_behalf::kind_inside;
use super::refused_peers::{Reason, RefusedPeer};
use super::snapshot_receive;
use super::strangers::Strangers;
use super::types::TypeConfig;
use super::wire::{self, WireError};
use crate::tcp;
use crate::tls::PeerSocket;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use openraft::raft::StreamAppendResult;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Connections of members at once.
const CONNECTIONS: usize = 512;
/// Requests of one connection worked on at once.
const CALLS: usize = 1024;

/// Serves the peer port until the task is dropped.
pub async fn serve(listener: TcpListener, consensus: Arc<Consensus>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut strangers = Strangers::default();
    loop {
        strangers.make_room().await;
        let stream = tcp::next(&listener, UNACKNOWLEDGED).await;
        let (consensus, room) = (consensus.clone(), room.clone());
        strangers.add(tokio::spawn(async move {
            match greet(stream, &consensus, &room).await {
                // A task of its own: this one is a stranger's.
                Ok(Some(member)) => drop(tokio::spawn(async move {
                    let Member { socket, hello, permit } = member;
                    if let Err(error) = converse(socket, &hello, &consensus).await {
                        tracing::debug!(%error, "peer connection ended");
                    }
                    drop(permit);
                })),
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "a connection ended before it was a member's"),
            }
        }));
    }
}

/// A connection of somebody who was let in.
struct Member {
    socket: PeerSocket,
    hello: Hello,
    permit: OwnedSemaphorePermit,
}

/// Finds out who it is; none if they are refused.
async fn greet(
    stream: TcpStream,
    consensus: &Consensus,
    room: &Arc<Semaphore>,
) -> io::Result<Option<Member>> {
    let accept = async {
        let (mut socket, names) = match &consensus.security.tls {
            None => (PeerSocket::Plain(stream), None),
            Some(tls) => tls.accept(stream).await?,
        };
        let hello = read_hello(&mut socket).await?;
        Ok::<_, io::Error>((socket, names, hello))
    };
    let accepted =
        tokio::time::timeout(CONNECT_TIMEOUT, accept).await.unwrap_or_else(|late| Err(late.into()));
    // Whoever hangs up before a word, as a probe of the port does, asked for nothing.
    if accepted.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::UnexpectedEof) {
        consensus.peers.refused().count(Reason::Preface);
    }
    let (mut socket, names, hello) = accepted?;
    let admitted = consensus.admit(&hello, names.as_ref());
    let admitted = admitted.and_then(|greeting| match room.clone().try_acquire_owned() {
        Ok(permit) => Ok((greeting, permit)),
        Err(_) => {
            let message = format!("{CONNECTIONS} connections of members are open already");
            Err(RefusedPeer::new(Reason::TooMany, message))
        }
    });
    let (verdict, permit) = match admitted {
        Ok((greeting, permit)) => (Ok(greeting), Some(permit)),
        Err(RefusedPeer { reason, message }) => {
            consensus.peers.refused().count(reason);
            let name = reason.name();
            tracing::warn!(from = %format_args!("{:016x}", hello.from), reason = name, message, "refused a peer");
            let refused = match reason {
                Reason::RolledBack => Refused::RolledBack { why: message, leads: consensus.is_leader() },
                Reason::Outlived => Refused::Outlived(message),
                _ => Refused::For(message),
            };
            (Err(refused), None)
        }
    };
    answer_hello(&mut socket, &verdict).await?;
    Ok(permit.map(|permit| Member { socket, hello, permit }))
}

async fn converse(socket: PeerSocket, hello: &Hello, consensus: &Arc<Consensus>) -> io::Result<()> {
    match hello.purpose {
        // A leader goes on asking, and Raft would log an error each time.
        Purpose::Append if consensus.has_stopped() => Ok(()),
        Purpose::Append => serve_append(socket, consensus).await,
        Purpose::Calls => serve_calls(socket, consensus, hello).await,
        Purpose::Snapshot => snapshot_receive::serve(socket, consensus).await,
        Purpose::Stream => super::stream_calls::serve(socket, consensus).await,
    }
}

async fn serve_append(socket: PeerSocket, consensus: &Consensus) -> io::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut frames = FrameReader::new(read);
    let requests = async_stream::stream! {
        loop {
            let mut frame = match frames.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%error, "a leader sent what is not taken");
                    break
                }
                Err(error) => { tracing::debug!(%error, "the connection of a leader ended"); break }
            };
            match wire::get_append(&mut frame) {
                Ok(request) => yield request,
                Err(error) => { tracing::warn!(%error, "a peer sent nonsense"); break }
            }
        }
    };
    let answers = consensus.raft.stream_append(requests).ready_chunks(64);
    let mut answers = std::pin::pin!(answers);
    let mut out = BytesMut::new();
    while let Some(chunk) = answers.next().await {
        // Positive answers say how far it got: the last one of several says it all.
        let mut answered = 0_u32;
        let mut ends = false;
        let count = chunk.len();
        for (i, answer) in chunk.into_iter().enumerate() {
            let answer: StreamAppendResult<TypeConfig> = answer.map_err(io::Error::other)?;
            answered += 1;
            if answer.is_ok() {
                consensus.contact.heard();
            }
            if answer.is_ok() && i + 1 < count {
                continue;
            }
            ends |= answer.is_err();
            put_frame(&mut out, |out| {
                out.put_u32_le(answered);
                wire::put_append_result(out, &answer);
            });
            answered = 0;
        }
        write_out(&mut write, &mut out).await?;
        if ends {
            break;
        }
    }
    Ok(())
}

async fn serve_calls(socket: PeerSocket, consensus: &Arc<Consensus>, hello: &Hello) -> io::Result<()> {
    let stranger = hello.cluster_id.is_empty();
    let (read, mut write) = socket.into_split();
    let (answers, mut ready) = mpsc::channel::<(u64, Result<Bytes, String>)>(CALLS);
    let writer = tokio::spawn(async move {
        let mut out = BytesMut::new();
        while let Some(first) = ready.recv().await {
            let mut next = Some(first);
            while let Some((id, answer)) = next.take() {
                put_frame(&mut out, |out| {
                    out.put_u64_le(id);
                    match answer {
                        Ok(body) => {
                            out.put_u8(0);
                            out.put_slice(&body);
                        }
                        Err(message) => {
                            out.put_u8(1);
                            out.put_slice(message.as_bytes());
                        }
                    }
                });
                if out.len() < 256 << 10 {
                    next = ready.try_recv().ok();
                }
            }
            if write_out(&mut write, &mut out).await.is_err() {
                return;
            }
        }
    });
    let room = Arc::new(Semaphore::new(CALLS));
    let mut frames = FrameReader::new(read);
    while let Some(mut frame) = frames.next().await? {
        // It is told why when it connects again.
        if consensus.peers.rolled_back().was_found(hello.from, hello.start) {
            break;
        }
        let (id, kind) = (wire::get_u64(&mut frame)?, wire::get_u8(&mut frame)?);
        let kind = Kind::from_u8(kind).ok_or(WireError("call: unknown kind"))?;
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let (consensus, answers) = (consensus.clone(), answers.clone());
        let runtime = match kind {
            // One step of SQLite's may take long: consensus is not kept from its work by what clients ask.
            Kind::Query | Kind::Traced => consensus.clients.clone(),
            Kind::OnBehalf if matches!(kind_inside(&frame), Some(Kind::Query | Kind::Traced)) => {
                consensus.clients.clone()
            }
            _ => Handle::current(),
        };
        runtime.spawn(async move {
            let answer = if stranger && !matches!(kind, Kind::Join | Kind::Notify | Kind::Describe) {
                Err("only a member may ask this".into())
            } else {
                consensus.answer(kind, frame).await
            };
            // Who hung up does not want to know.
            drop(answers.send((id, answer)).await);
            drop(permit);
        });
    }
    drop(answers);
    writer.await.map_err(io::Error::other)
}
