//! Who may do what.
//!
//! `system:masters` may do everything. A node, which is the group `system:nodes` with the user
//! `system:node:NAME`, may do what it needs and no more, so that one machine that is taken over
//! does not hand over the cluster:
//!
//! | what | which |
//! |---|---|
//! | read | all Nodes, Pods, Services, EndpointSlices, Namespaces, PriorityClasses, RuntimeClasses |
//! | read | ConfigMaps, Secrets and ServiceAccounts that a pod bound to it names, one by one |
//! | write | its own Node and CSINode, and its Lease in `kube-node-lease` |
//! | write | the status of pods bound to it; it deletes and evicts only those |
//! | write | Events |
//!
//! Everybody else who is known may read what the API says about itself, nothing more.
//!
//! Read more: Kubernetes' page "Using Node Authorization".

use serde_json::Value;

use crate::{
    api::{
        Api, Identity,
        error::ApiError,
        kind::{Subresource, by_plural},
        object,
        request::{Parameters, Target},
    },
    trust::{NODE_USER_PREFIX, NODES},
};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// What is asked for, in the words that permissions use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// One object.
    Get,
    /// Many objects.
    List,
    /// What changes.
    Watch,
    /// A new object, or an action.
    Create,
    /// An object in the place of another.
    Update,
    /// A part of an object.
    Patch,
    /// The end of an object.
    Delete,
    /// The end of many objects.
    DeleteCollection,
}

impl Verb {
    /// As in messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }
}

/// One request, as far as permissions are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Who asks.
    pub identity: &'a Identity,
    /// For what.
    pub verb: Verb,
    /// Of what.
    pub target: &'a Target,
    /// With which parameters.
    pub parameters: &'a Parameters,
}

/// Lets a request pass or refuses it.
///
/// # Errors
///
/// 403 that names who asked for what.
pub async fn check(api: &Api, attempt: &Attempt<'_>) -> Result<(), ApiError> {
    if is_member(attempt.identity, MASTERS) {
        return Ok(());
    }
    match node_name(attempt.identity) {
        Some(node) if node_may(api, node, attempt).await? => Ok(()),
        _ => Err(refusal(attempt, "")),
    }
}

/// What only the body of a create tells: a node makes its own Node and Lease and no other.
///
/// # Errors
///
/// 403 that names who asked for what.
pub fn check_created(attempt: &Attempt<'_>, body: &Value) -> Result<(), ApiError> {
    let Some(node) = node_name(attempt.identity).filter(|_| !is_member(attempt.identity, MASTERS))
    else {
        return Ok(());
    };
    let is_own = matches!(attempt.target.kind.kind, "Node" | "CSINode" | "Lease");
    if attempt.target.subresource.is_none() && is_own && object::name(body) != node {
        return Err(refusal(
            attempt,
            &format!(": a node makes only the one of its own name, {node:?}"),
        ));
    }
    Ok(())
}

fn is_member(identity: &Identity, group: &str) -> bool {
    identity.groups.iter().any(|one| one == group)
}

/// The node that asks, if it is one.
fn node_name(identity: &Identity) -> Option<&str> {
    let name = identity.user.strip_prefix(NODE_USER_PREFIX)?;
    (is_member(identity, NODES) && !name.is_empty()).then_some(name)
}

async fn node_may(api: &Api, node: &str, attempt: &Attempt<'_>) -> Result<bool, ApiError> {
    let target = attempt.target;
    let reads = matches!(attempt.verb, Verb::Get | Verb::List | Verb::Watch);
    let writes = matches!(attempt.verb, Verb::Update | Verb::Patch);
    let is_own = target.name.as_deref() == Some(node);
    Ok(match (target.kind.kind, target.subresource) {
        (
            "Node" | "Pod" | "Service" | "EndpointSlice" | "Namespace" | "PriorityClass"
            | "RuntimeClass",
            None,
        ) if reads => true,
        ("Node", None | Some(Subresource::Status)) if writes => is_own,
        ("Node", None) => attempt.verb == Verb::Create,
        ("CSINode", None) => attempt.verb == Verb::Create || (is_own && (reads || writes)),
        ("Lease", None) if target.namespace.as_deref() == Some("kube-node-lease") => {
            attempt.verb == Verb::Create || (is_own && attempt.verb != Verb::DeleteCollection)
        }
        ("Event", None) => writes || attempt.verb == Verb::Create,
        ("Pod", Some(Subresource::Status)) if writes || reads => runs(api, node, target).await?,
        ("Pod", Some(Subresource::Eviction)) => runs(api, node, target).await?,
        ("Pod", None) if attempt.verb == Verb::Delete => runs(api, node, target).await?,
        ("ConfigMap" | "Secret" | "ServiceAccount", None) if reads => is_named(api, node, attempt)?,
        _ => false,
    })
}

/// Whether the pod is bound to this node. A pod that is gone is nobody's: the verb says so.
async fn runs(api: &Api, node: &str, target: &Target) -> Result<bool, ApiError> {
    match api.read(&target.place()).await {
        Ok(pod) => Ok(pod.value["spec"]["nodeName"] == node),
        Err(error) if error.code == 404 => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether a pod of this node names the object.
fn is_named(api: &Api, node: &str, attempt: &Attempt<'_>) -> Result<bool, ApiError> {
    let target = attempt.target;
    let selection = attempt.parameters.selection(target.kind)?;
    // A list or watch of one object is selected by its name.
    let name = target
        .name
        .as_deref()
        .or_else(|| selection.fields.required("metadata.name"));
    let (Some(name), Some(namespace), Some(pods)) =
        (name, &target.namespace, by_plural("", "pods"))
    else {
        return Ok(false);
    };
    for pod in api.cache.snapshot(pods, Some(namespace))?.objects {
        if pod.selectable["spec"]["nodeName"] == node
            && names(target.kind.kind, &pod.value()?["spec"], name)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pod's spec names a Secret, ConfigMap or ServiceAccount, wherever in it.
fn names(kind: &str, spec: &Value, wanted: &str) -> bool {
    let holders: &[&str] = match kind {
        "ConfigMap" => &["configMap", "configMapKeyRef", "configMapRef"],
        "Secret" => &["secret", "secretKeyRef", "secretRef", "imagePullSecrets"],
        _ => return spec["serviceAccountName"] == wanted,
    };
    let is_it = |value: &Value| value["name"] == wanted || value["secretName"] == wanted;
    match spec {
        Value::Array(items) => items.iter().any(|item| names(kind, item, wanted)),
        Value::Object(fields) => fields.iter().any(|(field, value)| {
            let listed = value
                .as_array()
                .is_some_and(|items| items.iter().any(is_it));
            holders.contains(&field.as_str()) && (is_it(value) || listed)
                || names(kind, value, wanted)
        }),
        _ => false,
    }
}

fn refusal(attempt: &Attempt<'_>, detail: &str) -> ApiError {
    let target = attempt.target;
    let mut resource = target.kind.plural.to_owned();
    if let Some(subresource) = target.subresource {
        resource = format!("{resource}/{}", subresource.path());
    }
    let place = match (&target.namespace, target.kind.namespaced()) {
        (Some(namespace), _) => format!("in the namespace {namespace:?}"),
        _ => "at the cluster scope".to_owned(),
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}{detail}",
        attempt.identity.user,
        attempt.verb.word(),
        target.kind.group,
    );
    ApiError::forbidden(
        target.kind,
        target.name.as_deref().unwrap_or_default(),
        &why,
    )
}

#[cfg(test)]
mod tests;
