//! Command line.

use crate::render::Mode;
use clap::{ArgAction, Parser, ValueEnum};
use std::fmt;
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
#[command(name = "sqlite-cli", version, disable_version_flag = true, after_help = EXAMPLES, max_term_width = 110)]
pub struct Args {
    /// Member to talk to, as host, host:port or scheme://host:port
    #[arg(short = 'H', long, env = "RQLITE_HOST", default_value = "localhost")]
    #[arg(value_parser = host)]
    pub host: Host,
    /// Its client port
    #[arg(short, long, default_value_t = 4001)]
    pub port: u16,
    /// Protocol, where the host does not say it
    #[arg(short, long, value_enum, default_value = "http")]
    pub scheme: Scheme,
    /// Path in front of the API's, where a proxy adds one
    #[arg(short = 'P', long, default_value = "/")]
    pub prefix: String,
    /// Further members, written alike
    #[arg(short, long, value_delimiter = ',', value_parser = host)]
    pub alternatives: Vec<Host>,
    /// Name of a user; the password is asked for, or read from --password-file. NAME:PASSWORD is taken too, and can be read
    /// by everybody on this machine
    #[arg(short, long, value_name = "NAME", value_parser = user)]
    pub user: Option<User>,
    /// File whose first line is the password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Believe any certificate: whoever is in between reads along
    #[arg(short, long)]
    pub insecure: bool,
    /// File of the authorities that members' certificates are from, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// File of a certificate to show
    #[arg(short = 'd', long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// File of its key
    #[arg(short = 'k', long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Longest time for a request, as 30s or 500ms
    #[arg(short = 't', long, default_value = "30s", value_parser = duration)]
    pub http_timeout: Duration,
    /// Run this and exit; may be repeated
    #[arg(short, long, value_name = "SQL")]
    pub command: Vec<String>,
    /// Print the version
    #[arg(short = 'v', long, short_alias = 'V', action = ArgAction::Version)]
    version: Option<bool>,
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

/// A member as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// If it is said.
    scheme: Option<Scheme>,
    /// Without a scheme; may hold a port.
    address: String,
}

/// Who asks, as it is said on the command line.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password, as scripts that were made for rqlite say it.
    pub password: Option<String>,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Args {
    /// Base URLs of the members, the one to ask first at the front.
    pub fn hosts(&self) -> Vec<String> {
        // Members of one cluster are talked to alike, so what the first one says counts for the others.
        let otherwise = self.host.scheme.unwrap_or(self.scheme);
        let prefix = self.prefix.trim_matches('/');
        let url = |host: &Host| {
            let scheme = match host.scheme.unwrap_or(otherwise) {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            format!("{scheme}://{}/{prefix}", with_port(&host.address, self.port))
        };
        std::iter::once(&self.host).chain(&self.alternatives).map(url).collect()
    }
}

fn host(text: &str) -> Result<Host, String> {
    let text = text.trim();
    let (scheme, rest) = match text.split_once("://") {
        None => (None, text),
        Some((scheme, rest)) => (
            Some(Scheme::from_str(scheme, true).map_err(|_| "its scheme is neither http nor https")?),
            rest.strip_suffix('/').unwrap_or(rest),
        ),
    };
    if rest.contains('@') {
        return Err("give the name of a user by --user, and the password by --password-file".into());
    }
    if rest.contains('/') {
        return Err("give the path in front of the API's by --prefix".into());
    }
    if rest.is_empty() {
        return Err("it names no host".into());
    }
    Ok(Host { scheme, address: rest.to_owned() })
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

/// Names hold no colon, passwords may.
fn user(text: &str) -> Result<User, String> {
    let (name, password) = text.split_once(':').map_or((text, None), |(name, said)| (name, Some(said)));
    if name.is_empty() {
        return Err("it names no user".into());
    }
    Ok(User { name: name.to_owned(), password: password.map(str::to_owned) })
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
            (vec!["-H", "a", "-p", "5"], vec!["http://a:5/"]),
            (vec!["-H", "a:7", "-a", "b,c:9"], vec!["http://a:7/", "http://b:4001/", "http://c:9/"]),
            (vec!["-H", "::1", "-s", "https"], vec!["https://[::1]:4001/"]),
            (vec!["-H", "[::1]", "-a", "[::2]:5"], vec!["http://[::1]:4001/", "http://[::2]:5/"]),
            (vec!["-H", "a", "-P", "/db/one/"], vec!["http://a:4001/db/one"]),
            (vec!["-H", "https://a:7"], vec!["https://a:7/"]),
            (
                vec!["-H", "https://a/", "-p", "5", "-a", "b,http://c:9"],
                vec!["https://a:5/", "https://b:5/", "http://c:9/"],
            ),
            (vec!["-H", "http://a", "-s", "https"], vec!["http://a:4001/"]),
            (vec!["-H", "HTTPS://[::1]:5", "-P", "x"], vec!["https://[::1]:5/x"]),
            (vec!["-H", " a ", "-a", "https://b"], vec!["http://a:4001/", "https://b:4001/"]),
        ] {
            assert_eq!(hosts(&arguments), expected, "{arguments:?}");
        }
    }

    #[test]
    fn hosts_that_are_refused() {
        for (host, part) in [
            ("ftp://a:5", "neither http nor https"),
            ("https://admin:secret@a:5", "--password-file"),
            ("https://a:5/db/one", "--prefix"),
            ("https://", "no host"),
            ("", "no host"),
        ] {
            for flag in ["-H", "-a"] {
                let error = Args::try_parse_from(["sqlite-cli", flag, host]).unwrap_err().to_string();
                assert!(error.contains(part), "{flag} {host}: {error}");
            }
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
    fn users_by_table() {
        let said = |text| Args::try_parse_from(["sqlite-cli", "-u", text]).map(|args| args.user);
        for (text, name, password) in [
            ("admin", "admin", None),
            ("admin:secret", "admin", Some("secret")),
            ("admin:a:b", "admin", Some("a:b")),
            ("admin:", "admin", Some("")),
        ] {
            let user = User { name: name.into(), password: password.map(str::to_owned) };
            assert_eq!(said(text).unwrap(), Some(user), "{text}");
        }
        assert!(said(":secret").is_err());
        assert!(!format!("{:?}", said("admin:secret")).contains("secret"));
        let both = ["sqlite-cli", "-u", "admin", "--password-file", "file"];
        assert!(Args::try_parse_from(both).is_ok());
    }
}
