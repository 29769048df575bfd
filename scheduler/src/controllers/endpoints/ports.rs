//! The number behind a service's port in one pod.

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The ports of a service as one pod has them. A named port that the pod does not have is left
/// out: the pod does not serve it.
pub fn ports_in(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| Some(endpoint_port(port, number_in(port, pod)?)))
        .collect()
}

fn endpoint_port(port: &ServicePort, number: i32) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(number),
        protocol: Some(protocol_of(port.protocol.as_deref())),
        app_protocol: port.app_protocol.clone(),
    }
}

fn protocol_of(protocol: Option<&str>) -> String {
    protocol.unwrap_or("TCP").to_owned()
}

fn number_in(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        // A target that was never set is 0.
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => named(name, port.protocol.as_deref(), pod),
    }
}

/// A named port of any container; of a restartable init container too, as it runs beside them.
fn named(name: &str, protocol: Option<&str>, pod: &Pod) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars =
        sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| {
            port.name.as_deref() == Some(name)
                && protocol_of(port.protocol.as_deref()) == protocol_of(protocol)
        })
        .map(|port| port.container_port)
}
