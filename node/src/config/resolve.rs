//! Makes a [`Config`] of what was set, and refuses what contradicts itself.

use super::expand::expand_environment;
use super::flags::{Kind, WITHOUT_EFFECT};
use super::values::Values;
use super::{Config, ConfigError, LogFormat};
use crate::backup::{AutoBackupConfig, AutoRestoreConfig};
use crate::changes::ChangesConfig;
use crate::discovery::Discovery;
use crate::http::QueueConfig;
use crate::http::params::format_duration;
use crate::maintenance::Intervals;
use crate::otlp::{OtlpConfig, endpoint};
use crate::raft::{Profile, Reap};
use crate::store::ExtensionsConfig;
use crate::tls::{PeerTlsFiles, Plaintext, ServerTlsFiles};
use axum::http::HeaderValue;
use std::path::PathBuf;
use std::time::Duration;

/// Whether JSON holds a secret itself, not the name of a variable that does.
fn holds_secret(json: &str) -> bool {
    fn look(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(fields) => fields.iter().any(|(name, value)| match value {
                serde_json::Value::String(text)
                    if ["password", "token", "key_pem"].contains(&name.as_str()) =>
                {
                    !text.is_empty() && !text.starts_with('$')
                }
                value => look(value),
            }),
            serde_json::Value::Array(values) => values.iter().any(look),
            _ => false,
        }
    }
    serde_json::from_str(json).is_ok_and(|value| look(&value))
}

impl Values {
    fn profile(&self) -> Result<Profile, ConfigError> {
        let mut profile = match self.text("raft-profile").to_ascii_lowercase().as_str() {
            "lan" => Profile::LAN,
            "wan" => Profile::WAN,
            _ => return self.bad("raft-profile", "neither lan nor wan"),
        };
        if let Some(heartbeat) = self.duration("raft-heartbeat-timeout")? {
            profile.heartbeat = heartbeat;
        }
        if let Some(election) = self.duration("raft-election-timeout")? {
            profile.election_timeout = election;
        }
        if profile.heartbeat.is_zero() {
            return self.bad("raft-heartbeat-timeout", "not a duration above 0");
        }
        Ok(profile)
    }

    /// Makes the election timeout long enough for a leader to be heard several times; says so if it was not. In rqlite both
    /// are how long a leader may be silent, and by themselves they are the same.
    fn lengthen_election(profile: Profile, notices: &mut Vec<String>) -> Profile {
        let shortest = profile.heartbeat * 3;
        if profile.election_timeout >= shortest {
            return profile;
        }
        notices.push(format!(
            "the election timeout of {} is raised to {}: three times -raft-heartbeat-timeout, which is the time between \
             two heartbeats here",
            format_duration(profile.election_timeout),
            format_duration(shortest)
        ));
        Profile { election_timeout: shortest, ..profile }
    }

    /// Refuses a value that makes no sense of a flag without effect, as rqlite does; says of each that is set why nothing
    /// comes of it.
    fn without_effect(&self, notices: &mut Vec<String>) -> Result<(), ConfigError> {
        for flag in WITHOUT_EFFECT.iter().filter(|flag| self.is_set(flag.name)) {
            match flag.kind {
                Kind::Text => {}
                Kind::Number => self.number::<u64>(flag.name).map(drop)?,
                Kind::Switch => self.boolean(flag.name).map(drop)?,
                Kind::Duration if self.duration(flag.name)?.is_some() => {}
                Kind::Duration => return self.bad(flag.name, "not a duration such as 250ms or 3s"),
            }
            notices.push(format!("-{} has no effect here: {}", flag.name, flag.reason));
        }
        Ok(())
    }

    fn above_zero(&self, name: &'static str) -> Result<Duration, ConfigError> {
        match self.duration(name)?.filter(|duration| !duration.is_zero()) {
            Some(duration) => Ok(duration),
            None => self.bad(name, "not a duration above 0"),
        }
    }

