//! Hosts on a wire that become a cluster.
//!
//! ```text
//!   this test ── 127.0.0.1:PORT ─┐ (bytes carried into host 0's namespace)
//!                                ▼
//!   host 0: server, agent, netd, CRI     host 1, 2, …: agent, netd, CRI
//!            │                                │
//!   ─────────┴──────────── wire ──────────────┴────── outside: the registry, kubectl's place
//! ```
//!
//! ```ignore
//! let cluster = Cluster::start(3);              // init on the first, join on the others
//! cluster.kubectl(&["get", "nodes"]);
//! let client = cluster.client();                // kube::Client, this process's own
//! cluster.block_on(async { … });
//! ```

use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::fabric::{Fabric, OUTSIDE};
use berth_tests::host::{Host, connect_in};
use berth_tests::image::examples;
use berth_tests::patience::stretched;
use berth_tests::registry::{Access, Registry};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// How long a command may take that waits for a node or a pod.
pub const LIMIT: Duration = Duration::from_secs(150);

/// Hosts, a registry that all of them pull from, and what runs on them.
pub struct Cluster {
    // Dropped in this order: what runs in the hosts, then the hosts.
    registry: Registry,
    carriers: Vec<Carrier>,
    runtime: tokio::runtime::Runtime,
    fabric: Fabric,
}

impl Cluster {
    /// Hosts with nothing on them yet. Needs root.
    pub fn hosts(count: usize) -> Cluster {
        let made = || -> Result<Cluster> {
            // Whoever speaks TLS in this process needs to know with what.
            let fabric = Fabric::new(count)?;
            let address = SocketAddr::from((OUTSIDE, 5000));
            let registry = Registry::start_at(fabric.outside(), address, Access::Open)?;
            examples::push_all(&registry)?;
            for host in fabric.hosts() {
                host.write_registries(&registry.mirror_configuration())?;
            }
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            Ok(Cluster {
                registry,
                carriers: Vec::new(),
                runtime,
                fabric,
            })
        };
        made().expect("a cluster needs root, docker-registry, nft and iproute2")
    }

    /// A cluster of that many hosts: all are nodes and ready, the first has the server.
    pub fn start(count: usize) -> Cluster {
        let cluster = Cluster::hosts(count);
        let join = cluster.init(0, &[]);
        // Side by side: each waits mostly for its own network and runtime.
        std::thread::scope(|scope| {
            for index in 1..count {
                let (cluster, join) = (&cluster, &join);
                scope.spawn(move || cluster.join(index, join));
            }
        });
        cluster
    }

    /// The hosts and their wire.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    /// A host.
    pub fn host(&self, index: usize) -> &Host {
        self.fabric.host(index)
    }

    /// The registry that all hosts pull from.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The node's name of a host.
    pub fn node(&self, index: usize) -> String {
        format!("host-{index}")
    }

    /// Where the server of a host answers, on the wire.
    pub fn server(&self, index: usize) -> SocketAddr {
        SocketAddr::from((self.fabric.address(index), 6443))
    }

