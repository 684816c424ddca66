//! Every work with every number of clients, some times each.

use crate::BenchError;
use crate::cli::{Common, RunOptions};
use crate::load::{LoadConfig, measure};
use crate::record::{Journal, LoadRecord, Record};
use crate::target::Target;
use crate::work::Work;
use std::sync::Arc;
use std::time::Duration;

/// What `bench run` measures.
#[derive(Debug)]
pub struct Matrix<'a, T> {
    target: Arc<T>,
    options: &'a RunOptions,
}

impl<'a, T: Target> Matrix<'a, T> {
    /// The measurements that the options ask for.
    pub fn new(target: Arc<T>, options: &'a RunOptions) -> Result<Self, BenchError> {
        let Common { addrs, pids, .. } = &options.common;
        if !pids.is_empty() && pids.len() != addrs.len() {
            return Err(BenchError::Pids);
        }
        Ok(Self { target, options })
    }

    /// Makes them.
    pub async fn run(&self, journal: &mut Journal) -> Result<(), BenchError> {
        let RunOptions { rows, bulk, value_bytes, .. } = *self.options;
        for name in &self.options.work {
            let work = Arc::new(Work::new(*name, rows, bulk, value_bytes));
            self.target.prepare(&work).await?;
            for clients in &self.options.clients {
                self.repeat(&name.name(), &work, *clients, journal).await?;
            }
        }
        Ok(())
    }

    /// A repetition that other processes disturbed is kept, marked as noisy, and made anew.
    async fn repeat(
        &self,
        name: &str,
        work: &Arc<Work>,
        clients: usize,
        journal: &mut Journal,
    ) -> Result<(), BenchError> {
        let config = self.config(clients);
        let (mut repetition, mut spare) = (0, self.options.spare);
        while repetition < self.options.reps {
            let measured = measure(&self.target, work, &config).await;
            let noisy = !config.pids.is_empty() && measured.usage.other_cpu_per_s > self.options.max_other;
            let (tag, work) = (self.options.common.tag.clone(), name.to_owned());
            journal.write(&Record::Load(LoadRecord { tag, work, repetition, noisy, ..measured }))?;
            if noisy && spare > 0 {
                spare -= 1;
            } else {
                repetition += 1;
            }
        }
        Ok(())
    }

    fn config(&self, clients: usize) -> LoadConfig {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        LoadConfig {
            clients,
            warm: seconds(self.options.warm),
            measured: seconds(self.options.seconds),
            timeout: seconds(self.options.timeout),
            pids: self.options.common.pids.clone(),
            disk: self.options.disk.clone(),
        }
    }
}
