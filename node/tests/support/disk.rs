//! A small disk of a test's own, which can fill up and whose power can be cut: an ext4 file system in a file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted disk; unmounted and deleted with the value.
pub struct Disk {
    image: PathBuf,
    /// Where it is mounted.
    pub mount: PathBuf,
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{program} {arguments:?}: {said}"))
}

/// Whether this machine can do it. If not, says why and the test is skipped; in CI that is a failure.
pub fn is_possible(programs: &[&str]) -> bool {
    let can = || -> Result<(), String> {
        for program in programs {
            let found =
                Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
            if !found.is_ok_and(|status| status.success()) {
                return Err(format!("{program} is not installed"));
            }
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        Disk::make(dir.path(), "probe", 8).map(drop)
    };
    match can() {
        Ok(()) => true,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "this test cannot be run: {why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}

impl Disk {
    /// Makes and mounts a disk of that many MiB below `directory`. Needs root.
    pub fn make(directory: &Path, name: &str, megabytes: u64) -> Result<Self, String> {
        let image = directory.join(format!("{name}.img"));
        let mount = directory.join(format!("{name}.disk"));
        let io = |error: std::io::Error| error.to_string();
        std::fs::File::create(&image).and_then(|f| f.set_len(megabytes << 20)).map_err(io)?;
        std::fs::create_dir(&mount).map_err(io)?;
        // No blocks kept for root: what is free is free for everybody.
        let flags = ["-q", "-m", "0", "-E", "lazy_itable_init=0"].map(Path::new);
        run("mkfs.ext4", &[&flags[..], &[&image]].concat())?;
        let disk = Self { image, mount };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mount])
    }

    /// Cuts the power: what was not synced is gone, and everything fails until [`Disk::restore`].
    pub fn cut(&self) {
        let arguments = ["-x", "-c", "shutdown"].map(Path::new);
        run("xfs_io", &[&arguments[..], &[&self.mount]].concat()).unwrap();
    }

    /// Brings the disk back after a cut. Nobody may have a file open on it.
    pub fn restore(&self) {
        run("umount", &[&self.mount]).unwrap();
        self.attach().unwrap();
    }

    /// Free bytes.
    pub fn free(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(&self.mount).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|n| n.parse::<u64>().unwrap()).product()
    }

    /// Fills the disk until `left` bytes are free; returns the file that takes the room.
    pub fn fill(&self, left: u64) -> PathBuf {
        let ballast = self.mount.join("ballast");
        while self.free() > left {
            let more = (self.free() - left).min(1 << 20);
            let mut file = std::fs::File::options().create(true).append(true).open(&ballast).unwrap();
            // The last piece may not fit: somebody else writes too.
            if std::io::Write::write_all(&mut file, &vec![1; more as usize]).is_err() || more < 4096 {
                break;
            }
            file.sync_all().unwrap();
        }
        ballast
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[&self.mount]) {
            eprintln!("{error}");
        }
    }
}
