//! A local port that leads to a member through the API server, so that nothing but the kubeconfig is needed.

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A local port that leads to a port of one pod, until dropped.
pub struct Forward {
    /// Where to connect to.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Opens a local port that leads to `port` of pod `name`.
    pub async fn open(pods: Api<Pod>, name: String, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (pods, name) = (pods.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = carry(&pods, &name, port, connection).await {
                        eprintln!("the way to {name} broke: {error:#}");
                    }
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(pods: &Api<Pod>, name: &str, port: u16, mut connection: TcpStream) -> Result<()> {
    let mut forward = pods.portforward(name, &[port]).await?;
    if let Some(mut stream) = forward.take_stream(port) {
        copy_bidirectional(&mut connection, &mut stream).await?;
    }
    Ok(())
}
