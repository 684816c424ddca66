//! Request bodies: JSON straight into the bytes of a log entry, in one pass.

use crate::raft::command::{EncodedRequest, LARGEST_REQUEST, Param, RequestEncoder, RequestFlags, RequestId};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// Levels of a body of JSON; a list of statements has four at most.
const DEPTH: usize = 128;
/// Statements in one request.
pub const STATEMENTS: u32 = 1_000_000;

/// A body that is not a list of statements; the message is the answer's body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// An empty list.
    #[error("no statements")]
    NoStatements,
    /// Not JSON.
    #[error("invalid JSON body")]
    NotJson,
    /// JSON that nobody writes.
    #[error("the JSON is nested deeper than {DEPTH} levels")]
    TooDeep,
    /// JSON, but not a list of statements.
    #[error("invalid request")]
    Invalid,
    /// A parameter of a type that SQLite has not.
    #[error("unsupported type {0}")]
    UnsupportedType(&'static str),
    /// A PRAGMA that would change how the server works.
    #[error("disallowed pragma")]
    DisallowedPragma,
    /// More than a request may hold.
    #[error("too many {0} in one request")]
    TooMany(&'static str),
    /// Numbers and short statements take more bytes in the log than as JSON.
    #[error(
        "the statements and parameters are larger than {LARGEST_REQUEST} bytes; send them in several requests"
    )]
    TooLarge,
}

/// Reads a body of JSON: a list of statements, each a string or a list of a string and its parameters.
pub fn decode_json(body: &[u8], flags: RequestFlags, id: RequestId) -> Result<EncodedRequest, BadBody> {
    let mut decoder =
        Decoder { out: RequestEncoder::new(flags, body.len() + 16), elements: 0, problem: None };
    let mut json = serde_json::Deserializer::from_slice(body);
    let decoded = json.deserialize_any(List(&mut decoder)).and_then(|()| json.end());
    if decoded.is_err() {
        return Err(decoder.problem.unwrap_or_else(|| as_json(body)));
    }
    if decoder.elements == 0 {
        return Err(BadBody::NoStatements);
    }
    Ok(decoder.out.finish(id))
}

/// What is wrong with a body of JSON that is no list of statements.
fn as_json(body: &[u8]) -> BadBody {
    if is_too_deep(body) {
        return BadBody::TooDeep;
    }
    // One that is cut short may look like another kind of value first.
    match serde_json::from_slice::<IgnoredAny>(body) {
        Ok(_) => BadBody::Invalid,
        Err(_) => BadBody::NotJson,
    }
}

fn is_too_deep(body: &[u8]) -> bool {
    outside_strings(body).any(|(_, _, depth)| depth > DEPTH)
}

/// The bytes of JSON outside its strings: where each is, what it is, and how deep what follows it is.
pub fn outside_strings(json: &[u8]) -> impl Iterator<Item = (usize, u8, usize)> + '_ {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    json.iter().enumerate().filter_map(move |(at, byte)| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        (!in_string).then_some((at, *byte, depth))
    })
}

/// Takes a body of plain text as one statement.
pub fn decode_text(sql: &str, flags: RequestFlags, id: RequestId) -> Result<EncodedRequest, BadBody> {
    if is_disallowed_pragma(sql) {
        return Err(BadBody::DisallowedPragma);
    }
    let mut out = RequestEncoder::new(flags, sql.len() + 8);
    out.statement(sql);
    Ok(out.finish(id))
}

/// Whether the text begins with a PRAGMA that rqlite refuses for the whole request. What is hidden deeper in the text
/// is refused when it is compiled.
fn is_disallowed_pragma(sql: &str) -> bool {
    let sql = sql.trim_start();
    let Some(rest) =
        sql.get(..6).filter(|word| word.eq_ignore_ascii_case("pragma")).map(|_| sql[6..].trim_start())
    else {
        return false;
    };
    let rest = rest.to_ascii_lowercase();
    let rest = rest.split_once('.').map_or(rest.as_str(), |(_, name)| name).trim_start();
    if rest.starts_with("wal_checkpoint") {
        return true;
    }
    ["journal_mode", "wal_autocheckpoint", "synchronous", "query_only"]
        .iter()
        .filter_map(|name| rest.strip_prefix(name))
        .any(|rest| rest.trim_start().starts_with(['=', '(']))
}

