//! A network's configuration, as the CNI specification has it (SPEC.md, section 1).
//!
//! A `.conflist` holds one network with its plugins in order. A `.conf` or a
//! `.json` is the older form: one plugin, which is the network as well. Both
//! become a [`NetworkList`]. What a plugin's own part means, only the plugin
//! knows, so it is kept as it was read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::version::Version;
use crate::error::{Error, ErrorKind};

/// A network and the plugins that make it, in the order of ADD.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkList {
    /// Unique on the machine among networks.
    pub name: String,
    /// What the plugins are spoken to in.
    pub version: Version,
    /// CHECK must not be called.
    #[serde(default)]
    pub disable_check: bool,
    /// GC must not be called: others attach to this network too.
    #[serde(default)]
    pub disable_gc: bool,
    /// The plugins.
    pub plugins: Vec<PluginConfig>,
    /// Where it was read from.
    pub source: PathBuf,
}

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginConfig {
    /// The name of its program.
    #[serde(rename = "type")]
    pub program: String,
    /// What it wants to be told of each pod (CONVENTIONS.md).
    pub capabilities: BTreeSet<String>,
    /// Its part of the configuration, unread.
    pub raw: Map<String, Value>,
}

/// A list as its file has it, before more plugins are put to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadList {
    /// The network so far.
    pub network: NetworkList,
    /// What else belongs to it.
    pub more: MorePlugins,
}

/// Whether plugins of a list stand in files of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MorePlugins {
    /// In a folder that has the network's name, beside the list.
    InFolder,
    /// The list says that it is complete (`loadOnlyInlinedPlugins`).
    None,
}

/// Reads a `.conflist`.
///
/// # Errors
///
/// `Invalid`, with the field.
pub fn read_list(bytes: &[u8], source: &Path) -> Result<ReadList, Error> {
    let object = read_object(bytes)?;
    let plugins = match object.get("plugins") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(plugins)) => read_plugins(plugins)?,
        Some(_) => return Err(invalid("plugins: expected a list")),
    };
    let more = match read_switch(&object, "loadOnlyInlinedPlugins")? {
        true => MorePlugins::None,
        false => MorePlugins::InFolder,
    };
    let network = NetworkList {
        name: read_name(&object)?,
        version: choose_version(&object)?,
        disable_check: read_switch(&object, "disableCheck")?,
        disable_gc: read_switch(&object, "disableGC")?,
        plugins,
        source: source.to_owned(),
    };
    Ok(ReadList { network, more })
}

/// Reads a `.conf` or `.json`: one plugin that is the network too.
///
/// # Errors
///
/// `Invalid`, with the field.
pub fn read_single(bytes: &[u8], source: &Path) -> Result<NetworkList, Error> {
    let object = read_object(bytes)?;
    if object.contains_key("plugins") {
        return Err(invalid(
            "plugins: a list of plugins is expected in a file that is named *.conflist",
        ));
    }
    Ok(NetworkList {
        name: read_name(&object)?,
        version: choose_version(&object)?,
        disable_check: false,
        disable_gc: false,
        plugins: vec![plugin_of(object)?],
        source: source.to_owned(),
    })
}

/// Reads one plugin, from a file of a network's folder.
///
/// # Errors
///
/// `Invalid`, with the field.
pub fn read_plugin(bytes: &[u8]) -> Result<PluginConfig, Error> {
    plugin_of(read_object(bytes)?)
}

/// Refuses a list that has no plugin, wherever they were looked for.
///
/// # Errors
///
/// `Invalid`.
pub fn check_not_empty(network: &NetworkList) -> Result<(), Error> {
    match network.plugins.is_empty() {
        true => Err(invalid("plugins: expected at least one")),
        false => Ok(()),
    }
}

fn read_object(bytes: &[u8]) -> Result<Map<String, Value>, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::caused(ErrorKind::Invalid, "expected an object of JSON", error))
}

