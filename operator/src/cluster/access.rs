//! How the operator and the applications get in: users of the operator's making, minted once and kept in Secrets.
//!
//! This comes before the sentence, because nothing can be seen of members that do not know who asks. Passwords cannot be
//! rendered again from the spec, so these objects are created if they are missing and otherwise left as they are; only
//! the file of their hashes follows them. What was found is trusted for a while, or until a member refuses it: at rest
//! this costs the API server nothing.

use super::build::{owner_of, secret};
use super::observed::Foreign;
use crate::context::Context;
use crate::crd::{AuthenticationMode, ServiceTarget, SqliteCluster};
use crate::names::{ANNOTATION_USERS, ClusterName, FIELD_MANAGER, content_hash};
use client::admin_client::AdminClient;
use client::sql::Credentials;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A Secret could not be read or written.
    #[error("cannot read or write Secret {name}")]
    Secret {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
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
    let keeper = Keeper { api: Api::namespaced(ctx.client.clone(), &name.namespace), cluster, name: &name };
    let found = keeper.keep().await;
    if let Ok(Access::Open(Some(credentials))) = &found {
        ctx.known.set(&name, &uid, credentials.clone());
    }
    found
}

struct Keeper<'a> {
    api: Api<Secret>,
    cluster: &'a SqliteCluster,
    name: &'a ClusterName,
}

/// A Secret with a user in it, or why there is none.
enum Kept {
    User(Credentials),
    Other(Access),
}

impl Keeper<'_> {
    async fn keep(&self) -> Result<Access, AccessError> {
        let owner = || owner_of(self.cluster);
        let operator = match self.user(|password| secret::operator(self.name, owner(), password)).await? {
            Kept::User(user) => user,
            Kept::Other(access) => return Ok(access),
        };
        let service = self.service();
        let make = |password: &str| secret::application(self.name, owner(), &service, password);
        let application = match self.user(make).await? {
            Kept::User(user) => user,
            Kept::Other(access) => return Ok(access),
        };
        // Long random passwords: what is told of them by this helps nobody.
        let both = format!("{}\n{}", operator.password, application.password);
        let fingerprint = content_hash(both.as_bytes());
        let called = self.name.users_secret();
        if let Some(users) = self.get(&called).await? {
            if let Some(foreign) = self.foreign(&users) {
                return Ok(Access::Taken(foreign));
            }
            if users.annotations().get(ANNOTATION_USERS) == Some(&fingerprint) {
                return Ok(Access::Open(Some(operator)));
            }
        }
        let hashes = hashes(operator.password.clone(), application.password).await?;
        let users = secret::users(self.name, owner(), &hashes, fingerprint);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.api.patch(&called, &params, &Patch::Apply(&users)).await;
        applied.map_err(|source| AccessError::Secret { name: called, source })?;
        Ok(Access::Open(Some(operator)))
    }

    /// The Service that applications are sent to.
    fn service(&self) -> String {
        let services = &self.cluster.spec.services;
        let voters = services.iter().find(|service| service.target == ServiceTarget::Voters);
        let service = voters.or(services.first());
        service.map_or_else(|| self.name.nodes_service(), |service| self.name.service(&service.name))
    }

    /// The user in the Secret that `make` makes of a password: as it is there, or minted now.
    async fn user(&self, make: impl Fn(&str) -> Secret) -> Result<Kept, AccessError> {
        let minted = make(&format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
        let called = minted.name_any();
        let found = match self.get(&called).await? {
            None if self.cluster.spec.paused => return Ok(Kept::Other(Access::NotYet)),
            None => self.create(&minted).await?,
            Some(found) => found,
        };
        if let Some(foreign) = self.foreign(&found) {
            return Ok(Kept::Other(Access::Taken(foreign)));
        }
        secret::credentials(&found).map(Kept::User).ok_or(AccessError::Damaged { name: called })
    }

    async fn get(&self, called: &str) -> Result<Option<Secret>, AccessError> {
        let found = self.api.get_opt(called).await;
        found.map_err(|source| AccessError::Secret { name: called.to_owned(), source })
    }

    /// What another operator made in between stands.
    async fn create(&self, secret: &Secret) -> Result<Secret, AccessError> {
        let called = secret.name_any();
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let failed = |source| AccessError::Secret { name: called.clone(), source };
        match self.api.create(&params, secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.api.get(&called).await.map_err(failed)
            }
            created => created.map_err(failed),
        }
    }

    fn foreign(&self, found: &Secret) -> Option<Foreign> {
        Foreign::of(&owner_of(self.cluster), "Secret", &found.metadata)
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