    /// `berth` on a host, not yet run.
    pub fn command(&self, index: usize, words: &[&str]) -> Command {
        let host = self.host(index);
        let mut command = host.program("berth");
        command
            .env("BERTH_NODE_CONFIG", host.directory().join("node.toml"))
            .env_remove("KUBECONFIG")
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// Runs `berth` on a host; all it said, however it ended.
    pub fn output(&self, index: usize, words: &[&str]) -> Output {
        output(self.command(index, words))
            .with_context(|| format!("berth {} on host {index}", words.join(" ")))
            .unwrap()
    }

    /// Runs `berth` on a host, which must succeed; what it wrote to standard output.
    pub fn berth(&self, index: usize, words: &[&str]) -> String {
        let output = self.output(index, words);
        assert!(
            output.status.success(),
            "berth {} on host {index}: {}\n{}{}\n{}",
            words.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.log(index),
        );
        text(&output.stdout)
    }

    /// Runs `berth` on a host, which must fail; what it wrote to standard error.
    pub fn berth_fails(&self, index: usize, words: &[&str]) -> String {
        let output = self.output(index, words);
        assert!(
            !output.status.success(),
            "berth {} on host {index} succeeded:\n{}",
            words.join(" "),
            text(&output.stdout)
        );
        text(&output.stderr)
    }

    /// Begins a cluster on a host; the words after `berth` that others join with.
    pub fn init(&self, index: usize, words: &[&str]) -> Vec<String> {
        let node = self.node(index);
        let mut all = vec!["cluster", "init", "--name", &node];
        all.extend(words);
        let said = self.berth(index, &all);
        join_words(&said).unwrap_or_else(|| panic!("no line to join with in:\n{said}"))
    }

    /// Brings a host into the cluster that printed these words.
    pub fn join(&self, index: usize, join: &[String]) {
        let node = self.node(index);
        let mut words: Vec<&str> = join.iter().map(String::as_str).collect();
        words.extend(["--name", &node]);
        self.berth(index, &words);
    }

    /// What a host's node process said.
    pub fn log(&self, index: usize) -> String {
        let path = self.host(index).data_dir().join("node/berth.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(60);
        format!("host {index} said:\n{}", lines[first..].join("\n"))
    }

    /// What all hosts said: for the message of a failure.
    pub fn logs(&self) -> String {
        let all = 0..self.fabric.hosts().len();
        all.map(|index| self.log(index))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The process that is a host's node; none if it does not run.
    pub fn process(&self, index: usize) -> Option<i32> {
        process_in(&self.status(index))
    }

    /// The same, where it must run.
    ///
    /// # Panics
    ///
    /// It does not; the message holds what was told.
    pub fn expect_process(&self, index: usize) -> i32 {
        let status = self.status(index);
        process_in(&status)
            .unwrap_or_else(|| panic!("no process runs: {status:?}\n{}", self.log(index)))
    }

    fn status(&self, index: usize) -> Output {
        self.output(index, &["-o", "json", "cluster", "status"])
    }

    /// Kills a host's node process; its pods live on.
    pub fn kill(&self, index: usize) {
        let pid = self.expect_process(index);
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid is not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let deadline = Instant::now() + stretched(Duration::from_secs(10));
        while self.process(index).is_some() {
            assert!(Instant::now() < deadline, "a killed process lives on");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a host's node process again.
    pub fn restart(&self, index: usize) {
        self.berth(index, &["node", "--detach"]);
    }

    /// The administrator's kubeconfig, as the host has it.
    pub fn kubeconfig(&self, index: usize) -> PathBuf {
        self.host(index).data_dir().join("server/admin.kubeconfig")
    }

    /// Runs kubectl outside of all hosts, as the administrator; what it wrote.
    ///
    /// # Panics
    ///
    /// It fails; the message holds all it wrote.
    pub fn kubectl(&self, words: &[&str]) -> String {
        self.kubectl_with(words, "")
    }

    /// The same with standard input.
    pub fn kubectl_with(&self, words: &[&str], input: &str) -> String {
        let output = self.kubectl_output(words, input).unwrap();
        assert!(
            output.status.success(),
            "kubectl {}: {}\n{}{}\n{}",
            words.join(" "),
            output.status,
            text(&output.stdout),
            text(&output.stderr),
            self.logs(),
        );
        text(&output.stdout)
    }

    /// Runs kubectl outside of all hosts; all it said, however it ended.
    ///
    /// # Errors
    ///
    /// It is not built (`./x test` does that), or does not end.
    pub fn kubectl_output(&self, words: &[&str], input: &str) -> Result<Output> {
        self.kubectl_through(0, words, input)
    }

    /// The same by the server of a host.
    ///
    /// # Errors
    ///
    /// As [`Cluster::kubectl_output`].
    pub fn kubectl_through(&self, index: usize, words: &[&str], input: &str) -> Result<Output> {
        let mut command = self.fabric.outside().command(kubectl_program()?);
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig(index).display()))
            .arg(format!(
                "--cache-dir={}",
                self.fabric.outside().directory().join("kube").display()
            ))
            .args(words)
            .env("HOME", self.fabric.outside().work_dir());
        feed(command, input).with_context(|| format!("kubectl {}", words.join(" ")))
    }

    /// A client of the API as the administrator, of the server on the first host.
    pub fn client(&mut self) -> kube::Client {
        let carrier = Carrier::start(self.host(0).pid(), self.server(0)).unwrap();
        let config = self.config_through(carrier.address);
        self.carriers.push(carrier);
        let _inside = self.runtime.enter();
        kube::Client::try_from(config).unwrap()
    }

    fn config_through(&self, address: SocketAddr) -> kube::Config {
        let mut kubeconfig = Kubeconfig::read_from(self.kubeconfig(0)).unwrap();
        for cluster in &mut kubeconfig.clusters {
            let cluster = cluster.cluster.as_mut().unwrap();
            cluster.server = Some(format!("https://{address}"));
        }
        let options = KubeConfigOptions::default();
        self.runtime
            .block_on(kube::Config::from_custom_kubeconfig(kubeconfig, &options))
            .unwrap()
    }

    /// Runs a future of the client's.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs a future of the client's beside the test.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(work)
    }

    /// Waits until something holds; asks every 100 ms.
    ///
    /// # Panics
    ///
    /// The time is over; the message holds what `is` said last.
    pub fn until(&self, what: &str, limit: Duration, mut is: impl FnMut() -> Result<()>) {
        let deadline = Instant::now() + stretched(limit);
        loop {
            let Err(error) = is() else { return };
            assert!(
                Instant::now() < deadline,
                "{what} within {limit:?}: {error:#}\n{}",
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until a node is, or is not, ready.
    pub fn until_ready(&self, index: usize, wanted: &str, limit: Duration) {
        let node = self.node(index);
        let path = "-o=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.until(&format!("{node} is {wanted}"), limit, || {
            let output = self.kubectl_output(&["get", "node", &node, path], "")?;
            let found = text(&output.stdout);
            ensure!(found == wanted, "{found:?} {}", text(&output.stderr));
            Ok(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Kept by a failed test for the one who looks: what the nodes said.
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for index in 0..self.fabric.hosts().len() {
            let lock = self.host(index).run_dir().join("node.lock");
            let pid = std::fs::read_to_string(lock).unwrap_or_default();
            let pid = pid
                .trim()
                .parse()
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            // The lock's holder is a process of this host: no other has its directory.
            if let Some(pid) = pid
                && is_of(pid, self.host(index).directory())
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn is_of(pid: rustix::process::Pid, directory: &Path) -> bool {
    let path = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let words = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&words).contains(&*directory.to_string_lossy())
}

/// The words after `berth` of the line that init and `token create` print.
pub fn join_words(said: &str) -> Option<Vec<String>> {
    let line = said
        .lines()
        .find(|line| line.trim().starts_with("berth cluster join "))?;
    Some(line.split_whitespace().skip(1).map(str::to_owned).collect())
}

/// The process that `berth cluster status` tells of.
fn process_in(status: &Output) -> Option<i32> {
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).ok()?;
    i32::try_from(status["process"].as_i64()?).ok()
}

/// A command's output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(command: Command) -> Result<Output> {
    feed(command, "")
}

/// Runs a program to its end, which must come within [`LIMIT`].
fn feed(mut command: Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that does not read its input may have ended already.
        let _ = pipe.write_all(input.as_bytes());
    }
    wait(child)
}

fn wait(child: Child) -> Result<Output> {
    let pid = rustix::process::Pid::from_child(&child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    match receiver.recv_timeout(stretched(LIMIT)) {
        Ok(output) => Ok(output?),
        Err(_) => {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            bail!("it did not end within {:?}", stretched(LIMIT));
        }
    }
}

/// The kubectl that `./x test` builds.
fn kubectl_program() -> Result<PathBuf> {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let path = FOUND.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here).join("target/kubelet/kubectl")
    });
    ensure!(
        path.exists(),
        "{} is not built: './x test' does that",
        path.display()
    );
    Ok(path.clone())
}

/// Carries connections from this process's loopback into a host's namespace.
struct Carrier {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Carrier {
    fn start(pid: u32, target: SocketAddr) -> Result<Carrier> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                // A server that is away refuses, and so do we: by closing.
                if let (Ok(near), Ok(far)) = (near, connect_in(pid, target)) {
                    carry(near, far);
                }
            }
        });
        Ok(Carrier { address, ended })
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

fn carry(near: TcpStream, far: TcpStream) {
    for (mut from, mut to) in [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))]
        .into_iter()
        .filter_map(|(from, to)| from.ok().zip(to.ok()))
    {
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}
