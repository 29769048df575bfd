//! Ports of this machine, which lead to one pod each. Pure.

use k8s_openapi::api::core::v1::Pod;

/// The ports of this machine that two pods would both take, as `8080/TCP`.
pub fn port_conflict(pods: &[Pod]) -> Option<String> {
    let mut taken: Vec<(String, i32, String)> = Vec::new();
    for pod in pods {
        let spec = pod.spec.iter();
        let ports = spec
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten());
        for port in ports {
            let Some(number) = port.host_port.filter(|number| *number > 0) else {
                continue;
            };
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().unwrap_or_default();
            let clash = taken.iter().any(|(other, known, kind)| {
                *known == number
                    && *kind == protocol
                    && (other.is_empty() || address.is_empty() || *other == address)
            });
            if clash {
                return Some(format!("{number}/{protocol}"));
            }
            taken.push((address, number, protocol));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use berth_scheduler::pod::templates::deployment_pods;
    use serde_json::json;

    use super::*;

    #[test]
    fn one_port_cannot_lead_to_two_pods() {
        let conflict = |replicas: i32| {
            let deployment = json!({
                "metadata": {"name": "web"},
                "spec": {"replicas": replicas, "selector": {}, "template": {
                    "spec": {"containers": [
                        {"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}
                }}
            });
            port_conflict(&deployment_pods(
                &serde_json::from_value(deployment).unwrap(),
            ))
        };
        assert_eq!(conflict(1), None);
        assert_eq!(conflict(2).as_deref(), Some("8080/TCP"));
    }
}
