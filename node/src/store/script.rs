//! SQL text of many statements, as a dump is: cut into its statements, without the transaction around them.

use std::io::{self, Read};

/// A statement of a text that comes in pieces is at most so long, in bytes: what SQLite is set to take.
const LONGEST: usize = 16 << 20;
/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// What SQLite takes for space. Whatever else Unicode calls so belongs to a name.
const SPACE: [char; 5] = [' ', '\t', '\n', '\r', '\u{c}'];

/// The statements of `text`. What a dump says about its own transaction and about foreign keys is left out: the whole
/// is one transaction anyway.
pub fn statements(text: &str) -> Vec<&str> {
    let mut all = split(text);
    all.retain(|statement| !is_framing(statement));
    all
}

/// The same of a text that is read as it is needed.
pub struct Statements<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    is_all: bool,
    splitter: Splitter,
}

impl<R: Read> Statements<R> {
    /// Of what `source` reads.
    pub fn of(source: R) -> Self {
        Self { source, buffer: Vec::new(), start: 0, is_all: false, splitter: Splitter::default() }
    }

    /// The next one; none at the end.
    pub fn next(&mut self) -> io::Result<Option<&str>> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let range = loop {
            let Some((length, says)) = self.splitter.end(&self.buffer[self.start..], self.is_all) else {
                if self.is_all {
                    return Ok(None);
                }
                if self.buffer.len() - self.start > LONGEST {
                    return Err(invalid("a statement is longer than 16 MiB"));
                }
                self.buffer.drain(..std::mem::take(&mut self.start));
                self.is_all = self.read()? == 0;
                continue;
            };
            let range = self.start..self.start + length;
            self.start = range.end;
            let text = str::from_utf8(&self.buffer[range.clone()]);
            let text = text.map_err(|_| invalid("it is neither a database nor SQL text in UTF-8"))?;
            if says && !is_framing(text.trim_matches(SPACE)) {
                break range;
            }
        };
        // Looked at above.
        Ok(str::from_utf8(&self.buffer[range]).ok().map(|text| text.trim_matches(SPACE)))
    }

    fn read(&mut self) -> io::Result<usize> {
        let known = self.buffer.len();
        self.buffer.resize(known + PIECE, 0);
        let read = loop {
            match self.source.read(&mut self.buffer[known..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(known + *read.as_ref().unwrap_or(&0));
        read
    }
}

/// Whether a statement only says what is so anyway.
fn is_framing(statement: &str) -> bool {
    let words: Vec<String> = statement
        .trim_end_matches(|c: char| c == ';' || c.is_whitespace())
        .split(|c: char| c.is_whitespace() || c == '=')
        .filter(|word| !word.is_empty())
        .take(4)
        .map(str::to_ascii_uppercase)
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(
        words[..],
        ["BEGIN" | "COMMIT" | "END"]
            | ["BEGIN" | "COMMIT" | "END", "TRANSACTION"]
            | ["BEGIN", "IMMEDIATE" | "EXCLUSIVE" | "DEFERRED"]
            | ["BEGIN", "IMMEDIATE" | "EXCLUSIVE" | "DEFERRED", "TRANSACTION"]
            | ["PRAGMA", "FOREIGN_KEYS", "OFF" | "ON" | "0" | "1"]
    )
}

/// Where in a statement the text is, as `sqlite3_complete()` tells it: a semicolon within a trigger ends no statement.
/// Source: <https://www.sqlite.org/c3ref/complete.html> and `complete.c`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    Normal,
    Explain,
    Create,
    Trigger,
    Semicolon,
    End,
}

#[derive(Clone, Copy)]
enum Token {
    Semicolon,
    Space,
    Other,
    Explain,
    Create,
    Temp,
    Trigger,
    End,
}

fn next_state(state: State, token: Token) -> State {
    use State as S;
    use Token as T;
    match (state, token) {
        (state, T::Space) => state,
        (S::Trigger, T::Semicolon) => S::Semicolon,
        (S::Trigger, _) => S::Trigger,
        (S::Semicolon, T::Semicolon) => S::Semicolon,
        (S::Semicolon, T::End) => S::End,
        (S::Semicolon, _) => S::Trigger,
        (S::End, T::Semicolon) => S::Start,
        (S::End, _) => S::Trigger,
        (_, T::Semicolon) => S::Start,
        (S::Start, T::Explain) => S::Explain,
        (S::Start | S::Explain, T::Create) => S::Create,
        (S::Explain, T::Other) => S::Explain,
        (S::Create, T::Temp) => S::Create,
        (S::Create, T::Trigger) => S::Trigger,
        _ => S::Normal,
    }
}

/// Finds where a statement ends. It remembers how far it looked, so that more bytes may come.
struct Splitter {
    at: usize,
    state: State,
    is_empty: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { at: 0, state: State::Start, is_empty: true }
    }
}

