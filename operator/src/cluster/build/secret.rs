//! Secrets: what users the operator made, and how the members know them.

use super::metadata_of;
use crate::cluster::certificates::AUTHORITIES;
use crate::names::{ANNOTATION_USERS, ClusterName, PORT_HTTP};
use client::sql::Credentials;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::json;
use std::collections::BTreeMap;

/// Name of the operator's user on the members.
pub const OPERATOR_USER: &str = "sqlite-operator";
/// Name of the applications' user.
pub const APPLICATION_USER: &str = "app";
/// Name of the users' file that the operator writes.
pub const USERS_FILE: &str = "sqlite-operator.json";
/// What applications may do.
const APPLICATION_PERMISSIONS: &[&str] = &["execute", "query", "backup", "status", "ready", "ui"];

const USERNAME: &str = "username";
/// Key of a password.
pub const PASSWORD: &str = "password";

/// User and password that the operator shows to the members, and what it keeps of passwords beside. Not mounted anywhere.
pub fn operator(
    name: &ClusterName,
    owner: OwnerReference,
    passwords: &BTreeMap<&'static str, String>,
) -> Secret {
    let entries = passwords.iter().map(|(key, password)| (*key, password.clone()));
    let data: Vec<_> = [(USERNAME, OPERATOR_USER.to_owned())].into_iter().chain(entries).collect();
    secret(name, owner, name.operator_secret(), &data)
}

/// What applications are told.
pub struct Told<'a> {
    /// The Service that they are sent to.
    pub service: &'a str,
    /// Their password; none: nobody has to say who they are.
    pub password: Option<&'a str>,
    /// Whom they are to trust, as PEM; none: they are to talk without TLS.
    pub authorities: Option<&'a str>,
}

/// Address, user and password for applications, and whom to trust, in the form of the Service Binding specification
/// (servicebinding.io, "Well-known Secret Entries").
pub fn application(name: &ClusterName, owner: OwnerReference, told: &Told<'_>) -> Secret {
    let host = format!("{}.{}.svc", told.service, name.namespace);
    let scheme = if told.authorities.is_some() { "https" } else { "http" };
    let user = told.password.map(|password| format!("{APPLICATION_USER}:{password}@")).unwrap_or_default();
    let mut data = vec![
        ("type", "sqlite".to_owned()),
        ("provider", "sqlite-operator".to_owned()),
        ("host", host.clone()),
        ("port", PORT_HTTP.to_string()),
        ("uri", format!("{scheme}://{user}{host}:{PORT_HTTP}")),
    ];
    if let Some(password) = told.password {
        data.extend([(USERNAME, APPLICATION_USER.to_owned()), (PASSWORD, password.to_owned())]);
    }
    data.extend(told.authorities.map(|pem| (AUTHORITIES, pem.to_owned())));
    secret(name, owner, name.application_secret(), &data)
}

/// The file of users that the members read, with hashes of passwords. `fingerprint` says of which.
pub fn users(name: &ClusterName, owner: OwnerReference, hashes: &UserHashes, fingerprint: String) -> Secret {
    let entry = |user: &str, permissions: &[&str], hash: &String| json!({"username": user, "password": hash, "perms": permissions});
    let operator = hashes.operator.iter().map(|hash| entry(OPERATOR_USER, &["all"], hash));
    let application =
        hashes.application.iter().map(|hash| entry(APPLICATION_USER, APPLICATION_PERMISSIONS, hash));
    let users = operator.chain(application).collect::<serde_json::Value>();
    let mut secret = secret(name, owner, name.users_secret(), &[(USERS_FILE, users.to_string())]);
    secret.metadata.annotations = Some(BTreeMap::from([(ANNOTATION_USERS.to_owned(), fingerprint)]));
    secret
}

/// Hashes of the passwords of the users that the operator made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserHashes {
    /// Of its own: each of them counts.
    pub operator: Vec<String>,
    /// Of the applications', likewise.
    pub application: Vec<String>,
}

/// The user in a Secret; none if it has none.
pub fn credentials(secret: &Secret) -> Option<Credentials> {
    let entry = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    let (user, password) = (entry(USERNAME)?, entry(PASSWORD)?);
    Some(Credentials { user, password }).filter(|c| !c.user.is_empty() && !c.password.is_empty())
}

fn secret(name: &ClusterName, owner: OwnerReference, called: String, data: &[(&str, String)]) -> Secret {
    let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    of(name, owner, &called, "users", &data)
}

/// Metadata of a child that the operator makes beside the sentence.
pub fn metadata(name: &ClusterName, owner: OwnerReference, called: &str, component: &str) -> ObjectMeta {
    metadata_of(name, owner, called.to_owned(), component)
}

/// A Secret of a cluster with these entries.
pub fn of(
    name: &ClusterName,
    owner: OwnerReference,
    called: &str,
    component: &str,
    data: &BTreeMap<String, String>,
) -> Secret {
    let entry = |(key, value): (&String, &String)| (key.clone(), ByteString(value.clone().into_bytes()));
    Secret {
        metadata: metadata_of(name, owner, called.to_owned(), component),
        data: Some(data.iter().map(entry).collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_finds_what_it_needs() {
        let name = ClusterName::new("shop", "orders");
        let owner = OwnerReference::default();
        for (password, authorities, uri) in [
            (Some("p4ss"), None, "http://app:p4ss@orders-rw.shop.svc:4001"),
            (Some("p4ss"), Some("PEM"), "https://app:p4ss@orders-rw.shop.svc:4001"),
            (None, Some("PEM"), "https://orders-rw.shop.svc:4001"),
        ] {
            let told = Told { service: "orders-rw", password, authorities };
            let secret = application(&name, owner.clone(), &told);
            let entry = |key: &str| {
                let bytes = secret.data.as_ref().unwrap().get(key)?.0.clone();
                Some(String::from_utf8(bytes).unwrap())
            };
            assert_eq!(secret.metadata.name.as_deref(), Some("orders-app"));
            assert_eq!(entry("type").as_deref(), Some("sqlite"));
            assert_eq!(entry("host").as_deref(), Some("orders-rw.shop.svc"));
            assert_eq!(entry("uri").as_deref(), Some(uri));
            assert_eq!(entry("ca.crt").as_deref(), authorities);
            let found = credentials(&secret).map(|found| (found.user, found.password));
            assert_eq!(found, password.map(|password| ("app".to_owned(), password.to_owned())));
        }
    }

    #[test]
    fn a_secret_without_a_user_has_no_credentials() {
        assert!(credentials(&Secret::default()).is_none());
        let empty = secret(
            &ClusterName::new("a", "b"),
            OwnerReference::default(),
            "c".into(),
            &[(USERNAME, "u".into()), (PASSWORD, String::new())],
        );
        assert!(credentials(&empty).is_none());
    }
}
