//! A client of one daemon, on a host of the daemon's own.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_cri::v1;
use berth_tests::host::Host;
use berth_tests::image::critest;
use berth_tests::registry::{Access, Registry};
use berth_tests::sweep;
use tonic::transport::{Channel, Endpoint};
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

use super::daemons::Daemon;

/// What every container is made of.
const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.29-2";
/// No call takes longer, however many there are at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon that answers. It ends with this.
pub struct Node {
    // Dropped in this order: the daemon and the registry live inside the host.
    daemon: Child,
    _registry: Registry,
    host: Host,
    which: Daemon,
    channel: Channel,
}

/// How long each call of a pod's life took.
#[derive(Debug, Default, Clone, Copy)]
pub struct Steps {
    run_pod: Duration,
    create: Duration,
    start: Duration,
    stop: Duration,
    remove: Duration,
    stop_pod: Duration,
    remove_pod: Duration,
}

/// A call's name and its time among [`Steps`].
type Step = (&'static str, fn(&Steps) -> Duration);

impl Steps {
    /// Every call in its order.
    pub const EACH: [Step; 7] = [
        ("RunPodSandbox", |steps| steps.run_pod),
        ("CreateContainer", |steps| steps.create),
        ("StartContainer", |steps| steps.start),
        ("StopContainer", |steps| steps.stop),
        ("RemoveContainer", |steps| steps.remove),
        ("StopPodSandbox", |steps| steps.stop_pod),
        ("RemovePodSandbox", |steps| steps.remove_pod),
    ];

    /// From nothing to a running container.
    pub fn until_running(&self) -> Duration {
        self.run_pod + self.create + self.start
    }
}

/// Many pods at once.
pub struct Crowd {
    /// Each pod, from the first call to a running container.
    pub each: Vec<Duration>,
    /// From the first call to the last running container.
    pub all: Duration,
}

impl Node {
    /// Starts a daemon on a new host and pulls the image.
    ///
    /// # Errors
    ///
    /// The daemon is not here, or does not serve.
    pub async fn start(which: Daemon) -> Result<Node> {
        let host = Host::new()?;
        let registry = Registry::start_in(&host, Access::Open)?;
        critest::push_all(&registry)?;
        host.write_registries(&critest::mirror_configuration(&registry))?;
        let socket = socket_of(&host);
        let log = std::fs::File::create(host.work_dir().join("daemon.log"))?;
        let mut daemon = which
            .command(&host, &registry, &socket)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let Some(channel) = connect(&socket, &mut daemon).await? else {
            let log = std::fs::read_to_string(host.work_dir().join("daemon.log"))?;
            let _ = daemon.kill();
            daemon.wait()?;
            eprintln!("{log}");
            bail!("it does not serve within half a minute");
        };
        let node = Node {
            daemon,
            _registry: registry,
            host,
            which,
            channel,
        };
        let request = v1::PullImageRequest {
            image: Some(image()),
            ..Default::default()
        };
        ImageServiceClient::new(node.channel.clone())
            .pull_image(request)
            .await?;
        // Debian's crun does not know the version that containerd 2 writes.
        node.one_pod("trial").await.context("the first pod")?;
        Ok(node)
    }

    /// As a table's row names it.
    pub fn name(&self) -> &'static str {
        self.which.name()
    }

    /// Whether a failure is ours.
    pub fn is_ours(&self) -> bool {
        self.which.is_ours()
    }

    /// The daemon's host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        socket_of(&self.host)
    }

    /// A client; any number can be had.
    pub fn client(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// What a pod is to be.
    pub fn sandbox(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs(name).display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.host.cgroup_parent(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn logs(&self, name: &str) -> PathBuf {
        self.host.work_dir().join("logs").join(name)
    }

    /// Makes and starts a pod of no container; its id.
    ///
    /// # Errors
    ///
    /// The daemon refuses.
    pub async fn run_pod(&self, name: &str) -> Result<String> {
        // containerd leaves it to the kubelet.
        std::fs::create_dir_all(self.logs(name))?;
        let request = v1::RunPodSandboxRequest {
            config: Some(self.sandbox(name)),
            runtime_handler: String::new(),
        };
        let reply = self.client().run_pod_sandbox(request).await?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    /// Makes a container that would sleep; its id.
    ///
    /// # Errors
    ///
    /// The daemon refuses.
    pub async fn create(&self, pod: &str, pod_name: &str, name: &str) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: name.to_owned(),
                    attempt: 0,
                }),
                image: Some(image()),
                command: vec!["sleep".to_owned(), "100000".to_owned()],
                log_path: format!("{name}.log"),
                linux: Some(v1::LinuxContainerConfig {
                    security_context: Some(v1::LinuxContainerSecurityContext {
                        namespace_options: Some(namespaces()),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            sandbox_config: Some(self.sandbox(pod_name)),
        };
        let reply = self.client().create_container(request).await?;
        Ok(reply.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    ///
    /// The daemon refuses.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        let request = v1::StartContainerRequest { container_id };
        self.client().start_container(request).await?;
        Ok(())
    }

    /// Ends a container at once: what only sleeps hears no `SIGTERM`, being its namespace's first.
    ///
    /// # Errors
    ///
    /// The daemon refuses.
    pub async fn kill_container(&self, id: &str) -> Result<()> {
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 0,
        };
        self.client().stop_container(request).await?;
        Ok(())
    }

    /// Ends a pod and all that is in it.
    ///
    /// # Errors
    ///
    /// The daemon refuses.
    pub async fn remove_pod(&self, pod: &str) -> Result<()> {
        let mut steps = Steps::default();
        self.take_pod_away(pod, &mut steps).await
    }

    async fn take_pod_away(&self, pod: &str, steps: &mut Steps) -> Result<()> {
        let mut client = self.client();
        let pod_sandbox_id = pod.to_owned();
        let stop = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        let begin = Instant::now();
        client.stop_pod_sandbox(stop).await?;
        steps.stop_pod = begin.elapsed();
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id };
        let begin = Instant::now();
        client.remove_pod_sandbox(remove).await?;
        steps.remove_pod = begin.elapsed();
        Ok(())
    }

    /// The whole life of a pod of one container, call by call.
    ///
    /// # Errors
    ///
    /// The daemon refuses a call.
    pub async fn one_pod(&self, name: &str) -> Result<Steps> {
        let mut steps = Steps::default();
        let mut client = self.client();
        let begin = Instant::now();
        let pod = self.run_pod(name).await?;
        steps.run_pod = begin.elapsed();
        let begin = Instant::now();
        let id = self.create(&pod, name, "main").await?;
        steps.create = begin.elapsed();
        let begin = Instant::now();
        self.start_container(&id).await?;
        steps.start = begin.elapsed();
        let begin = Instant::now();
        self.kill_container(&id).await?;
        steps.stop = begin.elapsed();
        let remove = v1::RemoveContainerRequest { container_id: id };
        let begin = Instant::now();
        client.remove_container(remove).await?;
        steps.remove = begin.elapsed();
        self.take_pod_away(&pod, &mut steps).await?;
        Ok(steps)
    }

    /// Many pods of one container, asked for at once, and taken away again.
    ///
    /// # Errors
    ///
    /// The daemon refuses a call.
    pub async fn crowd(&self, name: &str, count: usize) -> Result<Crowd> {
        let begin = Instant::now();
        let made = (0..count).map(|number| async move {
            let begin = Instant::now();
            let name = format!("{name}-{number}");
            let pod = self.run_pod(&name).await?;
            let id = self.create(&pod, &name, "main").await?;
            self.start_container(&id).await?;
            Ok::<_, anyhow::Error>((pod, begin.elapsed()))
        });
        let made = futures::future::try_join_all(made).await?;
        let all = begin.elapsed();
        let gone = made.iter().map(|(pod, _)| self.remove_pod(pod));
        futures::future::try_join_all(gone).await?;
        let each = made.into_iter().map(|(_, taken)| taken).collect();
        Ok(Crowd { each, all })
    }

    /// Ends the daemon and what it left.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.daemon.id()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        let pid = pid.context("a process has a number")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.daemon.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end", self.name());
            std::thread::sleep(Duration::from_millis(20));
        }
        // Shims and mounts of containerd's pods are left to whoever cleans up.
        sweep::end_remains(&self.host);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        sweep::end_remains(&self.host);
    }
}

