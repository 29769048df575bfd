//! A machine with a registry, a runtime, the API's server and an agent.

use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::host::connect_in;
use berth_tests::image::{self, examples};
use berth_tests::machine::{Machine, Running};
use berth_tests::patience::stretched;
use berth_tests::registry::{Access, Registry};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{AttachParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::containerd::Containerd;

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The agent's node.
pub const NODE: &str = "n1";
/// The image of the machine's registry.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// What a test's machine is to be.
#[derive(Default)]
pub struct Setup {
    /// Repositories, tags and plans of images that the registry has beside the examples'.
    pub images: Vec<(&'static str, &'static str, image::ImagePlan)>,
    /// Settings of the agent, `NAME=NUMBER`.
    pub agent: Vec<&'static str>,
    /// What runs the containers.
    pub runtime: Engine,
    /// Whether the server runs the cluster's control loops.
    pub controllers: bool,
    /// Whether there is a second registry, which wants a password.
    pub private: bool,
    /// Directories of the machine that are small file systems of their own, in MiB.
    pub disks: Vec<(&'static str, u32)>,
}

/// What runs containers.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `berth cri`.
    #[default]
    Berth,
    /// Debian's containerd.
    Containerd,
}

/// The process that answers the CRI.
enum Runtime {
    Berth(Running),
    Containerd(Containerd),
}

/// A node, and its server.
pub struct World {
    // Dropped in this order: registry and runtime live inside the machine.
    private: Option<Registry>,
    runtime: Runtime,
    server: Option<Child>,
    agent: Option<Child>,
    setup: Setup,
    pub machine: Machine,
    address: SocketAddr,
    client: Client,
}

/// Runs a test on a node and asserts that nothing is left of it.
pub fn run<F>(test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    run_with(Setup::default(), test)
}

/// The same on a node of another kind.
pub fn run_with<F>(setup: Setup, test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut world = World::new(setup)?;
        world.ready().await?;
        let world = test(world).await?;
        world.end().await
    })
}

impl World {
    fn new(setup: Setup) -> Result<World> {
        let machine = Machine::with_images(|registry| {
            examples::push_all(registry)?;
            for (repository, tag, plan) in &setup.images {
                registry.push(&image::build(plan)?, repository, tag)?;
            }
            Ok(registry.mirror_configuration())
        })?;
        for folder in ["cluster", "agent"] {
            std::fs::create_dir_all(machine.host().directory().join(folder))?;
        }
        for (folder, mebibytes) in &setup.disks {
            let place = machine.host().directory().join(folder);
            let size = format!("size={mebibytes}m");
            succeed(
                machine
                    .host()
                    .command("mount")
                    .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                    .arg(place),
            )?;
        }
        let private = match setup.private {
            true => Some(begin_private(&machine)?),
            false => None,
        };
        let socket = machine.host().work_dir().join("cri.sock");
        let runtime = match setup.runtime {
            Engine::Berth => {
                let words = ["cri", "--socket", &socket.display().to_string()];
                Runtime::Berth(machine.start(&words)?)
            }
            Engine::Containerd => Runtime::Containerd(Containerd::start(&machine, &socket)?),
        };
        let address = SocketAddr::new([127, 0, 0, 1].into(), machine.host().free_port()?);
        let client = client(machine.host().pid(), address);
        let mut world = World {
            private,
            runtime,
            server: None,
            agent: None,
            setup,
            machine,
            address,
            client,
        };
        world.start_server()?;
        world.start_agent()?;
        Ok(world)
    }

    pub fn start_server(&mut self) -> Result<()> {
        let directory = self.machine.host().directory().join("cluster");
        let directory = directory.display().to_string();
        let address = self.address.to_string();
        let mut words = vec!["server", &directory, &address];
        words.extend(self.setup.controllers.then_some("controllers"));
        self.server = Some(self.spawn(&words)?);
        Ok(())
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let host = self.machine.host();
        let directory = host.directory().display().to_string();
        let socket = host.work_dir().join("cri.sock").display().to_string();
        let server = self.address.to_string();
        let mut words = vec!["agent", NODE, &server, &socket, &directory];
        words.extend(&self.setup.agent);
        self.agent = Some(self.spawn(&words)?);
        Ok(())
    }

