//! A machine with `berth cri` in it, a client, and requests.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_cri::v1;
use berth_tests::machine::{Machine, Running};
use berth_tests::patience::stretched;
use nix::sys::signal::Signal;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// A call that hangs is a failed test.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server's file, where a test wrote one.
pub const CONFIGURATION: &str = "cri.toml";
/// The image of the machine's registry.
pub const IMAGE: &str = "docker.io/library/busybox:latest";

/// A server and its client. The machine is swept when the test is over.
pub struct World {
    pub machine: Machine,
    /// What the server is started with, besides its socket.
    pub arguments: Vec<String>,
    server: Running,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

/// Runs a test on a machine with the examples' images and asserts that nothing
/// is left of it.
pub fn run<F>(test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let world = runtime.block_on(async { test(World::on(Machine::new()?).await?).await })?;
    world.end()
}

/// The same with a configuration file.
pub fn run_configured<F>(text: &str, test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    run_on(Machine::new()?, text, test)
}

/// The same on a machine of the test's own.
pub fn run_on<F>(machine: Machine, text: &str, test: impl FnOnce(World) -> F) -> Result<()>
where
    F: Future<Output = Result<World>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    machine.write(CONFIGURATION, text)?;
    let world = runtime.block_on(async { test(World::on(machine).await?).await })?;
    world.end()
}

impl World {
    /// Starts a server on a machine and waits until it answers.
    pub async fn on(machine: Machine) -> Result<World> {
        World::with_arguments(machine, Vec::new()).await
    }

