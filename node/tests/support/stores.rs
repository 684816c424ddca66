//! Object stores: the real programs that their makers or users test with.
//!
//! `BACKUP_S3_DIR` is where the S3 server keeps its files: in memory, it is as if it had a disk of its own.

use super::free_ports;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the bucket or container.
pub const BUCKET: &str = "backups";

/// A server with an empty bucket, ended with the test.
pub struct StoreServer {
    process: Child,
    _files: Option<tempfile::TempDir>,
    /// Where an S3 server keeps the objects.
    pub objects: PathBuf,
    /// Where it listens.
    pub port: u16,
}

impl StoreServer {
    fn start(program: &str, port: u16, set: impl FnOnce(&mut Command)) -> Self {
        // Stores are on other machines: this one is not to take what the members have of this one's processors.
        let mut command = Command::new("nice");
        command.args(["-n", "10", program]);
        set(&mut command);
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(process.try_wait().unwrap(), None, "{program} has ended");
            assert!(begun.elapsed() < Duration::from_secs(30), "{program} does not answer");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Self { process, _files: None, objects: PathBuf::new(), port }
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// An S3 server (versitygw) in `root`, and the settings of its store.
pub fn s3(program: &str, root: &Path) -> (StoreServer, Value) {
    let (access, secret) = ("access", "not really secret");
    let files = std::env::var("BACKUP_S3_DIR").ok().map(|at| tempfile::tempdir_in(at).unwrap());
    let at = files.as_ref().map_or(root, |files| files.path());
    for directory in [at.join("buckets").join(BUCKET), at.join("about"), root.join("credentials")] {
        std::fs::create_dir_all(directory).unwrap();
    }
    std::fs::write(root.join("credentials/accessKeyId"), access).unwrap();
    std::fs::write(root.join("credentials/secretAccessKey"), secret).unwrap();
    let port = free_ports(1)[0];
    let mut server = StoreServer::start(program, port, |command| {
        command.args(["--port", &format!("127.0.0.1:{port}"), "posix", "--sidecar"]);
        command.args([at.join("about"), at.join("buckets")]);
        command.env("ROOT_ACCESS_KEY", access).env("ROOT_SECRET_KEY", secret);
    });
    server.objects = at.join("buckets").join(BUCKET);
    server._files = files;
    (server, s3_at(root, port))
}

/// Settings of the S3 store, reached at `port`.
pub fn s3_at(root: &Path, port: u16) -> Value {
    json!({"s3": {
        "bucket": BUCKET, "endpoint": format!("http://127.0.0.1:{port}"), "forcePathStyle": true,
        "credentialsDir": root.join("credentials"),
    }})
}

/// A server of Google Cloud Storage's protocol (`e2e/clients/gcs`), and the settings of its store. It asks nobody who he is.
pub fn gcs(program: &str, root: &Path) -> (StoreServer, Value) {
    let port = free_ports(1)[0];
    let (address, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let server = StoreServer::start(program, port, |command| {
        command.args([&address, BUCKET]);
    });
    let credentials = root.join("credentials");
    std::fs::create_dir_all(&credentials).unwrap();
    let account = json!({"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": true});
    std::fs::write(credentials.join("serviceAccount.json"), account.to_string()).unwrap();
    (server, json!({"gcs": {"bucket": BUCKET, "endpoint": url, "credentialsDir": credentials}}))
}

/// A server of Azure Blob Storage's protocol (Azurite), and the settings of its store.
pub fn azure(program: &str, root: &Path) -> (StoreServer, Value) {
    // Azurite's own account: published, and the same everywhere.
    const ACCOUNT: &str = "devstoreaccount1";
    const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    let port = free_ports(1)[0];
    let server = StoreServer::start(program, port, |command| {
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
        command.args(["--skipApiVersionCheck", "--disableTelemetry", "--location"]).arg(root.join("azurite"));
    });
    let url = format!("http://127.0.0.1:{port}/{ACCOUNT}");
    // A request signed by the account's key ("Authorize with Shared Key", Azure Storage REST API).
    let (date, version) = (rfc1123(), "2021-08-06");
    let about =
        format!("x-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container");
    let text = format!("PUT\n\n\n\n\n\n\n\n\n\n\n\n{about}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).unwrap());
    let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    let made = reqwest::blocking::Client::new()
        .put(format!("{url}/{BUCKET}?restype=container"))
        .header("x-ms-date", date)
        .header("x-ms-version", version)
        .header("authorization", format!("SharedKey {ACCOUNT}:{signature}"))
        .header("content-length", "0")
        .send()
        .unwrap();
    assert!(made.status().is_success(), "{:?}", made.text());
    let credentials = root.join("credentials");
    std::fs::create_dir_all(&credentials).unwrap();
    std::fs::write(credentials.join("accountName"), ACCOUNT).unwrap();
    std::fs::write(credentials.join("accountKey"), KEY).unwrap();
    (server, json!({"azure": {"container": BUCKET, "endpoint": url, "credentialsDir": credentials}}))
}

fn rfc1123() -> String {
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&node::clock::now()).unwrap()
}
