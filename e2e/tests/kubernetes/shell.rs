//! The shell of the plugin, whose way leads through the API server.

use anyhow::{Context, Result};
use e2e::{Scenario, scenario};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The program of `kubectl sqlite`, as the workspace has it.
pub fn plugin() -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let programs = tests.parent().and_then(Path::parent).context("target/ci/deps")?;
    Ok(programs.join("kubectl-sqlite"))
}

const PATIENCE: Duration = Duration::from_secs(30);

/// `kubectl sqlite shell`, kept open; it ends with the value.
struct Shell {
    _process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn open(test: &Scenario, cluster: &str) -> Result<Self> {
        let mut process = Command::new(plugin()?)
            .args(["--namespace", &test.namespace, "shell", "--mode", "csv", cluster])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let input = process.stdin.take().context("its input")?;
        let output = BufReader::new(process.stdout.take().context("its output")?).lines();
        Ok(Self { _process: process, input, output })
    }

    /// Reads `number` back through the cluster.
    async fn read_back(&mut self, number: u32) -> Result<()> {
        self.input.write_all(format!("SELECT 'read ' || {number} AS back;\n").as_bytes()).await?;
        let awaited = format!("read {number}");
        let reading = async {
            while let Some(line) = self.output.next_line().await? {
                if line == awaited {
                    return Ok(());
                }
            }
            anyhow::bail!("the shell ended before it answered {number}")
        };
        tokio::time::timeout(PATIENCE, reading).await.with_context(|| format!("no answer {number}"))?
    }
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn a_shell_stays_open_while_members_go() {
    scenario("a_shell_stays_open_while_members_go", async |test| {
        let orders = test.cluster("orders", 3).await?;
        let mut shell = Shell::open(test, "orders")?;
        shell.read_back(0).await?;
        // Whichever it is that the shell talks to.
        for (number, pod) in (1..).zip(orders.pod_uids().await?.into_keys()) {
            orders.delete_pod(&pod).await?;
            shell.read_back(number).await?;
            orders.await_ready().await?;
        }
        Ok(())
    });
}
