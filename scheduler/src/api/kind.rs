//! The kinds that are served. Discovery, routes, storage keys and messages are read off this table.
//!
//! A kind that is not here is answered with 404, as a kube-apiserver answers for a kind
//! whose definition nobody installed.

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One set of names for the whole cluster.
    Cluster,
    /// One set of names for each namespace.
    Namespaced,
}

/// A part of an object, or an action on it, with a path of its own below the object's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// The observed half of an object; writes to it leave the wanted half alone.
    Status,
    /// What the containers of a running pod ask for and may use.
    Resize,
    /// The number of replicas, in one shape for all kinds that have it.
    Scale,
    /// Ties a pod to a node, once.
    Binding,
    /// A deletion that asks the disruption budgets first.
    Eviction,
    /// What a container wrote.
    Log,
    /// Runs a command in a container.
    Exec,
    /// Joins a container's streams.
    Attach,
    /// Carries connections to ports of a pod.
    PortForward,
    /// Ends a namespace's deletion.
    Finalize,
}

impl Subresource {
    /// The last word of its path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Resize => "resize",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Finalize => "finalize",
        }
    }
}

/// One kind of object. There is exactly one value for each kind, so `&'static Kind` names it.
#[derive(Debug)]
pub struct Kind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The version served, the only one.
    pub version: &'static str,
    /// As in paths: `pods`.
    pub plural: &'static str,
    /// As on a command line: `pod`.
    pub singular: &'static str,
    /// As in objects: `Pod`.
    pub kind: &'static str,
    /// What a command line also takes: `po`.
    pub short_names: &'static [&'static str],
    /// Sets of kinds that a command line can ask for, as `all`.
    pub categories: &'static [&'static str],
    /// Whether it lives in namespaces.
    pub scope: Scope,
    /// What its paths have below an object.
    pub subresources: &'static [Subresource],
    /// The group whose keys hold the objects, where two groups serve the same ones.
    stored_as: Option<&'static str>,
}

impl Kind {
    /// `v1` or `apps/v1`, as in an object's `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods` or `deployments.apps`, as messages name a kind.
    #[must_use]
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether objects live in namespaces.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether this kind has a subresource.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// The part of the store that holds this kind: `/registry/GROUP/PLURAL/`.
    #[must_use]
    pub fn prefix(&self) -> String {
        let group = match self.stored_as.unwrap_or(self.group) {
            "" => "core",
            group => group,
        };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// Where an object is in the store. `namespace` is empty for kinds of the cluster.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.scope {
            Scope::Cluster => format!("{}{name}", self.prefix()),
            Scope::Namespaced => format!("{}{namespace}/{name}", self.prefix()),
        }
    }

    /// The part of the store that holds the objects of one namespace, or all of them.
    #[must_use]
    pub fn prefix_in(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced() => format!("{}{namespace}/", self.prefix()),
            _ => self.prefix(),
        }
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.group == other.group && self.plural == other.plural
    }
}

impl Eq for Kind {}

/// The kind with this group and plural, as a path names it.
#[must_use]
pub fn by_plural(group: &str, plural: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.group == group && kind.plural == plural)
}

/// The kind with this `apiVersion` and `kind`, as an object names it.
#[must_use]
pub fn by_kind(api_version: &str, name: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|kind| kind.kind == name && kind.api_version() == api_version)
}

/// Every group and version that is served, the core group first, each once.
#[must_use]
pub fn group_versions() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for kind in KINDS {
        if !found.contains(&(kind.group, kind.version)) {
            found.push((kind.group, kind.version));
        }
    }
    found
}

const fn core(plural: &'static str, singular: &'static str, kind: &'static str) -> Kind {
    namespaced("", plural, singular, kind)
}

const fn namespaced(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        singular,
        kind,
        short_names: &[],
        categories: &[],
        scope: Scope::Namespaced,
        subresources: &[],
        stored_as: None,
    }
}

const ALL: &[&str] = &["all"];
const STATUS: &[Subresource] = &[Subresource::Status];
const SCALED: &[Subresource] = &[Subresource::Status, Subresource::Scale];

