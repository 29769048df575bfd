//! Networks that plugins make: the Container Network Interface, version 1.1.
//!
//! An operator who wants another network than ours (Cilium, Calico, flannel)
//! puts its configuration into a directory. The first valid file there names
//! plugins, programs that are run one after the other for each pod. What this
//! crate adds is order and memory: a record before the first plugin runs, DEL
//! after whatever failed, and GC for what a killed process left behind.
//!
//! ```text
//!   watch ─▶ directory ─▶ config ─┐
//!                                 ├─▶ call (planned) ─▶ run ─▶ outcome
//!   CniRequest ───────────────────┘
//!                                     attachments: who is attached, on disk
//! ```
//!
//! Read more: SPEC.md and CONVENTIONS.md of containernetworking/cni.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;

use self::attachments::{Attachment, Attachments, CallLock};
use self::call::{Attaching, Command, PluginCall, ValidAttachment, plan_gc};
use self::config::NetworkList;
use self::directory::{Reading, note_of_rights, sentence};
use self::outcome::{CODE_UNKNOWN_POD, Outcome};
use self::request::CniRequest;
use self::run::{Failure, find_plugin, run_plugin};
use self::version::Version;
use self::watch::Watched;
use crate::error::{Error, ErrorKind};
use crate::links::socket::open_netns;
use crate::listeners::check_ports_free;
use crate::netd::{Netd, check_not_our_own};
use crate::request::PodNetwork;

/// Who is attached by plugins, on disk.
pub mod attachments;
/// Limits of a pod's bandwidth, from its annotations.
pub mod bandwidth;
/// One run of a plugin, planned.
pub mod call;
/// A network's configuration.
pub mod config;
/// The directory of networks: which of its files counts.
pub mod directory;
/// What a plugin answers.
pub mod outcome;
/// Whether pods could be attached now.
mod readiness;
/// What a pod wants of a network that plugins make.
pub mod request;
/// Running a plugin.
pub mod run;
/// Versions of the specification.
pub mod version;
/// The directory of networks, watched.
mod watch;

/// What a time of a plugin can be.
const LIMITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// What an operator chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniSettings {
    /// Where networks are configured; without it pods are attached by netd.
    pub conf_dir: Option<PathBuf>,
    /// Where plugins are, looked through in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one run of a plugin may take.
    pub timeout: Duration,
}

impl Default for CniSettings {
    fn default() -> Self {
        Self {
            conf_dir: None,
            bin_dirs: vec![PathBuf::from("/opt/cni/bin")],
            timeout: Duration::from_secs(60),
        }
    }
}

impl CniSettings {
    /// Refuses what could not work, naming the field.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn validate(&self) -> Result<(), Error> {
        let conf_dir = self.conf_dir.iter().map(|path| ("conf_dir", path));
        let bin_dirs = self.bin_dirs.iter().map(|path| ("bin_dirs", path));
        for (field, path) in conf_dir.chain(bin_dirs) {
            let fits = path.is_absolute() && path.to_str().is_some_and(|text| !text.contains(':'));
            if !fits {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "{field}: {}: expected an absolute path without ':'",
                        path.display()
                    ),
                ));
            }
        }
        if self.conf_dir.is_some() && self.bin_dirs.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "bin_dirs: expected at least one directory",
            ));
        }
        match LIMITS.contains(&self.timeout) {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "timeout: {:?}: expected 1 second to 10 minutes",
                    self.timeout
                ),
            )),
        }
    }
}

/// The networks of plugins on this machine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cni {
    settings: CniSettings,
    attachments: Attachments,
    // Begun at the first question, for most commands ask none.
    watched: Arc<OnceLock<Watched>>,
    versions: readiness::KnownVersions,
}

impl Cni {
    /// Makes the state directory if need be. Runs and reads nothing yet.
    ///
    /// # Errors
    ///
    /// `Invalid` for the settings, `Storage` for the directory.
    pub fn open(state_dir: &Path, settings: CniSettings) -> Result<Self, Error> {
        settings.validate()?;
        Ok(Self {
            settings,
            attachments: Attachments::open(state_dir)?,
            watched: Arc::default(),
            versions: readiness::KnownVersions::default(),
        })
    }

    /// Whether new pods are to be attached by plugins.
    pub fn is_chosen(&self) -> bool {
        self.settings.conf_dir.is_some()
    }

    /// What it was opened with.
    pub fn settings(&self) -> &CniSettings {
        &self.settings
    }

