//! How the operator and the applications get in: users of the operator's making, minted once and kept in Secrets, and whose
//! certificates members show.
//!
//! This comes before the sentence, because nothing can be seen of members that do not know who asks. Passwords cannot be
//! rendered again from the spec, so these objects are created if they are missing and otherwise left as they are; only
//! the file of their hashes follows them. What was found is believed for a while, or until a member refuses it.

use super::build::{owner_of, secret, service};
use super::certificates::AUTHORITIES;
use super::observed::Foreign;
use super::passwords::{Passwords, Turn, mint};
use super::secrets::{SecretError, Secrets};
use crate::context::Context;
use crate::crd::{AuthenticationMode, ClientTraffic, Port, SqliteCluster, TlsMode};
use crate::error::RejectionReason;
use crate::names::{ANNOTATION_USERS, ClusterName};
use client::admin_client::{AdminClient, AdminError};
use client::sql::Credentials;
use client::trust::{Trust, TrustError};
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
    /// The authorities that members' certificates must be of cannot be used.
    #[error("Secret {name} holds no authorities: delete it, and it is made anew")]
    Trust {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: TrustError,
    },
    /// The client that trusts them cannot be made.
    #[error("cannot make a client of the members")]
    Client(#[source] AdminError),
}

impl AccessError {
    /// Why it needs a human, for programs, if it does.
    pub fn rejection(&self) -> Option<RejectionReason> {
        match self {
            Self::Secret(error) => error.rejection(),
            Self::Damaged { .. } | Self::Trust { .. } => Some(RejectionReason::SecretUnusable),
            Self::Hash(_) | Self::Client(_) => None,
        }
    }
}

/// The way in.
#[derive(Debug)]
pub enum Access {
    /// This.
    Open(Box<Way>),
    /// The cluster is paused, and nothing was made yet.
    NotYet,
    /// A Secret that is not this cluster's has a name of ours.
    Taken(Foreign),
}

/// By whom, and trusting whom.
#[derive(Clone, Debug, Default)]
pub struct Way {
    /// The operator; none: nobody has to say who they are.
    pub credentials: Option<Credentials>,
    /// The passwords of the users that the operator made.
    pub passwords: Option<Passwords>,
    /// Whether applications are told the password that they are to be told.
    pub told: bool,
    /// Whether what members know of users was changed just now.
    pub changed: bool,
    /// A client that trusts the authorities of the cluster's client port, where that talks TLS.
    trusting: Option<AdminClient>,
}

impl Way {
    /// Whether members are to accept other passwords before anybody is told.
    pub fn is_exchanging(&self) -> bool {
        self.passwords.as_ref().is_some_and(|passwords| passwords.turn(None, 0, 0) == Turn::HandOver)
    }
}

