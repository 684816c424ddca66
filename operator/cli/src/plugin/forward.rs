//! A local port that leads to a member through the API server, so that nothing but the kubeconfig is needed.

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Where a connection leads.
#[derive(Clone, Debug)]
pub enum To {
    /// To this pod.
    Pod(String),
    /// To one of these that is ready when the connection is made: whoever is asked next, after a pod has gone, is another.
    Any(ListParams),
}

/// A local port that leads to a port of a pod, until dropped.
pub struct Forward {
    /// Where to connect to.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forward {
    /// Opens a local port that leads to `port` of a pod.
    pub async fn open(pods: Api<Pod>, to: To, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (pods, to) = (pods.clone(), to.clone());
                tokio::spawn(async move {
                    if let Err(error) = carry(&pods, &to, port, connection).await {
                        eprintln!("{error:#}");
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

async fn carry(pods: &Api<Pod>, to: &To, port: u16, mut connection: TcpStream) -> Result<()> {
    let name = match to {
        To::Pod(name) => name.clone(),
        To::Any(which) => ready(pods, which).await?.context("no member is ready")?.name_any(),
    };
    let broke = || format!("the way to {name} broke");
    let mut forward = pods.portforward(&name, &[port]).await.with_context(broke)?;
    if let Some(mut stream) = forward.take_stream(port) {
        copy_bidirectional(&mut connection, &mut stream).await.with_context(broke)?;
    }
    Ok(())
}

/// One of these pods that is ready, and stays.
pub async fn ready(pods: &Api<Pod>, which: &ListParams) -> Result<Option<Pod>> {
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        pod.metadata.deletion_timestamp.is_none()
            && conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
    };
    Ok(pods.list(which).await?.items.into_iter().find(is_ready))
}
