//! A real S3 server (versitygw).

use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An S3 server with a bucket, ended with the test.
pub struct S3 {
    process: Child,
    /// Where it listens.
    pub port: u16,
}

impl S3 {
    /// Starts `program` in `root`; returns it and the settings of its store.
    pub fn start(program: &str, root: &Path) -> (Self, Value) {
        let (access, secret) = ("access", "not really secret");
        for directory in ["buckets/backups", "about", "credentials"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        std::fs::write(root.join("credentials/accessKeyId"), access).unwrap();
        std::fs::write(root.join("credentials/secretAccessKey"), secret).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Stores are on other machines: this one is not to take what the members have of this one's processors.
        let process = Command::new("nice")
            .args(["-n", "10", program])
            .args(["--port", &format!("127.0.0.1:{port}"), "posix", "--sidecar"])
            .args([root.join("about"), root.join("buckets")])
            .env("ROOT_ACCESS_KEY", access)
            .env("ROOT_SECRET_KEY", secret)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the S3 server does not answer");
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let store = store(root, port);
        (Self { process, port }, store)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Settings of the store, reached at `port`.
pub fn store(root: &Path, port: u16) -> Value {
    json!({"s3": {
        "bucket": "backups", "endpoint": format!("http://127.0.0.1:{port}"), "forcePathStyle": true,
        "credentialsDir": root.join("credentials"),
    }})
}