    /// The same with more arguments for the server.
    pub async fn with_arguments(machine: Machine, arguments: Vec<String>) -> Result<World> {
        let mut server = start(&machine, &arguments)?;
        let channel = connect(&machine, &mut server).await?;
        Ok(World {
            machine,
            arguments,
            server,
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    /// Writes another configuration file and has the server read it.
    pub fn reload(&mut self, text: &str) -> Result<()> {
        self.machine.write(CONFIGURATION, text)?;
        self.server.signal(Signal::SIGHUP)?;
        Ok(())
    }

    /// Waits until the server's log holds a text.
    pub fn wait_for_log(&mut self, text: &str) -> Result<()> {
        self.server.wait_for(text, PATIENCE)
    }

    /// What the server said so far.
    pub fn log_text(&self) -> String {
        self.server.text()
    }

    /// Ends the server as a power cut would, and starts another.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.kill_and_restart_after(|_| Ok(())).await
    }

    /// The same, with something done while no server runs.
    pub async fn kill_and_restart_after(
        &mut self,
        work: impl FnOnce(&Machine) -> Result<()>,
    ) -> Result<()> {
        self.server.signal(Signal::SIGKILL)?;
        self.server.wait(PATIENCE)?;
        work(&self.machine)?;
        self.server = start(&self.machine, &self.arguments)?;
        let channel = connect(&self.machine, &mut self.server).await?;
        self.runtime = RuntimeServiceClient::new(channel.clone());
        self.images = ImageServiceClient::new(channel);
        Ok(())
    }

    /// Ends the server in order and looks for what is left.
    pub fn end(mut self) -> Result<()> {
        self.server.signal(Signal::SIGTERM)?;
        let code = self.server.wait(PATIENCE)?;
        ensure!(
            code == 0,
            "the server ended with {code}:\n{}",
            self.server.text()
        );
        self.machine.assert_clean()
    }

    pub async fn pull(&mut self) -> Result<String> {
        let request = v1::PullImageRequest {
            image: Some(image_spec()),
            ..Default::default()
        };
        Ok(self
            .images
            .pull_image(request)
            .await?
            .into_inner()
            .image_ref)
    }

    pub async fn run_sandbox(&mut self, config: v1::PodSandboxConfig) -> Result<String> {
        Ok(self.run_handled(config, "").await?)
    }

    /// The same with a RuntimeClass's handler.
    pub async fn run_handled(
        &mut self,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, tonic::Status> {
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        };
        let reply = self.runtime.run_pod_sandbox(request).await?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    pub async fn create(&mut self, pod: &str, config: v1::ContainerConfig) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: None,
        };
        let reply = self.runtime.create_container(request).await?;
        Ok(reply.into_inner().container_id)
    }

    pub async fn start(&mut self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        let request = v1::StartContainerRequest { container_id };
        self.runtime.start_container(request).await?;
        Ok(())
    }

    /// A container that runs a shell script.
    pub async fn run_container(&mut self, pod: &str, name: &str, script: &str) -> Result<String> {
        let id = self.create(pod, self.container(name, script)).await?;
        self.start(&id).await?;
        Ok(id)
    }

    pub async fn status(&mut self, id: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.runtime.container_status(request).await?.into_inner();
        reply.status.context("a container has a status")
    }

    /// The number of a container's program on the host.
    pub async fn pid(&mut self, id: &str) -> Result<u32> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.runtime.container_status(request).await?.into_inner();
        let info: serde_json::Value = serde_json::from_str(&reply.info["info"])?;
        let pid = info["pid"].as_u64().context("a pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// Waits until a container has ended; its status.
    pub async fn wait_exited(&mut self, id: &str) -> Result<v1::ContainerStatus> {
        let deadline = Instant::now() + stretched(Duration::from_secs(20));
        loop {
            let status = self.status(id).await?;
            if status.state == v1::ContainerState::ContainerExited as i32 {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "it did not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A command in a container: what it wrote, and its exit code.
    pub async fn exec(&mut self, id: &str, command: &[&str]) -> Result<(String, i32)> {
        let request = v1::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: words(command),
            timeout: 20,
        };
        let reply = self.runtime.exec_sync(request).await?.into_inner();
        let text = [reply.stdout, reply.stderr].concat();
        Ok((String::from_utf8_lossy(&text).into_owned(), reply.exit_code))
    }

    pub async fn remove_sandbox(&mut self, id: &str) -> Result<()> {
        let pod_sandbox_id = id.to_owned();
        let stop = v1::StopPodSandboxRequest {
            pod_sandbox_id: pod_sandbox_id.clone(),
        };
        self.runtime.stop_pod_sandbox(stop).await?;
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id };
        self.runtime.remove_pod_sandbox(remove).await?;
        Ok(())
    }

    pub fn logs(&self) -> PathBuf {
        self.machine.host().work_dir().join("logs")
    }

    /// A pod as a kubelet asks for: its own network and IPC, processes apart.
    pub fn sandbox(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs().display().to_string(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: v1::NamespaceMode::Container as i32,
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub fn container(&self, name: &str, script: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(image_spec()),
            command: words(&["sh", "-c", script]),
            log_path: format!("{name}.log"),
            labels: [("name".to_owned(), name.to_owned())].into(),
            ..Default::default()
        }
    }
}

/// The server, on a socket that the test can reach too.
fn start(machine: &Machine, arguments: &[String]) -> Result<Running> {
    let socket = socket(machine).display().to_string();
    let mut words = vec!["cri", "--socket", &socket];
    let file = machine.host().work_dir().join(CONFIGURATION);
    let file = file.display().to_string();
    if std::fs::exists(&file)? {
        words.extend(["--config", &file]);
    }
    words.extend(arguments.iter().map(String::as_str));
    machine.start(&words)
}

pub fn socket(machine: &Machine) -> PathBuf {
    machine.host().work_dir().join("cri.sock")
}

async fn connect(machine: &Machine, server: &mut Running) -> Result<Channel> {
    let deadline = Instant::now() + stretched(Duration::from_secs(20));
    loop {
        match answering(&socket(machine), PATIENCE).await {
            Ok(channel) => return Ok(channel),
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => bail!("no server: {error:#}\n{}", server.text()),
        }
    }
}

/// A connection that ours has answered on; the patience is a call's. One that is made is not
/// enough: of a server that was killed while it began a program the child still has the socket,
/// until its `execve`, and resets then what waits there.
pub async fn answering(socket: &Path, patience: Duration) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    let channel = endpoint.timeout(stretched(patience)).connect().await?;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let answer = runtime.version(v1::VersionRequest::default()).await?;
    ensure!(answer.into_inner().runtime_name == "berth");
    Ok(channel)
}

/// Asks until something holds.
pub async fn within(
    patience: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + stretched(patience);
    while !holds().await? {
        ensure!(Instant::now() < deadline, "{what}: not within the time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

pub fn image_spec() -> v1::ImageSpec {
    v1::ImageSpec {
        image: IMAGE.to_owned(),
        ..Default::default()
    }
}

pub fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// That a call was refused, with a code and a text that names the field.
pub fn refused<T: std::fmt::Debug>(
    outcome: Result<T, tonic::Status>,
    code: Code,
    names: &str,
) -> Result<()> {
    match outcome {
        Ok(reply) => bail!("{names}: was not refused: {reply:?}"),
        Err(status) => {
            ensure!(
                status.code() == code && status.message().contains(names),
                "expected {code:?} and {names:?}, got {:?}: {}",
                status.code(),
                status.message()
            );
            Ok(())
        }
    }
}

/// What a pod shares with the host and with its containers.
pub fn options(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default()
}
