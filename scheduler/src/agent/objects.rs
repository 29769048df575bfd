//! ConfigMaps, Secrets and RuntimeClasses of pods, asked of the server and looked at again.
//!
//! A node may read what its pods name and nothing else, so each is asked for by its
//! name; pods that name the same one share the answer for a while.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, PodSpec, Secret},
    node::v1::RuntimeClass,
};
use kube::{Api, Client};

use crate::pod::objects::PodObjects;

/// Objects of one pod that are asked for at once.
const AT_ONCE: usize = 4;

/// What a pod refers to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// A ConfigMap, by its name.
    ConfigMap(String),
    /// A Secret, by its name.
    Secret(String),
    /// A RuntimeClass, by its name.
    RuntimeClass(String),
}

/// Everything that a pod refers to, whether it can do without or not.
pub fn references(spec: &PodSpec) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut config_map = |name: &str| found.insert(Reference::ConfigMap(name.to_owned()));
    let mut secrets = BTreeSet::new();
    let mut secret = |name: &str| secrets.insert(Reference::Secret(name.to_owned()));
    for reference in spec.image_pull_secrets.iter().flatten() {
        secret(&reference.name);
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            config_map(&source.name);
        }
        if let Some(name) = volume
            .secret
            .as_ref()
            .and_then(|source| source.secret_name.as_ref())
        {
            secret(name);
        }
        let projected = volume.projected.iter();
        for part in projected.flat_map(|source| source.sources.iter().flatten()) {
            if let Some(source) = &part.config_map {
                config_map(&source.name);
            }
            if let Some(source) = &part.secret {
                secret(&source.name);
            }
        }
    }
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    for container in containers {
        for source in container.env_from.iter().flatten() {
            if let Some(reference) = &source.config_map_ref {
                config_map(&reference.name);
            }
            if let Some(reference) = &source.secret_ref {
                secret(&reference.name);
            }
        }
        let variables = container.env.iter().flatten();
        for source in variables.filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(reference) = &source.config_map_key_ref {
                config_map(&reference.name);
            }
            if let Some(reference) = &source.secret_key_ref {
                secret(&reference.name);
            }
        }
    }
    found.extend(secrets);
    found.extend(spec.runtime_class_name.clone().map(Reference::RuntimeClass));
    // A reference without a name refers to nothing.
    found.retain(|reference| match reference {
        Reference::ConfigMap(name) | Reference::Secret(name) | Reference::RuntimeClass(name) => {
            !name.is_empty()
        }
    });
    found
}

/// An object, or that there is none.
#[derive(Debug, Clone)]
enum Answer {
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
    /// The handler that a RuntimeClass stands for.
    RuntimeClass(String),
    Missing,
}

/// What a pod refers to, as the server has it.
#[derive(Debug)]
pub struct Fetched {
    /// What is there.
    pub objects: PodObjects,
    /// What is not.
    pub missing: Vec<Reference>,
}

/// The server's answers, shared by pods.
pub struct ObjectSource {
    client: Client,
    fresh_for: Duration,
    answers: Mutex<HashMap<(String, Reference), (Instant, Answer)>>,
}

impl ObjectSource {
    /// An answer is asked for again after `fresh_for`.
    pub fn new(client: Client, fresh_for: Duration) -> ObjectSource {
        ObjectSource {
            client,
            fresh_for,
            answers: Mutex::new(HashMap::new()),
        }
    }

    /// Asks for everything that a pod refers to.
    ///
    /// # Errors
    ///
    /// When one of them could not be asked for: nothing is known then.
    pub async fn fetch(&self, pod: &Pod) -> Result<Fetched, kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let wanted = pod.spec.as_ref().map(references).unwrap_or_default();
        let asked = wanted.into_iter().map(|reference| async move {
            let answer = self.ask(namespace, &reference).await?;
            Ok::<_, kube::Error>((reference, answer))
        });
        let answers: Vec<(Reference, Answer)> =
            stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let mut missing = Vec::new();
        let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
        let mut handlers = BTreeMap::new();
        for (reference, answer) in answers {
            match answer {
                Answer::ConfigMap(object) => config_maps.push(*object),
                Answer::Secret(object) => secrets.push(*object),
                Answer::RuntimeClass(handler) => {
                    if let Reference::RuntimeClass(name) = reference {
                        handlers.insert(name, handler);
                    }
                }
                Answer::Missing => missing.push(reference),
            }
        }
        Ok(Fetched {
            objects: PodObjects::new(config_maps, secrets).with_runtime_classes(handlers),
            missing,
        })
    }

    async fn ask(&self, namespace: &str, reference: &Reference) -> Result<Answer, kube::Error> {
        let key = (namespace.to_owned(), reference.clone());
        let known = self.lock().get(&key).cloned();
        if let Some((at, answer)) = known
            && at.elapsed() < self.fresh_for
        {
            return Ok(answer);
        }
        let client = self.client.clone();
        let answer = match reference {
            Reference::ConfigMap(name) => {
                let api: Api<ConfigMap> = Api::namespaced(client, namespace);
                let found = api.get_opt(name).await?;
                found.map(|mut object| {
                    object.metadata.managed_fields = None;
                    Answer::ConfigMap(Box::new(object))
                })
            }
            Reference::RuntimeClass(name) => {
                let api: Api<RuntimeClass> = Api::all(client);
                let found = api.get_opt(name).await?;
                found.map(|object| Answer::RuntimeClass(object.handler))
            }
            Reference::Secret(name) => {
                let api: Api<Secret> = Api::namespaced(client, namespace);
                let found = api.get_opt(name).await?;
                found.map(|mut object| {
                    object.metadata.managed_fields = None;
                    Answer::Secret(Box::new(object))
                })
            }
        };
        let mut answers = self.lock();
        let Some(answer) = answer else {
            // Whoever waits for it asks often, and is to see it at once.
            answers.remove(&key);
            return Ok(Answer::Missing);
        };
        let fresh_for = self.fresh_for;
        answers.retain(|_, (at, _)| at.elapsed() < fresh_for);
        answers.insert(key, (Instant::now(), answer.clone()));
        Ok(answer)
    }

    /// Each change under the lock is whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Reference), (Instant, Answer)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Reference, references};

    #[test]
    fn references_are_found_wherever_they_stand() {
        let spec = serde_json::from_value(json!({
            "runtimeClassName": "sandboxed",
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "configMap": {"name": "files"}},
                {"name": "b", "secret": {"secretName": "keys"}},
                {"name": "c", "projected": {"sources": [
                    {"configMap": {"name": "more"}}, {"secret": {"name": "tokens"}}]}}],
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "init"}}]}],
            "containers": [{"name": "m",
                "envFrom": [{"configMapRef": {"name": "all"}}],
                "env": [
                    {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "one", "key": "k"}}},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "k"}}}]}]}))
        .unwrap();
        let names: Vec<String> = references(&spec)
            .into_iter()
            .map(|reference| match reference {
                Reference::ConfigMap(name) => format!("c/{name}"),
                Reference::Secret(name) => format!("s/{name}"),
                Reference::RuntimeClass(name) => format!("r/{name}"),
            })
            .collect();
        let expected = [
            "c/all",
            "c/files",
            "c/more",
            "c/one",
            "s/init",
            "s/keys",
            "s/pull",
            "s/tokens",
            "r/sandboxed",
        ];
        assert_eq!(names, expected);
    }
}
