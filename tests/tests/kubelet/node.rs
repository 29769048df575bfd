//! A machine with a registry, `berth cri` and a kubelet.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_cri::v1;
use berth_cri::v1::image_service_client::ImageServiceClient;
use berth_cri::v1::runtime_service_client::RuntimeServiceClient;
use berth_tests::host::Host;
use berth_tests::http;
use berth_tests::image::layer::Entry;
use berth_tests::image::{self, LayerPlan, busybox, examples};
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

/// Long enough for a pod on a machine with other things to do.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// The kubelet's name for the machine; it ends the names of static pods.
const NAME: &str = "node";
/// An address that the kubelet takes for the machine's.
const ADDRESS: &str = "192.0.2.1";
const READ_ONLY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10255);
/// Images of the machine's registry.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.37";
pub const NGINX: &str = "docker.io/library/nginx:1.29";
pub const PEER: &str = "docker.io/library/peer:1";
/// What the kubelet sets on a machine that it has to itself, and finds set here.
const TUNABLES: [(&str, &str); 3] = [
    ("vm/overcommit_memory", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
];

/// A machine that a kubelet keeps.
pub struct Node {
    pub machine: Machine,
    server: Child,
    kubelet: Child,
    groups: Vec<PathBuf>,
}

/// Runs a test on a node, or says that there is no kubelet.
///
/// `settings` are over those of [`configuration`].
pub fn run(settings: Value, test: impl FnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if is_missing() {
        return Ok(());
    }
    let mut node = Node::start(settings)?;
    let outcome = test(&mut node).and_then(|()| node.end());
    outcome.map_err(|error| error.context(node.told()))
}

/// Whether there is no kubelet; then it says so.
pub fn is_missing() -> bool {
    let programs = [program("kubelet"), program("peer")];
    let missing = programs.iter().find(|path| !path.exists());
    if let Some(missing) = missing {
        println!(
            "NOT RUN: {} is missing; ./x kubelet builds it",
            missing.display()
        );
        eprintln!(
            "NOT RUN: {} is missing; ./x kubelet builds it",
            missing.display()
        );
    }
    missing.is_some()
}

/// `kubelet` and `peer`, where `./x kubelet` puts them.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("BERTH_KUBELET").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubelet"),
        PathBuf::from,
    );
    folder.join(name)
}

