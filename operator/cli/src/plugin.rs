//! `kubectl sqlite`: one verb for each thing that people do to a cluster. A verb that changes something edits the
//! object, as `kubectl edit` would, and can print the change instead; nothing happens behind the operator's back but a
//! transfer of leadership, and the deletion of volumes that nobody uses (see `volumes`).

mod args;
mod backups;
mod drain;
mod edit;
mod foretold;
mod forward;
mod logs;
mod order;
mod picture;
mod print;
mod promote;
mod redact;
mod report;
mod store;
mod upgrade;
mod volumes;
mod watch;

pub use args::PluginArgs;

use crate::render::Mode;
use crate::{Args as ShellArgs, Known};
use anyhow::{Context, Result, bail};
use args::{UpgradeVerb, Verb, VolumesVerb};
use clap::Parser;
use client::admin_client::{AdminClient, AdminTimeouts};
use client::sql::Credentials;
use client::trust::Trust;
use edit::Edit;
use forward::{Forward, To};
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt};
use operator::cluster::certificates::AUTHORITIES;
use operator::crd::{AuthenticationMode, ClientTraffic, SqliteCluster};
use operator::names::{ANNOTATION_CLIENT_TRAFFIC, ClusterName, LABEL_CLUSTER, PORT_HTTP};
use std::process::ExitCode;
use tokio::runtime::Handle;

/// Field manager of what a human changes through this program.
const FIELD_MANAGER: &str = "kubectl-sqlite";

/// Does what the command line says.
pub fn run(args: PluginArgs, runtime: &Handle) -> Result<ExitCode> {
    // Only the first process-wide choice counts; a second one is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    if let Verb::Sql { name, sql, mode } = &args.verb {
        let (way, known) = runtime.block_on(async {
            let plugin = Plugin::connect(&args).await?;
            let way = plugin.way_to_any(name).await?;
            let credentials = plugin.credentials(name, ClusterName::application_secret).await?;
            let known = Known { credentials, trust: way.trust.clone() };
            Ok::<_, anyhow::Error>((way, known))
        })?;
        let mut shell = vec!["sqlite-cli".to_owned(), format!("--host={}", way.forward.address)];
        shell.push(format!("--scheme={}", way.scheme()));
        shell.extend(sql.iter().map(|sql| format!("--command={sql}")));
        let mode = mode.or(args.json.then_some(Mode::Json));
        shell.extend(mode.map(|mode| format!("--mode={mode}")));
        let code = crate::run_as(ShellArgs::try_parse_from(shell)?, known, runtime);
        drop(way);
        return Ok(code);
    }
    let done = runtime.block_on(async { Plugin::connect(&args).await?.run(&args.verb).await });
    print::unless_unread(done, ExitCode::SUCCESS)
}

/// A local port that leads to a member, and how that is to be talked to.
struct Way {
    forward: Forward,
    /// Whom to trust; none: the member talks without TLS.
    trust: Option<Trust>,
}

impl Way {
    fn scheme(&self) -> &'static str {
        if self.trust.is_some() { "https" } else { "http" }
    }
}

struct Plugin {
    client: Client,
    namespace: String,
    /// Whether the command line names the namespace.
    names_namespace: bool,
    /// Whether what is printed is JSON.
    json: bool,
    /// Whether a change is printed instead of made.
    dry_run: bool,
}

