//! Work for clusters that waits for somebody slow, as a store of backups: it is done beside the reconciles, at most one of a
//! kind for a cluster at a time, and the next reconcile reads what it came to. Forgotten with the process.

use crate::names::ClusterName;
use crate::stores::{Guarded, Triggers};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// For how long the outcome for a cluster is kept that nobody asks for any more.
const FORGET: Duration = Duration::from_secs(3_600);

/// Errands of a kind, by cluster, with what they came to.
pub struct Errands<T>(Arc<Mutex<HashMap<ClusterName, Errand<T>>>>);

struct Errand<T> {
    /// What it was for: another one makes the outcome worthless.
    purpose: String,
    begun: Instant,
    outcome: Option<T>,
    task: Option<JoinHandle<()>>,
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl<T> Clone for Errands<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Errands<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Send + 'static> Errands<T> {
    /// What the last errand for this purpose came to.
    pub fn outcome(&self, cluster: &ClusterName, purpose: &str) -> Option<T> {
        let errands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errands.get(cluster).filter(|errand| errand.purpose == purpose)?.outcome.clone()
    }

    /// What the last errand came to, whatever it was for.
    pub fn outcome_of_any(&self, cluster: &ClusterName) -> Option<T> {
        let errands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errands.get(cluster)?.outcome.clone()
    }

    /// Begins one, unless the last one for this purpose is under way or began less than `every` ago. At its end the
    /// cluster is reconciled.
    pub fn begin(
        &self,
        cluster: &ClusterName,
        purpose: &str,
        every: Duration,
        triggers: &Triggers<Guarded>,
        work: impl Future<Output = T> + Send + 'static,
    ) {
        let mut errands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        errands.retain(|_, errand| errand.begun.elapsed() < FORGET);
        let last = errands.get(cluster).filter(|errand| errand.purpose == purpose);
        let runs = |errand: &Errand<T>| errand.task.as_ref().is_some_and(|task| !task.is_finished());
        if last.is_some_and(|errand| runs(errand) || errand.begun.elapsed() < every) {
            return;
        }
        let outcome = last.and_then(|errand| errand.outcome.clone());
        let (all, triggers) = (self.clone(), triggers.clone());
        let (key, meant) = (cluster.clone(), purpose.to_owned());
        let task = tokio::spawn(async move {
            let outcome = work.await;
            {
                let mut errands = all.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(errand) = errands.get_mut(&key).filter(|errand| errand.purpose == meant) {
                    errand.outcome = Some(outcome);
                }
            }
            triggers.pull(&key.namespace, &key.name);
        });
        let errand = Errand { purpose: purpose.to_owned(), begun: Instant::now(), outcome, task: Some(task) };
        errands.insert(cluster.clone(), errand);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_errand_is_run_once_and_again_for_another_purpose() {
        let (errands, triggers) = (Errands::default(), Triggers::default());
        let mut asked = triggers.listen();
        let cluster = ClusterName::new("shop", "orders");
        let begin = |purpose: &str, outcome: u32| {
            errands.begin(&cluster, purpose, FORGET, &triggers, async move { outcome });
        };
        begin("a", 1);
        begin("a", 2);
        asked.recv().await.unwrap();
        assert_eq!(errands.outcome(&cluster, "a"), Some(1));
        assert_eq!(errands.outcome(&cluster, "b"), None);
        begin("b", 3);
        assert_eq!(errands.outcome(&cluster, "b"), None);
        asked.recv().await.unwrap();
        assert_eq!((errands.outcome(&cluster, "a"), errands.outcome(&cluster, "b")), (None, Some(3)));
    }
}
