//! Command line.

use crate::render::Mode;
use clap::{Parser, ValueEnum};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  sqlite-cli                                         a shell on localhost:4001
  sqlite-cli -H db-0 -a db-1,db-2:4011               others to turn to where db-0 cannot be reached
  sqlite-cli -c 'SELECT count(*) FROM orders' --mode json
  sqlite-cli -u admin --password-file secret < schema.sql

SQL from -c or standard input stops at the first failure, with exit code 1. `.help` lists the shell's commands.";

/// A shell for sqlited: SQL statements end with `;`, commands begin with `.`
#[derive(Clone, Debug, Parser)]
#[command(name = "sqlite-cli", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Args {
    /// Member to talk to; may hold a port
    #[arg(short = 'H', long, env = "RQLITE_HOST", default_value = "localhost")]
    pub host: String,
    /// Its client port
    #[arg(short, long, default_value_t = 4001)]
    pub port: u16,
    /// Protocol
    #[arg(short, long, value_enum, default_value = "http")]
    pub scheme: Scheme,
    /// File with the certificates of the authorities that members must be of, with --scheme https; else whom the machine
    /// trusts
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// Further members, as host or host:port
    #[arg(short, long, value_delimiter = ',')]
    pub alternatives: Vec<String>,
    /// Name of a user; the password is asked for, or read from --password-file
    #[arg(short, long, value_parser = user_name)]
    pub user: Option<String>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Longest time for a request, as 30s or 500ms
    #[arg(short = 't', long, default_value = "30s", value_parser = duration)]
    pub http_timeout: Duration,
    /// Run this and exit; may be repeated
    #[arg(short, long, value_name = "SQL")]
    pub command: Vec<String>,
    /// How rows are shown [default: column on a terminal, else csv]
    #[arg(short, long, value_enum)]
    pub mode: Option<Mode>,
}

/// How members are talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scheme {
    /// In plain text
    Http,
    /// Over TLS
    Https,
}

impl Args {
    /// Base URLs of the members, the one to ask first at the front.
    pub fn hosts(&self) -> Vec<String> {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let all = std::iter::once(&self.host).chain(&self.alternatives);
        all.map(|host| format!("{scheme}://{}", with_port(host.trim(), self.port))).collect()
    }
}

fn with_port(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        return format!("[{host}]:{port}");
    }
    match host.rsplit_once(':') {
        Some((_, digits)) if !digits.ends_with(']') => host.to_owned(),
        _ => format!("{host}:{port}"),
    }
}

fn user_name(text: &str) -> Result<String, String> {
    if text.contains(':') {
        return Err(
            "give the name only: every user of this machine can read a command line. The password is \
                    asked for, or read from --password-file"
                .into(),
        );
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        _ => return Err("write it as 500ms, 30s or 2m".into()),
    };
    let number: f64 = number.parse().map_err(|_| "write it as 500ms, 30s or 2m")?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())?;
    if duration.is_zero() { Err("it has to be longer than 0".into()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(arguments: &[&str]) -> Vec<String> {
        Args::try_parse_from([&["sqlite-cli"], arguments].concat()).expect("arguments").hosts()
    }

    #[test]
    fn hosts_by_table() {
        for (arguments, expected) in [
            (vec!["-H", "a", "-p", "5"], vec!["http://a:5"]),
            (vec!["-H", "a:7", "-a", "b,c:9"], vec!["http://a:7", "http://b:4001", "http://c:9"]),
            (vec!["-H", "::1", "-s", "https"], vec!["https://[::1]:4001"]),
            (vec!["-H", "[::1]", "-a", "[::2]:5"], vec!["http://[::1]:4001", "http://[::2]:5"]),
        ] {
            assert_eq!(hosts(&arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn durations_by_table() {
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("500ms", Some(500)),
            ("1.5m", Some(90_000)),
            ("2", Some(2000)),
            ("0s", None),
            ("5h", None),
            ("s", None),
            ("-1s", None),
        ] {
            assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn a_password_is_no_argument() {
        assert!(Args::try_parse_from(["sqlite-cli", "-u", "admin:secret"]).is_err());
        assert!(Args::try_parse_from(["sqlite-cli", "-u", "admin"]).is_ok());
    }
}
