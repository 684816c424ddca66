//! What the fuzz targets of `node/fuzz` feed, where it is private to its module. For nobody else.

pub use crate::auth::authenticator::basic;
pub use crate::auth::users::{Quick, Users};
pub use crate::http::body::{BadBody, decode_json, decode_text};
pub use crate::raft::connection::FrameReader;
pub use crate::store::canonical::Refused;
pub use crate::store::statements;

use crate::raft::command::{CommandView, EncodedRequest};
use crate::raft::connection::Hello;
use crate::raft::consistency::Said;
use crate::raft::peer_answer::{read_answer, write_answer};
use crate::raft::query::QueryCall;
use crate::raft::snapshot_stream::{Chunk, Head, Reply};
use crate::raft::{on_behalf, traced, wire};
use crate::store::Loaded;
use bytes::{Bytes, BytesMut};
use std::path::Path;

/// [`crate::store::canonical::write_canonical`] without extensions.
pub fn write_canonical(input: &Path, output: &Path) -> Result<(), Refused> {
    crate::store::canonical::write_canonical(input, output, &Loaded::none())
}

/// Kinds of messages that [`echo`] knows.
pub const MESSAGES: u8 = 16;

/// Reads a message between members, of kind `0..MESSAGES`, and writes again what was understood; none if it makes no sense.
pub fn echo(kind: u8, mut message: Bytes) -> Option<Bytes> {
    let mut out = BytesMut::new();
    match kind {
        0 => wire::put_append(&mut out, &wire::get_append(&mut message).ok()?),
        1 => wire::put_append_result(&mut out, &wire::get_append_result(&mut message).ok()?),
        2 => wire::put_vote_request(&mut out, &wire::get_vote_request(&mut message).ok()?),
        3 => wire::put_vote_response(&mut out, &wire::get_vote_response(&mut message).ok()?),
        4 => wire::put_entry(&mut out, &wire::get_entry(&mut message).ok()?),
        5 => return Some(Hello::decode(message).ok()?.encode()),
        6 => Head::get(&mut message).ok()?.put(&mut out),
        7 => Reply::get(&mut message).ok()?.put(&mut out),
        8 => Chunk::get(0, &mut message).ok()?.put(0, &mut out),
        9 => return Some(Said::decode(message).ok()?.encode()),
        10 => {
            let (call, request) = QueryCall::decode(message).ok()?;
            return Some(call.encode(&request));
        }
        11 => return Some(EncodedRequest::from_peer(message).ok()?.into_bytes()),
        12 => {
            let command = CommandView::parse(&message).ok()?;
            // The statements of a request are read by whoever applies it.
            for request in command.requests() {
                let mut statements = request.ok()?.statements();
                while let Some(statement) = statements.next().ok()? {
                    statement.params().try_for_each(|param| param.map(drop)).ok()?;
                }
            }
            command.sole_vacuum().ok()?;
            return Some(message);
        }
        13 => return Some(write_answer(read_answer(message))),
        14 => {
            let (parentage, kind, body) = traced::unpack(message).ok()?;
            return Some(traced::pack(&parentage, kind, &body));
        }
        _ => {
            let (asker, kind, body) = on_behalf::unpack(message).ok()?;
            return Some(on_behalf::pack(asker.user.as_deref(), asker.needs, kind, &body));
        }
    }
    Some(out.freeze())
}
