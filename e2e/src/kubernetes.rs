//! The Kubernetes that `KUBECONFIG` names, and what it can do for a test.

use crate::scenario::Skip;
use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{EvictParams, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Context of the Kubernetes that `e2e/kube` starts on this machine.
const LOCAL_CONTEXT: &str = "sqlite-operator-local";

/// A connection to the Kubernetes under test.
#[derive(Clone)]
pub struct Kubernetes {
    /// For everything this type has no verb for.
    pub client: Client,
    /// Whether this machine has routes to the addresses of Services and pods. If not, or if `E2E_PORT_FORWARD` is set,
    /// tests go through port-forwards.
    pub direct_network: bool,
    /// Whether its nodes are processes of this machine, so that a process in a pod can be killed from here.
    pub local_processes: bool,
    config: Config,
    /// Tells of a refusal at once. The other one asks again by itself, for long where a budget refuses an eviction.
    once: Client,
}

impl Kubernetes {
    /// Connects to the Kubernetes of `KUBECONFIG`; nothing else counts, so that a test never hits another by accident.
    pub async fn connect() -> Result<Self> {
        let Some(file) = Kubeconfig::from_env().context("KUBECONFIG cannot be read")? else {
            bail!("KUBECONFIG is not set; `make test` and `make kube-up` say what to set it to");
        };
        let local_processes = file.current_context.as_deref() == Some(LOCAL_CONTEXT);
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config.clone())?;
        let mut without_retries = config.clone();
        without_retries.default_retry = false;
        let once = Client::try_from(without_retries)?;
        let forced = std::env::var_os("E2E_PORT_FORWARD").is_some();
        let direct_network = !forced && reaches_services(&client).await?;
        Ok(Self { client, direct_network, local_processes, config, once })
    }

    /// Skips a test, with the reason, where nodes and the processes in pods are not of this machine.
    pub fn require_local(&self, reason: &str) -> Result<()> {
        if self.local_processes { Ok(()) } else { Err(Skip(reason.to_owned()).into()) }
    }

    /// A connection that speaks for another account, as far as this one may.
    pub fn impersonating(&self, account: &str) -> Result<Client> {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(account.to_owned());
        Ok(Client::try_from(config)?)
    }

    /// Pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Asks once whether a pod may leave, and has it leave if so.
    pub async fn evict(&self, namespace: &str, pod: &str) -> kube::Result<()> {
        Api::<Pod>::namespaced(self.once.clone(), namespace)
            .evict(pod, &EvictParams::default())
            .await
            .map(drop)
    }

    /// Objects of one of the operator's kinds in a namespace.
    pub fn objects(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }

    /// How many SqliteClusters of tests there are, in all namespaces.
    pub async fn count_clusters(&self) -> Result<usize> {
        let clusters = Api::<DynamicObject>::all_with(self.client.clone(), &resource("SqliteCluster"));
        Ok(clusters.list(&ListParams::default().labels("sqlite-operator.io/e2e")).await?.items.len())
    }

    /// SqliteClusters of a namespace.
    pub fn clusters(&self, namespace: &str) -> Api<DynamicObject> {
        self.objects("SqliteCluster", namespace)
    }
}

/// One of the operator's kinds.
pub(crate) fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("sqlite-operator.io", "v1alpha1", kind))
}

/// Whether a TCP connection to the address of the one Service that every Kubernetes has comes about.
async fn reaches_services(client: &Client) -> Result<bool> {
    let service = Api::<Service>::namespaced(client.clone(), "default").get("kubernetes").await?;
    let address = service.spec.and_then(|s| s.cluster_ip).unwrap_or_default();
    let attempt = timeout(Duration::from_secs(1), TcpStream::connect((address, 443))).await;
    Ok(matches!(attempt, Ok(Ok(_))))
}