struct Decoder {
    out: RequestEncoder,
    elements: u32,
    /// What is wrong, where the JSON library can only say that something is.
    problem: Option<BadBody>,
}

impl Decoder {
    fn fail<E: serde::de::Error>(&mut self, problem: BadBody) -> E {
        let error = E::custom(&problem);
        self.problem.get_or_insert(problem);
        error
    }

    fn statement<E: serde::de::Error>(&mut self, sql: &str) -> Result<(), E> {
        if is_disallowed_pragma(sql) {
            return Err(self.fail(BadBody::DisallowedPragma));
        }
        if self.elements > STATEMENTS {
            return Err(self.fail(BadBody::TooMany("statements")));
        }
        self.out.statement(sql);
        self.fits()
    }

    fn fits<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.out.is_too_large() { Err(self.fail(BadBody::TooLarge)) } else { Ok(()) }
    }

    fn param<E: serde::de::Error>(&mut self, name: Option<&str>, value: Param<'_>) -> Result<(), E> {
        if self.out.param(name, value) { self.fits() } else { Err(self.fail(BadBody::TooMany("parameters"))) }
    }
}

/// The list of statements.
struct List<'d>(&'d mut Decoder);

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of statements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Statement(self.0))?.is_some() {
            self.0.elements += 1;
        }
        Ok(())
    }
}

/// One statement.
struct Statement<'d>(&'d mut Decoder);

impl<'de> DeserializeSeed<'de> for Statement<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Statement<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or a list of a string and parameters")
    }

    fn visit_str<E: serde::de::Error>(self, sql: &str) -> Result<(), E> {
        self.0.statement(sql)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some(sql) = list.next_element::<Cow<'de, str>>()? else {
            return Err(A::Error::custom("an empty statement"));
        };
        self.0.statement(&sql)?;
        while list.next_element_seed(Value(self.0, None))?.is_some() {}
        Ok(())
    }
}

