//! How the operator and the applications get in: users of the operator's making, minted once and kept in Secrets.
//!
//! This comes before the sentence, because nothing can be seen of members that do not know who asks. Passwords cannot be
//! rendered again from the spec, so these objects are created if they are missing and otherwise left as they are; only
//! the file of their hashes follows them. What was found is believed for a while, or until a member refuses it.

use super::build::{owner_of, secret};
use super::observed::Foreign;
use super::secrets::{SecretError, Secrets};
use crate::context::Context;
use crate::crd::{AuthenticationMode, ServiceTarget, SqliteCluster};
use crate::names::{ANNOTATION_USERS, ClusterName, content_hash};
use client::admin_client::AdminClient;
use client::sql::Credentials;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A Secret is not there.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A Secret of the operator's has no user in it.
    #[error("Secret {name} has no username and password: delete it, and it is made anew")]
    Damaged {
        /// Which.
        name: String,
    },
    /// A password could not be hashed.
    #[error("cannot hash a password: {0}")]
    Hash(String),
}

/// The way in.
#[derive(Debug)]
pub enum Access {
    /// By these credentials; none: without any.
    Open(Option<Credentials>),
    /// The cluster is paused, and nothing was made yet.
    NotYet,
    /// A Secret that is not this cluster's has a name of ours.
    Taken(Foreign),
}

impl Access {
    /// The members' administrative API by this way. Where there is none, members refuse.
    pub fn client(&self, admin: &AdminClient) -> AdminClient {
        match self {
            Self::Open(credentials) => admin.with_credentials(credentials.clone()),
            Self::NotYet | Self::Taken(_) => admin.clone(),
        }
    }

    /// What is in the way.
    pub fn taken(&self) -> Option<&Foreign> {
        match self {
            Self::Taken(foreign) => Some(foreign),
            Self::Open(_) | Self::NotYet => None,
        }
    }
}

/// Finds the way in to a cluster's members, and makes it if there is none.
pub async fn access(cluster: &SqliteCluster, ctx: &Context) -> Result<Access, AccessError> {
    if cluster.spec.security.authentication.mode == AuthenticationMode::Disabled {
        return Ok(Access::Open(None));
    }
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let uid = cluster.uid().unwrap_or_default();
    if let Some(known) = ctx.known.get(&name, &uid) {
        return Ok(Access::Open(Some(known)));
    }
    let secrets = Secrets::new(&ctx.client, &name.namespace, owner_of(cluster));
    match (Keeper { secrets, cluster, name: &name }).keep().await {
        Ok(Some(credentials)) => {
            ctx.known.set(&name, &uid, credentials.clone());
            Ok(Access::Open(Some(credentials)))
        }
        Ok(None) => Ok(Access::NotYet),
        Err(AccessError::Secret(SecretError::Taken(foreign))) => Ok(Access::Taken(foreign)),
        Err(error) => Err(error),
    }
}

struct Keeper<'a> {
    secrets: Secrets,
    cluster: &'a SqliteCluster,
    name: &'a ClusterName,
}

impl Keeper<'_> {
    /// The operator's credentials; none if the cluster is paused and they are not there yet.
    async fn keep(&self) -> Result<Option<Credentials>, AccessError> {
        let owner = || self.secrets.owner();
        let make = |password: &str| secret::operator(self.name, owner(), password);
        let Some(operator) = self.user(make).await? else { return Ok(None) };
        let service = self.service();
        let make = |password: &str| secret::application(self.name, owner(), &service, password);
        let Some(application) = self.user(make).await? else { return Ok(None) };
        // Long random passwords: what is told of them by this helps nobody.
        let both = format!("{}\n{}", operator.password, application.password);
        let fingerprint = content_hash(both.as_bytes());
        let users = self.secrets.get(&self.name.users_secret()).await?;
        if users.and_then(|users| users.annotations().get(ANNOTATION_USERS).cloned()).as_ref()
            != Some(&fingerprint)
        {
            let hashes = hashes(operator.password.clone(), application.password).await?;
            self.secrets.apply(&secret::users(self.name, owner(), &hashes, fingerprint)).await?;
        }
        Ok(Some(operator))
    }

    /// The Service that applications are sent to.
    fn service(&self) -> String {
        let services = &self.cluster.spec.services;
        let voters = services.iter().find(|service| service.target == ServiceTarget::Voters);
        let service = voters.or(services.first());
        service.map_or_else(|| self.name.nodes_service(), |service| self.name.service(&service.name))
    }

    /// The user in the Secret that `make` makes of a password: as it is there, or minted now.
    async fn user(&self, make: impl Fn(&str) -> Secret) -> Result<Option<Credentials>, AccessError> {
        let minted = make(&format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
        let name = minted.name_any();
        let found = match self.secrets.get(&name).await? {
            None if self.cluster.spec.paused => return Ok(None),
            None => self.secrets.create(&minted).await?,
            Some(found) => found,
        };
        secret::credentials(&found).map(Some).ok_or(AccessError::Damaged { name })
    }
}

async fn hashes(operator: String, application: String) -> Result<secret::UserHashes, AccessError> {
    let both = tokio::task::spawn_blocking(move || {
        Ok(secret::UserHashes { operator: hash(&operator)?, application: hash(&application)? })
    });
    both.await.map_err(|error| AccessError::Hash(error.to_string()))?
}

/// With the least that Argon2 may cost: a password of 244 random bits cannot be guessed, and each member computes it.
fn hash(password: &str) -> Result<String, AccessError> {
    use argon2::password_hash::PasswordHasher as _;
    let failed = |error: String| AccessError::Hash(error);
    let params =
        argon2::Params::new(argon2::Params::MIN_M_COST, 1, 1, None).map_err(|e| failed(e.to_string()))?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes()).map_err(|e| failed(e.to_string()))?;
    Ok(hash.to_string())
}
