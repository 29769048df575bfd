//! What a node's nftables hold, beside what the API says that they should.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::world::{Cluster, text};

/// `address protocol port` of a Service's door.
type Door = (String, String, u64);

/// Where the doors lead: addresses and ports; none where a client is refused.
type Doors = BTreeMap<Door, BTreeSet<(String, u64)>>;

/// Asserts that a node's doors are those of all Services in the API, over IPv4.
///
/// # Errors
///
/// Those that differ.
pub fn assert_doors(cluster: &Cluster, index: usize) -> Result<()> {
    let (wanted, found) = (wanted(cluster)?, found(cluster, index)?);
    let more: Vec<_> = found.iter().filter(|one| !has(&wanted, one)).collect();
    let less: Vec<_> = wanted.iter().filter(|one| !has(&found, one)).collect();
    ensure!(
        more.is_empty() && less.is_empty(),
        "host {index}: in the tables {more:?}, in the API {less:?}"
    );
    Ok(())
}

fn has(doors: &Doors, (door, targets): &(&Door, &BTreeSet<(String, u64)>)) -> bool {
    doors.get(*door) == Some(*targets)
}

fn wanted(cluster: &Cluster) -> Result<Doors> {
    let list = |kind: &str| -> Result<Vec<Value>> {
        let output = cluster.kubectl_output(&["get", kind, "-A", "-o", "json"], "")?;
        ensure!(output.status.success(), "{}", text(&output.stderr));
        let value: Value = serde_json::from_slice(&output.stdout)?;
        Ok(value["items"].as_array().cloned().unwrap_or_default())
    };
    let slices = list("endpointslices")?;
    let mut doors = Doors::new();
    for service in list("services")? {
        let (meta, spec) = (&service["metadata"], &service["spec"]);
        let Some(address) = spec["clusterIP"].as_str().filter(|ip| ip.contains('.')) else {
            continue;
        };
        for port in spec["ports"].as_array().into_iter().flatten() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_lowercase();
            let number = port["port"].as_u64().context("a port")?;
            let of_service = slices.iter().filter(|slice| {
                let label = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
                slice["metadata"]["namespace"] == meta["namespace"] && *label == meta["name"]
            });
            let mut targets = BTreeSet::new();
            for slice in of_service {
                let ports = slice["ports"].as_array().into_iter().flatten();
                let name = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
                let same = |one: &&Value| name(one) == name(port);
                let Some(target) = ports.filter(same).find_map(|one| one["port"].as_u64()) else {
                    continue;
                };
                let endpoints = slice["endpoints"].as_array().into_iter().flatten();
                for endpoint in endpoints.filter(|one| one["conditions"]["ready"] == true) {
                    let address = endpoint["addresses"][0].as_str().context("an address")?;
                    targets.insert((address.to_owned(), target));
                }
            }
            doors.insert((address.to_owned(), protocol, number), targets);
        }
    }
    Ok(doors)
}

fn found(cluster: &Cluster, index: usize) -> Result<Doors> {
    let output = cluster
        .host(index)
        .command("nft")
        .args(["-j", "-s", "list", "table", "inet", "berth-services"])
        .output()?;
    ensure!(output.status.success(), "nft: {}", text(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout)?;
    let all = value["nftables"].as_array().context("a list")?;
    let elements = |name: &str| -> Vec<Value> {
        let maps = all.iter().filter_map(|one| one.get("map"));
        let mut found = maps.filter(|map| map["name"] == name);
        let elements = found.next().and_then(|map| map["elem"].as_array().cloned());
        elements.unwrap_or_default()
    };
    let door = |words: &Value| -> Result<Door> {
        let word = |at: usize| words[at].as_str().map(str::to_owned).context("a word");
        Ok((word(0)?, word(1)?, words[2].as_u64().context("a port")?))
    };
    let mut doors = Doors::new();
    for name in ["services-v4", "refused-v4"] {
        for element in elements(name) {
            doors.insert(door(&element[0]["concat"])?, BTreeSet::new());
        }
    }
    for element in elements("endpoints-v4") {
        let door = door(&element[0]["concat"])?;
        let target = &element[1]["concat"];
        let address = target[0].as_str().context("an address")?.to_owned();
        let targets = doors.get_mut(&door).with_context(|| {
            format!("host {index}: an endpoint of {door:?}, which is no service")
        })?;
        targets.insert((address, target[1].as_u64().context("a port")?));
    }
    // Names are looked up at a door that is no Service of the API.
    doors.retain(|door, _| door.2 != 53);
    Ok(doors)
}
