//! What a member forwards for a client: the leader looks at its own users once more whether who asks may.
//!
//! ```text
//! call     = kind u8 · needs u16 · user (length u32 · name; empty: whoever it is) · body of the call of that kind
//! answer   = 0 · answer of that call | 1 (not authorized)
//! question = the same with the kind of a question on a connection of its own; the leader says first whether they may
//! ```
//! The password stays with the member that it was sent to, which has checked it: the leader needs to know the name, not to
//! be able to use it elsewhere. So it also makes no difference that one of two passwords of a user is not known everywhere
//! yet, while they are exchanged. A member of an older version would hang up at such a call, so a leader is asked first
//! whether it takes them ([`super::traced`]); one that does not trusts the other, as it always did.

use super::Consensus;
use super::calls::{CallError, Kind};
use super::connection::ConnectError;
use super::stream_calls::{PeerStream, StreamKind};
use super::waiters::Leadership;
use super::wire::{WireError, get_str, get_u8, put_bytes};
use crate::auth::{Caller, Permissions};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use std::io;
use std::time::Duration;

/// How long the leader may take to say whether who asks may.
const VERDICT: Duration = Duration::from_secs(5);
/// What it says if they may not.
const NOT_AUTHORIZED: &str = "not authorized";

/// Who asks, as the leader is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Asker {
    /// The user; none: whoever it is.
    pub user: Option<String>,
    /// What they must be allowed to do.
    pub needs: Permissions,
}

/// A call, or a question, of `kind` for somebody.
pub fn pack(user: Option<&str>, needs: Permissions, kind: u8, body: &[u8]) -> Bytes {
    let user = user.unwrap_or_default();
    let mut whole = BytesMut::with_capacity(7 + user.len() + body.len());
    whole.put_u8(kind);
    whole.put_u16_le(needs.bits());
    put_bytes(&mut whole, user.as_bytes());
    whole.put_slice(body);
    whole.freeze()
}

/// What [`pack`] put together.
pub fn unpack(mut whole: Bytes) -> Result<(Asker, u8, Bytes), WireError> {
    let kind = get_u8(&mut whole)?;
    let needs = whole.try_get_u16_le().map_err(|_| WireError("message: cut short"))?;
    let needs = Permissions::from_bits(needs);
    let user = Some(get_str(&mut whole)?).filter(|user| !user.is_empty());
    Ok((Asker { user, needs }, kind, whole))
}

/// The kind of the call that is inside of one for somebody.
pub(super) fn kind_inside(whole: &[u8]) -> Option<Kind> {
    whole.first().copied().and_then(Kind::from_u8)
}

impl Consensus {
    /// Calls the leader, for the present caller if there is one.
    pub(super) async fn call_for_caller(
        &self,
        leader: Leadership,
        address: &str,
        kind: Kind,
        body: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let Some(caller) = self.caller_for(leader, address).await? else {
            return self.peers.call(leader.node, address, kind, body, timeout).await;
        };
        let whole = pack(caller.user.as_deref(), caller.needs, kind as u8, body);
        let mut answer = self.peers.call(leader.node, address, Kind::OnBehalf, &whole, timeout).await?;
        match get_u8(&mut answer) {
            Ok(0) => Ok(answer),
            Ok(1) => Err(CallError::Unauthorized(caller.operation)),
            _ => Err(CallError::Remote("an answer to another question".into())),
        }
    }

    /// Asks the leader something large, for the present caller if there is one.
    pub(super) async fn open_for_caller(
        &self,
        leader: Leadership,
        address: &str,
        kind: StreamKind,
        body: &[u8],
    ) -> Result<PeerStream, CallError> {
        let Some(caller) = self.caller_for(leader, address).await? else {
            return self.peers.open_stream(leader.node, address, kind, body).await;
        };
        let whole = pack(caller.user.as_deref(), caller.needs, kind as u8, body);
        let mut stream = self.peers.open_stream(leader.node, address, StreamKind::OnBehalf, &whole).await?;
        match stream.head(VERDICT).await {
            Ok(Ok(_)) => Ok(stream),
            Ok(Err(refused)) if refused == NOT_AUTHORIZED => Err(CallError::Unauthorized(caller.operation)),
            Ok(Err(refused)) => Err(CallError::Remote(refused)),
            // Nothing was done: the leader does nothing before it has said so.
            Err(error) => Err(ConnectError::unreachable(address, error).into()),
        }
    }

