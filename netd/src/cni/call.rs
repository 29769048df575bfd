//! One run of a plugin, planned: its environment and its standard input.
//!
//! ```text
//!   CNI_COMMAND=ADD …          ┌────────┐   a result, or an error,
//!   {"name":…,"prevResult":…} ─┤ plugin ├─▶ as JSON
//!                              └────────┘
//! ```
//!
//! SPEC.md of CNI, sections 2 and 3.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::config::{NetworkList, PluginConfig};
use super::request::CniRequest;
use super::version::Version;
use crate::error::{Error, ErrorKind};

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Attach a pod.
    Add,
    /// Undo that; succeeds when there is nothing to undo.
    Del,
    /// Look whether a pod is attached as it was.
    Check,
    /// Give back what no pod has any more.
    Gc,
    /// Say whether ADD would work.
    Status,
    /// Say which versions of the specification are spoken.
    Version,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// One run of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginCall {
    /// The plugin's name.
    pub program: String,
    /// What it is asked to do.
    pub command: Command,
    /// The variables that begin with `CNI_`.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads.
    pub input: Vec<u8>,
}

/// An attachment that still counts, for GC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ValidAttachment {
    /// The pod.
    pub pod_id: String,
    /// Its interface.
    pub interface: String,
}

/// What the calls of one attachment share.
#[derive(Debug, Clone, Copy)]
pub struct Attaching<'a> {
    /// The network.
    pub network: &'a NetworkList,
    /// The pod.
    pub request: &'a CniRequest,
    /// Where plugins look for further plugins.
    pub bin_dirs: &'a [PathBuf],
    /// The pod's network namespace; none when it is gone.
    pub netns: Option<&'a Path>,
}

impl Attaching<'_> {
    /// ADD, DEL or CHECK of one plugin.
    ///
    /// # Errors
    ///
    /// `Invalid` for directories that cannot stand in `CNI_PATH`.
    pub fn plan(
        &self,
        command: Command,
        plugin: &PluginConfig,
        previous: Option<&Value>,
    ) -> Result<PluginCall, Error> {
        let mut input = base_input(self.network, plugin);
        let told = self.request.runtime_config(plugin);
        if !told.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let netns = self.netns.unwrap_or(Path::new(""));
        let netns = netns.to_str().ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("netns {}: is not UTF-8", netns.display()),
            )
        })?;
        let attach = &self.request.attach;
        Ok(PluginCall {
            program: plugin.program.clone(),
            command,
            environment: vec![
                ("CNI_COMMAND", command.to_string()),
                ("CNI_CONTAINERID", attach.pod_id.clone()),
                ("CNI_NETNS", netns.to_owned()),
                ("CNI_IFNAME", attach.interface.clone()),
                ("CNI_ARGS", self.request.arguments_text()),
                ("CNI_PATH", search_path(self.bin_dirs)?),
            ],
            input: encode(input),
        })
    }
}

/// GC of one plugin: all that is not in `valid` may go.
///
/// # Errors
///
/// `Invalid` for directories that cannot stand in `CNI_PATH`.
pub fn plan_gc(
    network: &NetworkList,
    plugin: &PluginConfig,
    valid: &[ValidAttachment],
    bin_dirs: &[PathBuf],
) -> Result<PluginCall, Error> {
    let mut input = base_input(network, plugin);
    let valid: Value = valid
        .iter()
        .map(|one| json!({ "containerID": one.pod_id, "ifname": one.interface }))
        .collect();
    // The first name is that of the specification's first print, which some
    // plugins were written to.
    input.insert("cni.dev/attachments".to_owned(), valid.clone());
    input.insert("cni.dev/valid-attachments".to_owned(), valid);
    plan_without_pod(Command::Gc, plugin, input, bin_dirs)
}

/// STATUS of one plugin.
///
/// # Errors
///
/// `Invalid` for directories that cannot stand in `CNI_PATH`.
pub fn plan_status(
    network: &NetworkList,
    plugin: &PluginConfig,
    bin_dirs: &[PathBuf],
) -> Result<PluginCall, Error> {
    plan_without_pod(
        Command::Status,
        plugin,
        base_input(network, plugin),
        bin_dirs,
    )
}

/// VERSION of one plugin.
///
/// # Errors
///
/// `Invalid` for directories that cannot stand in `CNI_PATH`.
pub fn plan_version(plugin: &PluginConfig, bin_dirs: &[PathBuf]) -> Result<PluginCall, Error> {
    let mut input = Map::new();
    input.insert("cniVersion".to_owned(), json!(Version::NEWEST));
    plan_without_pod(Command::Version, plugin, input, bin_dirs)
}

fn plan_without_pod(
    command: Command,
    plugin: &PluginConfig,
    input: Map<String, Value>,
    bin_dirs: &[PathBuf],
) -> Result<PluginCall, Error> {
    Ok(PluginCall {
        program: plugin.program.clone(),
        command,
        environment: vec![
            ("CNI_COMMAND", command.to_string()),
            ("CNI_PATH", search_path(bin_dirs)?),
        ],
        input: encode(input),
    })
}

/// The plugin's own part with the network's name and version (SPEC.md,
/// "Deriving request configuration from plugin configuration").
fn base_input(network: &NetworkList, plugin: &PluginConfig) -> Map<String, Value> {
    let mut input = plugin.raw.clone();
    input.remove("capabilities");
    input.insert("name".to_owned(), json!(network.name));
    input.insert("cniVersion".to_owned(), json!(network.version));
    input
}

fn encode(input: Map<String, Value>) -> Vec<u8> {
    Value::Object(input).to_string().into_bytes()
}

fn search_path(directories: &[PathBuf]) -> Result<String, Error> {
    let words: Result<Vec<&str>, Error> = directories
        .iter()
        .map(|directory| {
            let text = directory.to_str().filter(|text| !text.contains(':'));
            text.ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "bin_dirs: {}: is not UTF-8 or holds ':'",
                        directory.display()
                    ),
                )
            })
        })
        .collect();
    Ok(words?.join(":"))
}

#[cfg(test)]
mod tests;
