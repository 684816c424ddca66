//! Keeps the Secrets with certificates as they are to be. Network.
//!
//! Secrets are never watched. What was read is believed for a while; before anything is written, all that it is decided on
//! is read anew. Nothing secret outlives that.

use super::exchange::{Handed, Lack, Next, Offer, PortView, Told, Waits, Wanted, Write, next, still_good};
use super::given::{self, Given};
use super::pki::{Fingerprint, Leaf, Pair, Signer, authorities, mint};
use super::wanted::{required, to_be_issued, wanted};
use super::{AUTHORITIES, CertificateError};
use crate::clock;
use crate::cluster::build::{owner, secret};
use crate::cluster::observed::Observed;
use crate::cluster::refresh::refresh;
use crate::cluster::secrets::Secrets;
use crate::cluster::validate::Desired;
use crate::context::Context;
use crate::crd::{IssuerRef, Port, TlsMode};
use crate::names::{
    ANNOTATION_ISSUERS, ANNOTATION_ROTATED, ANNOTATION_TRUSTED_SINCE, FIELD_MANAGER, content_hash,
};
use crate::pace::Matter;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Key of the Secret with an authority: its key. The certificate is under [`AUTHORITIES`].
const AUTHORITY_KEY: &str = "ca.key";
/// Writes that one reconcile makes for one port. What is left is made by the next.
const WRITES: usize = 4;

/// What is known of a port, without anything secret.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What is there.
    pub view: PortView,
    /// What is next.
    pub next: Next,
    /// What names that which was to be when that was found out.
    pub wanted: String,
    /// Where certificates come from.
    pub mode: TlsMode,
    /// Until when that is believed.
    pub until: Instant,
}

/// What is known of the ports of a cluster.
pub type KeptPorts = BTreeMap<Port, Kept>;

/// Takes the next step for each port that talks TLS or is to. Whether pods that mount certificates find them.
pub async fn keep(
    desired: &Desired,
    observed: &Observed,
    subject: &ObjectReference,
    ctx: &Context,
) -> Result<bool, CertificateError> {
    let mut known = ctx.certificates.get(&desired.name, &desired.uid).unwrap_or_default();
    let mut complete = true;
    for port in Port::ALL {
        let wanted = wanted(desired, port);
        let mode = desired.tls_mode(port);
        if mode == TlsMode::Disabled && !wanted.in_use {
            known.remove(&port);
            continue;
        }
        let keeper = Keeper {
            secrets: Secrets::new(&ctx.client, &desired.name.namespace, owner(desired, true)),
            desired,
            subject,
            ctx,
            port,
            mode,
            wanted,
        };
        let kept = keeper.keep(known.remove(&port), observed).await?;
        keeper.hurry(&kept, observed).await;
        complete &= kept.view.handed.is_some() || !keeper.wanted.in_use;
        known.insert(port, kept);
    }
    ctx.certificates.set(&desired.name, &desired.uid, known);
    Ok(complete)
}

struct Keeper<'a> {
    secrets: Secrets,
    desired: &'a Desired,
    subject: &'a ObjectReference,
    ctx: &'a Context,
    port: Port,
    mode: TlsMode,
    wanted: Wanted,
}

/// What is there, with what is secret of it.
struct Contents {
    authority: Option<Pair>,
    given: Option<Given>,
    /// Who is trusted, as PEM.
    trusted: BTreeMap<Fingerprint, String>,
    /// Certificates that members have.
    pairs: BTreeMap<String, Pair>,
    view: PortView,
}

