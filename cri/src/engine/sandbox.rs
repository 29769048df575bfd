//! Making, stopping and removing sandboxes.
//!
//! A sandbox is a monitor with the namespaces it pins, an address, and a few
//! files. There is no pause container: the pinned namespaces need no process to
//! live (namespaces(7), "Namespace lifetime").
//!
//! One function, [`Engine::take_down`], undoes everything a sandbox has,
//! however far it got. A failed run, a stop and a recovery all call it, so the
//! way that is walked after a crash is the way that every stop walks.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_netd::request::{HostPort, PodNetwork, Protocol};
use berth_runtime::clock::now_nanoseconds;
use berth_runtime::monitor::protocol::{MonitorConfig, PodNamespace, Request};
use berth_runtime::plan::mappings::Mappings;
use tracing::Instrument as _;

use super::Engine;
use super::error::{Error, ErrorKind, Failures};
use super::id::random_id;
use super::monitor_link::{self, blocking};
use super::paths::Ipc;
use super::records::lock::LockedPod;
use super::records::{Encoded, NetworkBy, PodPhase, PodRecord, files as record_files, no_such_pod};
use super::salvage::Found;
use super::spec::namespaces::PodNamespaces;
use super::spec::user_namespace::PodUsers;
use super::step;
use super::{files, mount_table, user_ids};
use crate::v1;

/// The name of the interface in every pod.
pub const POD_INTERFACE: &str = "eth0";
/// `HOST_NAME_MAX` (gethostname(2)).
const HOSTNAME_LIMIT_BYTES: usize = 64;

/// What a sandbox will be, worked out before anything is made.
#[derive(Debug, Clone)]
struct SandboxPlan {
    record: PodRecord,
    monitor: MonitorConfig,
    namespaces: PodNamespaces,
    host_ports: Vec<HostPort>,
    hostname: String,
    ipc: Ipc,
}

/// What becomes of how containers ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exits {
    /// Told of as long as there is a record.
    Keep,
    /// The record goes too.
    Forget,
}

impl Engine {
    /// Makes a sandbox: all or nothing.
    ///
    /// # Errors
    ///
    /// `Invalid` and `Unsupported` before anything was touched; `Conflict` when
    /// the same pod and attempt has a sandbox; after another failure everything
    /// was taken down again.
    pub async fn run_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String, Error> {
        let plan = self.plan_sandbox(config, runtime_handler)?;
        if plan.namespaces.users().are_own() {
            self.refuse_unmapped_layers().await?;
        }
        self.to_the_end(move |engine| async move { engine.make_sandbox(plan).await })
            .await
    }

    /// Pure, apart from the random id and the time.
    fn plan_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<SandboxPlan, Error> {
        let metadata = check_metadata(&config)?;
        let chosen = self
            .runtimes()
            .choose(&runtime_handler, &self.config().oci_runtime)?;
        let id = random_id();
        let namespaces = PodNamespaces::plan(&config, &self.paths().pod(&id))?;
        let has = |namespace| namespaces.pinned().contains(&namespace);
        let hostname = plan_hostname(&config)?;
        let cgroup = super::cgroups::pod_group(&config, &id, self.config())?;
        let mut oci_arguments = chosen.runtime.arguments;
        if super::cgroups::is_slice(&cgroup) {
            oci_arguments.push("--systemd-cgroup".to_owned());
        }
        let monitor = MonitorConfig {
            pod_id: id.clone(),
            hostname: has(PodNamespace::Uts).then(|| hostname.clone()),
            namespaces: namespaces.pinned().to_vec(),
            id_mappings: namespaces.users().mappings().cloned(),
            sysctls: plan_sysctls(&config, &namespaces)?,
            // Entering a group costs about a millisecond for each v1 hierarchy.
            cgroup: None,
            oci_runtime: chosen.runtime.program.clone(),
            oci_root: self.paths().oci_root(&chosen.name),
            oci_arguments: oci_arguments.clone(),
        };
        let host_ports = match has(PodNamespace::Net) {
            true => plan_host_ports(&config)?,
            false => Vec::new(),
        };
        let ipc = match has(PodNamespace::Ipc) {
            true => Ipc::Pod,
            false => Ipc::Host,
        };
        let record = PodRecord {
            format: PodRecord::format(),
            id,
            name: metadata.name,
            namespace: metadata.namespace,
            phase: PodPhase::HalfMade,
            maker_pid: std::process::id(),
            created_at: now_nanoseconds(),
            config: Encoded(config),
            oci_state: (chosen.name != runtime_handler).then_some(chosen.name),
            runtime_handler,
            oci_runtime: chosen.runtime.program,
            oci_arguments,
            cgroup,
            network_by: self.network_maker(),
            network: None,
            end_failed_at: None,
        };
        Ok(SandboxPlan {
            record,
            monitor,
            namespaces,
            host_ports,
            hostname,
            ipc,
        })
    }

