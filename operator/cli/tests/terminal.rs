//! The shell as somebody types into it, in a terminal of tmux, against a member.
#![allow(clippy::unwrap_used, clippy::panic)]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// A member of a cluster of its own.
struct Member {
    process: Child,
    port: u16,
    raft_port: u16,
}

impl Member {
    fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    fn start_with(directory: &Path, flags: &[&str]) -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_sqlite-cli")).with_file_name("sqlited");
        assert!(program.exists(), "{} is built with the workspace", program.display());
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(listeners);
        let log = File::create(directory.join("log")).unwrap();
        let mut command = Command::new(program);
        command.args(flags);
        for (flag, port) in ["-http-addr", "-raft-addr", "-health-addr"].iter().zip(&ports) {
            command.args([*flag, &format!("127.0.0.1:{port}")]);
        }
        let process = command.arg(directory.join("data")).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { process, port: ports[0], raft_port: ports[1] }
    }
}

impl Member {
    /// Stops its process, or has it go on.
    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill {name}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A way to a member by which only so many bytes come back.
struct Valve {
    port: u16,
    /// How many may still come.
    left: Arc<AtomicU64>,
}

impl Valve {
    fn before(member: u16, left: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicU64::new(left));
        let allowed = left.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", member)).unwrap();
                let (mut asks, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || drop(io::copy(&mut asks, &mut to)));
                let allowed = allowed.clone();
                std::thread::spawn(move || drop(pass(&server, &client, &allowed)));
            }
        });
        Self { port, left }
    }

    fn allow(&self, left: u64) {
        self.left.store(left, Ordering::Relaxed);
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, left: &AtomicU64) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let take = |left: u64| left.checked_sub(read as u64);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            std::thread::park_timeout(LOOK);
        }
        to.write_all(&piece[..read])?;
    }
}

/// A terminal with the shell in it.
struct Terminal {
    /// A server of tmux for this test alone.
    socket: PathBuf,
}

impl Terminal {
    fn open(home: &Path, port: u16, pager: &str) -> Self {
        Self::run(home, &format!("'{}' -H 127.0.0.1 -p {port}", env!("CARGO_BIN_EXE_sqlite-cli")), pager)
    }

    /// With a command in it, which begins at home.
    fn run(home: &Path, shell: &str, pager: &str) -> Self {
        let terminal = Self { socket: home.join("tmux") };
        let variable = |name: &str, value: &str| format!("{name}={value}");
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            "-c",
            &home.display().to_string(),
            "-e",
            &variable("HOME", &home.display().to_string()),
            "-e",
            &variable("PAGER", pager),
            shell,
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux").arg("-S").arg(&self.socket).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn types(&self, text: &str) {
        // A semicolon at the end would part two commands of tmux.
        let escaped = text.strip_suffix(';').map(|text| format!("{text}\\;"));
        self.tmux(&["send-keys", "-l", escaped.as_deref().unwrap_or(text)]);
    }

