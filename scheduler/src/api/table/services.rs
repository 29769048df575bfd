//! Services and their endpoints.

use serde_json::{Value, json};

use super::{AGE, Layout, NAME, SELECTOR, age, count, labels, list, name, string, text_or};

pub(super) const SERVICES: Layout = Layout {
    columns: &[
        NAME,
        string("Type", "How the service is reached."),
        string("Cluster-IP", "The address inside of the cluster."),
        string("External-IP", "Addresses outside of the cluster."),
        string("Port(s)", "Ports, each with its node port behind a colon."),
        AGE,
        SELECTOR,
    ],
    row: |object, now| {
        let spec = &object["spec"];
        let first = list(&spec["clusterIPs"])
            .first()
            .unwrap_or(&spec["clusterIP"]);
        vec![
            name(object),
            spec["type"].clone(),
            json!(text_or(first, "<none>")),
            json!(external_addresses(object)),
            json!(ports(spec)),
            age(object, now),
            json!(labels(&spec["selector"])),
        ]
    },
};

pub(super) const ENDPOINT_SLICES: Layout = Layout {
    columns: &[
        NAME,
        string("AddressType", "The family of the addresses."),
        string("Ports", "The endpoints' ports."),
        string("Endpoints", "The first few addresses."),
        AGE,
    ],
    row: |object, now| {
        let ports = list(&object["ports"]).iter().map(|port| {
            match (port["port"].as_i64(), port["name"].as_str()) {
                (Some(number), _) => number.to_string(),
                (None, Some(name)) => name.to_owned(),
                (None, None) => "*".to_owned(),
            }
        });
        let addresses = list(&object["endpoints"])
            .iter()
            .flat_map(|endpoint| list(&endpoint["addresses"]))
            .map(|address| text_or(address, ""));
        vec![
            name(object),
            object["addressType"].clone(),
            json!(first_few(ports.collect())),
            json!(first_few(addresses.collect())),
            age(object, now),
        ]
    },
};

fn external_addresses(service: &Value) -> String {
    let spec = &service["spec"];
    let kind = text_or(&spec["type"], "");
    if kind == "ExternalName" {
        return text_or(&spec["externalName"], "");
    }
    let ingress = list(&service["status"]["loadBalancer"]["ingress"]);
    let balanced = ingress
        .iter()
        .filter(|_| kind == "LoadBalancer")
        .filter_map(|one| one["ip"].as_str().or(one["hostname"].as_str()));
    let external = list(&spec["externalIPs"]).iter().filter_map(Value::as_str);
    let addresses: Vec<&str> = balanced.chain(external).collect();
    match (addresses.is_empty(), kind.as_str()) {
        (false, _) => addresses.join(","),
        (true, "LoadBalancer") => "<pending>".to_owned(),
        (true, _) => "<none>".to_owned(),
    }
}

fn ports(spec: &Value) -> String {
    let ports: Vec<String> = list(&spec["ports"])
        .iter()
        .map(|port| {
            let protocol = text_or(&port["protocol"], "TCP");
            match count(&port["nodePort"]) {
                0 => format!("{}/{protocol}", count(&port["port"])),
                node => format!("{}:{node}/{protocol}", count(&port["port"])),
            }
        })
        .collect();
    match ports.is_empty() {
        true => "<none>".to_owned(),
        false => ports.join(","),
    }
}

/// Three of a list, and how many more there are.
fn first_few(all: Vec<String>) -> String {
    let shown = all.iter().take(3).cloned().collect::<Vec<_>>().join(",");
    match all.len() {
        0 => "<unset>".to_owned(),
        1..=3 => shown,
        more => format!("{shown} + {} more...", more - 3),
    }
}
