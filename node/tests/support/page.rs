//! A page of the documentation, followed as a reader follows it: its blocks in order, in one shell, in a directory of
//! its own. The end-to-end tests read pages by this file too.

use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

/// How long a block may take, and what is waited for.
const PATIENCE: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_millis(20);

/// What stands between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Line of the page at which it begins.
    pub line: usize,
    /// What is behind the opening fence: `sh`, `yaml`, …
    pub language: String,
    /// Without the fences, and without the indentation of the list that it is in.
    pub text: String,
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<(usize, Block)>);
    for (number, line) in (1..).zip(page.lines()) {
        let indentation = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let block = Block { line: number, language: language.to_owned(), text: String::new() };
                open = Some((indentation, block));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (None, Some((by, block))) => {
                block.text.push_str(line.get(*by..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence is not closed");
    blocks
}

/// Commands in the running text: what stands between backticks and begins with `program` and a blank.
pub fn commands(page: &str, program: &str) -> Vec<String> {
    let mut fenced = false;
    let prose: Vec<&str> = page
        .lines()
        .filter(|line| {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            !is_fence && !fenced
        })
        .collect();
    let prose = prose.join("\n");
    let spans = prose.split('`').skip(1).step_by(2).map(|span| span.replace('\n', " "));
    spans.filter(|span| span.strip_prefix(program).is_some_and(|rest| rest.starts_with(' '))).collect()
}

/// A reader with a page, a shell, and hosts and names of their own.
pub struct Walk {
    page: &'static str,
    left: VecDeque<Block>,
    names: Vec<(String, String)>,
    directory: PathBuf,
    /// Where what was typed is, and what it printed.
    scripts: PathBuf,
    shell: Child,
    input: ChildStdin,
    run: usize,
}

impl Walk {
    /// Opens `page` (`docs/x.md`) in `directory`, which is empty. `names` says what the reader has in the place of what the
    /// page calls hosts, ports and files: each text for which another one is written. `prelude` is what their shell has
    /// before it begins.
    pub fn open(page: &'static str, directory: &Path, names: &[(&str, &str)], prelude: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
        let text = fs::read_to_string(path).unwrap();
        let mut shell = Command::new("bash")
            .args(["--noprofile", "--norc", "-e", "-o", "pipefail"])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let input = shell.stdin.take().unwrap();
        // Pages may be followed in one directory, one after the other.
        let scripts = directory.join(format!(".walk-{}", shell.id()));
        fs::create_dir(&scripts).unwrap();
        let names = names.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let left = blocks(&text).into();
        let mut walk =
            Self { page, left, names, directory: directory.to_owned(), scripts, shell, input, run: 0 };
        walk.type_in(prelude);
        walk
    }

    /// From now on the reader has `to` where the page says `from`.
    pub fn rename(&mut self, from: &str, to: &str) {
        self.names.retain(|(name, _)| name != from);
        self.names.insert(0, (from.to_owned(), to.to_owned()));
    }

    /// Where the reader is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// As the reader has it.
    fn renamed(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    /// The next block, which begins with `begin`, as it stands in the page.
    ///
    /// # Panics
    /// If another one is next: each block of a page is followed, in order, or passed over with a reason.
    pub fn next(&mut self, begin: &str) -> Block {
        let next = self.left.pop_front();
        let Some(block) = next.filter(|block| block.text.starts_with(begin)) else {
            panic!("the next block of {} does not begin with {begin}", self.page);
        };
        block
    }

    /// Does what the next block says; returns what it prints.
    pub fn follow(&mut self, begin: &str) -> String {
        let block = self.next(begin);
        assert_eq!(block.language, "sh", "{}, line {}", self.page, block.line);
        self.type_in(&block.text)
    }

    /// Writes what is in the next block into a file.
    pub fn write(&mut self, begin: &str, file: &str) -> PathBuf {
        let block = self.next(begin);
        assert_ne!(block.language, "sh", "{}, line {}", self.page, block.line);
        let path = self.directory.join(file);
        fs::write(&path, self.renamed(&block.text)).unwrap();
        path
    }

    /// The next block is not followed by this test, and `reason` says why.
    pub fn pass_over(&mut self, begin: &str, reason: &str) {
        let block = self.next(begin);
        println!("{}, line {}: not followed: {reason}", self.page, block.line);
    }

    /// What the page leaves to the reader, in the same shell, with the same names; returns what it prints.
    pub fn type_in(&mut self, text: &str) -> String {
        self.run += 1;
        let file = |kind: &str| self.scripts.join(format!("{}.{kind}", self.run));
        let (script, end) = (file("sh"), file("end"));
        fs::write(&script, self.renamed(text)).unwrap();
        let line = format!(
            ". '{}' >'{}' 2>'{}' </dev/null; : >'{}'\n",
            script.display(),
            file("out").display(),
            file("err").display(),
            end.display()
        );
        // A shell that has ended is told of below.
        drop(self.input.write_all(line.as_bytes()));
        let begun = Instant::now();
        while !end.exists() {
            let ended = self.shell.try_wait().unwrap();
            if (ended.is_some() && !end.exists()) || begun.elapsed() > PATIENCE {
                let said = |kind: &str| fs::read_to_string(file(kind)).unwrap_or_default();
                let how = ended.map_or("does not end".to_owned(), |status| format!("failed: {status}"));
                let page = self.page;
                panic!(
                    "{page}:\n{}\n{how}\n{}{}\n{}",
                    self.renamed(text),
                    said("out"),
                    said("err"),
                    self.logs()
                );
            }
            park_timeout(LOOK);
        }
        fs::read_to_string(file("out")).unwrap()
    }

    /// Waits until `condition`, a command, succeeds; returns what it prints then.
    pub fn until(&mut self, condition: &str) -> String {
        let begun = Instant::now();
        loop {
            let tried = format!("if ( set -o pipefail; {condition}\n); then echo succeeded; fi");
            if let Some(printed) = self.type_in(&tried).strip_suffix("succeeded\n") {
                return printed.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "{}: not in time: {condition}\n{}", self.page, self.logs());
            park_timeout(LOOK * 5);
        }
    }

    /// What runs behind has said.
    fn logs(&self) -> String {
        let files = fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().path());
        let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| format!("{}:\n{}", path.display(), fs::read_to_string(&path).unwrap_or_default()))
            .collect()
    }

    /// # Panics
    /// If a block is left.
    pub fn end(self) {
        let left: Vec<String> =
            self.left.iter().map(|block| format!("line {}: {}", block.line, block.text)).collect();
        assert!(left.is_empty(), "blocks of {} that no test follows: {left:#?}", self.page);
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // The shell, and what it left running behind: they are a group of processes of their own.
        let group = format!("-{}", self.shell.id());
        drop(Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status());
        drop(self.shell.wait());
    }
}
