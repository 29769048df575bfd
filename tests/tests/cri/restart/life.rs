//! A pod's whole life, by calls that are asked again when the server dies.
//!
//! A call that breaks off tells nothing: it was not heard, is half done and will
//! be undone, or is done and its answer is lost. So it is asked again, and what
//! may be answered then is written down at each call.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_cri::v1;
use berth_tests::machine::Machine;
use berth_tests::patience::stretched;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

use crate::world::{IMAGE, socket, words};
use berth_tests::chance::Chance;

/// A server must answer at last, however often it is killed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client of whatever server listens on the socket.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    logs: PathBuf,
}

/// What a pod of the storm does.
#[derive(Debug)]
pub struct Life {
    name: String,
    exit_code: i32,
    seconds: &'static str,
    network: v1::NamespaceMode,
    removes_containers: bool,
    grace: i64,
}

impl Life {
    pub fn by_chance(name: &str, chance: &mut Chance) -> Life {
        let network = match chance.once_in(3) {
            true => v1::NamespaceMode::Node,
            false => v1::NamespaceMode::Pod,
        };
        Life {
            name: name.to_owned(),
            exit_code: i32::try_from(chance.below(100)).unwrap_or_default(),
            seconds: ["0", "0.05", "0.5"][usize::try_from(chance.below(3)).unwrap_or_default()],
            network,
            removes_containers: chance.once_in(2),
            grace: i64::from(chance.once_in(2)),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// An answer, and whether the call had broken off before.
struct Answer<T> {
    outcome: Result<T, Status>,
    again: bool,
}

impl Client {
    pub fn of(machine: &Machine) -> Result<Client> {
        let address = format!("unix:{}", socket(machine).display());
        let endpoint = Endpoint::from_shared(address)?.timeout(stretched(PATIENCE));
        Ok(Client {
            // Connects at each call that finds no connection.
            channel: endpoint.connect_lazy(),
            logs: machine.host().work_dir().join("logs"),
        })
    }

    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    /// Asks until a server answers.
    async fn ask<T, F>(
        &self,
        mut call: impl FnMut(RuntimeServiceClient<Channel>) -> F,
    ) -> Result<Answer<T>>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + stretched(PATIENCE);
        let mut again = false;
        loop {
            match call(self.runtime()).await {
                Err(status) if broke_off(&status) => {
                    ensure!(Instant::now() < deadline, "no server answers: {status}");
                    again = true;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                outcome => {
                    let outcome = outcome.map(Response::into_inner);
                    return Ok(Answer { outcome, again });
                }
            }
        }
    }

    /// Every answer of the whole life is right, whoever was killed meanwhile.
    pub async fn live(&self, life: Life) -> Result<()> {
        let config = self.sandbox(&life.name, life.network);
        let pod = self.run_sandbox(config).await.context("run")?;
        let runs = self
            .create(&pod, self.container("runs", "exec sleep 1000"))
            .await
            .context("create runs")?;
        let script = format!("sleep {}; exit {}", life.seconds, life.exit_code);
        let ends = self
            .create(&pod, self.container("ends", &script))
            .await
            .context("create ends")?;
        for id in [&runs, &ends] {
            self.start(id).await.context("start")?;
        }
        let (word, code) = self.exec(&runs, &["echo", &life.name]).await?;
        ensure!(
            word.trim() == life.name && code == 0,
            "exec: {word:?}, {code}"
        );
        let ended = self.wait_exited(&ends).await?;
        ensure!(ended.exit_code == life.exit_code, "{ended:?}");
        let status = self.status_and_pid(&runs).await?.0;
        ensure!(
            status.state == v1::ContainerState::ContainerRunning as i32,
            "it runs no more: {status:?}"
        );
        self.stop(&runs, life.grace).await.context("stop")?;
        ensure!(self.wait_exited(&runs).await?.exit_code == 137);
        if life.removes_containers {
            self.remove(&ends).await.context("remove")?;
        }
        self.stop_sandbox(&pod).await.context("stop the sandbox")?;
        let status = self.status_and_pid(&runs).await?.0;
        ensure!(status.exit_code == 137, "{status:?}");
        if !life.removes_containers {
            let status = self.status_and_pid(&ends).await?.0;
            ensure!(status.exit_code == life.exit_code, "{status:?}");
        }
        self.remove_sandbox(&pod).await
    }

    pub async fn pull(&self, image: &str) -> Result<()> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            let request = v1::PullImageRequest {
                image: Some(image_spec(image)),
                ..Default::default()
            };
            match ImageServiceClient::new(self.channel.clone())
                .pull_image(request)
                .await
            {
                Ok(_) => return Ok(()),
                Err(status) => {
                    ensure!(
                        broke_off(&status) && Instant::now() < deadline,
                        "pull: {status}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    pub async fn run_sandbox(&self, config: v1::PodSandboxConfig) -> Result<String> {
        let name = config.hostname.clone();
        let answer = self
            .ask(|mut runtime| {
                let request = v1::RunPodSandboxRequest {
                    config: Some(config.clone()),
                    runtime_handler: String::new(),
                };
                async move { runtime.run_pod_sandbox(request).await }
            })
            .await?;
        match answer.outcome {
            Ok(reply) => Ok(reply.pod_sandbox_id),
            // The first call was done and its answer lost: then it is listed.
            Err(status) if answer.again && status.code() == Code::AlreadyExists => {
                let listed = self.pods().await?;
                let same = |pod: &&v1::PodSandbox| {
                    pod.metadata
                        .as_ref()
                        .is_some_and(|metadata| metadata.name == name)
                };
                let found: Vec<&v1::PodSandbox> = listed.iter().filter(same).collect();
                ensure!(
                    found.len() == 1
                        && found[0].state == v1::PodSandboxState::SandboxReady as i32
                        && status.message().contains(&found[0].id),
                    "{status}, but listed: {found:?}"
                );
                Ok(found[0].id.clone())
            }
            Err(status) => Err(status.into()),
        }
    }

    pub async fn create(&self, pod: &str, config: v1::ContainerConfig) -> Result<String> {
        let metadata = config.metadata.clone();
        let answer = self
            .ask(|mut runtime| {
                let request = v1::CreateContainerRequest {
                    pod_sandbox_id: pod.to_owned(),
                    config: Some(config.clone()),
                    sandbox_config: None,
                };
                async move { runtime.create_container(request).await }
            })
            .await?;
        match answer.outcome {
            Ok(reply) => Ok(reply.container_id),
            Err(status) if answer.again && status.code() == Code::AlreadyExists => {
                let list = self
                    .ask(|mut runtime| {
                        let filter = v1::ContainerFilter {
                            pod_sandbox_id: pod.to_owned(),
                            ..Default::default()
                        };
                        let request = v1::ListContainersRequest {
                            filter: Some(filter),
                        };
                        async move { runtime.list_containers(request).await }
                    })
                    .await?;
                let listed = list.outcome?.containers;
                let found = listed.iter().find(|found| found.metadata == metadata);
                let found = found.with_context(|| format!("{status}, but listed: {listed:?}"))?;
                ensure!(status.message().contains(&found.id), "{status}: {found:?}");
                Ok(found.id.clone())
            }
            Err(status) => Err(status.into()),
        }
    }

    pub async fn start(&self, id: &str) -> Result<()> {
        let answer = self
            .ask(|mut runtime| {
                let container_id = id.to_owned();
                let request = v1::StartContainerRequest { container_id };
                async move { runtime.start_container(request).await }
            })
            .await?;
        match answer.outcome {
            Ok(_) => Ok(()),
            // Started by the first call.
            Err(status) if answer.again && status.code() == Code::FailedPrecondition => {
                let seen = self.status_and_pid(id).await?.0;
                ensure!(
                    seen.started_at != 0
                        && seen.state != v1::ContainerState::ContainerCreated as i32,
                    "{status}: {seen:?}"
                );
                Ok(())
            }
            Err(status) => Err(status.into()),
        }
    }

    /// What a command wrote, and its exit code. One that broke off is run again.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<(String, i32)> {
        let answer = self
            .ask(|mut runtime| {
                let request = v1::ExecSyncRequest {
                    container_id: id.to_owned(),
                    cmd: words(command),
                    timeout: 0,
                };
                async move { runtime.exec_sync(request).await }
            })
            .await?;
        let reply = answer.outcome.context("exec")?;
        let text = String::from_utf8_lossy(&[reply.stdout, reply.stderr].concat()).into_owned();
        Ok((text, reply.exit_code))
    }

    pub async fn wait_exited(&self, id: &str) -> Result<v1::ContainerStatus> {
        let deadline = Instant::now() + stretched(PATIENCE);
        loop {
            let status = self.status_and_pid(id).await?.0;
            if status.state == v1::ContainerState::ContainerExited as i32 {
                return Ok(status);
            }
            ensure!(
                status.state == v1::ContainerState::ContainerRunning as i32,
                "neither runs nor ended: {status:?}"
            );
            ensure!(Instant::now() < deadline, "it did not end: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn status_and_pid(&self, id: &str) -> Result<(v1::ContainerStatus, String)> {
        let answer = self
            .ask(|mut runtime| {
                let request = v1::ContainerStatusRequest {
                    container_id: id.to_owned(),
                    verbose: true,
                };
                async move { runtime.container_status(request).await }
            })
            .await?;
        let reply = answer.outcome.context("status")?;
        let pid = reply.info.get("pid").cloned().unwrap_or_default();
        Ok((reply.status.context("a container has a status")?, pid))
    }

    pub async fn pods(&self) -> Result<Vec<v1::PodSandbox>> {
        let answer = self
            .ask(|mut runtime| async move {
                runtime
                    .list_pod_sandbox(v1::ListPodSandboxRequest::default())
                    .await
            })
            .await?;
        Ok(answer.outcome?.items)
    }

    async fn stop(&self, id: &str, timeout: i64) -> Result<()> {
        let answer = self
            .ask(|mut runtime| {
                let request = v1::StopContainerRequest {
                    container_id: id.to_owned(),
                    timeout,
                };
                async move { runtime.stop_container(request).await }
            })
            .await?;
        answer.outcome?;
        Ok(())
    }

    pub async fn remove(&self, id: &str) -> Result<()> {
        let answer = self
            .ask(|mut runtime| {
                let container_id = id.to_owned();
                let request = v1::RemoveContainerRequest { container_id };
                async move { runtime.remove_container(request).await }
            })
            .await?;
        answer.outcome?;
        Ok(())
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let answer = self
            .ask(|mut runtime| {
                let pod_sandbox_id = id.to_owned();
                let request = v1::StopPodSandboxRequest { pod_sandbox_id };
                async move { runtime.stop_pod_sandbox(request).await }
            })
            .await?;
        answer.outcome?;
        Ok(())
    }

    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let answer = self
            .ask(|mut runtime| {
                let pod_sandbox_id = id.to_owned();
                let request = v1::RemovePodSandboxRequest { pod_sandbox_id };
                async move { runtime.remove_pod_sandbox(request).await }
            })
            .await?;
        answer.outcome.context("remove the sandbox")?;
        let gone = self
            .ask(|mut runtime| {
                let request = v1::PodSandboxStatusRequest {
                    pod_sandbox_id: id.to_owned(),
                    verbose: false,
                };
                async move { runtime.pod_sandbox_status(request).await }
            })
            .await?;
        let gone = gone.outcome.err().context("it is still told of")?;
        ensure!(gone.code() == Code::NotFound, "{gone}");
        Ok(())
    }

    pub fn sandbox(&self, name: &str, network: v1::NamespaceMode) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        network: network as i32,
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
            image: Some(image_spec(IMAGE)),
            command: words(&["sh", "-c", script]),
            log_path: format!("{name}.log"),
            ..Default::default()
        }
    }
}

fn image_spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    }
}

/// A status that the client made itself: no server has answered. One that came
/// over the connection has no cause.
fn broke_off(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