    /// In a pod with a user namespace the files of an image have its owners.
    async fn refuse_unmapped_layers(&self) -> Result<(), Error> {
        let images = self.images().clone();
        blocking(move || {
            images.maps_ids().map_err(|error| {
                let what = "linux.security_context.namespace_options.userns_options: this machine \
                            cannot give images the ids of a user namespace; nothing was made";
                Error::caused(ErrorKind::Unsupported, what, error)
            })
        })
        .await
    }

    async fn make_sandbox(&self, mut plan: SandboxPlan) -> Result<String, Error> {
        let locked = self.reserve_sandbox(&mut plan).await?;
        let mut record = plan.record.clone();
        let mut outcome = self.apply_sandbox(&plan, &locked, &mut record).await;
        if outcome.is_ok() {
            record.phase = PodPhase::Ready;
            outcome = locked.write(&record);
        }
        match outcome {
            Ok(()) => Ok(record.id),
            Err(error) => Err(self.undo_sandbox(locked, &record, error).await),
        }
    }

    /// Writes the half-made record, unless this pod and attempt has one already.
    ///
    /// A half-made one whose maker has died does not count, and is undone: who
    /// asks again after a server was killed must not be refused for ever.
    ///
    /// What no other sandbox may have is chosen here too, under the same lock.
    async fn reserve_sandbox(&self, plan: &mut SandboxPlan) -> Result<LockedPod, Error> {
        loop {
            let (engine, record) = (self.clone(), plan.record.clone());
            let taken = blocking(move || take_name(&engine, record)).await?;
            match taken {
                Name::Taken(reserved) => {
                    plan.record = reserved.record;
                    if reserved.ids.is_some() {
                        plan.monitor.id_mappings = reserved.ids;
                    }
                    return Ok(reserved.locked);
                }
                Name::OfDead(locked, other) => {
                    // On the heap: what a teardown keeps is much, and seldom needed.
                    Box::pin(self.undo_half_made(locked, &other)).await?;
                }
            }
        }
    }

    /// The steps, in order; what each makes, `take_down` removes.
    async fn apply_sandbox(
        &self,
        plan: &SandboxPlan,
        locked: &LockedPod,
        record: &mut PodRecord,
    ) -> Result<(), Error> {
        let id = record.id.clone();
        let pod_dir = self.paths().pod(&id);
        record_files::ensure_directory(&pod_dir.join("containers"))?;
        record_files::ensure_directory(&plan.monitor.oci_root)?;
        let owner = files::Owner::of(plan.monitor.id_mappings.as_ref());
        if plan.ipc == Ipc::Pod {
            files::mount_shared_memory(&self.paths().shm(&id), owner)?;
        }
        // Were this process killed now, the starter would still bring a monitor
        // up: it holds the lock meanwhile, so that no recovery comes between.
        let lock = locked.share()?;
        monitor_link::start(&self.config().oci_runtime, &pod_dir, &plan.monitor, lock)
            .instrument(step("start the monitor"))
            .await?;
        if let Some(netns) = plan.namespaces.path(PodNamespace::Net) {
            let ports = plan.host_ports.clone();
            let attached = self.attach_network(record, netns, ports);
            let attached = attached.instrument(step("attach the network"));
            record.network = Some(attached.await?);
        }
        let shared = self.paths().pod_files(&id, plan.ipc);
        files::write_pod_files(
            &shared,
            &record.config.0,
            &plan.hostname,
            record.network.as_ref(),
        )?;
        files::give_pod_files(&shared, owner)
    }

    /// Takes down what was made and removes the record; the error is why.
    async fn undo_sandbox(&self, locked: LockedPod, record: &PodRecord, error: Error) -> Error {
        let undone = match self.take_down(&locked, record).await {
            Ok(()) => self.clear_away(record).await.and_then(|()| locked.remove()),
            // The record stays half-made, so that the next recovery tries again.
            Err(left) => Err(left),
        };
        if let Err(left) = undone {
            tracing::warn!(pod = %record.id, "not undone: {}", left.chain());
        }
        Error::caused(
            error.kind(),
            format!(
                "the sandbox of pod {}/{} was not made",
                record.namespace, record.name
            ),
            error,
        )
    }