impl Node {
    fn start(settings: Value) -> Result<Node> {
        let machine = Machine::with_images(|registry| {
            examples::push_all(registry)?;
            registry.push(&image::build(&peer_image()?)?, "library/peer", "1")?;
            Ok(registry.mirror_configuration())
        })?;
        prepare(machine.host())?;
        let groups = create_groups(machine.host())?;
        for folder in ["manifests", "pod-logs", "pki", "shared"] {
            fs::create_dir(machine.host().directory().join(folder))?;
        }
        let config = serde_json::to_vec_pretty(&configuration(machine.host(), settings)?)?;
        fs::write(machine.host().directory().join("kubelet.json"), config)?;
        let server = start_server(machine.host())?;
        wait_for_socket(machine.host())?;
        let kubelet = start_kubelet(machine.host())?;
        let node = Node {
            machine,
            server,
            kubelet,
            groups,
        };
        node.until("the kubelet is healthy", || {
            let answer = node.machine.host().get(READ_ONLY, "/healthz");
            Ok(answer.is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(node)
    }

    /// A folder of the machine that pods may mount, for what they have to say.
    pub fn shared(&self) -> PathBuf {
        self.machine.host().directory().join("shared")
    }

    /// Gives the kubelet a static pod; one of that name is replaced.
    pub fn put(&self, name: &str, spec: Value) -> Result<()> {
        self.put_pod(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }))
    }

    /// The same with metadata of its own.
    pub fn put_pod(&self, mut pod: Value) -> Result<()> {
        let name = pod["metadata"]["name"].as_str().context("name")?.to_owned();
        let defaults = json!({"automountServiceAccountToken": false, "enableServiceLinks": false});
        overlay(&mut pod["spec"], &defaults);
        let directory = self.machine.host().directory();
        let draft = directory.join("draft.json");
        fs::write(&draft, serde_json::to_vec_pretty(&pod)?)?;
        // Whole at once: the kubelet reads whatever is there.
        fs::rename(
            draft,
            directory.join("manifests").join(format!("{name}.json")),
        )?;
        Ok(())
    }

    /// Takes a static pod away from the kubelet.
    pub fn take(&self, name: &str) -> Result<()> {
        let manifests = self.machine.host().directory().join("manifests");
        Ok(fs::remove_file(manifests.join(format!("{name}.json")))?)
    }

    /// All pods as the kubelet tells of them.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let answer = self.machine.host().get(READ_ONLY, "/pods")?;
        let list: Value = serde_json::from_slice(&answer.body)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// One pod, `Null` while the kubelet does not know it.
    pub fn pod(&self, name: &str) -> Result<Value> {
        let full = full_name(name);
        let found = self.pods()?.into_iter();
        let mut found = found.filter(|pod| pod["metadata"]["name"] == full.as_str());
        Ok(found.next().unwrap_or(Value::Null))
    }

    /// Waits until a pod is as wanted; the pod.
    pub fn pod_until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            let pod = self.pod(name)?;
            if wanted(&pod) {
                return Ok(pod);
            }
            ensure!(
                Instant::now() < deadline,
                "pod {name}: waited in vain until {what}: {:#}",
                pod["status"]
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn ready(&self, name: &str) -> Result<Value> {
        self.pod_until(name, "it is ready", is_ready)
    }

    /// Waits until a pod's containers have all ended for good.
    pub fn over(&self, name: &str) -> Result<Value> {
        self.pod_until(name, "it is over", |pod| {
            matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            )
        })
    }

    /// Waits until the kubelet has ended a pod whose manifest was taken away; it
    /// tells of it no more from that moment on.
    pub fn gone(&self, name: &str) -> Result<()> {
        let full = full_name(name);
        let ready = v1::PodSandboxState::SandboxReady as i32;
        self.until("the pod has ended", || {
            let pods = self.sandboxes()?;
            let named = |pod: &&v1::PodSandbox| {
                pod.metadata
                    .as_ref()
                    .is_some_and(|metadata| metadata.name == full)
            };
            Ok(pods.iter().filter(named).all(|pod| pod.state != ready))
        })
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + stretched(PATIENCE);
        while !holds()? {
            ensure!(Instant::now() < deadline, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// `GET` on the kubelet's port without authentication.
    pub fn get(&self, target: &str) -> Result<http::Response> {
        self.machine.host().get(READ_ONLY, target)
    }

    /// `GET` on the kubelet's port with TLS.
    pub fn get_secure(&self, target: &str) -> Result<String> {
        let url = format!("https://127.0.0.1:10250{target}");
        let output = self
            .machine
            .host()
            .command("curl")
            .args(["-sSk", "--fail-with-body", "-m", "20", &url])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "GET {target}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    pub fn log(&self, pod: &str, container: &str) -> Result<String> {
        self.get_secure(&format!(
            "/containerLogs/default/{}/{container}",
            full_name(pod)
        ))
    }

    /// A command in a container, through the kubelet; what it wrote.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        let url = exec_url(pod, container, command, "output=1&error=1");
        let output = self.peer(&["exec", "spdy", &url])?.output()?;
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(
            output.status.success(),
            "exec {command:?} in {pod}: {}: {}{}",
            output.status,
            told(&output.stdout),
            told(&output.stderr)
        );
        Ok(told(&output.stdout))
    }

    pub fn sh(&self, pod: &str, container: &str, script: &str) -> Result<String> {
        self.exec(pod, container, &["sh", "-c", script])
    }

    /// The client of the kubelet's streams, in the machine.
    pub fn peer(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.machine.host().command(program("peer"));
        command.args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// The sandboxes that berth has, whoever made them.
    pub fn sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        self.ask(async |channel| {
            let request = v1::ListPodSandboxRequest::default();
            let mut client = RuntimeServiceClient::new(channel);
            Ok(client.list_pod_sandbox(request).await?.into_inner().items)
        })
    }

    /// The containers that berth has, those that have ended too.
    pub fn containers(&self) -> Result<Vec<v1::Container>> {
        self.ask(async |channel| {
            let request = v1::ListContainersRequest::default();
            let mut client = RuntimeServiceClient::new(channel);
            Ok(client
                .list_containers(request)
                .await?
                .into_inner()
                .containers)
        })
    }

    /// Names of the images that berth has.
    pub fn images(&self) -> Result<Vec<String>> {
        self.ask(async |channel| {
            let request = v1::ListImagesRequest::default();
            let mut client = ImageServiceClient::new(channel);
            let images = client.list_images(request).await?.into_inner().images;
            Ok(images
                .into_iter()
                .flat_map(|image| image.repo_tags)
                .collect())
        })
    }

    fn remove_sandbox(&self, id: String) -> Result<()> {
        self.ask(async |channel| {
            let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
            let mut client = RuntimeServiceClient::new(channel);
            client.remove_pod_sandbox(request).await?;
            Ok(())
        })
    }

    /// One call on a connection of its own, which ends with it.
    fn ask<T>(&self, call: impl AsyncFnOnce(Channel) -> Result<T>) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let address = format!("unix:{}", socket(self.machine.host()).display());
        runtime.block_on(async {
            let endpoint = Endpoint::from_shared(address)?.timeout(stretched(PATIENCE));
            call(endpoint.connect().await?).await
        })
    }

    /// The server is killed and another one started.
    pub fn kill_server(&mut self) -> Result<()> {
        self.server.kill()?;
        self.server.wait()?;
        self.server = start_server(self.machine.host())?;
        Ok(())
    }

    /// The kubelet is killed and another one started.
    pub fn kill_kubelet(&mut self) -> Result<()> {
        self.kubelet.kill()?;
        self.kubelet.wait()?;
        self.kubelet = start_kubelet(self.machine.host())?;
        Ok(())
    }

    /// Takes all pods away, waits until the kubelet has ended them, ends both
    /// programs, and looks for what is left.
    fn end(&mut self) -> Result<()> {
        for entry in fs::read_dir(self.machine.host().directory().join("manifests"))? {
            fs::remove_file(entry?.path())?;
        }
        self.until("no sandbox is ready", || {
            let ready = v1::PodSandboxState::SandboxReady as i32;
            Ok(self.sandboxes()?.iter().all(|pod| pod.state != ready))
        })?;
        // Volumes and groups of pods are the kubelet's to remove.
        let volumes = self.machine.host().directory().join("kubelet/pods");
        self.until("the kubelet has cleared away its pods", || {
            Ok(fs::read_dir(&volumes)?.next().is_none() && pod_groups(&self.groups)?.is_empty())
        })
        .with_context(|| format!("{:?}", pod_groups(&self.groups)))?;
        end_in_order(&mut self.kubelet).context("the kubelet")?;
        // The kubelet removes those that have ended once a minute.
        for pod in self.sandboxes()? {
            self.remove_sandbox(pod.id)?;
        }
        end_in_order(&mut self.server).context("the server")?;
        remove_groups(&self.groups);
        self.unprepare()?;
        self.machine.assert_clean()
    }

    fn unprepare(&self) -> Result<()> {
        sh(self.machine.host(), "ip link del node0")?;
        uncover(self.machine.host())
    }

    fn told(&self) -> String {
        let mut text = String::new();
        for name in ["server.log", "kubelet.log"] {
            let log = fs::read(self.machine.host().directory().join(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with('I')).collect();
            let last = &lines[lines.len().saturating_sub(25)..];
            text += &format!("== the end of {name}\n{}\n", last.join("\n"));
        }
        text
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both have ended in every test that went well.
        for child in [&mut self.kubelet, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
        remove_groups(&self.groups);
    }
}

/// The name that the kubelet gives a static pod.
pub fn full_name(pod: &str) -> String {
    format!("{pod}-{NAME}")
}

/// Where a command is run in a container.
pub fn exec_url(pod: &str, container: &str, command: &[&str], options: &str) -> String {
    let words: Vec<String> = command
        .iter()
        .map(|word| format!("command={}", escape(word)))
        .collect();
    format!(
        "https://127.0.0.1:10250/exec/default/{}/{container}?{}&{options}",
        full_name(pod),
        words.join("&")
    )
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// What the kubelet says of a container, of whatever kind.
pub fn container_status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .find(|status| status["name"] == container)
        .unwrap_or(&Value::Null)
}

/// A container that runs a shell script.
pub fn shell(name: &str, script: &str) -> Value {
    json!({
        "name": name,
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    })
}

/// A container with more fields.
pub fn shell_with(name: &str, script: &str, more: Value) -> Value {
    let mut container = shell(name, script);
    if let (Some(fields), Value::Object(more)) = (container.as_object_mut(), more) {
        fields.extend(more);
    }
    container
}

/// Adds fields that are not there.
fn overlay(value: &mut Value, defaults: &Value) {
    if let (Some(fields), Some(defaults)) = (value.as_object_mut(), defaults.as_object()) {
        for (name, default) in defaults {
            fields.entry(name).or_insert_with(|| default.clone());
        }
    }
}

/// The configuration that docs/cri.md tells of, with what a test needs: pods from
/// files, all below the test's own directory and group, short intervals.
pub fn configuration(host: &Host, settings: Value) -> Result<Value> {
    let below = |name: &str| host.directory().join(name).display().to_string();
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", socket(host).display()),
        "failCgroupV1": false,
        "failSwapOn": false,
        // Without CAP_SYS_RESOURCE nobody becomes less likely to be killed.
        "oomScoreAdj": 0,
        "cgroupRoot": group(host),
        "enforceNodeAllocatable": [],
        "address": "127.0.0.1",
        "readOnlyPort": READ_ONLY.port(),
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "staticPodPath": below("manifests"),
        "podLogsDir": below("pod-logs"),
        "volumePluginDir": below("plugins"),
        "resolvConf": "",
        "makeIPTablesUtilChains": false,
        "fileCheckFrequency": "1s",
        "syncFrequency": "2s",
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        "evictionHard": {"nodefs.available": "1Mi", "memory.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "contentType": "application/json",
    });
    let Value::Object(settings) = settings else {
        bail!("settings: expected an object");
    };
    config
        .as_object_mut()
        .context("an object")?
        .extend(settings);
    Ok(config)
}

pub fn socket(host: &Host) -> PathBuf {
    host.work_dir().join("cri.sock")
}

/// The kubelet's root of groups; berth's own stand beside it.
fn group(host: &Host) -> String {
    format!("{}/kubelet", host.cgroup_parent())
}

pub fn start_server(host: &Host) -> Result<Child> {
    let mut command = host.program("berth");
    command.args(["cri", "--socket"]).arg(socket(host));
    let config = host.directory().join("cri.toml");
    if config.exists() {
        command.arg("--config").arg(config);
    }
    spawn(&mut command, host, "server.log")
}

fn start_kubelet(host: &Host) -> Result<Child> {
    let mut command = kubelet(host);
    command
        .arg(format!("--hostname-override={NAME}"))
        .arg(format!("--node-ip={ADDRESS}"));
    spawn(&mut command, host, "kubelet.log")
}

/// Where a test may stand in for logind.
pub fn bus(host: &Host) -> PathBuf {
    host.directory().join("bus")
}

/// A kubelet with the configuration in `kubelet.json`, not yet run.
///
/// It sets kernel parameters of the machine, so it sees a `/proc/sys` of its own, in which
/// they are set. The server does not: where a file of `/proc` is covered, the kernel lets
/// no user namespace mount another `/proc`.
pub fn kubelet(host: &Host) -> Command {
    let directory = host.directory();
    let names: Vec<&str> = TUNABLES.iter().map(|(name, _)| *name).collect();
    let script = format!(
        "mount --make-rprivate /proc
         for file in {}; do mount --bind {}/$file /proc/sys/$file; done
         exec \"$@\"",
        names.join(" "),
        directory.join("tunables").display()
    );
    let mut command = host.command("unshare");
    command
        .args(["--mount", "--propagation", "unchanged", "sh", "-ec"])
        .args([&script, "sh"])
        .arg(program("kubelet"))
        .env(
            "DBUS_SYSTEM_BUS_ADDRESS",
            format!("unix:path={}", bus(host).display()),
        )
        .arg(format!(
            "--config={}",
            directory.join("kubelet.json").display()
        ))
        .arg(format!(
            "--root-dir={}",
            directory.join("kubelet").display()
        ))
        .arg(format!("--cert-dir={}", directory.join("pki").display()))
        .arg("--v=3");
    command
}

pub fn spawn(command: &mut Command, host: &Host, log: &str) -> Result<Child> {
    let path = host.directory().join(log);
    let file = File::options().create(true).append(true).open(path)?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("run what writes {log}"))
}

pub fn wait_for_socket(host: &Host) -> Result<()> {
    let deadline = Instant::now() + stretched(PATIENCE);
    while std::os::unix::net::UnixStream::connect(socket(host)).is_err() {
        ensure!(Instant::now() < deadline, "berth cri did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub fn end_in_order(child: &mut Child) -> Result<()> {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    let status = child.wait()?;
    ensure!(status.success(), "ended with {status}");
    Ok(())
}

/// What the kubelet wants of a machine, inside the test's namespaces: an address
/// that is not the loopback's, its folder in /var/lib, and kernel parameters.
fn prepare(host: &Host) -> Result<()> {
    let script = format!(
        "ip link add node0 type veth peer name node1
         ip link set node1 up
         ip address add {ADDRESS}/24 dev node0
         ip link set node0 up
         ip route add default via 192.0.2.254"
    );
    sh(host, &script)?;
    cover(host, Disk::Shared)
}

/// Where the kubelet keeps its pods' volumes.
#[derive(Debug, Clone, Copy)]
pub enum Disk {
    /// With everything else of the test.
    Shared,
    /// On one of its own, of so many MiB, which can be short without harm.
    OfMib(u32),
}

/// Makes the kubelet's folders mounts that it shares with the server, and writes what its
/// own `/proc/sys` shall have ([`kubelet`]).
pub fn cover(host: &Host, disk: Disk) -> Result<()> {
    let folder = host.directory().join("tunables");
    for (name, value) in TUNABLES {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().context("a folder")?)?;
        fs::write(path, format!("{value}\n"))?;
    }
    let volumes = host.directory().join("kubelet");
    fs::create_dir(&volumes)?;
    let volumes = volumes.display();
    let mount = match disk {
        Disk::Shared => format!("mount --bind {volumes} {volumes}"),
        Disk::OfMib(size) => format!("mount -t tmpfs -o size={size}m kubelet {volumes}"),
    };
    let script = format!(
        "mkdir -p /var/lib/kubelet
         mount -t tmpfs kubelet /var/lib/kubelet
         mount --make-shared /var/lib/kubelet
         {mount}
         mount --make-shared {volumes}"
    );
    sh(host, &script)
}

/// Undoes [`cover`].
pub fn uncover(host: &Host) -> Result<()> {
    let volumes = host.directory().join("kubelet");
    let script = format!("umount /var/lib/kubelet; umount {}", volumes.display());
    sh(host, &script)
}

pub fn sh(host: &Host, script: &str) -> Result<()> {
    let output: Output = host.command("sh").args(["-ec", script]).output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Makes the kubelet's root of groups in each hierarchy: it wants to find it.
pub fn create_groups(host: &Host) -> Result<Vec<PathBuf>> {
    let name = group(host);
    let mut made = Vec::new();
    for entry in fs::read_dir("/sys/fs/cgroup")? {
        let hierarchy = entry?.path();
        // A link, as cpu to cpu,cpuacct, is met under its own name.
        if hierarchy.is_symlink() || !hierarchy.join("cgroup.procs").exists() {
            continue;
        }
        let group = hierarchy.join(name.trim_start_matches('/'));
        fs::create_dir_all(&group)?;
        // Version 1 gives a new group no processor and no memory.
        for parent in [group.parent(), Some(group.as_path())]
            .into_iter()
            .flatten()
        {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if parent.join(file).exists() {
                    fs::write(parent.join(file), fs::read(hierarchy.join(file))?)?;
                }
            }
        }
        made.push(group);
    }
    Ok(made)
}

/// Groups of pods that the kubelet has not removed.
fn pod_groups(groups: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for group in groups {
        for path in below(group) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with("pod") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// The groups of one hierarchy below a group, deepest first.
pub fn below(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(group) else {
        return found;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

pub fn remove_groups(groups: &[PathBuf]) {
    for group in groups {
        for path in below(group) {
            let _ = fs::remove_dir(path);
        }
        let _ = fs::remove_dir(group);
        let _ = group.parent().map(fs::remove_dir);
    }
}

/// The program that is probed by gRPC, over busybox's files.
fn peer_image() -> Result<image::ImagePlan> {
    let mut layer = LayerPlan::default();
    layer
        .entries
        .push(Entry::file("peer", 0o755, fs::read(program("peer"))?));
    let mut plan = busybox::plan()?;
    plan.layers.push(layer);
    Ok(plan)
}
