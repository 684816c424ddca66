//! Secrets of a cluster, by their names: they are never listed or watched.

use super::observed::Foreign;
use crate::error::{RejectionReason, is_refused};
use crate::names::FIELD_MANAGER;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};

/// Why a Secret is not there.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It could not be read or written.
    #[error("cannot read or write Secret {name}")]
    Request {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// One that is not this cluster's has its name.
    #[error("{} exists and is not of this cluster: delete or rename it, or rename the cluster", .0.object)]
    Taken(Foreign),
}

impl SecretError {
    /// Why it needs a human, for programs, if it does.
    pub fn rejection(&self) -> Option<RejectionReason> {
        match self {
            Self::Request { source, .. } => is_refused(source).then_some(RejectionReason::Rejected),
            Self::Taken(_) => Some(RejectionReason::NameConflict),
        }
    }
}

/// The Secrets of one cluster.
pub struct Secrets {
    api: Api<Secret>,
    owner: OwnerReference,
}

impl Secrets {
    /// Of the cluster `owner` in `namespace`.
    pub fn new(client: &Client, namespace: &str, owner: OwnerReference) -> Self {
        Self { api: Api::namespaced(client.clone(), namespace), owner }
    }

    /// The cluster, as what it owns names it.
    pub fn owner(&self) -> OwnerReference {
        self.owner.clone()
    }

    /// What has this name, if it is the cluster's.
    pub async fn get(&self, name: &str) -> Result<Option<Secret>, SecretError> {
        self.any(name).await?.map(|found| self.own(found)).transpose()
    }

    /// What has this name, whoever it belongs to.
    pub async fn any(&self, name: &str) -> Result<Option<Secret>, SecretError> {
        self.api.get_opt(name).await.map_err(|source| failed(name, source))
    }

    /// Creates it. What another operator made in between stands.
    pub async fn create(&self, secret: &Secret) -> Result<Secret, SecretError> {
        let name = secret.name_any();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let created = match self.api.create(&params, secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.api.get(&name).await,
            created => created,
        };
        self.own(created.map_err(|source| failed(&name, source))?)
    }

    /// Makes it what it is to be.
    pub async fn apply(&self, secret: &Secret) -> Result<(), SecretError> {
        let name = secret.name_any();
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api.patch(&name, &params, &Patch::Apply(secret)).await;
        applied.map(drop).map_err(|source| failed(&name, source))
    }

    fn own(&self, found: Secret) -> Result<Secret, SecretError> {
        match Foreign::of(&self.owner, "Secret", &found.metadata) {
            Some(foreign) => Err(SecretError::Taken(foreign)),
            None => Ok(found),
        }
    }
}

fn failed(name: &str, source: kube::Error) -> SecretError {
    SecretError::Request { name: name.to_owned(), source }
}