    /// Starts a part, and waits until it says that it is ready.
    fn spawn(&self, words: &[&str]) -> Result<Child> {
        let log = self
            .machine
            .host()
            .directory()
            .join(format!("{}.log", words[0]));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)?;
        let mut command = self.machine.host().program("berth-part");
        let mut child = command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let mut said = [0; 6];
        let out = child.stdout.as_mut().context("a pipe")?;
        if out.read_exact(&mut said).is_err() {
            bail!("berth-part {} did not begin: {}", words[0], self.told());
        }
        Ok(child)
    }

    /// What server and agent said.
    fn told(&self) -> String {
        let log = |name: &str| {
            let path = self.machine.host().directory().join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        format!(
            "server:\n{}\nagent:\n{}",
            log("server.log"),
            log("agent.log")
        )
    }

    pub fn kill_server(&mut self) -> Result<()> {
        kill(&mut self.server)
    }

    pub fn kill_agent(&mut self) -> Result<()> {
        kill(&mut self.agent)
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().map_or(0, Child::id)
    }

    /// The registry that wants a password.
    pub fn private(&self) -> Result<&Registry> {
        self.private
            .as_ref()
            .context("the setup has no private registry")
    }

    /// Debian's containerd, where it runs the containers.
    pub fn containerd(&mut self) -> Result<&mut Containerd> {
        match &mut self.runtime {
            Runtime::Containerd(containerd) => Ok(containerd),
            Runtime::Berth(_) => bail!("the runtime is not containerd"),
        }
    }

    /// Starts a containerd that was killed.
    pub fn start_containerd_again(&mut self) -> Result<()> {
        match &mut self.runtime {
            Runtime::Containerd(containerd) => containerd.start_again(&self.machine),
            Runtime::Berth(_) => bail!("the runtime is not containerd"),
        }
    }

    /// A folder of the machine that pods may mount.
    pub fn shared(&self) -> Result<PathBuf> {
        let folder = self.machine.host().directory().join("shared");
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    async fn ready(&mut self) -> Result<()> {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client.clone());
        self.eventually("the node is ready", async || {
            let node = nodes.get_opt(NODE).await.ok()??;
            let conditions = node.status?.conditions?;
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
                .then_some(())
        })
        .await
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Binds a pod with one container that runs a script.
    pub async fn run_script(&self, name: &str, script: &str) -> Result<Pod> {
        self.bind(
            name,
            json!({"containers": [{"name": "main", "image": IMAGE,
            "command": ["sh", "-c", script]}]}),
        )
        .await
    }

    pub async fn bind(&self, name: &str, spec: Value) -> Result<Pod> {
        let mut spec = spec;
        spec["nodeName"] = json!(NODE);
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(2);
        }
        let pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": spec}))?;
        Ok(self.pods().create(&PostParams::default(), &pod).await?)
    }

    pub async fn until_phase(&self, name: &str, phase: &str) -> Result<Pod> {
        let pods = self.pods();
        let what = format!("pod {name} is {phase}");
        self.eventually(&what, async || {
            let pod = pods.get_opt(name).await.ok()??;
            let found = pod.status.as_ref()?.phase.clone()?;
            (found == phase).then_some(pod)
        })
        .await
    }

    pub async fn until_deleted(&self, name: &str) -> Result<()> {
        let pods = self.pods();
        self.eventually(&format!("pod {name} is gone"), async || {
            pods.get_opt(name).await.ok()?.is_none().then_some(())
        })
        .await
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.pods().delete(name, &Default::default()).await {
            // Whoever owned it was faster.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            other => drop(other?),
        }
        self.until_deleted(name).await
    }

    pub async fn logs(&self, name: &str, options: LogParams) -> Result<String> {
        Ok(self.pods().logs(name, &options).await?)
    }

    /// Waits until a pod's log holds a text.
    pub async fn until_log(&self, name: &str, text: &str) -> Result<String> {
        self.eventually(&format!("{name} says {text:?}"), async || {
            let log = self.logs(name, LogParams::default()).await.ok()?;
            log.contains(text).then_some(log)
        })
        .await
    }

    /// Runs a command in a pod, through the server and the agent.
    pub async fn exec(&self, name: &str, words: &[&str]) -> Result<String> {
        use tokio::io::AsyncReadExt;
        let parameters = AttachParams::default().stdout(true).stderr(false);
        let pods = self.pods();
        let running = pods.exec(name, words.iter().copied(), &parameters);
        let mut process = tokio::time::timeout(stretched(PATIENCE), running).await??;
        let mut out = String::new();
        let mut stdout = process.stdout().context("a standard output")?;
        tokio::time::timeout(stretched(PATIENCE), stdout.read_to_string(&mut out)).await??;
        Ok(out)
    }

    pub async fn put_config_map(&self, name: &str, value: &str) -> Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "default");
        let map: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": name}, "data": {"key": value}}))?;
        if api.get_opt(name).await?.is_some() {
            let patch = Patch::Merge(&map);
            api.patch(name, &PatchParams::default(), &patch).await?;
        } else {
            api.create(&PostParams::default(), &map).await?;
        }
        Ok(())
    }

    /// Waits until an event of a pod's has this reason.
    pub async fn until_event(&self, name: &str, reason: &str) -> Result<()> {
        self.eventually(&format!("event {reason} of pod {name}"), async || {
            let reasons = self.reasons(name).await.ok()?;
            reasons.iter().any(|known| known == reason).then_some(())
        })
        .await
    }

    /// The reasons of a pod's events.
    async fn reasons(&self, name: &str) -> Result<Vec<String>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = api.list(&ListParams::default()).await?;
        Ok(events
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name))
            .filter_map(|event| event.reason)
            .collect())
    }

    /// kubectl with arguments, on the machine; whatever goes wrong, it ends.
    pub fn kubectl(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.machine.host().command("timeout");
        command
            .args(["--foreground", "--kill-after=10", "120"])
            .arg(kubectl_program()?);
        command.args(["--server", &format!("http://{}", self.address)]);
        command.args(words).env_remove("KUBECONFIG");
        command.env("HOME", self.machine.host().work_dir());
        Ok(command)
    }

    /// What kubectl prints, which must succeed.
    pub fn prints(&self, words: &[&str]) -> Result<String> {
        succeed(&mut self.kubectl(words)?)
    }

    /// Waits until kubectl prints something of this kind.
    pub async fn until_prints(
        &self,
        words: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut last = String::new();
        let what = format!("what is wanted of kubectl {words:?}");
        let found = self
            .eventually(&what, async || {
                // A line of its own even for an error: it says what was there instead.
                last = self
                    .prints(words)
                    .unwrap_or_else(|error| format!("{error:#}"));
                wanted(&last).then(|| last.clone())
            })
            .await;
        found.with_context(|| format!("it printed at last: {last}"))
    }

    /// What a container waits for, in one word, or how it ended, or `Running`: the column STATUS.
    pub async fn until_status(&self, name: &str, status: &str) -> Result<()> {
        let words = ["get", "pod", name, "--no-headers"];
        let column = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
        let shown = self.until_prints(&words, |line| column(line).as_deref() == Some(status));
        shown.await.map(drop)
    }

    /// Waits until the node has ended a pod for its own sake. The column STATUS shows how
    /// its container ended.
    pub async fn until_evicted(&self, name: &str) -> Result<()> {
        let words = [
            "get",
            "pod",
            name,
            "-o=jsonpath={.status['phase','reason']}",
        ];
        self.until_prints(&words, |text| text == "Failed Evicted")
            .await
            .map(drop)
    }

    /// One value of a pod.
    pub fn value(&self, name: &str, path: &str) -> Result<String> {
        let path = format!("-o=jsonpath={{{path}}}");
        self.prints(&["get", "pod", name, &path])
    }

    /// Makes or changes an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().unwrap_or("object");
        let file = self
            .machine
            .write(&format!("{name}.json"), &object.to_string())?;
        self.prints(&["apply", "-f", &file.display().to_string()])?;
        Ok(())
    }

    /// Waits until something can be found.
    pub async fn eventually<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            if let Ok(Some(found)) = tokio::time::timeout(PATIENCE, look()).await {
                return Ok(found);
            }
            ensure!(Instant::now() < deadline, "never: {what}\n{}", self.told());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Deletes what is there, ends everything and looks for what is left.
    async fn end(mut self) -> Result<()> {
        for pod in self.pods().list(&ListParams::default()).await? {
            let name = pod.metadata.name.unwrap_or_default();
            self.delete(&name).await?;
        }
        // The object of a pod that is over goes before what the node has of it.
        // Seen from inside, for it may be on a disk of the machine's own.
        let host = self.machine.host();
        let root = PathBuf::from(format!("/proc/{}/root", host.pid()));
        let saved = host.directory().join("agent/pods");
        let saved = root.join(saved.strip_prefix("/")?);
        self.eventually("the agent keeps nothing", async || {
            let left = std::fs::read_dir(&saved).ok()?.count();
            (left == 0).then_some(())
        })
        .await?;
        self.kill_agent()?;
        self.kill_server()?;
        match &mut self.runtime {
            Runtime::Berth(cri) => {
                cri.signal(Signal::SIGTERM)?;
                let code = cri.wait(PATIENCE)?;
                ensure!(code == 0, "berth cri ended with {code}:\n{}", cri.text());
            }
            Runtime::Containerd(containerd) => containerd.end(&self.machine)?,
        }
        // It may hold the runtime's logs open.
        self.private = None;
        for (folder, _) in &self.setup.disks {
            let place = self.machine.host().directory().join(folder);
            succeed(self.machine.host().command("umount").arg(place))?;
        }
        self.machine.assert_clean()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A test that failed leaves them running.
        let _ = kill(&mut self.agent);
        let _ = kill(&mut self.server);
    }
}

