//! `sqlite-operator`: the program around the library.

use clap::Parser;
use operator::config::{Command, Config, CrdsConfig};
use operator::{crd, run, telemetry};
use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Config::parse().command {
        Command::Run(config) => {
            telemetry::start(config.log_format);
            Ok(run::run(config).await?)
        }
        Command::Crds(CrdsConfig { check: Some(root), .. }) => Ok(crd::check(&root)?),
        Command::Crds(CrdsConfig { dir: Some(root), .. }) => {
            crd::write(&root)?
                .iter()
                .try_for_each(|path| writeln!(std::io::stdout(), "{}", path.display()))?;
            Ok(())
        }
        Command::Crds(_) => Ok(write!(std::io::stdout(), "{}", crd::yaml_stream()?)?),
    }
}
