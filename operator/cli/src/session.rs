//! What the shell has set, and what it does with a statement or a command.

use crate::command::{self, Command};
use crate::render::{Mode, render};
use crate::transfer::Form;
use crate::{Output, ShellError, pager, script, transfer};
use client::sql::{
    Answer, ClusterNode, Database, Done, Effect, Level, Method, Reply, RequestOptions, Rows, StatementResult,
    StatusCode,
};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

// Tables of SQLite and of sqlited itself are left out.
const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' ORDER BY name";
const INDEXES: &str = "SELECT name, tbl_name AS \"table\" FROM sqlite_schema \
    WHERE type = 'index' AND sql IS NOT NULL ORDER BY tbl_name, name";
const SCHEMA: &str = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL \
    AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' ORDER BY rowid";

// For completions: one question, and as much as anybody remembers.
const NAMES: &str = "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
    AND name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' \
    UNION SELECT p.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS p WHERE m.type = 'table' \
    AND m.name NOT LIKE '\\_sqlited\\_%' ESCAPE '\\' ORDER BY 1 LIMIT 5000";
/// How long the prompt waits for them.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether the shell goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// It was told to end.
    Exit,
}

/// A shell.
#[derive(Debug)]
pub struct Session {
    database: Database,
    output: Output,
    mode: Mode,
    level: Level,
    timer: bool,
    /// Tell of writes too, which scripts do not want to read.
    verbose: bool,
    blob_array: bool,
    force_writes: bool,
    /// Larger rows go through the pager.
    pager: bool,
    /// The names of the database may not be those that were asked for last.
    names_changed: bool,
    /// How many files are being read by each other.
    pub(crate) depth: usize,
}

impl Session {
    /// A shell for this database.
    pub fn new(database: Database, mode: Mode, verbose: bool) -> Self {
        let (output, level) = (Output::standard(), Level::default());
        Self {
            database,
            output,
            mode,
            level,
            timer: false,
            verbose,
            blob_array: false,
            force_writes: false,
            pager: verbose,
            names_changed: true,
            depth: 0,
        }
    }

    /// The same, writing somewhere else.
    #[must_use]
    pub fn writing_to(self, output: Output) -> Self {
        Self { output, ..self }
    }

    /// Runs one statement.
    pub async fn run_statement(&mut self, sql: &str) -> Result<(), ShellError> {
        let started = Instant::now();
        let options = self.options();
        let statements = [sql.into()];
        let answer = if self.force_writes {
            self.database.execute(&statements, options).await?
        } else if is_read(sql) {
            self.database.query(&statements, options).await?
        } else {
            self.database.request(&statements, options).await?
        };
        let elapsed = started.elapsed();
        self.names_changed |= changes_names(sql);
        self.show_answer(sql, answer)?;
        if self.timer {
            self.print(&format!("Time: {:.3} ms\n", elapsed.as_secs_f64() * 1e3))?;
        }
        Ok(())
    }