    /// What the directory of networks holds. From the first question on it is
    /// watched, so the caller has to be where tokio's runtime is at hand.
    pub fn reading(&self) -> Arc<Reading> {
        let Some(conf_dir) = &self.settings.conf_dir else {
            return Arc::default();
        };
        let begin = || {
            let bin_dirs = self.settings.bin_dirs.iter();
            for note in bin_dirs.filter_map(|directory| note_of_rights(directory)) {
                tracing::warn!("CNI: {note}");
            }
            Watched::start(conf_dir)
        };
        self.watched.get_or_init(begin).reading()
    }

    /// The network that counts.
    ///
    /// # Errors
    ///
    /// `Plugin`, with what is wrong with each file.
    pub fn network(&self) -> Result<Arc<NetworkList>, Error> {
        let reading = self.reading();
        if let Some(network) = &reading.network {
            return Ok(network.clone());
        }
        let directory = self.settings.conf_dir.as_deref();
        let directory = directory.unwrap_or(Path::new("CNI")).display();
        Err(Error::new(
            ErrorKind::Plugin,
            match reading.problems.as_slice() {
                [] => format!("{directory}: holds no *.conflist, *.conf or *.json"),
                problems => format!("{directory}: no valid network: {}", problems.join("; ")),
            },
        ))
    }

    /// Has the plugins attach a pod: all or nothing.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NoNamespace`, `Conflict` and `AlreadyAttached` are about the
    /// request, and no plugin was run. After `Plugin` all of them were asked to
    /// undo it.
    pub async fn attach(&self, request: &CniRequest) -> Result<PodNetwork, Error> {
        request.validate()?;
        let network = self.network()?;
        for plugin in &network.plugins {
            find_plugin(&plugin.program, &self.settings.bin_dirs)?;
        }
        let netns = open_netns(&request.attach.netns)?;
        check_not_our_own(&netns, &request.attach.netns)?;
        check_ports_free(&request.attach.host_ports, true, true)?;
        let pod_id = &request.attach.pod_id;
        let lock = self.attachments.lock_pod(pod_id, self.patience()).await?;
        if let Some(found) = self.attachments.read(pod_id)? {
            return Err(Error::new(
                ErrorKind::AlreadyAttached,
                format!("pod {pod_id} is attached to network {}", found.network.name),
            ));
        }
        let mut attachment = Attachment::begin(
            (*network).clone(),
            request.clone(),
            self.settings.bin_dirs.clone(),
        )?;
        if let Err(error) = self.record(&attachment).await {
            // The failure above is the one to report.
            let _ = self.attachments.remove(pod_id, lock);
            return Err(error);
        }
        let done = match self.add(&attachment, &lock).await {
            Ok((pod_network, result)) => {
                attachment.result = Some(result);
                self.attachments.write(&attachment).map(|()| pod_network)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(pod_network) => Ok(pod_network),
            Err(error) => {
                // The caller is told why the attach failed; what is left keeps
                // its record, and a detach tries again.
                if let Err(left) = self.delete(attachment, lock).await {
                    tracing::warn!(%pod_id, "undo attach: {}", sentence(&left));
                }
                Err(error)
            }
        }
    }

    /// Has the plugins that attached a pod let go of it. Succeeds if it has
    /// nothing, and when its network namespace is gone.
    ///
    /// # Errors
    ///
    /// `Plugin` or `Storage`; asking again continues.
    pub async fn detach(&self, pod_id: &str) -> Result<(), Error> {
        if !self.attachments.has_files_of(pod_id)? {
            return Ok(());
        }
        let lock = self.attachments.lock_pod(pod_id, self.patience()).await?;
        match self.read_attachment(pod_id)? {
            Some(attachment) => self.delete(attachment, lock).await,
            None => self.attachments.remove(pod_id, lock),
        }
    }

    /// Asks the plugins whether a pod is attached as it was (CHECK). A network
    /// that forbids it, or is too old for it, passes.
    ///
    /// # Errors
    ///
    /// `Invalid` for a pod that is not attached, `Plugin` with what is wrong.
    pub async fn check(&self, pod_id: &str) -> Result<(), Error> {
        let lock = self.attachments.lock_pod(pod_id, self.patience()).await?;
        let Some(attachment) = self.read_attachment(pod_id)? else {
            self.attachments.remove(pod_id, lock)?;
            let text = format!("pod {pod_id} is not attached by plugins");
            return Err(Error::new(ErrorKind::Invalid, text));
        };
        let network = &attachment.network;
        if network.disable_check || network.version < Version::WITH_CHECK {
            return Ok(());
        }
        let attaching = attaching(&attachment, Some(&attachment.request.attach.netns));
        for plugin in &network.plugins {
            let call = attaching.plan(Command::Check, plugin, attachment.result.as_ref())?;
            self.call(&call, &attachment.bin_dirs, &lock).await?;
        }
        Ok(())
    }

    /// The result of the plugins that attached a pod.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn result(&self, pod_id: &str) -> Result<Option<Value>, Error> {
        let attachment = self.attachments.read(pod_id)?;
        Ok(attachment.and_then(|attachment| attachment.result))
    }

