//! SQLite values as JSON, as rqlite's clients expect them: the column's declared type decides where it says more than
//! the storage class does (boolean, date, datetime, timestamp).

use base64::Engine as _;
use rusqlite::types::ValueRef;
use std::io::Write as _;

/// What a declared type means for the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The storage class decides.
    Plain,
    /// Integers are `true` above 0, else `false`.
    Boolean,
    /// Text in SQLite's formats and integers (seconds, or milliseconds if larger than 1e12) are RFC 3339 times.
    Time,
}

impl Affinity {
    /// Of a declared type in lower case.
    pub fn of(declared: &str) -> Self {
        match declared {
            "boolean" => Self::Boolean,
            "date" | "datetime" | "timestamp" => Self::Time,
            _ => Self::Plain,
        }
    }
}

/// Name of the storage class, as in the `types` of a result without declared types.
pub fn storage_class(value: ValueRef<'_>) -> &'static str {
    match value {
        ValueRef::Null => "",
        ValueRef::Integer(_) => "integer",
        ValueRef::Real(_) => "real",
        ValueRef::Text(_) => "text",
        ValueRef::Blob(_) => "blob",
    }
}

/// Appends `value` as JSON.
pub fn write_value(out: &mut Vec<u8>, value: ValueRef<'_>, affinity: Affinity, blob_array: bool) {
    match (value, affinity) {
        (ValueRef::Null, _) => out.extend_from_slice(b"null"),
        (ValueRef::Integer(i), Affinity::Boolean) => {
            out.extend_from_slice(if i > 0 { b"true" } else { b"false" })
        }
        (ValueRef::Integer(i), Affinity::Time) => write_unix_time(out, i),
        (ValueRef::Integer(i), Affinity::Plain) => {
            out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes())
        }
        (ValueRef::Real(r), _) => write_real(out, r),
        (ValueRef::Text(t), Affinity::Time) if t.len() > LONGEST_TIME => out.extend_from_slice(ZERO_TIME),
        (ValueRef::Text(t), Affinity::Time) => write_text_time(out, t),
        (ValueRef::Text(t), _) => write_text(out, t),
        (ValueRef::Blob(b), _) if blob_array => {
            out.push(b'[');
            write_integers(out, b);
            out.push(b']');
        }
        (ValueRef::Blob(b), _) => {
            out.push(b'"');
            write_base64(out, b);
            out.push(b'"');
        }
    }
}

/// Shortest form that reads back as the same number; infinity, which JSON lacks, as a number no double can hold.
fn write_real(out: &mut Vec<u8>, r: f64) {
    if r.is_infinite() {
        out.extend_from_slice(if r > 0.0 { b"9e999" } else { b"-9e999" });
    } else {
        out.extend_from_slice(ryu_js::Buffer::new().format(r).as_bytes());
    }
}

/// Appends what is within a JSON array of the bytes as integers.
pub fn write_integers(out: &mut Vec<u8>, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(itoa::Buffer::new().format(*byte).as_bytes());
    }
}

/// Appends the bytes in Base64.
pub fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;
    let start = out.len();
    let room = bytes.len().div_ceil(3) * 4;
    out.resize(start + room, 0);
    let written = BASE64.encode_slice(bytes, &mut out[start..]).unwrap_or(0);
    out.truncate(start + written);
}

/// Appends `text` as a JSON string; bytes that are not UTF-8 become U+FFFD.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    match std::str::from_utf8(text) {
        Ok(text) => write_str(out, text),
        Err(_) => write_str(out, &String::from_utf8_lossy(text)),
    }
}

/// Appends `text` as a JSON string.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text);
    out.push(b'"');
}

/// Appends what is within the quotes of `text` as a JSON string.
pub fn write_escaped(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[copied..i]);
        if escape.is_empty() {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        } else {
            out.extend_from_slice(escape);
        }
        copied = i + 1;
    }
    out.extend_from_slice(&bytes[copied..]);
}

/// A longer text is no time, whatever digits its fraction has.
const LONGEST_TIME: usize = 1 << 10;
const ZERO_TIME: &[u8] = b"\"0001-01-01T00:00:00Z\"";

fn write_unix_time(out: &mut Vec<u8>, value: i64) {
    let time = if value.unsigned_abs() > 1_000_000_000_000 {
        jiff::Timestamp::from_millisecond(value)
    } else {
        jiff::Timestamp::from_second(value)
    };
    match time {
        // Writing to a Vec cannot fail.
        Ok(time) => drop(write!(out, "\"{time}\"")),
        Err(_) => out.extend_from_slice(ZERO_TIME),
    }
}

/// `YYYY-MM-DD[( |T)HH:MM[:SS[.fraction]]][Z|±HH:MM]`, the formats SQLite's date functions write and read.
fn write_text_time(out: &mut Vec<u8>, text: &[u8]) {
    match parse_time(text) {
        Some(t) => {
            out.push(b'"');
            out.extend_from_slice(t.date);
            out.push(b'T');
            out.extend_from_slice(t.clock);
            if t.clock.len() == 5 {
                out.extend_from_slice(b":00");
            }
            if !t.fraction.is_empty() {
                out.push(b'.');
                out.extend_from_slice(t.fraction);
            }
            out.extend_from_slice(t.offset);
            out.push(b'"');
        }
        None => out.extend_from_slice(ZERO_TIME),
    }
}

