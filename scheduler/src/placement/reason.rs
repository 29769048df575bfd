//! Why a node does not fit, with the numbers.
//!
//! A reason has two texts: the one that kube-scheduler would write into the
//! pod's condition, by which nodes are counted, and one with all numbers for
//! `berth explain`.

use crate::placement::{
    symbol::{Symbol, Symbols},
    taint::{Effect, Taint},
};

/// A resource of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// Processor time, in thousandths.
    Cpu,
    /// Memory in bytes.
    Memory,
    /// Local disk in bytes.
    Ephemeral,
    /// Places for pods.
    Pods,
    /// Anything else.
    Other(Symbol),
}

/// Why a node does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The node is cordoned.
    Cordoned,
    /// The pod asks for a node of another name.
    OtherName,
    /// The pod does not tolerate a taint.
    Tainted(Taint),
    /// `nodeSelector` or required node affinity does not select the node.
    NotSelected,
    /// A port of the host is taken.
    PortTaken {
        /// The port.
        port: i32,
    },
    /// There is too little of a resource.
    Insufficient {
        /// The resource.
        resource: Resource,
        /// What the pod asks for.
        wanted: i64,
        /// What is taken.
        used: i64,
        /// What the node has.
        allocatable: i64,
    },
    /// The node lacks the label that makes the domains of a spread.
    NoSpreadLabel {
        /// The label.
        key: Symbol,
    },
    /// The node's domain would have too many of the pods that are to be spread.
    Uneven {
        /// The label that makes the domains.
        key: Symbol,
        /// The pods in the domain, with this one.
        count: i64,
        /// The pods in the emptiest domain.
        least: i64,
        /// The largest difference allowed.
        max_skew: i64,
    },
    /// The pods whose company the pod demands are not in the domain.
    NoCompany {
        /// The label that makes the domains.
        key: Symbol,
    },
    /// Pods whose company the pod refuses are in the domain.
    Company {
        /// The label that makes the domains.
        key: Symbol,
        /// How many.
        pods: u32,
    },
    /// Pods in the domain refuse the company of this one.
    Refused {
        /// The label that makes the domains.
        key: Symbol,
        /// How many.
        pods: u32,
    },
}

impl Reason {
    /// The text of a pod's condition, as kube-scheduler words it.
    pub fn summary(&self, symbols: &Symbols) -> String {
        match self {
            Reason::Cordoned => "node(s) were unschedulable".to_owned(),
            Reason::OtherName => "node(s) didn't match the requested node name".to_owned(),
            Reason::Tainted(_) => "node(s) had untolerated taint(s)".to_owned(),
            Reason::NotSelected => "node(s) didn't match Pod's node affinity/selector".to_owned(),
            Reason::PortTaken { .. } => {
                "node(s) didn't have free ports for the requested pod ports".to_owned()
            }
            Reason::Insufficient {
                resource: Resource::Pods,
                ..
            } => "Too many pods".to_owned(),
            Reason::Insufficient { resource, .. } => {
                format!("Insufficient {}", resource.name(symbols))
            }
            Reason::NoSpreadLabel { .. } => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
                    .to_owned()
            }
            Reason::Uneven { .. } => {
                "node(s) didn't match pod topology spread constraints".to_owned()
            }
            Reason::NoCompany { .. } => "node(s) didn't match pod affinity rules".to_owned(),
            Reason::Company { .. } => "node(s) didn't match pod anti-affinity rules".to_owned(),
            Reason::Refused { .. } => {
                "node(s) didn't satisfy existing pods anti-affinity rules".to_owned()
            }
        }
    }

    /// The reason with its numbers.
    pub fn detail(&self, symbols: &Symbols) -> String {
        match self {
            Reason::Cordoned => "the node is cordoned".to_owned(),
            Reason::OtherName => "the pod asks for another node by name".to_owned(),
            Reason::Tainted(taint) => format!(
                "the pod does not tolerate {}={}:{}",
                symbols.text(taint.key),
                symbols.text(taint.value),
                match taint.effect {
                    Effect::NoSchedule => "NoSchedule",
                    Effect::PreferNoSchedule => "PreferNoSchedule",
                    Effect::NoExecute => "NoExecute",
                }
            ),
            Reason::NotSelected => {
                "the node's labels do not fit the pod's nodeSelector or node affinity".to_owned()
            }
            Reason::PortTaken { port } => format!("port {port} of the host is taken"),
            Reason::Insufficient {
                resource,
                wanted,
                used,
                allocatable,
            } => {
                let name = resource.name(symbols);
                let free = allocatable - used;
                let amount = |number: i64| resource.amount(number);
                format!(
                    "{name}: {} wanted, {} free ({} of {} taken)",
                    amount(*wanted),
                    amount(free),
                    amount(*used),
                    amount(*allocatable)
                )
            }
            Reason::NoSpreadLabel { key } => {
                format!("the node has no label {}", symbols.text(*key))
            }
            Reason::Uneven {
                key,
                count,
                least,
                max_skew,
            } => format!(
                "{count} pods in its {} with this one, {least} in the emptiest: more than {max_skew} apart",
                symbols.text(*key)
            ),
            Reason::NoCompany { key } => format!(
                "no pod that its affinity demands is in its {}",
                symbols.text(*key)
            ),
            Reason::Company { key, pods } => format!(
                "{pods} pods that its anti-affinity refuses are in its {}",
                symbols.text(*key)
            ),
            Reason::Refused { key, pods } => format!(
                "{pods} pods in its {} refuse this pod by their anti-affinity",
                symbols.text(*key)
            ),
        }
    }

    /// Whether fewer pods on the node could help, so that preemption is worth a thought.
    pub fn is_of_pods(&self) -> bool {
        match self {
            Reason::Cordoned
            | Reason::OtherName
            | Reason::Tainted(_)
            | Reason::NotSelected
            | Reason::NoSpreadLabel { .. }
            | Reason::NoCompany { .. } => false,
            // What the node never had, nobody can give back.
            Reason::Insufficient {
                wanted,
                allocatable,
                ..
            } => wanted <= allocatable,
            Reason::PortTaken { .. }
            | Reason::Uneven { .. }
            | Reason::Company { .. }
            | Reason::Refused { .. } => true,
        }
    }
}

impl Resource {
    /// Its name in manifests.
    pub fn name(self, symbols: &Symbols) -> &str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Ephemeral => "ephemeral-storage",
            Resource::Pods => "pods",
            Resource::Other(name) => symbols.text(name),
        }
    }

    /// An amount as manifests write it.
    pub fn amount(self, number: i64) -> String {
        match self {
            Resource::Cpu if number % 1000 == 0 => format!("{}", number / 1000),
            Resource::Cpu => format!("{number}m"),
            Resource::Memory | Resource::Ephemeral => binary(number),
            Resource::Pods | Resource::Other(_) => number.to_string(),
        }
    }
}

/// Bytes with the largest binary suffix that leaves a whole number.
fn binary(bytes: i64) -> String {
    let suffixes = ["Gi", "Mi", "Ki"];
    let units = [1_i64 << 30, 1 << 20, 1 << 10];
    units
        .iter()
        .zip(suffixes)
        .find(|(unit, _)| bytes != 0 && bytes % **unit == 0)
        .map_or_else(
            || bytes.to_string(),
            |(unit, suffix)| format!("{}{suffix}", bytes / unit),
        )
}
