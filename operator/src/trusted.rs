//! What was found out about a cluster and is believed for a while, so that a cluster at rest costs the API server nothing.

use crate::names::ClusterName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is believed.
const TRUST: Duration = Duration::from_secs(600);

/// Values by cluster. A cluster that was created again is another one.
#[derive(Debug)]
pub struct Trusted<T>(Arc<Mutex<HashMap<ClusterName, Entry<T>>>>);

#[derive(Debug)]
struct Entry<T> {
    uid: String,
    value: T,
    at: Instant,
}

impl<T> Clone for Trusted<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Trusted<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Trusted<T> {
    /// What is believed of a cluster.
    pub fn get(&self, name: &ClusterName, uid: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(name).filter(|entry| entry.uid == uid && entry.at.elapsed() < TRUST)?;
        Some(entry.value.clone())
    }

    /// It was found just now.
    pub fn set(&self, name: &ClusterName, uid: &str, value: T) {
        let entry = Entry { uid: uid.to_owned(), value, at: Instant::now() };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Clusters that are gone are forgotten by and by.
        known.retain(|_, entry| entry.at.elapsed() < TRUST);
        known.insert(name.clone(), entry);
    }

    /// It turned out to be wrong.
    pub fn forget(&self, name: &ClusterName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_of_the_same_name_is_another_one() {
        let trusted = Trusted::default();
        let name = ClusterName::new("shop", "orders");
        trusted.set(&name, "u1", 1);
        assert_eq!((trusted.get(&name, "u1"), trusted.get(&name, "u2")), (Some(1), None));
        trusted.set(&name, "u2", 2);
        assert_eq!((trusted.get(&name, "u1"), trusted.get(&name, "u2")), (None, Some(2)));
        trusted.forget(&name);
        assert_eq!(trusted.get(&name, "u2"), None);
    }
}