    /// Runs one command.
    pub async fn run_command(&mut self, command: Command) -> Result<Flow, ShellError> {
        match command {
            Command::Exit => return Ok(Flow::Exit),
            Command::Backup(path) => self.copy(Form::Sqlite, &[], &path).await?,
            Command::Dump { path, tables } => {
                let mut query = vec![("fmt", "sql")];
                query.extend(tables.as_deref().map(|tables| ("tables", tables)));
                self.copy(Form::Sql, &query, &path).await?;
            }
            Command::Load(path) => self.put("/db/load", &path).await?,
            Command::Boot(path) => self.put("/boot", &path).await?,
            Command::BlobArray(on) => self.blob_array = on,
            Command::Changes(on) => self.verbose = on,
            Command::ForceWrites(on) => self.force_writes = on,
            Command::Pager(on) => self.pager = on,
            Command::Expvar(key) => {
                let query: Vec<_> = key.as_deref().map(|key| ("key", key)).into_iter().collect();
                self.show_text("/debug/vars", &query).await?;
            }
            Command::Extensions => self.show_text("/status", &[("key", "extensions.names")]).await?,
            Command::Reap => {
                let reply = self.change(Method::POST, "/reap", &json!({})).await?;
                self.print(&format!("{}\n", reply.text()))?;
            }
            Command::Snapshot(kept) => self.snapshot(kept).await?,
            Command::SystemDump(path) => self.system_dump(&path).await?,
            Command::Help => self.print(&command::help())?,
            Command::Show => self.show_settings()?,
            Command::Consistency(None) => self.print(&format!("{}\n", self.level))?,
            Command::Consistency(Some(level)) => self.level = level,
            Command::Mode(None) => self.print(&format!("{}\n", self.mode))?,
            Command::Mode(Some(mode)) => self.mode = mode,
            Command::Timer(on) => self.timer = on,
            Command::Output(path) => {
                self.output.flush().map_err(ShellError::Output)?;
                self.output = path.as_deref().map_or_else(|| Ok(Output::standard()), Output::file)?;
            }
            Command::Read(path) => return script::read(self, &path).await,
            Command::Tables => self.show_query(TABLES).await?,
            Command::Indexes => self.show_query(INDEXES).await?,
            Command::Schema => self.show_schema().await?,
            Command::Nodes { all } => {
                let nodes = self.database.nodes(all).await?;
                self.show_rows(&node_rows(nodes))?;
            }
            Command::Leader => {
                let leader = self.database.leader().await?;
                self.show_rows(&node_rows(vec![leader]))?;
            }
            Command::Ready => self.show_ready().await?,
            Command::Status(key) => {
                let mut query = vec![("pretty", "")];
                query.extend(key.as_deref().map(|key| ("key", key)));
                self.show_text("/status", &query).await?;
            }
            Command::Remove(id) => {
                self.change(Method::DELETE, "/remove", &json!({ "id": id })).await?;
            }
            Command::StepDown(id) => {
                self.change(Method::POST, "/leader", &id.map_or(json!({}), |id| json!({ "id": id }))).await?;
            }
        }
        Ok(Flow::Continue)
    }

    fn options(&self) -> RequestOptions {
        RequestOptions { level: self.level, blob_array: self.blob_array, ..RequestOptions::default() }
    }

