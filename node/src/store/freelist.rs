//! Pages of the file that hold nothing: which they are differs for no two replicas, what is in them may.
//!
//! Source: <https://www.sqlite.org/fileformat2.html#the_freelist>.

use super::apply::LocalFailure;
use rusqlite::{Connection, OptionalExtension};
use std::collections::HashSet;

/// The free list, as page 1 tells of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freelist {
    /// Its first trunk page; 0 if it is empty.
    pub first: u32,
    /// How many pages are on it.
    pub count: u32,
}

impl Freelist {
    /// From the bytes of page 1.
    pub fn of(page1: &[u8]) -> Self {
        Self { first: be_u32(page1, 32), count: be_u32(page1, 36) }
    }

    /// That of the present state of a database.
    pub fn read(connection: &Connection) -> Result<Self, LocalFailure> {
        Ok(page(connection, 1)?.map(|page1| Self::of(&page1)).unwrap_or_default())
    }

    /// The pages on it: trunks, and the leaves that they name.
    pub fn pages(self, connection: &Connection) -> Result<Vec<u32>, LocalFailure> {
        let (mut pages, mut trunks) = (Vec::new(), HashSet::new());
        let mut trunk = self.first;
        // Never more than the count says, nor round and round, so that a damaged list ends.
        while trunk != 0 && pages.len() < self.count as usize && trunks.insert(trunk) {
            pages.push(trunk);
            let Some(content) = page(connection, trunk)? else { break };
            let leaves = (be_u32(&content, 4) as usize).min(content.len() / 4 - 2);
            pages.extend((0..leaves).map(|leaf| be_u32(&content, 8 + 4 * leaf)));
            trunk = be_u32(&content, 0);
        }
        Ok(pages)
    }
}

fn page(connection: &Connection, number: u32) -> Result<Option<Vec<u8>>, LocalFailure> {
    let read = || {
        let sql = "SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1";
        // Not from the cache, which the statements of users share.
        connection.prepare(sql)?.query_row([number], |row| row.get(0)).optional()
    };
    read().map_err(|source| LocalFailure::Sqlite { what: "read a page", source })
}

/// The big-endian number at `at`.
pub fn be_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}
