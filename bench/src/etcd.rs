//! etcd: gRPC over one HTTP/2 connection a client. A row is a key, a bulk request one transaction of puts.

use crate::BenchError;
use crate::protobuf::{Fields, Value, put_bytes, put_number};
use crate::random::Random;
use crate::target::{Connection, OperationError, Target};
use crate::work::{Operation, Work};
use bytes::{BufMut, Bytes, BytesMut};
use client::sql::Level;
use h2::client::SendRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::net::TcpStream;

/// etcd refuses larger transactions unless it is started with `--max-txn-ops`.
const SEED_PUTS: u64 = 100;

/// A cluster of etcd members.
#[derive(Debug)]
pub struct Etcd {
    addrs: Vec<String>,
    next_key: Arc<AtomicU64>,
    /// Which address clients start with; none spreads them over all.
    first: Option<usize>,
}

impl Etcd {
    /// The cluster at these addresses.
    pub fn new(addrs: Vec<String>) -> Self {
        Self { addrs, next_key: Arc::default(), first: None }
    }
}

/// Whether a StatusResponse comes from the leader it names.
fn leads(status: &[u8]) -> bool {
    let (mut member, mut leader) = (None, None);
    for field in Fields(status) {
        match field {
            // ResponseHeader.member_id
            (1, Value::Bytes(header)) => {
                member = Fields(header).find(|(number, _)| *number == 2).map(|f| f.1)
            }
            (4, value) => leader = Some(value),
            _ => {}
        }
    }
    leader.is_some() && member == leader
}

impl Target for Etcd {
    type Connection = EtcdConnection;

    async fn leader(&self) -> Option<usize> {
        for (at, addr) in self.addrs.iter().enumerate() {
            if let Ok(mut connection) = EtcdConnection::open(addr, self.next_key.clone()).await
                && let Ok(status) = connection.call("/etcdserverpb.Maintenance/Status", &[]).await
                && leads(&status)
            {
                return Some(at);
            }
        }
        None
    }

    fn start_at(&mut self, first: Option<usize>) {
        self.first = first;
    }

    async fn transfer(&self, _leader: usize) -> Option<Result<(), OperationError>> {
        None
    }

    async fn connect(&self, client: usize, attempt: usize) -> Result<EtcdConnection, OperationError> {
        let at = (self.first.unwrap_or(client) + attempt) % self.addrs.len();
        EtcdConnection::open(&self.addrs[at], self.next_key.clone()).await
    }

    async fn prepare(&self, work: &Work) -> Result<(), BenchError> {
        let mut work = work.clone();
        work.bulk = work.bulk.min(SEED_PUTS);
        let mut connection = self.connect(0, 0).await.map_err(BenchError::Seed)?;
        while self.next_key.load(Ordering::Relaxed) < work.rows {
            connection.run(&work, Operation::Bulk, &mut Random::new(0)).await.map_err(BenchError::Seed)?;
        }
        Ok(())
    }

    async fn count(&self) -> Result<Option<u64>, BenchError> {
        Ok(None)
    }
}

/// A client's connection.
#[derive(Debug)]
pub struct EtcdConnection {
    sender: SendRequest<Bytes>,
    authority: String,
    next_key: Arc<AtomicU64>,
}

impl EtcdConnection {
    async fn open(addr: &str, next_key: Arc<AtomicU64>) -> Result<Self, OperationError> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority: addr.into(), next_key })
    }

    /// Calls a method; returns the message of its answer.
    async fn call(&mut self, path: &str, message: &[u8]) -> Result<Vec<u8>, OperationError> {
        let request = http::Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut body) = sender.send_request(request, false)?;
        let mut frame = BytesMut::with_capacity(5 + message.len());
        frame.put_u8(0);
        frame.put_u32(message.len() as u32);
        frame.put_slice(message);
        body.send_data(frame.freeze(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut received = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            received.extend_from_slice(&piece);
        }
        let headers = body.trailers().await?.unwrap_or(head.headers);
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if text("grpc-status") != "0" {
            let body = format!("grpc-status {} {}", text("grpc-status"), text("grpc-message"));
            return Err(OperationError::Refused { status: head.status.as_u16(), body });
        }
        if received.len() < 5 {
            return Err(OperationError::Malformed("gRPC frame"));
        }
        Ok(received.split_off(5))
    }

    fn put(&self, work: &Work) -> Vec<u8> {
        let mut message = Vec::with_capacity(work.value.len() + 32);
        put_bytes(&mut message, 1, &key(self.next_key.fetch_add(1, Ordering::Relaxed)));
        put_bytes(&mut message, 2, work.value.as_bytes());
        message
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("bench{number:011}").into_bytes()
}

impl Connection for EtcdConnection {
    async fn run(
        &mut self,
        work: &Work,
        operation: Operation,
        random: &mut Random,
    ) -> Result<(), OperationError> {
        let mut message = Vec::new();
        let path = match operation {
            Operation::Insert => {
                message = self.put(work);
                "/etcdserverpb.KV/Put"
            }
            Operation::Bulk => {
                for _ in 0..work.bulk {
                    let mut put = Vec::new();
                    put_bytes(&mut put, 2, &self.put(work)); // RequestOp.request_put
                    put_bytes(&mut message, 2, &put); // TxnRequest.success
                }
                "/etcdserverpb.KV/Txn"
            }
            Operation::Query(level) => {
                put_bytes(&mut message, 1, &key(random.below(work.rows)));
                if level == Level::None {
                    put_number(&mut message, 7, 1); // RangeRequest.serializable
                }
                "/etcdserverpb.KV/Range"
            }
        };
        self.call(path, &message).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_names_itself() {
        for (member, leader, expected) in [(7, 7, true), (7, 8, false)] {
            let (mut header, mut status) = (Vec::new(), Vec::new());
            put_number(&mut header, 1, 99);
            put_number(&mut header, 2, member);
            put_bytes(&mut status, 1, &header);
            put_number(&mut status, 4, leader);
            assert_eq!(leads(&status), expected);
        }
        assert!(!leads(&[]));
    }
}