    /// Names of tables and columns, if they may have changed since they were asked for last.
    pub async fn changed_names(&mut self) -> Option<Vec<String>> {
        if !std::mem::take(&mut self.names_changed) {
            return None;
        }
        // Who cannot be asked, or may not say, has nothing to complete; the prompt comes all the same.
        let rows = tokio::time::timeout(NAMES_TIMEOUT, self.rows_of(NAMES)).await.ok()?.ok()?;
        Some(rows.values.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    async fn copy(&mut self, form: Form, query: &[(&str, &str)], path: &Path) -> Result<(), ShellError> {
        let size = transfer::download(&self.database, form, query, path).await?;
        if self.verbose {
            self.print(&format!("{size} bytes in {}\n", path.display()))?;
        }
        Ok(())
    }

    async fn put(&mut self, endpoint: &str, path: &Path) -> Result<(), ShellError> {
        transfer::upload(&self.database, endpoint, path).await?;
        self.names_changed = true;
        if self.verbose { self.print("OK\n") } else { Ok(()) }
    }

    async fn snapshot(&mut self, kept: Option<u64>) -> Result<(), ShellError> {
        let kept = kept.map(|kept| kept.to_string());
        let query: Vec<_> = kept.as_deref().map(|kept| ("trailing_logs", kept)).into_iter().collect();
        let reply = self.database.send(Effect::Writes, Method::POST, "/snapshot", &query, None).await?;
        let is_idle = reply.accepted()?.status == StatusCode::NO_CONTENT;
        if self.verbose { self.print(if is_idle { "nothing to do\n" } else { "OK\n" }) } else { Ok(()) }
    }

    /// What each of the given hosts says of itself. One that cannot be asked is part of the picture.
    async fn system_dump(&mut self, path: &Path) -> Result<(), ShellError> {
        let mut file = Output::file(path)?;
        for database in self.database.each() {
            for (endpoint, query) in [
                ("/status", &[("pretty", "")][..]),
                ("/nodes", &[("ver", "2"), ("nonvoters", ""), ("pretty", "")]),
                ("/debug/vars", &[]),
                ("/readyz", &[]),
            ] {
                let said = match database.send(Effect::Reads, Method::GET, endpoint, query, None).await {
                    Ok(reply) => reply.text(),
                    Err(error) => ShellError::from(error).explain(),
                };
                let host = database.hosts().concat();
                writeln!(file, "==== {host}{endpoint}\n{said}\n").map_err(ShellError::Output)?;
            }
        }
        file.flush().map_err(ShellError::Output)
    }

    async fn show_text(&mut self, path: &str, query: &[(&str, &str)]) -> Result<(), ShellError> {
        let reply = self.database.send(Effect::Reads, Method::GET, path, query, None).await?;
        self.print(&format!("{}\n", reply.accepted()?.text()))
    }

    async fn change(&self, method: Method, path: &str, body: &Value) -> Result<Reply, ShellError> {
        let query: &[_] = if path == "/leader" { &[("wait", "")] } else { &[] };
        let body = Some(body.to_string().into());
        Ok(self.database.send(Effect::Writes, method, path, query, body).await?.accepted()?)
    }

    async fn rows_of(&self, sql: &str) -> Result<Rows, ShellError> {
        let answer = self.database.query(&[sql.into()], self.options()).await?;
        if let Some(error) = answer.first_error() {
            return Err(ShellError::Statement(error.into()));
        }
        match answer.results.into_iter().next() {
            Some(StatementResult::Rows(rows)) => Ok(rows),
            _ => Ok(Rows::default()),
        }
    }

    async fn show_query(&mut self, sql: &str) -> Result<(), ShellError> {
        let rows = self.rows_of(sql).await?;
        self.show_rows(&rows)
    }

    async fn show_schema(&mut self) -> Result<(), ShellError> {
        let rows = self.rows_of(SCHEMA).await?;
        let statements = rows.values.iter().flatten().filter_map(Value::as_str);
        let text: String = statements.map(|sql| format!("{sql};\n")).collect();
        self.print(&text)
    }

    async fn show_ready(&mut self) -> Result<(), ShellError> {
        let reply = self.database.send(Effect::Reads, Method::GET, "/readyz", &[], None).await?;
        match reply.status.as_u16() {
            503 => Err(ShellError::NotReady(reply.text())),
            _ => self.print(&format!("{}\n", reply.accepted()?.text())),
        }
    }

    fn show_answer(&mut self, sql: &str, answer: Answer) -> Result<(), ShellError> {
        if let Some(error) = answer.error {
            return Err(ShellError::Statement(error));
        }
        for result in answer.results {
            match result {
                StatementResult::Failed(error) => return Err(ShellError::Statement(error)),
                StatementResult::Rows(rows) => self.show_rows(&rows)?,
                StatementResult::Done(done) if self.verbose => self.print(&summary(sql, done))?,
                StatementResult::Done(_) => {}
            }
        }
        Ok(())
    }

    fn show_settings(&mut self) -> Result<(), ShellError> {
        let on_off = |on| if on { "on" } else { "off" }.to_owned();
        let settings = [
            ("blobarray", on_off(self.blob_array)),
            ("changes", on_off(self.verbose)),
            ("consistency", self.level.to_string()),
            ("forcewrites", on_off(self.force_writes)),
            ("hosts", self.database.hosts().join(", ")),
            ("mode", self.mode.to_string()),
            ("output", self.output.name().to_owned()),
            ("pager", on_off(self.pager)),
            ("timer", on_off(self.timer)),
        ];
        let lines = settings.map(|(name, value)| format!("{name:>11}: {value}\n"));
        self.print(&lines.concat())
    }

    fn show_rows(&mut self, rows: &Rows) -> Result<(), ShellError> {
        if self.pager && self.output.is_terminal() {
            let mut text = Vec::new();
            render(self.mode, rows, &mut text).map_err(ShellError::Output)?;
            let text = String::from_utf8_lossy(&text);
            if pager::show(&text).map_err(ShellError::Output)? {
                return Ok(());
            }
            return self.print(&text);
        }
        render(self.mode, rows, &mut self.output)
            .and_then(|()| self.output.flush())
            .map_err(ShellError::Output)
    }

    fn print(&mut self, text: &str) -> Result<(), ShellError> {
        let written = self.output.write_all(text.as_bytes());
        written.and_then(|()| self.output.flush()).map_err(ShellError::Output)
    }
}

/// The first word of a statement, behind comments.
fn keyword(sql: &str) -> &str {
    let mut rest = sql.trim_start();
    loop {
        rest = if let Some(comment) = rest.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else {
            let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            return &rest[..end];
        }
        .trim_start();
    }
}

/// Whether a statement can only read, so that it may be asked of another member if the first breaks off.
fn is_read(sql: &str) -> bool {
    ["SELECT", "VALUES", "EXPLAIN"].iter().any(|word| word.eq_ignore_ascii_case(keyword(sql)))
}

/// Whether a statement may make, rename or drop something with a name.
fn changes_names(sql: &str) -> bool {
    ["CREATE", "DROP", "ALTER"].iter().any(|word| word.eq_ignore_ascii_case(keyword(sql)))
}

/// What a write did. The counters mean something only after statements that change rows.
fn summary(sql: &str, done: Done) -> String {
    let changes_rows = ["INSERT", "REPLACE", "UPDATE", "DELETE", "WITH"];
    if !changes_rows.iter().any(|word| word.eq_ignore_ascii_case(keyword(sql))) {
        return "OK\n".into();
    }
    match done.rows_affected {
        1 => "1 row changed\n".into(),
        count => format!("{count} rows changed\n"),
    }
}

fn node_rows(nodes: Vec<ClusterNode>) -> Rows {
    let columns = ["id", "api", "raft", "version", "voter", "leader", "reachable", "error"];
    let row = |node: ClusterNode| {
        let ClusterNode { id, api_addr, addr, version, voter, reachable, leader, error } = node;
        vec![
            id.into(),
            api_addr.into(),
            addr.into(),
            version.into(),
            voter.into(),
            leader.into(),
            reachable.into(),
            error.into(),
        ]
    };
    Rows {
        columns: columns.map(str::to_owned).to_vec(),
        types: Vec::new(),
        values: nodes.into_iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_by_table() {
        for (sql, read) in [
            ("SELECT 1", true),
            ("  -- why\n/* how */ select 1", true),
            ("EXPLAIN DELETE FROM t", true),
            ("VALUES(1)", true),
            ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", false),
            ("PRAGMA user_version", false),
            ("SELECTED", false),
            ("", false),
            ("-- only", false),
        ] {
            assert_eq!(is_read(sql), read, "{sql}");
        }
    }

    #[test]
    fn summaries_by_table() {
        let done = Done { last_insert_id: 9, rows_affected: 1 };
        for (sql, done, expected) in [
            ("INSERT INTO t VALUES(1)", done, "1 row changed\n"),
            ("delete from t", Done::default(), "0 rows changed\n"),
            // The counters are those of the statement before.
            ("DROP TABLE t", done, "OK\n"),
        ] {
            assert_eq!(summary(sql, done), expected, "{sql}");
        }
    }
}
