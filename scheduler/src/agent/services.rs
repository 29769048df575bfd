//! Variables that tell a container of the services there are.
//!
//! Docker's links did this first. Each service of the pod's namespace that has an
//! address gives `NAME_SERVICE_HOST`, `NAME_SERVICE_PORT` and a few more, as they are
//! when the container starts; names in the DNS are the better way and have no order.
//!
//! Read more: "Discovering services" in the Kubernetes documentation.

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The variables of the services of one namespace; the services' order does not matter.
pub fn plan_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
) -> Vec<(String, String)> {
    let mut services: Vec<&Service> = services.into_iter().collect();
    services.sort_by(|one, other| one.metadata.name.cmp(&other.metadata.name));
    services.into_iter().flat_map(variables).collect()
}

fn variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    // A headless service and a name of something outside have no address.
    let host = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else {
        return Vec::new();
    };
    if host.is_empty() || host == "None" {
        return Vec::new();
    }
    let name = variable_name(service.metadata.name.as_deref().unwrap_or_default());
    let mut found = vec![
        (format!("{name}_SERVICE_HOST"), host.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(own) = port.name.as_deref().filter(|own| !own.is_empty()) {
            let key = format!("{name}_SERVICE_PORT_{}", variable_name(own));
            found.push((key, port.port.to_string()));
        }
    }
    found.push((format!("{name}_PORT"), address(host, first)));
    for port in ports {
        let protocol = protocol(port);
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        found.extend([
            (prefix.clone(), address(host, port)),
            (format!("{prefix}_PROTO"), protocol.to_lowercase()),
            (format!("{prefix}_PORT"), port.port.to_string()),
            (format!("{prefix}_ADDR"), host.to_owned()),
        ]);
    }
    found
}

fn address(host: &str, port: &ServicePort) -> String {
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    format!("{}://{host}:{}", protocol(port).to_lowercase(), port.port)
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// Shells know no hyphens in names.
fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::plan_variables;

    #[test]
    fn a_service_gives_the_variables_of_a_link() {
        let service = |value| serde_json::from_value(value).unwrap();
        let services = [
            service(json!({"metadata": {"name": "redis-main"}, "spec": {
                "clusterIP": "10.0.0.11", "ports": [{"port": 6379, "name": "db"}]}})),
            service(json!({"metadata": {"name": "headless"}, "spec": {
                "clusterIP": "None", "ports": [{"port": 1}]}})),
        ];
        let variables: Vec<String> = plan_variables(&services)
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let expected = [
            "REDIS_MAIN_SERVICE_HOST=10.0.0.11",
            "REDIS_MAIN_SERVICE_PORT=6379",
            "REDIS_MAIN_SERVICE_PORT_DB=6379",
            "REDIS_MAIN_PORT=tcp://10.0.0.11:6379",
            "REDIS_MAIN_PORT_6379_TCP=tcp://10.0.0.11:6379",
            "REDIS_MAIN_PORT_6379_TCP_PROTO=tcp",
            "REDIS_MAIN_PORT_6379_TCP_PORT=6379",
            "REDIS_MAIN_PORT_6379_TCP_ADDR=10.0.0.11",
        ];
        assert_eq!(variables, expected);
    }
}
