//! Making, starting, stopping and removing containers.
//!
//! ```text
//! create ─▶ record half-made ─▶ mount the image ─▶ plan the OCI configuration
//!                                                        │
//!           record made ◀── monitor: `berth-oci create` ◀┘
//! ```
//!
//! The pod's lock is held while something is made or removed, never while a
//! program is waited for: a stop's grace must not keep others out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::{
    ContainerState as LiveState, CreateContainer, ExitRecord, Reply, Request,
};
use oci_spec::runtime::Spec;

use super::error::{Error, ErrorKind, Failures};
use super::id::random_id;
use super::monitor_link::{self, blocking};
use super::paths::Ipc;
use super::records::lock::LockedPod;
use super::records::{
    ContainerPhase, ContainerRecord, Encoded, PodPhase, PodRecord, RunAs, StartFailure,
    files as record_files,
};
use super::sandbox::gone_is_none;
use super::spec::mounts::PodFiles;
use super::spec::namespaces::PodNamespaces;
use super::spec::security::{Seccomp, SeccompChoice};
use super::spec::user::ResolvedUser;
use super::spec::{SpecInputs, devices, plan_spec, process, resources, security, user};
use super::{Engine, mount_table};
use crate::images::Image;
use crate::v1;

/// `SIGKILL`.
const SIGKILL: i32 = 9;
/// How long the kernel may take to end a program that got `SIGKILL`. A program
/// that waits for a dead network file system ends only when that answers.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// A name that the OCI gives the configuration.
const CONFIG_FILE: &str = "config.json";

/// What a container will be, apart from what needs its mounted root.
#[derive(Debug)]
struct ContainerPlan {
    pod: PodRecord,
    image: Image,
    record: ContainerRecord,
}

impl Engine {
    /// Makes a container in a sandbox: all or nothing.
    ///
    /// # Errors
    ///
    /// `NotFound` for the sandbox or the image, `WrongState` when the sandbox is
    /// not ready, `Invalid` for a field, `Runtime` with the OCI runtime's words.
    pub async fn create(&self, request: v1::CreateContainerRequest) -> Result<String, Error> {
        let plan = self.plan_container(request)?;
        self.to_the_end(move |engine| async move { engine.make_container(plan).await })
            .await
    }

