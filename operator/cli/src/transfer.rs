//! Backups, dumps and restores: files of any size, with a bar that shows how far they are.

use crate::ShellError;
use client::sql::{Answer, Database, Level, Reply, RequestOptions, Statement};
use indicatif::{HumanBytes, ProgressBar, ProgressFinish, ProgressStyle};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// A bar of which the end is known.
const BAR: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";

/// How long is waited for the size of the database: a copy goes without it.
const SIZE_TIMEOUT: Duration = Duration::from_secs(2);

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The database file.
    Sqlite,
    /// SQL, whose size nobody knows beforehand.
    Sql,
}

/// A copy of the database into a file, which is there whole or not at all. Returns its size in bytes.
pub async fn download(
    database: &Database,
    form: Form,
    query: &[(&str, &str)],
    path: &Path,
) -> Result<u64, ShellError> {
    let failed = |source| ShellError::File { path: path.into(), source };
    let bar = shown(ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}");
    // Before the copy is on its way, which may leave no room for anything else. Who sees no bar need not know.
    if !bar.is_hidden()
        && let Some(size) = database_size(database).await
    {
        match form {
            Form::Sqlite => {
                bar.set_style(style(BAR));
                bar.set_length(size);
            }
            Form::Sql => {
                bar.set_style(style("{spinner} {bytes} of SQL {bytes_per_sec} {msg}"));
                bar.set_message(format!("(the database has {})", HumanBytes(size)));
            }
        }
    }
    let mut copy = database.download("/db/backup", query).await?;
    let partial = Partial::beside(path);
    let mut file = File::create(&partial.path).map_err(failed)?;
    let mut size = 0;
    while let Some(piece) = copy.next().await? {
        file.write_all(&piece).map_err(failed)?;
        size += piece.len() as u64;
        // It may have grown since.
        bar.set_length(bar.length().unwrap_or_default().max(size));
        bar.set_position(size);
    }
    file.sync_all().map_err(failed)?;
    fs::rename(&partial.path, path).map_err(failed)?;
    Ok(size)
}

/// The size of the database in bytes, if somebody says so: not everybody may ask for it. By its pages: the file is shorter
/// until a checkpoint has brought it what the WAL holds.
async fn database_size(database: &Database) -> Option<u64> {
    let pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let options = RequestOptions { level: Level::None, ..RequestOptions::default() };
    let pages = [Statement::from(pages)];
    let asked = database.query(&pages, options);
    let answer = tokio::time::timeout(SIZE_TIMEOUT, asked).await.ok()?.ok()?;
    answer.scalar()?.as_u64().filter(|size| *size > 0)
}

/// Posts a file.
pub async fn upload(database: &Database, endpoint: &str, path: &Path) -> Result<(), ShellError> {
    let failed = |source| ShellError::File { path: path.into(), source };
    let size = fs::metadata(path).map_err(failed)?.len();
    let sent = Arc::new(AtomicU64::new(0));
    let bar = shown(ProgressBar::new(size), BAR);
    let sending = database.upload(endpoint, path, sent.clone());
    let mut sending = std::pin::pin!(sending);
    let reply = loop {
        match tokio::time::timeout(TICK, &mut sending).await {
            Ok(reply) => break reply?.accepted()?,
            Err(_) => {
                let sent = sent.load(Ordering::Relaxed);
                bar.set_position(sent);
                bar.set_message(if sent < size { "" } else { "the members take it over" });
            }
        }
    };
    first_error(&reply)
}

/// `/boot` answers with nothing, `/db/load` as to a statement.
fn first_error(reply: &Reply) -> Result<(), ShellError> {
    if reply.body.is_empty() {
        return Ok(());
    }
    let answer: Answer = reply.clone().json()?;
    answer.first_error().map_or(Ok(()), |error| Err(ShellError::Statement(error.into())))
}

/// A bar that goes away at the end, also of a failure. Without a terminal there is none.
fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    let bar = bar.with_style(style(template)).with_finish(ProgressFinish::AndClear);
    bar.enable_steady_tick(TICK);
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A file that goes away unless it gets its name.
struct Partial {
    path: PathBuf,
}

impl Partial {
    fn beside(path: &Path) -> Self {
        let mut name = path.as_os_str().to_owned();
        name.push(".part");
        Self { path: name.into() }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // It has its name, or was never made.
        drop(fs::remove_file(&self.path));
    }
}
