//! What the pods of played members would find: their addresses, and the Secrets that they mount. Kept by watches.

use anyhow::{Context, Result};
use client::admin::{Certificates, PortCertificates};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

use super::group::Identity;

const LABEL_CLUSTER: &str = "sqlite-operator.io/cluster";
const MANAGED: &str = "app.kubernetes.io/managed-by=sqlite-operator";
/// How long a call waits for what the API server told its caller earlier than us.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pods by address, and Secrets.
pub struct Mounts {
    addresses: Arc<Mutex<HashMap<Ipv4Addr, Identity>>>,
    secrets: Store<Secret>,
    news: watch::Receiver<u64>,
    /// By cluster: which version of the Secret it was made of, and how the client port talks TLS.
    made: Mutex<HashMap<String, (String, Arc<ServerConfig>)>>,
}

impl Mounts {
    /// Starts the watches.
    pub fn follow(client: &Client) -> Self {
        let addresses = Arc::<Mutex<HashMap<Ipv4Addr, Identity>>>::default();
        let (news, seen) = watch::channel(0);
        let pods = watcher(Api::<Pod>::all(client.clone()), watcher::Config::default().labels(LABEL_CLUSTER))
            .default_backoff()
            .applied_objects();
        let (known, tell) = (addresses.clone(), news.clone());
        tokio::spawn(pods.for_each(move |pod| {
            if let Ok(pod) = pod
                && let Some((address, identity)) = placed(&pod)
            {
                known.lock().unwrap_or_else(PoisonError::into_inner).insert(address, identity);
                tell.send_modify(|count| *count += 1);
            }
            std::future::ready(())
        }));
        let (secrets, writer) = store();
        let watched = watcher(Api::<Secret>::all(client.clone()), watcher::Config::default().labels(MANAGED))
            .default_backoff()
            .reflect(writer)
            .touched_objects();
        tokio::spawn(watched.for_each(move |_| {
            news.send_modify(|count| *count += 1);
            std::future::ready(())
        }));
        Self { addresses, secrets, news: seen, made: Mutex::default() }
    }

    /// Whose address this is.
    pub async fn member(&self, address: Ipv4Addr) -> Result<Identity> {
        self.patiently(|| {
            self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
        })
        .await
        .with_context(|| format!("{address} is no pod's address"))
    }

    /// How the member talks TLS to clients.
    pub async fn tls(&self, member: &Identity) -> Result<Arc<ServerConfig>> {
        let secret = self
            .patiently(|| self.secret(member, "client-tls"))
            .await
            .with_context(|| format!("{} has no certificate for clients", member.name))?;
        let key = format!("{}/{}", member.namespace, member.cluster);
        let version = secret.resource_version().unwrap_or_default();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, config)) = made.get(&key).filter(|(of, _)| *of == version) {
            return Ok(config.clone());
        }
        let config = Arc::new(server_config(&secret)?);
        made.insert(key, (version, config.clone()));
        Ok(config)
    }

    /// The certificates of the member's ports.
    pub fn certificates(&self, member: &Identity) -> Certificates {
        let of = |kind, name: &str, with_authorities: bool| {
            let secret = self.secret(member, kind)?;
            told(&secret, name, with_authorities)
        };
        Certificates { peers: of("peer-tls", &member.name, true), clients: of("client-tls", "tls", false) }
    }

    /// User and password by which the operator comes.
    pub fn operator(&self, member: &Identity) -> Option<(String, String)> {
        let secret = self.secret(member, "operator")?;
        let entry = |key| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        entry("username").zip(entry("password"))
    }

    fn secret(&self, member: &Identity, kind: &str) -> Option<Arc<Secret>> {
        let name = format!("{}-{kind}", member.cluster);
        self.secrets.get(&ObjectRef::new(&name).within(&member.namespace))
    }

    async fn patiently<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut news = self.news.clone();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                news.mark_unchanged();
                if let Some(found) = look() {
                    return Some(found);
                }
                news.changed().await.ok()?;
            }
        });
        found.await.ok().flatten()
    }
}

fn placed(pod: &Pod) -> Option<(Ipv4Addr, Identity)> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    let identity = Identity {
        name: pod.name_any(),
        cluster: pod.labels().get(LABEL_CLUSTER)?.clone(),
        namespace: pod.namespace()?,
    };
    Some((address, identity))
}

fn entry<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    Some(secret.data.as_ref()?.get(key)?.0.as_slice())
}

fn server_config(secret: &Secret) -> Result<ServerConfig> {
    let pem = |key: &str| entry(secret, key).with_context(|| format!("no {key} in {}", secret.name_any()));
    let chain = CertificateDer::pem_slice_iter(pem("tls.crt")?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pem("tls.key")?)?;
    Ok(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?)
}

/// What a member says of the certificate `name` of a port.
fn told(secret: &Secret, name: &str, with_authorities: bool) -> Option<PortCertificates> {
    let fingerprints = |key: &str| {
        let pem = entry(secret, key)?;
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
        Some(found.iter().map(|certificate| fingerprint(certificate)).collect::<Vec<_>>())
    };
    Some(PortCertificates {
        certificate: fingerprints(&format!("{name}.crt"))?.into_iter().next()?,
        // Nobody asks: what the operator renews by is in the Secret that it wrote.
        not_after: i64::MAX,
        authorities: if with_authorities { fingerprints("ca.crt")? } else { Vec::new() },
    })
}

fn fingerprint(certificate: &[u8]) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}
