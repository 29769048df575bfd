//! What plugins are told of a pod.

use std::net::IpAddr;

use super::*;
use crate::engine::records::{Encoded, PodPhase};

fn record(config: v1::PodSandboxConfig) -> PodRecord {
    PodRecord {
        format: PodRecord::format(),
        id: "a1".to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        phase: PodPhase::HalfMade,
        maker_pid: 1,
        created_at: 7,
        config: Encoded(config),
        runtime_handler: String::new(),
        oci_state: None,
        oci_arguments: Vec::new(),
        oci_runtime: "/bin/berth-oci".into(),
        cgroup: "/berth/a1".to_owned(),
        network_by: NetworkBy::Cni,
        network: None,
        end_failed_at: None,
    }
}

fn attach() -> AttachRequest {
    AttachRequest {
        pod_id: "a1".to_owned(),
        netns: "/run/ns".into(),
        interface: POD_INTERFACE.to_owned(),
        host_ports: Vec::new(),
        addresses: Vec::new(),
    }
}

fn config(annotations: &[(&str, &str)]) -> v1::PodSandboxConfig {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".to_owned(),
            uid: "u-1".to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        }),
        annotations: annotations.iter().map(own).collect(),
        ..Default::default()
    }
}

#[test]
fn a_pod_is_named_and_its_wishes_are_passed_on() {
    let mut asked = config(&[
        (ADDRESSES, "10.1.0.9, fd00::9"),
        (MAC, "02:00:00:00:00:09"),
        ("kubernetes.io/ingress-bandwidth", "10M"),
    ]);
    asked.dns_config = Some(v1::DnsConfig {
        servers: vec!["10.1.0.53".to_owned()],
        ..Default::default()
    });
    let request = plan_cni_request(&record(asked), attach()).unwrap();
    request.validate().unwrap();
    let argument = |name: &str| {
        let mut arguments = request.arguments.iter();
        arguments
            .find(|one| one.0 == name)
            .map(|one| one.1.as_str())
    };
    assert_eq!(argument("IgnoreUnknown"), Some("1"));
    assert_eq!(argument("K8S_POD_NAMESPACE"), Some("shop"));
    assert_eq!(argument("K8S_POD_NAME"), Some("web"));
    assert_eq!(argument("K8S_POD_INFRA_CONTAINER_ID"), Some("a1"));
    assert_eq!(argument("K8S_POD_UID"), Some("u-1"));
    let wished: [IpAddr; 2] = ["10.1.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
    assert_eq!(request.attach.addresses, wished);
    assert_eq!(request.bandwidth.unwrap().ingress_rate, 10_000_000);
    assert_eq!(request.dns.unwrap().servers, ["10.1.0.53"]);
    assert_eq!(request.cgroup_path.as_deref(), Some("/berth/a1"));
}

#[test]
fn wrong_wishes_are_refused_by_name() {
    let refused = |annotations: &[(&str, &str)]| {
        let planned = plan_cni_request(&record(config(annotations)), attach());
        planned.unwrap_err().chain()
    };
    assert!(refused(&[(ADDRESSES, "10.1")]).contains("berth/cni-ips]: \"10.1\""));
    assert!(refused(&[("kubernetes.io/egress-bandwidth", "x")]).contains("egress-bandwidth"));
}

#[test]
fn a_record_from_before_plugins_is_netds() {
    let mut text = serde_json::to_value(record(config(&[]))).unwrap();
    assert_eq!(text["network_by"], "cni");
    text.as_object_mut().unwrap().remove("network_by");
    let read: PodRecord = serde_json::from_value(text).unwrap();
    assert_eq!(read.network_by, NetworkBy::Netd);
}
