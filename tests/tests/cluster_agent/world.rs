//! A machine with a registry, `berth cri`, the API's server and an agent.

use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_tests::host::connect_in;
use berth_tests::machine::{Machine, Running};
use berth_tests::patience::stretched;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{AttachParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// The agent's node.
pub const NODE: &str = "n1";
/// The image of the machine's registry.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// A node, and its server.
pub struct World {
    pub machine: Machine,
    cri: Running,
    server: Option<Child>,
    agent: Option<Child>,
    address: SocketAddr,
    client: Client,
}

/// Runs a test on a node and asserts that nothing is left of it.
pub fn run<F>(test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut world = World::new()?;
        world.ready().await?;
        let world = test(world).await?;
        world.end().await
    })
}

impl World {
    fn new() -> Result<World> {
        let machine = Machine::new()?;
        let socket = machine.host().work_dir().join("cri.sock");
        let cri = machine.start(&["cri", "--socket", &socket.display().to_string()])?;
        let address = SocketAddr::new([127, 0, 0, 1].into(), machine.host().free_port()?);
        std::fs::create_dir_all(machine.host().directory().join("cluster"))?;
        let client = client(machine.host().pid(), address);
        let mut world = World {
            machine,
            cri,
            server: None,
            agent: None,
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
        self.server = Some(self.spawn(&["server", &directory, &address])?);
        Ok(())
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let host = self.machine.host();
        let directory = host.directory().display().to_string();
        let socket = host.work_dir().join("cri.sock").display().to_string();
        let server = self.address.to_string();
        self.agent = Some(self.spawn(&["agent", NODE, &server, &socket, &directory])?);
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
        self.pods().delete(name, &Default::default()).await?;
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
        self.kill_agent()?;
        self.kill_server()?;
        self.cri.signal(Signal::SIGTERM)?;
        let code = self.cri.wait(PATIENCE)?;
        ensure!(
            code == 0,
            "berth cri ended with {code}:\n{}",
            self.cri.text()
        );
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