    /// Ends every process of a sandbox and gives its network back. Idempotent.
    ///
    /// # Errors
    ///
    /// What could not be taken down; the rest was.
    pub async fn stop_sandbox(&self, wanted: &str) -> Result<(), Error> {
        // The CRI asks for success here: what is gone is stopped.
        let Some(id) = self.records().find_pod_id(wanted)? else {
            return Ok(());
        };
        self.to_the_end(move |engine| async move {
            let Some(locked) = gone_is_none(engine.records().lock_pod(&id).await)? else {
                return Ok(());
            };
            // Without a record its maker has not begun.
            match gone_is_none(engine.read_or_salvage(&locked))? {
                None => Ok(()),
                Some(Found::Whole(record)) => engine.stop_locked(&locked, record).await,
                Some(Found::StandIn(record)) => engine.end_pod(&locked, &record, Exits::Keep).await,
            }
        })
        .await
    }

    pub(super) async fn stop_locked(
        &self,
        locked: &LockedPod,
        mut record: PodRecord,
    ) -> Result<(), Error> {
        note_end(locked, &mut record);
        self.take_down(locked, &record).await?;
        if record.phase != PodPhase::Stopped {
            record.phase = PodPhase::Stopped;
            locked.write(&record)?;
        }
        Ok(())
    }

    /// Removes a sandbox with its containers, running or not. Idempotent.
    ///
    /// # Errors
    ///
    /// What could not be removed; the record stays then, for another try.
    pub async fn remove_sandbox(&self, wanted: &str) -> Result<(), Error> {
        let Some(id) = self.records().find_pod_id(wanted)? else {
            return Ok(());
        };
        self.to_the_end(move |engine| async move {
            let Some(locked) = gone_is_none(engine.records().lock_pod(&id).await)? else {
                return Ok(());
            };
            let Some(mut found) = gone_is_none(engine.read_or_salvage(&locked))? else {
                return Ok(());
            };
            if let Found::Whole(record) = &mut found {
                note_end(&locked, record);
            }
            let record = found.record();
            // Nobody will ask any more, and a full disk must not keep what fills it.
            engine.end_pod(&locked, record, Exits::Forget).await?;
            engine.clear_away(record).await?;
            locked.remove()
        })
        .await
    }

    /// Ends the monitor with all containers, keeps how they ended, and gives
    /// the network back. Goes on after a failure and tells of all.
    pub(super) async fn take_down(
        &self,
        locked: &LockedPod,
        record: &PodRecord,
    ) -> Result<(), Error> {
        self.end_pod(locked, record, Exits::Keep).await
    }