async fn connect(socket: &std::path::Path, daemon: &mut Child) -> Result<Option<Channel>> {
    let address = format!("unix:{}", socket.display());
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline && daemon.try_wait()?.is_none() {
        let endpoint = Endpoint::from_shared(address.clone())?.timeout(PATIENCE);
        if let Ok(channel) = endpoint.connect().await
            && ready(&channel).await
        {
            return Ok(Some(channel));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(None)
}

/// containerd listens before its plugins serve, and before its network is up.
async fn ready(channel: &Channel) -> bool {
    let mut client = RuntimeServiceClient::new(channel.clone());
    let reply = client.status(v1::StatusRequest::default()).await;
    let status = reply.ok().and_then(|reply| reply.into_inner().status);
    // containerd has conditions of its own beside the two that a kubelet waits for.
    status.is_some_and(|status| {
        ["RuntimeReady", "NetworkReady"].iter().all(|name| {
            let mut conditions = status.conditions.iter();
            conditions.any(|condition| condition.r#type == *name && condition.status)
        })
    })
}

fn socket_of(host: &Host) -> PathBuf {
    host.work_dir().join("cri.sock")
}

/// As a kubelet asks for pods and containers that say nothing.
fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption {
        pid: v1::NamespaceMode::Container as i32,
        ..Default::default()
    }
}

fn image() -> v1::ImageSpec {
    v1::ImageSpec {
        image: IMAGE.to_owned(),
        // CRI-O judges signatures by what the user wrote.
        user_specified_image: IMAGE.to_owned(),
        ..Default::default()
    }
}
