//! Objects as they are sent.

use super::*;
use crate::cluster::backups::verify::NewVerifier;
use crate::cluster::fixtures::{World, desired};
use crate::crd::{DisruptionBudget, NetworkPolicyMode, Spread};
use serde_json::{Value, json};

fn built(world: &World) -> Resources {
    build(&world.desired, &world.observe(), &world.plan()).unwrap()
}

fn json(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

#[test]
fn a_serving_cluster_with_replicas() {
    let resources = built(&World::serving(3, 2));
    insta::assert_yaml_snapshot!("voters", resources.sets[0]);
    insta::assert_yaml_snapshot!("nodes", resources.nodes);
    insta::assert_yaml_snapshot!("services", resources.services);
    insta::assert_yaml_snapshot!("budgets", resources.budgets);
    insta::assert_yaml_snapshot!("network_policy", resources.network_policy);
    assert_eq!(resources.sets.len(), 2);
    assert!(resources.surplus.is_empty());
    assert!(resources.claims.is_empty());
}

#[test]
fn sets_that_are_to_grow_wait_where_new_pods_would() {
    let sizes = |world: &World| {
        let resources = built(world).without_new_pods(&world.desired.name, &world.observe());
        let size =
            |set: &StatefulSet| (set.metadata.name.clone().unwrap(), json(set)["spec"]["replicas"].clone());
        resources.sets.iter().map(size).collect::<Vec<_>>()
    };
    let of = |voters: i32, replicas: i32| {
        vec![("orders".to_owned(), json!(voters)), ("orders-replica".to_owned(), json!(replicas))]
    };
    let wanting = |voters: usize, replicas: usize| {
        World::serving(3, 2).edit(|world| {
            (world.desired.voters, world.desired.read_replicas) = (voters, replicas);
        })
    };
    assert_eq!(sizes(&wanting(3, 2)), of(3, 2));
    assert_eq!(sizes(&wanting(5, 4)), of(3, 2), "they grow");
    let of_voters = || of(3, 0)[..1].to_vec();
    let gone = wanting(5, 4).edit(|world| drop(world.observed.sets.remove(&PodRole::ReadReplica)));
    assert_eq!(sizes(&gone), of_voters(), "it is not there");
    let first = World::serving(3, 0).edit(|world| world.desired.read_replicas = 2);
    assert_eq!(sizes(&first), of_voters(), "there were none");
    let other = wanting(3, 2).edit(|world| {
        let set = world.observed.sets.get_mut(&PodRole::ReadReplica).unwrap();
        set.revision = Some("another".into());
    });
    assert_eq!(sizes(&other), of_voters(), "it would get another template");
}

#[test]
fn pods_pass_the_restricted_standard() {
    for role in PodRole::ALL {
        let pod = json(pod::template(&desired(|_| {}), role));
        let (spec, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
        assert!(spec.get("hostNetwork").is_none());
    }
}

#[test]
fn arguments_follow_role_and_spec() {
    let wan = desired(|spec| {
        spec.database.foreign_keys = true;
        spec.database.auto_vacuum_seconds = 86_400;
        spec.raft.profile = crate::crd::RaftProfile::Wan;
    });
    let args = |role| json(pod::template(&wan, role))["spec"]["containers"][0]["args"].to_string();
    let voter = args(PodRole::Voter);
    for flag in [
        "-node-id=$(POD_NAME)",
        "-http-adv-addr=$(POD_NAME).orders-nodes.shop.svc:4001",
        "-raft-adv-addr=$(POD_NAME).orders-nodes.shop.svc:4002",
        "-managed",
        "-fk",
        "-auto-vacuum-int=86400s",
        "-raft-profile=wan",
        "-log-level=info",
    ] {
        assert!(voter.contains(&format!("\"{flag}\"")), "{flag} in {voter}");
    }
    assert!(!voter.contains("non-voter") && !voter.contains("-extensions"));
    let plain = json(pod::template(&desired(|_| {}), PodRole::Voter));
    assert!(!plain.to_string().contains("-auto-vacuum-int"));
    assert!(args(PodRole::ReadReplica).contains("\"-raft-non-voter\""));
    assert!(voter.ends_with("\"/data\"]"));
}

#[test]
fn extensions_reach_members_and_tests_of_backups() {
    let world = backed_up(World::serving(3, 0)).spec(|spec| {
        spec.database.extensions = vec!["/extensions/vec0.so".into(), "/extensions/more.tar.gz".into()];
        spec.database.former_extensions = vec!["/former/vec0.so".into()];
        spec.database.extension_modules = vec!["vec0".into()];
    });
    let extended = &world.desired;
    for role in PodRole::ALL {
        let args = json(pod::template(extended, role))["spec"]["containers"][0]["args"].to_string();
        for flag in [
            "-extensions-path=/extensions/vec0.so,/extensions/more.tar.gz",
            "-extensions-former=/former/vec0.so",
            "-extensions-modules=vec0",
        ] {
            assert!(args.contains(&format!("\"{flag}\"")), "{flag} in {args}");
        }
    }
    let job = json(verifier::job(extended, "c1", &new_verifier()).unwrap());
    let args = job["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap().clone();
    let at = args.iter().position(|arg| arg == "-extensions-path").unwrap();
    assert_eq!(args[at + 1], "/extensions/vec0.so,/extensions/more.tar.gz,/former/vec0.so");
}

#[test]
fn what_members_send_is_in_their_arguments_but_for_what_is_secret() {
    let key = |name: &str, key: &str| json!({"name": name, "key": key});
    let with = |capture: Value| {
        desired(|spec| {
            spec.database.change_capture = Some(serde_json::from_value(capture.clone()).unwrap());
            spec.observability.otlp = Some(
                serde_json::from_value(json!({
                    "endpoint": "https://collector:4317", "tracePercent": 5,
                    "caSecretRef": key("trust", "collector.pem"), "certificateSecretRef": {"name": "shown"},
                }))
                .unwrap(),
            );
        })
    };
    let secret = with(json!({
        "endpointSecretRef": key("sink", "url"), "caSecretRef": key("trust", "sink.pem"), "tableFilter": "^a$|$(b)",
        "batchSize": 20, "batchDelayMilliseconds": 50, "maxRetries": 3, "maxSize": "2Gi", "retryPolicy": "Exponential",
        "minBackoffMilliseconds": 20, "maxBackoffMilliseconds": 400, "highWatermarkIntervalMilliseconds": 0,
        "serverName": "sink.example",
    }));
    let container = |role| json(pod::template(&secret, role))["spec"]["containers"][0].clone();
    let args = |role| -> Vec<String> { serde_json::from_value(container(role)["args"].clone()).unwrap() };
    let said = args(PodRole::Voter).into_iter().find(|arg| arg.starts_with("-cdc-config=")).unwrap();
    let said = said.trim_start_matches("-cdc-config=");
    assert!(said.contains("^a$$|$$(b)"), "{said}: Kubernetes takes $$ for a dollar, and $(b) for a variable");
    assert_eq!(
        serde_json::from_str::<Value>(&said.replace("$$", "$")).unwrap(),
        json!({
            "endpoint_file": "/etc/sqlited/changes/endpoint", "service_id": "orders", "table_filter": "^a$|$(b)",
            "max_batch_size": 20, "max_batch_delay": "50ms", "transmit_max_retries": 3, "max_bytes": 2_u64 << 30,
            "transmit_retry_policy": "exponential", "transmit_min_backoff": "20ms", "transmit_max_backoff": "400ms",
            "high_watermark_interval": "0ms",
            "tls": {"ca_cert_file": "/etc/sqlited/changes/ca.crt", "server_name": "sink.example"},
        })
    );
    assert!(!args(PodRole::ReadReplica).iter().any(|arg| arg.starts_with("-cdc-config")));
    for flag in [
        "-otlp-endpoint=https://collector:4317",
        "-otlp-interval=30s",
        "-otlp-trace-ratio=0.05",
        "-otlp-ca-cert=/etc/sqlited/otlp/ca.crt",
        "-otlp-cert=/etc/sqlited/otlp/tls.crt",
        "-otlp-key=/etc/sqlited/otlp/tls.key",
    ] {
        assert!(PodRole::ALL.iter().all(|role| args(*role).iter().any(|arg| arg == flag)), "{flag}");
    }
    let files = |role, volume: &str| {
        let volumes = json(pod::template(&secret, role))["spec"]["volumes"].clone();
        let found = volumes.as_array().unwrap().iter().find(|found| found["name"] == *volume).cloned();
        let mounted =
            container(role)["volumeMounts"].as_array().unwrap().iter().any(|at| at["name"] == *volume);
        assert_eq!(found.is_some(), mounted);
        found.map(|found| found["projected"]["sources"].clone())
    };
    assert_eq!(
        files(PodRole::Voter, "changes").unwrap(),
        json!([
            {"secret": {"name": "trust", "items": [{"key": "sink.pem", "path": "ca.crt"}]}},
            {"secret": {"name": "sink", "items": [{"key": "url", "path": "endpoint"}]}},
        ])
    );
    assert_eq!(files(PodRole::ReadReplica, "changes"), None);
    assert_eq!(files(PodRole::ReadReplica, "otlp").unwrap().as_array().unwrap().len(), 2);
    let other = with(json!({"endpoint": "stdout"}));
    assert_ne!(other.voter_revision, desired(|_| {}).voter_revision);
}

#[test]
fn spread_is_strict_when_required_and_absent_when_not_wanted() {
    let with = |spread| json(pod::template(&desired(|spec| spec.placement.spread = spread), PodRole::Voter));
    let anti = |pod: &Value| pod["spec"]["affinity"]["podAntiAffinity"].clone();
    let required = with(Spread::Required);
    assert!(anti(&required)["requiredDuringSchedulingIgnoredDuringExecution"].is_array());
    assert_eq!(required["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
    let preferred = with(Spread::Preferred);
    assert!(anti(&preferred)["preferredDuringSchedulingIgnoredDuringExecution"].is_array());
    let none = with(Spread::None);
    assert!(none["spec"].get("affinity").is_none());
    assert!(none["spec"].get("topologySpreadConstraints").is_none());
}

#[test]
fn selectors_and_claim_templates_carry_only_cluster_and_role() {
    let set = json(&built(&World::serving(1, 0)).sets[0]);
    let bare = json!({"sqlite-operator.io/cluster": "orders", "sqlite-operator.io/role": "voter"});
    assert_eq!(set["spec"]["selector"]["matchLabels"], bare);
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["metadata"]["labels"], bare);
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
}

#[test]
fn the_size_of_claims_is_the_sets_while_it_exists() {
    let world = World::serving(1, 0).spec(|spec| spec.storage.size = "2Gi".into());
    let size = |set: &Value| {
        set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].clone()
    };
    assert_eq!(size(&json(&built(&world).sets[0])), "1Gi");
    assert_eq!(size(&json(&built(&world.without_set(PodRole::Voter)).sets[0])), "2Gi");
}

#[test]
fn a_pinned_template_is_used_as_it_is() {
    let world = World::serving(1, 0);
    let mut old = pod::template(&world.desired, PodRole::Voter);
    old.spec.as_mut().unwrap().termination_grace_period_seconds = Some(77);
    let kept = template::revision(&world.desired, PodRole::Voter, &world.desired.voter_revision, &old);
    let (revision, pinned) = template::pinned(&kept).unwrap();
    let world = world.edit(|world| {
        world.observed.templates.insert(revision, pinned);
    });
    let resources = built(&world);
    assert_eq!(json(&resources.sets[0])["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], 77);
    assert_eq!(json(&resources.templates[0]), json(&kept));
}

#[test]
fn what_is_no_longer_wanted_is_surplus() {
    let world = World::serving(1, 0).edit(|world| {
        let current = world.desired.voter_revision.clone();
        world.observed.children = [
            Child::Service("orders-nodes".into()),
            Child::Service("orders-rw".into()),
            Child::Service("orders-old".into()),
            Child::Budget("orders".into()),
            Child::Template(current),
            Child::Template("old".into()),
        ]
        .into();
    });
    let wanted =
        [Child::Service("orders-old".into()), Child::Budget("orders".into()), Child::Template("old".into())];
    assert_eq!(built(&world).surplus, wanted);
}

#[test]
fn clouds_know_the_account_by_its_annotations() {
    let role = ("eks.amazonaws.com/role-arn".to_owned(), "arn:aws:iam::1:role/backups".to_owned());
    let world = World::serving(1, 0)
        .spec(|spec| spec.pod_template.service_account_annotations = [role.clone()].into());
    assert_eq!(built(&world).service_account.metadata.annotations, Some([role].into()));
    assert_eq!(built(&World::serving(1, 0)).service_account.metadata.annotations, None);
}

#[test]
fn a_network_policy_can_be_left_out() {
    let world = World::serving(1, 0).spec(|spec| spec.security.network_policy = NetworkPolicyMode::None);
    let world = world.edit(|world| {
        world.observed.children = [Child::NetworkPolicy("orders".into())].into();
    });
    let resources = built(&world);
    assert_eq!(resources.network_policy, None);
    assert_eq!(resources.surplus, [Child::NetworkPolicy("orders".into())]);
}

#[test]
fn budgets_can_be_left_out() {
    let world =
        World::serving(3, 1).spec(|spec| spec.disruption.pod_disruption_budget = DisruptionBudget::None);
    assert!(built(&world).budgets.is_empty());
    assert!(built(&World::serving(1, 0)).budgets.is_empty());
}

#[test]
fn a_claim_without_the_labels_of_a_child_gets_them_and_nobody_is_restarted() {
    let (at_rest, world) =
        (World::serving(3, 0), World::serving(3, 0).edit_claim("orders-1", |claim| claim.bare = true));
    let plan = world.plan();
    let marked: Vec<_> = plan.claims.iter().map(|mark| (mark.member.as_str(), mark.grows)).collect();
    assert_eq!(marked, [("orders-1", false)]);
    assert_eq!((plan.steps, plan.revision), (at_rest.plan().steps, at_rest.plan().revision));
}

#[test]
fn a_marked_claim_never_creates_one() {
    let world =
        World::serving(1, 0).spec(|spec| spec.storage.on_delete = crate::crd::RetentionPolicy::Delete);
    let claim = json(&built(&world).claims[0]);
    assert_eq!(claim["metadata"]["uid"], "orders-0-claim");
    let labels = json!({
        "app.kubernetes.io/component": "voter", "app.kubernetes.io/instance": "orders",
        "app.kubernetes.io/managed-by": "sqlite-operator", "app.kubernetes.io/name": "sqlited",
        "app.kubernetes.io/part-of": "sqlite", "sqlite-operator.io/cluster": "orders",
        "sqlite-operator.io/member": "orders-0", "sqlite-operator.io/role": "voter",
    });
    assert_eq!(claim["metadata"]["labels"], labels);
    assert_eq!(claim["metadata"]["annotations"]["sqlite-operator.io/cluster-id"], "c1");
    assert_eq!(claim["metadata"]["annotations"]["sqlite-operator.io/node-id"], "0000000000000064");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["kind"], "SqliteCluster");
    assert!(claim["metadata"]["ownerReferences"][0].get("controller").is_none());
}

#[test]
fn nothing_is_built_for_a_paused_cluster() {
    let world = World::serving(1, 0).spec(|spec| spec.paused = true);
    assert!(build(&world.desired, &world.observe(), &world.plan()).is_none());
}

/// The spec of a cluster with every part of a store that is mounted.
fn backed_up(world: World) -> World {
    world.spec(|spec| {
        spec.backup = Some(
            serde_json::from_value(json!({
                "store": {"s3": {
                    "bucket": "b", "prefix": "p", "endpoint": "https://minio:9000", "forcePathStyle": true,
                    "secretRef": {"name": "store"}, "caSecretRef": {"name": "ca", "key": "tls.crt"},
                }},
                "encryption": {"keySecretRef": {"name": "keys", "key": "current"}},
                "continuous": {},
                "bytesPerSecond": 1_000_000,
            }))
            .unwrap(),
        );
    })
}

#[test]
fn members_are_told_of_the_store_and_mount_what_it_needs() {
    let resources = built(&backed_up(World::serving(3, 0)));
    insta::assert_yaml_snapshot!("config_maps", resources.config_maps);
    let pod = json(&resources.sets[0])["spec"]["template"]["spec"].clone();
    let of_store = |list: &Value| -> Vec<Value> {
        let named = |entry: &&Value| entry["name"].as_str().is_some_and(|name| name.starts_with("backup-"));
        list.as_array().unwrap().iter().filter(named).cloned().collect()
    };
    insta::assert_yaml_snapshot!("store_volumes", of_store(&pod["volumes"]));
    insta::assert_yaml_snapshot!("store_mounts", of_store(&pod["containers"][0]["volumeMounts"]));
    let args = pod["containers"][0]["args"].to_string();
    assert!(args.contains("\"-backup-config=/etc/sqlited/backup/config/config.json\""), "{args}");
}

#[test]
fn settings_of_backups_restart_nobody_and_other_secrets_do() {
    let world = backed_up(World::serving(3, 0));
    let revision = world.desired.voter_revision.clone();
    let edited = |edit: fn(&mut crate::crd::Backups)| {
        backed_up(World::serving(3, 0))
            .spec(|spec| edit(spec.backup.as_mut().unwrap()))
            .desired
            .voter_revision
    };
    assert_eq!(edited(|backups| backups.bytes_per_second = None), revision);
    assert_eq!(edited(|backups| backups.store.s3.as_mut().unwrap().bucket = "c".into()), revision);
    assert_ne!(edited(|backups| backups.store.s3.as_mut().unwrap().secret_ref = None), revision);
    assert_ne!(edited(|backups| backups.encryption = None), revision);
}

/// A newer operator must not restart members of clusters that have no backups, and no TLS for clients.
#[test]
fn a_cluster_without_backups_keeps_its_revision() {
    let older = desired(|spec| spec.security.tls.clients = Some(crate::crd::TlsMode::Disabled));
    assert_eq!(older.voter_revision, "cb844272e18b");
    assert!(built(&World::serving(3, 0)).config_maps.is_empty());
}

#[test]
fn a_volume_holds_the_backups_of_a_filesystem_store() {
    let world = World::serving(1, 0).spec(|spec| {
        let backups = json!({"store": {"filesystem": {"claimName": "shared"}}});
        spec.backup = Some(serde_json::from_value(backups).unwrap());
    });
    let pod = json(&built(&world).sets[0])["spec"]["template"]["spec"].clone();
    let find = |list: &Value| list.as_array().unwrap().iter().find(|e| e["name"] == "backup-files").cloned();
    assert_eq!(find(&pod["volumes"]).unwrap()["persistentVolumeClaim"]["claimName"], "shared");
    let mount = find(&pod["containers"][0]["volumeMounts"]).unwrap();
    assert_eq!(mount["mountPath"], "/var/lib/sqlited-backups");
    assert!(mount.get("readOnly").is_none());
}

/// Each store with a server of its own has authorities of its own.
#[test]
fn a_store_is_reached_by_its_own_authorities() {
    for (store, extra) in [
        ("s3", json!({"bucket": "b"})),
        ("gcs", json!({"bucket": "b"})),
        ("azure", json!({"container": "c", "account": "a"})),
    ] {
        let mut of_store = extra;
        of_store["caSecretRef"] = json!({"name": "authorities", "key": "ca.crt"});
        let world = World::serving(1, 0).spec(|spec| {
            let backups = json!({"store": {store: of_store}});
            spec.backup = Some(serde_json::from_value(backups).unwrap());
        });
        let resources = built(&world);
        let told = resources.config_maps[0].data.as_ref().unwrap()["config.json"].clone();
        assert!(told.contains(r#""caFile": "/etc/sqlited/backup/ca/ca.crt""#), "{store}: {told}");
        let pod = json(&resources.sets[0])["spec"]["template"]["spec"].clone();
        let mounted = pod["volumes"].to_string();
        assert!(mounted.contains(r#""secretName":"authorities""#), "{store}: {mounted}");
    }
}

fn new_verifier() -> NewVerifier {
    NewVerifier {
        job: "orders-verify-abc".into(),
        backup: "orders-nightly-1".into(),
        path: "full/1".into(),
        schedule: "nightly".into(),
        has_queries: true,
        replay: true,
        volume_size: "1Gi".into(),
    }
}

#[test]
fn a_test_of_a_backup_is_a_pod_that_may_do_nothing_else() {
    let world = backed_up(World::serving(3, 0)).spec(|spec| {
        let schedules = json!([{"name": "nightly", "cron": "0 3 * * *", "verify": {
            "every": "24h", "queries": [{"sql": "SELECT 1", "expect": "1"}],
        }}]);
        spec.backup.as_mut().unwrap().schedules = serde_json::from_value(schedules).unwrap();
    });
    let new = new_verifier();
    insta::assert_yaml_snapshot!("verifier", verifier::job(&world.desired, "c1", &new).unwrap());
    let maps = built(&world).config_maps;
    assert!(maps[0].data.as_ref().unwrap()["queries-nightly.json"].contains("SELECT 1"));
}

#[test]
fn members_know_the_store_that_the_cluster_begins_with_apart() {
    let claim = serde_json::from_value(json!({"filesystem": {"claimName": "old"}})).unwrap();
    let access = backup::StoreAccess { store: claim, encryption: None };
    let world = World::serving(1, 0).edit(|world| {
        world.desired.beginning = Some(backup::Beginning::Store(Box::new(access)));
    });
    let resources = built(&world);
    let pod = json(&resources.sets[0])["spec"]["template"]["spec"].clone();
    let args = pod["containers"][0]["args"].to_string();
    assert!(args.contains("\"-restore-config=/etc/sqlited/restore/config/config.json\""), "{args}");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let files = mounts.iter().find(|mount| mount["name"] == "restore-files").unwrap();
    assert_eq!((&files["mountPath"], &files["readOnly"]), (&json!("/var/lib/sqlited-restore"), &json!(true)));
    assert_eq!(resources.config_maps[0].metadata.name.as_deref(), Some("orders-restore"));
}

#[test]
fn members_know_what_the_cluster_imports() {
    let import = json!({
        "url": "https://old:4001/db/backup", "secretRef": {"name": "old"}, "caSecretRef": {"name": "ca", "key": "pem"},
    });
    let import = backup::Beginning::Import(serde_json::from_value(import).unwrap());
    let world = World::serving(1, 0).edit(|world| world.desired.beginning = Some(import));
    let resources = built(&world);
    let told: Value =
        serde_json::from_str(&resources.config_maps[0].data.as_ref().unwrap()["config.json"]).unwrap();
    let expected = json!({"import": {
        "url": "https://old:4001/db/backup", "credentialsDir": "/etc/sqlited/restore/credentials",
        "caFile": "/etc/sqlited/restore/ca/ca.crt",
    }});
    assert_eq!(told, expected);
    let pod = json(&resources.sets[0])["spec"]["template"]["spec"].clone();
    let volumes = pod["volumes"].to_string();
    assert!(volumes.contains("restore-credentials") && volumes.contains("restore-ca"), "{volumes}");
}
