//! Whether pods could be attached now: what `NetworkReady` of the CRI says.
//!
//! From the cheapest question to the dearest: is there a network, are its
//! plugins there, do they speak its version (VERSION, asked once a program),
//! and do they think that they could (STATUS, from version 1.1 on).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Cni;
use super::call::{PluginCall, plan_status, plan_version};
use super::config::{NetworkList, PluginConfig};
use super::outcome::read_versions;
use super::run::{find_plugin, run_plugin, unlocked_input};
use super::version::Version;
use crate::error::{Error, ErrorKind};

/// A kubelet asks every few seconds and waits.
const LIMIT: Duration = Duration::from_secs(5);

/// The versions that programs speak, as long as they are the same files.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownVersions {
    programs: Arc<Mutex<BTreeMap<PathBuf, Known>>>,
}

/// A program as it was when it was asked, and what it answered.
#[derive(Debug, Clone)]
struct Known {
    identity: Identity,
    versions: Option<Vec<Version>>,
}

/// What changes when a program is replaced: device, inode, size, time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity(u64, u64, u64, i64, i64);

impl Cni {
    /// Whether pods could be attached now. Changes nothing.
    ///
    /// # Errors
    ///
    /// `Plugin`, with the file or the plugin and what is wrong.
    pub async fn ready(&self) -> Result<(), Error> {
        let network = self.network()?;
        self.plugins_ready(&network).await.map_err(|error| {
            let text = format!("network {} of {}", network.name, network.source.display());
            Error::caused(error.kind(), text, error)
        })
    }

    async fn plugins_ready(&self, network: &NetworkList) -> Result<(), Error> {
        let bin_dirs = &self.settings.bin_dirs;
        for plugin in &network.plugins {
            let path = find_plugin(&plugin.program, bin_dirs)?;
            if let Some(spoken) = self.versions_of(&path, plugin).await?
                && !spoken.contains(&network.version)
            {
                let spoken: Vec<String> = spoken.iter().map(ToString::to_string).collect();
                return Err(Error::new(
                    ErrorKind::Plugin,
                    format!(
                        "plugin {} speaks versions {}; cniVersion is {}",
                        plugin.program,
                        spoken.join(", "),
                        network.version
                    ),
                ));
            }
            if network.version >= Version::WITH_STATUS {
                ask(&path, &plan_status(network, plugin, bin_dirs)?).await?;
            }
        }
        Ok(())
    }

    /// None for a program that does not answer VERSION as a plugin: then the
    /// other commands will tell.
    async fn versions_of(
        &self,
        path: &Path,
        plugin: &PluginConfig,
    ) -> Result<Option<Vec<Version>>, Error> {
        let identity = identity(path)?;
        if let Some(known) = self.versions.lock().get(path)
            && known.identity == identity
        {
            return Ok(known.versions.clone());
        }
        let call = plan_version(plugin, &self.settings.bin_dirs)?;
        let answer = ask(path, &call).await;
        let versions = answer.ok().and_then(|output| read_versions(&output));
        let known = Known {
            identity,
            versions: versions.clone(),
        };
        self.versions.lock().insert(path.to_owned(), known);
        Ok(versions)
    }
}

impl KnownVersions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Known>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(path: &Path, call: &PluginCall) -> Result<Vec<u8>, Error> {
    let input = unlocked_input()?;
    let outcome = run_plugin(path, call, &input, LIMIT).await;
    outcome.map_err(|failure| failure.into_error(call))
}

fn identity(path: &Path) -> Result<Identity, Error> {
    let found = fs::metadata(path)
        .map_err(|error| Error::caused(ErrorKind::Plugin, path.display().to_string(), error))?;
    Ok(Identity(
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}
