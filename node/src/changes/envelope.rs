//! Changes as clients see them: the envelope of the sink, the entries of a stream.

use crate::store::{Gap, Part, write_str};
use regex::Regex;
use serde::Deserialize;
use std::borrow::Cow;

/// Which changes a reader wants.
pub struct Wanted(Option<Regex>);

impl Wanted {
    /// Those of tables that `pattern` matches; of all, if there is none.
    pub fn new(pattern: Option<&str>) -> Result<Self, regex::Error> {
        pattern.filter(|pattern| !pattern.is_empty()).map(Regex::new).transpose().map(Self)
    }

    /// Appends those of `events`, with commas; returns whether there were any. `begun`: some of this entry came before.
    pub fn push(&self, out: &mut Vec<u8>, events: &[u8], begun: bool) -> bool {
        let mut any = begun;
        for event in events.split(|byte| *byte == b'\n') {
            if !self.takes(event) {
                continue;
            }
            if std::mem::replace(&mut any, true) {
                out.push(b',');
            }
            out.extend_from_slice(event);
        }
        any
    }

    fn takes(&self, event: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Table<'a> {
            #[serde(borrow)]
            table: Cow<'a, str>,
        }
        let Some(filter) = &self.0 else { return true };
        serde_json::from_slice::<Table<'_>>(event).is_ok_and(|event| filter.is_match(&event.table))
    }
}

/// Appends `{"index":N,"commit_timestamp":N,"events":[`.
pub fn push_entry_head(out: &mut Vec<u8>, index: u64, at_ms: i64) {
    out.extend_from_slice(b"{\"index\":");
    out.extend_from_slice(itoa::Buffer::new().format(index).as_bytes());
    out.extend_from_slice(b",\"commit_timestamp\":");
    out.extend_from_slice(itoa::Buffer::new().format(at_ms).as_bytes());
    out.extend_from_slice(b",\"events\":[");
}

/// `{"service_id"?,"node_id","payload":[…]}`
pub struct Envelope {
    bytes: Vec<u8>,
    entry: Option<u64>,
    entries: usize,
    /// How many changes are in it.
    pub events: u64,
}

impl Envelope {
    /// Without changes.
    pub fn new(service_id: &str, node_id: &str) -> Self {
        let mut bytes = b"{".to_vec();
        if !service_id.is_empty() {
            bytes.extend_from_slice(b"\"service_id\":");
            write_str(&mut bytes, service_id);
            bytes.push(b',');
        }
        bytes.extend_from_slice(b"\"node_id\":");
        write_str(&mut bytes, node_id);
        bytes.extend_from_slice(b",\"payload\":[");
        Self { bytes, entry: None, entries: 0, events: 0 }
    }

    /// How many entries it has parts of.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Its size so far, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn begin(&mut self, entry: u64, at_ms: i64) -> bool {
        if self.entry == Some(entry) {
            return true;
        }
        if self.entry.is_some() {
            self.bytes.extend_from_slice(b"]},");
        }
        self.entry = Some(entry);
        self.entries += 1;
        push_entry_head(&mut self.bytes, entry, at_ms);
        false
    }

    /// Adds a part of an entry.
    pub fn push(&mut self, part: &Part) {
        let begun = self.begin(part.cursor.entry(), part.at_ms);
        Wanted(None).push(&mut self.bytes, &part.events, begun);
        self.events += part.count;
    }

    /// Says that changes are missing.
    pub fn push_gap(&mut self, gap: &Gap) {
        self.begin(gap.to, gap.at_ms);
        self.bytes.extend_from_slice(b"{\"op\":\"GAP\",\"table\":\"\",\"error\":");
        let message = format!(
            "{} changes of the entries {} to {} are missing: the sink was away for longer than max_bytes allows",
            gap.events, gap.from, gap.to
        );
        write_str(&mut self.bytes, &message);
        self.bytes.push(b'}');
    }

    /// The whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(if self.entry.is_some() { b"]}]}" } else { b"]}" });
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Cursor;

    fn part(entry: u64, events: &str) -> Part {
        let count = events.lines().count() as u64;
        let cursor = Cursor::after_entry(entry);
        Part { cursor, at_ms: 5, count, more: false, events: events.as_bytes().to_vec() }
    }

    #[test]
    fn an_envelope_is_as_rqlite_sends_it() {
        let (a, b) = (r#"{"op":"INSERT","table":"a"}"#, r#"{"op":"DELETE","table":"b"}"#);
        let mut envelope = Envelope::new("", "n\"1");
        envelope.push(&part(3, a));
        envelope.push(&part(3, b));
        envelope.push(&part(4, &format!("{a}\n{b}")));
        assert_eq!((envelope.entries(), envelope.events), (2, 4));
        let expected = format!(
            r#"{{"node_id":"n\"1","payload":[{{"index":3,"commit_timestamp":5,"events":[{a},{b}]}},{{"index":4,"commit_timestamp":5,"events":[{a},{b}]}}]}}"#
        );
        assert_eq!(String::from_utf8(envelope.finish()).unwrap(), expected);
        let mut envelope = Envelope::new("s", "n");
        envelope.push_gap(&Gap { from: 1, to: 2, events: 7, at_ms: 9 });
        let text = String::from_utf8(envelope.finish()).unwrap();
        assert!(text.starts_with(r#"{"service_id":"s","node_id":"n","payload":[{"index":2,"#), "{text}");
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    }

    #[test]
    fn a_reader_gets_the_tables_that_it_wants() {
        let events = br#"{"op":"INSERT","table":"a","after":{"x":9e999}}
{"op":"INSERT","table":"b"}
{"op":"INSERT","table":"a\"b"}"#;
        for (pattern, expected) in
            [(None, 3), (Some(""), 3), (Some("^a$"), 1), (Some("a"), 2), (Some("z"), 0)]
        {
            let mut out = Vec::new();
            assert_eq!(Wanted::new(pattern).unwrap().push(&mut out, events, false), expected > 0);
            let found = out.windows(4).filter(|part| part == b"\"op\"").count();
            assert_eq!(found, expected, "{pattern:?}");
        }
    }
}
