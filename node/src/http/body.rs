//! Request bodies: JSON straight into the bytes of a log entry, in one pass.

use super::json::{is_json, negative_zeros, outside_strings};
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
    let decoder = Decoder::read(body, flags)?;
    if decoder.has_disallowed_pragma { Err(BadBody::DisallowedPragma) } else { Ok(decoder.out.finish(id)) }
}

/// The same, of statements that are not run: any PRAGMA may be among them.
pub fn decode_json_to_show(
    body: &[u8],
    flags: RequestFlags,
    id: RequestId,
) -> Result<EncodedRequest, BadBody> {
    Ok(Decoder::read(body, flags)?.out.finish(id))
}

/// What is wrong with a body, of which reading says `problem`, if it can say.
fn whats_wrong(body: &[u8], problem: Option<BadBody>) -> BadBody {
    match problem {
        // However it goes on.
        Some(problem @ (BadBody::TooMany(_) | BadBody::TooLarge)) => problem,
        // One that is cut short may look like another kind of value first.
        Some(problem) if is_too_deep(body) || is_json(body) => problem,
        Some(_) => BadBody::NotJson,
        None if is_too_deep(body) => BadBody::TooDeep,
        None if is_json(body) => BadBody::Invalid,
        None => BadBody::NotJson,
    }
}

fn is_too_deep(body: &[u8]) -> bool {
    outside_strings(body).any(|(_, _, depth)| depth > DEPTH)
}

/// Takes a body of plain text as one statement.
pub fn decode_text(sql: &str, flags: RequestFlags, id: RequestId) -> Result<EncodedRequest, BadBody> {
    if is_disallowed_pragma(sql) {
        return Err(BadBody::DisallowedPragma);
    }
    Ok(encode_text(sql, flags, id))
}

/// The same, of a statement that is not run.
pub fn encode_text(sql: &str, flags: RequestFlags, id: RequestId) -> EncodedRequest {
    let mut out = RequestEncoder::new(flags, sql.len() + 8);
    out.statement(sql);
    out.finish(id)
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

struct Decoder<'b> {
    body: &'b [u8],
    out: RequestEncoder,
    elements: u32,
    has_disallowed_pragma: bool,
    /// Of the negative zeros that come, which are integers; looked for once there is one.
    negative_zeros: Option<Box<dyn Iterator<Item = bool> + 'b>>,
    /// What is wrong, where the JSON library can only say that something is.
    problem: Option<BadBody>,
}

impl<'b> Decoder<'b> {
    fn read(body: &'b [u8], flags: RequestFlags) -> Result<Self, BadBody> {
        let mut decoder = Self {
            body,
            out: RequestEncoder::new(flags, body.len() + 16),
            elements: 0,
            has_disallowed_pragma: false,
            negative_zeros: None,
            problem: None,
        };
        let mut json = serde_json::Deserializer::from_slice(body);
        let decoded = json.deserialize_any(List(&mut decoder)).and_then(|()| json.end());
        match decoded {
            Err(_) => Err(whats_wrong(body, decoder.problem)),
            Ok(()) if decoder.elements == 0 => Err(BadBody::NoStatements),
            Ok(()) => Ok(decoder),
        }
    }

    fn fail<E: serde::de::Error>(&mut self, problem: BadBody) -> E {
        let error = E::custom(&problem);
        self.problem.get_or_insert(problem);
        error
    }

    fn statement<E: serde::de::Error>(&mut self, sql: &str) -> Result<(), E> {
        self.has_disallowed_pragma |= is_disallowed_pragma(sql);
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

    /// A number that the JSON library takes for a real one.
    fn real(&mut self, value: f64) -> Param<'static> {
        let body = self.body;
        if value == 0.0
            && value.is_sign_negative()
            && self.negative_zeros.get_or_insert_with(|| Box::new(negative_zeros(body))).next() == Some(true)
        {
            return Param::Integer(0);
        }
        Param::Real(value)
    }
}

/// The list of statements.
struct List<'d, 'b>(&'d mut Decoder<'b>);

impl<'de> Visitor<'de> for List<'_, '_> {
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
struct Statement<'d, 'b>(&'d mut Decoder<'b>);

impl<'de> DeserializeSeed<'de> for Statement<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Statement<'_, '_> {
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
struct Value<'d, 'b, 'n>(&'d mut Decoder<'b>, Option<&'n str>);

impl<'de> DeserializeSeed<'de> for Value<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_, '_> {
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
        let value = self.0.real(value);
        self.0.param(self.1, value)
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
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

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
    fn real_numbers_are_read_as_they_are_written() {
        let mut random = StdRng::seed_from_u64(1);
        let any =
            std::iter::repeat_with(|| f64::from_bits(random.random())).filter(|n| n.is_finite()).take(10_000);
        for n in any.chain([926.286_909_756_665_1, 0.1 + 0.2, 1e23, 5e-324, f64::MAX, f64::MIN_POSITIVE]) {
            // The shortest text that stands for it and for no other.
            let expected = Ok(vec![("S".to_owned(), format!("[(None, Real({n:?}))]"))]);
            assert_eq!(decode(&format!(r#"[["S", {n:?}]]"#)), expected);
        }
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
            // Integers first, as Go reads them.
            (
                r#"[["S", -0, -0.0, "-0", {"a": -0}, 0, 1e-0, -1e-999]]"#,
                one(
                    "S",
                    r#"[(None, Integer(0)), (None, Real(-0.0)), (None, Text("-0")), (Some("a"), Integer(0)), (None, Integer(0)), (None, Real(1.0)), (None, Real(-0.0))]"#,
                ),
            ),
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
            // Not JSON, whatever it begins as.
            (r#"[["S", [1"#, Err(BadBody::NotJson)),
            (r#"[["S", ["x""#, Err(BadBody::NotJson)),
            (r#"[["S", {"a":{"#, Err(BadBody::NotJson)),
            (r#"[["S", {"a": {"b": 1}}]"#, Err(BadBody::NotJson)),
            (r#"["PRAGMA journal_mode=x""#, Err(BadBody::NotJson)),
            (r#"["PRAGMA journal_mode"]"#, one("PRAGMA journal_mode", "[]")),
        ] {
            assert_eq!(decode(body), expected, "{body}");
        }
    }

    #[test]
    fn text_that_is_none_is_no_json() {
        let decoded = |body: &[u8]| decode_json(body, RequestFlags::default(), RequestId::default());
        for body in [
            &b"[\"\xff\"]"[..],
            b"[[\"S\", \"\xc3\"]]",
            b"[[\"S\", [\"\xff\"]]]",
            br#"["\ud800"]"#,
            br#"[["S", "\udc00"]]"#,
            br#"[["S", ["\ud800"]]]"#,
            br#"[7, "\ud800"]"#,
        ] {
            assert_eq!(decoded(body).unwrap_err(), BadBody::NotJson, "{}", String::from_utf8_lossy(body));
        }
        assert!(decoded(br#"[["S", "\ud83d\ude00"]]"#).is_ok());
    }

    #[test]
    fn what_is_only_shown_may_be_any_pragma() {
        let (flags, id) = (RequestFlags::default(), RequestId::default());
        let body = br#"["PRAGMA journal_mode=DELETE"]"#;
        assert_eq!(decode_json(body, flags, id).unwrap_err(), BadBody::DisallowedPragma);
        assert_eq!(decode_json_to_show(body, flags, id).unwrap().view().unwrap().count, 1);
        assert_eq!(decode_json_to_show(&body[..9], flags, id).unwrap_err(), BadBody::NotJson);
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
