//! What a type cannot say about itself: how its lists and maps are merged.
//!
//! Two ways of changing an object need more than names and types. *Server-side
//! apply* asks which list is a map in disguise, by which keys, and which list is
//! one value (structured-merge-diff's `listType`, `listMapKey`, `mapType`).
//! *Strategic merge patch* is older and has facts of its own (`patchStrategy`,
//! `patchMergeKey`). Kubernetes keeps both as comments and tags of its Go types
//! and publishes them in its OpenAPI document as `x-kubernetes-*`; the types of
//! `k8s-openapi` do not carry them, so they stand here, for the served kinds.
//!
//! Only what differs from the rule is listed. The rule: a list is atomic (its
//! owner owns the whole), a map of strings is granular, an object is granular.
//!
//! Read more: "Merge strategy" in Kubernetes' reference of server-side apply;
//! "Notes on the strategic merge patch" in its contributors' guide.

/// How one field of one type is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// The type's name in OpenAPI without `io.k8s.`.
    pub definition: &'static str,
    /// The field.
    pub field: &'static str,
    /// How server-side apply sees it.
    pub list: Merge,
    /// How a strategic merge patch sees it.
    pub patch: PatchStrategy,
}

/// How server-side apply sees the value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Merge {
    /// The rule: lists are atomic, maps and objects granular.
    #[default]
    AsUsual,
    /// A map or an object that has one owner.
    Atomic,
    /// A list of distinct scalars, each with its owners.
    Set,
    /// A list of objects that are told apart by these keys.
    Map(&'static [&'static str]),
}

/// How a strategic merge patch sees the value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// A list is merged instead of replaced; objects by this key, scalars as a
    /// set where it is empty.
    pub merge: Option<&'static str>,
    /// The patch may name the keys that stay (`$retainKeys`).
    pub retain_keys: bool,
    /// The object is replaced as a whole.
    pub replace: bool,
}

/// A list map that strategic merge patches merge too, by the first key.
const fn map(definition: &'static str, field: &'static str, keys: &'static [&'static str]) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::Map(keys),
        patch: PatchStrategy {
            merge: Some(keys[0]),
            retain_keys: false,
            replace: false,
        },
    }
}

/// The same, where a patch may also say which keys of an entry stay.
const fn retaining_map(definition: &'static str, field: &'static str) -> Fact {
    let mut fact = map(definition, field, &["name"]);
    fact.patch.retain_keys = true;
    fact
}

/// A list map that strategic merge patches replace.
const fn applied_map(
    definition: &'static str,
    field: &'static str,
    keys: &'static [&'static str],
) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::Map(keys),
        patch: REPLACED,
    }
}

/// A list that is atomic in server-side apply and merged by patches.
const fn patched_map(definition: &'static str, field: &'static str, key: &'static str) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::AsUsual,
        patch: PatchStrategy {
            merge: Some(key),
            retain_keys: false,
            replace: false,
        },
    }
}

/// A set that strategic merge patches replace.
const fn set(definition: &'static str, field: &'static str) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::Set,
        patch: REPLACED,
    }
}

/// A set that strategic merge patches merge.
const fn patched_set(definition: &'static str, field: &'static str) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::Set,
        patch: PatchStrategy {
            merge: Some(""),
            retain_keys: false,
            replace: false,
        },
    }
}

/// A map of strings with one owner.
const fn atomic(definition: &'static str, field: &'static str) -> Fact {
    Fact {
        definition,
        field,
        list: Merge::Atomic,
        patch: REPLACED,
    }
}

const REPLACED: PatchStrategy = PatchStrategy {
    merge: None,
    retain_keys: false,
    replace: false,
};

const TYPE: &[&str] = &["type"];
const NAME: &[&str] = &["name"];

