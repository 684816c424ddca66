//! Further images of members, beside the one that the tests are given.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;

/// An image of members with this tag and, if a directory is named, with that as `/extensions`; given to the Kubernetes under
/// test. Returns its name.
pub fn make(tag: &str, extensions: Option<&Path>) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("image-with.sh");
    let made = Command::new(script).arg(tag).args(extensions).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?.trim().to_owned())
}
