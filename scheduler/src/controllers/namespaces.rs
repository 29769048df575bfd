//! Namespaces: those that every cluster has, and the end of those that are deleted.
//!
//! A deleted namespace first stays, with a finalizer in its *spec*: `kubernetes`. While it does,
//! the API refuses to create anything in it, and this controller deletes what there is, of every
//! kind that is served, again and again until nothing is left (pods take their grace, objects
//! with finalizers wait for whoever set them). Then it takes the finalizer away, and the API
//! removes the namespace itself.
//!
//! Each namespace gets a ServiceAccount named `default`, as pods name it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::cluster::{Cluster, Mirrors, WriteError, json_of, now, pinned};
use super::mirror::Key;
use super::work::{self, Again, Controller, Queue};
use crate::api::kind::{KINDS, Kind};

/// Namespaces that every cluster has.
pub const BUILT_IN: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// What holds a deleted namespace until it is empty.
const FINALIZER: &str = "kubernetes";

/// How soon to look again whether a namespace has become empty.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How soon to look again for the account of a namespace.
const ACCOUNT_AGAIN: Duration = Duration::from_secs(600);
/// How many objects are deleted at once.
const AT_ONCE: usize = 16;

/// See the module.
pub struct Namespaces;

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }

    fn subscribe(&self, mirrors: &Arc<Mirrors>, queue: &Queue) {
        work::own_changes_due(&mirrors.namespaces, queue);
        // No change tells of those that do not exist.
        BUILT_IN
            .iter()
            .for_each(|name| queue.add(Key::new("", name)));
    }

    async fn reconcile(&self, cluster: &Cluster, key: &Key) -> Result<Again, WriteError> {
        match cluster.mirrors.namespaces.read(key) {
            None if BUILT_IN.contains(&key.name.as_str()) => create(cluster, &key.name).await,
            None => Ok(Again::OnChange),
            Some(namespace) if namespace.metadata.deletion_timestamp.is_some() => {
                end(cluster, &namespace).await
            }
            Some(_) => ensure_account(cluster, &key.name).await,
        }
    }
}

async fn create(cluster: &Cluster, name: &str) -> Result<Again, WriteError> {
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    match api
        .create(&PostParams::default(), &namespace)
        .await
        .map_err(WriteError::of)
    {
        Ok(made) => cluster.mirrors.namespaces.take_written(made),
        Err(WriteError::Exists) => {}
        Err(error) => return Err(error),
    }
    ensure_account(cluster, name).await
}

async fn ensure_account(cluster: &Cluster, namespace: &str) -> Result<Again, WriteError> {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some("default".to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    let api: Api<ServiceAccount> = Api::namespaced(cluster.client.clone(), namespace);
    if api
        .get_opt("default")
        .await
        .map_err(WriteError::of)?
        .is_none()
    {
        match api
            .create(&PostParams::default(), &account)
            .await
            .map_err(WriteError::of)
        {
            Ok(_) | Err(WriteError::Exists) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Again::After(ACCOUNT_AGAIN))
}

/// Empties a namespace, and lets it go once it is empty.
async fn end(cluster: &Cluster, namespace: &Namespace) -> Result<Again, WriteError> {
    let name = namespace.name_any();
    let mut left = Vec::new();
    for kind in KINDS.iter().filter(|kind| kind.namespaced()) {
        let count = delete_all(cluster, kind, &name).await?;
        if count > 0 {
            left.push(format!("{} {}", count, kind.qualified_plural()));
        }
    }
    if left.is_empty() {
        release(cluster, namespace).await?;
        return Ok(Again::OnChange);
    }
    tell_what_is_left(cluster, namespace, &left.join(", ")).await?;
    Ok(Again::After(LOOK_AGAIN))
}

/// Deletes all objects of a kind that are not being deleted yet; returns how many there were.
async fn delete_all(cluster: &Cluster, kind: &Kind, namespace: &str) -> Result<usize, WriteError> {
    let resource = resource_of(kind);
    let api: Api<DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), namespace, &resource);
    let mut params = ListParams::default().limit(500);
    let mut count = 0;
    loop {
        let page = api.list(&params).await.map_err(WriteError::of)?;
        count += page.items.len();
        let alive = page
            .items
            .into_iter()
            .filter(|object| object.metadata.deletion_timestamp.is_none());
        stream::iter(alive.map(|object| delete(&api, object)))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(count),
        }
    }
}

async fn delete(api: &Api<DynamicObject>, object: DynamicObject) -> Result<(), WriteError> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::background()
    };
    match api
        .delete(&object.name_any(), &params)
        .await
        .map_err(WriteError::of)
    {
        Ok(_) | Err(WriteError::Gone | WriteError::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A kind as kube's client addresses it.
pub fn resource_of(kind: &Kind) -> ApiResource {
    let name = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    ApiResource::from_gvk_with_plural(&name, kind.plural)
}

/// Says in the namespace's status what keeps it.
async fn tell_what_is_left(
    cluster: &Cluster,
    namespace: &Namespace,
    left: &str,
) -> Result<(), WriteError> {
    const CONDITION: &str = "NamespaceContentRemaining";
    let message = format!("left in the namespace: {left}");
    let status = namespace.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.unwrap_or_default();
    if conditions
        .iter()
        .any(|one| one.type_ == CONDITION && one.message.as_ref() == Some(&message))
    {
        return Ok(());
    }
    conditions.retain(|condition| condition.type_ != CONDITION);
    conditions.push(NamespaceCondition {
        type_: CONDITION.to_owned(),
        status: "True".to_owned(),
        reason: Some("SomeResourcesRemain".to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now())),
    });
    let patch = pinned(
        namespace,
        json!({ "status": { "conditions": json_of(&conditions) } }),
    );
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let params = PatchParams::default();
    match api
        .patch_status(&namespace.name_any(), &params, &Patch::Merge(&patch))
        .await
    {
        Ok(written) => cluster.mirrors.namespaces.take_written(written),
        // It is a remark; the next look has the newer state.
        Err(error) => tracing::debug!("namespace {}: {error}", namespace.name_any()),
    }
    Ok(())
}

/// Takes the finalizer away.
async fn release(cluster: &Cluster, namespace: &Namespace) -> Result<(), WriteError> {
    let mut empty = namespace.clone();
    let spec = empty.spec.get_or_insert_default();
    if let Some(finalizers) = &mut spec.finalizers {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    let name = namespace.name_any();
    let body = json_of(&empty).to_string().into_bytes();
    let request = http::Request::put(format!("/api/v1/namespaces/{name}/finalize"))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| WriteError::Refused(error.to_string()))?;
    match cluster
        .client
        .request::<Namespace>(request)
        .await
        .map_err(WriteError::of)
    {
        Ok(_) | Err(WriteError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}
