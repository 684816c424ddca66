//! Query parameters as rqlite reads them: the first value wins, a flag is true by being there.

use percent_encoding::percent_decode_str;
use std::time::Duration;

/// Parameters that are durations wherever they are.
const DURATIONS: &[&str] = &["timeout", "freshness", "db_timeout", "linearizable_timeout"];
/// Parameters that are integers wherever they are.
const INTEGERS: &[&str] = &["retries", "trailing_logs"];

/// No request waits longer.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// The parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
}

/// A parameter that makes no sense; the message is the answer's body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadParam(pub String);

impl Params {
    /// Reads a query string.
    pub fn parse(query: Option<&str>) -> Result<Self, BadParam> {
        let mut pairs = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(key)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// The same, of a request: what rqlite knows must make sense on whichever path, also where it means nothing.
    pub fn of_request(query: Option<&str>) -> Result<Self, BadParam> {
        let params = Self::parse(query)?;
        DURATIONS.iter().try_for_each(|name| params.duration(name).map(drop))?;
        INTEGERS.iter().try_for_each(|name| params.integer(name).map(drop))?;
        if params.get("q") == Some("") {
            return Err(BadParam("query parameter not set".into()));
        }
        if params.flag("freshness_strict") && !params.flag("freshness") {
            return Err(BadParam("freshness_strict requires freshness".into()));
        }
        Ok(params)
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is there, whatever its value.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// A duration in Go's syntax.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, BadParam> {
        self.get(name)
            .map(|text| {
                parse_duration(text).ok_or_else(|| BadParam(format!("{name} is not a valid duration")))
            })
            .transpose()
    }

    /// How long something is waited for, at most [`LONGEST`]; `default` if `name` does not say it. In Go's programs 0 and less
    /// say that there is no bound of the request's own: then it is `default` too.
    pub fn patience(&self, name: &str, default: Duration) -> Result<Duration, BadParam> {
        let given = self.duration(name)?.filter(|given| !given.is_zero());
        Ok(given.unwrap_or(default).min(LONGEST))
    }

    /// An integer.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, BadParam> {
        self.get(name)
            .map(|text| text.parse().map_err(|_| BadParam(format!("{name} is not a valid integer"))))
            .transpose()
    }

    /// How much there may be of something; 0 is no bound.
    pub fn most(&self, name: &str) -> Result<Option<u64>, BadParam> {
        let given = self.integer(name)?.map(u64::try_from).transpose();
        let most = given.map_err(|_| BadParam(format!("{name} must not be negative")))?;
        Ok(most.filter(|most| *most > 0))
    }
}

fn decode(text: &str) -> Result<String, BadParam> {
    let bad = || BadParam(format!("malformed query parameter {text}"));
    let text = text.replace('+', " ");
    let bytes = text.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
        if *byte == b'%' && !(is_hex(i + 1) && is_hex(i + 2)) {
            return Err(bad());
        }
    }
    percent_decode_str(&text).decode_utf8().map(Into::into).map_err(|_| bad())
}

/// A duration as Go writes it: an optional sign, then numbers with units `ns us µs ms s m h`; or `0`. A negative one
/// counts as none.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        nanos += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if negative {
        return Some(Duration::ZERO);
    }
    (nanos < i64::MAX as f64).then(|| Duration::from_nanos(nanos.round() as u64))
}

/// A duration as Go reads it.
pub fn format_duration(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations_by_table() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("1.5s", ms(1500)),
            ("200ms", ms(200)),
            ("1h2m", ms(3_720_000)),
            ("0", ms(0)),
            ("0s", ms(0)),
            ("+1s", ms(1000)),
            ("-1s", ms(0)),
            ("100us", Some(Duration::from_micros(100))),
            ("100µs", Some(Duration::from_micros(100))),
            ("1s500ms", ms(1500)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1x", None),
            ("1..2s", None),
            ("-", None),
            ("9999999h9999999h", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }

    #[test]
    fn a_wait_of_no_time_is_the_usual_one() {
        let usual = Duration::from_secs(30);
        for (query, expected) in [
            (None, usual),
            (Some("timeout=0"), usual),
            (Some("timeout=0s"), usual),
            (Some("timeout=-5m"), usual),
            (Some("timeout=1ns"), Duration::from_nanos(1)),
            (Some("timeout=2m"), Duration::from_secs(120)),
            (Some("timeout=2000h"), LONGEST),
        ] {
            let params = Params::parse(query).unwrap();
            assert_eq!(params.patience("timeout", usual), Ok(expected), "{query:?}");
        }
        let params = Params::parse(Some("timeout=5")).unwrap();
        let wrong = BadParam("timeout is not a valid duration".into());
        assert_eq!(params.patience("timeout", usual), Err(wrong));
    }

    #[test]
    fn first_value_wins_and_flags_count_by_presence() {
        let p = Params::parse(Some("pretty=false&level=none&level=weak&q=a%20b+c&&x")).unwrap();
        assert!(p.flag("pretty") && p.flag("x") && !p.flag("y"));
        assert_eq!((p.get("level"), p.get("q")), (Some("none"), Some("a b c")));
        assert_eq!(p.duration("level"), Err(BadParam("level is not a valid duration".into())));
        assert!(Params::parse(Some("q=%zz")).is_err());
    }
}