impl Access {
    /// The members' administrative API by this way. Where there is none, members refuse.
    pub fn client(&self, admin: &AdminClient) -> AdminClient {
        match self {
            Self::Open(way) => {
                way.trusting.as_ref().unwrap_or(admin).with_credentials(way.credentials.clone())
            }
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

    /// Whether members are to accept other passwords before anybody is told.
    pub fn is_exchanging(&self) -> bool {
        matches!(self, Self::Open(way) if way.is_exchanging())
    }
}

/// Finds the way in to a cluster's members, and makes it if there is none.
pub async fn access(cluster: &SqliteCluster, ctx: &Context) -> Result<Access, AccessError> {
    let talks_tls = may_talk_tls(cluster);
    if cluster.spec.security.authentication.mode == AuthenticationMode::Disabled && !talks_tls {
        return Ok(Access::Open(Box::default()));
    }
    let name = ClusterName::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let uid = cluster.uid().unwrap_or_default();
    if let Some(known) = ctx.known.get(&name, &uid) {
        return Ok(Access::Open(Box::new(known)));
    }
    let secrets = Secrets::new(&ctx.client, &name.namespace, owner_of(cluster));
    let keeper = Keeper { secrets, cluster, name: &name };
    match keeper.keep(&ctx.admin, talks_tls).await {
        Ok(Some(way)) => {
            ctx.known.set(&name, &uid, Way { changed: false, ..way.clone() });
            Ok(Access::Open(Box::new(way)))
        }
        Ok(None) => Ok(Access::NotYet),
        Err(AccessError::Secret(SecretError::Taken(foreign))) => Ok(Access::Taken(foreign)),
        Err(error) => Err(error),
    }
}

/// Whether some member may talk TLS to clients.
fn may_talk_tls(cluster: &SqliteCluster) -> bool {
    let status = cluster.status.as_ref();
    let traffic = status.and_then(|status| status.client_traffic);
    let begun = status.and_then(|status| status.bootstrap.as_ref()).map(|_| ClientTraffic::Plaintext);
    let mode = cluster.spec.security.tls.mode(Port::Clients, traffic.or(begun));
    mode != TlsMode::Disabled || traffic.is_some_and(|traffic| traffic != ClientTraffic::Plaintext)
}

struct Keeper<'a> {
    secrets: Secrets,
    cluster: &'a SqliteCluster,
    name: &'a ClusterName,
}

impl Keeper<'_> {
    /// The way in; none if the cluster is paused and it is not there yet.
    async fn keep(&self, admin: &AdminClient, talks_tls: bool) -> Result<Option<Way>, AccessError> {
        let trusting = if talks_tls { self.trusting(admin).await? } else { None };
        if self.cluster.spec.security.authentication.mode == AuthenticationMode::Disabled {
            return Ok(Some(Way { trusting, ..Way::default() }));
        }
        let owner = || self.secrets.owner();
        let minted = secret::operator(self.name, owner(), &[(secret::PASSWORD, mint())].into());
        let Some((found, operator)) = self.user(minted).await? else { return Ok(None) };
        let service = service::of_applications(&self.cluster.spec, self.name);
        let first = secret::Told { service: &service, password: Some(&mint()), authorities: None };
        let minted = secret::application(self.name, owner(), &first);
        let Some((_, application)) = self.user(minted).await? else { return Ok(None) };
        let passwords = Passwords::read(&found, operator.password.clone(), application.password.clone());
        let fingerprint = passwords.fingerprint();
        let users = self.secrets.get(&self.name.users_secret()).await?;
        let known = users.and_then(|users| users.annotations().get(ANNOTATION_USERS).cloned());
        let changed = known.as_ref() != Some(&fingerprint);
        if changed {
            let hashes = hashes(passwords.clone()).await?;
            self.secrets.apply(&secret::users(self.name, owner(), &hashes, fingerprint)).await?;
        }
        let told = passwords.current.application == application.password;
        Ok(Some(Way { credentials: Some(operator), passwords: Some(passwords), told, changed, trusting }))
    }

    /// A client that trusts whom applications are told to trust; none while there is nobody.
    async fn trusting(&self, admin: &AdminClient) -> Result<Option<AdminClient>, AccessError> {
        let called = self.name.certificates_secret(Port::Clients);
        let Some(found) = self.secrets.get(&called).await? else { return Ok(None) };
        let pem = found.data.as_ref().and_then(|data| data.get(AUTHORITIES)).map(|bytes| bytes.0.as_slice());
        let trust = Trust::new(pem.unwrap_or_default(), Some(&self.name.tls_name()))
            .map_err(|source| AccessError::Trust { name: called, source })?;
        admin.trusting(&trust).map(Some).map_err(AccessError::Client)
    }

    /// The Secret of this name with its user: as it is there, or as it was minted.
    async fn user(&self, minted: Secret) -> Result<Option<(Secret, Credentials)>, AccessError> {
        let name = minted.name_any();
        let found = match self.secrets.get(&name).await? {
            None if self.cluster.spec.paused => return Ok(None),
            None => self.secrets.create(&minted).await?,
            Some(found) => found,
        };
        let user = secret::credentials(&found).ok_or(AccessError::Damaged { name })?;
        Ok(Some((found, user)))
    }
}

async fn hashes(passwords: Passwords) -> Result<secret::UserHashes, AccessError> {
    let hashes = tokio::task::spawn_blocking(move || {
        let (operator, application) = passwords.accepted();
        let all = |passwords: Vec<&str>| passwords.into_iter().map(hash).collect::<Result<Vec<_>, _>>();
        Ok(secret::UserHashes { operator: all(operator)?, application: all(application)? })
    });
    hashes.await.map_err(|error| AccessError::Hash(error.to_string()))?
}

/// With the least that Argon2 may cost: a password of 180 random bits cannot be guessed, and each member computes it.
fn hash(password: &str) -> Result<String, AccessError> {
    use argon2::password_hash::PasswordHasher as _;
    let failed = |error: String| AccessError::Hash(error);
    let params =
        argon2::Params::new(argon2::Params::MIN_M_COST, 1, 1, None).map_err(|e| failed(e.to_string()))?;
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes()).map_err(|e| failed(e.to_string()))?;
    Ok(hash.to_string())
}
