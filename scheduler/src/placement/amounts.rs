//! Resources as integers: what a node has, what its pods ask for.
//!
//! A pod's request is not the sum of its containers'. Init containers run one
//! after another, so only the largest counts, together with the sidecars (init
//! containers that restart always) that were started before it and stay. A
//! limit without a request counts as the request, as the API would have filled
//! it in. The sandbox's own cost is the pod's `overhead`.
//!
//! Read more: "Resource sharing within containers" and KEP 753 (sidecars),
//! KEP 688 (pod overhead), KEP 2837 (resources of a whole pod).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    manifest::quantity,
    placement::{
        reason::Resource,
        symbol::{Symbol, Symbols},
    },
};

/// What counts for a container that asks for no processor: thousandths.
pub const ASSUMED_CPU_MILLIS: i64 = 100;
/// What counts for a container that asks for no memory: bytes.
pub const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Processor time in thousandths of a processor.
    pub cpu_millis: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Local disk in bytes.
    pub ephemeral_bytes: i64,
    /// Pods.
    pub pods: i64,
    /// Everything else by name: huge pages, devices.
    pub others: Vec<(Symbol, i64)>,
}

impl Amounts {
    /// A map of quantities.
    pub fn read(symbols: &mut Symbols, source: Option<&BTreeMap<String, Quantity>>) -> Amounts {
        let mut amounts = Amounts::default();
        for (name, value) in source.into_iter().flatten() {
            match name.as_str() {
                "cpu" => amounts.cpu_millis = quantity::milli(value),
                "memory" => amounts.memory_bytes = quantity::whole(value),
                "ephemeral-storage" => amounts.ephemeral_bytes = quantity::whole(value),
                "pods" => amounts.pods = quantity::whole(value),
                _ => amounts
                    .others
                    .push((symbols.intern(name), quantity::whole(value))),
            }
        }
        amounts
    }

    /// How much of another resource there is.
    pub fn other(&self, name: Symbol) -> i64 {
        self.others
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, amount)| *amount)
    }

    /// Every resource with its amount.
    pub fn each(&self) -> impl Iterator<Item = (Resource, i64)> + '_ {
        [
            (Resource::Pods, self.pods),
            (Resource::Cpu, self.cpu_millis),
            (Resource::Memory, self.memory_bytes),
            (Resource::Ephemeral, self.ephemeral_bytes),
        ]
        .into_iter()
        .chain(
            self.others
                .iter()
                .map(|(name, amount)| (Resource::Other(*name), *amount)),
        )
    }

    /// Adds amounts.
    pub fn add(&mut self, more: &Amounts) {
        self.combine(more, i64::saturating_add);
    }

    /// Takes amounts away.
    pub fn subtract(&mut self, less: &Amounts) {
        self.combine(less, i64::saturating_sub);
    }

    /// Raises each amount to the other's where that is larger.
    fn raise(&mut self, other: &Amounts) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, with: &Amounts, join: fn(i64, i64) -> i64) {
        self.cpu_millis = join(self.cpu_millis, with.cpu_millis);
        self.memory_bytes = join(self.memory_bytes, with.memory_bytes);
        self.ephemeral_bytes = join(self.ephemeral_bytes, with.ephemeral_bytes);
        self.pods = join(self.pods, with.pods);
        for (name, amount) in &with.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, mine)) => *mine = join(*mine, *amount),
                None => self.others.push((*name, join(0, *amount))),
            }
        }
    }
}

/// Processor and memory as the scores see them: never nothing.
///
/// Pods that ask for nothing would otherwise all land on one node, which looks
/// empty to the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Thousandths of a processor.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
}

/// What a pod asks of a node, itself counted as one pod.
pub fn read_demand(symbols: &mut Symbols, spec: &PodSpec) -> (Amounts, Weight) {
    let mut of = |container: &Container| {
        let mut amounts = requested(symbols, container.resources.as_ref());
        amounts.pods = 0;
        amounts
    };
    let exact = |amounts: Amounts| amounts;
    let assumed = |mut amounts: Amounts| {
        if amounts.cpu_millis == 0 {
            amounts.cpu_millis = ASSUMED_CPU_MILLIS;
        }
        if amounts.memory_bytes == 0 {
            amounts.memory_bytes = ASSUMED_MEMORY_BYTES;
        }
        amounts
    };
    let mut demand = sum(spec, &mut of, exact);
    let mut weight = sum(spec, &mut of, assumed);
    if let Some(whole) = &spec.resources {
        let whole = requested(symbols, Some(whole));
        replace_named(&mut demand, &whole);
        replace_named(&mut weight, &whole);
    }
    let overhead = Amounts::read(symbols, spec.overhead.as_ref());
    demand.add(&overhead);
    weight.add(&overhead);
    demand.pods = 1;
    let weight = Weight {
        cpu_millis: weight.cpu_millis,
        memory_bytes: weight.memory_bytes,
    };
    (demand, weight)
}

/// The containers' largest sum at any moment of the pod's life.
fn sum(
    spec: &PodSpec,
    of: &mut impl FnMut(&Container) -> Amounts,
    each: impl Fn(Amounts) -> Amounts,
) -> Amounts {
    let mut running = Amounts::default();
    for container in &spec.containers {
        running.add(&each(of(container)));
    }
    let mut sidecars = Amounts::default();
    let mut starting = Amounts::default();
    for container in spec.init_containers.iter().flatten() {
        let mut own = each(of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&own);
            starting.raise(&sidecars);
        } else {
            own.add(&sidecars);
            starting.raise(&own);
        }
    }
    running.add(&sidecars);
    running.raise(&starting);
    running
}

/// Requests, with the limit where only that is given.
fn requested(symbols: &mut Symbols, resources: Option<&ResourceRequirements>) -> Amounts {
    let Some(resources) = resources else {
        return Amounts::default();
    };
    let mut all: BTreeMap<String, Quantity> = resources.limits.clone().unwrap_or_default();
    all.extend(resources.requests.clone().unwrap_or_default());
    Amounts::read(symbols, Some(&all))
}

/// What the pod asks for as a whole stands instead of its containers' sum.
fn replace_named(sum: &mut Amounts, whole: &Amounts) {
    if whole.cpu_millis > 0 {
        sum.cpu_millis = whole.cpu_millis;
    }
    if whole.memory_bytes > 0 {
        sum.memory_bytes = whole.memory_bytes;
    }
    for (name, amount) in &whole.others {
        match sum.others.iter_mut().find(|(known, _)| known == name) {
            Some((_, mine)) => *mine = *amount,
            None => sum.others.push((*name, *amount)),
        }
    }
}
