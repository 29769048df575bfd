//! Joining, renewing and leaving: the paths below `/berth/v1`, outside the Kubernetes API.
//!
//! They are here because those who ask have no rights in the API yet, or ask for
//! something that a node must not do with objects: sign, revoke, remove itself.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use serde_json::json;

use super::StorePlace;
use super::attempts::{Allowed, Attempts};
use super::port::Peer;
use super::refusal::Refused;
use crate::trust::authority::Authority;
use crate::trust::join::{
    AUTHORITY_PATH, ClusterLayout, EtcdTls, Grant, JOIN_PATH, JoinAnswer, JoinRequest, LEAVE_PATH,
    LeaveAnswer, LeaveRequest, RENEW_PATH, RenewRequest, Role,
};
use crate::trust::register::{self, Older, Register};
use crate::trust::tokens::{self, Refusal};
use crate::trust::{TrustError, check_node_name, files, servers};

/// Longer requests are nobody's.
const LONGEST_REQUEST_BYTES: usize = 64 << 10;

/// What the paths work with.
pub struct Bootstrap {
    client: kube::Client,
    authority: Arc<Authority>,
    register: Arc<Register>,
    layout: ClusterLayout,
    store: StorePlace,
    node_life: Duration,
    attempts: Attempts,
}

/// What a [`Bootstrap`] is made of.
pub struct Parts {
    /// May do everything.
    pub client: kube::Client,
    /// Signs.
    pub authority: Arc<Authority>,
    /// Knows what is refused.
    pub register: Arc<Register>,
    /// What members are told.
    pub layout: ClusterLayout,
    /// Where the cluster's memory is: for further servers.
    pub store: StorePlace,
    /// How long a node's certificate holds.
    pub node_life: Duration,
    /// What strangers may try.
    pub attempts: Allowed,
}

impl Bootstrap {
    /// Lets nodes in, and out.
    pub fn new(parts: Parts) -> Arc<Bootstrap> {
        Arc::new(Bootstrap {
            client: parts.client,
            authority: parts.authority,
            register: parts.register,
            layout: parts.layout,
            store: parts.store,
            node_life: parts.node_life,
            attempts: Attempts::new(parts.attempts),
        })
    }

    /// Makes a node a member: its certificate for the key of its request.
    ///
    /// # Errors
    ///
    /// Its name is taken or none, its request is none, or the API does not answer.
    pub async fn admit(&self, node: &str, request: &str) -> Result<JoinAnswer, Refused> {
        self.sign(node, request, Older::Refused).await
    }

    async fn sign(&self, node: &str, request: &str, older: Older) -> Result<JoinAnswer, Refused> {
        let issued = self
            .authority
            .node(node, request, self.node_life)
            .map_err(|error| Refused::bad_request(error.to_string()))?;
        register::record(&self.client, node, &issued.subject, older)
            .await
            .map_err(failed)?;
        Ok(JoinAnswer {
            certificate: issued.certificate,
            cluster: self.layout().await?,
            server: None,
        })
    }

    /// The layout with all servers that are alive, this one first.
    async fn layout(&self) -> Result<ClusterLayout, Refused> {
        let slices: Api<EndpointSlice> = Api::default_namespaced(self.client.clone());
        let there = ListParams::default().labels(servers::OF_SERVERS);
        let slices = slices.list(&there).await.map_err(TrustError::from);
        let mut layout = self.layout.clone();
        for server in servers::addresses(slices.map_err(failed)?.iter()) {
            if !layout.servers.contains(&server) {
                layout.servers.push(server);
            }
        }
        Ok(layout)
    }

