//! What a plugin answers: a result, or an error.
//!
//! Results of 0.1 and 0.2 have at most one address of each family, later ones
//! lists (SPEC.md, "Success", and its older editions). They are read for the
//! pod's addresses and handed on as they are.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::version::Version;
use crate::error::{Error, ErrorKind};

/// A result, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Interfaces that were made, in the pod and on the host.
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    pub addresses: Vec<Address>,
    /// The result, for the next plugin; it states its version.
    pub raw: Value,
}

/// An interface that a plugin made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its link-layer address.
    #[serde(default)]
    pub mac: String,
    /// MTU in bytes, from version 1.1 on.
    #[serde(default)]
    pub mtu: u32,
    /// The namespace it is in; empty on the host.
    #[serde(default)]
    pub sandbox: String,
}

/// An address that a plugin gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address with its subnet's length.
    pub address: IpNet,
    /// The router of the subnet.
    pub gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    pub interface: Option<usize>,
}

/// What a plugin refused, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PluginError {
    /// The specification's number of it, or the plugin's own from 100 on.
    #[serde(default)]
    pub code: u32,
    /// A sentence.
    #[serde(default)]
    pub msg: String,
    /// More of it.
    #[serde(default)]
    pub details: String,
}

/// The pod is not known (SPEC.md, "Error"): there is nothing to undo.
pub const CODE_UNKNOWN_POD: u32 = 3;

impl Outcome {
    /// Reads the output of an ADD.
    ///
    /// # Errors
    ///
    /// `Plugin`: what it says is no result, or of a version that is not spoken.
    pub fn read(output: &[u8], asked: Version) -> Result<Self, Error> {
        if output.trim_ascii().is_empty() {
            return Err(refused("no result was printed"));
        }
        let mut raw: Value = serde_json::from_slice(output)
            .map_err(|error| Error::caused(ErrorKind::Plugin, "the result is not JSON", error))?;
        let version = match raw.get("cniVersion").and_then(Value::as_str) {
            None | Some("") => asked,
            Some(text) => text
                .parse()
                .map_err(|error| refused(format!("cniVersion: {error}")))?,
        };
        if !version.is_spoken() {
            return Err(refused(format!("cniVersion: {version} is not spoken here")));
        }
        let Some(object) = raw.as_object_mut() else {
            return Err(refused("the result is no object"));
        };
        object.insert("cniVersion".to_owned(), Value::String(version.to_string()));
        let outcome = match version < Version::WITH_INTERFACES {
            true => read_first_form(raw)?,
            false => read_lists(raw)?,
        };
        let count = outcome.interfaces.len();
        let astray = |address: &&Address| address.interface.is_some_and(|index| index >= count);
        match outcome.addresses.iter().find(astray) {
            Some(address) => Err(refused(format!(
                "ips: {} is on an interface that the result does not list",
                address.address
            ))),
            None => Ok(outcome),
        }
    }

    /// The pod's interface, where the result lists it.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        let mut interfaces = self.interfaces.iter();
        interfaces.find(|one| one.name == name && !one.sandbox.is_empty())
    }

    /// The addresses of the pod's interface, in the plugins' order.
    pub fn addresses_of(&self, name: &str) -> impl Iterator<Item = &Address> {
        let is_on = move |address: &&Address| match address.interface {
            // Not told: plugins that make one interface need not.
            None => true,
            Some(index) => self
                .interfaces
                .get(index)
                .is_some_and(|one| one.name == name && !one.sandbox.is_empty()),
        };
        self.addresses.iter().filter(is_on)
    }
}

#[derive(Deserialize)]
struct Lists {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<ListedAddress>>,
}

#[derive(Deserialize)]
struct ListedAddress {
    address: IpNet,
    #[serde(default, deserialize_with = "empty_is_none")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Deserialize)]
struct FirstForm {
    #[serde(default)]
    ip4: Option<FirstAddress>,
    #[serde(default)]
    ip6: Option<FirstAddress>,
}

#[derive(Deserialize)]
struct FirstAddress {
    ip: IpNet,
    #[serde(default, deserialize_with = "empty_is_none")]
    gateway: Option<IpAddr>,
}

fn read_lists(raw: Value) -> Result<Outcome, Error> {
    let lists = Lists::deserialize(&raw).map_err(not_a_result)?;
    let addresses = lists.ips.unwrap_or_default().into_iter().map(|listed| {
        // Some write -1 for an interface that is not told.
        let told = listed.interface.filter(|index| *index >= 0);
        let interface = told.map(usize::try_from).transpose();
        Ok(Address {
            address: listed.address,
            gateway: listed.gateway,
            interface: interface.map_err(|_| refused("ips.interface: is too large"))?,
        })
    });
    Ok(Outcome {
        interfaces: lists.interfaces.unwrap_or_default(),
        addresses: addresses.collect::<Result<_, Error>>()?,
        raw,
    })
}

fn read_first_form(raw: Value) -> Result<Outcome, Error> {
    let form = FirstForm::deserialize(&raw).map_err(not_a_result)?;
    let addresses = [form.ip4, form.ip6].into_iter().flatten();
    Ok(Outcome {
        interfaces: Vec::new(),
        addresses: addresses
            .map(|one| Address {
                address: one.ip,
                gateway: one.gateway,
                interface: None,
            })
            .collect(),
        raw,
    })
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IpAddr>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    match text.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

impl PluginError {
    /// Reads what a plugin printed when it failed; none when that is no error.
    pub fn read(output: &[u8]) -> Option<Self> {
        let error: Self = serde_json::from_slice(output).ok()?;
        (error.code != 0 || !error.msg.is_empty()).then_some(error)
    }

    /// What the code means, for the codes of the specification.
    fn meaning(&self) -> Option<&'static str> {
        Some(match self.code {
            1 => "the version is not compatible",
            2 => "a field is not supported",
            CODE_UNKNOWN_POD => "the pod is not known",
            4 => "a variable of the environment is wrong",
            5 => "input or output failed",
            6 => "the configuration could not be decoded",
            7 => "the configuration is wrong",
            11 => "try again later",
            50 => "the plugin cannot attach pods now",
            51 => "the plugin cannot attach pods now, and attached ones may be cut off",
            _ => return None,
        })
    }
}

impl std::fmt::Display for PluginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "code {}", self.code)?;
        if let Some(meaning) = self.meaning() {
            write!(f, " ({meaning})")?;
        }
        if !self.msg.is_empty() {
            write!(f, ": {}", self.msg.trim())?;
        }
        if !self.details.is_empty() {
            write!(f, "; {}", self.details.trim())?;
        }
        Ok(())
    }
}

/// The versions that a plugin speaks, from the output of VERSION.
pub fn read_versions(output: &[u8]) -> Option<Vec<Version>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        supported_versions: Vec<String>,
    }
    let versions: Versions = serde_json::from_slice(output).ok()?;
    // Versions of the future may be written otherwise.
    let read = versions.supported_versions.iter();
    Some(read.filter_map(|text| text.parse().ok()).collect())
}

fn not_a_result(error: serde_json::Error) -> Error {
    Error::caused(ErrorKind::Plugin, "the result has another form", error)
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Plugin, message)
}

#[cfg(test)]
mod tests;
