//! `tracestate`: what other systems of tracing say to themselves along a trace. It is handed on as it came.

use std::fmt;
use std::sync::Arc;

/// How many members it may have; the standard says so, as of [`TraceState::LONGEST`].
const MEMBERS: usize = 32;
/// Members longer than this go first where all is too long.
const LONG_MEMBER: usize = 128;

/// What the header says; mostly nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TraceState(Option<Arc<str>>);

impl TraceState {
    /// The longest that is handed on, in bytes.
    pub const LONGEST: usize = 512;

    /// The lines of the header, in order. What the standard does not allow counts as nothing; of what is too long, whole
    /// members go: long ones, then the oldest.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let members = lines.flat_map(|line| line.split(',')).map(|member| member.trim_matches([' ', '\t']));
        let mut members: Vec<&str> = members.filter(|member| !member.is_empty()).collect();
        if members.len() > MEMBERS || !members.iter().all(|member| is_member(member)) {
            return Self::default();
        }
        let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
        // With one comma less.
        let is_too_long = |members: &[&str]| length(members) > Self::LONGEST + 1;
        while is_too_long(&members)
            && let Some(at) = members.iter().rposition(|member| member.len() > LONG_MEMBER)
        {
            members.remove(at);
        }
        while is_too_long(&members) {
            members.pop();
        }
        Self::of(&members.join(","))
    }

    /// As another member had it.
    pub fn of(text: &str) -> Self {
        Self(Some(text).filter(|text| !text.is_empty()).map(Arc::from))
    }

    /// As it is handed on; empty if it says nothing. At most [`Self::LONGEST`] bytes.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Debug for TraceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// `key=value`: a key of lower-case letters, digits and `_-*/@`, a value of visible characters and blanks.
fn is_member(text: &str) -> bool {
    let Some((key, value)) = text.split_once('=') else { return false };
    let is_key = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let begins = key.bytes().next().is_some_and(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9'));
    begins
        && key.len() <= 256
        && key.bytes().all(is_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_standard_allows_is_handed_on() {
        let many = |n: usize| (0..n).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join(",");
        let long = format!("a={}", "x".repeat(200));
        let short = format!("b={}", "y".repeat(100));
        for (lines, expected) in [
            (vec!["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            (vec!["a=1", "b=2"], "a=1,b=2"),
            (vec![" a=1 ,, b=2\t"], "a=1,b=2"),
            (vec!["tenant@system=1"], "tenant@system=1"),
            (vec!["0a=b c"], "0a=b c"),
            (vec![], ""),
            (vec!["a"], ""),
            (vec!["A=1"], ""),
            (vec!["a=1,b"], ""),
            (vec!["=1"], ""),
            (vec!["a="], ""),
            (vec!["a=1=2"], ""),
            (vec!["a=ä"], ""),
            (vec![&*many(32)], &*many(32)),
            (vec![&*many(33)], ""),
            // A long one goes before what is shorter, and the last before the first.
            (vec![&*long, &*long, "c=1", &*long], &*format!("{long},{long},c=1")),
            (vec![&*short, &*short, &*short, &*short, &*short, "c=1"], &*[&*short; 4].join(",")),
        ] {
            let state = TraceState::parse(lines.iter().copied());
            assert_eq!(state.as_str(), expected, "{lines:?}");
            assert!(state.as_str().len() <= TraceState::LONGEST);
            assert_eq!(TraceState::of(state.as_str()), state);
        }
    }
}