    /// What makes a machine a server of this cluster.
    fn grant(&self) -> Result<Grant, Refused> {
        let StorePlace::Etcd(etcd) = &self.store else {
            return Err(Refused::conflict(
                "this cluster can have no further server: its memory is a file on its only one, and several servers share an etcd. Join as a node, without --server; a cluster with several servers begins with 'berth cluster init --store etcd://HOST:PORT,…'",
            ));
        };
        let read = |path: &Path| {
            let text = files::read(path).map_err(failed)?;
            text.ok_or_else(|| Refused::internal(format!("there is no {}", path.display())))
        };
        let etcd_tls = match &etcd.tls {
            None => None,
            Some(tls) => Some(EtcdTls {
                authority: read(&tls.authority)?,
                identity: match &tls.identity {
                    None => None,
                    Some((certificate, key)) => Some((read(certificate)?, read(key)?)),
                },
            }),
        };
        Ok(Grant {
            authority_key: self.authority.key().to_owned(),
            etcd: etcd.members.clone(),
            etcd_tls,
            node_certificate_seconds: self.node_life.as_secs().max(1),
        })
    }

    async fn refuse_taken(&self, node: &str) -> Result<(), Refused> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.get_opt(node).await.map_err(TrustError::from) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Refused::conflict(format!(
                "the cluster has a node {node} already: choose another --name, or, if that machine is gone, remove it with 'berth delete node {node}'"
            ))),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The paths.
pub fn router(bootstrap: Arc<Bootstrap>) -> Router {
    Router::new()
        .route(JOIN_PATH, post(join))
        .route(RENEW_PATH, post(renew))
        .route(LEAVE_PATH, post(leave))
        .route(AUTHORITY_PATH, get(authority))
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST_BYTES))
        .with_state(bootstrap)
}

type Shared = State<Arc<Bootstrap>>;

async fn authority(State(bootstrap): Shared) -> Response {
    let kind = [(http::header::CONTENT_TYPE, "application/x-pem-file")];
    (kind, bootstrap.authority.certificate().to_owned()).into_response()
}

async fn join(
    State(bootstrap): Shared,
    Extension(peer): Extension<Peer>,
    Json(request): Json<JoinRequest>,
) -> Result<Json<JoinAnswer>, Refused> {
    let address = peer.address.ip();
    bound_attempts(&bootstrap.attempts, address)?;
    let answer = admit_by_token(&bootstrap, &request).await;
    match &answer {
        Ok(_) => {
            bootstrap.attempts.forgive(address);
            let role = request.role;
            tracing::info!(node = request.node, token = request.token_id, ?role, %address, "a node joined");
        }
        Err(error) => {
            let reason = &error.0.message;
            tracing::warn!(node = request.node, %address, "a join was refused: {reason}");
        }
    }
    answer.map(Json)
}

async fn admit_by_token(
    bootstrap: &Bootstrap,
    request: &JoinRequest,
) -> Result<JoinAnswer, Refused> {
    check_node_name(&request.node).map_err(|error| Refused::bad_request(error.to_string()))?;
    let (id, secret) = (&request.token_id, &request.token_secret);
    // Who has no token learns nothing of the cluster, not even its nodes' names; and a
    // token is spent only by one who could come in.
    let token = tokens::check(&bootstrap.client, id, secret)
        .await
        .map_err(refused)?;
    let server = match request.role {
        Role::Node => None,
        Role::Server => Some(bootstrap.grant()?),
    };
    token.admits(request.role).map_err(refused)?;
    bootstrap.refuse_taken(&request.node).await?;
    tokens::spend(&bootstrap.client, id, secret)
        .await
        .map_err(refused)?;
    let answer = bootstrap.admit(&request.node, &request.request).await?;
    Ok(JoinAnswer { server, ..answer })
}

async fn renew(
    State(bootstrap): Shared,
    Extension(peer): Extension<Peer>,
    Json(request): Json<RenewRequest>,
) -> Result<Json<JoinAnswer>, Refused> {
    let node = member(&peer)?;
    let answer = bootstrap.sign(node, &request.request, Older::Held).await?;
    // Whoever was removed while this was signed must not go on with what is new.
    if let Some(subject) = &peer.subject
        && register::is_revoked(&bootstrap.client, &subject.serial)
            .await
            .map_err(failed)?
    {
        register::revoke(&bootstrap.client, &bootstrap.register, node)
            .await
            .map_err(failed)?;
        let text = "this node's certificate was revoked: nothing was renewed";
        return Err(Refused::unauthorized(text));
    }
    tracing::info!(node, "a node renewed its certificate");
    Ok(Json(answer))
}

