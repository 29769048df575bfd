//! A machine, a registry, an engine, and requests for them.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cri::engine::Engine;
use berth_cri::engine::cgroups::Driver;
use berth_cri::engine::config::{EngineConfig, MadeMeans};
use berth_cri::engine::runtimes::{OciRuntime, Runtimes};
use berth_cri::engine::spec::defaults::ContainerDefaults;
use berth_cri::images::registries::RegistriesConfig;
use berth_cri::service::CriService;
use berth_cri::v1;
use berth_netd::cni::CniSettings;
use berth_netd::network::NetworkConfig;
use berth_tests::host::{Host, program};
use berth_tests::image::{self, busybox};
use berth_tests::registry::{Access, Registry};
use berth_tests::sweep::Sweep;

const DIRECTORY: &str = "BERTH_ENGINE_TEST_DIRECTORY";
const IMAGE: &str = "BERTH_ENGINE_TEST_IMAGE";
/// What a process that a test starts is to do instead of the test.
pub const ROLE: &str = "BERTH_ENGINE_TEST_ROLE";
/// A test that hangs is a failed test.
const PATIENCE: Duration = Duration::from_secs(240);

/// The inside of a test.
pub struct World {
    pub directory: PathBuf,
    pub image: String,
}

/// Runs a test in a machine of its own and asserts that nothing is left of it.
///
/// `name` is the test's own path, as `cargo test` prints it.
pub fn run<F, W>(name: &str, test: W)
where
    F: Future<Output = ()>,
    W: FnOnce(World) -> F,
{
    match std::env::var(DIRECTORY) {
        Ok(directory) => inside(directory.into(), test),
        Err(_) => outside(name),
    }
}

fn inside<F, W>(directory: PathBuf, test: W)
where
    F: Future<Output = ()>,
    W: FnOnce(World) -> F,
{
    let world = World {
        directory,
        image: std::env::var(IMAGE).unwrap(),
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test(world));
}

fn outside(name: &str) {
    let host = Host::new().unwrap();
    let registry = Registry::start_in(&host, Access::Open).unwrap();
    let image = image::build(&busybox::plan().unwrap()).unwrap();
    registry.push(&image, "busybox", "1").unwrap();
    let sweep = Sweep::before(&host).unwrap();
    let mut command = host.command(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, host.directory())
        .env(IMAGE, registry.reference("busybox", "1"))
        .env("BERTH_ENGINE_TEST_CGROUP", host.cgroup_parent());
    let mut child = command.spawn().unwrap();
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name} took longer than {} seconds", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "{name} failed inside its machine");
    sweep.assert_clean(&host).unwrap();
}

impl World {
    pub fn config(&self) -> EngineConfig {
        let registries = format!(
            "[registry.\"{}\"]\ninsecure = true\n",
            self.image.split('/').next().unwrap()
        );
        let runc = OciRuntime {
            program: "/usr/bin/runc".into(),
            arguments: Vec::new(),
        };
        EngineConfig {
            run_dir: self.directory.join("run"),
            data_dir: self.directory.join("data"),
            oci_runtime: program("berth-oci"),
            cni: CniSettings::default(),
            network: NetworkConfig::default(),
            registries: RegistriesConfig::parse(&registries).unwrap(),
            cgroup_parent: std::env::var("BERTH_ENGINE_TEST_CGROUP").unwrap(),
            runtimes: Runtimes {
                default_handler: String::new(),
                named: BTreeMap::from([("runc".to_owned(), runc)]),
            },
            cgroup_driver: Driver::Cgroupfs,
            layers_at_once: None,
            defaults: ContainerDefaults::default(),
            made: MadeMeans::Created,
        }
    }

    /// An engine as a new process would open it.
    pub async fn engine(&self) -> Arc<Engine> {
        Engine::open(self.config()).await.unwrap()
    }

    /// An engine with the image at hand.
    pub async fn engine_with_image(&self) -> Arc<Engine> {
        self.engine_with_image_by(self.config()).await
    }

    /// The same by a configuration of the test's own.
    pub async fn engine_with_image_by(&self, config: EngineConfig) -> Arc<Engine> {
        let engine = Engine::open(config).await.unwrap();
        engine
            .pull_image(v1::PullImageRequest {
                image: Some(self.image_spec()),
                ..Default::default()
            })
            .await
            .unwrap();
        engine
    }

    pub fn image_spec(&self) -> v1::ImageSpec {
        v1::ImageSpec {
            image: self.image.clone(),
            ..Default::default()
        }
    }

    pub fn logs(&self) -> PathBuf {
        self.directory.join("work/logs")
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

    /// A container that runs a shell script.
    pub fn container(&self, name: &str, script: &str) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: Some(self.image_spec()),
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            log_path: format!("{name}.log"),
            labels: [("name".to_owned(), name.to_owned())].into(),
            ..Default::default()
        }
    }

    /// The lines that a container wrote, without the CRI's columns.
    pub fn log(&self, name: &str) -> String {
        let text =
            std::fs::read_to_string(self.logs().join(format!("{name}.log"))).unwrap_or_default();
        text.lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned() + "\n")
            .collect()
    }

    /// This test again, in another process, with something else to do.
    pub fn other_process(&self, name: &str, role: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(ROLE, role);
        command
    }
}

pub async fn run_sandbox(engine: &Engine, config: v1::PodSandboxConfig) -> String {
    run_sandbox_by(engine, config, "").await
}

pub async fn run_sandbox_by(
    engine: &Engine,
    config: v1::PodSandboxConfig,
    handler: &str,
) -> String {
    engine
        .run_pod_sandbox(v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler: handler.to_owned(),
        })
        .await
        .unwrap()
        .pod_sandbox_id
}

pub async fn create(engine: &Engine, pod: &str, config: v1::ContainerConfig) -> String {
    engine
        .create_container(v1::CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config),
            sandbox_config: None,
        })
        .await
        .unwrap()
        .container_id
}

pub async fn start(engine: &Engine, id: &str) {
    engine
        .start_container(v1::StartContainerRequest {
            container_id: id.to_owned(),
        })
        .await
        .unwrap();
}

pub async fn run_container(engine: &Engine, pod: &str, config: v1::ContainerConfig) -> String {
    let id = create(engine, pod, config).await;
    start(engine, &id).await;
    id
}

pub async fn status(engine: &Engine, id: &str) -> v1::ContainerStatus {
    engine
        .container_status(v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        })
        .await
        .unwrap()
        .status
        .unwrap()
}

pub async fn remove_sandbox(engine: &Engine, id: &str) {
    engine
        .stop_pod_sandbox(v1::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        })
        .await
        .unwrap();
    engine
        .remove_pod_sandbox(v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        })
        .await
        .unwrap();
}

/// Asks until it is so.
pub async fn until<F: Future<Output = bool>>(what: &str, ask: impl Fn() -> F) {
    let begin = Instant::now();
    while !ask().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
