//! The servers of the benchmark: ours, and kube-apiserver with etcd and kube-scheduler.
//!
//! All listen on the loopback, keep their data in a directory that goes with them,
//! and are ended by their own process numbers.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;

/// How long a server may take until it answers.
const STARTING: Duration = Duration::from_secs(120);
/// What the client shows kube-apiserver.
const TOKEN: &str = "bench";

/// Whose server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Berth,
    /// The original.
    Kubernetes,
}

impl Kind {
    /// As sentences name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Berth => "berth",
            Kind::Kubernetes => "kube-scheduler with kube-apiserver and etcd",
        }
    }
}

/// A server that answers.
pub struct Server {
    kind: Kind,
    /// Speaks to it.
    pub client: Client,
    children: Vec<Child>,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    ///
    /// A program is missing, or did not answer in time.
    pub async fn start(kind: Kind) -> Result<Server> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let config = directory.path().join("kubeconfig");
        fs::write(&config, kubeconfig(port))?;
        let children = match kind {
            Kind::Berth => vec![start_ours(directory.path(), port)?],
            Kind::Kubernetes => start_kubernetes(directory.path(), port)?,
        };
        // From here on the children end with the value.
        let mut server = Server {
            kind,
            client: connect(&config).await?,
            children,
            _directory: directory,
        };
        server.wait().await?;
        if kind == Kind::Kubernetes {
            let scheduler = start_scheduler(server._directory.path(), &config)?;
            server.children.push(scheduler);
        }
        Ok(server)
    }

    /// As sentences name it.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    async fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + STARTING;
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> =
            kube::Api::all(self.client.clone());
        while namespaces.get("default").await.is_err() {
            for child in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    bail!("a program of {} ended: {status}", self.kind.name());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not answer",
                self.kind.name()
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The scheduler first, the store last.
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start_ours(directory: &Path, port: u16) -> Result<Child> {
    let program = std::env::current_exe()?.with_file_name("berth-bench-server");
    let arguments = [directory.display().to_string(), port.to_string()];
    start(&program, &arguments, &directory.join("server.log"))
}

fn start_kubernetes(directory: &Path, port: u16) -> Result<Vec<Child>> {
    let (store, peers) = (free_port()?, free_port()?);
    let place = |name: &str| directory.join(name).display().to_string();
    let etcd = [
        format!("--data-dir={}", place("etcd")),
        format!("--listen-client-urls=http://127.0.0.1:{store}"),
        format!("--advertise-client-urls=http://127.0.0.1:{store}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
    ];
    let etcd = start(Path::new("etcd"), &etcd, &directory.join("etcd.log"))?;
    let key = place("accounts.key");
    let made = Command::new("openssl")
        .args(["genrsa", "-out", &key, "2048"])
        .stderr(Stdio::null())
        .status()
        .context("openssl makes a key for service accounts")?;
    ensure!(made.success(), "openssl made no key");
    fs::write(place("tokens"), format!("{TOKEN},admin,1,system:masters\n"))?;
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{store}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        format!("--cert-dir={}", place("certificates")),
        format!("--token-auth-file={}", place("tokens")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--service-account-issuer=https://bench".to_owned(),
        format!("--service-account-key-file={key}"),
        format!("--service-account-signing-key-file={key}"),
        // Without controllers nobody makes the account that each pod would need, nor
        // takes away the taint that a new node would get.
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".to_owned(),
        // Nor is anybody to be slowed down.
        "--max-requests-inflight=4000".to_owned(),
        "--max-mutating-requests-inflight=2000".to_owned(),
    ];
    let program = built("kube-apiserver")?;
    let server = start(&program, &arguments, &directory.join("apiserver.log"))?;
    Ok(vec![etcd, server])
}

fn start_scheduler(directory: &Path, kubeconfig: &Path) -> Result<Child> {
    let config = directory.join("scheduler.yaml");
    // As kube's own benchmarks set it: its client is not to be the bound.
    let text = format!(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
         leaderElection:\n  leaderElect: false\n\
         clientConnection:\n  kubeconfig: {}\n  qps: 5000\n  burst: 5000\n",
        kubeconfig.display()
    );
    fs::write(&config, text)?;
    let arguments = [
        format!("--config={}", config.display()),
        format!("--secure-port={}", free_port()?),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--cert-dir={}", directory.join("certificates").display()),
        "--authentication-skip-lookup=true".to_owned(),
    ];
    let program = built("kube-scheduler")?;
    start(&program, &arguments, &directory.join("scheduler.log"))
}

fn start(program: &Path, arguments: &[String], log: &Path) -> Result<Child> {
    let log = File::create(log)?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))
}

/// A program that `./x bench` builds from Go's modules.
fn built(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/bench/go/bin")
        .join(name);
    ensure!(path.exists(), "{name} is not built");
    Ok(path)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn kubeconfig(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: bench\n\
         clusters: [{{name: bench, cluster: {{server: 'https://localhost:{port}', insecure-skip-tls-verify: true}}}}]\n\
         users: [{{name: bench, user: {{token: {TOKEN}}}}}]\n\
         contexts: [{{name: bench, context: {{cluster: bench, user: bench, namespace: default}}}}]\n"
    )
}

async fn connect(path: &Path) -> Result<Client> {
    let file = kube::config::Kubeconfig::read_from(path)?;
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file, &options).await?;
    Ok(Client::try_from(config)?)
}
