//! The file of YAML: a mapping of the flags' names to values. A flag that takes several values may have a list.

use super::ConfigError;
use super::flags;
use serde_yaml::Value;
use std::path::Path;

/// Flags that make no sense in a file.
const NOT_HERE: &[&str] = &["config", "check-config", "version"];

/// What a file sets.
pub struct InFile {
    /// The data directory.
    pub data_dir: Option<String>,
    /// Flags, by their names in the table.
    pub values: Vec<(&'static str, String)>,
}

/// Reads a file.
pub fn read(path: &Path) -> Result<InFile, ConfigError> {
    let of = |message: String| ConfigError::Invalid(format!("{}: {message}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| of(e.to_string()))?;
    let mut found = InFile { data_dir: None, values: Vec::new() };
    let mapping = match serde_yaml::from_str(&text).map_err(|e| of(e.to_string()))? {
        Value::Null => return Ok(found),
        Value::Mapping(mapping) => mapping,
        _ => return Err(of("not a mapping of names to values".into())),
    };
    for (key, value) in mapping {
        let key = scalar(&key).ok_or_else(|| of("a key is not a name".into()))?;
        let value = match &value {
            Value::Sequence(list) => {
                let list: Option<Vec<String>> = list.iter().map(scalar).collect();
                list.map(|list| list.join(","))
            }
            value => scalar(value),
        };
        let value = value.ok_or_else(|| of(format!("{key}: neither a value nor a list of values")))?;
        if key == "data-dir" {
            found.data_dir = Some(value);
            continue;
        }
        let flag = flags::settable(&key).filter(|(name, _)| !NOT_HERE.contains(name));
        let unknown = || of(format!("unknown key {key:?}; keys are the flags without their dash"));
        let (name, _) = flag.ok_or_else(unknown)?;
        found.values.push((name, value));
    }
    Ok(found)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null => Some(String::new()),
        _ => None,
    }
}
