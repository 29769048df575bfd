//! A configuration in the engine's words.

use std::path::Path;

use berth_netd::cni::CniSettings;
use berth_netd::network::{Masquerade, NetworkConfig};

use super::{CgroupDriver, Configuration, Handler};
use crate::engine::cgroups;
use crate::engine::config::{EngineConfig, MadeMeans};
use crate::engine::error::{Error, ErrorKind};
use crate::engine::runtimes::{OciRuntime, Runtimes};
use crate::engine::spec::defaults::ContainerDefaults;
use crate::images::registries::RegistriesConfig;

/// A machine whose init is systemd has this directory (sd_booted(3)).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

impl Configuration {
    /// Puts what the file says into an engine's configuration.
    ///
    /// # Errors
    ///
    /// `Image` when the registries' file cannot be read, `Invalid` for a
    /// capability or a profile that cannot be had.
    pub fn apply(&self, config: &mut EngineConfig) -> Result<(), Error> {
        config.network = self.network_config();
        config.cni = self.cni_settings();
        config.registries = self.registries()?;
        config.layers_at_once =
            (self.image.layers_at_once != 0).then_some(self.image.layers_at_once);
        config.runtimes = self.runtimes();
        config.cgroup_driver = self.cgroup_driver();
        config.defaults = self.container_defaults()?;
        config.made = MadeMeans::Begun;
        Ok(())
    }

    /// Whether what the file names is there: the registries' file, the profile,
    /// the programs. Changes nothing.
    ///
    /// # Errors
    ///
    /// The first thing that could not be used.
    pub fn check_named(&self) -> Result<(), Error> {
        self.registries()?;
        self.container_defaults()?;
        self.network_config()
            .validate()
            .map_err(|error| Error::caused(ErrorKind::Invalid, "network", error))?;
        self.cni_settings()
            .validate()
            .map_err(|error| Error::caused(ErrorKind::Invalid, "cni", error))?;
        for (name, handler) in &self.handlers {
            if !std::fs::metadata(&handler.path).is_ok_and(|file| file.is_file()) {
                return Err(Error::invalid(format!(
                    "handlers.{name}.path: {} is no program",
                    handler.path.display()
                )));
            }
        }
        Ok(())
    }

    fn container_defaults(&self) -> Result<ContainerDefaults, Error> {
        ContainerDefaults::read(
            self.defaults.pids_limit,
            self.defaults.seccomp_profile.as_deref(),
            &self.defaults.capabilities,
        )
    }

    /// The pods' network.
    pub fn network_config(&self) -> NetworkConfig {
        NetworkConfig {
            bridge: self.network.bridge.clone(),
            subnets: self.network.subnets.clone(),
            mtu: (self.network.mtu != 0).then_some(self.network.mtu),
            masquerade: match self.network.masquerade {
                true => Masquerade::Outbound,
                false => Masquerade::Never,
            },
            ..NetworkConfig::default()
        }
    }

    /// The plugins that make the pods' network.
    pub fn cni_settings(&self) -> CniSettings {
        CniSettings {
            conf_dir: self.cni.conf_dir.clone(),
            bin_dirs: self.cni.bin_dirs.clone(),
            timeout: self.cni.timeout,
        }
    }

    /// The OCI runtimes by their handlers' names.
    pub fn runtimes(&self) -> Runtimes {
        let read = |(name, handler): (&String, &Handler)| {
            let runtime = OciRuntime {
                program: handler.path.clone(),
                arguments: handler.arguments.clone(),
            };
            (name.clone(), runtime)
        };
        Runtimes {
            default_handler: self.runtime.default_handler.clone(),
            named: self.handlers.iter().map(read).collect(),
        }
    }

    /// The registries' file, read.
    ///
    /// # Errors
    ///
    /// `Image`, with the file and the place in it.
    pub fn registries(&self) -> Result<RegistriesConfig, Error> {
        let read = match &self.image.registries {
            Some(path) => RegistriesConfig::load_from(path),
            None => RegistriesConfig::load(),
        };
        read.map_err(|error| {
            Error::caused(
                ErrorKind::Image,
                "read the registries' configuration",
                error,
            )
        })
    }

    /// The driver, decided.
    pub fn cgroup_driver(&self) -> cgroups::Driver {
        match self.runtime.cgroup_driver {
            CgroupDriver::Cgroupfs => cgroups::Driver::Cgroupfs,
            CgroupDriver::Systemd => cgroups::Driver::Systemd,
            CgroupDriver::Auto
                if Path::new(SYSTEMD_RUNS).is_dir()
                    && cgroups::check_driver(cgroups::Driver::Systemd).is_ok() =>
            {
                cgroups::Driver::Systemd
            }
            CgroupDriver::Auto => cgroups::Driver::Cgroupfs,
        }
    }
}
