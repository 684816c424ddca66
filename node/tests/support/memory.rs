//! The most memory that members take.

use super::Cluster;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks: a child that lives shorter takes little.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks at members and at the processes that they start, until it is asked.
pub struct PeakMemory {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<BTreeMap<u32, Peak>>,
    pids: Vec<u32>,
}

/// Peaks of resident memory, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peak {
    pub member: u64,
    /// Of the largest process that it started.
    pub child: u64,
}

impl Peak {
    /// Both at once, in MiB: more than there ever was.
    pub fn mib(self) -> u64 {
        (self.member + self.child) >> 10
    }
}

impl PeakMemory {
    /// Of the members of `cluster` that run.
    pub fn watch(cluster: &Cluster) -> Self {
        let pids: Vec<u32> =
            (0..cluster.members.len()).filter(|i| cluster.runs(*i)).map(|i| cluster.pid(i)).collect();
        let (stop, watched) = (Arc::new(AtomicBool::new(false)), pids.clone());
        let stopped = stop.clone();
        let looking = std::thread::spawn(move || {
            let mut peaks: BTreeMap<u32, Peak> = BTreeMap::new();
            loop {
                // Before the last look: it has to see everything.
                let last = stopped.load(Ordering::Acquire);
                for pid in &watched {
                    let peak = peaks.entry(*pid).or_default();
                    peak.member = peak.member.max(peak_of(*pid).unwrap_or(0));
                    for child in children(*pid) {
                        peak.child = peak.child.max(peak_of(child).unwrap_or(0));
                    }
                }
                if last {
                    return peaks;
                }
                std::thread::park_timeout(PAUSE);
            }
        });
        Self { stop, looking, pids }
    }

    /// In the order of the members.
    pub fn end(self) -> Vec<Peak> {
        self.stop.store(true, Ordering::Release);
        self.looking.thread().unpark();
        let peaks = self.looking.join().unwrap();
        self.pids.iter().map(|pid| peaks[pid]).collect()
    }
}

/// None of a process that has ended.
fn peak_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processes that one has started, by any of its threads.
fn children(pid: u32) -> Vec<u32> {
    let of_thread =
        |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .flat_map(|t| of_thread(t).split_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<u32>>())
        .collect()
}
