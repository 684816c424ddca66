//! Certificates of cert-manager, which is played here: it sees the Certificate, says how far it is, and writes the Secret.

use super::*;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use operator::crd::IssuerRef;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

const CERTIFICATE: &str = "orders-peer";
const ISSUED: &str = "orders-peer-issued";

/// An authority behind an issuer of cert-manager.
struct Authority {
    certificate: String,
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&certificate, key).unwrap();
        Self { certificate, issuer }
    }
}

impl Serving {
    /// A cluster whose members have their certificates from cert-manager.
    async fn asking_cert_manager() -> Self {
        let mut world = Self::start().await;
        let tls = &mut world.cluster.spec.security.tls;
        tls.peers = TlsMode::CertManager;
        tls.peers_issuer_ref =
            Some(IssuerRef { name: "ca".into(), kind: "Issuer".into(), group: "cert-manager.io".into() });
        world
    }

    /// The Certificate, as the API server has it.
    fn certificate(&self) -> Value {
        self.server.secrets.lock().unwrap().get(CERTIFICATE).cloned().unwrap_or_default()
    }

    fn edit_certificate(&self, edit: impl FnOnce(&mut Value)) {
        edit(self.server.secrets.lock().unwrap().get_mut(CERTIFICATE).unwrap());
    }

    /// cert-manager says how far it is.
    fn says(&self, ready: &str, message: &str) {
        self.edit_certificate(|certificate| {
            certificate["status"] =
                json!({"conditions": [{"type": "Ready", "status": ready, "message": message}]});
        });
    }

    /// cert-manager writes the Secret that the Certificate asks for; the certificate in it.
    fn issue(&self, authority: &Authority) -> String {
        let asked = self.certificate();
        let names: Vec<String> = serde_json::from_value(asked["spec"]["dnsNames"].clone()).unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usages = asked["spec"]["usages"].as_array().unwrap();
        for (usage, purpose) in [
            ("server auth", ExtendedKeyUsagePurpose::ServerAuth),
            ("client auth", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            params.extended_key_usages.extend(usages.contains(&json!(usage)).then_some(purpose));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap().pem();
        let entries = [
            ("tls.crt", certificate.clone()),
            ("tls.key", key.serialize_pem()),
            ("ca.crt", authority.certificate.clone()),
        ];
        let data = entries.map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())));
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let called = asked["spec"]["secretName"].as_str().unwrap().to_owned();
        self.server.secrets.lock().unwrap().insert(called, json!(secret));
        self.says("True", "Certificate is up to date and has not expired");
        certificate
    }

    /// What was believed of certificates is looked at anew, as it is once in a while.
    async fn look_again(&mut self) {
        self.ctx.certificates.forget(&ClusterName::new("shop", "orders"));
        self.reconcile().await;
    }

    fn message(&self, kind: &str) -> String {
        let conditions = &self.cluster.status.as_ref().unwrap().conditions;
        conditions.iter().find(|c| c.type_ == kind).map(|c| c.message.clone()).unwrap_or_default()
    }

    /// Events of this reason since they were last asked for.
    fn told(&self, reason: &str) -> Vec<String> {
        let events = std::mem::take(&mut *self.server.events.lock().unwrap());
        events.into_iter().filter(|(told, _)| told == reason).map(|(_, note)| note).collect()
    }
}

fn touches(asked: &[String], what: &str) -> bool {
    asked.iter().any(|asked| asked.starts_with("PATCH") && asked.contains(what))
}

