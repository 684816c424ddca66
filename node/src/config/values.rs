//! What the flags were set to, read as what they are.

use super::ConfigError;
use super::flags;
use crate::http::params::parse_duration;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Whether a URL in `text` names a user or a password: `scheme://user:password@host`.
pub fn holds_credentials(text: &str) -> bool {
    text.split("://").skip(1).any(|rest| {
        let end = rest.find(|c: char| c.is_whitespace() || "/?#\"\\,".contains(c)).unwrap_or(rest.len());
        rest[..end].contains('@')
    })
}

/// Flags that were set, by name.
#[derive(Debug, Default)]
pub struct Values(BTreeMap<&'static str, Value>);

#[derive(Debug)]
struct Value {
    text: String,
    /// Where it was set, for messages: `flag -name`, `SQLITED_NAME`, `name in FILE`.
    from: String,
}

impl Values {
    /// Sets a flag, unless something that stands over it did.
    pub fn set(&mut self, name: &'static str, text: String, from: String) {
        self.0.entry(name).or_insert(Value { text, from });
    }

    /// Sets a flag that others can read, as they can the command line and the environment of a process; also if it was
    /// set before, with `again`.
    pub fn set_in_sight(
        &mut self,
        name: &'static str,
        text: String,
        from: String,
        again: bool,
    ) -> Result<(), ConfigError> {
        if holds_credentials(&text) {
            return Err(ConfigError::Invalid(format!(
                "{from}: a URL in it holds a user or a password, which others on this machine can read there: name a file \
                 that holds it instead"
            )));
        }
        if again {
            self.0.insert(name, Value { text, from });
        } else {
            self.set(name, text, from);
        }
        Ok(())
    }

    /// Whether it was set, whatever to.
    pub fn is_set(&self, name: &'static str) -> bool {
        self.0.contains_key(name)
    }

    pub fn text(&self, name: &'static str) -> &str {
        let default = flags::find(name).map_or("", |flag| flag.default);
        self.0.get(name).map_or(default, |value| value.text.as_str())
    }

    pub fn option(&self, name: &'static str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// Values separated by commas, without the empty ones.
    pub fn list(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.text(name).split(',').map(str::trim).filter(|value| !value.is_empty())
    }

    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.option(name).map(PathBuf::from)
    }

    pub fn bad<T>(&self, name: &'static str, what: &str) -> Result<T, ConfigError> {
        let from = self.0.get(name).map_or_else(|| format!("flag -{name}"), |value| value.from.clone());
        Err(ConfigError::Usage(format!("invalid value \"{}\" for {from}: {what}", self.text(name))))
    }

    pub fn boolean(&self, name: &'static str) -> Result<bool, ConfigError> {
        match self.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => self.bad(name, "not true or false"),
        }
    }

    pub fn number<T: std::str::FromStr>(&self, name: &'static str) -> Result<T, ConfigError> {
        self.text(name).parse().or_else(|_| self.bad(name, "not a number"))
    }

    pub fn duration(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        match self.option(name) {
            None => Ok(None),
            Some(text) => match parse_duration(&text) {
                Some(duration) => Ok(Some(duration)),
                None => self.bad(name, "not a duration such as 250ms or 3s"),
            },
        }
    }

    pub fn bytes(&self, name: &'static str) -> Result<u64, ConfigError> {
        let text = self.text(name);
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = match text[digits..].trim() {
            "" => 1,
            "KiB" | "Ki" => 1 << 10,
            "MiB" | "Mi" => 1 << 20,
            "GiB" | "Gi" => 1_u64 << 30,
            _ => return self.bad(name, "not a size such as 64MiB"),
        };
        match text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
            Some(bytes) => Ok(bytes),
            None => self.bad(name, "not a size such as 64MiB"),
        }
    }

    pub fn address(&self, name: &'static str, fallback: &str) -> Result<String, ConfigError> {
        let address = self.option(name).unwrap_or_else(|| fallback.to_owned());
        let valid = address
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if valid { Ok(address) } else { self.bad(name, "not host:port") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_by_table() {
        for (text, expected) in [
            ("https://user:pw@host", true),
            ("https://token@host:1/a", true),
            (r#"{"endpoint": "http://user:pw@host/a"}"#, true),
            ("http://a,http://user:pw@b", true),
            ("https://host/a@b", false),
            ("https://host?to=a@b", false),
            (r#"{"endpoint": "http://host", "to": "a@b"}"#, false),
            ("user@host", false),
            ("host:4001", false),
            ("", false),
        ] {
            assert_eq!(holds_credentials(text), expected, "{text}");
        }
    }
}