/// Every field of the served kinds that is not merged as usual.
pub const FACTS: &[Fact] = &[
    map("api.apps.v1.DaemonSetStatus", "conditions", TYPE),
    Fact {
        definition: "api.apps.v1.DeploymentSpec",
        field: "strategy",
        list: Merge::AsUsual,
        patch: PatchStrategy {
            merge: None,
            retain_keys: true,
            replace: false,
        },
    },
    map("api.apps.v1.DeploymentStatus", "conditions", TYPE),
    map("api.apps.v1.ReplicaSetStatus", "conditions", TYPE),
    patched_map("api.batch.v1.JobStatus", "conditions", "type"),
    applied_map(
        "api.batch.v1.JobSchedulingConfiguration",
        "resourceClaims",
        NAME,
    ),
    set(
        "api.batch.v1.PodFailurePolicyOnExitCodesRequirement",
        "values",
    ),
    set("api.batch.v1.UncountedTerminatedPods", "failed"),
    set("api.batch.v1.UncountedTerminatedPods", "succeeded"),
    map("api.core.v1.Container", "env", NAME),
    map(
        "api.core.v1.Container",
        "ports",
        &["containerPort", "protocol"],
    ),
    map("api.core.v1.Container", "volumeDevices", &["devicePath"]),
    map("api.core.v1.Container", "volumeMounts", &["mountPath"]),
    set("api.core.v1.ContainerRestartRuleOnExitCodes", "values"),
    map(
        "api.core.v1.ContainerStatus",
        "allocatedResourcesStatus",
        NAME,
    ),
    map(
        "api.core.v1.ContainerStatus",
        "volumeMounts",
        &["mountPath"],
    ),
    map("api.core.v1.EphemeralContainer", "env", NAME),
    map(
        "api.core.v1.EphemeralContainer",
        "ports",
        &["containerPort", "protocol"],
    ),
    map(
        "api.core.v1.EphemeralContainer",
        "volumeDevices",
        &["devicePath"],
    ),
    map(
        "api.core.v1.EphemeralContainer",
        "volumeMounts",
        &["mountPath"],
    ),
    map("api.core.v1.NamespaceStatus", "conditions", TYPE),
    set(
        "api.core.v1.NodeAllocatableResourceClaimStatus",
        "containers",
    ),
    applied_map(
        "api.core.v1.NodeAllocatableResourceClaimStatus",
        "mapping",
        NAME,
    ),
    applied_map(
        "api.core.v1.NodeAllocatableResourceClaimStatus",
        "overhead",
        NAME,
    ),
    set(
        "api.core.v1.NodePodPreemptionPolicy",
        "disableResizePreemption",
    ),
    patched_set("api.core.v1.NodeSpec", "podCIDRs"),
    map("api.core.v1.NodeStatus", "addresses", TYPE),
    map("api.core.v1.NodeStatus", "conditions", TYPE),
    map("api.core.v1.PodSpec", "containers", NAME),
    map("api.core.v1.PodSpec", "ephemeralContainers", NAME),
    applied_map("api.core.v1.PodSpec", "evictionResponders", NAME),
    map("api.core.v1.PodSpec", "hostAliases", &["ip"]),
    map("api.core.v1.PodSpec", "imagePullSecrets", NAME),
    map("api.core.v1.PodSpec", "initContainers", NAME),
    atomic("api.core.v1.PodSpec", "nodeSelector"),
    retaining_map("api.core.v1.PodSpec", "resourceClaims"),
    map("api.core.v1.PodSpec", "schedulingGates", NAME),
    map(
        "api.core.v1.PodSpec",
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    retaining_map("api.core.v1.PodSpec", "volumes"),
    map("api.core.v1.PodStatus", "conditions", TYPE),
    patched_map("api.core.v1.PodStatus", "hostIPs", "ip"),
    applied_map(
        "api.core.v1.PodStatus",
        "nodeAllocatableResourceClaimStatuses",
        &["resourceClaimName"],
    ),
    map("api.core.v1.PodStatus", "podIPs", &["ip"]),
    retaining_map("api.core.v1.PodStatus", "resourceClaimStatuses"),
    applied_map("api.core.v1.PodStatus", "volumeHealth", NAME),
    applied_map(
        "api.core.v1.PodVolumeHealth",
        "healthConditions",
        &["status", "reason"],
    ),
    applied_map("api.core.v1.ResourceRequirements", "claims", NAME),
    applied_map("api.core.v1.ResourceStatus", "resources", &["resourceID"]),
    map("api.core.v1.ServiceAccount", "secrets", NAME),
    map("api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    atomic("api.core.v1.ServiceSpec", "selector"),
    map("api.core.v1.ServiceStatus", "conditions", TYPE),
    set("api.core.v1.VolumeMount", "bindMountOptions"),
    set("api.discovery.v1.Endpoint", "addresses"),
    atomic("api.node.v1.Scheduling", "nodeSelector"),
    Fact {
        definition: "api.policy.v1.PodDisruptionBudgetSpec",
        field: "selector",
        list: Merge::AsUsual,
        patch: PatchStrategy {
            merge: None,
            retain_keys: false,
            replace: true,
        },
    },
    map(
        "api.policy.v1.PodDisruptionBudgetStatus",
        "conditions",
        TYPE,
    ),
    map("api.storage.v1.CSINodeSpec", "drivers", NAME),
    patched_set("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers"),
    map(
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        "ownerReferences",
        &["uid"],
    ),
];

/// Types whose objects have one owner as a whole.
pub const ATOMIC_TYPES: &[&str] = &[
    "api.core.v1.ConfigMapKeySelector",
    "api.core.v1.EvictionResponder",
    "api.core.v1.FileKeySelector",
    "api.core.v1.LocalObjectReference",
    "api.core.v1.NodeSelector",
    "api.core.v1.NodeSelectorTerm",
    "api.core.v1.ObjectFieldSelector",
    "api.core.v1.ObjectReference",
    "api.core.v1.ResourceFieldSelector",
    "api.core.v1.SecretKeySelector",
    "api.core.v1.TypedLocalObjectReference",
    "api.discovery.v1.EndpointPort",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Keys of list maps that an entry may leave out, and what they then are.
pub const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("api.core.v1.ContainerPort", "protocol", "TCP"),
    ("api.core.v1.ServicePort", "protocol", "TCP"),
];
