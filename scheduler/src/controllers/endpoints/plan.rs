//! What slices a service needs, beside those that there are.
//!
//! The plan changes as few slices as it can, because each change goes to every node: an endpoint
//! stays in its slice as long as it is wanted, new ones fill the room of slices that change
//! anyway, then of others, then new slices; a slice that is empty goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::ports::ports_in;
use crate::controllers::cluster::has_labels;
use crate::controllers::pods;

/// The label that names the service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who made the slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller.
pub const MANAGER: &str = "endpoints.berth.dev";
/// The label that says that the service has no address of its own.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// The most endpoints in a slice.
pub const SLICE_LIMIT: usize = 100;

/// What the plan looks at.
pub struct Facts<'a> {
    /// The service.
    pub service: &'a Service,
    /// All pods of its namespace.
    pub pods: &'a [Arc<Pod>],
    /// The zone of a node, if it has one.
    pub zone: &'a dyn Fn(&str) -> Option<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A slice without a name yet.
    Create(Box<EndpointSlice>),
    /// Other endpoints or labels in a slice.
    Update {
        /// As it is.
        old: Arc<EndpointSlice>,
        /// As it shall be.
        new: Box<EndpointSlice>,
    },
    /// A slice without endpoints.
    Delete(Arc<EndpointSlice>),
}

/// The labels that choose a service's pods; none if somebody else makes its slices.
pub fn selector_of(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

/// What to do so that the slices are what the service needs.
pub fn plan(facts: &Facts<'_>, slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let external = facts
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.type_.as_deref());
    if external == Some("ExternalName") {
        return slices.iter().cloned().map(Action::Delete).collect();
    }
    let Some(selector) = selector_of(facts.service) else {
        return Vec::new();
    };
    let mut groups = wanted_groups(facts, selector);
    // A slice whose family or ports nobody wants any more is a group without endpoints.
    for slice in slices {
        groups.entry(group_of(slice)).or_default();
    }
    let mut actions = Vec::new();
    for (group, endpoints) in groups {
        let own: Vec<_> = slices
            .iter()
            .filter(|slice| group_of(slice) == group)
            .cloned()
            .collect();
        plan_group(facts.service, &group, endpoints, &own, &mut actions);
    }
    actions
}

/// What the endpoints of one slice have in common: the family, and the ports (as sorted text,
/// so that they can be compared and sorted).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    family: String,
    ports: Vec<Port>,
}

type Port = (String, String, Option<i32>, Option<String>);

fn port_key(port: &EndpointPort) -> Port {
    let name = port.name.clone().unwrap_or_default();
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    (name, protocol, port.port, port.app_protocol.clone())
}

fn group_of(slice: &EndpointSlice) -> Group {
    let mut ports: Vec<Port> = slice.ports.iter().flatten().map(port_key).collect();
    ports.sort();
    Group {
        family: slice.address_type.clone(),
        ports,
    }
}

fn wanted_groups(
    facts: &Facts<'_>,
    selector: &BTreeMap<String, String>,
) -> BTreeMap<Group, BTreeMap<String, Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<String, Endpoint>> = BTreeMap::new();
    for pod in facts.pods {
        if !has_labels(pod.metadata.labels.as_ref(), selector) || pods::has_ended(pod) {
            continue;
        }
        let mut ports: Vec<Port> = ports_in(facts.service, pod).iter().map(port_key).collect();
        // A headless service may have no ports at all; another one without a port in this pod
        // has nothing to offer there.
        if ports.is_empty() && !(is_headless(facts.service) && has_no_ports(facts.service)) {
            continue;
        }
        ports.sort();
        for family in families_of(facts.service) {
            if let Some(address) = address_of(pod, &family) {
                let group = Group {
                    family,
                    ports: ports.clone(),
                };
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                groups
                    .entry(group)
                    .or_default()
                    .insert(uid, endpoint(facts, pod, address));
            }
        }
    }
    groups
}

fn is_headless(service: &Service) -> bool {
    let address = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.as_deref());
    address == Some("None")
}

fn has_no_ports(service: &Service) -> bool {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.is_none_or(Vec::is_empty)
}

fn families_of(service: &Service) -> Vec<String> {
    let families = service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone());
    match families {
        Some(families) if !families.is_empty() => families,
        _ => vec!["IPv4".to_owned()],
    }
}