    fn presses(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Types a line where the shell asks for one: what comes earlier may get lost between two prompts.
    fn enters(&self, text: &str) {
        self.asks();
        self.goes_on(text);
    }

    /// The next line of what was begun.
    fn goes_on(&self, text: &str) {
        self.types(text);
        self.presses("Enter");
    }

    /// Waits until the shell asks for input.
    fn asks(&self) {
        self.until("an empty prompt", |screen| {
            screen.lines().rfind(|line| !line.is_empty()) == Some("sqlite>")
        });
    }

    /// Has the shell complete the beginning of an input, and waits for what it makes of it.
    fn completes(&self, beginning: &str, whole: &str) {
        self.asks();
        self.types(beginning);
        self.presses("Tab");
        self.shows(&[whole]);
    }

    /// What is on the screen, colours too if `-e` is asked for.
    fn screen(&self, option: &[&str]) -> String {
        self.tmux(&[&["capture-pane", "-p"], option].concat())
    }

    /// Waits until the screen shows all of these.
    fn shows(&self, texts: &[&str]) {
        self.until(&format!("{texts:?}"), |screen| texts.iter().all(|text| screen.contains(text)));
    }

    fn until(&self, what: &str, condition: impl Fn(&str) -> bool) {
        until(|| {
            let screen = self.screen(&[]);
            if condition(&screen) { Ok(()) } else { Err(format!("{what} is not on the screen:\n{screen}")) }
        });
    }

    fn is_open(&self) -> bool {
        let asked = Command::new("tmux").arg("-S").arg(&self.socket).arg("has-session").output();
        asked.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It is gone when the shell has ended.
        drop(Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output());
    }
}

#[test]
#[ignore = "needs tmux, and sqlited beside the shell: make test"]
fn somebody_types() {
    let home = TempDir::new().unwrap();
    let member = Member::start(home.path());
    await_leader(&["-H", &format!("127.0.0.1:{}", member.port)]);
    let terminal = Terminal::open(home.path(), member.port, "sed -n 2,4p");
    terminal.enters("CREATE TABLE parcels(id INTEGER PRIMARY KEY, weight REAL);");
    terminal.shows(&["OK"]);
    terminal.completes(".tab", "sqlite> .tables");
    terminal.presses("Enter");
    terminal.shows(&["name\n-------\nparcels"]);

    // A statement goes on until its semicolon.
    terminal.enters("INSERT INTO parcels");
    terminal.goes_on("VALUES(1, 2.5), (2, 40);");
    terminal.shows(&["2 rows changed"]);
    terminal.completes("SELECT * FROM parc", "SELECT * FROM parcels");
    let coloured = terminal.screen(&["-e"]);
    assert!(coloured.contains("34m"), "keywords have a colour: {coloured:?}");
    terminal.goes_on(";");
    terminal.shows(&["id  weight\n--  ------\n 1     2.5\n 2      40"]);

    terminal.completes("SELECT wei", "SELECT weight");
    terminal.goes_on(" FROM parcels WHERE id = 2;");
    terminal.shows(&["weight\n------\n    40"]);

    terminal.enters("SELECT weights FROM parcels;");
    terminal.shows(&["Error: no such column: weights"]);

    // More than a screen goes through the pager, which here shows three lines of it.
    terminal.enters(
        "WITH RECURSIVE c(x) AS (VALUES(501) UNION ALL SELECT x + 1 FROM c LIMIT 99) SELECT x FROM c;",
    );
    terminal.shows(&["---\n501\n502\nsqlite>"]);
    terminal.enters(".pager off");
    terminal.enters(
        "WITH RECURSIVE c(x) AS (VALUES(601) UNION ALL SELECT x + 1 FROM c LIMIT 99) SELECT x FROM c;",
    );
    terminal.shows(&["697\n698\n699\nsqlite>"]);

    let copy = home.path().join("copy.sqlite");
    terminal.enters(&format!(".backup {}", copy.display()));
    terminal.shows(&["bytes in"]);
    assert!(std::fs::read(&copy).unwrap().starts_with(b"SQLite format 3\0"));
    terminal.enters("DROP TABLE parcels;");
    terminal.shows(&["DROP TABLE parcels;\nOK"]);
    let restore = format!(".restore {}", copy.display());
    terminal.enters(&restore);
    terminal.shows(&[&format!("{restore}\nOK")]);
    terminal.enters("SELECT sum(weight) AS kilograms FROM parcels;");
    terminal.shows(&["kilograms\n---------\n     42.5"]);

    terminal.asks();
    terminal.presses("Up");
    terminal.presses("Up");
    terminal.shows(&["sqlite> .restore"]);
    terminal.presses("C-c");
    terminal.enters(".exit");
    until(|| if terminal.is_open() { Err("it does not end".into()) } else { Ok(()) });
    let history = std::fs::read_to_string(home.path().join(".sqlite_cli_history")).unwrap();
    assert!(history.contains("INSERT INTO parcels"), "{history}");
}

#[test]
#[ignore = "needs tmux, and sqlited beside the shell: make test"]
fn a_bar_shows_how_far_a_file_is() {
    let home = TempDir::new().unwrap();
    let member = Member::start(home.path());
    let host = format!("127.0.0.1:{}", member.port);
    await_leader(&["-H", &host]);
    let copy = home.path().join("copy.sqlite").display().to_string();
    let rows = "CREATE TABLE large(a); INSERT INTO large SELECT randomblob(16 << 20);";
    let (code, _, stderr) = script(&["-H", &host], &format!("{rows}\n.backup {copy}\nDELETE FROM large;"));
    assert_eq!(code, Some(0), "{stderr}");
    let terminal = Terminal::open(home.path(), member.port, "cat");
    terminal.asks();
    // It takes what fits in the sockets, and no more until it goes on.
    member.signal("-STOP");
    terminal.goes_on(&format!(".restore {copy}"));
    let is_bar = |line: &str| line.contains("iB/16.0") && !line.contains(" 0 B/") && line.contains("iB/s");
    terminal.until("a bar that has moved", |screen| screen.lines().any(is_bar));
    member.signal("-CONT");
    terminal.shows(&["OK"]);
    terminal.asks();
    assert!(!terminal.screen(&[]).lines().any(is_bar), "{}", terminal.screen(&[]));
    terminal.enters("SELECT length(a) AS bytes FROM large;");
    terminal.shows(&["16777216"]);
}

#[test]
#[ignore = "needs tmux, and sqlited beside the shell: make test"]
fn a_bar_shows_how_much_of_a_copy_is_there() {
    const PART: u64 = 4 << 20;
    let home = TempDir::new().unwrap();
    let member = Member::start(home.path());
    let host = format!("127.0.0.1:{}", member.port);
    await_leader(&["-H", &host]);
    let rows = "CREATE TABLE large(a); INSERT INTO large SELECT randomblob(16 << 20);";
    let (code, _, stderr) = script(&["-H", &host], rows);
    assert_eq!(code, Some(0), "{stderr}");
    let valve = Valve::before(member.port, PART);
    let terminal = Terminal::open(home.path(), valve.port, "cat");
    let (copy, dump) = (home.path().join("copy.sqlite"), home.path().join("dump.sql"));
    let is_bar = |line: &str| line.contains(" MiB/16.0") && line.contains("/s");
    let is_told = |line: &str| line.contains(" MiB of SQL ") && line.contains("(the database has 16.0");
    for (command, path, shows) in
        [(".backup", &copy, &is_bar as &dyn Fn(&str) -> bool), (".dump", &dump, &is_told)]
    {
        valve.allow(PART);
        terminal.enters(&format!("{command} {}", path.display()));
        terminal.until("how much is there", |screen| screen.lines().any(shows));
        assert!(!path.exists(), "it is there whole or not at all");
        valve.allow(u64::MAX);
        terminal.shows(&[&format!("bytes in {}", path.display())]);
        terminal.asks();
        assert!(!terminal.screen(&[]).lines().any(shows), "{}", terminal.screen(&[]));
    }
    assert!(std::fs::metadata(&copy).unwrap().len() > 16 << 20);
    assert!(std::fs::metadata(&dump).unwrap().len() > 32 << 20, "two digits for a byte");
}

#[test]
#[ignore = "needs tmux, and sqlited beside the shell: make test"]
fn a_session_goes_on_when_the_leader_that_answered_it_dies() {
    let home = TempDir::new().unwrap();
    let directory = |name: &str| {
        let directory = home.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        directory
    };
    let leader = Member::start_with(&directory("one"), &["-node-id", "one"]);
    let host = format!("127.0.0.1:{}", leader.port);
    await_leader(&["-H", &host]);
    let join = format!("127.0.0.1:{}", leader.raft_port);
    let others =
        ["two", "three"].map(|n| Member::start_with(&directory(n), &["-node-id", n, "-join", &join]));
    until(|| {
        let (_, nodes, stderr) = script(&["-H", &host, "-c", ".nodes"], "");
        // Voter, leader or not, reachable.
        let serve = |line: &&str| line.contains(",true,true,true,") || line.contains(",true,false,true,");
        if nodes.lines().filter(serve).count() == 3 { Ok(()) } else { Err(format!("{nodes}{stderr}")) }
    });
    let alternatives: Vec<String> = others.iter().map(|m| format!("127.0.0.1:{}", m.port)).collect();
    let shell = format!("'{}' -H {host} -a {}", env!("CARGO_BIN_EXE_sqlite-cli"), alternatives.join(","));
    let terminal = Terminal::run(home.path(), &shell, "cat");
    terminal.enters("CREATE TABLE parcels(id INTEGER PRIMARY KEY, weight REAL);");
    terminal.enters("INSERT INTO parcels VALUES(1, 2.5);");
    terminal.enters("SELECT max(weight) AS kilograms FROM parcels;");
    terminal.shows(&["kilograms\n---------\n      2.5"]);
    terminal.asks();
    drop(leader);
    terminal.goes_on("SELECT sum(weight) AS pounds FROM parcels;");
    terminal.shows(&["pounds\n------\n   2.5"]);
    terminal.enters("INSERT INTO parcels VALUES(2, 40), (3, 1);");
    terminal.shows(&["2 rows changed"]);
    terminal.enters("SELECT count(*) AS parcels FROM parcels;");
    terminal.shows(&["parcels\n-------\n      3"]);
}

#[test]
#[ignore = "needs tmux, and sqlited beside the shell: make test"]
fn the_session_of_the_page() {
    let page = include_str!("../../../docs/shell.md");
    let block = page.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(page.matches("\n```").count(), 2, "this follows one block");
    let (command, session) = block.split_once('\n').unwrap();

    let home = TempDir::new().unwrap();
    let member = Member::start(home.path());
    // The first host is the member, the others are not asked.
    let host = format!("127.0.0.1:{}", member.port);
    await_leader(&["-H", &host]);
    let rows = "CREATE TABLE totals(name, total REAL); INSERT INTO totals VALUES('Ada 1', 1204.5), ('Linus 3', 981.2);";
    let (code, _, stderr) = script(&["-H", &host], rows);
    assert_eq!(code, Some(0), "{stderr}");
    let program = command.strip_prefix("$ ").unwrap().replace("db-0", &host);
    let program = program.replace("sqlite-cli", env!("CARGO_BIN_EXE_sqlite-cli"));
    let terminal = Terminal::run(home.path(), &program, "cat");
    let mut is_statement = false;
    for line in session.lines() {
        match line.strip_prefix("sqlite> ") {
            Some(input) => {
                terminal.enters(input);
                is_statement = !input.starts_with('.') && !input.ends_with(';');
            }
            None if is_statement => {
                terminal.goes_on(line);
                is_statement = !line.ends_with(';');
            }
            // What is printed is looked at below.
            None => {}
        }
    }
    // How large the copy is, is not the page's.
    let (until_size, after_size) = session.trim_end().rsplit_once('\n').unwrap();
    let size = after_size.split(' ').next().unwrap();
    terminal.shows(&[until_size, after_size.strip_prefix(size).unwrap()]);
    assert!(home.path().join("orders.sqlite").exists());
}

/// Waits until something is as it should be; else says what it is.
fn until(condition: impl Fn() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(what) = condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::park_timeout(LOOK);
    }
}

