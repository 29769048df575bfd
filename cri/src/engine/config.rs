//! Where an engine keeps its things and what it works with.

use std::path::{Path, PathBuf};

use berth_netd::cni::CniSettings;
use berth_netd::network::NetworkConfig;

use super::cgroups::Driver;
use super::error::{Error, ErrorKind};
use super::id::ID_LENGTH;
use super::runtimes::Runtimes;
use super::spec::clean_absolute;
use super::spec::defaults::ContainerDefaults;
use crate::images::registries::RegistriesConfig;

/// The OCI runtime's program, and that of the monitor.
const OCI_RUNTIME: &str = "berth-oci";
/// The longest path of a run directory: paths below it stay short enough for
/// every OCI runtime's own sockets (`sockaddr_un`, unix(7), 107 bytes).
const RUN_DIR_LIMIT_BYTES: usize = 107 - "/pods/".len() - ID_LENGTH - "/exec-00000000.sock".len();

/// Everything that an operator can choose.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What is gone after a reboot: sockets, namespaces, bundles.
    pub run_dir: PathBuf,
    /// What stays: images, records, snapshots.
    pub data_dir: PathBuf,
    /// `berth-oci`, which is both the monitor and the default OCI runtime.
    pub oci_runtime: PathBuf,
    /// The network of the pods.
    pub network: NetworkConfig,
    /// Plugins that make the pods' network instead, where a directory is named.
    pub cni: CniSettings,
    /// Where images come from.
    pub registries: RegistriesConfig,
    /// The group that holds the pods' groups, below each hierarchy's root.
    pub cgroup_parent: String,
    /// Other OCI runtimes, by the name that a `runtime_handler` asks for.
    pub runtimes: Runtimes,
    /// Who makes the pods' groups.
    pub cgroup_driver: Driver,
    /// Layers of one image on their way at once; the machine decides if absent.
    pub layers_at_once: Option<usize>,
    /// What a container gets that states nothing.
    pub defaults: ContainerDefaults,
    /// When whoever makes a container is answered.
    pub made: MadeMeans,
}

/// What the answer to the making of a container says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MadeMeans {
    /// The OCI runtime has made it: what fails before its start is told at its making.
    #[default]
    Created,
    /// It is planned, its root is mounted, and the OCI runtime is at work: what fails from
    /// here on is told at its start, and by its status. A kubelet has something else to do
    /// meanwhile, and knows this from containerd.
    Begun,
}

impl EngineConfig {
    /// The usual configuration with other directories.
    ///
    /// # Errors
    ///
    /// `Invalid` when `berth-oci` is neither beside this program nor in `PATH`,
    /// `Image` when the registries' file cannot be read.
    pub fn new(run_dir: PathBuf, data_dir: PathBuf) -> Result<Self, Error> {
        let registries = RegistriesConfig::load().map_err(|error| {
            Error::caused(
                ErrorKind::Image,
                "read the registries' configuration",
                error,
            )
        })?;
        Ok(Self {
            run_dir,
            data_dir,
            oci_runtime: find_oci_runtime()?,
            network: NetworkConfig::default(),
            cni: CniSettings::default(),
            registries,
            cgroup_parent: "/berth".to_owned(),
            runtimes: Runtimes::default(),
            cgroup_driver: Driver::Cgroupfs,
            layers_at_once: None,
            defaults: ContainerDefaults::default(),
            made: MadeMeans::default(),
        })
    }

    /// Refuses what could not work, naming the field.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, path) in [("run_dir", &self.run_dir), ("data_dir", &self.data_dir)] {
            let text = path.to_str().ok_or_else(|| {
                Error::invalid(format!("{field}: {} is not UTF-8", path.display()))
            })?;
            // overlayfs separates its options with these, and the index of
            // mounts (proc_pid_mountinfo(5)) its fields with blanks.
            if text.contains([',', ':', '\\']) || text.contains(char::is_whitespace) {
                return Err(Error::invalid(format!(
                    "{field}: {text:?} holds ',', ':', '\\' or white space"
                )));
            }
            clean_absolute(field, text)?;
        }
        let length = self.run_dir.as_os_str().len();
        if length > RUN_DIR_LIMIT_BYTES {
            return Err(Error::invalid(format!(
                "run_dir: {} has {length} bytes; sockets below it allow at most \
                 {RUN_DIR_LIMIT_BYTES}",
                self.run_dir.display()
            )));
        }
        let parent = clean_absolute("cgroup_parent", &self.cgroup_parent)?;
        if parent == Path::new("/") {
            return Err(Error::invalid(
                "cgroup_parent: expected a group, not the root",
            ));
        }
        self.network
            .validate()
            .map_err(|error| Error::caused(ErrorKind::Invalid, "network", error))?;
        self.cni
            .validate()
            .map_err(|error| Error::caused(ErrorKind::Invalid, "cni", error))
    }
}

/// `berth-oci` beside the program that runs, else in `PATH`.
///
/// # Errors
///
/// `Invalid` when it is in neither place.
pub fn find_oci_runtime() -> Result<PathBuf, Error> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(OCI_RUNTIME)))
        .filter(|path| path.is_file());
    if let Some(path) = beside {
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(OCI_RUNTIME))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::invalid(format!(
                "{OCI_RUNTIME} is neither beside this program nor in PATH; nothing was started"
            ))
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn config() -> EngineConfig {
        EngineConfig {
            run_dir: "/run/berth".into(),
            data_dir: "/var/lib/berth".into(),
            oci_runtime: "/usr/bin/berth-oci".into(),
            network: NetworkConfig::default(),
            cni: CniSettings::default(),
            registries: RegistriesConfig::default(),
            cgroup_parent: "/berth".to_owned(),
            runtimes: Runtimes::default(),
            cgroup_driver: Driver::Cgroupfs,
            layers_at_once: None,
            defaults: ContainerDefaults::default(),
            made: MadeMeans::default(),
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        config().validate().unwrap();
        let refused = |change: &dyn Fn(&mut EngineConfig)| {
            let mut changed = config();
            change(&mut changed);
            changed.validate().unwrap_err().chain()
        };
        assert!(refused(&|c| c.run_dir = "run".into()).starts_with("run_dir"));
        assert!(refused(&|c| c.data_dir = "/a,b".into()).starts_with("data_dir"));
        assert!(refused(&|c| c.run_dir = format!("/{}", "x".repeat(80)).into()).contains("81"));
        assert!(refused(&|c| c.cgroup_parent = "/".to_owned()).starts_with("cgroup_parent"));
        assert!(refused(&|c| c.network.subnets.clear()).contains("subnets"));
        let cni = refused(&|c| c.cni.conf_dir = Some("net.d".into()));
        assert!(cni.starts_with("cni: conf_dir: net.d"), "{cni}");
        assert!(refused(&|c| c.cni.timeout = Duration::ZERO).contains("timeout: 0ns"));
    }
}
