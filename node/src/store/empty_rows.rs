//! Rows without content: cells of a table whose payload is empty, without even the size of a header. SQLite never writes
//! one. Its `integrity_check` takes it for a row of NULLs, because of the byte that lies behind it on the page; VACUUM copies
//! the cell and leaves behind it what was in a buffer, so that a file that is sound becomes a damaged one. Found by fuzzing
//! (`node/fuzz`, target `database`).
//!
//! Source: <https://www.sqlite.org/fileformat2.html>, "B-tree Pages", "Record Format".

use super::pages;
use std::fs::File;
use std::io::{self, BufReader, Read as _};
use std::path::Path;

/// Of a page's first byte: a leaf of a table.
const TABLE_LEAF: u8 = 13;
/// Bytes before the cell pointers of a leaf.
const LEAF_HEADER: usize = 8;
/// Bytes of the file's header, on its first page.
const FILE_HEADER: usize = 100;
/// Bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Whether a database that VACUUM has just written has one.
///
/// Such a file has no free pages, so that each is of a B-tree or goes on with the content of a row; those begin with a page's
/// number, whose first byte is that of a leaf only in files of more than 800 GiB. Sizes are written there in as few bytes as
/// they take: an empty payload is one byte, 0.
pub fn has_some(path: &Path) -> io::Result<bool> {
    let mut file = BufReader::with_capacity(BUFFER, File::open(path)?);
    let mut beginning = [0; FILE_HEADER];
    file.read_exact(&mut beginning)?;
    let page_size =
        pages::page_size(&beginning).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut page = vec![0; page_size];
    page[..FILE_HEADER].copy_from_slice(&beginning);
    file.read_exact(&mut page[FILE_HEADER..])?;
    if on_page(&page, FILE_HEADER) {
        return Ok(true);
    }
    loop {
        match file.read_exact(&mut page) {
            Ok(()) if on_page(&page, 0) => return Ok(true),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Of a page whose B-tree header is at `at`.
fn on_page(page: &[u8], at: usize) -> bool {
    let header = &page[at..];
    if header[0] != TABLE_LEAF {
        return false;
    }
    let cells = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let mut pointers = header[LEAF_HEADER..].chunks_exact(2).take(cells);
    pointers.any(|pointer| page.get(usize::from(u16::from_be_bytes([pointer[0], pointer[1]]))) == Some(&0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rusqlite::Connection;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn a_row_without_content_is_found_and_what_sqlite_writes_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.sqlite");
        for page_size in [512, 4096, 65536] {
            drop(std::fs::remove_file(&path));
            let connection = Connection::open(&path).unwrap();
            let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)";
            connection
                .execute_batch(&format!(
                    "PRAGMA page_size={page_size}; CREATE TABLE t(a); CREATE TABLE large(a); CREATE INDEX i ON t(a);
                     {rows} INSERT INTO t SELECT CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE i END FROM n;
                     {rows} INSERT INTO large SELECT zeroblob(i * 500) FROM n;
                     CREATE TABLE one(a); INSERT INTO one VALUES(NULL); VACUUM"
                ))
                .unwrap();
            let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'one'";
            let root: u32 = connection.query_row(root, [], |row| row.get(0)).unwrap();
            connection.close().unwrap();
            assert!(!has_some(&path).unwrap(), "{page_size}");
            // Its only cell is at the end of the page: a payload of two bytes, row 1, and padding.
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0, 1, 0, 0], u64::from(root) * page_size - 4).unwrap();
            assert!(has_some(&path).unwrap(), "{page_size}");
        }
    }
}