impl Plugin {
    async fn connect(args: &PluginArgs) -> Result<Self> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await.context("the kubeconfig cannot be used")?;
        let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        let names_namespace = args.namespace.is_some();
        Ok(Self { client, namespace, names_namespace, json: args.json, dry_run: args.dry_run })
    }

    fn clusters(&self) -> Api<SqliteCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn cluster(&self, name: &str) -> Result<SqliteCluster> {
        let missing = || format!("no SqliteCluster {name} in namespace {}", self.namespace);
        self.clusters().get_opt(name).await?.with_context(missing)
    }

    async fn pods_of(&self, name: &str) -> Result<Vec<Pod>> {
        Ok(self.pods().list(&of(name)).await?.items)
    }

    /// The user in one of the cluster's Secrets; none where nobody has to say who they are.
    async fn credentials(
        &self,
        name: &str,
        secret: fn(&ClusterName) -> String,
    ) -> Result<Option<Credentials>> {
        if self.cluster(name).await?.spec.security.authentication.mode == AuthenticationMode::Disabled {
            return Ok(None);
        }
        let called = secret(&ClusterName::new(&self.namespace, name));
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get(&called).await.with_context(|| format!("Secret {called} cannot be read"))?;
        let found = operator::cluster::build::secret::credentials(&secret);
        Ok(Some(found.with_context(|| format!("Secret {called} has no username and password"))?))
    }

    async fn run(&self, verb: &Verb) -> Result<ExitCode> {
        match verb {
            Verb::Status { name, watch } => self.status(name, *watch).await?,
            Verb::Members { name } => {
                let cluster = self.cluster(name).await?;
                let members = cluster.status.map(|status| status.members).unwrap_or_default();
                self.print(&members, || picture::members(&members))?;
            }
            Verb::Plan { name, file } => self.plan(name, file.as_deref()).await?,
            Verb::Events { name } => self.events(name).await?,
            Verb::Logs { name, member, lines } => return self.logs(name, member.as_deref(), lines).await,
            Verb::Report { name } => self.report(name).await?,
            Verb::Promote { name, member } => self.promote(name, member).await?,
            Verb::GcVolumes { name, yes } | Verb::Volumes { verb: VolumesVerb::Gc { name, yes } } => {
                return self.gc_volumes(name, *yes && !self.dry_run).await;
            }
            Verb::DrainCheck { node } => return self.drain_check(node).await,
            Verb::Restart { name } => self.edit(name, |_| Ok(edit::restart(now()))).await?,
            Verb::Upgrade { verb: UpgradeVerb::Approve { name } } => self.edit(name, edit::approve).await?,
            Verb::Upgrade { verb: UpgradeVerb::Abort { name } } => self.edit(name, upgrade::abort).await?,
            Verb::Hibernate { name } => self.edit(name, |_| Ok(edit::hibernate(true))).await?,
            Verb::Wake { name } => self.edit(name, |_| Ok(edit::hibernate(false))).await?,
            Verb::Pause { name } => self.edit(name, |_| Ok(edit::pause(true))).await?,
            Verb::Resume { name } => self.edit(name, |_| Ok(edit::pause(false))).await?,
            Verb::Fence { name, member, reason } => {
                self.edit(name, |cluster| Ok(edit::fence(cluster, member, reason.as_deref()))).await?;
            }
            Verb::Unfence { name, member } => {
                self.edit(name, |cluster| edit::unfence(cluster, member)).await?;
            }
            Verb::RecoverQuorum { name, survivor } => {
                self.edit(name, |cluster| edit::consent(cluster, survivor)).await?;
            }
            Verb::SkipEntry { name, index } => {
                self.edit(name, |cluster| edit::skip_entry(cluster, *index)).await?;
            }
            Verb::Backup { verb } => self.backup(verb).await?,
            Verb::Restore { name, to, undo, confirm } => {
                self.restore(name, to.as_ref(), undo.as_deref(), confirm.as_deref()).await?;
            }
            Verb::Branch { name, new, to } => self.branch(name, new, to).await?,
            Verb::Sql { .. } => bail!("the shell is run without a task of its own"),
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn edit(&self, name: &str, make: impl FnOnce(&SqliteCluster) -> Result<Edit>) -> Result<()> {
        let edit = make(&self.cluster(name).await?)?;
        if self.dry_run {
            return self.show(&edit.manifest(&self.namespace, name));
        }
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let edited = self.clusters().patch(name, &params, &Patch::Merge(&edit.patch)).await?;
        self.print(&edited, || format!("{name}: {}\n", edit.what))
    }

    async fn status(&self, name: &str, watch: bool) -> Result<()> {
        // One status a line, for those who read them as they come.
        let text = |cluster: &SqliteCluster| -> Result<String> {
            match self.json {
                true => Ok(serde_json::to_string(&cluster.status)? + "\n"),
                false => Ok(picture::cluster(cluster)),
            }
        };
        let first = self.cluster(name).await?;
        print::out(&text(&first)?)?;
        if !watch {
            return Ok(());
        }
        let show = |cluster: &SqliteCluster| {
            // To the upper left, and everything below it is cleared.
            let cleared = if self.json { "" } else { "\x1b[H\x1b[J" };
            Ok(print::out(&format!("{cleared}{}", text(cluster)?))?)
        };
        watch::follow(self.clusters(), &first, show).await
    }

    async fn plan(&self, name: &str, file: Option<&std::path::Path>) -> Result<()> {
        let mut cluster = self.cluster(name).await?;
        if let Some(file) = file {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            let edited: SqliteCluster =
                serde_yaml::from_str(&text).with_context(|| format!("{}", file.display()))?;
            if edited.name_any() != name {
                bail!("{} describes {}, not {name}", file.display(), edited.name_any());
            }
            // What somebody else has annotated stays.
            cluster.annotations_mut().extend(edited.metadata.annotations.unwrap_or_default());
            cluster.spec = edited.spec;
        }
        let pods = self.pods_of(name).await?;
        let restarts = order::restarts(&cluster, &pods)?;
        self.print(&restarts, || order::text(&restarts))
    }

    async fn events(&self, name: &str) -> Result<()> {
        let which =
            ListParams::default().fields(&format!("regarding.name={name},regarding.kind=SqliteCluster"));
        let mut events =
            Api::<Event>::namespaced(self.client.clone(), &self.namespace).list(&which).await?.items;
        events.sort_by_key(|event| event.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let line = |event: &Event| {
            let at = event.metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
            let (reason, note) = (event.reason.as_deref(), event.note.as_deref());
            let (at, reason, note) =
                (at.unwrap_or_default(), reason.unwrap_or_default(), note.unwrap_or_default());
            format!("{at}  {reason:<22} {note}\n")
        };
        self.print(&events, || events.iter().map(line).collect())
    }

    async fn way_to_any(&self, name: &str) -> Result<Way> {
        let pod = forward::ready(&self.pods(), &of(name)).await?;
        let pod = pod.with_context(|| format!("no member of {name} is ready"))?;
        let trust = self.trust(name, &pod).await?;
        Ok(Way { forward: Forward::open(self.pods(), To::Any(of(name)), port()).await?, trust })
    }

    async fn way_to(&self, name: &str, pod: &Pod) -> Result<Way> {
        let trust = self.trust(name, pod).await?;
        Ok(Way { forward: Forward::open(self.pods(), To::Pod(pod.name_any()), port()).await?, trust })
    }

    /// A client of the members' own API, and where it reaches one.
    async fn admin(&self, name: &str, way: &Way) -> Result<(AdminClient, String)> {
        let credentials = self.credentials(name, ClusterName::operator_secret).await?;
        let admin = AdminClient::new(AdminTimeouts::default())?.with_credentials(credentials);
        let admin = way.trust.as_ref().map_or_else(|| Ok(admin.clone()), |trust| admin.trusting(trust))?;
        Ok((admin, format!("{}://{}", way.scheme(), way.forward.address)))
    }

    /// Whom to trust where a member talks TLS: as applications are told. Before they are, it answers without as well.
    async fn trust(&self, name: &str, pod: &Pod) -> Result<Option<Trust>> {
        let mark = pod.annotations().get(ANNOTATION_CLIENT_TRAFFIC).map(String::as_str);
        if ClientTraffic::marked(mark) == ClientTraffic::Plaintext {
            return Ok(None);
        }
        let cluster = ClusterName::new(&self.namespace, name);
        let called = cluster.application_secret();
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let secret = secrets.get(&called).await.with_context(|| format!("Secret {called} cannot be read"))?;
        let Some(pem) = secret.data.and_then(|mut data| data.remove(AUTHORITIES)) else { return Ok(None) };
        let trust = Trust::new(&pem.0, Some(&cluster.tls_name()));
        trust.map(Some).with_context(|| format!("{AUTHORITIES} of Secret {called}"))
    }
}

/// The pods of a cluster.
fn of(name: &str) -> ListParams {
    ListParams::default().labels(&format!("{LABEL_CLUSTER}={name}"))
}

fn port() -> u16 {
    u16::try_from(PORT_HTTP).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "a human's nudge is dated by the human's clock")]
fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}
