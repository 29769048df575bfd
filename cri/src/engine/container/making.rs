//! Making a container: all or nothing.
//!
//! ```text
//! create ─▶ record half-made ─▶ mount the image ─▶ plan the OCI configuration
//!                                                        │
//!           record made ◀── monitor: `berth-oci create` ◀┘
//! ```
//!
//! A server answers while the last step is still under way (`MadeMeans::Begun`): the
//! record says made, the monitor has all it needs, and whoever wants the container itself
//! waits (`under_way.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::{
    ContainerRecord as Live, ContainerState as LiveState, CreateContainer, PodNamespace, Reply,
    Request,
};
use oci_spec::runtime::Spec;
use serde_json::value::RawValue;
use tracing::Instrument as _;

use super::{image_error, image_volumes};
use crate::engine::config::MadeMeans;
use crate::engine::error::{Error, ErrorKind};
use crate::engine::id::random_id;
use crate::engine::monitor_link::{self, Sent, blocking};
use crate::engine::paths::Ipc;
use crate::engine::records::lock::LockedPod;
use crate::engine::records::{
    ContainerPhase, ContainerRecord, Encoded, PodPhase, PodRecord, RunAs, files as record_files,
    no_such_container,
};
use crate::engine::spec::mounts::PodFiles;
use crate::engine::spec::namespaces::PodNamespaces;
use crate::engine::spec::security::{Seccomp, SeccompChoice};
use crate::engine::spec::user::ResolvedUser;
use crate::engine::spec::{
    SpecInputs, clean_absolute, devices, plan_spec, process, security, security_context, user,
};
use crate::engine::{Engine, cgroups, step};
use crate::images::Image;
use crate::images::id_map::IdMap;
use crate::v1;

/// What a configuration calls itself for a runtime that is not ours. The fields
/// are the same; crun before 1.8.2 refuses a later word than 1.0, and what a
/// runtime does not know it passes over (runtime-spec, "Extensibility").
const OLDEST_VERSION: &str = "1.0.2";
/// What traces call the last step.
const RUNTIME_STEP: &str = "create by the runtime";
/// A name that the OCI gives the configuration.
const CONFIG_FILE: &str = "config.json";

/// What a container will be, apart from what needs its mounted root.
#[derive(Debug)]
struct ContainerPlan {
    pod: PodRecord,
    image: Image,
    /// The images of its image volumes, in the mounts' order.
    volumes: Vec<Image>,
    record: ContainerRecord,
}

/// What is looked at to plan a container.
struct Subject<'a> {
    pod: &'a PodRecord,
    image: &'a Image,
    record: &'a ContainerRecord,
    rootfs: &'a Path,
    target_pid: Option<i32>,
}

impl Engine {
    /// Makes a container in a sandbox: all or nothing.
    ///
    /// # Errors
    ///
    /// `NotFound` for the sandbox or the image, `WrongState` when the sandbox is
    /// not ready, `Invalid` for a field, `Runtime` with the OCI runtime's words; where
    /// made means begun, the last is told by [`Engine::start`].
    pub async fn create(&self, request: v1::CreateContainerRequest) -> Result<String, Error> {
        let plan = self.plan_container(request)?;
        self.to_the_end(move |engine| async move { engine.make_container(plan).await })
            .await
    }

