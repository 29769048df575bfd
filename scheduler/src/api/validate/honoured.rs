//! Fields that are kept and not carried out.
//!
//! Nothing is dropped in silence: what no part of the cluster does is named to the
//! client in a warning, when it is written. What a pod's worker does with each
//! field is known from the table that `berth run` reads too; the cluster adds
//! what it does itself (placement) and takes away what needs one.

use serde_json::{Value, json};

use super::checks::{items, text};
use crate::{
    api::{
        kind::Kind,
        schema::{Shape, Types, types},
    },
    manifest::fields::{self, Judgement},
};

/// Fields of a pod that berth does not carry out in a cluster although they are harmless
/// to a pod that runs alone.
const WARNED: [&str; 3] = [
    "evictionResponders",
    "seLinuxChangePolicy",
    "schedulingGroup",
];

/// Fields that the table refuses for one machine and a cluster carries out.
const CARRIED_OUT: [&str; 2] = ["readinessGates", "schedulingGates"];
/// A type that the controllers carry out whole; the table is about one machine.
const CONTROLLED: &str = "io.k8s.api.batch.v1.JobSpec";

/// A sentence for each such field.
pub(super) fn find(kind: &Kind, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match (kind.group, kind.kind) {
        ("", "Pod") | ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") | ("batch", _) => {
            walk(types(), types().shape_of(kind), object, "", &mut found);
            accounts(object, &mut found);
        }
        ("", "Service") => service(&object["spec"], &mut found),
        _ => {}
    }
    found
}

fn walk(types: &Types, shape: &Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    match (shape, value) {
        (Shape::Object(id), Value::Object(members)) => {
            let definition = format!("io.k8s.{}", types.at(*id).name);
            for (name, value) in members {
                // The status is the cluster's to write, the metadata everybody's.
                if path.is_empty() && name != "spec" {
                    continue;
                }
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                judge(&definition, name, (value, &path), found);
                if let Some(field) = types.field(*id, name) {
                    walk(types, &field.shape, value, &path, found);
                }
            }
        }
        (Shape::List(shape), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                walk(types, shape, value, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn judge(definition: &str, name: &str, (value, path): (&Value, &str), found: &mut Vec<String>) {
    let Some(field) = fields::find(definition, name).filter(|_| definition != CONTROLLED) else {
        return;
    };
    let refused = field.judgement == Judgement::Refused && !CARRIED_OUT.contains(&name);
    let warned = field.judgement == Judgement::Warned && WARNED.contains(&name);
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let empty = matches!(value, Value::Array(items) if items.is_empty());
    if (refused || warned) && !empty && !field.harmless.contains(&text.as_str()) {
        found.push(format!("{path}: not carried out by berth: {}", field.note));
    }
}

/// A service account is a name here: no token is mounted for it.
fn accounts(object: &Value, found: &mut Vec<String>) {
    let templates = [
        ("spec", &object["spec"]),
        ("spec.template.spec", &object["spec"]["template"]["spec"]),
        (
            "spec.jobTemplate.spec.template.spec",
            &object["spec"]["jobTemplate"]["spec"]["template"]["spec"],
        ),
    ];
    for (path, spec) in templates {
        if spec["automountServiceAccountToken"] == json!(true) {
            found.push(format!(
                "{path}.automountServiceAccountToken: not carried out by berth: service accounts have no tokens"
            ));
        }
    }
}

fn service(spec: &Value, found: &mut Vec<String>) {
    let mut warn =
        |path: &str, why: &str| found.push(format!("{path}: not carried out by berth: {why}"));
    if spec["type"] == "LoadBalancer" {
        warn(
            "spec.type",
            "no load balancer is made; the service answers on its cluster address and node ports",
        );
    }
    for field in ["loadBalancerIP", "loadBalancerClass"] {
        if !text(spec, field).is_empty() {
            warn(&format!("spec.{field}"), "no load balancer is made");
        }
    }
    for (field, why) in [
        ("loadBalancerSourceRanges", "no load balancer is made"),
        (
            "externalIPs",
            "nodes answer on cluster addresses and node ports only",
        ),
    ] {
        if items(&spec[field]).next().is_some() {
            warn(&format!("spec.{field}"), why);
        }
    }
    if !text(spec, "trafficDistribution").is_empty() {
        warn(
            "spec.trafficDistribution",
            "every endpoint is as near as any other",
        );
    }
    for (index, port) in items(&spec["ports"]) {
        if port["protocol"] == "SCTP" {
            warn(
                &format!("spec.ports[{index}].protocol"),
                "TCP and UDP are forwarded",
            );
        }
    }
}