    async fn end_pod(
        &self,
        locked: &LockedPod,
        record: &PodRecord,
        exits: Exits,
    ) -> Result<(), Error> {
        let pod_dir = self.paths().pod(&record.id);
        let mut failures = Failures::default();
        // Plugins take down what they made inside, so before the namespace goes.
        if record.network_by == NetworkBy::Cni {
            failures.note(self.detach_network(record).await);
        }
        match monitor_link::call(&pod_dir, Request::Shutdown).await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                // It was killed, or never began: its work is left to us.
                failures.note(self.end_without_monitor(record).await);
            }
            Err(error) => failures.note(Err(error)),
        }
        self.witnesses().forget(&record.id);
        if exits == Exits::Keep {
            failures.note(self.keep_exits(locked).await);
        }
        if record.network_by == NetworkBy::Netd {
            failures.note(self.detach_network(record).await);
        }
        failures.into_result(&format!("sandbox {} was not stopped whole", record.id))
    }

    /// What a monitor does at its end, done from outside.
    async fn end_without_monitor(&self, record: &PodRecord) -> Result<(), Error> {
        let mut failures = Failures::default();
        for id in self.records().container_ids(&record.id)? {
            failures.note(self.delete_by_runtime(record, &id).await);
        }
        let namespaces = self
            .paths()
            .pod(&record.id)
            .join(berth_runtime::monitor::protocol::NAMESPACES_FOLDER);
        failures.note(blocking(move || mount_table::unmount_below(&namespaces)).await);
        failures.into_result("without its monitor")
    }

    /// Copies the monitor's exit files into the records: those are in the run
    /// directory, which a reboot empties.
    async fn keep_exits(&self, locked: &LockedPod) -> Result<(), Error> {
        let pod_dir = self.paths().pod(locked.id());
        let listing = self.records().list_containers(locked.id())?;
        for record in listing.records {
            if record.exit.is_none()
                && let Some(exit) = monitor_link::read_exit(&pod_dir, &record.id)?
            {
                let mut record = Arc::unwrap_or_clone(record);
                record.exit = Some(exit);
                locked.write_container(&record)?;
            }
        }
        Ok(())
    }

    /// Removes all that a sandbox that was taken down has on disk, but its record.
    pub(super) async fn clear_away(&self, record: &PodRecord) -> Result<(), Error> {
        let mut failures = Failures::default();
        for id in self.container_leftovers(&record.id)? {
            failures.note(self.remove_root(&record.id, &id).await);
        }
        let pod_dir = self.paths().pod(&record.id);
        failures.note(blocking(move || mount_table::remove_unmounted(&pod_dir)).await);
        let group = record.cgroup.clone();
        let parent = self.config().cgroup_parent.clone();
        failures.note(blocking(move || super::cgroups::remove_pod_group(&group, &parent)).await);
        failures.into_result(&format!("sandbox {} was not removed whole", record.id))
    }

    /// The ids of containers by record or by bundle: a kill may leave either.
    fn container_leftovers(&self, pod_id: &str) -> Result<Vec<String>, Error> {
        let mut ids = self.records().container_ids(pod_id)?;
        let bundles = self.paths().pod(pod_id).join("containers");
        ids.extend(record_files::names_in(&bundles, "")?);
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// The record of a sandbox that was made.
    ///
    /// # Errors
    ///
    /// `NotFound`, also for one that is still being made.
    pub fn sandbox(&self, wanted: &str) -> Result<PodRecord, Error> {
        self.records()
            .find_pod(wanted)?
            .filter(|record| record.phase != PodPhase::HalfMade)
            .ok_or_else(|| no_such_pod(wanted))
    }

    /// Whether a sandbox is ready: made, not stopped, and its monitor answers.
    pub async fn sandbox_state(&self, record: &PodRecord) -> v1::PodSandboxState {
        let ready = record.phase == PodPhase::Ready && self.has_monitor(&record.id).await;
        match ready {
            true => v1::PodSandboxState::SandboxReady,
            false => v1::PodSandboxState::SandboxNotready,
        }
    }
}

/// Writes down that a pod ends, before its monitor hears of it: were this process
/// killed in between, nobody may take the pod for one that can be used.
///
/// A disk that is full must not keep a pod alive, so a failure is only told of.
fn note_end(locked: &LockedPod, record: &mut PodRecord) {
    if record.phase == PodPhase::Ready {
        record.phase = PodPhase::Stopping;
        if let Err(error) = locked.write(record) {
            tracing::warn!(pod = %record.id, "not noted that it ends: {}", error.chain());
        }
    }
}

/// What became of a try to take a pod's name.
enum Name {
    /// It is ours.
    Taken(Box<Reserved>),
    /// It belongs to a sandbox whose maker has died.
    OfDead(LockedPod, Box<PodRecord>),
}

/// A sandbox that has its name, and what was chosen for it with that.
struct Reserved {
    locked: LockedPod,
    record: PodRecord,
    /// The ids, where the choice was ours.
    ids: Option<Mappings>,
}

fn take_name(engine: &Engine, mut record: PodRecord) -> Result<Name, Error> {
    let records = engine.records();
    let _names = records.lock_names()?;
    let same = |other: &PodRecord| other.config.0.metadata == record.config.0.metadata;
    let listing = records.list_pods()?;
    if let Some(other) = listing.records.iter().find(|other| same(other)) {
        if other.phase == PodPhase::HalfMade
            && let Some(locked) = gone_is_none(records.try_lock_pod(&other.id))?.flatten()
        {
            // Read anew: its maker may have finished before we got the lock.
            let other = locked.read()?;
            if other.phase == PodPhase::HalfMade {
                return Ok(Name::OfDead(locked, Box::new(other)));
            }
        }
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "metadata: pod {}/{} has sandbox {} for this uid and attempt already; nothing \
                 was made",
                record.namespace, record.name, other.id
            ),
        ));
    }
    let ids = match PodUsers::plan(&record.config.0)? {
        PodUsers::ToChoose => {
            let taken = user_ids::observe_taken(records, engine.paths())?;
            Some(user_ids::choose(&taken, &mut record.config.0)?)
        }
        PodUsers::Host | PodUsers::Own(_) => None,
    };
    let locked = records.create_pod(&record.id)?;
    locked.write(&record)?;
    Ok(Name::Taken(Box::new(Reserved {
        locked,
        record,
        ids,
    })))
}

