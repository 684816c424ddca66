//! A database from elsewhere, over HTTP: a SQLite file or SQL text, as it is or compressed, from a server of files or from
//! `/db/backup` of a cluster of rqlite.

use super::packed::{UnpackError, unpacked};
use crate::store::{Receiving, Scratch, Staging};
use bytes::Bytes;
use client::backup::{ImportConfig, ImportFile};
use reqwest::{Certificate, Client, Response, StatusCode, Url};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a server may say nothing. One that makes the file first says nothing meanwhile.
const SILENT: Duration = Duration::from_secs(120);
/// How long a server that fails is asked again.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two attempts: at first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Of what a server says about an error, so much is repeated, in bytes.
const EXCERPT: usize = 300;

/// A database did not come from elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// The server cannot be asked, or its answer ended early.
    #[error("{url}: {}", chain(.source))]
    Http {
        /// What was asked for, without a query.
        url: String,
        /// What is wrong.
        source: reqwest::Error,
    },
    /// The server said nothing for long.
    #[error("{url}: the server has sent nothing for {} s", SILENT.as_secs())]
    Silent {
        /// What was asked for, without a query.
        url: String,
    },
    /// The server answered with an error.
    #[error("{url}: {status}{said}")]
    Status {
        /// What was asked for, without a query.
        url: String,
        /// The answer.
        status: StatusCode,
        /// The beginning of what it said.
        said: String,
    },
    /// It does not unpack.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The file could not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// All that is said about an error, outside in.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn io_at(what: &'static str) -> impl Fn(io::Error) -> ImportError {
    move |source| ImportError::Io { what, source }
}

impl ImportError {
    /// Whether another attempt may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Http { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Silent { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(status)
            }
            Self::Settings(_) | Self::Unpack(_) | Self::Io { .. } => false,
        }
    }
}

fn bad(file: &Path, error: &dyn std::fmt::Display) -> ImportError {
    ImportError::Settings(format!("{}: {error}", file.display()))
}

/// What the settings at `path` say, with the URL. What they name is looked at when it is needed.
pub fn settings(path: &Path) -> Result<(ImportConfig, Url), ImportError> {
    let bytes = std::fs::read(path).map_err(|error| bad(path, &error))?;
    let ImportFile { import } = serde_yaml::from_slice(&bytes).map_err(|error| bad(path, &error))?;
    let url = Url::parse(&import.url).map_err(|error| bad(path, &format_args!("url: {error}")))?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !["http", "https"].contains(&url.scheme()) || !is_bare {
        let what = "url: it must begin with http:// or https:// and hold no credentials; those belong into credentialsDir";
        return Err(bad(path, &what));
    }
    Ok((import, url))
}

/// Where a database comes from.
pub struct Import {
    client: Client,
    config: ImportConfig,
    /// Name and password.
    user: Option<(String, String)>,
    /// For people: a query may hold a signature.
    shown: String,
}

