//! What was found out about a cluster and is believed for a while, so that a cluster at rest costs the API server nothing.

use crate::names::ClusterName;
use crate::pace::{Matter, Pace};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Values by cluster. A cluster that was created again is another one.
#[derive(Debug)]
pub struct Trusted<T> {
    entries: Arc<Mutex<HashMap<ClusterName, Entry<T>>>>,
    pace: Pace,
    /// None: what is believed says itself until when.
    matter: Option<Matter>,
}

#[derive(Debug)]
struct Entry<T> {
    uid: String,
    value: T,
    until: Option<Instant>,
}

impl<T> Clone for Trusted<T> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone(), pace: self.pace.clone(), matter: self.matter }
    }
}

impl<T> Default for Trusted<T> {
    /// Values that are believed until they turn out to be wrong.
    fn default() -> Self {
        Self { entries: Arc::default(), pace: Pace::default(), matter: None }
    }
}

impl<T> Trusted<T> {
    /// Values that are believed until the cluster's next turn.
    pub fn new(pace: &Pace, matter: Matter) -> Self {
        Self { pace: pace.clone(), matter: Some(matter), ..Self::default() }
    }

    /// Forgets clusters that are gone.
    pub fn retain(&self, exists: impl Fn(&ClusterName) -> bool) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| exists(name));
    }
}

impl<T: Clone> Trusted<T> {
    /// What is believed of a cluster.
    pub fn get(&self, name: &ClusterName, uid: &str) -> Option<T> {
        let known = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |entry: &&Entry<T>| entry.until.is_none_or(|until| Instant::now() < until);
        let entry = known.get(name).filter(|entry| entry.uid == uid).filter(holds)?;
        Some(entry.value.clone())
    }

    /// It was found just now.
    pub fn set(&self, name: &ClusterName, uid: &str, value: T) {
        let until = self.matter.map(|matter| self.pace.belief(matter, name));
        let entry = Entry { uid: uid.to_owned(), value, until };
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), entry);
    }

    /// It turned out to be wrong.
    pub fn forget(&self, name: &ClusterName) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_of_the_same_name_is_another_one() {
        let trusted = Trusted::new(&Pace::default(), Matter::OwnSecrets);
        let name = ClusterName::new("shop", "orders");
        trusted.set(&name, "u1", 1);
        assert_eq!((trusted.get(&name, "u1"), trusted.get(&name, "u2")), (Some(1), None));
        trusted.set(&name, "u2", 2);
        assert_eq!((trusted.get(&name, "u1"), trusted.get(&name, "u2")), (None, Some(2)));
        trusted.forget(&name);
        assert_eq!(trusted.get(&name, "u2"), None);
    }

    #[test]
    fn clusters_that_are_gone_are_forgotten() {
        let trusted = Trusted::default();
        let (stays, gone) = (ClusterName::new("shop", "orders"), ClusterName::new("shop", "carts"));
        for name in [&stays, &gone] {
            trusted.set(name, "u", 1);
        }
        trusted.retain(|name| *name == stays);
        assert_eq!((trusted.get(&stays, "u"), trusted.get(&gone, "u")), (Some(1), None));
    }
}
