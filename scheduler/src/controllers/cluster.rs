//! All mirrors, and the writes that go through them.
//!
//! A controller reads only mirrors and writes only here. Every write names the
//! state it was decided on (a uid, often a revision too), so that a decision made
//! on an old state is refused by the API instead of carried out; and every answer
//! goes into the mirror before the write returns.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
    runtime::{WatchStreamExt, watcher},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::waits::WatchWaits;

use super::{
    ControllersConfig,
    mirror::{Key, Mirror, Mirrored, chain},
    recorder::Recorder,
};

/// The manager that owns the fields we write.
const FIELD_MANAGER: &str = "berth-controllers";

/// A mirror of each kind that a controller needs.
pub struct Mirrors {
    /// Pods, by node too.
    pub pods: Mirror<Pod>,
    /// Nodes.
    pub nodes: Mirror<Node>,
    /// Namespaces.
    pub namespaces: Mirror<Namespace>,
    /// Services.
    pub services: Mirror<Service>,
    /// Endpoint slices.
    pub endpoint_slices: Mirror<EndpointSlice>,
    /// Deployments.
    pub deployments: Mirror<Deployment>,
    /// Replica sets.
    pub replica_sets: Mirror<ReplicaSet>,
    /// Daemon sets.
    pub daemon_sets: Mirror<DaemonSet>,
    /// Templates that daemon sets had.
    pub revisions: Mirror<ControllerRevision>,
    /// Jobs.
    pub jobs: Mirror<Job>,
    /// Cron jobs.
    pub cron_jobs: Mirror<CronJob>,
    /// Disruption budgets.
    pub budgets: Mirror<PodDisruptionBudget>,
    /// Leases.
    pub leases: Mirror<Lease>,
}

impl Mirrors {
    fn new() -> Mirrors {
        Mirrors {
            pods: Mirror::new(|pod| {
                let node = pod.spec.as_ref()?.node_name.as_deref();
                node.filter(|node| !node.is_empty())
            }),
            nodes: Mirror::new(|_| None),
            namespaces: Mirror::new(|_| None),
            services: Mirror::new(|_| None),
            endpoint_slices: Mirror::new(|_| None),
            deployments: Mirror::new(|_| None),
            replica_sets: Mirror::new(|_| None),
            daemon_sets: Mirror::new(|_| None),
            revisions: Mirror::new(|_| None),
            jobs: Mirror::new(|_| None),
            cron_jobs: Mirror::new(|_| None),
            budgets: Mirror::new(|_| None),
            leases: Mirror::new(|_| None),
        }
    }

    /// Waits until every kind was listed once.
    pub async fn until_ready(&self) {
        self.pods.until_ready().await;
        self.nodes.until_ready().await;
        self.namespaces.until_ready().await;
        self.services.until_ready().await;
        self.endpoint_slices.until_ready().await;
        self.deployments.until_ready().await;
        self.replica_sets.until_ready().await;
        self.daemon_sets.until_ready().await;
        self.revisions.until_ready().await;
        self.jobs.until_ready().await;
        self.cron_jobs.until_ready().await;
        self.budgets.until_ready().await;
        self.leases.until_ready().await;
    }
}

/// A kind that has a mirror.
pub trait InMirrors: Mirrored + Serialize {
    /// Its mirror.
    fn mirror(mirrors: &Mirrors) -> &Mirror<Self>;
}

impl InMirrors for Pod {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Pod> {
        &mirrors.pods
    }
}

impl InMirrors for Node {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Node> {
        &mirrors.nodes
    }
}

impl InMirrors for Namespace {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Namespace> {
        &mirrors.namespaces
    }
}

impl InMirrors for Service {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Service> {
        &mirrors.services
    }
}

impl InMirrors for EndpointSlice {
    fn mirror(mirrors: &Mirrors) -> &Mirror<EndpointSlice> {
        &mirrors.endpoint_slices
    }
}

impl InMirrors for Deployment {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Deployment> {
        &mirrors.deployments
    }
}

impl InMirrors for ReplicaSet {
    fn mirror(mirrors: &Mirrors) -> &Mirror<ReplicaSet> {
        &mirrors.replica_sets
    }
}