    fn plan_container(&self, request: v1::CreateContainerRequest) -> Result<ContainerPlan, Error> {
        let pod = self.sandbox(&request.pod_sandbox_id)?;
        let config = request
            .config
            .ok_or_else(|| Error::invalid("config: is missing"))?;
        let name = config
            .metadata
            .as_ref()
            .map(|metadata| metadata.name.clone())
            .filter(|name| !name.is_empty())
            .ok_or_else(|| Error::invalid("config.metadata.name: must not be empty"))?;
        let image = self.find_image(&config)?;
        let id = random_id();
        let requested = config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.clone())
            .unwrap_or_default();
        let record = ContainerRecord {
            format: PodRecord::format(),
            pod_id: pod.id.clone(),
            name,
            phase: ContainerPhase::HalfMade,
            created_at: now_nanoseconds(),
            resources: Encoded(requested),
            image_ref: image.digests.first().unwrap_or(&image.id).clone(),
            image_id: image.id.clone(),
            log_path: plan_log_path(&pod.config.0, &config)?,
            run_as: RunAs::default(),
            stop_signal: process::stop_signal(&config, &image.config)?,
            cgroup: format!("{}/{id}", pod.cgroup),
            start_failure: None,
            exit: None,
            config: Encoded(config),
            id,
        };
        Ok(ContainerPlan { pod, image, record })
    }

    fn find_image(&self, config: &v1::ContainerConfig) -> Result<Image, Error> {
        let wanted = config
            .image
            .as_ref()
            .map(|image| image.image.clone())
            .filter(|image| !image.is_empty())
            .ok_or_else(|| Error::invalid("config.image.image: must not be empty"))?;
        self.images()
            .find(&wanted)
            .map_err(image_error)?
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("image {wanted}: is not present; it has to be pulled first"),
                )
            })
    }

    async fn make_container(&self, plan: ContainerPlan) -> Result<String, Error> {
        let locked = self.records().lock_pod(&plan.pod.id).await?;
        // Whoever held the lock before may have stopped the sandbox.
        if locked.read()?.phase != PodPhase::Ready {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!(
                    "sandbox {}: is not ready; no container was made",
                    plan.pod.id
                ),
            ));
        }
        let mut record = plan.record.clone();
        self.refuse_second_name(&record)?;
        locked.write_container(&record)?;
        let mut outcome = self.apply_container(&plan, &mut record).await;
        if outcome.is_ok() {
            record.phase = ContainerPhase::Made;
            outcome = locked.write_container(&record);
        }
        match outcome {
            Ok(()) => Ok(record.id),
            Err(error) => {
                if let Err(left) = self.take_away(&locked, &plan.pod, &record.id).await {
                    tracing::warn!(container = %record.id, "not undone: {}", left.chain());
                }
                Err(Error::caused(
                    error.kind(),
                    format!("container {} was not made", record.name),
                    error,
                ))
            }
        }
    }

    /// A name and attempt stand for one container of a pod.
    fn refuse_second_name(&self, record: &ContainerRecord) -> Result<(), Error> {
        let listing = self.records().list_containers(&record.pod_id)?;
        let same = |other: &&ContainerRecord| {
            other.phase == ContainerPhase::Made
                && other.config.0.metadata == record.config.0.metadata
        };
        match listing.records.iter().find(same) {
            Some(other) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "config.metadata: container {} is {} for this attempt already; nothing was \
                     made",
                    record.name, other.id
                ),
            )),
            None => Ok(()),
        }
    }

    /// The steps, in order; what each makes, `take_away` removes.
    async fn apply_container(
        &self,
        plan: &ContainerPlan,
        record: &mut ContainerRecord,
    ) -> Result<(), Error> {
        let bundle = self.paths().bundle(&record.pod_id, &record.id);
        let rootfs = self.paths().rootfs(&record.pod_id, &record.id);
        let target_pid = self.target_pid(record).await?;
        self.mount_image(plan, &rootfs).await?;
        let (run_as, spec) = {
            let engine = self.clone();
            let (pod, image, record) = (plan.pod.clone(), plan.image.clone(), record.clone());
            let rootfs = rootfs.clone();
            blocking(move || {
                engine.observe_and_plan(&Subject {
                    pod: &pod,
                    image: &image,
                    record: &record,
                    rootfs: &rootfs,
                    target_pid,
                })
            })
            .await?
        };
        record.run_as = run_as;
        write_config(&bundle, &spec)?;
        if let Some(folder) = record.log_path.as_deref().and_then(Path::parent) {
            record_files::ensure_directory(folder)?;
        }
        let config = &record.config.0;
        let create = CreateContainer {
            id: record.id.clone(),
            bundle,
            log_path: record.log_path.clone(),
            terminal: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
        };
        let pod_dir = self.paths().pod(&record.pod_id);
        monitor_link::call(&pod_dir, Request::Create(create)).await?;
        Ok(())
    }

    async fn mount_image(&self, plan: &ContainerPlan, rootfs: &Path) -> Result<(), Error> {
        let (images, image) = (self.images().clone(), plan.image.clone());
        let (id, rootfs) = (plan.record.id.clone(), rootfs.to_path_buf());
        blocking(move || {
            record_files::ensure_directory(&rootfs)?;
            images
                .mount_snapshot(&id, &image, &rootfs)
                .map_err(image_error)
        })
        .await
    }

    /// Looks up what the plan needs from the mounted image and from the host.
    fn observe_and_plan(&self, subject: &Subject<'_>) -> Result<(RunAs, Spec), Error> {
        let config = &subject.record.config.0;
        let sandbox = &subject.pod.config.0;
        let context = super::spec::security_context(config);
        let of_image = subject.image.config.config().as_ref();
        let image_user = of_image.and_then(|config| config.user().as_deref());
        let accounts = user::read_accounts(subject.rootfs)?;
        let ResolvedUser { run_as, home } =
            user::resolve_user(&context, image_user.unwrap_or_default(), &accounts)?;
        refuse_missing_sources(&config.mounts)?;
        let pod_dir = self.paths().pod(&subject.pod.id);
        let namespaces = PodNamespaces::plan(sandbox, &pod_dir)?;
        let seccomp = read_seccomp(&security::seccomp_choice(&context)?)?;
        let devices = devices::observe_requested(&config.devices)?;
        let inputs = SpecInputs {
            container: config,
            sandbox,
            image: &subject.image.config,
            run_as: &run_as,
            home: &home,
            seccomp,
            namespaces: &namespaces,
            target_pid: subject.target_pid,
            files: &self.pod_files(&subject.pod.id, &namespaces),
            devices: &devices,
            host: self.host(),
            cgroups_path: Path::new(&subject.record.cgroup),
            rootfs: subject.rootfs,
            pod_id: &subject.pod.id,
        };
        let spec = plan_spec(&inputs)?;
        tell_of_raised_score(config, self.host().lowest_oom_score_adj);
        Ok((run_as, spec))
    }

    fn pod_files(&self, pod_id: &str, namespaces: &PodNamespaces) -> PodFiles {
        use berth_runtime::monitor::protocol::PodNamespace;
        let ipc = match namespaces.path(PodNamespace::Ipc) {
            Some(_) => Ipc::Pod,
            None => Ipc::Host,
        };
        self.paths().pod_files(pod_id, ipc)
    }

    /// The init of the container whose pid namespace is to be joined.
    async fn target_pid(&self, record: &ContainerRecord) -> Result<Option<i32>, Error> {
        let Some(options) = super::spec::security_context(&record.config.0).namespace_options
        else {
            return Ok(None);
        };
        if options.pid != v1::NamespaceMode::Target as i32 {
            return Ok(None);
        }
        let target = self.view(&options.target_id).await?;
        if target.record.pod_id != record.pod_id {
            return Err(Error::invalid(format!(
                "linux.security_context.namespace_options.target_id: {} is in another sandbox",
                options.target_id
            )));
        }
        Ok((target.pid != 0).then_some(target.pid))
    }

    /// Starts a container that was made.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it was started before, `Runtime` with the
    /// OCI runtime's words, which the container's status tells from then on.
    pub async fn start(&self, wanted: &str) -> Result<(), Error> {
        let record = self.container(wanted)?;
        self.to_the_end(move |engine| async move {
            let pod_dir = engine.paths().pod(&record.pod_id);
            let request = Request::Start {
                id: record.id.clone(),
            };
            match monitor_link::call(&pod_dir, request).await {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::Runtime => {
                    engine.keep_start_failure(&record, &error).await?;
                    Err(error)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    async fn keep_start_failure(
        &self,
        record: &ContainerRecord,
        error: &Error,
    ) -> Result<(), Error> {
        let locked = self.records().lock_pod(&record.pod_id).await?;
        let Some(mut record) = self.records().read_container(&record.pod_id, &record.id)? else {
            return Ok(());
        };
        let message = error.chain();
        record.start_failure = Some(StartFailure {
            at: now_nanoseconds(),
            exit_code: exit_code_of_failure(&message),
            message,
        });
        locked.write_container(&record)
    }

    /// The stop signal, then `SIGKILL` to all its processes after the grace.
    /// Idempotent.
    ///
    /// # Errors
    ///
    /// `Timeout` when the kernel does not end it, `Unavailable` when its monitor
    /// is gone while it may run.
    pub async fn stop(&self, wanted: &str, grace: Duration) -> Result<(), Error> {
        // The CRI asks for success here: what is gone is stopped.
        let Some(record) = gone_is_none(self.container(wanted))? else {
            return Ok(());
        };
        let pod = self.records().read_pod(&record.pod_id)?;
        self.to_the_end(move |engine| async move {
            let pod_dir = engine.paths().pod(&record.pod_id);
            match monitor_link::status(&pod_dir).await? {
                Some(live) => {
                    let ended = live
                        .iter()
                        .find(|live| live.id == record.id)
                        .is_none_or(|live| live.state == LiveState::Exited);
                    match ended {
                        true => Ok(()),
                        false => end_by_signals(&pod_dir, &record, grace).await,
                    }
                }
                // Without a monitor there is nobody to wait with: the OCI
                // runtime kills and deletes what may be left of it.
                None => match pod {
                    Some(pod) => engine.delete_by_runtime(&pod, &record.id).await,
                    None => Ok(()),
                },
            }
        })
        .await
    }

    /// Removes a container, running or not. Idempotent.
    ///
    /// # Errors
    ///
    /// What could not be removed; the record stays then, for another try.
    pub async fn remove(&self, wanted: &str) -> Result<(), Error> {
        let Some(record) = self.records().find_container(wanted)? else {
            return Ok(());
        };
        self.to_the_end(move |engine| async move {
            let Some(locked) = gone_is_none(engine.records().lock_pod(&record.pod_id).await)?
            else {
                return Ok(());
            };
            let pod = locked.read()?;
            engine.take_away(&locked, &pod, &record.id).await
        })
        .await
    }

    /// Undoes all that a container has, however far it got, its record last.
    pub(super) async fn take_away(
        &self,
        locked: &LockedPod,
        pod: &PodRecord,
        id: &str,
    ) -> Result<(), Error> {
        let pod_dir = self.paths().pod(&pod.id);
        let mut failures = Failures::default();
        let request = Request::Delete { id: id.to_owned() };
        failures.note(match monitor_link::call(&pod_dir, request).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.delete_by_runtime(pod, id).await
            }
            Err(error) => Err(error),
        });
        failures.note(self.remove_root(&pod.id, id).await);
        failures.note(record_files::remove_file(&monitor_link::exit_path(
            &pod_dir, id,
        )));
        failures.into_result(&format!("container {id} was not removed whole"))?;
        locked.remove_container(id)
    }

    /// Unmounts a container's root, and removes its bundle and what it wrote.
    pub(super) async fn remove_root(&self, pod_id: &str, id: &str) -> Result<(), Error> {
        let images = self.images().clone();
        let bundle = self.paths().bundle(pod_id, id);
        let rootfs = self.paths().rootfs(pod_id, id);
        let id = id.to_owned();
        blocking(move || {
            images.unmount_snapshot(&id, &rootfs).map_err(image_error)?;
            mount_table::remove_unmounted(&bundle)
        })
        .await
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    ///
    /// `NotFound` for an unknown one, `WrongState` when its end is not known.
    pub async fn wait(&self, wanted: &str) -> Result<ExitRecord, Error> {
        let view = self.view(wanted).await?;
        let record = view.record.clone();
        let pod_dir = self.paths().pod(&record.pod_id);
        match monitor_link::wait(&pod_dir, &record.id).await {
            Ok(exit) => return Ok(exit),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
        // The monitor was shut down meanwhile; the exit is on disk by then.
        let view = self.view(&record.id).await?;
        if view.state == v1::ContainerState::ContainerExited && view.finished_at != 0 {
            return Ok(ExitRecord {
                id: record.id,
                exit_code: view.exit_code,
                signal: None,
                oom_killed: view.reason == "OOMKilled",
                started_at: view.started_at,
                finished_at: view.finished_at,
            });
        }
        Err(Error::new(
            ErrorKind::WrongState,
            format!(
                "container {}: nobody saw how it ended: {}",
                view.record.id, view.message
            ),
        ))
    }

    /// Changes the limits of a container.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Invalid` for a field, `WrongState` when it does not run,
    /// `Runtime` with the OCI runtime's words.
    pub async fn update(
        &self,
        wanted: &str,
        update: v1::LinuxContainerResources,
    ) -> Result<(), Error> {
        let limits = resources::plan_limits(&update, self.host())?;
        let view = self.view(wanted).await?;
        if !matches!(
            view.state,
            v1::ContainerState::ContainerRunning | v1::ContainerState::ContainerCreated
        ) {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!(
                    "container {}: does not run; nothing was changed",
                    view.record.id
                ),
            ));
        }
        let record = view.record;
        self.to_the_end(move |engine| async move {
            let locked = engine.records().lock_pod(&record.pod_id).await?;
            let pod = locked.read()?;
            engine.update_by_runtime(&pod, &record.id, &limits).await?;
            let Some(mut record) = engine.records().read_container(&pod.id, &record.id)? else {
                return Ok(());
            };
            record.resources = Encoded(resources::merge_limits(&record.resources.0, &update));
            locked.write_container(&record)
        })
        .await
    }

    /// Opens the log file anew after a rotation.
    ///
    /// # Errors
    ///
    /// `NotFound`, `WrongState` when it does not run.
    pub async fn reopen_log(&self, wanted: &str) -> Result<(), Error> {
        let record = self.container(wanted)?;
        let pod_dir = self.paths().pod(&record.pod_id);
        monitor_link::call(&pod_dir, Request::ReopenLog { id: record.id }).await?;
        Ok(())
    }
}

/// What is looked at to plan a container.
struct Subject<'a> {
    pod: &'a PodRecord,
    image: &'a Image,
    record: &'a ContainerRecord,
    rootfs: &'a Path,
    target_pid: Option<i32>,
}

/// The stop signal, the grace, then `SIGKILL` to everything in the container.
async fn end_by_signals(
    pod_dir: &Path,
    record: &ContainerRecord,
    grace: Duration,
) -> Result<(), Error> {
    if !grace.is_zero() {
        signal(pod_dir, &record.id, record.stop_signal, Whom::Init).await?;
        if ends_within(pod_dir, &record.id, grace).await? {
            return Ok(());
        }
    }
    signal(pod_dir, &record.id, SIGKILL, Whom::All).await?;
    if ends_within(pod_dir, &record.id, KILL_PATIENCE).await? {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Timeout,
        format!(
            "container {}: SIGKILL did not end it within {} seconds; a system call may hang",
            record.id,
            KILL_PATIENCE.as_secs()
        ),
    ))
}

