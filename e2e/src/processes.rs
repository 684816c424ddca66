//! Processes in pods, seen from a machine whose processes the nodes are (the Kubernetes of `e2e/kube`).

use crate::kubernetes::Kubernetes;
use crate::wait::eventually;
use anyhow::{Result, ensure};
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Skips a test where processes in pods are not of this machine.
pub(crate) fn require(kubernetes: &Kubernetes) -> Result<()> {
    kubernetes.require_local("processes in pods can be reached only on the local Kubernetes")
}

/// Pid of the program `name` in the pod with this uid.
pub(crate) fn find(pod_uid: &str, name: &str) -> Option<u32> {
    let in_pod = format!("pod{pod_uid}");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        (read("comm").trim() == name && read("cgroup").contains(&in_pod)).then_some(pid)
    })
}

/// Ends processes as `kill -9` does, all in one go, and returns once none of them runs any more.
pub(crate) async fn kill(pids: &[u32]) -> Result<()> {
    let status = Command::new("kill").arg("-9").args(pids.iter().map(u32::to_string)).status()?;
    ensure!(status.success(), "kill -9 {pids:?}: {status}");
    eventually("the end of the processes", Duration::from_secs(5), async || {
        Ok((!pids.iter().any(|pid| runs(*pid))).then_some(()))
    })
    .await
}

/// Whether a process is there and more than an entry that waits for its parent.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}