    fn plan_container(&self, request: v1::CreateContainerRequest) -> Result<ContainerPlan, Error> {
        let pod = self.sandbox(&request.pod_sandbox_id)?;
        let mut config = request
            .config
            .ok_or_else(|| Error::invalid("config: is missing"))?;
        let volumes = image_volumes::plan(&mut config.mounts, self.images())?;
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
            cgroup: cgroups::container_path(&pod.cgroup, &id),
            start_failure: None,
            exit: None,
            config: Encoded(config),
            id,
        };
        Ok(ContainerPlan {
            pod,
            image,
            volumes,
            record,
        })
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
        locked.begin_container(&record)?;
        let made = match self.apply_container(&plan, &mut record).await {
            Ok(create) => self.finish_making(&locked, &mut record, create).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => Ok(record.id),
            Err(error) => {
                if let Err(left) = self.take_away(&locked, &plan.pod, &record.id).await {
                    tracing::warn!(container = %record.id, "not undone: {}", left.chain());
                }
                Err(not_made(&record, error))
            }
        }
    }

    /// The record is made when the container is, or when nothing but the OCI runtime is
    /// missing.
    async fn finish_making(
        &self,
        locked: &LockedPod,
        record: &mut ContainerRecord,
        create: CreateContainer,
    ) -> Result<(), Error> {
        record.phase = ContainerPhase::Made;
        let pod_dir = self.paths().pod(&record.pod_id);
        let request = Request::Create(create);
        let teller = match self.config().made {
            MadeMeans::Created => None,
            MadeMeans::Begun => self.under_way().begin(&record.id),
        };
        let Some(teller) = teller else {
            monitor_link::call(&pod_dir, request)
                .instrument(step(RUNTIME_STEP))
                .await?;
            return locked.write_container(record);
        };
        // The record first: from the request on, the runtime wants the processors.
        locked.write_container(record)?;
        let sent = monitor_link::send(&pod_dir, &[request]).await?;
        let (engine, record) = (self.clone(), record.clone());
        let follow = async move {
            let outcome = engine.follow_making(&record, sent).await;
            engine.under_way().end(&record.id, teller, &outcome);
        };
        tokio::spawn(follow.instrument(step(RUNTIME_STEP)));
        Ok(())
    }

    /// What becomes of a container whose maker has his answer.
    async fn follow_making(&self, record: &ContainerRecord, mut sent: Sent) -> Result<(), Error> {
        let error = match sent.answer().await {
            Ok(Reply::Created { pid }) => {
                let told = Live {
                    id: record.id.clone(),
                    pid,
                    state: LiveState::Created,
                    created_at: record.created_at,
                    started_at: 0,
                    exit: None,
                };
                self.keep_word(&record.pod_id, &[told], sent);
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let error = not_made(record, error);
        tracing::warn!(container = %record.id, "{}", error.chain());
        // A monitor that is lost has said nothing of the container.
        if error.kind() != ErrorKind::Unavailable
            && let Err(unwritten) = self.keep_start_failure(record, &error).await
        {
            tracing::warn!(container = %record.id, "not noted: {}", unwritten.chain());
        }
        Err(error)
    }

    /// A name and attempt stand for one container of a pod.
    fn refuse_second_name(&self, record: &ContainerRecord) -> Result<(), Error> {
        let listing = self.records().list_containers(&record.pod_id)?;
        let same = |other: &&Arc<ContainerRecord>| {
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

    /// The steps, in order; what each makes, `take_away` removes. The last is the
    /// monitor's, and is what this gives back.
    async fn apply_container(
        &self,
        plan: &ContainerPlan,
        record: &mut ContainerRecord,
    ) -> Result<CreateContainer, Error> {
        let bundle = self.paths().bundle(&record.pod_id, &record.id);
        let rootfs = self.paths().rootfs(&record.pod_id, &record.id);
        let target_pid = self.target_pid(record).await?;
        let ids = self.id_map(&plan.pod)?;
        let inside = tracing::Span::current();
        let (engine, bundle_path) = (self.clone(), bundle.clone());
        let (pod, image) = (plan.pod.clone(), plan.image.clone());
        // The places of the image volumes are nobody else's business: what
        // is kept and told is the request.
        let (mut planned, volumes) = (record.clone(), plan.volumes.clone());
        record.run_as = blocking(move || {
            let _inside = inside.enter();
            let target = image_volumes::Target {
                bundle: &bundle_path,
                container_id: &planned.id,
                ids: ids.as_ref(),
            };
            step("mount the image").in_scope(|| {
                engine.mount_image(&planned.id, &image, &rootfs, ids.as_ref())?;
                let mounts = &mut planned.config.0.mounts;
                image_volumes::mount(engine.images(), &target, &volumes, mounts)
            })?;
            let (run_as, spec) = step("plan the container").in_scope(|| {
                engine.observe_and_plan(&Subject {
                    pod: &pod,
                    image: &image,
                    record: &planned,
                    rootfs: &rootfs,
                    target_pid,
                })
            })?;
            write_config(&bundle_path, &spec)?;
            if let Some(folder) = planned.log_path.as_deref().and_then(Path::parent) {
                record_files::ensure_directory(folder)?;
            }
            Ok(run_as)
        })
        .await?;
        Ok(self.create_request(record))
    }

    /// What the monitor is told of a container that is prepared.
    fn create_request(&self, record: &ContainerRecord) -> CreateContainer {
        let config = &record.config.0;
        CreateContainer {
            id: record.id.clone(),
            bundle: self.paths().bundle(&record.pod_id, &record.id),
            log_path: record.log_path.clone(),
            terminal: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
        }
    }

    /// Asks the OCI runtime for a container that is prepared and that the monitor does not
    /// know: the server that told of it was killed before it asked, or before it heard
    /// that the runtime had failed.
    ///
    /// # Errors
    ///
    /// `NotFound` when it is being removed, `WrongState` when it was started before or its
    /// sandbox is not ready, `Runtime` with the OCI runtime's words.
    pub(super) async fn make_again(&self, record: &ContainerRecord) -> Result<(), Error> {
        let locked = self.records().lock_pod(&record.pod_id).await?;
        let (pod_dir, id) = (self.paths().pod(&record.pod_id), &record.id);
        let record = self.records().read_container(&record.pod_id, id)?;
        let record = record.ok_or_else(|| no_such_container(id))?;
        let ended = record.start_failure.is_some()
            || record.exit.is_some()
            || monitor_link::read_exit(&pod_dir, id)?.is_some();
        if ended || locked.read()?.phase != PodPhase::Ready {
            return Err(Error::new(
                ErrorKind::WrongState,
                format!("container {id}: was started before, or its sandbox is not ready"),
            ));
        }
        let live = monitor_link::status(&pod_dir).await?.unwrap_or_default();
        if live.iter().any(|live| live.id == *id) {
            return Ok(());
        }
        let request = Request::Create(self.create_request(&record));
        monitor_link::call(&pod_dir, request)
            .await
            .map_err(|error| not_made(&record, error))?;
        Ok(())
    }

    /// How the image's owners are seen in the pod.
    fn id_map(&self, pod: &PodRecord) -> Result<Option<IdMap>, Error> {
        let namespaces = PodNamespaces::plan(&pod.config.0, &self.paths().pod(&pod.id))?;
        let file = namespaces.path(PodNamespace::User);
        match (file, namespaces.users().mappings()) {
            (Some(file), Some(mappings)) => IdMap::open(&file, mappings.clone())
                .map(Some)
                .map_err(image_error),
            _ => Ok(None),
        }
    }

    /// Mounts the root.
    fn mount_image(
        &self,
        container_id: &str,
        image: &Image,
        rootfs: &Path,
        ids: Option<&IdMap>,
    ) -> Result<(), Error> {
        record_files::ensure_directory(rootfs)?;
        self.images()
            .mount_snapshot(container_id, image, rootfs, ids)
            .map_err(image_error)
    }

    /// Looks up what the plan needs from the mounted image and from the host.
    fn observe_and_plan(&self, subject: &Subject<'_>) -> Result<(RunAs, Spec), Error> {
        let config = &subject.record.config.0;
        let sandbox = &subject.pod.config.0;
        let context = security_context(config);
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
            cgroups_path: &cgroups::oci_path(&subject.pod.cgroup, &subject.record.id),
            defaults: &self.config().defaults,
            rootfs: subject.rootfs,
            pod_id: &subject.pod.id,
        };
        let mut spec = plan_spec(&inputs)?;
        if !subject.pod.has_own_runtime() {
            spec.set_version(OLDEST_VERSION.to_owned());
        }
        tell_of_raised_score(config, self.host().lowest_oom_score_adj);
        Ok((run_as, spec))
    }

    fn pod_files(&self, pod_id: &str, namespaces: &PodNamespaces) -> PodFiles {
        let ipc = match namespaces.path(PodNamespace::Ipc) {
            Some(_) => Ipc::Pod,
            None => Ipc::Host,
        };
        self.paths().pod_files(pod_id, ipc)
    }

    /// The init of the container whose pid namespace is to be joined.
    async fn target_pid(&self, record: &ContainerRecord) -> Result<Option<i32>, Error> {
        let Some(options) = security_context(&record.config.0).namespace_options else {
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
}

fn not_made(record: &ContainerRecord, error: Error) -> Error {
    let text = format!("container {} was not made", record.name);
    Error::caused(error.kind(), text, error)
}

/// The configuration that a container was made from.
///
/// # Errors
///
/// `Storage` when it is gone or damaged.
pub(in crate::engine) fn read_config(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join(CONFIG_FILE);
    Spec::load(&path).map_err(|error| {
        Error::caused(
            ErrorKind::Storage,
            format!("read {}", path.display()),
            error,
        )
    })
}

/// The same as it was written, for those who only pass it on; nothing where it is gone or
/// no JSON.
pub(in crate::engine) fn read_config_text(bundle: &Path) -> Option<Box<RawValue>> {
    let text = std::fs::read_to_string(bundle.join(CONFIG_FILE)).ok()?;
    RawValue::from_string(text).ok()
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

/// The log's place: the sandbox's directory and the container's name in it.
fn plan_log_path(
    sandbox: &v1::PodSandboxConfig,
    config: &v1::ContainerConfig,
) -> Result<Option<PathBuf>, Error> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let directory = clean_absolute("config.log_directory", &sandbox.log_directory)?;
    // The second part is relative; as an absolute one it would leave the first.
    let below = clean_absolute("config.log_path", &format!("/{}", config.log_path))?;
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