/// Which processes of a container a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Init,
    All,
}

async fn signal(pod_dir: &Path, id: &str, signal: i32, whom: Whom) -> Result<(), Error> {
    let request = Request::Kill {
        id: id.to_owned(),
        signal,
        all: whom == Whom::All,
    };
    match monitor_link::call(pod_dir, request).await {
        Ok(Reply::Failed { .. } | _) => Ok(()),
        // It ended, or was removed, between the look and the call.
        Err(error) if matches!(error.kind(), ErrorKind::WrongState | ErrorKind::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn ends_within(pod_dir: &Path, id: &str, patience: Duration) -> Result<bool, Error> {
    match tokio::time::timeout(patience, monitor_link::wait(pod_dir, id)).await {
        Ok(Ok(_)) => Ok(true),
        // Removed by somebody else, or its whole pod was shut down.
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => {
            Ok(true)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn write_config(bundle: &Path, spec: &Spec) -> Result<(), Error> {
    let path = bundle.join(CONFIG_FILE);
    let bytes = serde_json::to_vec(spec).map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("encode {}", path.display()),
            error,
        )
    })?;
    std::fs::write(&path, bytes).map_err(|error| record_files::storage("write", &path, error))
}

/// The configuration that a container was made from.
///
/// # Errors
///
/// `Storage` when it is gone or damaged.
pub(super) fn read_config(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join(CONFIG_FILE);
    Spec::load(&path).map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("read {}", path.display()),
            error,
        )
    })
}