    /// Whether plugins have attached a pod, or had begun to.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub fn has_record_of(&self, pod_id: &str) -> Result<bool, Error> {
        Ok(self.attachments.read(pod_id)?.is_some())
    }

    /// Lets go of pods that are no more. Returns which.
    ///
    /// A pod is no more if it is not in `live` and the process that attached it
    /// has ended; so a pod whose own record is still being written is safe.
    ///
    /// # Errors
    ///
    /// `Plugin` or `Storage`, after all has been tried.
    pub async fn reconcile(&self, live: &BTreeSet<String>) -> Result<Vec<String>, Error> {
        let (attachments, damaged) = self.attachments.read_all()?;
        let mut first_failure = damaged.into_iter().next();
        let mut let_go = Vec::new();
        for attachment in attachments {
            let pod_id = attachment.pod_id();
            if live.contains(pod_id) || attachment.maker.is_alive() {
                continue;
            }
            match self.detach(pod_id).await {
                Ok(()) => let_go.push(pod_id.to_owned()),
                Err(error) => first_failure = first_failure.or(Some(error)),
            }
        }
        match first_failure {
            None => Ok(let_go),
            Some(error) => Err(error),
        }
    }

    /// Has the plugins of the network that counts give back what no pod on
    /// record has (GC), if there is one and it allows it.
    ///
    /// # Errors
    ///
    /// `Plugin` after all plugins were asked, `Storage` before: whoever has a
    /// record that cannot be read would lose its address.
    pub async fn collect(&self) -> Result<(), Error> {
        let Some(network) = self.reading().network.clone() else {
            return Ok(());
        };
        if network.disable_gc || network.version < Version::WITH_STATUS {
            return Ok(());
        }
        // No record can be begun meanwhile: its pod's address would be taken
        // for one that nobody has.
        let lock = self.attachments.lock_store(self.patience()).await?;
        let (attachments, damaged) = self.attachments.read_all()?;
        if let Some(error) = damaged.into_iter().next() {
            return Err(error);
        }
        let valid = valid_attachments(&network, &attachments);
        let bin_dirs = &self.settings.bin_dirs;
        let mut first_failure = None;
        for plugin in &network.plugins {
            let call = plan_gc(&network, plugin, &valid, bin_dirs)?;
            // Each keeps things of its own, so one failure does not stop the others.
            first_failure = first_failure.or(self.call(&call, bin_dirs, &lock).await.err());
        }
        first_failure.map_or(Ok(()), Err)
    }

    /// Writes the first record of an attachment, unless its host ports are held.
    async fn record(&self, attachment: &Attachment) -> Result<(), Error> {
        let _store = self.attachments.lock_store(self.patience()).await?;
        // One that cannot be read is told of by `reconcile`.
        let (others, _) = self.attachments.read_all()?;
        for port in &attachment.request.attach.host_ports {
            let holds = |other: &&Attachment| {
                let mut ports = other.request.attach.host_ports.iter();
                ports.any(|held| held.overlaps(port))
            };
            if let Some(holder) = others.iter().find(holds) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("host_ports: {port} is held by pod {}", holder.pod_id()),
                ));
            }
        }
        self.attachments.write(attachment)
    }

    /// ADD of every plugin in order, each with the result of the one before.
    async fn add(
        &self,
        attachment: &Attachment,
        lock: &CallLock,
    ) -> Result<(PodNetwork, Value), Error> {
        let request = &attachment.request;
        Netd::bring_loopback_up(&request.attach.netns).await?;
        let attaching = attaching(attachment, Some(&request.attach.netns));
        let mut last: Option<Outcome> = None;
        for plugin in &attachment.network.plugins {
            let previous = last.as_ref().map(|outcome| &outcome.raw);
            let call = attaching.plan(Command::Add, plugin, previous)?;
            let output = self.call(&call, &attachment.bin_dirs, lock).await?;
            let outcome = Outcome::read(&output, attachment.network.version);
            last = Some(outcome.map_err(|error| in_call(&call, error))?);
        }
        let outcome = last.ok_or_else(|| Error::new(ErrorKind::Plugin, "no plugin was run"))?;
        let mut pod_network = pod_network(&attachment.network, request, &outcome)?;
        pod_network.notes = request.notes(&attachment.network);
        Ok((pod_network, outcome.raw))
    }

    /// A record. Plugins are looked for where they were when the pod was attached, then
    /// where they are by now: an operator may have moved them.
    fn read_attachment(&self, pod_id: &str) -> Result<Option<Attachment>, Error> {
        let mut found = self.attachments.read(pod_id)?;
        if let Some(attachment) = &mut found {
            for directory in &self.settings.bin_dirs {
                if !attachment.bin_dirs.contains(directory) {
                    attachment.bin_dirs.push(directory.clone());
                }
            }
        }
        Ok(found)
    }

    /// DEL of every plugin in reverse order, then the record goes.
    async fn delete(&self, attachment: Attachment, lock: CallLock) -> Result<(), Error> {
        let netns = &attachment.request.attach.netns;
        // A plugin that enters a namespace which is gone would fail; told that
        // there is none, it cleans up the host's side (SPEC.md, "DEL").
        let netns = open_netns(netns).is_ok().then_some(netns.as_path());
        let attaching = attaching(&attachment, netns);
        let previous = match attachment.network.version >= Version::WITH_CHECK {
            true => attachment.result.as_ref(),
            false => None,
        };
        for plugin in attachment.network.plugins.iter().rev() {
            let call = attaching.plan(Command::Del, plugin, previous)?;
            self.call(&call, &attachment.bin_dirs, &lock).await?;
        }
        self.attachments.remove(attachment.pod_id(), lock)
    }

    /// Runs one plugin; a DEL of what it does not know is done.
    async fn call(
        &self,
        call: &PluginCall,
        bin_dirs: &[PathBuf],
        lock: &CallLock,
    ) -> Result<Vec<u8>, Error> {
        let path = find_plugin(&call.program, bin_dirs).map_err(|error| in_call(call, error))?;
        tracing::debug!(plugin = %path.display(), command = %call.command, "CNI");
        let outcome = run_plugin(&path, call, lock.input(), self.settings.timeout).await;
        lock.plugin_ended();
        match outcome {
            Ok(output) => Ok(output),
            Err(Failure::Refused(error))
                if call.command == Command::Del && error.code == CODE_UNKNOWN_POD =>
            {
                Ok(Vec::new())
            }
            Err(failure) => Err(failure.into_error(call)),
        }
    }

    /// Longer than a plugin that hangs; whoever waits on is told then.
    fn patience(&self) -> Duration {
        self.settings.timeout * 2
    }
}