impl Splitter {
    /// The length of the statement that `bytes` begins with, and whether it says anything; then the next one is looked for.
    /// None: it does not end here, and more is needed unless `is_all`.
    fn end(&mut self, bytes: &[u8], is_all: bool) -> Option<(usize, bool)> {
        while self.at < bytes.len() {
            let (token, length) = token(&bytes[self.at..]);
            if !is_all && self.at + length == bytes.len() {
                // It may go on.
                return None;
            }
            self.at += length;
            self.is_empty &= matches!(token, Token::Space | Token::Semicolon);
            self.state = next_state(self.state, token);
            if matches!(token, Token::Semicolon) && self.state == State::Start {
                let Self { at, is_empty, .. } = std::mem::take(self);
                return Some((at, !is_empty));
            }
        }
        if self.at == 0 || !is_all {
            return None;
        }
        let Self { at, is_empty, .. } = std::mem::take(self);
        Some((at, !is_empty))
    }
}

fn split(text: &str) -> Vec<&str> {
    let mut splitter = Splitter::default();
    let (mut statements, mut start) = (Vec::new(), 0);
    while let Some((length, says)) = splitter.end(&text.as_bytes()[start..], true) {
        if says {
            statements.push(text[start..start + length].trim_matches(SPACE));
        }
        start += length;
    }
    statements
}

/// The first token, as far as it matters, and its length in bytes.
fn token(bytes: &[u8]) -> (Token, usize) {
    let until = |end: &[u8], from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.windows(end.len()).position(|w| w == end).map_or(bytes.len(), |n| from + n + end.len())
    };
    match bytes[0] {
        b';' => (Token::Semicolon, 1),
        byte if SPACE.contains(&char::from(byte)) => (Token::Space, 1),
        b'/' if bytes.get(1) == Some(&b'*') => (Token::Space, until(b"*/", 2)),
        b'-' if bytes.get(1) == Some(&b'-') => (Token::Space, until(b"\n", 2)),
        b'[' => (Token::Other, until(b"]", 1)),
        // A doubled quote ends one string and begins the next: the same in the end.
        quote @ (b'\'' | b'"' | b'`') => (Token::Other, until(&[quote], 1)),
        byte if is_word(byte) => {
            let length = bytes.iter().position(|b| !is_word(*b)).unwrap_or(bytes.len());
            let is = |word: &[u8]| bytes[..length].eq_ignore_ascii_case(word);
            let token = if is(b"CREATE") {
                Token::Create
            } else if is(b"TRIGGER") {
                Token::Trigger
            } else if is(b"TEMP") || is(b"TEMPORARY") {
                Token::Temp
            } else if is(b"END") {
                Token::End
            } else if is(b"EXPLAIN") {
                Token::Explain
            } else {
                Token::Other
            };
            (token, length)
        }
        _ => (Token::Other, 1),
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_by_table() {
        for (text, expected) in [
            ("", &[][..]),
            (" ; ;\n-- nothing\n;/* at all */", &[]),
            ("SELECT 1", &["SELECT 1"]),
            ("SELECT 1;; SELECT 2 ; ", &["SELECT 1;", "SELECT 2 ;"]),
            (
                "INSERT INTO t VALUES('a;''b', \";\", `;`, [;]) -- ;\n; x",
                &["INSERT INTO t VALUES('a;''b', \";\", `;`, [;]) -- ;\n;", "x"],
            ),
            ("SELECT 'open; to the end", &["SELECT 'open; to the end"]),
            (
                "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT CASE WHEN 1 THEN 2 END; END; SELECT 3;",
                &[
                    "CREATE TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; SELECT CASE WHEN 1 THEN 2 END; END;",
                    "SELECT 3;",
                ],
            ),
            (
                "create temp trigger x begin select 1; end ; y",
                &["create temp trigger x begin select 1; end ;", "y"],
            ),
            ("CREATE TABLE trigger_log(a); b", &["CREATE TABLE trigger_log(a);", "b"]),
            (
                "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(a);\nCOMMIT;\n",
                &["CREATE TABLE t(a);"],
            ),
            ("begin immediate;pragma FOREIGN_KEYS = on;END TRANSACTION;BEGIN x", &["BEGIN x"]),
            ("\u{b}", &["\u{b}"]),
            ("\u{a0}x ;\t\u{c}y\u{a0}", &["\u{a0}x ;", "y\u{a0}"]),
            ("PRAGMA user_version=3; é;ü", &["PRAGMA user_version=3;", "é;", "ü"]),
        ] {
            assert_eq!(statements(text), expected, "{text}");
            // Also if it comes byte by byte.
            let mut read = Statements::of(OneByOne(text.as_bytes()));
            let mut all = Vec::new();
            while let Some(statement) = read.next().unwrap() {
                all.push(statement.to_owned());
            }
            assert_eq!(all, expected, "{text}");
        }
    }

    struct OneByOne<'a>(&'a [u8]);

    impl Read for OneByOne<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(buffer.len()).min(1);
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        let endless = Read::chain(&b"SELECT '"[..], io::repeat(b'x'));
        let error = Statements::of(endless).next().unwrap_err();
        assert!(error.to_string().contains("longer than 16 MiB"), "{error}");
        let binary = Statements::of(&b"\xff\xfe;"[..]).next().unwrap_err();
        assert!(binary.to_string().contains("neither a database nor SQL text"), "{binary}");
    }
}