impl Keeper<'_> {
    async fn keep(&self, known: Option<Kept>, observed: &Observed) -> Result<Kept, CertificateError> {
        let wanted = content_hash(format!("{:?}", self.wanted).as_bytes());
        if let Some(kept) = known.filter(|kept| {
            let lacking = matches!(kept.view.offer, Offer::Lacking(_));
            !lacking && kept.mode == self.mode && kept.wanted == wanted && Instant::now() < kept.until
        }) {
            let next = self.next(&kept.view, observed);
            if next.write.is_none() {
                return Ok(Kept { next, ..kept });
            }
        }
        let mut writes = 0;
        let mut before = None;
        loop {
            let until = self.ctx.pace.belief(self.matter(), &self.desired.name);
            let contents = self.read().await?;
            let next = self.next(&contents.view, observed);
            let Some(write) = next.write.filter(|_| writes < WRITES) else {
                let view = contents.view;
                self.tell(before.as_ref(), view.handed.as_ref()).await;
                return Ok(Kept { view, next, wanted, mode: self.mode, until });
            };
            tracing::info!(cluster = %self.desired.name, port = ?self.port, ?write, "certificates");
            if writes == 0 {
                before.clone_from(&contents.view.handed);
            }
            self.write(write, contents).await?;
            writes += 1;
            if self.port == Port::Clients {
                // Whom the operator itself trusts is in there.
                self.ctx.known.forget(&self.desired.name);
            }
        }
    }

    /// Tells of certificates or authorities that took the place of others.
    async fn tell(&self, before: Option<&Handed>, now: Option<&Handed>) {
        let exchanged = before.zip(now).and_then(|(before, now)| exchanged(before, now));
        if let Some((action, what)) = exchanged.filter(|_| self.wanted.in_use) {
            let note = format!("port {}: {what}", self.port.called());
            self.ctx.tell(self.subject, EventType::Normal, "CertificateRotated", action, note).await;
        }
    }

    fn matter(&self) -> Matter {
        match self.mode {
            TlsMode::Managed | TlsMode::Disabled => Matter::OwnSecrets,
            TlsMode::CertManager | TlsMode::Secret => Matter::GivenSecrets,
        }
    }

    fn next(&self, view: &PortView, observed: &Observed) -> Next {
        let patience = self.desired.replacement_after;
        let members: Vec<Told<'_>> = observed
            .pods
            .iter()
            .filter(|(_, pod)| self.wanted.in_use && pod.is_waited_for(observed.now, patience))
            .map(|(name, _)| {
                let told = observed.reports.get(name).map(|report| &report.certificates);
                let port = told.and_then(|told| match self.port {
                    Port::Peers => told.peers.as_ref(),
                    Port::Clients => told.clients.as_ref(),
                });
                (name.as_str(), port)
            })
            .collect();
        next(&self.wanted, view, &members, now())
    }

    /// Has the kubelet bring what changed to the pods that are waited for, which would take it a minute or two.
    async fn hurry(&self, kept: &Kept, observed: &Observed) {
        let (Some(Waits::ForTrust(members) | Waits::ForLeaves(members)), Some(handed)) =
            (&kept.next.waits, &kept.view.handed)
        else {
            return;
        };
        let mark = content_hash(format!("{:?}", (&handed.trusted, &handed.leaves)).as_bytes());
        refresh(&self.desired.name, members, &mark, observed, self.ctx).await;
    }

    async fn read(&self) -> Result<Contents, CertificateError> {
        let found = self.secrets.get(&self.desired.name.certificates_secret(self.port)).await?;
        let (trusted, pairs, handed) = found.as_ref().map_or_else(Default::default, parse_handed);
        let (mut authority, mut given) = (None, None);
        let offer = match self.mode {
            TlsMode::Disabled => Offer::Withdrawn,
            TlsMode::Managed => {
                let (offer, pair) = self.own().await?;
                authority = pair;
                offer
            }
            TlsMode::CertManager | TlsMode::Secret => match self.given().await {
                Err(lack) => Offer::Lacking(lack),
                Ok(found) => {
                    let (authorities, leaf) =
                        (found.authorities.keys().cloned().collect(), found.leaf.clone());
                    given = Some(found);
                    Offer::Given { authorities, leaf }
                }
            },
        };
        Ok(Contents { authority, given, trusted, pairs, view: PortView { offer, handed } })
    }

    /// The cluster's own authority.
    async fn own(&self) -> Result<(Offer, Option<Pair>), CertificateError> {
        let called = self.desired.name.authority_secret(self.port);
        let Some(found) = self.secrets.get(&called).await? else { return Ok((Offer::Nobody, None)) };
        let pair = text(&found, AUTHORITIES)
            .zip(text(&found, AUTHORITY_KEY))
            .map(|(certificate, key)| Pair { certificate, key });
        let readable = pair.filter(|pair| Signer::new(pair).is_ok());
        let read = readable.and_then(|pair| Some((Leaf::read(&pair.certificate)?, pair)));
        let Some((leaf, pair)) = read else {
            tracing::warn!(secret = called, "holds no authority with its key: another one takes its place");
            return Ok((Offer::Nobody, None));
        };
        let rotated = found.annotations().get(ANNOTATION_ROTATED).cloned();
        let offer = Offer::Own { authority: leaf.fingerprint, not_after: leaf.not_after, rotated };
        Ok((offer, Some(pair)))
    }

    /// What somebody else made.
    async fn given(&self) -> Result<Given, Lack> {
        let tls = &self.desired.spec.security.tls;
        let (called, missing) = match (self.mode, tls.issuer(self.port), tls.secret(self.port)) {
            (TlsMode::CertManager, Some(issuer), _) => {
                let certificate = self.certificate(issuer).await?;
                let name = self.desired.name.certificate(self.port);
                (self.desired.name.issued_secret(self.port), given::not_ready(&name, &certificate.data))
            }
            (TlsMode::Secret, _, Some(reference)) => {
                let message = format!("Secret {} is not there", reference.name);
                (reference.name.clone(), Lack { reason: "SecretMissing", message })
            }
            // The schema does not let it through.
            _ => {
                let message = format!("spec.security.tls names nothing for the port {}", self.port.called());
                return Err(Lack { reason: "SecretMissing", message });
            }
        };
        let found = self
            .secrets
            .any(&called)
            .await
            .map_err(|error| Lack { reason: "SecretUnreadable", message: explain(&error) })?;
        let Some(found) = found else { return Err(missing) };
        let keys = [given::CERTIFICATE, given::KEY, given::AUTHORITIES];
        let data = keys.iter().filter_map(|key| Some(((*key).to_owned(), text(&found, key)?))).collect();
        given::look(&format!("Secret {called}"), &data, self.port, &required(self.desired, self.port), now())
    }

    /// The Certificate of cert-manager, made or corrected where it is not what is asked for.
    async fn certificate(&self, issuer: &IssuerRef) -> Result<DynamicObject, Lack> {
        let name = &self.desired.name;
        let called = name.certificate(self.port);
        let names = to_be_issued(self.desired, self.port);
        let spec = given::request(self.port, &name.issued_secret(self.port), issuer, &names);
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "Certificate"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), &name.namespace, &kind);
        let failed = |error: kube::Error| Lack {
            reason: "CertManagerFailed",
            message: format!("Certificate {called} cannot be read or written: {}", explain(&error)),
        };
        let found = api.get_opt(&called).await.map_err(failed)?;
        if let Some(found) = found.filter(|found| given::is_asked(&found.data["spec"], &spec)) {
            return Ok(found);
        }
        let object = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": secret::metadata(name, self.secrets.owner(), &called, "certificates"),
            "spec": spec,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch(&called, &params, &Patch::Apply(&object)).await {
            // What does not exist yet would have been made: the kind itself is not there.
            Err(kube::Error::Api(status)) if status.is_not_found() => Err(Lack {
                reason: "CertManagerMissing",
                message: "cert-manager is not installed: install it, or choose Managed or Secret".into(),
            }),
            applied => applied.map_err(failed),
        }
    }

    async fn write(&self, write: Write, contents: Contents) -> Result<(), CertificateError> {
        let offered = match (&contents.authority, &contents.given) {
            (_, Some(given)) => given.authorities.clone(),
            (Some(pair), None) => authorities(&pair.certificate).unwrap_or_default(),
            (None, None) => BTreeMap::new(),
        };
        let handed = contents.view.handed.clone().unwrap_or_default();
        match write {
            Write::Mint => self.mint().await,
            Write::Begin => {
                let pairs = self.pairs(&contents, &BTreeMap::new())?;
                self.hand(&offered, offered.keys().cloned().collect(), now(), pairs).await
            }
            Write::Trust => {
                let trusted = contents.trusted.into_iter().chain(offered).collect();
                self.hand(&trusted, handed.issuers, now(), contents.pairs).await
            }
            Write::Issue => {
                let issuers: BTreeSet<Fingerprint> = offered.keys().cloned().collect();
                let kept = if issuers == handed.issuers { handed.leaves } else { BTreeMap::new() };
                let pairs = self.pairs(&contents, &kept)?;
                self.hand(&contents.trusted, issuers, handed.since, pairs).await
            }
            Write::Settle => self.hand(&offered, handed.issuers, handed.since, contents.pairs).await,
        }
    }

    async fn mint(&self) -> Result<(), CertificateError> {
        let name = &self.desired.name;
        let made = mint(&format!("{name}, {}", self.port.called()), now())?;
        let data = [(AUTHORITIES.to_owned(), made.certificate), (AUTHORITY_KEY.to_owned(), made.key)];
        let mut secret = self.secret(&name.authority_secret(self.port), &data.into());
        if let Some(wish) = &self.wanted.rotate {
            let annotations = secret.metadata.annotations.get_or_insert_default();
            annotations.insert(ANNOTATION_ROTATED.to_owned(), wish.clone());
        }
        Ok(self.secrets.apply(&secret).await?)
    }

    /// The certificates that there are to be. Of those that there are, the ones of `kept` that will do stay.
    fn pairs(
        &self,
        contents: &Contents,
        kept: &BTreeMap<String, Leaf>,
    ) -> Result<BTreeMap<String, Pair>, CertificateError> {
        let signer = contents.authority.as_ref().map(Signer::new).transpose()?;
        let pair = |called: &String, names: &BTreeSet<String>| {
            if let Some(given) = &contents.given {
                return Ok(Some(given.pair.clone()));
            }
            let stays = kept.get(called).is_some_and(|leaf| still_good(leaf, names, now()));
            match (contents.pairs.get(called).filter(|_| stays), &signer) {
                (Some(pair), _) => Ok(Some(pair.clone())),
                (None, Some(signer)) => signer.issue(self.port, names, now()).map(Some),
                (None, None) => Ok(None),
            }
        };
        let mut pairs = BTreeMap::new();
        for (called, names) in &self.wanted.names {
            if let Some(pair) = pair(called, names)? {
                pairs.insert(called.clone(), pair);
            }
        }
        Ok(pairs)
    }

    /// Writes what members mount.
    async fn hand(
        &self,
        trusted: &BTreeMap<Fingerprint, String>,
        issuers: BTreeSet<Fingerprint>,
        since: i64,
        pairs: BTreeMap<String, Pair>,
    ) -> Result<(), CertificateError> {
        let bundle: String = trusted.values().map(String::as_str).collect();
        let mut data = BTreeMap::from([(AUTHORITIES.to_owned(), bundle)]);
        for (called, pair) in pairs {
            data.insert(format!("{called}.crt"), pair.certificate);
            data.insert(format!("{called}.key"), pair.key);
        }
        let mut secret = self.secret(&self.desired.name.certificates_secret(self.port), &data);
        let issuers: Vec<Fingerprint> = issuers.into_iter().collect();
        secret.metadata.annotations = Some(
            [(ANNOTATION_ISSUERS, issuers.join(",")), (ANNOTATION_TRUSTED_SINCE, since.to_string())]
                .map(|(key, value)| (key.to_owned(), value))
                .into(),
        );
        Ok(self.secrets.apply(&secret).await?)
    }

    fn secret(&self, called: &str, data: &BTreeMap<String, String>) -> Secret {
        secret::of(&self.desired.name, self.secrets.owner(), called, "certificates", data)
    }
}

