//! SQL text of many statements, as a dump is: cut into its statements, without the transaction around them.

/// What SQLite takes for space. Whatever else Unicode calls so belongs to a name.
const SPACE: [char; 5] = [' ', '\t', '\n', '\r', '\u{c}'];

/// The statements of `text`. What a dump says about its own transaction and about foreign keys is left out: the whole
/// is one transaction anyway.
pub fn statements(text: &str) -> Vec<&str> {
    let mut all = split(text);
    all.retain(|statement| !is_framing(statement));
    all
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

fn split(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut statements = Vec::new();
    let (mut start, mut at, mut state) = (0, 0, State::Start);
    let mut is_empty = true;
    while at < bytes.len() {
        let (token, length) = token(&bytes[at..]);
        at += length;
        if !matches!(token, Token::Space | Token::Semicolon) {
            is_empty = false;
        }
        let before = state;
        state = next_state(state, token);
        let ended = matches!(token, Token::Semicolon) && state == State::Start;
        if ended && (before != State::Start || !is_empty) {
            statements.push(text[start..at].trim_matches(SPACE));
        }
        if ended {
            (start, is_empty) = (at, true);
        }
    }
    if !is_empty {
        statements.push(text[start..].trim_matches(SPACE));
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
        }
    }
}
