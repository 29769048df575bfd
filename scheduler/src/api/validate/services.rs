//! Rules of Services and EndpointSlices.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::{
    checks::{Checks, is_set, items, text},
    names,
};
use crate::api::error::FieldError;

pub(super) fn check_service(service: &Value, checks: &mut Checks) {
    let spec = &service["spec"];
    let kind = text(spec, "type");
    checks.one_of(
        "spec.type",
        &spec["type"],
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    let headless = spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None";
    if items(&spec["ports"]).next().is_none() && !headless && kind != "ExternalName" {
        checks.required("spec.ports", "");
    }
    check_ports(spec, kind, checks);
    checks.labels("spec.selector", &spec["selector"]);
    match (kind, text(spec, "externalName")) {
        ("ExternalName", "") => checks.required("spec.externalName", ""),
        ("ExternalName", name) => checks.named(
            "spec.externalName",
            name.strip_suffix('.').unwrap_or(name),
            names::dns_subdomain_problem,
        ),
        _ => {}
    }
    check_addresses(spec, kind, headless, checks);
    check_policies(spec, kind, checks);
}

fn check_addresses(spec: &Value, kind: &str, headless: bool, checks: &mut Checks) {
    if kind == "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            if is_set(&spec[field]) {
                checks.forbidden(
                    &format!("spec.{field}"),
                    "may not be set when `type` is 'ExternalName'",
                );
            }
        }
        return;
    }
    if headless && (kind == "NodePort" || kind == "LoadBalancer") {
        checks.invalid(
            "spec.clusterIPs[0]",
            &json!("None"),
            &format!("may not be set to 'None' for {kind} services"),
        );
    }
    for (index, address) in items(&spec["clusterIPs"]) {
        if !headless {
            checks.address(&format!("spec.clusterIPs[{index}]"), address);
        }
    }
    // One that is no address was not copied into the list.
    if !headless && items(&spec["clusterIPs"]).next().is_none() && is_set(&spec["clusterIP"]) {
        checks.address("spec.clusterIPs[0]", &spec["clusterIP"]);
    }
    for (index, address) in items(&spec["externalIPs"]) {
        checks.address(&format!("spec.externalIPs[{index}]"), address);
    }
    for (index, family) in items(&spec["ipFamilies"]) {
        checks.one_of(
            &format!("spec.ipFamilies[{index}]"),
            family,
            &["IPv4", "IPv6"],
        );
    }
    checks.one_of(
        "spec.ipFamilyPolicy",
        &spec["ipFamilyPolicy"],
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
    );
}

fn check_policies(spec: &Value, kind: &str, checks: &mut Checks) {
    checks.one_of(
        "spec.sessionAffinity",
        &spec["sessionAffinity"],
        &["ClientIP", "None"],
    );
    let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if timeout
        .as_i64()
        .is_some_and(|seconds| !(1..=86_400).contains(&seconds))
    {
        checks.invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            timeout,
            "must be greater than 0 and less than 86400",
        );
    }
    let outside = ["NodePort", "LoadBalancer"].contains(&kind) || is_set(&spec["externalIPs"]);
    checks.one_of(
        "spec.externalTrafficPolicy",
        &spec["externalTrafficPolicy"],
        &["Cluster", "Local"],
    );
    if is_set(&spec["externalTrafficPolicy"]) && !outside {
        checks.invalid(
            "spec.externalTrafficPolicy",
            &spec["externalTrafficPolicy"],
            "may only be set for externally-accessible services",
        );
    }
    checks.one_of(
        "spec.internalTrafficPolicy",
        &spec["internalTrafficPolicy"],
        &["Cluster", "Local"],
    );
}

