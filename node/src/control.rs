//! The Unix socket in the data directory by which `sqlited drain` talks to the running member: it works without
//! network, credentials and the operator, from a pod's preStop hook.

use crate::drain::Drain;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// How long `sqlited drain` waits.
const PATIENCE: Duration = Duration::from_secs(20);

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("control.sock")
}

/// Serves the socket until the task is dropped.
pub fn serve(data_dir: &Path, drain: Arc<Drain>) -> io::Result<tokio::task::JoinHandle<()>> {
    let path = path(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let drain = drain.clone();
            tokio::spawn(async move {
                if let Err(error) = answer(stream, &drain).await {
                    tracing::warn!(%error, "control socket");
                }
            });
        }
    }))
}

async fn answer(mut stream: UnixStream, drain: &Drain) -> io::Result<()> {
    let mut word = [0; 6];
    stream.read_exact(&mut word).await?;
    if word != *b"drain\n" {
        return stream.write_all(b"unknown\n").await;
    }
    drain.run().await;
    stream.write_all(b"drained\n").await
}

/// Asks the member of `data_dir` to drain, and waits until it has.
pub async fn drain(data_dir: &Path) -> io::Result<()> {
    let ask = async {
        let mut stream = UnixStream::connect(path(data_dir)).await?;
        stream.write_all(b"drain\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if answer == "drained\n" {
            Ok(())
        } else {
            Err(io::Error::other(format!("the member answered {answer:?}")))
        }
    };
    tokio::time::timeout(PATIENCE, ask).await?
}
