//! What a body of JSON is, where the library that reads it does not tell.

use serde::de::IgnoredAny;

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

/// Whether it is JSON from its first byte to its last, whatever of.
pub fn is_json(body: &[u8]) -> bool {
    // What is ignored is not looked at as text.
    std::str::from_utf8(body).is_ok()
        && serde_json::from_slice::<IgnoredAny>(body).is_ok()
        && !has_lone_surrogate(body)
}

/// Whether a string of the JSON has one half of a character that is written as two escapes.
fn has_lone_surrogate(json: &[u8]) -> bool {
    let escape = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let next = |from: usize| Some(from + json.get(from..)?.iter().position(|byte| *byte == b'\\')?);
    let mut from = 0;
    while let Some(at) = next(from) {
        from = match (escape(at), escape(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at + 12,
            (Some(0xD800..=0xDFFF), _) => return true,
            // With what is escaped, which may be a backslash.
            _ => at + 2,
        };
    }
    false
}

/// Of the numbers that are a negative zero, in order: whether each is written as an integer. The library takes all of them
/// for real numbers.
pub fn negative_zeros(json: &[u8]) -> impl Iterator<Item = bool> + '_ {
    let begins = move |at: usize| !matches!(at.checked_sub(1).map(|before| json[before]), Some(b'e' | b'E'));
    let minuses = outside_strings(json).filter(move |(at, byte, _)| *byte == b'-' && begins(*at));
    minuses.filter_map(move |(at, ..)| {
        let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let number = &json[at..at + json[at..].iter().take_while(is_part).count()];
        let value: f64 = serde_json::from_slice(number).ok()?;
        (value == 0.0).then_some(number == b"-0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json() {
        for (body, expected) in [
            (&b"[1, \"x\", {\"a\": [null]}]"[..], true),
            (b"7", true),
            (b"", false),
            (b"[1", false),
            (b"[1] x", false),
            (br#"["\ud83d\ude00", "\\ud800", "\u00e9", "\n"]"#, true),
            (br#"["\ud800"]"#, false),
            (br#"["\ud800x"]"#, false),
            (br#"["\ude00\ud83d"]"#, false),
            (br#"["\\\ud83d\n"]"#, false),
            (b"[\"\xc3\xa9\"]", true),
            (b"[\"\xc3\"]", false),
        ] {
            assert_eq!(is_json(body), expected, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn negative_zeros_by_table() {
        for (json, expected) in [
            ("[0, 1, -1, -0.5, 1e-0, 1E-0]", &[][..]),
            ("[-0, \"-0\", -0.0, {\"-0\": -0}]", &[true, false, true]),
            ("-0", &[true]),
            ("[-0e7,-1e-999,-0 ]", &[false, false, true]),
        ] {
            assert_eq!(negative_zeros(json.as_bytes()).collect::<Vec<_>>(), expected, "{json}");
        }
    }
}
