//! Objects of the API as parts of the model. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use crate::cluster::model::{
    Condition, Endpoint, Node, Service, ServicePort, Slice, SlicePort, TrafficPolicy,
};
use crate::request::Protocol;

/// The label of a slice that names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// `NAMESPACE/NAME`.
pub fn key(metadata: &kube::core::ObjectMeta) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", part(&metadata.namespace), part(&metadata.name))
}

/// What matters of a Node.
pub fn node(node: &core::Node) -> Node {
    let status = node.status.iter().flat_map(|status| &status.addresses);
    let addresses = status
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect();
    let spec = node.spec.clone().unwrap_or_default();
    let mut texts = spec.pod_cidrs.unwrap_or_default();
    if texts.is_empty() {
        texts.extend(spec.pod_cidr);
    }
    Node {
        addresses,
        pod_ranges: texts.iter().filter_map(|text| text.parse().ok()).collect(),
    }
}

/// What matters of a Service.
pub fn service(service: &core::Service) -> Service {
    let spec = service.spec.clone().unwrap_or_default();
    let mut cluster_ips: Vec<String> = spec.cluster_ips.unwrap_or_default();
    if cluster_ips.is_empty() {
        cluster_ips.extend(spec.cluster_ip);
    }
    let is_sticky = spec.session_affinity.as_deref() == Some("ClientIP");
    let timeout = spec
        .session_affinity_config
        .and_then(|config| config.client_ip)
        .and_then(|client| client.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok());
    let is_external_name = spec.type_.as_deref() == Some("ExternalName");
    Service {
        // "None" of a headless service is no address.
        cluster_ips: parse_all(&cluster_ips),
        external_ips: parse_all(&spec.external_ips.unwrap_or_default()),
        external_name: spec.external_name.filter(|_| is_external_name),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(service_port)
            .collect(),
        affinity_seconds: is_sticky.then(|| timeout.unwrap_or(10_800)),
        internal: policy(spec.internal_traffic_policy.as_deref()),
        external: policy(spec.external_traffic_policy.as_deref()),
    }
}

/// What matters of an EndpointSlice; none if it is of no service.
pub fn slice(slice: &discovery::EndpointSlice) -> Option<Slice> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
    Some(Slice {
        service: format!("{namespace}/{name}"),
        ports: slice
            .ports
            .iter()
            .flatten()
            .filter_map(slice_port)
            .collect(),
        endpoints: slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(endpoint)
            .collect(),
    })
}

fn service_port(port: &core::ServicePort) -> Option<ServicePort> {
    Some(ServicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok()?,
        node_port: port
            .node_port
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0),
    })
}

fn slice_port(port: &discovery::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref())?,
        port: u16::try_from(port.port?).ok()?,
    })
}

/// The API says that consumers may use the first address only.
fn endpoint(endpoint: &discovery::Endpoint) -> Option<Endpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    // An absent condition of readiness counts as true; `serving` follows it.
    let is_ready = conditions.ready.unwrap_or(true);
    let is_serving = conditions.serving.unwrap_or(is_ready);
    let is_going = conditions.terminating.unwrap_or(false);
    Some(Endpoint {
        address,
        condition: match (is_ready, is_serving && is_going) {
            (true, _) => Condition::Ready,
            (false, true) => Condition::Draining,
            (false, false) => Condition::Unready,
        },
        hostname: endpoint.hostname.clone(),
        node: endpoint.node_name.clone(),
    })
}

fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    match text {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn parse_all(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_headless_sticky_service_is_read() {
        let object: core::Service = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "n", "name": "s"},
            "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP",
                     "externalTrafficPolicy": "Local",
                     "ports": [{"port": 80, "nodePort": 30080}]}
        }))
        .unwrap();
        let read = service(&object);
        assert!(read.cluster_ips.is_empty());
        assert_eq!(read.affinity_seconds, Some(10_800));
        assert_eq!(read.external, TrafficPolicy::Local);
        assert_eq!(read.ports[0].node_port, Some(30_080));
        assert_eq!(read.ports[0].protocol, Protocol::Tcp);
        assert_eq!(key(&object.metadata), "n/s");
    }

    #[test]
    fn conditions_of_endpoints_are_ranked() {
        let object: discovery::EndpointSlice = serde_json::from_value(serde_json::json!({
            "addressType": "IPv4",
            "metadata": {"namespace": "n", "name": "s-1", "labels": {SERVICE_LABEL: "s"}},
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"],
                 "conditions": {"ready": false, "serving": true, "terminating": true}}
            ]
        }))
        .unwrap();
        let read = slice(&object).unwrap();
        assert_eq!(read.service, "n/s");
        let conditions: Vec<Condition> = read.endpoints.iter().map(|e| e.condition).collect();
        assert_eq!(
            conditions,
            [Condition::Ready, Condition::Unready, Condition::Draining]
        );
    }
}