struct TextTime<'a> {
    date: &'a [u8],
    clock: &'a [u8],
    fraction: &'a [u8],
    offset: &'a [u8],
}

fn parse_time(text: &[u8]) -> Option<TextTime<'_>> {
    let text = text.strip_suffix(b"Z").unwrap_or(text);
    let (date, rest) = text.split_at_checked(10)?;
    let number = |digits: &[u8]| -> Option<i16> { std::str::from_utf8(digits).ok()?.parse().ok() };
    let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    let shape = |part: &[u8], separator: u8, at: &[usize]| {
        part.iter()
            .enumerate()
            .all(|(i, b)| if at.contains(&i) { *b == separator } else { b.is_ascii_digit() })
    };
    if !shape(date, b'-', &[4, 7]) {
        return None;
    }
    jiff::civil::Date::new(number(&date[..4])?, number(&date[5..7])? as i8, number(&date[8..])? as i8)
        .ok()?;
    let whole_day = TextTime { date, clock: b"00:00", fraction: b"", offset: b"Z" };
    let Some((b' ' | b'T', rest)) = rest.split_first() else {
        return rest.is_empty().then_some(whole_day);
    };
    let (rest, offset) = match rest.len().checked_sub(6) {
        Some(at) if matches!(rest[at], b'+' | b'-') && shape(&rest[at + 1..], b':', &[2]) => {
            rest.split_at(at)
        }
        _ => (rest, b"Z".as_slice()),
    };
    let (clock, fraction) = match rest.iter().position(|b| *b == b'.') {
        Some(dot) => (&rest[..dot], &rest[dot + 1..]),
        None => (rest, b"".as_slice()),
    };
    let valid_clock = match clock.len() {
        5 => shape(clock, b':', &[2]) && fraction.is_empty(),
        8 => shape(clock, b':', &[2, 5]) && number(&clock[6..])? < 60,
        _ => false,
    };
    if !valid_clock || number(&clock[..2])? > 23 || number(&clock[3..5])? > 59 {
        return None;
    }
    if !all_digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let kept = fraction.iter().rposition(|b| *b != b'0').map_or(0, |last| last + 1);
    Some(TextTime { date, clock, fraction: &fraction[..kept], offset })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn json(value: ValueRef<'_>, declared: &str) -> String {
        let mut out = Vec::new();
        write_value(&mut out, value, Affinity::of(declared), false);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_by_table() {
        let cases: &[(ValueRef<'_>, &str, &str)] = &[
            (ValueRef::Null, "boolean", "null"),
            (ValueRef::Integer(i64::MIN), "", "-9223372036854775808"),
            (ValueRef::Integer(0), "boolean", "false"),
            (ValueRef::Integer(2), "boolean", "true"),
            (ValueRef::Real(1.0), "", "1"),
            (ValueRef::Real(0.1), "", "0.1"),
            (ValueRef::Real(1e21), "", "1e+21"),
            (ValueRef::Real(1e-7), "", "1e-7"),
            (ValueRef::Real(f64::INFINITY), "", "9e999"),
            (ValueRef::Text(b"a\"\\\n\x01\xc3\xa9"), "", "\"a\\\"\\\\\\n\\u0001\u{e9}\""),
            (ValueRef::Text(b"\xff"), "", "\"\u{fffd}\""),
            (ValueRef::Blob(b""), "", "\"\""),
            (ValueRef::Blob(b"hello"), "blob", "\"aGVsbG8=\""),
            (ValueRef::Integer(1_700_000_000), "timestamp", "\"2023-11-14T22:13:20Z\""),
            (ValueRef::Integer(1_700_000_000_123), "datetime", "\"2023-11-14T22:13:20.123Z\""),
            (ValueRef::Text(b"2024-02-29"), "date", "\"2024-02-29T00:00:00Z\""),
            (ValueRef::Text(b"2024-02-30"), "date", "\"0001-01-01T00:00:00Z\""),
            (ValueRef::Text(b"2024-01-02 03:04"), "datetime", "\"2024-01-02T03:04:00Z\""),
            (ValueRef::Text(b"2024-01-02 03:04:05.120"), "datetime", "\"2024-01-02T03:04:05.12Z\""),
            (ValueRef::Text(b"2024-01-02T03:04:05Z"), "datetime", "\"2024-01-02T03:04:05Z\""),
            (ValueRef::Text(b"2024-01-02 03:04:05+02:00"), "datetime", "\"2024-01-02T03:04:05+02:00\""),
            (ValueRef::Text(b"2024-01-02 24:00"), "datetime", "\"0001-01-01T00:00:00Z\""),
            (ValueRef::Text(b"soon"), "datetime", "\"0001-01-01T00:00:00Z\""),
            (ValueRef::Text(b"2024-01-02"), "text", "\"2024-01-02\""),
        ];
        for (value, declared, expected) in cases {
            assert_eq!(json(*value, declared), *expected, "{value:?} {declared}");
        }
    }

    #[test]
    fn blobs_as_arrays() {
        let mut out = Vec::new();
        write_value(&mut out, ValueRef::Blob(&[0, 9, 255]), Affinity::Plain, true);
        assert_eq!(out, b"[0,9,255]");
    }
}