/// Another process removed the pod while this one waited for its lock.
pub(super) fn gone_is_none<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// netd's kinds in the engine's words.
pub(crate) fn network_error(error: berth_netd::error::Error) -> Error {
    use berth_netd::error::ErrorKind as Net;
    let kind = match error.kind() {
        Net::Invalid => ErrorKind::Invalid,
        Net::Conflict | Net::AlreadyAttached => ErrorKind::Conflict,
        Net::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Network,
    };
    Error::caused(kind, "the pod's network", error)
}

/// The addresses of a pod, the one that the CRI calls `ip` first.
pub fn addresses(network: Option<&PodNetwork>) -> Vec<String> {
    network
        .map(|network| {
            network
                .addresses
                .iter()
                .map(|address| address.addr().to_string())
                .collect()
        })
        .unwrap_or_default()
}

fn check_metadata(config: &v1::PodSandboxConfig) -> Result<v1::PodSandboxMetadata, Error> {
    let metadata = config
        .metadata
        .clone()
        .ok_or_else(|| Error::invalid("config.metadata: is missing"))?;
    if metadata.name.is_empty() {
        return Err(Error::invalid("config.metadata.name: must not be empty"));
    }
    if metadata.uid.is_empty() {
        return Err(Error::invalid("config.metadata.uid: must not be empty"));
    }
    Ok(metadata)
}

/// The name asked for, or the machine's own.
fn plan_hostname(config: &v1::PodSandboxConfig) -> Result<String, Error> {
    let name = match config.hostname.as_str() {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        name => name.to_owned(),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.len() <= HOSTNAME_LIMIT_BYTES && name.bytes().all(allowed) {
        return Ok(name);
    }
    Err(Error::invalid(format!(
        "config.hostname: {name:?}: expected at most {HOSTNAME_LIMIT_BYTES} letters, digits, '-' \
         or '.'"
    )))
}

/// A kernel setting reaches only the namespace it belongs to; in the host's it
/// would change the host.
fn plan_sysctls(
    config: &v1::PodSandboxConfig,
    namespaces: &PodNamespaces,
) -> Result<BTreeMap<String, String>, Error> {
    let sysctls: BTreeMap<String, String> = config
        .linux
        .iter()
        .flat_map(|linux| linux.sysctls.clone())
        .map(|(name, value)| (name.replace('/', "."), value))
        .collect();
    for name in sysctls.keys() {
        let needed = if name.starts_with("net.") {
            PodNamespace::Net
        } else if name.starts_with("kernel.shm")
            || name.starts_with("kernel.msg")
            || name == "kernel.sem"
            || name.starts_with("fs.mqueue.")
        {
            PodNamespace::Ipc
        } else {
            return Err(Error::invalid(format!(
                "config.linux.sysctls: {name} belongs to no namespace of a pod; setting it would \
                 change the host"
            )));
        };
        if !namespaces.pinned().contains(&needed) {
            return Err(Error::invalid(format!(
                "config.linux.sysctls: {name} needs a namespace of the pod's own, and this pod \
                 shares the host's"
            )));
        }
    }
    Ok(sysctls)
}

fn plan_host_ports(config: &v1::PodSandboxConfig) -> Result<Vec<HostPort>, Error> {
    let mut ports = Vec::new();
    for mapping in &config.port_mappings {
        // Without a host's port the mapping is only for documentation.
        if mapping.host_port == 0 {
            continue;
        }
        let port = |field: &str, value: i32| {
            u16::try_from(value)
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| {
                    Error::invalid(format!(
                        "config.port_mappings.{field}: {value} is not between 1 and 65535"
                    ))
                })
        };
        let protocol = match v1::Protocol::try_from(mapping.protocol) {
            Ok(v1::Protocol::Tcp) => Protocol::Tcp,
            Ok(v1::Protocol::Udp) => Protocol::Udp,
            Ok(v1::Protocol::Sctp) => Protocol::Sctp,
            Err(_) => {
                return Err(Error::invalid(format!(
                    "config.port_mappings.protocol: {} is not a protocol of the CRI",
                    mapping.protocol
                )));
            }
        };
        let host_address = match mapping.host_ip.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error: std::net::AddrParseError| {
                Error::caused(
                    ErrorKind::Invalid,
                    format!("config.port_mappings.host_ip: {text:?}"),
                    error,
                )
            })?),
        };
        ports.push(HostPort {
            protocol,
            host_address,
            host_port: port("host_port", mapping.host_port)?,
            container_port: port("container_port", mapping.container_port)?,
        });
    }
    Ok(ports)
}

#[cfg(test)]
mod tests;