fn address_of(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let many = status
        .pod_ips
        .iter()
        .flatten()
        .map(|address| address.ip.as_str());
    let mut all = many.chain(status.pod_ip.as_deref());
    let of_family = |text: &&str| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => family == "IPv4",
        Ok(IpAddr::V6(_)) => family == "IPv6",
        Err(_) => false,
    };
    all.find(of_family).map(str::to_owned)
}

fn endpoint(facts: &Facts<'_>, pod: &Pod, address: String) -> Endpoint {
    let spec = pod.spec.as_ref();
    let service = facts.service.spec.as_ref();
    let always = service
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false);
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let node_name = spec.and_then(|spec| spec.node_name.clone());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(always || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname_of(facts.service, pod),
        zone: node_name.as_deref().and_then(facts.zone),
        node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// The name that the pod has below the service's, if it asks for one there.
fn hostname_of(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.clone().filter(|name| !name.is_empty())?;
    (spec.subdomain == service.metadata.name).then_some(hostname)
}

/// Plans the slices of one group: `wanted` by the uid of the pod.
fn plan_group(
    service: &Service,
    group: &Group,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[Arc<EndpointSlice>],
    actions: &mut Vec<Action>,
) {
    let labels = labels_of(service);
    let mut kept: Vec<Vec<Endpoint>> = slices
        .iter()
        .map(|slice| keep(slice, &mut wanted))
        .collect();
    // Most full first, and those that change anyway before those that do not.
    let mut order: Vec<usize> = (0..slices.len()).collect();
    let changes = |at: usize, kept: &[Vec<Endpoint>]| kept[at] != endpoints_of(&slices[at]);
    order.sort_by_key(|at| {
        (
            !changes(*at, &kept),
            SLICE_LIMIT.saturating_sub(kept[*at].len()),
            *at,
        )
    });
    let mut rest = wanted.into_values().collect::<Vec<_>>().into_iter();
    for at in order {
        let room = SLICE_LIMIT.saturating_sub(kept[at].len());
        kept[at].extend(rest.by_ref().take(room));
    }
    for (slice, endpoints) in slices.iter().zip(kept) {
        if endpoints.is_empty() {
            actions.push(Action::Delete(Arc::clone(slice)));
        } else if endpoints != endpoints_of(slice)
            || slice.metadata.labels.as_ref() != Some(&labels)
        {
            let mut new = Box::new((**slice).clone());
            new.endpoints = Some(endpoints);
            new.metadata.labels = Some(labels.clone());
            actions.push(Action::Update {
                old: Arc::clone(slice),
                new,
            });
        }
    }
    let rest: Vec<Endpoint> = rest.collect();
    for endpoints in rest.chunks(SLICE_LIMIT) {
        actions.push(Action::Create(Box::new(slice(
            service,
            group,
            endpoints.to_vec(),
        ))));
    }
}

fn endpoints_of(slice: &EndpointSlice) -> &[Endpoint] {
    slice.endpoints.as_deref().unwrap_or_default()
}

/// The endpoints of a slice that are still wanted, as they are now; taken out of `wanted`.
fn keep(slice: &EndpointSlice, wanted: &mut BTreeMap<String, Endpoint>) -> Vec<Endpoint> {
    let mut seen = BTreeSet::new();
    let uids = endpoints_of(slice)
        .iter()
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.clone());
    uids.filter(|uid| seen.insert(uid.clone()))
        .filter_map(|uid| wanted.remove(&uid))
        .collect()
}

/// The service's labels, and those that say whose slice it is.
fn labels_of(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(
        SERVICE_NAME.to_owned(),
        service.metadata.name.clone().unwrap_or_default(),
    );
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

fn slice(service: &Service, group: &Group, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let port = |(name, protocol, port, app_protocol): &Port| EndpointPort {
        name: Some(name.clone()),
        protocol: Some(protocol.clone()),
        port: *port,
        app_protocol: app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels_of(service)),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Service".to_owned(),
                name: service.metadata.name.clone().unwrap_or_default(),
                uid: service.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        address_type: group.family.clone(),
        endpoints: Some(endpoints),
        ports: Some(group.ports.iter().map(port).collect()),
    }
}

#[cfg(test)]
mod tests;
