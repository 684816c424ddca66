//! Every work with every number of clients, some times each.

use crate::BenchError;
use crate::cli::{Common, RunOptions};
use crate::load::{LoadConfig, measure};
use crate::plan::Plan;
use crate::record::{self, Journal, LoadRecord, Record};
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

    /// Makes them, round after round over the repetitions that are missing.
    pub async fn run(&self, journal: &mut Journal) -> Result<(), BenchError> {
        let RunOptions { common, plan, resume, rows, bulk, value_bytes, .. } = self.options;
        let plan = Plan::of(plan, &common.tag);
        let known = match &common.out {
            Some(out) if *resume => record::read_if_any(out)?,
            _ => Vec::new(),
        };
        for name in &self.options.plan.work {
            let work = Arc::new(Work::new(*name, *rows, *bulk, *value_bytes));
            let mut prepared = false;
            for clients in &self.options.plan.clients {
                for (repetition, noisy) in plan.unfinished(&known, &name.name(), *clients) {
                    if !prepared {
                        self.target.prepare(&work).await?;
                        prepared = true;
                    }
                    let spare = plan.spare().saturating_sub(noisy);
                    self.repeat(&name.name(), &work, *clients, (repetition, spare), journal).await?;
                }
            }
        }
        Ok(())
    }

    /// A repetition that other processes disturbed is kept, marked as noisy, and made anew at most `spare` times.
    async fn repeat(
        &self,
        name: &str,
        work: &Arc<Work>,
        clients: usize,
        (repetition, spare): (usize, usize),
        journal: &mut Journal,
    ) -> Result<(), BenchError> {
        let config = self.config(clients);
        for _ in 0..=spare {
            let measured = measure(&self.target, work, &config).await;
            let noisy = !config.pids.is_empty() && measured.usage.other_cpu_per_s > self.options.max_other;
            let (tag, work) = (self.options.common.tag.clone(), name.to_owned());
            journal.write(&Record::Load(LoadRecord { tag, work, repetition, noisy, ..measured }))?;
            if !noisy {
                break;
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
