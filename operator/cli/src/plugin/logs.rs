//! What the members log, of one or of all.

use super::Plugin;
use super::print::{out, warn};
use anyhow::{Result, bail};
use futures::stream::{self, BoxStream};
use futures::{AsyncBufReadExt, StreamExt};
use kube::ResourceExt;
use kube::api::LogParams;
use operator::names::CONTAINER;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Which lines.
#[derive(Clone, Debug, clap::Args)]
pub struct Lines {
    /// Go on with what comes
    #[arg(long)]
    pub follow: bool,
    /// Of the program that ran before the last restart
    #[arg(long)]
    pub previous: bool,
    /// So many of the last lines of each member
    #[arg(long, value_name = "LINES")]
    pub tail: Option<i64>,
}

impl Plugin {
    /// Prints them: member after member, or as they come. A member whose log breaks off, as by its restart, does not end the
    /// others'.
    pub(super) async fn logs(&self, name: &str, member: Option<&str>, which: &Lines) -> Result<ExitCode> {
        let mut members: Vec<String> = self.pods_of(name).await?.iter().map(ResourceExt::name_any).collect();
        members.retain(|found| member.is_none_or(|member| member == found));
        if members.is_empty() {
            match member {
                Some(member) => bail!("{name} has no pod {member}"),
                None => bail!("{name} has no pods"),
            }
        }
        let params = LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: which.follow,
            previous: which.previous,
            tail_lines: which.tail,
            ..LogParams::default()
        };
        let named = member.is_none();
        let mut logs = Vec::new();
        let mut silent = Vec::new();
        for member in members {
            match self.pods().log_stream(&member, &params).await {
                Ok(log) => {
                    let lines = log.lines().map(move |line| (member.clone(), line));
                    logs.push(lines.boxed());
                }
                Err(error) => silent.push(format!("{member}: {error}")),
            }
        }
        // One that has not started is no reason not to hear the others.
        silent.iter().for_each(|silent| warn(silent));
        if logs.is_empty() {
            bail!("no member of {name} has a log");
        }
        let mut lines: BoxStream<'_, (String, std::io::Result<String>)> = if which.follow {
            stream::select_all(logs).boxed()
        } else {
            stream::iter(logs).flatten().boxed()
        };
        let mut code = ExitCode::SUCCESS;
        while let Some((member, line)) = lines.next().await {
            match line {
                Ok(line) => out(&(render(&member, &line, named, self.json) + "\n"))?,
                Err(error) => {
                    warn(&format!("{member}: {error}"));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}

/// A line of a member. What members log as JSON stays JSON.
fn render(member: &str, line: &str, named: bool, as_json: bool) -> String {
    if as_json {
        let log = serde_json::from_str::<Value>(line).unwrap_or_else(|_| json!(line));
        return json!({"member": member, "log": log}).to_string();
    }
    if named { format!("{member} | {line}") } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is_where_several_talk() {
        let line = r#"{"level":"INFO","message":"serving"}"#;
        assert_eq!(render("orders-0", line, true, false), format!("orders-0 | {line}"));
        assert_eq!(render("orders-0", line, false, false), line);
        let whole: Value = serde_json::from_str(&render("orders-0", line, false, true)).expect("JSON");
        assert_eq!(whole, json!({"member": "orders-0", "log": {"level": "INFO", "message": "serving"}}));
        let text: Value = serde_json::from_str(&render("orders-0", "a panic", true, true)).expect("JSON");
        assert_eq!(text["log"], "a panic");
    }
}
