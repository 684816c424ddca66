//! The pages about Kubernetes do what they say: each is followed from top to bottom by somebody who has a checkout, a
//! Kubernetes, and nothing else. What the pages call the namespace of the operator, the registry and the port of
//! `kubectl port-forward` are other ones here: [`Reader::names`] says which. Each reader installs an operator of their own,
//! for their namespace.

use crate::backups::await_archived;
use crate::page::{Walk, commands};
use anyhow::{Context, Result, ensure};
use e2e::{ObjectStore, Scenario, Skip, scenario};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Who follows blocks that are about `sqlited` alone.
const WITHOUT_KUBERNETES: &str = "it is for no Kubernetes: node/tests/pages.rs";

/// A directory with a copy of what the reader has in the checkout.
struct Reader {
    directory: PathBuf,
    names: Vec<(String, String)>,
    prelude: String,
}

impl Reader {
    fn new(test: &Scenario) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        let directory = std::env::temp_dir().join(&test.namespace);
        fs::create_dir_all(directory.join("examples"))?;
        let label = "labels: {sqlite-operator.io/e2e: own-operator}";
        for entry in fs::read_dir(root.join("examples"))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let manifest =
                fs::read_to_string(path)?.replace("metadata:\n", &format!("metadata:\n  {label}\n"));
            fs::write(directory.join("examples").join(name), manifest)?;
        }
        let image = |variable: &str| {
            let image =
                std::env::var(variable).with_context(|| format!("{variable} is set by e2e/test.sh"))?;
            let parts = image.rsplit_once(':').context("an image has a tag")?;
            Ok::<_, anyhow::Error>((parts.0.to_owned(), parts.1.to_owned()))
        };
        let (operator, members) = (image("OPERATOR_IMAGE")?, image("SQLITED_IMAGE")?);
        let images = format!(
            "image.repository={} --set image.tag={} --set nodeImage.repository={} --set nodeImage.tag={}",
            operator.0, operator.1, members.0, members.1
        );
        let namespace = &test.namespace;
        let only_here = "--set crds.install=false --set clusterSelector=sqlite-operator.io/e2e=own-operator";
        let chart = root.join("charts/sqlite-operator").display().to_string();
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let names = [
            // An operator for this namespace and its clusters: another one is there for the other tests.
            (
                "charts/sqlite-operator --namespace sqlite-operator --create-namespace".to_owned(),
                format!("{chart} --namespace {namespace} {only_here} --set watchNamespaces={{{namespace}}} --set {images}"),
            ),
            // They are said already.
            (" --set image.repository=REGISTRY/sqlite-operator --set nodeImage.repository=REGISTRY/sqlited".into(), String::new()),
            ("metadata: {name: orders}".into(), format!("metadata: {{name: orders, {label}}}")),
            ("service/orders-rw 4001".into(), format!("service/orders-rw {port}:4001")),
            ("localhost:4001".into(), format!("localhost:{port}")),
            ("port=4001".into(), format!("port={port}")),
        ];
        let kubeconfig = std::env::var("KUBECONFIG")?;
        let programs = std::env::current_exe()?;
        let programs = programs.parent().and_then(Path::parent).context("target/ci/deps")?.display();
        // A reader has another terminal for what goes on until it is ended: here it goes on behind.
        let prelude = format!(
            r#"export PATH={programs}:$PATH HOME=$PWD
cp {kubeconfig} kubeconfig
export KUBECONFIG=$PWD/kubeconfig
kubectl config set-context --current --namespace {namespace}
kubectl() {{
  case $1 in
  port-forward)
    : >port-forward.log
    command kubectl "$@" >port-forward.log 2>&1 &
    echo $! >port-forward.pid
    until grep -q '^Forwarding' port-forward.log; do sleep 0.05; done ;;
  *) command kubectl "$@" ;;
  esac
}}
"#
        );
        Ok(Self { directory, names: names.into(), prelude })
    }

    fn open(&self, page: &'static str) -> Walk {
        let names: Vec<_> = self.names.iter().map(|(from, to)| (&**from, &**to)).collect();
        Walk::open(page, &self.directory, &names, &self.prelude)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// What the API server would make of a block of YAML: of a whole object, or of a part of a SqliteCluster's spec.
fn check_yaml(walk: &mut Walk, begin: &str) -> Result<()> {
    walk.write(begin, "block.yaml");
    let text = walk.type_in("cat block.yaml");
    let block: Value = serde_yaml::from_str(&text)?;
    let object = if block["kind"].is_string() { block } else { whole(block)? };
    fs::write(walk.directory().join("block.json"), object.to_string())?;
    walk.type_in("kubectl apply --server-side --dry-run=server --validate=strict -f block.json");
    Ok(())
}

/// A SqliteCluster with what a part of its spec says.
fn whole(part: Value) -> Result<Value> {
    let mut spec = json!({"voters": 3, "storage": {"size": "1Gi"}});
    let fields = part["spec"].as_object().context("a part of a spec")?;
    spec.as_object_mut().context("an object")?.extend(fields.clone());
    Ok(json!({
        "apiVersion": "sqlite-operator.io/v1alpha1", "kind": "SqliteCluster",
        "metadata": {"name": "part"}, "spec": spec,
    }))
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_readme() {
    scenario("the_readme", async |test| {
        let reader = Reader::new(test)?;
        let mut walk = reader.open("README.md");
        check_yaml(&mut walk, "apiVersion:")?;
        walk.pass_over("                kubectl apply", "it is a picture");
        walk.pass_over(
            "make demo",
            "it starts a Kubernetes; what it does is what the tests beside this one do",
        );
        walk.pass_over("make test", "this is part of it");
        walk.follow("helm install");
        test.say("installed, and ready");
        walk.follow("kubectl port-forward");
        let printed = walk.follow("kubectl get secret");
        ensure!(printed.ends_with(r#""values":[[1,"a lamp"]]}]}"#), "{printed}");
        python(&mut walk)?;
        walk.end();
        Ok(())
    });
}

/// Runs the program of the page, with the Secret where the page has it, by the client that `make clients` installs.
fn python(walk: &mut Walk) -> Result<()> {
    let Some(clients) = std::env::var_os("CLIENTS").map(PathBuf::from) else {
        walk.pass_over("import pathlib", "the client is not there: make clients");
        return Ok(());
    };
    walk.type_in("mkdir orders");
    for key in ["username", "password", "ca.crt"] {
        let template = format!("{{{{index .data \"{key}\" | base64decode}}}}");
        walk.type_in(&format!("kubectl get secret orders-app -o go-template='{template}' >orders/{key}"));
    }
    // The way that is open.
    walk.type_in("printf localhost >orders/host");
    let bindings = walk.directory().display().to_string();
    walk.rename("/bindings", &bindings);
    walk.write("import pathlib", "program.py");
    let printed = walk.type_in(&format!("{} program.py", clients.join("python/bin/python").display()));
    ensure!(printed.contains("(2, 'a chair')"), "{printed}");
    Ok(())
}

/// A browser on the console.
struct Console {
    browser: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Console {
    fn open(address: &str, user: &str, password: &str) -> Result<Self> {
        let Some(clients) = std::env::var_os("CLIENTS").map(PathBuf::from) else {
            return Err(Skip("the browser's driver is not there: make clients".to_owned()).into());
        };
        let mut command = Command::new("node");
        command.arg(clients.join("console/quickstart.js")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut browser = command.spawn()?;
        let (input, output) = (browser.stdin.take(), browser.stdout.take());
        let (mut input, output) = (input.context("a pipe")?, output.context("a pipe")?);
        write!(input, "{address}\n{user}\n{password}\n")?;
        Ok(Self { browser, input, output: BufReader::new(output).lines() })
    }

    /// Runs statements in the editor; returns the cells that are shown then.
    fn run(&mut self, sql: &str) -> Result<Value> {
        self.ask(&json!({ "sql": sql }))
    }

    /// Names of the members that the view *Cluster* shows.
    fn members(&mut self) -> Result<Value> {
        self.ask(&json!({}))
    }

    fn ask(&mut self, what: &Value) -> Result<Value> {
        writeln!(self.input, "{what}")?;
        let line = self.output.next().context("the browser has ended")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.browser.kill());
        drop(self.browser.wait());
    }
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_quick_start() {
    scenario("the_quick_start", async |test| {
        let reader = Reader::new(test)?;
        let mut walk = reader.open("docs/quickstart.md");
        walk.pass_over("make kube-up", "it is how this Kubernetes was started");
        walk.pass_over("docker build", "not every machine has Docker, and a registry");
        walk.pass_over(
            "make image",
            "it optimises for minutes; `make e2e` makes the images by the same scripts",
        );
        walk.follow("helm install");
        test.say("the operator is there");
        walk.follow("kubectl apply");
        test.say("orders is ready");
        let password = walk.follow("kubectl get secret orders-app");
        let address = walk.type_in("echo https://localhost:4001/console/");
        let mut console = Console::open(address.trim(), "app", password.trim())?;
        let first = walk.next("CREATE TABLE orders");
        let rows = console.run(&first.text)?;
        ensure!(rows == json!([["1", "a lamp"], ["2", "a chair"]]), "{rows}");
        ensure!(console.members()?.as_array().is_some_and(|members| members.len() == 3), "not three members");
        test.say("the console shows rows and members");

        walk.follow("kubectl delete pod");
        // As the page says: if it ended, it is started again. It may not have noticed yet that the pod is gone.
        walk.type_in("kill $(cat port-forward.pid) || true");
        walk.type_in("kubectl port-forward service/orders-rw 4001");
        let rows = console.run(&walk.next("INSERT INTO orders").text)?;
        ensure!(rows == json!([["1", "a lamp"], ["2", "a chair"], ["3", "a table"]]), "{rows}");
        walk.end();
        Ok(())
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_pages_about_the_operator() {
    scenario("the_pages_about_the_operator", async |test| {
        let reader = Reader::new(test)?;
        let mut walk = reader.open("docs/operator.md");
        walk.follow("helm install");
        test.say("installed, and ready");
        check_yaml(&mut walk, "apiVersion:")?;
        check_yaml(&mut walk, "spec:\n  backup:")?;
        check_yaml(&mut walk, "spec:\n  bootstrap:")?;
        walk.pass_over("cargo install", "it compiles for minutes; `make e2e` has built the same program");
        walk.pass_over("sqlite-operator run", "it shows what can be said, not what to say");
        walk.end();

        let mut walk = reader.open("docs/gitops.md");
        walk.pass_over("apiVersion: kustomize.toolkit.fluxcd.io", "Flux is not there");
        walk.write("data:", "argocd-cm.yaml");
        walk.type_in(
            "kubectl create configmap argocd-cm --dry-run=client -o yaml >whole.yaml && cat argocd-cm.yaml >>whole.yaml \
             && kubectl apply --dry-run=server -f whole.yaml",
        );
        walk.pass_over("spec:\n  syncPolicy:", "Argo CD is not there");
        walk.end();

        let mut walk = reader.open("docs/extensions.md");
        walk.pass_over("sqlited -extensions-path", WITHOUT_KUBERNETES);
        check_yaml(&mut walk, "spec:")?;
        walk.pass_over("FROM", "there is no Docker: extensions.rs has an image of the same content");
        walk.end();

        let mut walk = reader.open("docs/changes.md");
        walk.pass_over("{\n  \"endpoint\"", WITHOUT_KUBERNETES);
        walk.pass_over("{\"service_id\"", WITHOUT_KUBERNETES);
        check_yaml(&mut walk, "apiVersion:")?;
        walk.end();

        every_command(&mut reader.open("docs/runbooks.md"))
    });
}

#[test]
#[ignore = "needs Kubernetes: make e2e"]
fn the_disaster_drill() {
    scenario("the_disaster_drill", async |test| {
        let store = ObjectStore::start(test).await?;
        let reader = Reader::new(test)?;
        let mut walk = reader.open("docs/drill.md");
        // The page has an operator already: here the one that all tests share.
        walk.rename(
            "metadata: {name: drill}",
            "metadata: {name: drill, labels: {sqlite-operator.io/e2e: ''}}",
        );
        let mut s3 = store.spec()["s3"].clone();
        s3["secretRef"] = json!({"name": "drill-store"});
        walk.rename(
            "s3: {bucket: company-backups, prefix: drill, region: eu-central-1, secretRef: {name: drill-store}}",
            &format!("s3: {s3}"),
        );
        // What the reader has elsewhere.
        for key in ["accessKeyId", "secretAccessKey"] {
            let template = format!("{{{{.data.{key} | base64decode}}}}");
            walk.type_in(&format!("kubectl get secret s3 -o go-template='{template}' >{key}"));
        }
        walk.follow("head -c 32");
        walk.write("apiVersion:", "drill.yaml");
        walk.follow("kubectl apply -f drill.yaml");
        test.say("three rows, two of them in a backup");
        // The page waits for as long as the archive may take; a test asks how far it is.
        walk.rename("sleep 10", "true");
        walk.follow("kubectl wait");
        await_archived(&test.named("drill")).await?;
        walk.follow("kubectl get sqlitecluster");
        let id = walk.type_in("cat cluster-id");
        let noted = walk.type_in("cat before.csv");
        ensure!(noted.contains("\n3,3,"), "{noted}");

        walk.follow("kubectl delete");
        // What belonged to the cluster is collected behind its back.
        let left = "kubectl get pods,pvc,secrets,sqb,sqc -l sqlite-operator.io/cluster=drill -o name";
        walk.until(&format!("[ -z \"$({left})\" ]"));
        test.say("all of it is gone");

        walk.follow("begin=");
        walk.rename("clusterID: ID", &format!("clusterID: {}", id.trim()));
        walk.write("apiVersion:", "again.yaml");
        let time = walk.follow("kubectl apply -f again.yaml");
        test.say(time.lines().last().unwrap_or_default());
        let compared = walk.follow("kubectl sqlite sql");
        ensure!(compared.ends_with("nothing is missing\n"), "{compared}");
        let now = walk.type_in(
            "kubectl get sqlitecluster drill -o jsonpath='{.status.clusterID} {.status.restore.phase}'",
        );
        ensure!(now.ends_with(" Succeeded") && !now.starts_with(id.trim()), "{now}");
        walk.follow("kubectl wait");
        test.say("it is backed up again");
        walk.follow("kubectl delete");
        walk.end();
        Ok(())
    });
}

/// What becomes of a command in the running text of a page, on a cluster that is well.
enum Fate {
    /// It does what it says.
    Succeeds,
    /// It says this, because nothing is wrong with the cluster.
    Says(&'static str),
    /// It is the name of a command, with nothing to act on.
    IsAName,
    /// It goes on until it is ended: other tests have it.
    Stays,
}

/// Commands in the text of all pages: each has to be here. Names are those of the cluster that was made before.
const COMMANDS: &[(&str, Fate)] = &[
    ("kubectl logs", Fate::IsAName),
    ("kubectl scale", Fate::IsAName),
    ("kubectl wait", Fate::IsAName),
    ("kubectl sqlite", Fate::IsAName),
    ("kubectl sqlite backup now", Fate::IsAName),
    ("kubectl sqlite backup delete", Fate::IsAName),
    ("kubectl sqlite backup verify", Fate::IsAName),
    ("kubectl sqlite upgrade approve", Fate::IsAName),
    ("kubectl sqlite promote", Fate::IsAName),
    ("kubectl sqlite VERB --dry-run", Fate::IsAName),
    ("kubectl port-forward", Fate::IsAName),
    ("kubectl port-forward service/orders-any 4001", Fate::Stays),
    ("kubectl sqlite sql NAME", Fate::Succeeds),
    ("kubectl sqlite sql orders", Fate::Succeeds),
    ("kubectl explain sqc.spec", Fate::Succeeds),
    ("kubectl explain sqlitecluster.spec.storage", Fate::Succeeds),
    ("kubectl get sqc", Fate::Succeeds),
    ("kubectl get sqb", Fate::Succeeds),
    ("kubectl get pvc", Fate::Succeeds),
    ("kubectl get sqliteclusters", Fate::Succeeds),
    ("kubectl get sqlitebackups", Fate::Succeeds),
    ("kubectl get sqliterestores", Fate::Succeeds),
    ("kubectl sqlite status NAME", Fate::Succeeds),
    ("kubectl sqlite events NAME", Fate::Succeeds),
    ("kubectl sqlite members NAME", Fate::Succeeds),
    ("kubectl sqlite report NAME", Fate::Succeeds),
    ("kubectl sqlite plan NAME", Fate::Succeeds),
    ("kubectl sqlite upgrade approve NAME", Fate::Says("no update waits for approval")),
    ("kubectl sqlite upgrade abort NAME", Fate::Says("no update is under way")),
    ("kubectl sqlite recover-quorum NAME --survivor MEMBER", Fate::Says("offers nothing to go on with")),
    ("kubectl sqlite skip-entry NAME INDEX", Fate::Says("there is nothing to pass over")),
    ("kubectl sqlite backup now NAME", Fate::Succeeds),
    ("kubectl sqlite branch NAME NAME-drill", Fate::Says("the cluster has no spec.backup")),
    ("kubectl sqlite backup list NAME --in-store", Fate::Says("-backup-config")),
    (
        "kubectl sqlite restore NAME --to 2026-01-02T03:04:05Z --dry-run",
        Fate::Says("the cluster has no spec.backup"),
    ),
    ("kubectl describe sqb BACKUP", Fate::Says("not found")),
    ("kubectl sqlite backup verify BACKUP", Fate::Says("not found")),
    ("kubectl sqlite backup delete BACKUP", Fate::Says("not found")),
    ("kubectl sqlite restore NAME --undo RESTORE", Fate::Says("not found")),
    ("kubectl sqlite fence NAME MEMBER", Fate::Succeeds),
    ("kubectl delete sqlitecluster orders", Fate::Succeeds),
];

/// Runs the commands that pages have in their text, on the cluster that is there.
fn every_command(walk: &mut Walk) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut pages: Vec<PathBuf> =
        fs::read_dir(docs)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    pages.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        for command in commands(&fs::read_to_string(page)?, "kubectl") {
            let known = COMMANDS.iter().any(|(known, _)| *known == command);
            ensure!(known, "{}: nothing is known about `{command}`", page.display());
        }
    }
    for (from, to) in [
        ("NAME", "orders"),
        ("MEMBER", "orders-1"),
        ("BACKUP", "a-backup"),
        ("RESTORE", "a-restore"),
        ("INDEX", "17"),
    ] {
        walk.rename(from, to);
    }
    let mut wrong = Vec::new();
    for (command, fate) in COMMANDS {
        let expected = match fate {
            Fate::IsAName | Fate::Stays => continue,
            Fate::Succeeds => None,
            Fate::Says(part) => Some(*part),
        };
        let outcome = walk.type_in(&format!("if {command} 2>&1; then echo succeeded; fi"));
        let is_well = outcome.ends_with("succeeded\n") == expected.is_none();
        if !is_well || expected.is_some_and(|part| !outcome.contains(part)) {
            wrong.push(format!("{command}: {outcome}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
