//! Taking away what a pod, or a network without pods, has on the host.
//!
//! Every step succeeds if its object is gone, so a release can be repeated
//! until it works, by whoever comes next. One failure does not stop the others.

use crate::error::{Error, ErrorKind};
use crate::flows::forget_flows_to;
use crate::ledger::{BridgeOrigin, LockedLedger, NetworkRecord, PodRecord};
use crate::links::apply::remove_link;
use crate::links::observe::{count_ports, observe_bridge};
use crate::links::socket::RouteSocket;
use crate::network::table_of;
use crate::nft::Nft;
use crate::rules::plan::plan_elements;

/// The kernel's two doors, of the host.
#[derive(Clone, Copy)]
pub struct Doors<'a> {
    /// Links, addresses, routes.
    pub links: &'a RouteSocket,
    /// nftables.
    pub nft: &'a dyn Nft,
}

/// Takes away all that one pod has, then its record; with the last pod, the
/// network too. A pod that is not on record has nothing.
///
/// # Errors
///
/// What could not be taken away. The record then stays, for another try.
pub async fn release_pod(
    doors: Doors<'_>,
    ledger: &mut LockedLedger,
    network: &str,
    pod_id: &str,
) -> Result<(), Error> {
    let Some(pod) = ledger.ledger().pod(network, pod_id).cloned() else {
        return Ok(());
    };
    let Some(record) = ledger.ledger().networks.get(network).cloned() else {
        return Err(Error::new(
            ErrorKind::Storage,
            format!("the ledger has pod {pod_id} but not its network {network}"),
        ));
    };
    let is_last = ledger.ledger().pods_of(network).count() == 1;
    let mut failures = remove_pod(doors, &record, &pod).await;
    if is_last {
        failures.extend(remove_network(doors, &record).await);
    }
    all_or_first(failures)?;
    ledger.update(|ledger| {
        if let Some(pods) = ledger.pods.get_mut(network) {
            pods.remove(pod_id);
        }
        if is_last {
            ledger.networks.remove(network);
        }
    })
}

/// Host ports first, so that nobody is sent to a pod that is going.
async fn remove_pod(doors: Doors<'_>, network: &NetworkRecord, pod: &PodRecord) -> Vec<Error> {
    let elements = plan_elements(&pod.host_ports, &pod.addresses);
    let table = table_of(&network.bridge);
    let closed = doors.nft.remove_elements(&table, &elements).await;
    forget_flows_to(&elements).await;
    // Either end of a veth pair takes the other along.
    let unplugged = remove_link(doors.links.handle(), &pod.host_interface).await;
    let results = [closed, unplugged];
    results.into_iter().filter_map(Result::err).collect()
}

/// A bridge that stood before us stays, and so does one that others use by now.
async fn remove_network(doors: Doors<'_>, network: &NetworkRecord) -> Vec<Error> {
    let results = [
        doors.nft.remove_table(&table_of(&network.bridge)).await,
        remove_bridge(doors.links, network).await,
    ];
    results.into_iter().filter_map(Result::err).collect()
}

async fn remove_bridge(links: &RouteSocket, network: &NetworkRecord) -> Result<(), Error> {
    if network.bridge_origin == BridgeOrigin::Found {
        return Ok(());
    }
    let Some(bridge) = observe_bridge(links.handle(), &network.bridge).await? else {
        return Ok(());
    };
    if bridge.kind != "bridge" || count_ports(links.handle(), bridge.index).await? > 0 {
        return Ok(());
    }
    remove_link(links.handle(), &network.bridge).await
}

fn all_or_first(mut failures: Vec<Error>) -> Result<(), Error> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0)),
        count => {
            let first = failures.remove(0);
            let others: Vec<String> = failures.iter().map(Error::to_string).collect();
            Err(Error::caused(
                first.kind(),
                format!(
                    "{count} parts of the pod's network could not be taken away (also: {})",
                    others.join("; ")
                ),
                first,
            ))
        }
    }
}