/// The log's place: the sandbox's directory and the container's name in it.
fn plan_log_path(
    sandbox: &v1::PodSandboxConfig,
    config: &v1::ContainerConfig,
) -> Result<Option<PathBuf>, Error> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let directory = super::spec::clean_absolute("config.log_directory", &sandbox.log_directory)?;
    // The second part is relative; as an absolute one it would leave the first.
    let below = super::spec::clean_absolute("config.log_path", &format!("/{}", config.log_path))?;
    Ok(Some(
        directory.join(below.strip_prefix("/").unwrap_or(&below)),
    ))
}

/// Says once a process that scores are raised: a kubelet asks for each container.
fn tell_of_raised_score(config: &v1::ContainerConfig, lowest: i32) {
    static TOLD: std::sync::Once = std::sync::Once::new();
    let wanted = config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref())
        .map(|resources| resources.oom_score_adj);
    if wanted.is_some_and(|wanted| wanted < i64::from(lowest)) {
        TOLD.call_once(|| {
            tracing::warn!(
                "this process lacks CAP_SYS_RESOURCE: containers get an oom_score_adj of at least \
                 {lowest}"
            );
        });
    }
}

/// The CRI: "If the hostPath doesn't exist, then runtimes should report error."
fn refuse_missing_sources(mounts: &[v1::Mount]) -> Result<(), Error> {
    for mount in mounts {
        std::fs::metadata(&mount.host_path).map_err(|error| {
            Error::caused(
                ErrorKind::Invalid,
                format!(
                    "mounts.host_path: {} for {}",
                    mount.host_path, mount.container_path
                ),
                error,
            )
        })?;
    }
    Ok(())
}

