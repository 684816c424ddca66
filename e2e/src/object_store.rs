//! An S3 server in the namespace of a test: what its clusters back up to.

use crate::processes;
use crate::scenario::Scenario;
use crate::wait::eventually;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

const NAME: &str = "s3";
const BUCKET: &str = "backups";
const PREFIX: &str = "e2e";
const PORT: u16 = 7070;
/// On the local Kubernetes every node has this image (`e2e/kube/images.sh`).
const IMAGE: &str = "versitygw:local";
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one attempt to connect to it may take.
const CONNECT: Duration = Duration::from_millis(200);

/// The server. What it holds goes with its namespace.
pub struct ObjectStore {
    client: kube::Client,
    namespace: String,
}

impl ObjectStore {
    /// Starts it, with an empty bucket, and waits until it answers.
    pub async fn start(test: &Scenario) -> Result<Self> {
        test.kubernetes.require_local("the image of an S3 server is only on the local Kubernetes")?;
        let store = Self { client: test.kubernetes.client.clone(), namespace: test.namespace.clone() };
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "stringData": {"accessKeyId": "backups", "secretAccessKey": "only for this test"},
        }))?;
        store.api::<Secret>().create(&PostParams::default(), &secret).await?;
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
        }))?;
        store.api::<Service>().create(&PostParams::default(), &service).await?;
        store.api::<Pod>().create(&PostParams::default(), &pod()?).await?;
        store.await_ready().await?;
        Ok(store)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn await_ready(&self) -> Result<()> {
        eventually("the S3 server is ready", PATIENCE, async || {
            let status = self.api::<Pod>().get(NAME).await?.status;
            let mut conditions = status.and_then(|status| status.conditions).into_iter().flatten();
            Ok(conditions.any(|c| c.type_ == "Ready" && c.status == "True").then_some(()))
        })
        .await
    }

    /// From now on nobody reaches it: its Service leads nowhere, and connections that were open have broken. What it holds
    /// stays.
    pub async fn go_away(&self) -> Result<()> {
        self.route_to("nobody").await?;
        let service = self.api::<Service>().get(NAME).await?.spec.context("the Service has no spec")?;
        let address = service.cluster_ip.context("the Service has no address")?;
        eventually("the Service leads nowhere", PATIENCE, async || {
            let connection = timeout(CONNECT, TcpStream::connect((address.as_str(), PORT))).await;
            Ok((!matches!(connection, Ok(Ok(_)))).then_some(()))
        })
        .await?;
        // Its container is started again.
        processes::kill(&[self.pid().await?]).await
    }

    /// It is reached again.
    pub async fn come_back(&self) -> Result<()> {
        self.await_ready().await?;
        self.route_to(NAME).await
    }

    async fn route_to(&self, app: &str) -> Result<()> {
        let selector = Patch::Merge(json!({"spec": {"selector": {"app": app}}}));
        self.api::<Service>().patch(NAME, &PatchParams::default(), &selector).await?;
        Ok(())
    }

    async fn pid(&self) -> Result<u32> {
        let uid = self.api::<Pod>().get(NAME).await?.metadata.uid.unwrap_or_default();
        processes::find(&uid, "versitygw").context("no S3 server runs")
    }

    /// Changes one bit of a backup behind everybody's back.
    pub async fn flip_a_bit(&self, path: &str) -> Result<()> {
        let directories = self.directories().await?;
        let part = directories
            .iter()
            .map(|backups| backups.join(path).join("00000"))
            .find(|part| part.exists())
            .with_context(|| format!("{path} is in none of {directories:?}"))?;
        let mut bytes = fs::read(&part)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Ok(fs::write(&part, bytes)?)
    }

    /// Paths of the backups in it, of all clusters, oldest first.
    pub async fn backups(&self) -> Result<Vec<String>> {
        let mut paths = Vec::new();
        for directory in self.directories().await? {
            for backup in fs::read_dir(directory)? {
                let backup = backup?;
                // The server keeps directories whose objects are deleted.
                if fs::read_dir(backup.path())?.next().is_some() {
                    paths.push(backup.file_name().to_string_lossy().into_owned());
                }
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// The clusters' directories of backups, as files of this machine.
    async fn directories(&self) -> Result<Vec<PathBuf>> {
        let pid = self.pid().await?;
        // Below the bucket: the prefix, then the cluster's id.
        let clusters = fs::read_dir(format!("/proc/{pid}/root/data/buckets/{BUCKET}/{PREFIX}"))?;
        let directories = clusters.flatten().map(|cluster| cluster.path().join("backups"));
        Ok(directories.filter(|backups| backups.exists()).collect())
    }

    /// The store as a spec names it.
    pub fn spec(&self) -> Value {
        json!({"s3": {
            "bucket": BUCKET,
            "prefix": PREFIX,
            "endpoint": format!("http://{NAME}.{}.svc:{PORT}", self.namespace),
            "forcePathStyle": true,
            "secretRef": {"name": NAME},
        }})
    }
}

fn pod() -> Result<Pod> {
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let key = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": NAME, "key": key}}});
    let mounts = json!([{"name": "data", "mountPath": "/data"}]);
    serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {"app": NAME}},
        "spec": {
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 1,
            // A bucket is a directory of its root.
            "initContainers": [{
                "name": "bucket", "image": "busybox:local", "imagePullPolicy": "Never",
                "command": ["mkdir", "-p", format!("/data/buckets/{BUCKET}"), "/data/about"],
                "securityContext": restricted, "volumeMounts": mounts,
            }],
            "containers": [{
                "name": NAME, "image": IMAGE, "imagePullPolicy": "Never",
                "args": ["--port", format!(":{PORT}"), "posix", "--sidecar", "/data/about", "/data/buckets"],
                "env": [key("ROOT_ACCESS_KEY", "accessKeyId"), key("ROOT_SECRET_KEY", "secretAccessKey")],
                "securityContext": restricted, "volumeMounts": mounts,
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            }],
            // Elsewhere it has disks of its own: what it writes and does not sync would hold up what members sync.
            "volumes": [{"name": "data", "emptyDir": {"medium": "Memory"}}],
        },
    }))
    .context("the pod of the S3 server")
}