fn read_plugins(list: &[Value]) -> Result<Vec<PluginConfig>, Error> {
    list.iter()
        .enumerate()
        .map(|(index, plugin)| {
            let object = plugin
                .as_object()
                .ok_or_else(|| invalid(format!("plugins[{index}]: expected an object")))?;
            plugin_of(object.clone()).map_err(|error| invalid(format!("plugins[{index}].{error}")))
        })
        .collect()
}

fn plugin_of(raw: Map<String, Value>) -> Result<PluginConfig, Error> {
    let program = match raw.get("type") {
        Some(Value::String(program)) => program.clone(),
        Some(_) => return Err(invalid("type: expected the name of a program")),
        None => return Err(invalid("type: is missing; it names the plugin's program")),
    };
    check_program(&program)?;
    let capabilities = match raw.get("capabilities") {
        None | Some(Value::Null) => BTreeSet::new(),
        Some(Value::Object(switches)) => switches
            .iter()
            .map(|(name, value)| match value {
                Value::Bool(wanted) => Ok((name, *wanted)),
                _ => Err(invalid(format!(
                    "capabilities.{name}: expected true or false"
                ))),
            })
            .filter_map(|outcome| match outcome {
                Ok((name, true)) => Some(Ok(name.clone())),
                Ok((_, false)) => None,
                Err(error) => Some(Err(error)),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(invalid("capabilities: expected an object")),
    };
    Ok(PluginConfig {
        program,
        capabilities,
        raw,
    })
}

/// A name with a separator would run a program from outside the directories
/// that the operator named for plugins.
///
/// # Errors
///
/// `Invalid`.
pub fn check_program(program: &str) -> Result<(), Error> {
    let plain = !program.is_empty()
        && program != "."
        && program != ".."
        && !program.contains(['/', '\\', '\0'])
        && !program.chars().any(char::is_control);
    match plain {
        true => Ok(()),
        false => Err(invalid(format!(
            "type: {program:?}: expected the name of a program, without a path"
        ))),
    }
}

/// The specification's own rule; the name becomes part of paths.
fn read_name(object: &Map<String, Value>) -> Result<String, Error> {
    let name = match object.get("name") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(invalid("name: expected a text")),
        None => return Err(invalid("name: is missing")),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let begins_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    match begins_well && name.bytes().all(allowed) {
        true => Ok(name.clone()),
        false => Err(invalid(format!(
            "name: {name:?}: expected a letter or digit, then letters, digits, '_', '.' or '-'"
        ))),
    }
}

/// The newest of `cniVersion` and `cniVersions` that this crate speaks.
fn choose_version(object: &Map<String, Value>) -> Result<Version, Error> {
    let mut stated = Vec::new();
    match object.get("cniVersion") {
        None | Some(Value::Null) => {}
        Some(value) => stated.push(version_of("cniVersion", value)?),
    }
    match object.get("cniVersions") {
        None | Some(Value::Null) => {}
        Some(Value::Array(list)) => {
            for value in list {
                stated.push(version_of("cniVersions", value)?);
            }
        }
        Some(_) => return Err(invalid("cniVersions: expected a list")),
    }
    if stated.is_empty() {
        return Ok(Version::FIRST);
    }
    let spoken = stated.iter().copied().filter(|version| version.is_spoken());
    spoken.max().ok_or_else(|| {
        let stated: Vec<String> = stated.iter().map(ToString::to_string).collect();
        invalid(format!(
            "cniVersion: {}: not spoken here; the newest that is, is {}",
            stated.join(", "),
            Version::NEWEST
        ))
    })
}

fn version_of(field: &str, value: &Value) -> Result<Version, Error> {
    match value {
        Value::String(text) => text
            .parse()
            .map_err(|error| invalid(format!("{field}: {error}"))),
        _ => Err(invalid(format!(
            "{field}: expected a text, as in \"1.1.0\""
        ))),
    }
}

/// Switches of a list may be written as words in quotes: the first lists were.
fn read_switch(object: &Map<String, Value>, field: &str) -> Result<bool, Error> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(word)) if word.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(invalid(format!("{field}: expected true or false"))),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests;
