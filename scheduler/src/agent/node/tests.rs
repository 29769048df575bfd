use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{NodeCondition, NodeStatus, NodeSystemInfo};

use super::{differs, observe::Observation, plan_labels, plan_node, plan_status};
use crate::agent::settings::AgentConfig;

fn seen() -> Observation {
    Observation {
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        trouble: None,
        memory_free_bytes: 1 << 30,
        storage_bytes: 1 << 40,
        disk_free_percent: 50,
        pid_free_percent: 50,
        info: NodeSystemInfo::default(),
        images: Vec::new(),
        handlers: Vec::new(),
    }
}

fn config() -> AgentConfig {
    let mut config = AgentConfig::new("/nowhere".into());
    config.node.name = "n1".to_owned();
    config.node.cpu_millis = 1500;
    config.node.memory_bytes = 4096;
    config.node.addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    config
}

fn condition<'a>(status: &'a NodeStatus, kind: &str) -> &'a NodeCondition {
    let mut conditions = status.conditions.as_ref().unwrap().iter();
    conditions
        .find(|condition| condition.type_ == kind)
        .unwrap()
}

#[test]
fn a_node_says_what_it_is_and_has() {
    let mut config = config();
    config.labels = [("disk".to_owned(), "ssd".to_owned())].into();
    let status = plan_status(&config, Some(7), &seen(), &NodeStatus::default());
    let capacity = status.capacity.as_ref().unwrap();
    let sizes: Vec<&str> = ["cpu", "memory", "pods", "ephemeral-storage"]
        .map(|name| capacity[name].0.as_str())
        .into();
    assert_eq!(sizes, ["1500m", "4Ki", "110", "1073741824Ki"]);
    let addresses = status.addresses.as_ref().unwrap();
    let addresses: Vec<&str> = addresses.iter().map(|one| one.address.as_str()).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1", "n1"]);
    let endpoint = status.daemon_endpoints.as_ref().unwrap();
    assert_eq!(endpoint.kubelet_endpoint.as_ref().unwrap().port, 7);
    assert_eq!(condition(&status, "Ready").status, "True");
    assert_eq!(condition(&status, "DiskPressure").status, "False");
    let labels = plan_labels(&config);
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["disk"], "ssd");
    let node = plan_node(&config, status);
    assert_eq!(node.spec.unwrap().taints, None);
}

#[test]
fn trouble_and_scarcity_show_and_foreign_conditions_stay() {
    let config = config();
    let foreign = NodeCondition {
        type_: "NetworkUnavailable".to_owned(),
        status: "False".to_owned(),
        ..NodeCondition::default()
    };
    let before = NodeStatus {
        conditions: Some(vec![foreign]),
        ..NodeStatus::default()
    };
    let good = plan_status(&config, None, &seen(), &before);
    let bad = Observation {
        at: seen().at + 5.seconds(),
        trouble: Some("container runtime is down".to_owned()),
        memory_free_bytes: 1,
        disk_free_percent: 1,
        pid_free_percent: 1,
        ..seen()
    };
    let status = plan_status(&config, None, &bad, &good);
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(condition(&status, kind).status, "True", "{kind}");
    }
    let ready = condition(&status, "Ready");
    assert_eq!(ready.status, "False");
    assert_eq!(ready.last_transition_time.as_ref().unwrap().0, bad.at);
    assert_eq!(condition(&status, "NetworkUnavailable").status, "False");
    assert!(differs(&good, &status));
}

#[test]
fn time_alone_is_no_difference() {
    let config = config();
    let first = plan_status(&config, None, &seen(), &NodeStatus::default());
    let later = Observation {
        at: Timestamp::now(),
        ..seen()
    };
    let second = plan_status(&config, None, &later, &first);
    assert_ne!(first, second);
    assert!(!differs(&first, &second));
    let ready = condition(&second, "Ready");
    assert_eq!(ready.last_transition_time.as_ref().unwrap().0, seen().at);
}
