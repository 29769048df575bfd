//! A cluster of two hosts: how soon a pod runs on the second, and what the parts
//! of a node that has nothing to do take.

use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::fabric::{Fabric, OUTSIDE};
use berth_tests::image::examples;
use berth_tests::registry::{Access, Registry};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use crate::measure::{Times, rounds};
use crate::pod::berth;
use crate::report::Section;

const ROUNDS: usize = 5;
/// No step takes longer.
const LIMIT: Duration = Duration::from_secs(120);
/// Until what the start needed has been given back.
const SETTLE: Duration = Duration::from_secs(30);
/// The parts of a node, in the order in which they are started.
const PARTS: [&str; 4] = ["server", "netd", "cri", "agent"];

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "first"}, "spec": {
    "nodeName": "host-1", "containers": [{"name": "main",
    "image": "docker.io/library/busybox:1.37", "command": ["sleep", "1000"]}]}}"#;

/// Measures both.
///
/// # Errors
///
/// A host cannot be made, or a cluster does not begin.
pub fn run(section: &mut Section) -> Result<()> {
    let mut found = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds(ROUNDS) {
        let cluster = Cluster::begin()?;
        for (all, one) in found.iter_mut().zip(cluster.took) {
            all.push(one);
        }
    }
    let [ready, joined, runs] = found;
    let whole = "init, join, and a pod runs on the second host";
    section.table(
        "From `berth cluster init` on, on two hosts; the pod's image comes from a registry on the wire",
        &[
            Times::of("init: the first node is ready", ready),
            Times::of("init and join: the second is ready too", joined),
            Times::of(whole, runs),
        ],
        whole,
    );
    memory(section)
}

/// Two hosts of a cluster, with a pod on the second.
struct Cluster {
    fabric: Fabric,
    _registry: Registry,
    /// Until the first node was ready, until the second was, until the pod ran.
    took: [Duration; 3],
}

impl Cluster {
    fn begin() -> Result<Cluster> {
        let fabric = Fabric::new(2)?;
        let address = SocketAddr::from((OUTSIDE, 5000));
        let registry = Registry::start_at(fabric.outside(), address, Access::Open)?;
        examples::push_all(&registry)?;
        for host in fabric.hosts() {
            host.write_registries(&registry.mirror_configuration())?;
        }
        let mut cluster = Cluster {
            fabric,
            _registry: registry,
            took: [Duration::ZERO; 3],
        };
        cluster.time()?;
        Ok(cluster)
    }

    fn time(&mut self) -> Result<()> {
        let manifest = self.fabric.host(0).work_dir().join("pod.json");
        fs::write(&manifest, POD)?;
        let begun = Instant::now();
        let said = self.berth(0, &["cluster", "init", "--name", "host-0"])?;
        self.took[0] = begun.elapsed();
        let line = said
            .lines()
            .find_map(|line| line.trim().strip_prefix("berth "));
        let mut words: Vec<&str> = line.context("init says how to join")?.split(' ').collect();
        words.extend(["--name", "host-1"]);
        self.berth(1, &words)?;
        self.took[1] = begun.elapsed();
        self.berth(0, &["apply", "-f", &manifest.display().to_string()])?;
        loop {
            let pod = self.berth(0, &["-o", "json", "get", "pod", "first"])?;
            let pod: Value = serde_json::from_str(&pod)?;
            if pod["status"]["phase"] == "Running" {
                break;
            }
            ensure!(begun.elapsed() < LIMIT, "the pod does not run: {pod}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.took[2] = begun.elapsed();
        Ok(())
    }

    fn command(&self, index: usize, words: &[&str]) -> Command {
        let host = self.fabric.host(index);
        let mut command = host.command(berth());
        command
            .env("BERTH_NODE_CONFIG", host.directory().join("node.toml"))
            .env_remove("KUBECONFIG")
            .args(words)
            .stdin(Stdio::null());
        command
    }

    fn berth(&self, index: usize, words: &[&str]) -> Result<String> {
        let output = self.command(index, words).output()?;
        ensure!(
            output.status.success(),
            "berth {} on host {index}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    fn node_process(&self, index: usize) -> Result<u32> {
        let status = self.berth(index, &["-o", "json", "cluster", "status"])?;
        let status: Value = serde_json::from_str(&status)?;
        let pid = status["process"].as_u64().context("the node runs")?;
        Ok(u32::try_from(pid)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The hosts' namespaces go with the fabric; the processes in them go here.
        for index in 0..self.fabric.hosts().len() {
            if let Ok(pid) = self.node_process(index) {
                let _ = end(pid);
            }
        }
    }
}

/// Ends a process that is no child of ours.
fn end(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)?;
    let process = Pid::from_raw(pid).context("a pid is not 0")?;
    // Readable when the last thread has gone, and with it the sockets that all share.
    let watched = pidfd_open(process, PidfdFlags::empty())?;
    kill_process(process, Signal::KILL)?;
    let limit = Timespec {
        tv_sec: LIMIT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut watched = [PollFd::new(&watched, PollFlags::IN)];
    ensure!(
        poll(&mut watched, Some(&limit))? == 1,
        "process {pid} stays"
    );
    Ok(())
}

fn memory(section: &mut Section) -> Result<()> {
    let cluster = Cluster::begin()?;
    std::thread::sleep(SETTLE);
    let mut rows = Vec::new();
    for (index, name) in [
        (0, "the first host's node, one process"),
        (1, "the second's"),
    ] {
        rows.push(row(name, cluster.node_process(index)?)?);
    }
    // The same host with each part as a process of its own.
    end(cluster.node_process(0)?)?;
    let mut parts = Parts(Vec::new());
    for part in PARTS {
        let log = cluster.fabric.host(0).work_dir().join(part);
        let log = fs::File::create(log)?;
        let child = cluster
            .command(0, &[part])
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting berth {part}"))?;
        parts.0.push(child);
    }
    std::thread::sleep(SETTLE);
    for (part, child) in PARTS.iter().zip(&mut parts.0) {
        if let Some(status) = child.try_wait()? {
            let log = cluster.fabric.host(0).work_dir().join(part);
            bail!("berth {part} ended: {status}: {}", fs::read_to_string(log)?);
        }
        rows.push(row(&format!("`berth {part}` alone"), inside(child.id())?)?);
    }
    section.rows(
        "Memory of a cluster of two nodes with one pod and nothing to do",
        &["resident", "of that its own (not from the program's file)"],
        rows,
    );
    Ok(())
}

/// Processes that go with the value.
struct Parts(Vec<Child>);

impl Drop for Parts {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program itself, below whatever brought it into the host's namespaces.
fn inside(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm"))?;
    match (name.trim(), children.split_whitespace().next()) {
        (name, _) if name.starts_with("berth") => Ok(pid),
        (_, Some(child)) => Ok(child.parse()?),
        (name, None) => bail!("process {pid} is {name}, without a child"),
    }
}

/// A process's resident memory, and what of it is not mapped from files.
fn row(name: &str, pid: u32) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let figure = |field: &str| -> Result<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        let figure = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: f64 = figure.with_context(|| format!("no {field}"))?.parse()?;
        Ok(format!("{:.1} MiB", kibibytes / 1024.0))
    };
    Ok(vec![
        name.to_owned(),
        figure("VmRSS:")?,
        figure("RssAnon:")?,
    ])
}