fn read_seccomp(choice: &SeccompChoice) -> Result<Seccomp, Error> {
    match choice {
        SeccompChoice::Unconfined => Ok(Seccomp::Unconfined),
        SeccompChoice::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        SeccompChoice::File(path) => {
            let failed = |error: std::io::Error| {
                Error::caused(
                    ErrorKind::Invalid,
                    format!(
                        "linux.security_context.seccomp.localhost_ref: {}",
                        path.display()
                    ),
                    error,
                )
            };
            let bytes = std::fs::read(path).map_err(failed)?;
            let profile = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
            Ok(Seccomp::Profile(Box::new(profile)))
        }
    }
}

/// What a shell would say of a program that it cannot run.
fn exit_code_of_failure(message: &str) -> i32 {
    let message = message.to_ascii_lowercase();
    if message.contains("no such file") || message.contains("not found") {
        127
    } else if message.contains("permission denied") {
        126
    } else {
        128
    }
}

/// The image store's kinds in the engine's words.
pub(super) fn image_error(error: crate::images::error::Error) -> Error {
    use crate::images::error::ErrorKind as Images;
    let kind = match error.kind() {
        Images::InvalidInput => ErrorKind::Invalid,
        Images::NotFound => ErrorKind::NotFound,
        Images::Unsupported => ErrorKind::Unsupported,
        Images::Unauthorized => ErrorKind::Permission,
        _ => ErrorKind::Image,
    };
    Error::caused(kind, "the image store", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_stays_in_its_directory() {
        let sandbox = v1::PodSandboxConfig {
            log_directory: "/var/log/pods/x".to_owned(),
            ..Default::default()
        };
        let at = |path: &str| {
            plan_log_path(
                &sandbox,
                &v1::ContainerConfig {
                    log_path: path.to_owned(),
                    ..Default::default()
                },
            )
        };
        assert_eq!(
            at("main/0.log").unwrap().as_deref(),
            Some(Path::new("/var/log/pods/x/main/0.log"))
        );
        assert_eq!(
            at("/main/0.log").unwrap().as_deref(),
            Some(Path::new("/var/log/pods/x/main/0.log"))
        );
        assert_eq!(at("").unwrap(), None);
        assert!(at("../../etc/passwd").is_err());
    }

    #[test]
    fn a_failed_start_has_a_shells_status() {
        assert_eq!(exit_code_of_failure("exec: No such file or directory"), 127);
        assert_eq!(exit_code_of_failure("exec: Permission denied"), 126);
        assert_eq!(exit_code_of_failure("mount failed"), 128);
    }

    #[test]
    fn a_profile_that_cannot_be_read_is_named() {
        let error = read_seccomp(&SeccompChoice::File("/nowhere.json".into())).unwrap_err();
        assert!(error.chain().contains("/nowhere.json"), "{}", error.chain());
        assert_eq!(
            read_seccomp(&SeccompChoice::Unconfined).unwrap(),
            Seccomp::Unconfined
        );
    }

    #[test]
    fn a_missing_source_is_refused() {
        let mount = v1::Mount {
            host_path: "/nowhere".to_owned(),
            container_path: "/data".to_owned(),
            ..Default::default()
        };
        let error = refuse_missing_sources(&[mount]).unwrap_err();
        assert!(
            error.chain().contains("/nowhere for /data"),
            "{}",
            error.chain()
        );
    }
}
