//! The server's file, `/etc/berth/cri.toml`: checked, then merged with the defaults.
//!
//! ```text
//! keys ─┬─▶ `berth cri config default`      every key, its default, its meaning
//!       ├─▶ check     a file ─▶ complaints, each with its line
//!       └─▶ merge     a file + defaults ─▶ Configuration
//! ```
//!
//! The run and the data directory are not here: all of berth's commands share
//! those, and a pod that only the server could find would be lost to them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use self::check::Complaint;
use self::keys::{HANDLER_KEYS, HANDLERS, SECTIONS};

/// A file against the table of keys.
pub mod check;
/// What differs between two configurations.
mod differences;
/// A configuration in the engine's words.
mod engine;
/// Every key of the file.
pub mod keys;
/// What a value must be.
mod kinds;
/// The name that was meant.
mod nearest;

pub use self::differences::Differences;

/// Where it is looked for when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/berth/cri.toml";

/// All that the file can say, its gaps filled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// `[socket]`
    pub socket: Socket,
    /// `[streaming]`
    pub streaming: Streaming,
    /// `[log]`
    pub log: Log,
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[image]`
    pub image: Image,
    /// `[network]`
    pub network: Network,
    /// `[cni]`
    pub cni: Cni,
    /// `[defaults]`
    pub defaults: Defaults,
    /// `[metrics]`
    pub metrics: Metrics,
    /// `[traces]`
    pub traces: Traces,
    /// `[handlers.NAME]`
    pub handlers: BTreeMap<String, Handler>,
}

/// Where a kubelet finds the server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Its path; none is `berth.sock` in the run directory.
    #[serde(deserialize_with = "none_if_empty")]
    pub path: Option<PathBuf>,
    /// Who may open it.
    #[serde(deserialize_with = "mode")]
    pub mode: u32,
    /// The group that owns it, by name or number; none is the server's own.
    #[serde(deserialize_with = "none_if_empty")]
    pub group: Option<String>,
}

/// Exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Streaming {
    /// Where clients connect to.
    pub address: SocketAddr,
    /// A stream that is silent for so long is ended.
    #[serde(deserialize_with = "duration")]
    pub idle_timeout: Duration,
    /// How long a client may take to open its streams.
    #[serde(deserialize_with = "duration")]
    pub creation_timeout: Duration,
}

/// What the server says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// One of [`keys::LEVELS`].
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// How containers are made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The handler of pods that name none; empty is berth-oci.
    pub default_handler: String,
    /// Who makes control groups.
    pub cgroup_driver: CgroupDriver,
}

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is the machine's init.
    Auto,
    /// We, by their paths.
    Cgroupfs,
    /// systemd, as scopes in the kubelet's slices.
    Systemd,
}

/// Where images come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The registries' file; none is the usual one.
    #[serde(deserialize_with = "none_if_empty")]
    pub registries: Option<PathBuf>,
    /// Layers of one image on their way at once; 0 lets the machine decide.
    pub layers_at_once: usize,
}

/// The pods' network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The bridge that pods are behind.
    pub bridge: String,
    /// Their addresses.
    pub subnets: Vec<IpNet>,
    /// In bytes; 0 is that of the default route.
    pub mtu: u32,
    /// Whether what leaves takes the machine's address.
    pub masquerade: bool,
}

/// Plugins that make the pods' network.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cni {
    /// Where networks are configured; none is berth's own network.
    #[serde(deserialize_with = "none_if_empty")]
    pub conf_dir: Option<PathBuf>,
    /// Where the programs are.
    pub bin_dirs: Vec<PathBuf>,
    /// How long one run of a program may take.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
}

/// What a container gets that states nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// Processes and threads; 0 is no limit.
    pub pids_limit: i64,
    /// The filter called `RuntimeDefault`; none is berth's own.
    #[serde(deserialize_with = "none_if_empty")]
    pub seccomp_profile: Option<PathBuf>,
    /// What a request adds to and drops from.
    pub capabilities: Vec<String>,
}

/// The server's own numbers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Where Prometheus asks; none is off.
    #[serde(deserialize_with = "none_if_empty")]
    pub address: Option<SocketAddr>,
}

/// OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// The collector; none is off.
    #[serde(deserialize_with = "none_if_empty")]
    pub endpoint: Option<String>,
    /// Authorities that vouch for it, in PEM; none is the machine's.
    #[serde(deserialize_with = "none_if_empty")]
    pub ca: Option<PathBuf>,
    /// From 0 to 1.
    pub sampling: f64,
}

/// One OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Its program.
    pub path: PathBuf,
    /// Given to it before the verb.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// A file that cannot be used: all its mistakes.
#[derive(Debug)]
pub struct Unusable {
    file: String,
    complaints: Vec<Complaint>,
    source: Option<std::io::Error>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.complaints.is_empty() {
            return write!(f, "read {}", self.file);
        }
        for (place, complaint) in self.complaints.iter().enumerate() {
            let gap = if place == 0 { "" } else { "\n" };
            let Complaint { line, text } = complaint;
            write!(f, "{gap}{}:{line}: {text}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl Configuration {
    /// Reads the file that was named, else the usual one if there is one.
    ///
    /// # Errors
    ///
    /// It cannot be read, or holds a mistake; every one is named with its line.
    pub fn load(named: Option<&Path>) -> Result<Configuration, Unusable> {
        match named {
            Some(path) => Configuration::read(path),
            None if Path::new(DEFAULT_FILE).exists() => {
                Configuration::read(Path::new(DEFAULT_FILE))
            }
            None => Configuration::parse("", DEFAULT_FILE),
        }
    }

    /// Reads one file.
    ///
    /// # Errors
    ///
    /// As [`Configuration::load`].
    pub fn read(path: &Path) -> Result<Configuration, Unusable> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Configuration::parse(&text, &file),
            Err(error) => Err(Unusable {
                file,
                complaints: Vec::new(),
                source: Some(error),
            }),
        }
    }

    /// Reads the text of such a file; `file` is its name in complaints.
    ///
    /// # Errors
    ///
    /// As [`Configuration::load`].
    pub fn parse(contents: &str, file: &str) -> Result<Configuration, Unusable> {
        let unusable = |complaints| Unusable {
            file: file.to_owned(),
            complaints,
            source: None,
        };
        let values = check::check(contents).map_err(unusable)?;
        let configuration: Configuration =
            merge(values).try_into().map_err(|error: toml::de::Error| {
                let text = error.message().to_owned();
                unusable(vec![Complaint { line: 1, text }])
            })?;
        let name = &configuration.runtime.default_handler;
        if !name.is_empty() && !configuration.handlers.contains_key(name) {
            let text = format!("runtime.default_handler: there is no section [{HANDLERS}.{name}]");
            let said = |line: &str| line.trim_start().starts_with("default_handler");
            let line = 1 + contents.lines().position(said).unwrap_or_default();
            return Err(unusable(vec![Complaint { line, text }]));
        }
        Ok(configuration)
    }
}

/// The file with every key at its default.
pub fn default_text() -> String {
    let mut text = format!(
        "# {DEFAULT_FILE}: what `berth cri` is told. Every key stands here with its default.\n\
         # Flags win over this file. A key marked (reload) is taken over by SIGHUP\n\
         # (`systemctl reload berth-cri`), the others by a restart; pods live on through both.\n"
    );
    for section in SECTIONS {
        text.push_str(&format!("\n# {}\n[{}]\n", section.about, section.name));
        for key in section.keys {
            let mark = match key.change {
                keys::Change::Reload => " (reload)",
                keys::Change::Restart => "",
            };
            text.push_str(&format!("# {}{mark}\n", key.about));
            text.push_str(&format!("{} = {}\n", key.name, key.default));
        }
    }
    text.push_str(
        "\n# Other OCI runtimes, by the name in a RuntimeClass's handler (reload).\n\
         # [handlers.runc]\n",
    );
    for key in HANDLER_KEYS {
        let example = match key.name {
            "path" => "\"/usr/sbin/runc\"",
            _ => key.default,
        };
        text.push_str(&format!("# # {}\n# {} = {example}\n", key.about, key.name));
    }
    text
}

/// What a file says, over the defaults.
fn merge(mut values: Table) -> Table {
    for section in SECTIONS {
        let entry = values
            .entry(section.name)
            .or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(table) = entry else { continue };
        for key in section.keys {
            if !table.contains_key(key.name) {
                table.insert(key.name.to_owned(), default_of(key));
            }
        }
    }
    values
        .entry(HANDLERS)
        .or_insert_with(|| Value::Table(Table::new()));
    values
}

fn default_of(key: &keys::Key) -> Value {
    let text = format!("value = {}", key.default);
    let parsed: Option<Table> = text.parse().ok();
    parsed
        .and_then(|mut table| table.remove("value"))
        .expect("a default of the table is TOML, as its test shows")
}

fn none_if_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    kinds::read_mode(&text).ok_or_else(|| serde::de::Error::custom("not a mode"))
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    kinds::read_duration(&text).ok_or_else(|| serde::de::Error::custom("not a time"))
}

#[cfg(test)]
mod tests;
