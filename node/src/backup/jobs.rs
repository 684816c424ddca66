//! What a member was asked to do with backups, and how far it is. Kept while the process runs: who asks again after a
//! restart is told that it is not known, and asks anew.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Jobs remembered.
const KEPT: usize = 64;

/// A job by its name.
pub trait Named {
    /// Its name.
    fn name(&self) -> &str;
    /// Whether it has not come to its end.
    fn is_running(&self) -> bool;
}

/// Jobs of one kind, newest last.
pub struct Jobs<J> {
    jobs: Mutex<VecDeque<Arc<J>>>,
}

impl<J> Default for Jobs<J> {
    fn default() -> Self {
        Self { jobs: Mutex::default() }
    }
}

impl<J: Named> Jobs<J> {
    /// All of them.
    pub fn all(&self) -> Vec<Arc<J>> {
        self.jobs.lock().iter().cloned().collect()
    }

    /// The job of that name, or a new one that `make` makes; true if it is new. One that failed is made again.
    pub fn begin(
        &self,
        name: &str,
        has_failed: impl Fn(&J) -> bool,
        make: impl FnOnce() -> J,
    ) -> (Arc<J>, bool) {
        let mut jobs = self.jobs.lock();
        if let Some(known) = jobs.iter().find(|job| job.name() == name && !has_failed(job)) {
            return (known.clone(), false);
        }
        jobs.retain(|job| job.name() != name);
        if jobs.len() >= KEPT
            && let Some(at) = jobs.iter().position(|job| !job.is_running())
        {
            jobs.remove(at);
        }
        let job = Arc::new(make());
        jobs.push_back(job.clone());
        (job, true)
    }

    /// Whether one of them is under way.
    pub fn is_busy(&self) -> bool {
        self.jobs.lock().iter().any(|job| job.is_running())
    }
}