/// What of that which members had is not there any more, and something else is: what was done, in a word (events of the
/// same one are counted together) and in a sentence.
fn exchanged(before: &Handed, now: &Handed) -> Option<(&'static str, &'static str)> {
    let is_another = |(called, leaf): (&String, &Leaf)| {
        before.leaves.get(called).is_some_and(|before| before.fingerprint != leaf.fingerprint)
    };
    let certificates = now.leaves.iter().any(is_another);
    let authority = !before.trusted.is_subset(&now.trusted);
    match (certificates, authority) {
        (true, true) => {
            Some(("Begin", "members have other certificates, of an authority that took the place of another"))
        }
        (true, false) => Some(("Issue", "members have other certificates")),
        (false, true) => Some(("Settle", "the former authority is trusted no longer")),
        (false, false) => None,
    }
}

type ParsedHanded = (BTreeMap<Fingerprint, String>, BTreeMap<String, Pair>, Option<Handed>);

/// What members have, as the Secret holds it. One that makes no sense is made anew.
fn parse_handed(secret: &Secret) -> ParsedHanded {
    let Some(trusted) = text(secret, AUTHORITIES).as_deref().and_then(authorities) else {
        return ParsedHanded::default();
    };
    let mut pairs = BTreeMap::new();
    let mut leaves = BTreeMap::new();
    for key in secret.data.iter().flat_map(|data| data.keys()) {
        let Some(called) = key.strip_suffix(".crt").filter(|_| key != AUTHORITIES) else { continue };
        let pair = text(secret, key).zip(text(secret, &format!("{called}.key")));
        let read = pair.and_then(|(certificate, key)| Some((Leaf::read(&certificate)?, certificate, key)));
        if let Some((leaf, certificate, key)) = read {
            leaves.insert(called.to_owned(), leaf);
            pairs.insert(called.to_owned(), Pair { certificate, key });
        }
    }
    let annotation = |key: &str| secret.annotations().get(key);
    // Before authorities were exchanged there was one, and all certificates were of it.
    let issuers = annotation(ANNOTATION_ISSUERS).map_or_else(
        || trusted.keys().cloned().collect(),
        |text| text.split(',').map(str::to_owned).collect(),
    );
    let since = annotation(ANNOTATION_TRUSTED_SINCE).and_then(|text| text.parse().ok()).unwrap_or_default();
    let handed = Handed { trusted: trusted.keys().cloned().collect(), issuers, since, leaves };
    (trusted, pairs, Some(handed))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

fn now() -> i64 {
    clock::now().as_second()
}

/// An error with what caused it.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