/// One parameter, or a list of named ones.
struct Value<'d, 'n>(&'d mut Decoder, Option<&'n str>);

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.0.param(self.1, Param::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.0.param(self.1, Param::Integer(value.into()))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.0.param(self.1, Param::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.0.param(self.1, Param::Integer(value)),
            Err(_) => self.0.param(self.1, Param::Real(value as f64)),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.0.param(self.1, Param::Real(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<(), E> {
        match blob_literal(value) {
            Some(blob) => self.0.param(self.1, Param::Blob(&blob)),
            None => self.0.param(self.1, Param::Text(value)),
        }
    }

    /// A list of bytes is a BLOB.
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut blob = Vec::new();
        loop {
            match list.next_element::<u8>() {
                Ok(Some(byte)) => blob.push(byte),
                Ok(None) => break,
                Err(_) => return Err(self.0.fail(BadBody::UnsupportedType("array"))),
            }
        }
        self.0.param(self.1, Param::Blob(&blob))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.1.is_some() {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Err(self.0.fail(BadBody::UnsupportedType("object")));
        }
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            map.next_value_seed(Value(self.0, Some(&name)))?;
        }
        Ok(())
    }
}

/// The bytes of a string of the form `X'hex'`.
fn blob_literal(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().strip_prefix(['x', 'X'])?.strip_prefix('\'')?.strip_suffix('\'')?;
    // `from_str_radix` would take a sign.
    if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decode(body: &str) -> Result<Vec<(String, String)>, BadBody> {
        let request = decode_json(body.as_bytes(), RequestFlags::default(), RequestId::default())?;
        let mut statements = request.view().unwrap().statements();
        let mut all = Vec::new();
        while let Some(s) = statements.next().unwrap() {
            let params = s.params().collect::<Result<Vec<_>, _>>().unwrap();
            all.push((s.sql.to_owned(), format!("{params:?}")));
        }
        Ok(all)
    }

    #[test]
    fn a_body_that_takes_more_in_the_log_than_a_request_may_is_refused() {
        // Two bytes each as JSON, nine in the log.
        let row = format!("[\"\"{}]", ",0".repeat(60_000));
        let rows = |n: usize| format!("[{}]", vec![row.as_str(); n].join(","));
        let decoded =
            |body: String| decode_json(body.as_bytes(), RequestFlags::default(), RequestId::default());
        let most = LARGEST_REQUEST / (9 * 60_000);
        assert!(decoded(rows(most - 1)).is_ok());
        assert_eq!(decoded(rows(most + 1)).unwrap_err(), BadBody::TooLarge);
    }

    #[test]
    fn bodies_by_table() {
        let one = |sql: &str, params: &str| Ok(vec![(sql.to_owned(), params.to_owned())]);
        for (body, expected) in [
            (r#"["SELECT 1"]"#, one("SELECT 1", "[]")),
            (r#"[["SELECT ?", null]]"#, one("SELECT ?", "[(None, Null)]")),
            (
                r#"[["S", true, -1, 1.5, "x"]]"#,
                one(
                    "S",
                    r#"[(None, Integer(1)), (None, Integer(-1)), (None, Real(1.5)), (None, Text("x"))]"#,
                ),
            ),
            (r#"[["S", 9223372036854775808]]"#, one("S", "[(None, Real(9.223372036854776e18))]")),
            (r#"[["S", 9223372036854775807]]"#, one("S", "[(None, Integer(9223372036854775807))]")),
            (r#"[["S", [1, 255]]]"#, one("S", "[(None, Blob([1, 255]))]")),
            (r#"[["S", " x'00fF' "]]"#, one("S", "[(None, Blob([0, 255]))]")),
            (r#"[["S", "x'0'"]]"#, one("S", r#"[(None, Text("x'0'"))]"#)),
            (
                r#"[["S", {"a": 1, "b\n": "y"}, 2]]"#,
                one("S", r#"[(Some("a"), Integer(1)), (Some("b\n"), Text("y")), (None, Integer(2))]"#),
            ),
            (r#"["line\nbreak"]"#, one("line\nbreak", "[]")),
            ("[]", Err(BadBody::NoStatements)),
            ("", Err(BadBody::NotJson)),
            ("[", Err(BadBody::NotJson)),
            ("{", Err(BadBody::NotJson)),
            (r#"["a"] x"#, Err(BadBody::NotJson)),
            (r#"{"a": 1}"#, Err(BadBody::Invalid)),
            ("[1]", Err(BadBody::Invalid)),
            ("[[]]", Err(BadBody::Invalid)),
            ("[[1]]", Err(BadBody::Invalid)),
            (r#"[[["S"]]]"#, Err(BadBody::Invalid)),
            (r#"[["S", [256]]]"#, Err(BadBody::UnsupportedType("array"))),
            (r#"[["S", {"a": {"b": 1}}]]"#, Err(BadBody::UnsupportedType("object"))),
            (r#"["PRAGMA journal_mode=DELETE"]"#, Err(BadBody::DisallowedPragma)),
            (r#"["pragma main . synchronous = 0"]"#, Err(BadBody::DisallowedPragma)),
            (r#"["PRAGMA wal_checkpoint"]"#, Err(BadBody::DisallowedPragma)),
            (r#"["PRAGMA journal_mode"]"#, one("PRAGMA journal_mode", "[]")),
        ] {
            assert_eq!(decode(body), expected, "{body}");
        }
    }

    #[test]
    fn deep_json_is_refused() {
        let nested = |levels: usize| decode(&format!("{}{}", "[".repeat(levels), "]".repeat(levels)));
        assert_eq!(nested(100_000), Err(BadBody::TooDeep));
        assert_eq!(nested(DEPTH + 1), Err(BadBody::TooDeep));
        assert_eq!(nested(DEPTH), Err(BadBody::Invalid), "no list of statements either way");
        assert_eq!(decode(&"[".repeat(100_000)), Err(BadBody::TooDeep), "and cut short");
        // In the place of a parameter.
        let inside = format!(r#"[["S", {}1{}]]"#, r#"{"a":"#.repeat(200), "}".repeat(200));
        assert_eq!(decode(&inside), Err(BadBody::UnsupportedType("object")));
        // Brackets in text are none.
        assert_eq!(decode(&format!(r#"{{"a\"": "{}"}}"#, "[".repeat(200))), Err(BadBody::Invalid));
    }
}