impl InMirrors for DaemonSet {
    fn mirror(mirrors: &Mirrors) -> &Mirror<DaemonSet> {
        &mirrors.daemon_sets
    }
}

impl InMirrors for ControllerRevision {
    fn mirror(mirrors: &Mirrors) -> &Mirror<ControllerRevision> {
        &mirrors.revisions
    }
}

impl InMirrors for Job {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Job> {
        &mirrors.jobs
    }
}

impl InMirrors for CronJob {
    fn mirror(mirrors: &Mirrors) -> &Mirror<CronJob> {
        &mirrors.cron_jobs
    }
}

impl InMirrors for PodDisruptionBudget {
    fn mirror(mirrors: &Mirrors) -> &Mirror<PodDisruptionBudget> {
        &mirrors.budgets
    }
}

impl InMirrors for Lease {
    fn mirror(mirrors: &Mirrors) -> &Mirror<Lease> {
        &mirrors.leases
    }
}

/// What a controller sees, and how it writes.
pub struct Cluster {
    /// For what no method here does.
    pub client: Client,
    /// What the API last said.
    pub mirrors: Arc<Mirrors>,
    /// Says what was done, in events.
    pub recorder: Arc<Recorder>,
    /// Periods and limits.
    pub config: ControllersConfig,
}

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object is another than the decision was made on, or a name is taken.
    /// A later look decides anew.
    #[error("the object has changed meanwhile")]
    Conflict(#[source] Box<kube::Error>),
    /// What is to be made has a name that is taken.
    #[error("the name is taken")]
    Exists,
    /// It is gone.
    #[error("the object is gone")]
    Gone,
    /// The namespace is being deleted: nothing is made in it any more.
    #[error("the namespace is being deleted")]
    NamespaceEnds,
    /// Refused for good: another try of the same is refused as well.
    #[error("the API refuses it: {0}")]
    Refused(String),
    /// The API could not be asked, or did not answer.
    #[error("the API did not take it")]
    Unreached(#[source] Box<kube::Error>),
}

impl WriteError {
    /// What a failed call of the API means.
    pub fn of(error: kube::Error) -> WriteError {
        let kube::Error::Api(status) = &error else {
            return WriteError::Unreached(Box::new(error));
        };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let ends = causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating");
        match (status.reason.as_str(), status.code) {
            ("AlreadyExists", _) => WriteError::Exists,
            ("Conflict", _) | (_, 409) => WriteError::Conflict(Box::new(error)),
            ("NotFound" | "Gone", _) | (_, 404 | 410) => WriteError::Gone,
            ("Forbidden", _) if ends => WriteError::NamespaceEnds,
            ("Invalid" | "BadRequest" | "Forbidden", _) | (_, 400 | 403 | 422) => {
                WriteError::Refused(status.message.clone())
            }
            _ => WriteError::Unreached(Box::new(error)),
        }
    }
}

/// How an object is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// As its kind does by default; what it owns follows in the background.
    Background,
    /// At once, without grace: only where nobody is left who could end it.
    Now,
}

impl Cluster {
    /// A cluster seen through `client`, and the watches that are to be started.
    pub fn new(client: Client, config: ControllersConfig) -> (Arc<Cluster>, Mirroring) {
        let recorder = Arc::new(Recorder::new(client.clone(), &config));
        let cluster = Arc::new(Cluster {
            client,
            mirrors: Arc::new(Mirrors::new()),
            recorder,
            config,
        });
        let mirroring = Mirroring {
            cluster: Arc::clone(&cluster),
        };
        (cluster, mirroring)
    }

    /// Creates a namespaced object.
    ///
    /// # Errors
    ///
    /// [`WriteError::Exists`] if its name is taken, whoever took it.
    pub async fn create<K>(&self, object: &K) -> Result<K, WriteError>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
    {
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let api = self.api_of(object);
        let made: K = api.create(&params, object).await.map_err(WriteError::of)?;
        K::mirror(&self.mirrors).take_written(made.clone());
        Ok(made)
    }

