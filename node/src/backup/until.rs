//! Up to when an archive is known to have everything, while nothing is written: entries alone cannot tell a quiet time from
//! one whose writes are not archived yet.
//!
//! ```text
//! name = archived/<epoch>     content = JSON, sealed ([`super::seal`]); written over at most once a minute
//! ```

use super::objects::{ObjectError, Objects};
use serde::{Deserialize, Serialize};

/// The largest that is read.
const LARGEST: usize = 4096;

/// Everything that was written up to a moment is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedUntil {
    /// The last entry then.
    pub index: u64,
    /// The moment, in microseconds since 1970.
    pub time_us: i64,
}

fn name_of(epoch: u64) -> String {
    format!("archived/{epoch:08}")
}

impl ArchivedUntil {
    /// Writes it into the store, over what was said of the epoch before.
    pub async fn put(&self, objects: &Objects, epoch: u64) -> Result<(), ObjectError> {
        let text = serde_json::to_vec(self).map_err(|error| ObjectError::Local(error.into()))?;
        objects.put_sealed(&name_of(epoch), text.into()).await.map(drop)
    }

    /// What is said of the archive of an epoch. What cannot be opened or read says nothing: nothing is lost without it.
    pub async fn read(objects: &Objects, epoch: u64) -> Result<Option<Self>, ObjectError> {
        let name = name_of(epoch);
        match objects.get_sealed(&name, LARGEST, None).await {
            Ok(text) => {
                let read = serde_json::from_slice(&text);
                Ok(read.inspect_err(|error| tracing::warn!(%error, name, "makes no sense")).ok())
            }
            Err(ObjectError::Missing(_)) => Ok(None),
            Err(ObjectError::Seal(error)) => {
                tracing::warn!(%error, "up to when everything is archived cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
