//! What a pod may be told about itself: `fieldRef` and `resourceFieldRef`.
//!
//! Read more: "Downward API" in the Kubernetes documentation.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{ConfigError, config_error};
use crate::{
    manifest::quantity,
    pod::{objects::PodObjects, settings::NodeFacts},
};

/// Everything that a value of a pod may be taken from.
#[derive(Debug, Clone, Copy)]
pub struct PodFacts<'a> {
    /// The pod, with its uid.
    pub pod: &'a Pod,
    /// ConfigMaps and Secrets.
    pub objects: &'a PodObjects,
    /// The node.
    pub node: &'a NodeFacts,
    /// The pod's addresses; none before its sandbox runs.
    pub addresses: &'a [IpAddr],
}

impl PodFacts<'_> {
    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Every container of the pod, init containers first.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.pod.spec.iter().flat_map(|spec| {
            spec.init_containers
                .iter()
                .flatten()
                .chain(&spec.containers)
        })
    }

    /// A field of the pod as text.
    pub fn field(&self, selector: &ObjectFieldSelector) -> Result<String, ConfigError> {
        let metadata = &self.pod.metadata;
        let spec = self.pod.spec.as_ref();
        let path = selector.field_path.as_str();
        if let Some((map, key)) = split_subscript(path) {
            let map = match map {
                "metadata.labels" => &metadata.labels,
                "metadata.annotations" => &metadata.annotations,
                _ => return Err(unknown_field(path)),
            };
            let value = map.as_ref().and_then(|map| map.get(key));
            return Ok(value.cloned().unwrap_or_default());
        }
        let value = match path {
            "metadata.name" => metadata.name.clone(),
            "metadata.namespace" => Some(self.namespace().to_owned()),
            "metadata.uid" => metadata.uid.clone(),
            "metadata.labels" => metadata.labels.as_ref().map(lines),
            "metadata.annotations" => metadata.annotations.as_ref().map(lines),
            "spec.nodeName" => Some(self.node.name.clone()),
            "spec.serviceAccountName" => Some(
                spec.and_then(|spec| spec.service_account_name.clone())
                    .unwrap_or_else(|| "default".to_owned()),
            ),
            "status.hostIP" => self.node.addresses.first().map(ToString::to_string),
            "status.hostIPs" => Some(join(&self.node.addresses)),
            "status.podIP" => self.addresses.first().map(ToString::to_string),
            "status.podIPs" => Some(join(self.addresses)),
            _ => return Err(unknown_field(path)),
        };
        Ok(value.unwrap_or_default())
    }

    /// A limit or request, in units of the divisor, rounded up.
    ///
    /// A container without a limit may use the whole node, so the node's own
    /// size is its limit.
    pub fn resource(
        &self,
        selector: &ResourceFieldSelector,
        container: &str,
    ) -> Result<String, ConfigError> {
        let name = selector.container_name.as_deref().unwrap_or(container);
        let container = self
            .containers()
            .find(|candidate| candidate.name == name)
            .ok_or_else(|| {
                config_error(format!(
                    "resourceFieldRef.containerName: no container {name:?} in this pod"
                ))
            })?;
        let resources = container.resources.as_ref();
        let path = selector.resource.as_str();
        let (kind, resource) = path.split_once('.').ok_or_else(|| unknown_resource(path))?;
        let set = match kind {
            "limits" => resources.and_then(|resources| resources.limits.as_ref()),
            "requests" => resources.and_then(|resources| resources.requests.as_ref()),
            _ => return Err(unknown_resource(path)),
        };
        let set = set.and_then(|set| set.get(resource));
        let one = Quantity("1".to_owned());
        let divisor = selector
            .divisor
            .as_ref()
            .filter(|divisor| quantity::parse(&divisor.0).is_ok_and(|value| value > 0))
            .unwrap_or(&one);
        let (amount, divisor) = match (resource, set) {
            ("cpu", set) => {
                let whole_node = if kind == "limits" {
                    self.node.cpu_millis
                } else {
                    0
                };
                (
                    set.map_or(whole_node, quantity::milli),
                    quantity::milli(divisor),
                )
            }
            (_, Some(set)) => (quantity::whole(set), quantity::whole(divisor)),
            ("memory", None) if kind == "limits" => {
                (self.node.memory_bytes, quantity::whole(divisor))
            }
            ("memory" | "ephemeral-storage", None) => (0, 1),
            (hugepages, None) if hugepages.starts_with("hugepages-") => (0, 1),
            _ => return Err(unknown_resource(path)),
        };
        Ok(ceil_div(amount, divisor).to_string())
    }
}

/// `metadata.labels['app']` as its map and its key.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// A map as lines `key="value"`, in the order of its keys.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key}={value:?}");
    }
    text
}

fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}

fn ceil_div(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)
}

fn unknown_field(path: &str) -> ConfigError {
    config_error(format!(
        "fieldRef.fieldPath: {path:?} is no field of a pod that can be read"
    ))
}

fn unknown_resource(path: &str) -> ConfigError {
    config_error(format!(
        "resourceFieldRef.resource: {path:?}: expected limits. or requests. and one of cpu, memory, ephemeral-storage, hugepages-SIZE"
    ))
}
