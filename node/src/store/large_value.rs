//! Long texts and BLOBs as JSON in pieces: whoever takes a result on need not have room for all of one.

use super::encode::{Sink, Stopped};
use super::value::{self, Affinity};
use rusqlite::types::ValueRef;

/// Values of more bytes are written in pieces of so many. A multiple of three, of which Base64 makes four.
pub const PIECE: usize = 48 << 10;

/// Whether a value is to be written in pieces.
pub fn is_large(value: ValueRef<'_>, affinity: Affinity) -> bool {
    match value {
        // A time is a short text, or none.
        ValueRef::Text(text) => text.len() > PIECE && affinity != Affinity::Time,
        ValueRef::Blob(blob) => blob.len() > PIECE,
        _ => false,
    }
}

/// Writes a large value as [`value::write_value`] does. Where the sink stops, what it has is JSON nevertheless.
pub fn write(sink: &mut dyn Sink, value: ValueRef<'_>, blob_array: bool) -> Result<(), Stopped> {
    let is_array = blob_array && matches!(value, ValueRef::Blob(_));
    let (open, close) = if is_array { (b'[', b']') } else { (b'"', b'"') };
    sink.buffer().push(open);
    let written = match value {
        ValueRef::Text(text) => write_text(sink, text),
        ValueRef::Blob(blob) if is_array => {
            in_pieces(blob.chunks(PIECE).enumerate(), sink, |out, (i, piece)| {
                if i > 0 {
                    out.push(b',');
                }
                value::write_integers(out, piece);
            })
        }
        ValueRef::Blob(blob) => in_pieces(blob.chunks(PIECE), sink, value::write_base64),
        // None of these is large.
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => Ok(()),
    };
    sink.buffer().push(close);
    written
}

fn write_text(sink: &mut dyn Sink, text: &[u8]) -> Result<(), Stopped> {
    let mut replaced = 0;
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE));
            value::write_escaped(sink.buffer(), piece);
            sink.part_written()?;
            rest = after;
        }
        if !chunk.invalid().is_empty() {
            sink.buffer().extend_from_slice("\u{FFFD}".as_bytes());
            replaced += 1;
            // A text may have nothing else.
            if replaced % (PIECE / 3) == 0 {
                sink.part_written()?;
            }
        }
    }
    Ok(())
}

fn in_pieces<T>(
    pieces: impl Iterator<Item = T>,
    sink: &mut dyn Sink,
    write: impl Fn(&mut Vec<u8>, T),
) -> Result<(), Stopped> {
    for piece in pieces {
        write(sink.buffer(), piece);
        sink.part_written()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Notes the most that it held, passes on what it is given, and stops after so many bytes.
    struct Through {
        buffer: Vec<u8>,
        passed: Vec<u8>,
        most: usize,
        ends: usize,
    }

    impl Through {
        fn until(ends: usize) -> Self {
            Self { buffer: Vec::new(), passed: Vec::new(), most: 0, ends }
        }

        fn all(mut self) -> Vec<u8> {
            self.passed.append(&mut self.buffer);
            self.passed
        }
    }

    impl Sink for Through {
        fn buffer(&mut self) -> &mut Vec<u8> {
            &mut self.buffer
        }

        fn part_written(&mut self) -> Result<(), Stopped> {
            self.most = self.most.max(self.buffer.len());
            self.passed.append(&mut self.buffer);
            if self.passed.len() > self.ends { Err(Stopped) } else { Ok(()) }
        }
    }

    #[test]
    fn pieces_are_what_the_whole_is() {
        let long = |text: &[u8]| text.iter().copied().cycle().take(3 * PIECE + 7).collect::<Vec<u8>>();
        for bytes in [
            long(b"plain"),
            long("grüße \u{1F600}\n\"\\\u{1}".as_bytes()),
            long(b"no \xff text \xe2\x82"),
            long(b"\xff"),
            long(b"\x01"),
            vec![b'x'; 2 * PIECE],
        ] {
            for (value, blob_array) in [
                (ValueRef::Text(&bytes), false),
                (ValueRef::Blob(&bytes), false),
                (ValueRef::Blob(&bytes), true),
            ] {
                assert!(is_large(value, Affinity::Plain));
                let mut whole = Vec::new();
                value::write_value(&mut whole, value, Affinity::Plain, blob_array);
                let mut through = Through::until(usize::MAX);
                write(&mut through, value, blob_array).unwrap();
                assert!(through.most <= 6 * PIECE + 8, "{}", through.most);
                assert!(through.all() == whole, "{value:.20?}");
                let mut through = Through::until(PIECE);
                assert_eq!(write(&mut through, value, blob_array), Err(Stopped));
                let cut = through.all();
                // A byte becomes six at most, and the part after which it stops is whole.
                assert!(cut.len() < whole.len() && cut.len() <= 2 * 6 * PIECE + 8, "{}", cut.len());
                serde_json::from_slice::<serde_json::Value>(&cut).unwrap();
            }
        }
    }

    #[test]
    fn short_values_and_times_are_written_at_once() {
        let text = vec![b'x'; PIECE + 1];
        for (value, affinity, expected) in [
            (ValueRef::Text(&text), Affinity::Plain, true),
            (ValueRef::Text(&text), Affinity::Boolean, true),
            (ValueRef::Text(&text), Affinity::Time, false),
            (ValueRef::Text(&text[1..]), Affinity::Plain, false),
            (ValueRef::Blob(&text), Affinity::Time, true),
            (ValueRef::Integer(1), Affinity::Plain, false),
        ] {
            assert_eq!(is_large(value, affinity), expected, "{affinity:?}");
        }
    }
}