#[tokio::test]
async fn members_get_what_cert_manager_issues_and_renews() {
    let mut world = Serving::asking_cert_manager().await;
    world.reconcile().await;
    let spec = world.certificate()["spec"].clone();
    assert_eq!((&spec["secretName"], &spec["issuerRef"]["name"]), (&json!(ISSUED), &json!("ca")));
    assert!(spec["dnsNames"].as_array().unwrap().contains(&json!("*.orders-nodes.shop.svc")), "{spec}");
    assert_eq!(world.reason("CertificatesValid").as_deref(), Some("CertificateNotReady"));

    // It is not ready for a while. Nothing starts, and nobody is asked twice.
    world.says("False", "Issuing certificate as Secret does not exist");
    world.server.asked();
    world.reconcile().await;
    let asked = world.server.asked();
    assert!(!touches(&asked, "/statefulsets/") && !touches(&asked, "/certificates/"), "{asked:?}");
    assert!(world.message("CertificatesValid").ends_with("Issuing certificate as Secret does not exist"));
    assert_eq!(world.reason("Reconciling").as_deref(), Some("AwaitingCertificates"));

    let authority = Authority::new("first");
    let first = world.issue(&authority);
    world.reconcile().await;
    for member in ["orders-0", "orders-1", "orders-2", "orders-replica-0"] {
        let handed = world.entry("orders-peer-tls", &format!("{member}.crt"));
        assert_eq!(handed.as_ref(), Some(&first), "{member}");
    }
    assert_eq!(world.entry("orders-peer-tls", "ca.crt"), Some(authority.certificate.clone()));
    world.load();
    world.reconcile().await;
    let reasons = (world.reason("Reconciling"), world.reason("CertificatesValid"));
    assert_eq!(reasons, (None, Some("Valid".to_owned())));
    world.server.asked();
    world.reconcile().await;
    assert_eq!(world.server.asked(), Vec::<String>::new(), "at rest");
    assert_eq!(world.told("CertificateRotated"), [""; 0], "the first one took nobody's place");

    // Renewed by the same authority: handed on at once.
    let before = world.handed();
    let second = world.issue(&authority);
    world.look_again().await;
    assert_eq!(world.entry("orders-peer-tls", "orders-1.crt"), Some(second));
    assert_eq!(world.handed().trusted, before.trusted);
    assert_eq!(world.told("CertificateRotated").len(), 1);
    world.load();
    world.reconcile().await;
    assert_eq!(world.reason("CertificatesValid").as_deref(), Some("Valid"));

    // The next renewal does not come about: what there is stays in use.
    world.says("False", "the issuer does not answer");
    let before = world.handed();
    world.look_again().await;
    let reasons = (world.reason("CertificatesValid"), world.reason("Stalled"));
    assert_eq!((reasons, world.handed()), ((Some("Valid".to_owned()), None), before));
}

#[tokio::test]
async fn an_issuer_with_another_authority_costs_no_connection() {
    let mut world = Serving::asking_cert_manager().await;
    world.reconcile().await;
    world.issue(&Authority::new("first"));
    world.reconcile().await;
    world.load();
    world.reconcile().await;
    let before = world.handed();

    let another = Authority::new("second");
    let next = world.issue(&another);
    world.look_again().await;
    let both = world.handed();
    assert!(both.trusted.len() == 2 && both.trusted.is_superset(&before.trusted));
    assert_eq!(both.leaves, before.leaves, "nobody shows what not everybody trusts");
    assert_eq!(world.told("CertificateRotated"), [""; 0], "nothing took the place of anything yet");
    world.load();
    world.reconcile().await;
    assert_eq!(world.entry("orders-peer-tls", "orders-2.crt"), Some(next));
    assert_eq!(world.handed().trusted, both.trusted, "the first is trusted until nobody shows it");
    world.load();
    world.reconcile().await;
    assert_eq!(world.entry("orders-peer-tls", "ca.crt"), Some(another.certificate.clone()));
    let told = world.told("CertificateRotated");
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("trusted no longer"), "{told:?}");

    // Somebody edits the Certificate: it is asked for again as it is to be.
    world.load();
    world.edit_certificate(|certificate| certificate["spec"]["dnsNames"] = json!(["elsewhere"]));
    world.look_again().await;
    let names = world.certificate()["spec"]["dnsNames"].clone();
    assert!(names.as_array().unwrap().contains(&json!("*.orders-nodes.shop.svc")), "{names}");
    assert_eq!(world.reason("CertificatesValid").as_deref(), Some("Valid"));
}