/// Waits until the member leads: one that is of no cluster yet refuses statements at once.
fn await_leader(hosts: &[&str]) {
    until(|| match script(&[hosts, &["-c", ".leader"]].concat(), "") {
        (Some(0), ..) => Ok(()),
        (_, _, stderr) => Err(stderr),
    });
}

/// Output and exit code of the shell without a terminal.
fn script(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sqlite-cli"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that was told what to do by `-c` does not read.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
#[ignore = "needs sqlited beside the shell: make test"]
fn nobody_types() {
    let home = TempDir::new().unwrap();
    let member = Member::start(home.path());
    let absent = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // The first host is not there.
    let (host, other) = (format!("127.0.0.1:{absent}"), format!("127.0.0.1:{}", member.port));
    let hosts = ["-H", &host, "-a", &other];
    await_leader(&hosts);
    for (arguments, input, expected) in [
        (&["-c", "CREATE TABLE t(a)", "-c", "INSERT INTO t VALUES(1)"][..], "", (0, "", "")),
        (&[], "SELECT a FROM t;\nSELECT 'b' AS b", (0, "a\n1\nb\nb\n", "")),
        (&["-m", "json", "-c", "SELECT a FROM t"], "", (0, "[{\"a\":1}]\n", "")),
        (&[], "SELECT 1 AS n;\n\nnonsense;\nSELECT 2;", (1, "n\n1\n", "Error: line 3: near \"nonsense\"")),
        (&["-u", ":b"], "", (2, "", "error: invalid value ':b'")),
        (&["-k", "key"], "", (2, "", "--client-cert")),
        (&["--ca-cert", "/nowhere/ca"], "", (1, "", "Error: /nowhere/ca: No such file")),
    ] {
        let (code, stdout, stderr) = script(&[&hosts[..], arguments].concat(), input);
        assert_eq!((code, stdout.as_str()), (Some(expected.0), expected.1), "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(expected.2) && (stderr.is_empty() || code != Some(0)),
            "{arguments:?}: {stderr}"
        );
    }
}

#[test]
#[ignore = "needs sqlited beside the shell: make test"]
fn scripts_made_for_rqlite_name_the_password() {
    let home = TempDir::new().unwrap();
    let users = home.path().join("users.json");
    std::fs::write(&users, r#"[{"username": "ada", "password": "a:b", "perms": ["all"]}]"#).unwrap();
    let member = Member::start_with(home.path(), &["-auth", users.to_str().unwrap()]);
    let host = format!("127.0.0.1:{}", member.port);
    until(|| match script(&["-H", &host, "-u", "ada:a:b", "-c", "SELECT 1 AS n"], "") {
        (Some(0), stdout, stderr) => {
            assert_eq!(stdout, "n\n1\n");
            assert!(stderr.starts_with("Warning: ") && stderr.lines().count() == 1, "{stderr}");
            assert!(stderr.contains("--password-file") && !stderr.contains("a:b"), "{stderr}");
            Ok(())
        }
        (_, _, stderr) => Err(stderr),
    });
    // A file counts before it, and is no reason for silence: what was typed can be read.
    let secret = home.path().join("secret");
    std::fs::write(&secret, "a:b\n").unwrap();
    let secret = secret.to_str().unwrap();
    for (user, file, code) in
        [("ada", secret, 0), ("ada:wrong", secret, 0), ("ada:wrong", "", 1), ("ada:", "", 1)]
    {
        let file: &[&str] = if file.is_empty() { &[] } else { &["--password-file", file] };
        let said = script(&[&["-H", &host, "-u", user, "-c", "SELECT 1"], file].concat(), "");
        assert_eq!(said.0, Some(code), "{user} {file:?}: {}", said.2);
        assert_eq!(said.2.contains("Warning: "), user.contains(':'), "{user} {file:?}: {}", said.2);
    }
}

#[test]
#[ignore = "needs sqlited beside the shell: make test"]
fn commands_show_what_there_is_and_what_is_set() {
    let home = TempDir::new().unwrap();
    let member = Member::start_with(home.path(), &["-node-id", "one"]);
    let host = format!("127.0.0.1:{}", member.port);
    await_leader(&["-H", &host]);
    let file = |name: &str| home.path().join(name).display().to_string();
    let schema = "CREATE TABLE parcels(id INTEGER PRIMARY KEY, weight REAL);\n\
                  CREATE INDEX by_weight ON parcels(weight);\n\
                  CREATE VIEW heavy AS SELECT id FROM parcels WHERE weight > 10;\n";
    let (out, copy) = (file("rows.json"), file("copy.sqlite"));
    let leader = format!(
        "id,api,raft,version,voter,leader,reachable,error\n\
         one,http://{host},127.0.0.1:{},{},true,true,true,\n",
        member.raft_port,
        env!("CARGO_PKG_VERSION")
    );
    let settings = format!(
        "  blobarray: off\n    changes: off\nconsistency: weak\nforcewrites: off\n      hosts: http://{host}\n       \
         mode: csv\n     output: standard output\n      pager: off\n      timer: off\n"
    );
    let changed = settings.replace("weak", "strong").replace("pager: off", "pager: on");
    let changed = changed.replace("timer: off", "timer: on").replace("mode: csv", "mode: line");
    for (input, expected) in [
        (schema, ""),
        ("INSERT INTO parcels VALUES(1, 2.5), (2, 40);", ""),
        (".indexes", "name,table\nby_weight,parcels\n"),
        (".schema", schema),
        (".tables", "name\nheavy\nparcels\n"),
        (".mode\n.mode line\n.mode\nSELECT id FROM heavy;", "csv\nline\nid = 2\n"),
        (".consistency\n.consistency none\n.consistency", "weak\nnone\n"),
        (".show", &settings),
        (".consistency strong\n.pager on\n.timer on\n.mode line\n.show", &changed),
        (&format!(".mode json\n.output {out}\nSELECT id FROM heavy;\n.output\nSELECT 1;"), "[{\"1\":1}]\n"),
        (".leader", &leader),
        // The same database, after a change that is forgotten.
        (
            &format!(".backup {copy}\nDELETE FROM parcels;\n.boot {copy}\nSELECT id FROM parcels;"),
            "id\n1\n2\n",
        ),
        (".help", &cli::command::help()),
    ] {
        let (code, stdout, stderr) = script(&["-H", &host], input);
        assert_eq!((code, stdout.as_str()), (Some(0), expected), "{input}: {stderr}");
    }
    assert_eq!(std::fs::read_to_string(out).unwrap(), "[{\"id\":2}]\n");
    let (_, stdout, _) = script(&["-H", &host], ".timer on\nSELECT 1 AS n;\n.timer off\nSELECT 2 AS n;");
    let time = stdout.strip_prefix("n\n1\nTime: ").and_then(|rest| rest.strip_suffix(" ms\nn\n2\n"));
    assert!(time.is_some_and(|time| time.parse::<f64>().unwrap() > 0.0), "{stdout}");
}

#[test]
#[ignore = "needs sqlited beside the shell: make test"]
fn over_tls() {
    let home = TempDir::new().unwrap();
    let write = |name: &str, text: String| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = write("crt", params.signed_by(&key, &authority).unwrap().pem());
    let (key, ca) = (write("key", key.serialize_pem()), write("ca", authority.pem()));
    let flags = ["-http-cert", &certificate, "-http-key", &key, "-http-verify-client", "-http-ca-cert", &ca];
    let member = Member::start_with(home.path(), &flags);
    let host = format!("127.0.0.1:{}", member.port);
    let shown = ["-d", &certificate, "-k", &key];
    let ask = |arguments: &[&str]| {
        script(&[&["-s", "https", "-H", &host, "-c", "VALUES(1)"], arguments].concat(), "")
    };
    let believed = [&["--ca-cert", &ca], &shown[..]].concat();
    for (arguments, expected) in [
        (believed, None),
        ([&["-i"], &shown[..]].concat(), None),
        (shown.to_vec(), Some("UnknownIssuer")),
        (vec!["--ca-cert", &ca], Some("no answer from")),
        (vec!["--ca-cert", &key], Some("certificate")),
        (vec!["-i", "-d", &ca, "-k", &ca], Some("certificate")),
    ] {
        // The member may have no leader yet, and a busy machine no time to shake hands.
        until(|| {
            let (code, _, stderr) = ask(&arguments);
            let is_so = code == Some(i32::from(expected.is_some()));
            let is_said = stderr.contains(expected.unwrap_or_default());
            if is_so && is_said { Ok(()) } else { Err(format!("{arguments:?}: {code:?} {stderr}")) }
        });
    }
}
