//! Which groups, kinds and verbs there are.
//!
//! There are two shapes. The old one takes a request for each group: `/api`,
//! `/apis`, then `/api/v1`, `/apis/apps/v1`. The aggregated one (KEP-3352) says
//! it all in one answer for each of `/api` and `/apis`, when the client asks for
//! `application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.

use serde_json::{Value, json};

use crate::api::kind::{KINDS, Kind, Subresource, group_versions};

/// The verbs of a kind's objects.
const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// `/api`: the versions of the core group.
#[must_use]
pub fn core_versions() -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [],
    })
}

/// `/apis`: the groups but for the core group.
#[must_use]
pub fn groups() -> Value {
    let groups: Vec<Value> = group_versions()
        .into_iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, version)| one_group(group, version))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`: one group, if it is served.
#[must_use]
pub fn group(name: &str) -> Option<Value> {
    let (group, version) = group_versions()
        .into_iter()
        .find(|(group, _)| !group.is_empty() && *group == name)?;
    let mut found = one_group(group, version);
    found["kind"] = json!("APIGroup");
    found["apiVersion"] = json!("v1");
    Some(found)
}

fn one_group(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

/// `/api/v1` and `/apis/GROUP/VERSION`: the kinds of one group, if it is served.
#[must_use]
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut listed = Vec::new();
    for kind in KINDS {
        if kind.group != group || kind.version != version {
            continue;
        }
        listed.push(json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced(),
            "kind": kind.kind,
            "verbs": VERBS,
            "shortNames": kind.short_names,
            "categories": kind.categories,
        }));
        for subresource in kind.subresources {
            let (response, verbs) = subresource_facts(kind, *subresource);
            let mut one = json!({
                "name": format!("{}/{}", kind.plural, subresource.path()),
                "singularName": "",
                "namespaced": kind.namespaced(),
                "kind": response.kind,
                "verbs": verbs,
            });
            if response.group != group || response.version != version {
                one["group"] = json!(response.group);
                one["version"] = json!(response.version);
            }
            listed.push(one);
        }
    }
    if listed.is_empty() {
        return None;
    }
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": listed,
    }))
}

/// The aggregated list for `/api`.
#[must_use]
pub fn aggregated_core() -> Value {
    aggregated(|group| group.is_empty())
}

/// The aggregated list for `/apis`.
#[must_use]
pub fn aggregated_groups() -> Value {
    aggregated(|group| !group.is_empty())
}

fn aggregated(wanted: impl Fn(&str) -> bool) -> Value {
    let groups: Vec<Value> = group_versions()
        .into_iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, version)| {
            let resources: Vec<Value> = KINDS
                .iter()
                .filter(|kind| kind.group == group && kind.version == version)
                .map(aggregated_kind)
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !group.is_empty() {
                metadata["name"] = json!(group);
            }
            json!({
                "metadata": metadata,
                "versions": [{"version": version, "freshness": "Current", "resources": resources}],
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": groups,
    })
}

fn aggregated_kind(kind: &Kind) -> Value {
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|subresource| {
            let (response, verbs) = subresource_facts(kind, *subresource);
            json!({
                "subresource": subresource.path(),
                "responseKind": response.to_value(),
                "verbs": verbs,
            })
        })
        .collect();
    let mut found = json!({
        "resource": kind.plural,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": VERBS,
    });
    for (field, list) in [
        ("shortNames", kind.short_names),
        ("categories", kind.categories),
    ] {
        if !list.is_empty() {
            found[field] = json!(list);
        }
    }
    if !subresources.is_empty() {
        found["subresources"] = json!(subresources);
    }
    found
}

/// The kind that a subresource speaks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Response {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
}

impl Response {
    fn to_value(self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// What a subresource speaks and what can be done with it.
pub(super) fn subresource_facts(
    kind: &Kind,
    subresource: Subresource,
) -> (Response, &'static [&'static str]) {
    let of = |group, version, kind| Response {
        group,
        version,
        kind,
    };
    match subresource {
        Subresource::Status | Subresource::Resize => (
            of(kind.group, kind.version, kind.kind),
            &["get", "patch", "update"],
        ),
        Subresource::Scale => (
            of("autoscaling", "v1", "Scale"),
            &["get", "patch", "update"],
        ),
        Subresource::Binding => (of("", "v1", "Binding"), &["create"]),
        Subresource::Eviction => (of("policy", "v1", "Eviction"), &["create"]),
        Subresource::Log => (of("", "v1", kind.kind), &["get"]),
        Subresource::Exec => (of("", "v1", "PodExecOptions"), &["create", "get"]),
        Subresource::Attach => (of("", "v1", "PodAttachOptions"), &["create", "get"]),
        Subresource::PortForward => (of("", "v1", "PodPortForwardOptions"), &["create", "get"]),
        Subresource::Finalize => (of(kind.group, kind.version, kind.kind), &["update"]),
    }
}