async fn leave(
    State(bootstrap): Shared,
    Extension(peer): Extension<Peer>,
    Json(request): Json<LeaveRequest>,
) -> Result<Json<LeaveAnswer>, Refused> {
    let node = member(&peer)?;
    let client = &bootstrap.client;
    if request.finish {
        remove(client, node).await.map_err(failed)?;
        register::revoke(client, &bootstrap.register, node)
            .await
            .map_err(failed)?;
        // Its agent runs still: it may have registered once more before it was refused.
        remove(client, node).await.map_err(failed)?;
        tracing::info!(node, "a node left");
        let pods = Vec::new();
        return Ok(Json(LeaveAnswer { pods, left: true }));
    }
    let pods = drain(client, node).await.map_err(failed)?;
    Ok(Json(LeaveAnswer { pods, left: false }))
}

/// Keeps new pods away and sends those there on their way; those that are left.
///
/// # Errors
///
/// [`TrustError::Api`].
pub async fn drain(client: &kube::Client, node: &str) -> Result<Vec<String>, TrustError> {
    let nodes: Api<Node> = Api::all(client.clone());
    if nodes.get_opt(node).await?.is_none() {
        return Ok(Vec::new());
    }
    let cordon = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
    nodes.patch(node, &PatchParams::default(), &cordon).await?;
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(client.clone()).list(&there).await?;
    let mut left = Vec::new();
    for pod in pods.items.iter().filter(|pod| is_to_leave(pod)) {
        let metadata = pod.metadata.clone();
        let (Some(namespace), Some(name)) = (metadata.namespace, metadata.name) else {
            continue;
        };
        left.push(format!("{namespace}/{name}"));
        if metadata.deletion_timestamp.is_none() {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            match pods.evict(&name, &EvictParams::default()).await {
                // Gone already, or a budget that forbids it now: the caller asks again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 429) => {}
                outcome => drop(outcome?),
            }
        }
    }
    Ok(left)
}

/// A DaemonSet's pods go with the node, and pods that have ended are not in the way.
fn is_to_leave(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    let is_daemon = owners.clone().any(|owner| owner.kind == "DaemonSet");
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !is_daemon && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Removes a Node, and the pods that were bound to it: nobody is left to end them.
async fn remove(client: &kube::Client, node: &str) -> Result<(), TrustError> {
    let there = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = Api::<Pod>::all(client.clone()).list(&there).await?;
    for pod in pods {
        if let (Some(namespace), Some(name)) = (pod.metadata.namespace, pod.metadata.name) {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            let now = DeleteParams::default().grace_period(0);
            ignore_missing(pods.delete(&name, &now).await)?;
        }
    }
    let nodes: Api<Node> = Api::all(client.clone());
    ignore_missing(nodes.delete(node, &DeleteParams::default()).await)
}

fn ignore_missing<T>(outcome: Result<T, kube::Error>) -> Result<(), TrustError> {
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// The node that asks, by its certificate.
fn member(peer: &Peer) -> Result<&str, Refused> {
    let subject = peer.subject.as_ref();
    subject
        .and_then(|subject| subject.node())
        .ok_or_else(|| Refused::unauthorized("only a node asks this, with its own certificate"))
}

fn bound_attempts(attempts: &Attempts, address: IpAddr) -> Result<(), Refused> {
    attempts.count(address, Instant::now()).map_err(|wait| {
        let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX) + 1;
        let message = format!("too many attempts from {address}: wait {seconds} seconds");
        Refused::too_many(message, seconds)
    })
}

fn refused(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Api(error) => failed(TrustError::Api(error)),
        refusal => Refused::unauthorized(refusal.to_string()),
    }
}

fn failed(error: TrustError) -> Refused {
    Refused::internal(berth_runtime::causes::chain(&error))
}

/// Where this server answers others.
pub fn address(advertise: IpAddr, listen: SocketAddr) -> SocketAddr {
    SocketAddr::new(advertise, listen.port())
}