/// All kinds, the core group first.
pub static KINDS: &[Kind] = &[
    Kind {
        short_names: &["cm"],
        ..core("configmaps", "configmap", "ConfigMap")
    },
    Kind {
        short_names: &["ev"],
        ..core("events", "event", "Event")
    },
    Kind {
        short_names: &["ns"],
        scope: Scope::Cluster,
        subresources: &[Subresource::Status, Subresource::Finalize],
        ..core("namespaces", "namespace", "Namespace")
    },
    Kind {
        short_names: &["no"],
        scope: Scope::Cluster,
        subresources: STATUS,
        ..core("nodes", "node", "Node")
    },
    Kind {
        short_names: &["po"],
        categories: ALL,
        subresources: &[
            Subresource::Status,
            Subresource::Resize,
            Subresource::Binding,
            Subresource::Eviction,
            Subresource::Log,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
        ],
        ..core("pods", "pod", "Pod")
    },
    core("secrets", "secret", "Secret"),
    Kind {
        short_names: &["sa"],
        ..core("serviceaccounts", "serviceaccount", "ServiceAccount")
    },
    Kind {
        short_names: &["svc"],
        categories: ALL,
        subresources: STATUS,
        ..core("services", "service", "Service")
    },
    Kind {
        short_names: &["ds"],
        categories: ALL,
        subresources: STATUS,
        ..namespaced("apps", "daemonsets", "daemonset", "DaemonSet")
    },
    Kind {
        short_names: &["deploy"],
        categories: ALL,
        subresources: SCALED,
        ..namespaced("apps", "deployments", "deployment", "Deployment")
    },
    Kind {
        short_names: &["rs"],
        categories: ALL,
        subresources: SCALED,
        ..namespaced("apps", "replicasets", "replicaset", "ReplicaSet")
    },
    // `rollout history` and `rollout undo` of daemon sets read these.
    namespaced(
        "apps",
        "controllerrevisions",
        "controllerrevision",
        "ControllerRevision",
    ),
    Kind {
        short_names: &["cj"],
        categories: ALL,
        subresources: STATUS,
        ..namespaced("batch", "cronjobs", "cronjob", "CronJob")
    },
    Kind {
        categories: ALL,
        subresources: STATUS,
        ..namespaced("batch", "jobs", "job", "Job")
    },
    namespaced("coordination.k8s.io", "leases", "lease", "Lease"),
    namespaced(
        "discovery.k8s.io",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
    ),
    // The same objects as the core group's events, in the shape that newer clients write.
    Kind {
        short_names: &["ev"],
        stored_as: Some(""),
        ..namespaced("events.k8s.io", "events", "event", "Event")
    },
    // Which of a node's runtimes a pod wants, under a name of the cluster.
    Kind {
        scope: Scope::Cluster,
        ..namespaced(
            "node.k8s.io",
            "runtimeclasses",
            "runtimeclass",
            "RuntimeClass",
        )
    },
    Kind {
        short_names: &["pdb"],
        subresources: STATUS,
        ..namespaced(
            "policy",
            "poddisruptionbudgets",
            "poddisruptionbudget",
            "PodDisruptionBudget",
        )
    },
    Kind {
        short_names: &["pc"],
        scope: Scope::Cluster,
        ..namespaced(
            "scheduling.k8s.io",
            "priorityclasses",
            "priorityclass",
            "PriorityClass",
        )
    },
    // What a kubelet says of its storage drivers. It ends itself where it cannot.
    Kind {
        scope: Scope::Cluster,
        ..namespaced("storage.k8s.io", "csinodes", "csinode", "CSINode")
    },
];

#[cfg(test)]
mod tests {
    use super::{KINDS, by_kind, by_plural, group_versions};

    #[test]
    fn every_kind_is_found_by_its_own_names_and_stored_apart() {
        let mut prefixes = std::collections::BTreeMap::new();
        for kind in KINDS {
            assert_eq!(by_plural(kind.group, kind.plural), Some(kind));
            assert_eq!(by_kind(&kind.api_version(), kind.kind), Some(kind));
            prefixes
                .entry(kind.prefix())
                .or_insert_with(Vec::new)
                .push(kind.kind);
        }
        for (prefix, kinds) in prefixes {
            assert!(
                kinds.iter().all(|kind| *kind == kinds[0]),
                "{prefix} holds {kinds:?}"
            );
        }
    }

    #[test]
    fn events_of_both_groups_are_the_same_objects() {
        let (core, newer) = (
            by_plural("", "events").unwrap(),
            by_plural("events.k8s.io", "events").unwrap(),
        );
        assert_eq!(core.key("a", "b"), "/registry/core/events/a/b");
        assert_eq!(core.key("a", "b"), newer.key("a", "b"));
        assert_ne!(core, newer);
    }

    #[test]
    fn keys_of_kinds_of_the_cluster_have_no_namespace() {
        assert_eq!(
            by_plural("", "nodes").unwrap().key("", "a"),
            "/registry/core/nodes/a"
        );
        assert_eq!(
            by_plural("apps", "deployments")
                .unwrap()
                .prefix_in(Some("x")),
            "/registry/apps/deployments/x/"
        );
        assert_eq!(group_versions()[0], ("", "v1"));
    }
}
