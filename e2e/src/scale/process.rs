//! The operator under measurement: a process of this machine with the flags that the chart gives it.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::wait::eventually;

/// How to start it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// By which it reaches the API server.
    pub kubeconfig: PathBuf,
    /// Where it tells how it is.
    pub port: u16,
    /// Where its log goes.
    pub log: PathBuf,
    /// Image of the members.
    pub image: String,
    /// Its name in the lease.
    pub identity: String,
}

/// A running operator. Ends with this value.
pub struct Operator {
    child: Child,
    pid: u32,
    /// When it was started.
    pub started: Instant,
    metrics: String,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is resident.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
}

impl Operator {
    /// Starts it; returns at once.
    pub fn start(program: &Program) -> Result<Self> {
        // The lease is longer than the chart has it: here the API server shares its processors with all that is played.
        let log = fs::OpenOptions::new().create(true).append(true).open(&program.log)?;
        let child = Command::new(&program.path)
            .arg("run")
            .arg(format!("--node-image={}", program.image))
            .arg(format!("--metrics-addr=127.0.0.1:{}", program.port))
            .args(["--log-format=json", "--lease-name=sqlite-operator", "--lease-duration-seconds=15"])
            .arg("--lease-renew-milliseconds=1500")
            .env_clear()
            .env("KUBECONFIG", &program.kubeconfig)
            .env("POD_NAME", &program.identity)
            .env("POD_NAMESPACE", "sqlite-operator")
            // As the chart has them.
            .envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072")])
            .env("RUST_LOG", std::env::var("SCALE_LOG").unwrap_or_else(|_| "warn".to_owned()))
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.path.display()))?;
        let pid = child.id().context("the operator ended at once")?;
        let metrics = format!("http://127.0.0.1:{}/metrics", program.port);
        Ok(Self { child, pid, started: Instant::now(), metrics })
    }

    /// Its memory.
    pub fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .context("the operator does not run any more: see its log")?;
        Ok(Memory { resident: kilobytes(&status, "VmRSS")?, peak: kilobytes(&status, "VmHWM")? })
    }

    /// Seconds of processor time that it has used.
    pub fn processor_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields: Vec<&str> = stat.rsplit_once(") ").context("no stat")?.1.split(' ').collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("no stat")?.parse()?) };
        // Of user and system, in hundredths: the kernel's interface has been that for ever.
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    /// What it tells Prometheus.
    pub async fn metrics(&self) -> Result<String> {
        let answer = reqwest::get(&self.metrics).await?;
        ensure!(answer.status().is_success(), "{}: {}", self.metrics, answer.status());
        Ok(answer.text().await?)
    }

    /// Value of a metric without labels; 0 if it is not there.
    pub async fn value(&self, name: &str) -> Result<f64> {
        let text = self.metrics().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(Ok(0.0), |value| Ok(value.trim().parse()?))
    }

    /// How many clusters it has told of since it started: those that it has reconciled.
    pub async fn reconciled(&self) -> Result<usize> {
        let of = r#"sqlite_operator_condition{kind="SqliteCluster","#;
        let text = self.metrics().await?;
        Ok(text.lines().filter(|line| line.starts_with(of) && line.contains(r#"type="Ready""#)).count())
    }

    /// Ends it as Kubernetes does.
    pub async fn stop(mut self) -> Result<()> {
        let ended = Command::new("kill").arg(self.pid.to_string()).status().await?;
        ensure!(ended.success(), "the operator could not be ended");
        match tokio::time::timeout(Duration::from_secs(20), self.child.wait()).await {
            Ok(status) => ensure!(status?.success(), "the operator ended with an error: see its log"),
            Err(_) => bail!("the operator did not end within 20 s"),
        }
        Ok(())
    }
}

/// Waits until the operator tells how it is.
pub async fn await_served(operator: &Operator) -> Result<()> {
    eventually("the operator's metrics", Duration::from_secs(20), async || {
        Ok(operator.metrics().await.is_ok().then_some(()))
    })
    .await
}

fn kilobytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let text = line.with_context(|| format!("no {name}"))?.trim().trim_end_matches(" kB");
    Ok(text.parse::<u64>()? * 1024)
}

/// Whether the file is there and can be run.
pub fn must_be_program(path: &Path) -> Result<()> {
    ensure!(path.is_file(), "{} is not there: build it first", path.display());
    Ok(())
}
