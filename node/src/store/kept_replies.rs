//! Answers that are kept for clients who may send a request again (`Idempotency-Key`).
//!
//! Who lost the answer to a write cannot know whether it was applied. Sent again under the same key it is not run again,
//! on whichever member: it is answered as it was the first time, for [`KEPT`] of entry time. The answers are part of the
//! replicated state, written in the transaction of their entry:
//! ```text
//! _sqlited_replies(key BLOB PRIMARY KEY, expires INTEGER (µs since 1970), fingerprint BLOB, reply BLOB (NULL: too large))
//! ```
//! The table is made by the first request that has a key. It has no rowids: writing to it does not change
//! `last_insert_rowid()`; what it does to `changes()` comes after the entry's counters were taken.
//!
//! Source: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>.

use super::encode;
use crate::raft::command::{IdempotencyKey, RequestView};
use rusqlite::{Connection, MAIN_DB, OptionalExtension, params};
use sha2::{Digest, Sha256};
use std::ffi::CStr;
use std::time::Duration;

/// How long an answer is kept, by the clock of the entries.
pub const KEPT: Duration = Duration::from_secs(600);
/// The largest answer that is kept, in bytes.
pub const LARGEST: usize = 64 << 10;
/// Some that are no longer kept go with each entry that brings new ones: more than one may bring on average. How many is
/// part of the text, because SQLite compiles a statement again each time a LIMIT is bound.
const SWEEP: &str = "/* own */ DELETE FROM _sqlited_replies WHERE key IN
    (SELECT key FROM _sqlited_replies WHERE expires <= ?1 ORDER BY expires, key LIMIT 1000)";
const TABLE: &CStr = c"_sqlited_replies";

const USED_OTHERWISE: &str = "this Idempotency-Key was used for another request";
const TOO_LARGE: &str = "not run again: it was applied under this Idempotency-Key before, and its answer was too large to be kept";

/// A request that has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    key: IdempotencyKey,
    /// Of what is asked: another request under the same key is a mistake.
    fingerprint: [u8; 16],
}

/// The answer to one, to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReply {
    of: Keyed,
    reply: Option<Vec<u8>>,
}

impl Keyed {
    /// `request`, if it has a key.
    pub fn of(request: &RequestView<'_>) -> Option<Self> {
        let key = request.key?;
        let mut hash = Sha256::new();
        hash.update(request.flags.0.to_le_bytes());
        hash.update(request.body());
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.finalize()[..16]);
        Some(Self { key, fingerprint })
    }

    /// This request's answer, to be kept.
    pub fn answered(self, reply: &[u8]) -> KeptReply {
        KeptReply { of: self, reply: (reply.len() <= LARGEST).then(|| reply.to_vec()) }
    }

    /// What it is answered without being run: it is among `present`, of the same entry, or was applied before `now`.
    pub fn known(
        &self,
        present: &[KeptReply],
        connection: &Connection,
        now: i64,
    ) -> rusqlite::Result<Option<Vec<u8>>> {
        let kept = match present.iter().find(|kept| kept.of.key == self.key) {
            Some(kept) => Some(kept.clone()),
            None => self.stored(connection, now)?,
        };
        Ok(kept.map(|kept| {
            let refuse = |message| {
                let mut output = Vec::new();
                encode::write_error(&mut output, message, false);
                output
            };
            match kept.reply {
                _ if kept.of != *self => refuse(USED_OTHERWISE),
                Some(reply) => reply,
                None => refuse(TOO_LARGE),
            }
        }))
    }

    fn stored(&self, connection: &Connection, now: i64) -> rusqlite::Result<Option<KeptReply>> {
        if !connection.table_exists(Some(MAIN_DB), TABLE)? {
            return Ok(None);
        }
        let sql = "/* own */ SELECT fingerprint, reply FROM _sqlited_replies WHERE key = ?1 AND expires > ?2";
        connection
            .prepare_cached(sql)?
            .query_row(params![self.key, now], |row| {
                let of = Self { key: self.key, fingerprint: row.get(0)? };
                Ok(KeptReply { of, reply: row.get(1)? })
            })
            .optional()
    }
}

/// Keeps answers of an entry whose time is `now`, and throws away some that have been kept long enough. Part of the
/// entry's transaction.
pub fn keep(connection: &Connection, replies: &[KeptReply], now: i64) -> rusqlite::Result<()> {
    if replies.is_empty() {
        return Ok(());
    }
    if connection.table_exists(Some(MAIN_DB), TABLE)? {
        connection.prepare_cached(SWEEP)?.execute([now])?;
    } else {
        connection.execute_batch(
            "CREATE TABLE _sqlited_replies(key BLOB PRIMARY KEY, expires INTEGER NOT NULL, fingerprint BLOB NOT NULL,
                reply BLOB) WITHOUT ROWID;
             CREATE INDEX _sqlited_replies_by_time ON _sqlited_replies(expires)",
        )?;
    }
    let sql = "/* own */ INSERT OR REPLACE INTO _sqlited_replies(key, expires, fingerprint, reply) VALUES(?1, ?2, ?3, ?4)";
    let mut insert = connection.prepare_cached(sql)?;
    let expires = now.saturating_add(KEPT.as_micros() as i64);
    for KeptReply { of, reply } in replies {
        insert.execute(params![of.key, expires, of.fingerprint, reply])?;
    }
    Ok(())
}