/// A registry with a password, which the runtime speaks to without TLS.
fn begin_private(machine: &Machine) -> Result<Registry> {
    let registry = Registry::start_in(machine.host(), Access::Basic)?;
    let mut known = machine.registry().mirror_configuration();
    known += &format!("\n[registry.\"{}\"]\ninsecure = true\n", registry.address());
    machine.host().write_registries(&known)?;
    Ok(registry)
}

/// Runs a program, which must succeed.
pub fn succeed(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(text(&output.stdout))
}

/// kubectl, where `./x test` puts it.
pub fn kubectl_program() -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubelet/kubectl");
    ensure!(
        program.exists(),
        "{} is missing: `./x test` builds it",
        program.display()
    );
    Ok(program)
}

fn kill(child: &mut Option<Child>) -> Result<()> {
    if let Some(mut child) = child.take() {
        child.kill()?;
        child.wait()?;
    }
    Ok(())
}

/// A client whose connections are made inside the machine.
fn client(pid: u32, address: SocketAddr) -> Client {
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let host = http::HeaderValue::from_str(&address.to_string());
        async move {
            let connecting = tokio::task::spawn_blocking(move || connect_in(pid, address));
            let stream = connecting.await??;
            stream.set_nonblocking(true)?;
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tokio::spawn(connection.with_upgrades());
            request.headers_mut().insert(http::header::HOST, host?);
            Ok::<_, anyhow::Error>(sender.send_request(request).await?)
        }
    });
    Client::new(service, "default")
}
