//! ConfigMaps and Secrets, found by namespace and name, and what RuntimeClasses stand for.
//!
//! A kubelet asks the API server for them. Beside a manifest on one machine
//! they come out of the same sources as the pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::manifest::Manifests;

/// What a pod may refer to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodObjects {
    config_maps: BTreeMap<(String, String), ConfigMap>,
    secrets: BTreeMap<(String, String), Secret>,
    service_variables: Vec<(String, String)>,
    runtime_classes: Option<BTreeMap<String, String>>,
}

impl PodObjects {
    /// Sorts the objects by namespace and name; a later one of the same name wins.
    pub fn new(
        config_maps: impl IntoIterator<Item = ConfigMap>,
        secrets: impl IntoIterator<Item = Secret>,
    ) -> PodObjects {
        PodObjects {
            config_maps: config_maps
                .into_iter()
                .map(|object| (key(&object.metadata), object))
                .collect(),
            secrets: secrets
                .into_iter()
                .map(|object| (key(&object.metadata), object))
                .collect(),
            service_variables: Vec::new(),
            runtime_classes: None,
        }
    }

    /// The same with variables that tell containers of services.
    pub fn with_service_variables(mut self, variables: Vec<(String, String)>) -> PodObjects {
        self.service_variables = variables;
        self
    }

    /// The same in a cluster, where a RuntimeClass is an object that names a handler.
    pub fn with_runtime_classes(mut self, handlers: BTreeMap<String, String>) -> PodObjects {
        self.runtime_classes = Some(handlers);
        self
    }

    /// Handlers by the names of their RuntimeClasses; none where there are no such objects.
    pub fn runtime_classes(&self) -> Option<&BTreeMap<String, String>> {
        self.runtime_classes.as_ref()
    }

    /// The engine's handler that a RuntimeClass stands for; none if nobody made the class.
    ///
    /// On one machine there are no classes, and the name is the handler's own.
    pub fn find_handler<'a>(&'a self, class: &'a str) -> Option<&'a str> {
        match &self.runtime_classes {
            Some(handlers) if !class.is_empty() => handlers.get(class).map(String::as_str),
            _ => Some(class),
        }
    }

    /// All ConfigMaps.
    pub fn config_maps(&self) -> impl Iterator<Item = &ConfigMap> {
        self.config_maps.values()
    }

    /// All Secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secrets.values()
    }

    /// Variables that tell containers of services.
    pub fn service_variables(&self) -> &[(String, String)] {
        &self.service_variables
    }

    /// The objects that stood beside the pods of a manifest.
    pub fn of(manifests: &Manifests) -> PodObjects {
        PodObjects::new(
            manifests.config_maps.iter().cloned(),
            manifests.secrets.iter().cloned(),
        )
    }

    /// One ConfigMap, if the sources held it.
    pub fn find_config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMap> {
        self.config_maps
            .get(&(namespace.to_owned(), name.to_owned()))
    }

    /// One Secret, if the sources held it.
    pub fn find_secret(&self, namespace: &str, name: &str) -> Option<&Secret> {
        self.secrets.get(&(namespace.to_owned(), name.to_owned()))
    }
}

fn key(metadata: &ObjectMeta) -> (String, String) {
    (
        metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        metadata.name.clone().unwrap_or_default(),
    )
}
