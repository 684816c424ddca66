//! Indents compact JSON by four spaces while it passes through, for `?pretty`.

/// Where in the text the indenter is.
#[derive(Debug, Default)]
pub struct Indenter {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// An array or object was opened and nothing came yet: it may stay `[]` or `{}`.
    just_opened: bool,
}

impl Indenter {
    /// Appends `json`, the next piece of the compact text, to `out`.
    pub fn push(&mut self, json: &[u8], out: &mut Vec<u8>) {
        for &byte in json {
            if self.in_string {
                out.push(byte);
                if self.escaped {
                    self.escaped = false;
                } else if byte == b'\\' {
                    self.escaped = true;
                } else if byte == b'"' {
                    self.in_string = false;
                }
                continue;
            }
            let closes = matches!(byte, b']' | b'}');
            if self.just_opened && !closes {
                self.new_line(out);
            }
            match byte {
                b'[' | b'{' => {
                    self.depth += 1;
                    out.push(byte);
                }
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if !self.just_opened {
                        self.new_line(out);
                    }
                    out.push(byte);
                }
                b',' => {
                    out.push(byte);
                    self.new_line(out);
                }
                b':' => out.extend_from_slice(b": "),
                _ => {
                    self.in_string = byte == b'"';
                    out.push(byte);
                }
            }
            self.just_opened = matches!(byte, b'[' | b'{');
        }
    }

    fn new_line(&self, out: &mut Vec<u8>) {
        out.push(b'\n');
        out.resize(out.len() + 4 * self.depth, b' ');
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn indents_whatever_the_pieces() {
        let json = br#"{"results":[{"columns":["a\",]"],"values":[[1,null],[]]},{}],"time":0.5}"#;
        let expected = "{\n    \"results\": [\n        {\n            \"columns\": [\n                \"a\\\",]\"\n            ],\n            \"values\": [\n                [\n                    1,\n                    null\n                ],\n                []\n            ]\n        },\n        {}\n    ],\n    \"time\": 0.5\n}";
        for size in [1, 2, 3, 7, 1000] {
            let (mut indenter, mut out) = (Indenter::default(), Vec::new());
            json.chunks(size).for_each(|piece| indenter.push(piece, &mut out));
            assert_eq!(String::from_utf8(out).unwrap(), expected, "pieces of {size}");
        }
    }
}
