//! One whole Service: families, addresses and node ports, on create and update.
//!
//! ```text
//! type          clusterIP      nodePort
//! ExternalName  none           none
//! ClusterIP     one a family   none          "None" makes it headless
//! NodePort      one a family   one a port
//! LoadBalancer  one a family   one a port
//! ```
//!
//! An update keeps what the Service has, unless its new type has no use for it.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Family, Pool, Used, cluster_ip, node_port};
use crate::api::error::FieldError;

/// Fills in what the cluster hands out to a Service.
///
/// `used` holds what the *other* Services have. `seed` says where to begin to look.
///
/// # Errors
///
/// Every field that asks for something that cannot be had; the Service is then to be refused.
pub fn complete(
    pool: &Pool,
    used: &Used,
    service: &mut Value,
    before: Option<&Value>,
    seed: u64,
) -> Result<(), Vec<FieldError>> {
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
        return Ok(());
    };
    let old = before.map_or(&Value::Null, |before| &before["spec"]);
    let mut errors = Vec::new();
    match spec["type"].as_str() {
        Some("ExternalName") => release(spec),
        _ => {
            keep_addresses(spec, old);
            allot_addresses(pool, used, spec, seed, &mut errors);
            allot_node_ports(pool, used, (spec, old), seed, &mut errors);
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// An ExternalName is a name only.
fn release(spec: &mut Value) {
    if let Some(fields) = spec.as_object_mut() {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            fields.remove(field);
        }
    }
    for port in ports_of(spec) {
        remove(port, "nodePort");
    }
}

/// An update that leaves the addresses out keeps them, as a client that read no
/// Service but writes one expects.
fn keep_addresses(spec: &mut Value, old: &Value) {
    let silent = text(spec, "clusterIP").is_empty() && spec["clusterIPs"].is_null();
    if silent && old["type"] != "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            if !old[field].is_null() {
                spec[field] = old[field].clone();
            }
        }
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if spec[field].is_null() && !old[field].is_null() {
            spec[field] = old[field].clone();
        }
    }
}

fn allot_addresses(
    pool: &Pool,
    used: &Used,
    spec: &mut Value,
    seed: u64,
    errors: &mut Vec<FieldError>,
) {
    let mut named: Vec<String> = spec["clusterIPs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let first = text(spec, "clusterIP").to_owned();
    match named.first() {
        None if !first.is_empty() => named.push(first),
        Some(listed) if !first.is_empty() && *listed != first => named[0] = first,
        _ => {}
    }
    let families = wanted_families(pool, spec, &named);
    let families = match families {
        Ok(families) => families,
        Err(error) => return errors.push(error),
    };
    spec["ipFamilies"] = families.iter().map(|family| family.word()).collect();
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    if named.first().is_some_and(|address| address == "None") {
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        return;
    }
    let mut allotted = Vec::new();
    for (index, family) in families.into_iter().enumerate() {
        let wanted = match named.get(index) {
            Some(text) => match text.parse::<IpAddr>() {
                Ok(address) => Ok(address),
                // Validation says what is wrong with it.
                Err(_) => return,
            },
            None => Err(family),
        };
        match cluster_ip(pool, used, wanted, seed) {
            Ok(address) => allotted.push(address.to_string()),
            Err(error) => errors.push(error),
        }
    }
    if let Some(first) = allotted.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(allotted);
    }
}

/// The families that a Service has in the end, in order.
fn wanted_families(pool: &Pool, spec: &Value, named: &[String]) -> Result<Vec<Family>, FieldError> {
    let mut families: Vec<Family> = named
        .iter()
        .filter_map(|address| address.parse().ok().map(Family::of))
        .collect();
    for listed in spec["ipFamilies"].as_array().into_iter().flatten() {
        let family = match listed.as_str() {
            Some("IPv6") => Family::V6,
            _ => Family::V4,
        };
        if !families.contains(&family) {
            families.push(family);
        }
    }
    let offered = || pool.ranges.iter().map(super::Range::family);
    if let Some(missing) = families
        .iter()
        .find(|family| offered().all(|one| one != **family))
    {
        return Err(FieldError::invalid(
            "spec.ipFamilies",
            missing.word(),
            "not configured on this cluster",
        ));
    }
    if families.is_empty() {
        families.extend(offered().next());
    }
    match text(spec, "ipFamilyPolicy") {
        "PreferDualStack" => families.extend(offered().find(|one| !families.contains(one))),
        "RequireDualStack" => match offered().find(|one| !families.contains(one)) {
            Some(other) => families.push(other),
            None if families.len() > 1 => {}
            None => {
                return Err(FieldError::invalid(
                    "spec.ipFamilyPolicy",
                    "RequireDualStack",
                    "this cluster is not configured for dual-stack services",
                ));
            }
        },
        _ => families.truncate(1),
    }
    Ok(families)
}

fn allot_node_ports(
    pool: &Pool,
    used: &Used,
    (spec, old): (&mut Value, &Value),
    seed: u64,
    errors: &mut Vec<FieldError>,
) {
    let wants = match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != json!(false),
        _ => false,
    };
    if !wants {
        // A port that the old type had is given back; one that the client asks for
        // with a type that has none is left, so that validation names it.
        let old_ports: Vec<u64> = old["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|port| port["nodePort"].as_u64())
            .collect();
        for port in ports_of(spec) {
            if port["nodePort"]
                .as_u64()
                .is_some_and(|number| number == 0 || old_ports.contains(&number))
            {
                remove(port, "nodePort");
            }
        }
        return;
    }
    let old_ports = old["ports"].as_array().cloned().unwrap_or_default();
    let mut used = used.clone();
    // Those that are asked for first: a random one must not take theirs.
    for pass in [Pass::Wanted, Pass::Free] {
        for (index, port) in ports_of(spec).enumerate() {
            let asked = port["nodePort"].as_u64().filter(|number| *number != 0);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let kept = || {
                let same = |one: &&Value| {
                    one["port"] == port["port"] && one["protocol"] == port["protocol"]
                };
                old_ports.iter().find(same)?["nodePort"].as_u64()
            };
            let wanted = match (pass, asked.or_else(kept)) {
                (Pass::Wanted, Some(number)) => match u16::try_from(number) {
                    Ok(number) => Ok(number),
                    Err(_) => Ok(0),
                },
                (Pass::Free, None) => Err(seed.wrapping_add(index as u64 * 7919)),
                _ => continue,
            };
            match node_port(pool, &used, &protocol, wanted) {
                Ok(number) => {
                    used.node_ports.insert((protocol, number));
                    port["nodePort"] = json!(number);
                }
                Err(mut error) => {
                    error.field = format!("spec.ports[{index}].nodePort");
                    errors.push(error);
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Wanted,
    Free,
}

fn ports_of(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    ports.into_iter().flatten().filter(|port| port.is_object())
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or("")
}
