//! What the servers used: CPU time, bytes written and memory by `/proc/PID`, and what the disk did by
//! `/proc/diskstats`, as differences over a measured interval.

use crate::record::{DiskUsage, Usage};
use std::fs;

/// Bytes of a sector in `/proc/diskstats`.
const SECTOR: f64 = 512.0;

/// One process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Process {
    cpu_seconds: f64,
    written_bytes: f64,
    rss_bytes: f64,
}

/// A block device at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Disk {
    writes: f64,
    bytes: f64,
    flushes: f64,
}

/// The whole machine at one moment, in CPU seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Machine {
    busy: f64,
    stolen: f64,
    total: f64,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    servers: Vec<Process>,
    client: Process,
    machine: Machine,
    disk: Option<Disk>,
}

impl Sample {
    /// Reads `/proc`. What is not there (a process that ended) counts as 0.
    pub fn take(pids: &[u32], disk: Option<&str>) -> Self {
        let tick = 1.0 / rustix::param::clock_ticks_per_second() as f64;
        let process = |pid: String| {
            let file = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            parse_process(&file("stat"), &file("io"), &file("status"), tick)
        };
        Self {
            servers: pids.iter().map(|pid| process(pid.to_string())).collect(),
            client: process("self".into()),
            machine: parse_machine(&fs::read_to_string("/proc/stat").unwrap_or_default(), tick),
            disk: disk.and_then(|name| {
                parse_disk(&fs::read_to_string("/proc/diskstats").unwrap_or_default(), name)
            }),
        }
    }

    /// What was used from `self` until `end` for so many rows in so many seconds.
    pub fn until(&self, end: &Self, rows: u64, seconds: f64) -> Usage {
        let (rows, seconds) = (rows.max(1) as f64, seconds.max(f64::EPSILON));
        let pairs = || self.servers.iter().zip(&end.servers);
        let used = |from: &Process, to: &Process| (to.cpu_seconds - from.cpu_seconds).max(0.0);
        let client = used(&self.client, &end.client);
        let others = (end.machine.busy - self.machine.busy)
            - client
            - pairs().map(|(from, to)| used(from, to)).sum::<f64>();
        let total = (end.machine.total - self.machine.total).max(f64::EPSILON);
        let per_row = |from: f64, to: f64| ((to - from).max(0.0) / rows * 1e3).round() / 1e3;
        Usage {
            cpu_s_per_10k_rows: pairs().map(|(from, to)| round(used(from, to) / rows * 1e4)).collect(),
            written_bytes_per_row: pairs()
                .map(|(from, to)| per_row(from.written_bytes, to.written_bytes).round())
                .collect(),
            rss_mb: end.servers.iter().map(|p| round(p.rss_bytes / f64::from(1 << 20))).collect(),
            client_cpu_s_per_10k_rows: round(client / rows * 1e4),
            other_cpu_per_s: round(others.max(0.0) / seconds),
            stolen: round((end.machine.stolen - self.machine.stolen) / total),
            disk: self.disk.zip(end.disk).map(|(from, to)| DiskUsage {
                bytes_per_row: per_row(from.bytes, to.bytes).round(),
                writes_per_row: per_row(from.writes, to.writes),
                flushes_per_row: per_row(from.flushes, to.flushes),
            }),
        }
    }
}

/// Three digits after the point: more would be noise.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn parse_process(stat: &str, io: &str, status: &str, tick: f64) -> Process {
    // The second field is the program's name in parentheses and may hold anything; utime and stime are 14 and 15.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let labelled = |text: &str, label: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(label));
        value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    Process {
        cpu_seconds: ticks * tick,
        written_bytes: labelled(io, "write_bytes:"),
        rss_bytes: labelled(status, "VmRSS:") * 1024.0,
    }
}

fn parse_machine(stat: &str, tick: f64) -> Machine {
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<f64> =
        first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, idle, iowait, irq, softirq, steal] = fields[..] else {
        return Machine::default();
    };
    let busy = user + nice + system + irq + softirq;
    Machine { busy: busy * tick, stolen: steal * tick, total: (busy + idle + iowait + steal) * tick }
}

fn parse_disk(diskstats: &str, name: &str) -> Option<Disk> {
    let lines = diskstats.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let fields = lines.into_iter().find(|fields| fields.get(2) == Some(&name))?;
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    Some(Disk { writes: number(7), bytes: number(9) * SECTOR, flushes: number(18) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let process = parse_process(stat, "wchar: 9\nwrite_bytes: 4096\n", "VmRSS:\t  2 kB\n", 0.01);
        assert_eq!(process, Process { cpu_seconds: 3.0, written_bytes: 4096.0, rss_bytes: 2048.0 });
        assert_eq!(parse_process("", "", "", 0.01), Process::default());
        let machine = parse_machine("cpu  1 2 3 100 50 4 5 6 0 0\ncpu0 9", 1.0);
        assert_eq!(machine, Machine { busy: 15.0, stolen: 6.0, total: 171.0 });
        let line = " 254 0 vda 1 2 3 4 70 6 8 9 0 1 2 3 4 5 6 33 1";
        assert_eq!(parse_disk(line, "vda"), Some(Disk { writes: 70.0, bytes: 4096.0, flushes: 33.0 }));
        assert_eq!(parse_disk(line, "sda"), None);
    }

    #[test]
    fn usage_is_by_row() {
        let process =
            |cpu_seconds, written_bytes| Process { cpu_seconds, written_bytes, rss_bytes: 1048576.0 };
        let sample = |server, client, busy, total| Sample {
            servers: vec![server],
            client,
            machine: Machine { busy, stolen: 0.0, total },
            disk: None,
        };
        let from = sample(process(1.0, 0.0), process(0.0, 0.0), 10.0, 100.0);
        let to = sample(process(3.0, 8000.0), process(1.0, 0.0), 14.0, 108.0);
        let usage = from.until(&to, 1000, 4.0);
        assert_eq!(usage.cpu_s_per_10k_rows, [20.0]);
        assert_eq!(usage.written_bytes_per_row, [8.0]);
        assert_eq!(usage.rss_mb, [1.0]);
        assert_eq!((usage.client_cpu_s_per_10k_rows, usage.other_cpu_per_s), (10.0, 0.25));
    }
}
