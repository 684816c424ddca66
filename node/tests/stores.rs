//! Clouds' object stores, by the servers that stand for them in tests: everything that a store is used for, once. S3 is
//! what most other tests of backups use.
//!
//! `CLIENTS` is the directory in which `e2e/clients/build.sh` puts the servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::Cluster;
use support::automatic::{Stored, beginning, file, there_and_back};
use support::backups::{
    await_archived, back_up, cluster_id, files_below, insert, ledger, restore, restore_in_place,
};
use support::stores::{self, StoreServer};

fn program(path: &str) -> String {
    let built = std::env::var_os("CLIENTS").map(PathBuf::from).expect("CLIENTS is set by e2e/test.sh");
    built.join(path).to_str().unwrap().to_owned()
}

fn everything_that_a_store_is_used_for(start: impl FnOnce(&Path) -> (StoreServer, Value)) {
    let mut c = Cluster::empty();
    let (_server, store) = start(c.root());
    let (config, keys) = (c.root().join("backup.yaml"), c.root().join("keys"));
    std::fs::write(&keys, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let settings = json!({
        "store": store, "encryption": {"keyFile": keys}, "continuous": {"enabled": true, "rpoTargetSeconds": 1},
    });
    std::fs::write(&config, settings.to_string()).unwrap();
    c.add_members(1, &["-backup-config", config.to_str().unwrap()]);
    c.start(0);
    c.await_ready(0);
    let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
    assert_eq!(probe, json!({"writable": true, "readable": true, "deletable": true}));
    c.create_ledger(0);
    // More than one part.
    let large = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 5000) \
                 INSERT INTO ledger SELECT -x, randomblob(4000) FROM c";
    c.execute(0, &json!([large]));
    c.execute(0, &json!(["DELETE FROM ledger WHERE n < 0"]));
    insert(&c, 0, 1);
    let backup = back_up(&c, 0, "first");
    let archived = insert(&c, 0, 2);
    await_archived(&mut c, archived);
    let id = cluster_id(&c);
    let out = c.root().join("out.sqlite");
    for (to, index, rows) in [
        (format!("backup:{}", backup["path"].as_str().unwrap()), &backup["index"], vec![1]),
        (format!("index:{archived}"), &json!(archived), vec![1, 2]),
    ] {
        let restored = restore("restore", &config, &id, &to, &out);
        assert_eq!(restored.restored["index"], *index, "{to}: {}", restored.message);
        assert_eq!(ledger(&out), rows, "{to}");
        std::fs::remove_file(&out).unwrap();
    }
    restore_in_place(&mut c, "back", &json!({"backup": backup["path"]}), &json!({}));
    assert_eq!(c.assert_ledger(0, &[]), [1]);
    // Deleted is deleted, and again is no error.
    let path = json!({"paths": [backup["path"]]}).to_string();
    let deleted = |n: usize| {
        let (status, body) = c.delete(0, "/cluster/backups", &path);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, body["objects"].as_u64().unwrap() > 0), (200, n == 0), "{body}");
    };
    (0..2).for_each(deleted);
    let gone = restore("verify", &config, &id, &format!("backup:{}", backup["path"].as_str().unwrap()), &out);
    assert!(gone.message.contains("no complete backup"), "{}", gone.message);
    // A bucket that is not there is said, and hurts nobody.
    let kind = store.as_object().unwrap().keys().next().unwrap().clone();
    let mut elsewhere = settings.clone();
    let name = if kind == "azure" { "container" } else { "bucket" };
    elsewhere["store"][&kind][name] = json!("missing");
    std::fs::write(&config, elsewhere.to_string()).unwrap();
    let missing = c.until("the probe fails", |c| {
        let probe: Value = serde_json::from_str(&c.post(0, "/cluster/backups/probe", "").1).unwrap();
        (probe["writable"] == json!(false)).then_some(probe)
    });
    let message = missing["message"].as_str().unwrap();
    let says = ["bucket or container is not there", "container does not exist"];
    assert!(says.iter().any(|said| message.contains(said)), "{missing}");
    insert(&c, 0, 3);
    // Nothing of the credentials is in the log.
    let log = c.log(0);
    for file in files_below(&c.root().join("credentials")) {
        let secret = std::fs::read_to_string(&file).unwrap();
        assert!(secret.len() < 20 || !log.contains(&secret), "{}", file.display());
    }
}

#[test]
#[ignore = "needs a server: make test gives one"]
fn google_cloud_storage() {
    let program = program("gcs");
    everything_that_a_store_is_used_for(|root| stores::gcs(&program, root));
}

#[test]
// F2
#[ignore = "needs a server: make test gives one"]
fn automatically_to_google_cloud_storage_and_back() {
    let root = tempfile::tempdir().unwrap();
    let (server, store) = stores::gcs(&program("gcs"), root.path());
    let endpoint = &store["gcs"]["endpoint"];
    let sub = json!({
        "endpoint": endpoint, "project_id": "orders", "bucket": stores::BUCKET, "name": "orders/db.gz",
        "credentials_path": root.path().join("credentials/serviceAccount.json"),
    });
    // More than a part.
    there_and_back("gcs", &sub, 20, &["serviceAccount"], || {
        let about =
            format!("{}/storage/v1/b/{}/o/orders%2Fdb.gz", endpoint.as_str().unwrap(), stores::BUCKET);
        let about: Value = reqwest::blocking::get(about).unwrap().json().unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{about}")).to_owned();
        Stored {
            size: text(&about["size"]).parse().unwrap(),
            id: text(&about["metadata"]["rqlite-auto-backup-id"]),
        }
    });
    drop(server);
    // Without the server there is nothing to begin with.
    let mut alone = beginning(1, &file("gcs", &sub, &json!({"timeout": "5s"})));
    alone.start(0);
    assert_eq!(alone.exit_code(0), Some(1));
    assert!(alone.log(0).contains("fatal: -auto-restore: "), "{}", alone.log(0));
}

#[test]
#[ignore = "needs a server: make test gives one"]
fn azure_blob_storage() {
    let program = program("azurite/node_modules/.bin/azurite-blob");
    everything_that_a_store_is_used_for(|root| stores::azure(&program, root));
}
