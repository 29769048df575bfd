//! Nodes, namespaces, leases, priority and runtime classes, nodes' storage drivers.

use serde_json::{Value, json};

use super::{AGE, Column, Layout, NAME, age, has_condition, list, name, string, text_or, wide};

pub(super) const NODES: Layout = Layout {
    columns: &[
        NAME,
        string(
            "Status",
            "Whether the node is ready, and whether it takes pods.",
        ),
        string("Roles", "The node's roles, by its labels."),
        AGE,
        string("Version", "The version of the node's agent."),
        wide("Internal-IP", "The node's address inside of the cluster."),
        wide("External-IP", "The node's address outside of the cluster."),
        wide("OS-Image", "What the node's system calls itself."),
        wide("Kernel-Version", "The node's kernel."),
        wide("Container-Runtime", "What runs the node's containers."),
    ],
    row: |object, now| {
        let info = &object["status"]["nodeInfo"];
        let address = |kind: &str| {
            let found = list(&object["status"]["addresses"])
                .iter()
                .find(|address| address["type"] == kind);
            text_or(
                found.map_or(&Value::Null, |found| &found["address"]),
                "<none>",
            )
        };
        let mut kernel = text_or(&info["kernelVersion"], "<unknown>");
        if let Some(architecture) = info["architecture"]
            .as_str()
            .filter(|text| !text.is_empty())
        {
            kernel = format!("{kernel} ({architecture})");
        }
        vec![
            name(object),
            json!(node_word(object)),
            json!(roles(object)),
            age(object, now),
            json!(text_or(&info["kubeletVersion"], "")),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(text_or(&info["osImage"], "<unknown>")),
            json!(kernel),
            json!(text_or(&info["containerRuntimeVersion"], "<unknown>")),
        ]
    },
};

fn node_word(node: &Value) -> String {
    let known = list(&node["status"]["conditions"])
        .iter()
        .any(|condition| condition["type"] == "Ready");
    let word = match (known, has_condition(node, "Ready")) {
        (false, _) => "Unknown",
        (true, true) => "Ready",
        (true, false) => "NotReady",
    };
    match node["spec"]["unschedulable"] == json!(true) {
        true => format!("{word},SchedulingDisabled"),
        false => word.to_owned(),
    }
}

fn roles(node: &Value) -> String {
    let labels = node["metadata"]["labels"].as_object();
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    match roles.is_empty() {
        true => "<none>".to_owned(),
        false => roles.join(","),
    }
}

pub(super) const NAMESPACES: Layout = Layout {
    columns: &[
        NAME,
        string("Status", "Whether the namespace is there to stay."),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            json!(text_or(&object["status"]["phase"], "")),
            age(object, now),
        ]
    },
};

pub(super) const LEASES: Layout = Layout {
    columns: &[NAME, string("Holder", "Who holds the lease."), AGE],
    row: |object, now| {
        vec![
            name(object),
            json!(text_or(&object["spec"]["holderIdentity"], "")),
            age(object, now),
        ]
    },
};

pub(super) const PRIORITY_CLASSES: Layout = Layout {
    columns: &[
        NAME,
        super::integer("Value", "The priority of the class's pods."),
        Column {
            kind: "boolean",
            ..string(
                "Global-Default",
                "Whether pods that name no class are of this one.",
            )
        },
        AGE,
        string(
            "PreemptionPolicy",
            "Whether the class's pods may push others out.",
        ),
    ],
    row: |object, now| {
        vec![
            name(object),
            object["value"].clone(),
            json!(object["globalDefault"] == json!(true)),
            age(object, now),
            json!(text_or(&object["preemptionPolicy"], "")),
        ]
    },
};

pub(super) const RUNTIME_CLASSES: Layout = Layout {
    columns: &[
        NAME,
        string(
            "Handler",
            "The runtime of a node's that the class stands for.",
        ),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            json!(text_or(&object["handler"], "")),
            age(object, now),
        ]
    },
};

pub(super) const CSI_NODES: Layout = Layout {
    columns: &[
        NAME,
        super::integer("Drivers", "How many storage drivers the node has."),
        AGE,
    ],
    row: |object, now| {
        vec![
            name(object),
            json!(list(&object["spec"]["drivers"]).len()),
            age(object, now),
        ]
    },
};
