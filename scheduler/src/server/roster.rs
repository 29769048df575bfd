//! The servers behind the Service `kubernetes`: its EndpointSlices, kept by the leader.
//!
//! Pods reach the API by them, and nodes learn from them where servers are
//! ([`crate::trust::servers`]). With etcd each server says itself that it is there
//! ([`presence`]); a server with a store of its own is the only one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::store::presence::{self, Present};
use crate::store::{SharedStore, StoreError};
use crate::trust::servers::{LEADER, OF_SERVERS, SLICE};

const MANAGER: &str = "berth-server";
/// How long to wait where the store or the API did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the slices are looked at although nobody came or went: somebody may have changed them.
const REPAIR: Duration = Duration::from_secs(30);

/// Which servers there are.
#[derive(Clone)]
pub enum Roll {
    /// This one.
    Sole(Present),
    /// Those whose keys stand in the store that they share.
    Shared(SharedStore),
}

impl Roll {
    async fn read(&self) -> Result<(Vec<Present>, u64), StoreError> {
        match self {
            Roll::Sole(server) => Ok((vec![server.clone()], 0)),
            Roll::Shared(store) => presence::read(store.as_ref()).await,
        }
    }

    async fn changed(&self, after: u64) -> Result<(), StoreError> {
        match self {
            Roll::Sole(_) => std::future::pending().await,
            Roll::Shared(store) => presence::changed(store.as_ref(), after).await,
        }
    }
}

/// Keeps the slices as the servers are, for ever.
pub async fn keep(client: kube::Client, roll: Roll, leader: SocketAddr) {
    loop {
        let outcome = match roll.read().await {
            // The leader's own key may be a moment away; without any server there is no API.
            Ok((servers, revision)) => match write(&client, &servers, leader).await {
                Ok(()) => {
                    let change = tokio::time::timeout(REPAIR, roll.changed(revision));
                    change
                        .await
                        .unwrap_or(Ok(()))
                        .map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = outcome {
            tracing::warn!("the endpoints of Service kubernetes are not written yet: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn write(
    client: &kube::Client,
    servers: &[Present],
    leader: SocketAddr,
) -> Result<(), kube::Error> {
    let slices: Api<EndpointSlice> = Api::default_namespaced(client.clone());
    let wanted = plan_slices(servers, leader);
    let force = PatchParams::apply(MANAGER).force();
    for (name, slice) in &wanted {
        slices.patch(name, &force, &Patch::Apply(slice)).await?;
    }
    let there = ListParams::default().labels(OF_SERVERS);
    for slice in slices.list_metadata(&there).await?.items {
        let name = slice.metadata.name.unwrap_or_default();
        if !wanted.is_empty() && !wanted.contains_key(&name) {
            match slices.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                outcome => drop(outcome?),
            }
        }
    }
    Ok(())
}

/// One slice for each family and port, by name; none without servers.
fn plan_slices(servers: &[Present], leader: SocketAddr) -> BTreeMap<String, Value> {
    let mut groups: BTreeMap<(bool, u16), Vec<&Present>> = BTreeMap::new();
    for server in servers {
        let group = (server.address.is_ipv6(), server.address.port());
        groups.entry(group).or_default().push(server);
    }
    let slice = |number: usize, ((is_ipv6, port), members): ((bool, u16), Vec<&Present>)| {
        // The first has the name that it has in Kubernetes.
        let name = match number {
            0 => SLICE.to_owned(),
            _ => format!("{SLICE}-{}-{port}", if is_ipv6 { "ipv6" } else { "ipv4" }),
        };
        let endpoint = |server: &&Present| {
            let mut endpoint = json!({
                "addresses": [server.address.ip()],
                "conditions": { "ready": true },
            });
            if let Some(node) = &server.node {
                endpoint["nodeName"] = json!(node);
            }
            endpoint
        };
        let value = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
                "annotations": { LEADER: leader.to_string() },
            },
            "addressType": if is_ipv6 { "IPv6" } else { "IPv4" },
            "endpoints": members.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": "https", "protocol": "TCP", "port": port }],
        });
        (name, value)
    };
    let numbered = groups.into_iter().enumerate();
    numbered
        .map(|(number, group)| slice(number, group))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, node: &str) -> Present {
        let (address, node) = (address.parse().unwrap(), Some(node.to_owned()));
        Present { address, node }
    }

    #[test]
    fn servers_of_one_port_share_a_slice_and_say_where_they_run() {
        let servers = [
            server("10.0.0.1:6443", "a"),
            server("10.0.0.2:6443", "b"),
            server("10.0.0.3:7000", "c"),
            server("[fd00::4]:6443", "d"),
        ];
        let slices = plan_slices(&servers, servers[1].address);
        let names: Vec<&str> = slices.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["kubernetes", "kubernetes-ipv4-7000", "kubernetes-ipv6-6443"]
        );
        let first = &slices["kubernetes"];
        assert_eq!(first["metadata"]["annotations"][LEADER], "10.0.0.2:6443");
        assert_eq!(first["endpoints"][1]["addresses"], json!(["10.0.0.2"]));
        assert_eq!(first["endpoints"][1]["nodeName"], "b");
        assert_eq!(slices["kubernetes-ipv6-6443"]["addressType"], "IPv6");
        assert!(plan_slices(&[], servers[0].address).is_empty());
    }
}