impl Import {
    /// Reads the settings at `path`, and the files that they name.
    pub fn read(path: &Path) -> Result<Self, ImportError> {
        let (config, mut shown) = settings(path)?;
        let text = |file: &Path| match std::fs::read_to_string(file) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err(bad(file, &error)),
        };
        let user = match &config.credentials_dir {
            Some(directory) => {
                let directory = Path::new(directory);
                Some((text(&directory.join("username"))?, text(&directory.join("password"))?))
            }
            None => None,
        };
        let agent = concat!("sqlited/", env!("CARGO_PKG_VERSION"));
        let mut client = Client::builder().connect_timeout(CONNECT).user_agent(agent);
        if let Some(file) = config.ca_file.as_ref().map(Path::new) {
            let pem = std::fs::read(file).map_err(|error| bad(file, &error))?;
            for certificate in Certificate::from_pem_bundle(&pem).map_err(|error| bad(file, &error))? {
                client = client.add_root_certificate(certificate);
            }
        }
        let client = client.build().map_err(|error| bad(path, &error))?;
        shown.set_query(None);
        Ok(Self { client, config, user, shown: shown.into() })
    }

    /// Brings the file, unpacked but unchecked; tells `progress` in hundredths. A server that fails is asked again for
    /// [`PATIENCE`] after it last sent anything.
    pub async fn fetch(&self, staging: &Staging, progress: impl Fn(u8)) -> Result<Scratch, ImportError> {
        let mut pause = PAUSE;
        let mut last_sign = Instant::now();
        let fetched = loop {
            match self.attempt(staging, &progress, &mut last_sign).await {
                Ok(fetched) => break fetched,
                Err(error) if error.may_pass() && last_sign.elapsed() < PATIENCE => {
                    tracing::warn!(%error, "an import goes wrong; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(error) => return Err(error),
            }
        };
        Ok(unpacked(self.shown.clone(), fetched, staging).await?)
    }

    async fn ask(&self) -> Result<Response, ImportError> {
        let mut request = self.client.get(&self.config.url);
        if let Some((name, password)) = &self.user {
            request = request.basic_auth(name, Some(password));
        }
        let mut response = self.in_time(request.send()).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut said = Vec::new();
        while said.len() < EXCERPT
            && let Some(piece) = self.in_time(response.chunk()).await?
        {
            said.extend_from_slice(&piece);
        }
        let said: String = String::from_utf8_lossy(&said).trim().chars().take(EXCERPT).collect();
        let said = if said.is_empty() { said } else { format!(": {said}") };
        Err(ImportError::Status { url: self.shown.clone(), status, said })
    }

    /// Waits for the server. Errors do not name the query.
    async fn in_time<T>(&self, answer: impl Future<Output = reqwest::Result<T>>) -> Result<T, ImportError> {
        let url = || self.shown.clone();
        match timeout(SILENT, answer).await {
            Ok(answer) => {
                answer.map_err(|error| ImportError::Http { url: url(), source: error.without_url() })
            }
            Err(_) => Err(ImportError::Silent { url: url() }),
        }
    }

    async fn attempt(
        &self,
        staging: &Staging,
        progress: &impl Fn(u8),
        last_sign: &mut Instant,
    ) -> Result<Scratch, ImportError> {
        let mut response = self.ask().await?;
        let size = response.content_length();
        let mut receiving = staging.receive(size.unwrap_or(0)).map_err(io_at("receive an import"))?;
        let (send, mut pieces) = mpsc::channel::<Bytes>(4);
        let writing = tokio::task::spawn_blocking(move || -> io::Result<Receiving> {
            while let Some(piece) = pieces.blocking_recv() {
                receiving.write(&piece)?;
            }
            Ok(receiving)
        });
        let mut received = 0;
        let sent = loop {
            match self.in_time(response.chunk()).await {
                Ok(Some(piece)) => {
                    received += piece.len() as u64;
                    *last_sign = Instant::now();
                    progress((100 * received / size.unwrap_or(0).max(received).max(1)) as u8);
                    // Who takes no more has failed, and says so itself.
                    if send.send(piece).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        drop(send);
        let written = writing.await.map_err(io::Error::from).and_then(|written| written);
        sent?;
        Ok(written.map_err(io_at("receive an import"))?.into_scratch())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(dir: &Path, text: &str) -> Result<Import, String> {
        let path = dir.join("import.yaml");
        std::fs::write(&path, text.replace("DIR", dir.to_str().unwrap())).unwrap();
        Import::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_by_table() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("user")).unwrap();
        std::fs::write(dir.path().join("user/username"), "me\n").unwrap();
        std::fs::write(dir.path().join("user/password"), "secret\n").unwrap();
        let signed = "import: {url: 'https://h/a?sig=s', credentialsDir: DIR/user}";
        let import = read(dir.path(), signed).unwrap();
        assert_eq!(import.user, Some(("me".into(), "secret".into())));
        assert_eq!(import.shown, "https://h/a");
        for (text, part) in [
            ("import: {}", "missing field `url`"),
            ("import: {url: /a/file}", "url: "),
            ("import: {url: 'ftp://h/a'}", "must begin with http"),
            ("import: {url: 'http://me:secret@h/a'}", "hold no credentials"),
            ("import: {url: 'http://h/a', typo: 1}", "unknown field `typo`"),
            ("import: {url: 'http://h/a', credentialsDir: DIR/none}", "none/username"),
            ("import: {url: 'http://h/a', caFile: DIR/none}", "none"),
        ] {
            let error = read(dir.path(), text).err().unwrap_or_default();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