    /// Deletes exactly this object, not its successor of the same name. One that
    /// is gone already is no error.
    ///
    /// # Errors
    ///
    /// All but [`WriteError::Gone`].
    pub async fn delete<K>(&self, object: &K, how: Deletion) -> Result<(), WriteError>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
    {
        let params = DeleteParams {
            grace_period_seconds: (how == Deletion::Now).then_some(0),
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: object.meta().uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let key = Key::of(object);
        let mirror = K::mirror(&self.mirrors);
        let uid = object.meta().uid.clone().unwrap_or_default();
        match self.api_of(object).delete(&key.name, &params).await {
            Ok(answer) => match answer.left() {
                // Without the time of its deletion it is the state before, and the
                // object is gone.
                Some(left) if left.meta().deletion_timestamp.is_some() && !is_over(left.meta()) => {
                    mirror.take_written(left);
                }
                _ => mirror.take_removed(&key, &uid),
            },
            Err(error) => match WriteError::of(error) {
                // A conflict means that the name is another object's by now.
                WriteError::Gone | WriteError::Conflict(_) => mirror.take_removed(&key, &uid),
                error => return Err(error),
            },
        }
        Ok(())
    }

    /// Changes an object by a merge patch, if it still is the one in `object`.
    ///
    /// # Errors
    ///
    /// [`WriteError::Conflict`] if it has changed since.
    pub async fn patch<K>(&self, object: &K, patch: Value) -> Result<K, WriteError>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
    {
        let patch = Patch::Merge(pinned(object, patch));
        let name = Key::of(object).name;
        let api = self.api_of(object);
        let written = api.patch(&name, &patch_params(), &patch).await;
        let written = written.map_err(WriteError::of)?;
        self.take_patched(&written);
        Ok(written)
    }

    /// Makes `status` the status of an object, if it still is the one in
    /// `object`. Nothing is written where nothing differs.
    ///
    /// # Errors
    ///
    /// [`WriteError::Conflict`] if it has changed since.
    pub async fn write_status<K, S>(
        &self,
        object: &K,
        before: Option<&S>,
        status: &S,
    ) -> Result<(), WriteError>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
        S: Serialize,
    {
        let Some(difference) = difference(&json_of(&before), &json_of(&status)) else {
            return Ok(());
        };
        let patch = Patch::Merge(pinned(object, json!({ "status": difference })));
        let name = Key::of(object).name;
        let api = self.api_of(object);
        let written = api.patch_status(&name, &patch_params(), &patch).await;
        self.take_patched(&written.map_err(WriteError::of)?);
        Ok(())
    }

    /// Reads an object from the API itself.
    ///
    /// # Errors
    ///
    /// [`WriteError::Unreached`].
    pub async fn read_live<K>(&self, key: &Key) -> Result<Option<K>, WriteError>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        api.get_opt(&key.name).await.map_err(WriteError::of)
    }

    fn take_patched<K: InMirrors>(&self, written: &K) {
        if is_over(written.meta()) {
            let uid = written.meta().uid.as_deref().unwrap_or_default();
            K::mirror(&self.mirrors).take_removed(&Key::of(written), uid);
        } else {
            K::mirror(&self.mirrors).take_written(written.clone());
        }
    }

    fn api_of<K>(&self, object: &K) -> Api<K>
    where
        K: InMirrors + Resource<Scope = NamespaceResourceScope>,
    {
        let namespace = object.meta().namespace.as_deref().unwrap_or("default");
        Api::namespaced(self.client.clone(), namespace)
    }
}

/// Whether an answer shows an object's last state: deleted, with neither grace
/// nor finalizers left. No later state of it will come.
fn is_over(meta: &ObjectMeta) -> bool {
    let finalizers = meta.finalizers.as_ref().is_some_and(|all| !all.is_empty());
    let grace = meta.deletion_grace_period_seconds.unwrap_or(0) > 0;
    meta.deletion_timestamp.is_some() && !finalizers && !grace
}

fn patch_params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// A patch that applies only to the very state it was decided on.
pub fn pinned<K: Resource>(object: &K, mut patch: Value) -> Value {
    if let Value::Object(fields) = &mut patch {
        let meta = fields
            .entry("metadata")
            .or_insert_with(|| Value::Object(Map::new()));
        meta["uid"] = json!(object.meta().uid);
        meta["resourceVersion"] = json!(object.meta().resource_version);
    }
    patch
}