    /// Whom the leader is to be told of; none: nobody, or it does not listen.
    async fn caller_for(&self, leader: Leadership, address: &str) -> Result<Option<Caller>, CallError> {
        let Some(caller) = Caller::present() else { return Ok(None) };
        match self.taken_by(leader, address).await {
            Some(takes) => Ok(takes.callers.then_some(caller)),
            // Not without them, as long as it may be one that listens.
            None => Err(ConnectError::unreachable(address, io::ErrorKind::TimedOut).into()),
        }
    }

    /// Whether somebody may, by the users of this member.
    fn lets(&self, asker: &Asker) -> bool {
        let Some(auth) = &self.security.auth else { return true };
        let may = auth.may(asker.user.as_deref(), asker.needs);
        if !may {
            let (user, needs) = (asker.user.as_deref().unwrap_or_default(), asker.needs.names());
            tracing::info!(user, ?needs, "refused what another member forwarded: its user may not, here");
        }
        may
    }

    /// Answers a call for somebody.
    pub(super) async fn answer_on_behalf(&self, whole: Bytes) -> Result<Bytes, String> {
        let (asker, kind, body) = unpack(whole).map_err(|e| e.to_string())?;
        if !self.lets(&asker) {
            return Ok(Bytes::from_static(&[1]));
        }
        let answer = match Kind::from_u8(kind) {
            Some(Kind::Execute) => self.answer_execute(body).await?,
            Some(Kind::Query) => self.answer_query(body).await?,
            Some(Kind::Traced) => self.answer_traced(body).await?,
            Some(Kind::Administer) => self.answer_administer(&body).await?,
            _ => return Err("a call for somebody of a kind that is none".into()),
        };
        let mut out = BytesMut::with_capacity(1 + answer.len());
        out.put_u8(0);
        out.put_slice(&answer);
        Ok(out.freeze())
    }

    /// Says on a connection whether who asks may; then what they ask is to be answered.
    pub(super) async fn hear_on_behalf(
        &self,
        whole: Bytes,
        stream: &mut PeerStream,
    ) -> io::Result<Option<(StreamKind, Bytes)>> {
        let (asker, kind, body) = unpack(whole)?;
        let kind = StreamKind::from_u8(kind).filter(|kind| kind.is_for_clients());
        let kind = kind.ok_or(WireError("question for somebody: of a kind that is none"))?;
        if !self.lets(&asker) {
            stream.refuse(NOT_AUTHORIZED).await?;
            return Ok(None);
        }
        stream.accept(&[]).await?;
        Ok(Some((kind, body)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::auth::Permission;

    #[test]
    fn calls_come_apart_as_they_were_put_together() {
        let needs = Permissions::of(&[Permission::Query, Permission::Execute]);
        for user in [None, Some("alice"), Some("ålice ☃")] {
            let whole = pack(user, needs, Kind::Query as u8, b"body");
            assert_eq!(kind_inside(&whole), Some(Kind::Query));
            let (asker, kind, body) = unpack(whole.clone()).unwrap();
            assert_eq!(asker, Asker { user: user.map(str::to_owned), needs });
            assert_eq!((kind, &body[..]), (Kind::Query as u8, &b"body"[..]));
            // Whatever is missing of the head, nothing is read beyond it.
            for end in 0..whole.len() - body.len() {
                assert!(unpack(whole.slice(..end)).is_err(), "{user:?} {end}");
            }
        }
        assert_eq!(kind_inside(&[]), None);
    }
}