fn check_ports(spec: &Value, kind: &str, checks: &mut Checks) {
    let several = items(&spec["ports"]).count() > 1;
    let (mut seen, mut numbers, mut node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in items(&spec["ports"]) {
        let field = format!("spec.ports[{index}]");
        let at = |name: &str| format!("{field}.{name}");
        match text(port, "name") {
            "" if several => checks.required(&at("name"), ""),
            "" => {}
            name => {
                checks.named(&at("name"), name, names::dns_label_problem);
                if !seen.insert(name) {
                    checks.add(FieldError::duplicate(at("name"), name));
                }
            }
        }
        let number = port["port"].as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            checks.invalid(
                &at("port"),
                &json!(number),
                "must be between 1 and 65535, inclusive",
            );
        }
        let protocol = text(port, "protocol");
        checks.one_of(&at("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        checks.port_or_name(&at("targetPort"), &port["targetPort"]);
        if !numbers.insert((protocol, number)) {
            checks.add(FieldError::duplicate(
                field.clone(),
                json!({"protocol": protocol, "port": number}),
            ));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port == 0 {
            continue;
        }
        if kind == "ClusterIP" || kind == "ExternalName" {
            checks.forbidden(
                &at("nodePort"),
                &format!("may not be used when `type` is '{kind}'"),
            );
        }
        if !node_ports.insert((protocol, node_port)) {
            checks.add(FieldError::duplicate(at("nodePort"), node_port));
        }
    }
}

pub(super) fn check_service_update(service: &Value, before: &Value, checks: &mut Checks) {
    let (now, was) = (&service["spec"], &before["spec"]);
    let external = |spec: &Value| spec["type"] == "ExternalName";
    if external(now) || external(was) || !is_set(&was["clusterIP"]) {
        return;
    }
    if now["clusterIP"] != was["clusterIP"] {
        checks.invalid(
            "spec.clusterIPs[0]",
            &json!([now["clusterIP"]]),
            "may not change once set",
        );
    }
    if is_set(&was["ipFamilies"]) && now["ipFamilies"][0] != was["ipFamilies"][0] {
        checks.invalid(
            "spec.ipFamilies[0]",
            &now["ipFamilies"],
            "may not change once set",
        );
    }
}

/// Endpoints of one slice; addresses of one endpoint; ports.
const MOST: (usize, usize, usize) = (1000, 100, 100);

pub(super) fn check_slice(slice: &Value, checks: &mut Checks) {
    let family = text(slice, "addressType");
    if family.is_empty() {
        checks.required("addressType", "");
    }
    checks.one_of(
        "addressType",
        &slice["addressType"],
        &["FQDN", "IPv4", "IPv6"],
    );
    let endpoints = items(&slice["endpoints"]).count();
    if endpoints > MOST.0 {
        checks.add(FieldError::too_many("endpoints", endpoints, MOST.0));
    }
    for (index, endpoint) in items(&slice["endpoints"]) {
        let field = format!("endpoints[{index}].addresses");
        let addresses = items(&endpoint["addresses"]).count();
        if addresses == 0 {
            checks.required(&field, "must contain at least 1 address");
        }
        if addresses > MOST.1 {
            checks.add(FieldError::too_many(field.clone(), addresses, MOST.1));
        }
        for (place, address) in items(&endpoint["addresses"]) {
            check_slice_address(&format!("{field}[{place}]"), address, family, checks);
        }
    }
    let ports = items(&slice["ports"]).count();
    if ports > MOST.2 {
        checks.add(FieldError::too_many("ports", ports, MOST.2));
    }
    let mut seen = BTreeSet::new();
    for (index, port) in items(&slice["ports"]) {
        let name = text(port, "name");
        if !name.is_empty() {
            checks.named(
                &format!("ports[{index}].name"),
                name,
                names::dns_label_problem,
            );
        }
        if !seen.insert(name) {
            checks.add(FieldError::duplicate(format!("ports[{index}].name"), name));
        }
        checks.one_of(
            &format!("ports[{index}].protocol"),
            &port["protocol"],
            &["SCTP", "TCP", "UDP"],
        );
        checks.port(&format!("ports[{index}].port"), &port["port"]);
    }
}

fn check_slice_address(field: &str, address: &Value, family: &str, checks: &mut Checks) {
    let text = address.as_str().unwrap_or_default();
    let parsed = text.parse::<IpAddr>().ok();
    match (family, parsed) {
        ("IPv4", Some(IpAddr::V4(_))) | ("IPv6", Some(IpAddr::V6(_))) => {
            if let Some(address) = parsed
                && (address.is_loopback() || address.is_unspecified())
            {
                checks.invalid(
                    field,
                    &json!(text),
                    "may not be in the loopback range or unspecified",
                );
            }
        }
        ("IPv4", _) => checks.invalid(field, address, "must be a valid IPv4 address"),
        ("IPv6", _) => checks.invalid(field, address, "must be a valid IPv6 address"),
        ("FQDN", _) => checks.named(field, text, names::dns_subdomain_problem),
        _ => {}
    }
}
