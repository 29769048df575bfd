//! A container's environment, and `$(VAR)` in its command line.
//!
//! `envFrom` comes first and `env` replaces it. Only `value` is expanded, with
//! what stands above it; what comes out of a ConfigMap or Secret is data.
//!
//! Read more: "Define dependent environment variables" in the Kubernetes
//! documentation.

use std::collections::BTreeMap;

use berth_cri::v1;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Container, EnvFromSource, EnvVarSource, Secret},
};

use super::{ConfigError, config_error, facts::PodFacts};

/// Variables in the order in which they were first set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: Vec<(String, Vec<u8>)>,
}

impl Environment {
    /// The value of a variable.
    pub fn find(&self, name: &str) -> Option<&[u8]> {
        self.variables
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
    }

    /// Replaces each `$(NAME)` that is known; `$$` is a plain `$`.
    ///
    /// What is not known stays as it stands, so that a shell's `$(command)`
    /// survives.
    pub fn expand(&self, text: &str) -> Vec<u8> {
        let mut expanded = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            expanded.extend_from_slice(&rest.as_bytes()[..at]);
            let after = &rest[at + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                expanded.push(b'$');
                rest = tail;
            } else if let Some((name, tail)) = after
                .strip_prefix('(')
                .and_then(|inner| inner.split_once(')'))
            {
                match self.find(name) {
                    Some(value) => expanded.extend_from_slice(value),
                    None => expanded.extend_from_slice(format!("$({name})").as_bytes()),
                }
                rest = tail;
            } else {
                expanded.push(b'$');
                rest = after;
            }
        }
        expanded.extend_from_slice(rest.as_bytes());
        expanded
    }

    /// As [`Environment::expand`], for a field that is text.
    pub fn expand_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.expand(text)).into_owned()
    }

    /// The variables as the CRI takes them.
    pub fn into_cri(self) -> Vec<v1::KeyValue> {
        self.variables
            .into_iter()
            .map(|(key, value)| v1::KeyValue { key, value })
            .collect()
    }

    fn set(&mut self, name: &str, value: Vec<u8>) {
        match self.variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }
}

/// The environment that the pod gives to one of its containers.
///
/// The image's own variables are not in it: the runtime puts them below.
///
/// # Errors
///
/// A ConfigMap, Secret or key that is missing and not optional, by name.
pub fn plan_environment(
    facts: &PodFacts<'_>,
    container: &Container,
) -> Result<Environment, ConfigError> {
    let mut environment = Environment::default();
    let links = facts
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.enable_service_links);
    if links != Some(false) {
        for (name, value) in facts.objects.service_variables() {
            environment.set(name, value.clone().into_bytes());
        }
    }
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        for (key, value) in read_all(facts, source)? {
            let name = format!("{prefix}{key}");
            if is_variable_name(&name) {
                environment.set(&name, value);
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(text), _) if !text.is_empty() => Some(environment.expand(text)),
            (_, Some(source)) => read_one(facts, source, &container.name)
                .map_err(|error| error.within(&format!("env {}", variable.name)))?,
            _ => Some(Vec::new()),
        };
        if let Some(value) = value {
            environment.set(&variable.name, value);
        }
    }
    Ok(environment)
}

/// A name that the kernel's `NAME=value` strings can hold.
fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

/// All keys of one `envFrom`.
fn read_all(
    facts: &PodFacts<'_>,
    source: &EnvFromSource,
) -> Result<BTreeMap<String, Vec<u8>>, ConfigError> {
    if let Some(reference) = &source.config_map_ref {
        return Ok(
            match facts
                .objects
                .find_config_map(facts.namespace(), &reference.name)
            {
                Some(map) => texts(map),
                None if reference.optional == Some(true) => BTreeMap::new(),
                None => return Err(missing("configmap", &reference.name)),
            },
        );
    }
    if let Some(reference) = &source.secret_ref {
        return Ok(
            match facts
                .objects
                .find_secret(facts.namespace(), &reference.name)
            {
                Some(secret) => bytes(secret),
                None if reference.optional == Some(true) => BTreeMap::new(),
                None => return Err(missing("secret", &reference.name)),
            },
        );
    }
    Ok(BTreeMap::new())
}

/// One `valueFrom`; nothing when it is optional and missing.
fn read_one(
    facts: &PodFacts<'_>,
    source: &EnvVarSource,
    container: &str,
) -> Result<Option<Vec<u8>>, ConfigError> {
    if let Some(selector) = &source.field_ref {
        return Ok(Some(facts.field(selector)?.into_bytes()));
    }
    if let Some(selector) = &source.resource_field_ref {
        return Ok(Some(facts.resource(selector, container)?.into_bytes()));
    }
    let (kind, name, key, optional, keys) = if let Some(selector) = &source.config_map_key_ref {
        let map = facts
            .objects
            .find_config_map(facts.namespace(), &selector.name);
        (
            "configmap",
            &selector.name,
            &selector.key,
            selector.optional,
            map.map(texts),
        )
    } else if let Some(selector) = &source.secret_key_ref {
        let secret = facts.objects.find_secret(facts.namespace(), &selector.name);
        (
            "secret",
            &selector.name,
            &selector.key,
            selector.optional,
            secret.map(bytes),
        )
    } else {
        return Ok(Some(Vec::new()));
    };
    let found = keys.map(|mut keys| keys.remove(key));
    match found {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional == Some(true) => Ok(None),
        Some(None) => Err(config_error(format!(
            "couldn't find key {key} in {kind} {name}"
        ))),
        None => Err(missing(kind, name)),
    }
}

fn texts(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    map.data
        .iter()
        .flatten()
        .map(|(key, text)| (key.clone(), text.clone().into_bytes()))
        .collect()
}

fn bytes(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret
        .data
        .iter()
        .flatten()
        .map(|(key, ByteString(value))| (key.clone(), value.clone()))
        .collect()
}

fn missing(kind: &str, name: &str) -> ConfigError {
    config_error(format!("{kind} {name:?} not found"))
}

#[cfg(test)]
mod tests;