/// An object as JSON.
pub fn json_of<T: Serialize>(object: &T) -> Value {
    // Only maps with keys that are no strings cannot be JSON; the API has none.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

/// The merge patch (RFC 7386) that makes `after` of `before`; none if they are
/// the same.
pub fn difference(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        return Some(after.clone());
    };
    let gone = old
        .keys()
        .filter(|key| !new.contains_key(*key))
        .map(|key| (key.clone(), Value::Null));
    let changed = new.iter().filter_map(|(key, value)| {
        let old = old.get(key).unwrap_or(&Value::Null);
        Some((key.clone(), difference(old, value)?))
    });
    Some(Value::Object(gone.chain(changed).collect()))
}

/// Whether every label of `wanted` is among `labels`.
pub fn has_labels(
    labels: Option<&BTreeMap<String, String>>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    let labels = |key| labels.and_then(|labels| labels.get(key));
    wanted.iter().all(|(key, value)| labels(key) == Some(value))
}

/// Now, cut to whole seconds, as the API's times are.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The watches of a cluster's mirrors, not yet started.
pub struct Mirroring {
    cluster: Arc<Cluster>,
}

impl Mirroring {
    /// Starts the watches.
    pub fn start(self, tasks: &mut JoinSet<()>) {
        follow::<Pod>(&self.cluster, tasks);
        follow::<Node>(&self.cluster, tasks);
        follow::<Namespace>(&self.cluster, tasks);
        follow::<Service>(&self.cluster, tasks);
        follow::<EndpointSlice>(&self.cluster, tasks);
        follow::<Deployment>(&self.cluster, tasks);
        follow::<ReplicaSet>(&self.cluster, tasks);
        follow::<DaemonSet>(&self.cluster, tasks);
        follow::<ControllerRevision>(&self.cluster, tasks);
        follow::<PodDisruptionBudget>(&self.cluster, tasks);
        follow::<Job>(&self.cluster, tasks);
        follow::<CronJob>(&self.cluster, tasks);
        follow::<Lease>(&self.cluster, tasks);
    }
}

fn follow<K: InMirrors>(cluster: &Arc<Cluster>, tasks: &mut JoinSet<()>) {
    let of = Arc::clone(cluster);
    tasks.spawn(async move {
        let api: Api<K> = Api::all(of.client.clone());
        let events = watcher(api, watcher::Config::default()).backoff(WatchWaits::default());
        K::mirror(&of.mirrors).follow(events).await;
    });
    let of = Arc::clone(cluster);
    tasks.spawn(async move { confirm::<K>(&of).await });
}

/// Looks up what the watch did not confirm in time, again and again.
async fn confirm<K: InMirrors>(cluster: &Cluster) {
    let age = cluster.config.confirm_after;
    let mirror = K::mirror(&cluster.mirrors);
    loop {
        tokio::time::sleep(age.max(Duration::from_millis(100))).await;
        for object in mirror.unconfirmed(age) {
            // Neither kind of scope is known here, so the path is made by hand.
            let key = Key::of(&*object);
            let path = K::url_path(&(), object.meta().namespace.as_deref());
            let request = http::Request::get(format!("{path}/{}", key.name));
            let Ok(request) = request.body(Vec::new()) else {
                continue;
            };
            match cluster.client.request::<K>(request).await {
                Ok(found) => mirror.confirm(&object, Some(&found)),
                Err(error) => match WriteError::of(error) {
                    WriteError::Gone => mirror.confirm(&object, None),
                    error => {
                        tracing::warn!(%key, error = %chain(&error), "an own write could not be confirmed")
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::difference;
    use serde_json::json;

    #[test]
    fn a_difference_is_a_merge_patch() {
        let before = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1]});
        let after = json!({"a": 1, "b": {"c": 3}, "e": [1, 2], "f": true});
        let patch = difference(&before, &after).unwrap();
        assert_eq!(
            patch,
            json!({"b": {"c": 3, "d": null}, "e": [1, 2], "f": true})
        );
        let mut patched = before;
        json_patch::merge(&mut patched, &patch);
        assert_eq!(patched, after);
        assert_eq!(difference(&after, &after), None);
    }
}