impl Failure {
    fn into_error(self, call: &PluginCall) -> Error {
        match self {
            Self::Refused(error) => in_call(call, Error::new(ErrorKind::Plugin, error.to_string())),
            Self::Broken(error) => in_call(call, error),
        }
    }
}

fn in_call(call: &PluginCall, error: Error) -> Error {
    let text = format!("plugin {}: {}", call.program, call.command);
    Error::caused(error.kind(), text, error)
}

fn attaching<'a>(attachment: &'a Attachment, netns: Option<&'a Path>) -> Attaching<'a> {
    Attaching {
        network: &attachment.network,
        request: &attachment.request,
        bin_dirs: &attachment.bin_dirs,
        netns,
    }
}

/// What GC must leave alone: every pod of the network that is on record, also
/// those that are being attached.
fn valid_attachments(network: &NetworkList, attachments: &[Attachment]) -> Vec<ValidAttachment> {
    let of_network = |one: &&Attachment| one.network.name == network.name;
    let attachments = attachments.iter().filter(of_network);
    attachments
        .map(|one| ValidAttachment {
            pod_id: one.pod_id().to_owned(),
            interface: one.request.attach.interface.clone(),
        })
        .collect()
}

/// The pod's network, from the last plugin's result.
fn pod_network(
    network: &NetworkList,
    request: &CniRequest,
    outcome: &Outcome,
) -> Result<PodNetwork, Error> {
    let name = &request.attach.interface;
    let addresses: Vec<_> = outcome.addresses_of(name).collect();
    if addresses.is_empty() {
        return Err(Error::new(
            ErrorKind::Plugin,
            format!(
                "network {}: the result gives {name} no address: {}",
                network.name, outcome.raw
            ),
        ));
    }
    let interface = outcome.interface(name);
    Ok(PodNetwork {
        pod_id: request.attach.pod_id.clone(),
        interface: name.clone(),
        mac: interface.map(|one| one.mac.clone()).unwrap_or_default(),
        addresses: addresses.iter().map(|one| one.address).collect(),
        gateways: addresses.iter().filter_map(|one| one.gateway).collect(),
        mtu: interface.map(|one| one.mtu).unwrap_or_default(),
        host_ports: request.attach.host_ports.clone(),
        notes: Vec::new(),
    })
}
