//! Rules of a pod's spec, alone or in a template.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    checks::{Checks, items, text},
    container, names, volume,
};
use crate::api::error::FieldError;

/// A pod on its own.
pub(super) fn check(pod: &Value, checks: &mut Checks) {
    check_spec("spec", &pod["spec"], checks);
}

/// A template of a controller whose pods must restart by one of these policies.
pub(super) fn check_template(
    field: &str,
    template: &Value,
    restart_policies: &[&str],
    checks: &mut Checks,
) {
    let labels = format!("{field}.metadata.labels");
    checks.labels(&labels, &template["metadata"]["labels"]);
    let spec = format!("{field}.spec");
    check_spec(&spec, &template["spec"], checks);
    checks.one_of(
        &format!("{spec}.restartPolicy"),
        &template["spec"]["restartPolicy"],
        restart_policies,
    );
}

/// A pod's spec, wherever it stands.
pub(super) fn check_spec(field: &str, spec: &Value, checks: &mut Checks) {
    let at = |name: &str| format!("{field}.{name}");
    checks.one_of(
        &at("restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    check_dns(field, spec, checks);
    checks.not_negative(
        &at("terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
    );
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|number| !(1..=i64::from(i32::MAX)).contains(&number))
    {
        checks.invalid(
            &at("activeDeadlineSeconds"),
            &spec["activeDeadlineSeconds"],
            "must be between 1 and 2147483647, inclusive",
        );
    }
    checks.labels(&at("nodeSelector"), &spec["nodeSelector"]);
    for (name, rule) in [
        (
            "nodeName",
            names::dns_subdomain_problem as fn(&str) -> Option<String>,
        ),
        ("serviceAccountName", names::dns_subdomain_problem),
        ("priorityClassName", names::dns_subdomain_problem),
        ("runtimeClassName", names::dns_subdomain_problem),
        ("hostname", names::dns_label_problem),
        ("subdomain", names::dns_label_problem),
    ] {
        let value = text(spec, name);
        if !value.is_empty() {
            checks.named(&at(name), value, rule);
        }
    }
    for (index, alias) in items(&spec["hostAliases"]) {
        checks.address(&at(&format!("hostAliases[{index}].ip")), &alias["ip"]);
        for (place, name) in items(&alias["hostnames"]) {
            let field = at(&format!("hostAliases[{index}].hostnames[{place}]"));
            checks.named(
                &field,
                name.as_str().unwrap_or_default(),
                names::dns_subdomain_problem,
            );
        }
    }
    for (index, gate) in items(&spec["readinessGates"]) {
        let field = at(&format!("readinessGates[{index}].conditionType"));
        checks.named(
            &field,
            text(gate, "conditionType"),
            names::label_key_problem,
        );
    }
    check_tolerations(&at("tolerations"), &spec["tolerations"], checks);
    check_affinity(&at("affinity"), &spec["affinity"], checks);
    check_spread(
        &at("topologySpreadConstraints"),
        &spec["topologySpreadConstraints"],
        checks,
    );
    let volumes = volume::check_all(&at("volumes"), &spec["volumes"], checks);
    check_containers(field, spec, &volumes, checks);
}

fn check_dns(field: &str, spec: &Value, checks: &mut Checks) {
    checks.one_of(
        &format!("{field}.dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let servers = &spec["dnsConfig"]["nameservers"];
    if spec["dnsPolicy"] == "None" && items(servers).next().is_none() {
        checks.required(
            &format!("{field}.dnsConfig.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        );
    }
    for (index, server) in items(servers) {
        checks.address(&format!("{field}.dnsConfig.nameservers[{index}]"), server);
    }
}

fn check_containers(field: &str, spec: &Value, volumes: &BTreeSet<String>, checks: &mut Checks) {
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    if items(&spec["containers"]).next().is_none() {
        checks.required(&format!("{field}.containers"), "");
    }
    for list in ["initContainers", "containers"] {
        for (index, one) in items(&spec[list]) {
            let field = format!("{field}.{list}[{index}]");
            let name = text(one, "name");
            if !name.is_empty() && !names.insert(name.to_owned()) {
                checks.add(FieldError::duplicate(format!("{field}.name"), name));
            }
            let place = container::Place {
                field: &field,
                initial: list == "initContainers",
                host_network: spec["hostNetwork"] == json!(true),
                restart_policy: text(spec, "restartPolicy"),
                volumes,
            };
            container::check(&place, one, &mut host_ports, checks);
        }
    }
}

pub(super) fn check_tolerations(field: &str, tolerations: &Value, checks: &mut Checks) {
    for (index, one) in items(tolerations) {
        let field = format!("{field}[{index}]");
        let (key, operator) = (text(one, "key"), text(one, "operator"));
        if !key.is_empty() {
            checks.named(&format!("{field}.key"), key, names::label_key_problem);
        } else if operator != "Exists" {
            checks.invalid(
                &format!("{field}.operator"),
                &one["operator"],
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        match operator {
            "" | "Equal" => checks.named(
                &format!("{field}.value"),
                text(one, "value"),
                names::label_value_problem,
            ),
            "Exists" if !text(one, "value").is_empty() => checks.invalid(
                &format!("{field}.operator"),
                &one["operator"],
                "value must be empty when `operator` is 'Exists'",
            ),
            "Exists" => {}
            _ => checks.one_of(
                &format!("{field}.operator"),
                &one["operator"],
                &["Equal", "Exists"],
            ),
        }
        check_effect(&field, one, checks);
        if !one["tolerationSeconds"].is_null() && one["effect"] != "NoExecute" {
            checks.invalid(
                &format!("{field}.effect"),
                &one["effect"],
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            );
        }
    }
}

/// The effect of a taint or toleration, where it is set.
pub(super) fn check_effect(field: &str, object: &Value, checks: &mut Checks) {
    if !text(object, "effect").is_empty() {
        checks.one_of(
            &format!("{field}.effect"),
            &object["effect"],
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        );
    }
}

fn check_affinity(field: &str, affinity: &Value, checks: &mut Checks) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let node = &affinity["nodeAffinity"];
    if node[REQUIRED].is_object() {
        let field = format!("{field}.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        let terms = &node[REQUIRED]["nodeSelectorTerms"];
        if items(terms).next().is_none() {
            checks.required(&field, "must have at least one node selector term");
        }
        for (index, term) in items(terms) {
            check_node_term(&format!("{field}[{index}]"), term, checks);
        }
    }
    for (index, preferred) in items(&node[PREFERRED]) {
        let field = format!("{field}.nodeAffinity.{PREFERRED}[{index}]");
        check_weight(&field, preferred, checks);
        check_node_term(
            &format!("{field}.preference"),
            &preferred["preference"],
            checks,
        );
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        for (index, term) in items(&affinity[side][REQUIRED]) {
            check_pod_term(&format!("{field}.{side}.{REQUIRED}[{index}]"), term, checks);
        }
        for (index, preferred) in items(&affinity[side][PREFERRED]) {
            let field = format!("{field}.{side}.{PREFERRED}[{index}]");
            check_weight(&field, preferred, checks);
            let term = &preferred["podAffinityTerm"];
            check_pod_term(&format!("{field}.podAffinityTerm"), term, checks);
        }
    }
}

fn check_weight(field: &str, preferred: &Value, checks: &mut Checks) {
    if !preferred["weight"]
        .as_i64()
        .is_some_and(|weight| (1..=100).contains(&weight))
    {
        checks.invalid(
            &format!("{field}.weight"),
            &preferred["weight"],
            "must be in the range 1-100",
        );
    }
}

fn check_node_term(field: &str, term: &Value, checks: &mut Checks) {
    for list in ["matchExpressions", "matchFields"] {
        for (index, expression) in items(&term[list]) {
            let field = format!("{field}.{list}[{index}]");
            let count = items(&expression["values"]).count();
            let values = format!("{field}.values");
            match text(expression, "operator") {
                "In" | "NotIn" if count == 0 => checks.required(
                    &values,
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ),
                "Exists" | "DoesNotExist" if count > 0 => checks.forbidden(
                    &values,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if count != 1 => checks.required(
                    &values,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => checks.invalid(
                    &format!("{field}.operator"),
                    &expression["operator"],
                    "not a valid selector operator",
                ),
            }
            checks.named(
                &format!("{field}.key"),
                text(expression, "key"),
                names::label_key_problem,
            );
        }
    }
}

fn check_pod_term(field: &str, term: &Value, checks: &mut Checks) {
    checks.selector(&format!("{field}.labelSelector"), &term["labelSelector"]);
    checks.selector(
        &format!("{field}.namespaceSelector"),
        &term["namespaceSelector"],
    );
    check_topology_key(field, term, checks);
}

fn check_topology_key(field: &str, term: &Value, checks: &mut Checks) {
    let field = format!("{field}.topologyKey");
    match text(term, "topologyKey") {
        "" => checks.required(&field, "can not be empty"),
        key => checks.named(&field, key, names::label_key_problem),
    }
}

fn check_spread(field: &str, constraints: &Value, checks: &mut Checks) {
    let mut seen = BTreeSet::new();
    for (index, one) in items(constraints) {
        let field = format!("{field}[{index}]");
        checks.positive(&format!("{field}.maxSkew"), &one["maxSkew"]);
        checks.positive(&format!("{field}.minDomains"), &one["minDomains"]);
        check_topology_key(&field, one, checks);
        checks.one_of(
            &format!("{field}.whenUnsatisfiable"),
            &one["whenUnsatisfiable"],
            &["DoNotSchedule", "ScheduleAnyway"],
        );
        checks.selector(&format!("{field}.labelSelector"), &one["labelSelector"]);
        let pair = (text(one, "topologyKey"), text(one, "whenUnsatisfiable"));
        if !seen.insert(pair) {
            let pair = format!("{{{}, {}}}", pair.0, pair.1);
            checks.add(FieldError::duplicate(
                format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                pair,
            ));
        }
    }
}

/// What an update of a pod may change, in Kubernetes' words.
const MUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An update: a pod's containers run, so hardly anything of its spec may change.
pub(super) fn check_update(pod: &Value, before: &Value, checks: &mut Checks) {
    let (mut now, was) = (pod["spec"].clone(), &before["spec"]);
    if !now.is_object() {
        return;
    }
    for list in ["containers", "initContainers"] {
        let images = items(&was[list]).map(|(_, one)| one["image"].clone());
        let containers = now.get_mut(list).and_then(Value::as_array_mut);
        for (one, image) in containers.into_iter().flatten().zip(images) {
            if one.is_object() && !image.is_null() {
                one["image"] = image;
            }
        }
    }
    let tolerations: Vec<&Value> = items(&was["tolerations"]).map(|(_, one)| one).collect();
    let kept = tolerations
        .iter()
        .all(|one| items(&pod["spec"]["tolerations"]).any(|(_, other)| other == *one));
    let bound = text(was, "nodeName").is_empty();
    for (field, may_change) in [
        ("tolerations", kept),
        ("activeDeadlineSeconds", true),
        // Binding is an update too, and ends the choice.
        ("nodeName", bound),
        // Gates may be lifted, not added.
        (
            "schedulingGates",
            items(&now["schedulingGates"]).count() <= items(&was["schedulingGates"]).count(),
        ),
        // The old name of a field follows the new one.
        ("serviceAccount", true),
    ] {
        if may_change && let Some(fields) = now.as_object_mut() {
            match was.get(field) {
                Some(value) => fields.insert(field.to_owned(), value.clone()),
                None => fields.remove(field),
            };
        }
    }
    let names = now.as_object().into_iter().flatten().map(|(name, _)| name);
    let names: BTreeSet<&String> = names
        .chain(was.as_object().into_iter().flatten().map(|(name, _)| name))
        .collect();
    let changed: Vec<&str> = names
        .into_iter()
        .filter(|name| now.get(name.as_str()) != was.get(name.as_str()))
        .map(String::as_str)
        .collect();
    if !changed.is_empty() {
        checks.forbidden(
            "spec",
            &format!("{MUTABLE}; changed: {}", changed.join(", ")),
        );
    }
}