    fn write_queue(&self) -> Result<QueueConfig, ConfigError> {
        let at_least_one = |name: &'static str| -> Result<usize, ConfigError> {
            match self.number(name)? {
                0 => self.bad(name, "not a number above 0"),
                n => Ok(n),
            }
        };
        Ok(QueueConfig {
            capacity: at_least_one("write-queue-capacity")?,
            batch_size: at_least_one("write-queue-batch-size")?,
            timeout: self.duration("write-queue-timeout")?.unwrap_or_default(),
            transaction: self.boolean("write-queue-tx")?,
        })
    }

    fn maintenance(&self) -> Result<Intervals, ConfigError> {
        let interval = |name| Ok(self.duration(name)?.filter(|interval| !interval.is_zero()));
        Ok(Intervals { vacuum: interval("auto-vacuum-int")?, optimize: interval("auto-optimize-int")? })
    }

    fn otlp(&self) -> Result<Option<OtlpConfig>, ConfigError> {
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        let insecure = self.boolean("otlp-insecure")?;
        let trusts_all = self.boolean("otlp-no-verify")?;
        let ca = self.path("otlp-ca-cert");
        let identity = match (self.path("otlp-cert"), self.path("otlp-key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return invalid("-otlp-cert and -otlp-key belong together".into()),
        };
        let trace_ratio: f64 = self.number("otlp-trace-ratio")?;
        if !(0.0..=1.0).contains(&trace_ratio) {
            return self.bad("otlp-trace-ratio", "not between 0 and 1");
        }
        let trace_limit = self.number("otlp-trace-limit")?;
        let interval = self.above_zero("otlp-interval")?;
        let Some(text) = self.option("otlp-endpoint") else {
            let is_said = insecure || trusts_all || ca.is_some() || identity.is_some() || trace_ratio > 0.0;
            return if is_said {
                invalid("-otlp-… says how to push, and -otlp-endpoint is missing, which says where to".into())
            } else {
                Ok(None)
            };
        };
        let endpoint = match endpoint(&text, insecure) {
            Ok(endpoint) => endpoint,
            Err(message) => return invalid(format!("-otlp-endpoint: {message}")),
        };
        let has_tls = trusts_all || ca.is_some() || identity.is_some();
        if endpoint.scheme() == "http" && has_tls {
            return invalid(
                "-otlp-no-verify, -otlp-ca-cert, -otlp-cert and -otlp-key are about TLS, which the endpoint is without"
                    .into(),
            );
        }
        if trusts_all && ca.is_some() {
            return invalid("-otlp-no-verify and -otlp-ca-cert contradict each other: leave one out".into());
        }
        Ok(Some(OtlpConfig { endpoint, interval, trusts_all, ca, identity, trace_ratio, trace_limit }))
    }

    fn allow_origin(&self) -> Result<Option<HeaderValue>, ConfigError> {
        let origin = self.option("http-allow-origin").map(|origin| HeaderValue::from_str(&origin));
        origin.transpose().or_else(|_| {
            self.bad("http-allow-origin", "not the value of a header: visible ASCII characters and spaces")
        })
    }

    fn http_tls(&self) -> Result<Option<ServerTlsFiles>, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.into()));
        let verify = self.boolean("http-verify-client")?;
        let client_common_name = self.option("http-verify-common-name");
        if client_common_name.is_some() && !verify {
            return invalid("-http-verify-common-name needs -http-verify-client");
        }
        let (certificate, key) = match (self.path("http-cert"), self.path("http-key")) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if verify => return invalid("-http-verify-client needs -http-cert and -http-key"),
            (None, None) => return Ok(None),
            _ => return invalid("-http-cert and -http-key belong together"),
        };
        let client_ca = self.path("http-ca-cert").filter(|_| verify);
        if verify && client_ca.is_none() {
            return invalid("-http-verify-client needs -http-ca-cert: whose certificates are to be shown");
        }
        let plaintext = self.boolean("http-allow-plaintext")?;
        Ok(Some(ServerTlsFiles { certificate, key, client_ca, client_common_name, plaintext }))
    }

    fn node_tls(&self) -> Result<Option<PeerTlsFiles>, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.into()));
        let (certificate, key) = match (self.path("node-cert"), self.path("node-key")) {
            (Some(certificate), Some(key)) => (certificate, key),
            // Rather no member than one that believes everybody because a file was not named.
            (None, None) if self.path("node-ca-cert").is_some() => {
                return invalid("-node-ca-cert needs -node-cert and -node-key");
            }
            (None, None) => return Ok(None),
            _ => return invalid("-node-cert and -node-key belong together"),
        };
        let trust_all = self.boolean("node-no-verify")?;
        let ca = self.path("node-ca-cert").filter(|_| !trust_all);
        if ca.is_none() && !trust_all {
            return invalid(
                "-node-cert needs -node-ca-cert (or -node-no-verify, which protects from nobody in between)",
            );
        }
        let verify_client = self.boolean("node-verify-client")? && !trust_all;
        let common_name = self.option("node-verify-common-name");
        let member_name = self.boolean("node-verify-member-name")?;
        if (common_name.is_some() || member_name) && !verify_client {
            return invalid(
                "names of callers can be verified only in certificates that are: -node-verify-client",
            );
        }
        let plaintext = match self.text("node-plaintext") {
            "refuse" => Plaintext::Refuse,
            "accept" => Plaintext::Accept,
            "dial" => Plaintext::Dial,
            _ => return self.bad("node-plaintext", "neither refuse nor accept nor dial"),
        };
        let server_name = self.option("node-verify-server-name");
        Ok(Some(PeerTlsFiles {
            certificate,
            key,
            ca,
            verify_client,
            server_name,
            common_name,
            member_name,
            plaintext,
        }))
    }

    fn discovery(&self, raft_adv_addr: &str) -> Result<Discovery, ConfigError> {
        let listed = self.list("join").map(str::to_owned).collect();
        let Some(mode) = self.option("disco-mode") else { return Ok(Discovery::Listed(listed)) };
        if !listed.is_empty() {
            return Err(ConfigError::Invalid("-join and -disco-mode contradict each other".into()));
        }
        let text = self.text("disco-config");
        let config = if text.trim_start().starts_with('{') {
            if holds_secret(text) {
                return Err(ConfigError::Invalid(
                    "-disco-config holds a password, a token or a key, which everybody on this machine can read in \
                     the command line: name a file that holds it instead"
                        .into(),
                ));
            }
            text.to_owned()
        } else if text.is_empty() {
            String::new()
        } else {
            std::fs::read_to_string(text)
                .map_err(|e| ConfigError::Invalid(format!("-disco-config {text}: {e}")))?
        };
        let config = expand_environment(&config);
        let port = raft_adv_addr.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(4002);
        Discovery::parse(&mode, &config, port, self.text("disco-key")).map_err(ConfigError::Invalid)
    }

    fn automatic(&self) -> Result<(Option<AutoBackupConfig>, Option<AutoRestoreConfig>), ConfigError> {
        let of = |flag: &str| {
            let flag = flag.to_owned();
            move |error: String| ConfigError::Invalid(format!("-{flag} {error}"))
        };
        let backup = self.path("auto-backup").map(|path| AutoBackupConfig::read(&path));
        let restore = self.path("auto-restore").map(|path| AutoRestoreConfig::read(&path));
        Ok((backup.transpose().map_err(of("auto-backup"))?, restore.transpose().map_err(of("auto-restore"))?))
    }

    fn changes(&self, non_voter: bool) -> Result<Option<ChangesConfig>, ConfigError> {
        let Some(value) = self.option("cdc-config") else { return Ok(None) };
        if non_voter {
            let message = "-cdc-config is for voting nodes: a read replica sends nothing, and has /db/changes without it";
            return Err(ConfigError::Invalid(message.into()));
        }
        let config = ChangesConfig::read(&value);
        config.map(Some).map_err(|error| ConfigError::Invalid(format!("-cdc-config: {error}")))
    }

    /// All of it.
    pub fn config(&self, data_dir: PathBuf) -> Result<Config, ConfigError> {
        let invalid = |message: &str| Err(ConfigError::Invalid(message.into()));
        let http_addr = self.address("http-addr", "")?;
        let raft_addr = self.address("raft-addr", "")?;
        let http_adv_addr = self.address("http-adv-addr", &http_addr)?;
        let raft_adv_addr = self.address("raft-adv-addr", &raft_addr)?;
        if http_addr == raft_addr && !http_addr.ends_with(":0") {
            return invalid("HTTP and Raft addresses must differ");
        }
        for (address, name) in [(&http_adv_addr, "HTTP"), (&raft_adv_addr, "Raft")] {
            if address.starts_with("0.0.0.0:") || address.starts_with("[::]:") {
                return invalid(&format!(
                    "advertised {name} address is not routable ({address}), specify it via -{}-adv-addr",
                    name.to_ascii_lowercase()
                ));
            }
        }
        let join = self.discovery(&raft_adv_addr)?;
        let bootstrap_expect = self.number("bootstrap-expect")?;
        let non_voter = self.boolean("raft-non-voter")?;
        let managed = self.boolean("managed")?;
        if bootstrap_expect > 0 && join.is_empty() {
            return invalid(
                "-bootstrap-expect needs -join with the peer addresses of all expected members, or -disco-mode",
            );
        }
        if bootstrap_expect > 0 && non_voter {
            return invalid("bootstrapping only applicable to voting nodes");
        }
        if bootstrap_expect > 0 && join.registry().is_some() {
            return invalid(&format!(
                "-bootstrap-expect means nothing with -disco-mode {}: who registers first makes the cluster, the \
                 others join it",
                join.mode()
            ));
        }
        if !non_voter
            && bootstrap_expect == 0
            && matches!(join, Discovery::Dns { .. } | Discovery::DnsSrv { .. })
        {
            return invalid(
                "-disco-mode needs -bootstrap-expect on a voter: how many make a new cluster together",
            );
        }
        if managed && (bootstrap_expect > 0 || !join.is_empty()) {
            return invalid(
                "-managed waits for the operator; -join, -disco-mode and -bootstrap-expect contradict it",
            );
        }
        if non_voter && join.is_empty() && !managed {
            return invalid("a read replica needs -join or -disco-mode");
        }
        let (auto_backup, auto_restore) = self.automatic()?;
        if auto_restore.is_some() && managed {
            return invalid("-managed leaves restores to the operator; -auto-restore contradicts it");
        }
        let joins = matches!(join, Discovery::Listed(_)) && !join.is_empty() && bootstrap_expect == 0;
        if auto_restore.is_some() && joins {
            return invalid(
                "-auto-restore is for new clusters; a member that joins one with -join gets its state",
            );
        }
        if self.option("join-as").is_some() && self.path("auth").is_none() {
            return invalid("-join-as names a user of -auth, which is missing");
        }
        let extensions = ExtensionsConfig {
            paths: self.list("extensions-path").map(PathBuf::from).collect(),
            former: self.list("extensions-former").map(PathBuf::from).collect(),
            modules: self.list("extensions-modules").map(str::to_owned).collect(),
        };
        if extensions.paths.is_empty() && !extensions.modules.is_empty() {
            return invalid(
                "-extensions-modules names modules of the extensions of -extensions-path, which is missing",
            );
        }
        let log_format = match self.text("log-format") {
            "auto" => LogFormat::Auto,
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return self.bad("log-format", "neither text nor json nor auto"),
        };
        let health_addr = match self.option("health-addr") {
            None => None,
            Some(_) => Some(self.address("health-addr", "")?),
        };
        let mut notices = Vec::new();
        let profile = Self::lengthen_election(self.profile()?, &mut notices);
        self.without_effect(&mut notices)?;
        Ok(Config {
            node_id: self.option("node-id").unwrap_or_else(|| raft_adv_addr.clone()),
            data_dir,
            http_addr,
            http_adv_addr,
            http_allow_origin: self.allow_origin()?,
            http_tls: self.http_tls()?,
            auth: self.path("auth"),
            backup_config: self.path("backup-config"),
            changes: self.changes(non_voter)?,
            restore_config: self.path("restore-config"),
            auto_backup,
            auto_restore,
            raft_addr,
            raft_adv_addr,
            health_addr,
            node_tls: self.node_tls()?,
            join,
            join_as: self.option("join-as"),
            join_attempts: self.number("join-attempts")?,
            join_interval: self.duration("join-interval")?.unwrap_or(Duration::from_secs(3)),
            bootstrap_expect,
            bootstrap_expect_timeout: self
                .duration("bootstrap-expect-timeout")?
                .unwrap_or(Duration::from_secs(120)),
            non_voter,
            profile,
            apply_timeout: self.above_zero("raft-apply-timeout")?,
            foreign_keys: self.boolean("fk")?,
            extensions,
            managed,
            leave_on_shutdown: self.boolean("raft-cluster-remove-shutdown")?,
            hand_over_on_shutdown: self.boolean("raft-shutdown-stepdown")?,
            reap: Reap {
                voters: self.duration("raft-reap-node-timeout")?,
                read_only: self.duration("raft-reap-read-only-node-timeout")?,
            },
            log_segment_bytes: self.bytes("log-segment-size")?,
            log_retention_bytes: self.bytes("log-retention")?,
            consistency_period: self.duration("consistency-period")?.unwrap_or(Duration::MAX),
            scrub_period: self.duration("scrub-period")?.unwrap_or(Duration::MAX),
            write_step_limit: self.number("write-step-limit")?,
            write_queue: self.write_queue()?,
            maintenance: self.maintenance()?,
            otlp: self.otlp()?,
            disk_reserve_bytes: self.bytes("disk-reserve")?,
            wal_limit_bytes: self.bytes("wal-limit")?,
            query_memory_limit_bytes: self.bytes("query-memory-limit")?,
            log_level: self.text("log-level").to_owned(),
            log_format,
            notices,
        })
    }
}
