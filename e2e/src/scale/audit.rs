//! What the API server was asked by one user, read from its audit log.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;

/// The log, and how far it was read.
pub struct Audit {
    path: PathBuf,
    position: u64,
}

/// Requests by verb and resource.
pub type Requests = BTreeMap<String, u64>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    object_ref: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    resource: Option<String>,
    subresource: Option<String>,
}

impl Audit {
    /// A log that the API server writes.
    pub fn of(path: PathBuf) -> Self {
        Self { path, position: 0 }
    }

    /// What was asked since the last call.
    pub fn since(&mut self) -> Result<Requests> {
        let mut file =
            File::open(&self.path).with_context(|| format!("{} cannot be read", self.path.display()))?;
        file.seek(SeekFrom::Start(self.position))?;
        let mut reader = BufReader::new(file);
        let mut requests = Requests::new();
        let mut text = String::new();
        loop {
            text.clear();
            let length = reader.read_line(&mut text)?;
            // The rest of a line that is being written is read next time.
            if length == 0 || !text.ends_with('\n') {
                return Ok(requests);
            }
            self.position += length as u64;
            if let Some(name) = counted(&text)? {
                *requests.entry(name).or_default() += 1;
            }
        }
    }
}

/// What a line is counted as. A watch counts when it begins, everything else when it is done.
fn counted(text: &str) -> Result<Option<String>> {
    let line: Line = serde_json::from_str(text)?;
    let counts = if line.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
    if line.stage != counts {
        return Ok(None);
    }
    let object = line.object_ref.and_then(|object| {
        let resource = object.resource?;
        Some(object.subresource.map_or_else(|| resource.clone(), |sub| format!("{resource}/{sub}")))
    });
    Ok(Some(format!("{} {}", line.verb, object.unwrap_or_else(|| "other".to_owned()))))
}

/// Their sum.
pub fn total(requests: &Requests) -> u64 {
    requests.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once() {
        let line = |stage: &str, verb: &str, object: &str| {
            format!(r#"{{"kind":"Event","stage":"{stage}","verb":"{verb}"{object}}}"#)
        };
        let pods = r#","objectRef":{"resource":"pods","namespace":"a"}"#;
        let status = r#","objectRef":{"resource":"sqliteclusters","subresource":"status"}"#;
        for (text, expected) in [
            (line("ResponseStarted", "watch", pods), Some("watch pods")),
            (line("ResponseComplete", "watch", pods), None),
            (line("ResponseComplete", "patch", status), Some("patch sqliteclusters/status")),
            (line("ResponseComplete", "get", ""), Some("get other")),
        ] {
            assert_eq!(counted(&text).unwrap().as_deref(), expected, "{text}");
        }
    }
}
