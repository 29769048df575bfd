//! What plugins are told.

use std::collections::BTreeMap;

use super::*;
use crate::cni::bandwidth::Bandwidth;
use crate::cni::config::read_list;
use crate::cni::request::Dns;
use crate::request::{AttachRequest, HostPort, Protocol};

fn network() -> NetworkList {
    let text = br#"{"cniVersion":"1.1.0","name":"pods","plugins":[
        {"type":"bridge","bridge":"cni0","ipam":{"type":"host-local"},
         "capabilities":{"ips":true,"mac":true,"ipRanges":true}},
        {"type":"portmap","capabilities":{"portMappings":true,"unknown":true}},
        {"type":"tuning"}]}"#;
    read_list(text, Path::new("10.conflist")).unwrap().network
}

fn request() -> CniRequest {
    CniRequest {
        attach: AttachRequest {
            pod_id: "pod1".to_owned(),
            netns: "/run/ns".into(),
            interface: "eth0".to_owned(),
            host_ports: vec![
                HostPort {
                    protocol: Protocol::Tcp,
                    host_address: None,
                    host_port: 8080,
                    container_port: 80,
                },
                HostPort {
                    protocol: Protocol::Udp,
                    host_address: Some("127.0.0.1".parse().unwrap()),
                    host_port: 53,
                    container_port: 5353,
                },
            ],
            addresses: vec!["10.1.0.9".parse().unwrap()],
        },
        arguments: vec![
            ("IgnoreUnknown".to_owned(), "1".to_owned()),
            ("K8S_POD_NAME".to_owned(), "web".to_owned()),
        ],
        bandwidth: Some(Bandwidth::default()),
        dns: Some(Dns::default()),
        mac: Some("02:00:00:00:00:01".to_owned()),
        ip_ranges: vec!["10.1.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        cgroup_path: Some("/pods/pod1".to_owned()),
        annotations: BTreeMap::new(),
    }
}

fn planned(command: Command, plugin: usize, previous: Option<&Value>) -> (PluginCall, Value) {
    let (network, request) = (network(), request());
    let bin_dirs = ["/opt/cni/bin".into(), "/usr/lib/cni".into()];
    let attaching = Attaching {
        network: &network,
        request: &request,
        bin_dirs: &bin_dirs,
        netns: Some(&request.attach.netns),
    };
    let call = attaching
        .plan(command, &network.plugins[plugin], previous)
        .unwrap();
    let input = serde_json::from_slice(&call.input).unwrap();
    (call, input)
}

#[test]
fn an_add_has_its_environment_and_only_what_the_plugin_asked_for() {
    let (call, input) = planned(Command::Add, 0, None);
    assert_eq!(
        call.environment,
        [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "pod1"),
            ("CNI_NETNS", "/run/ns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ]
        .map(|(name, value)| (name, value.to_owned()))
    );
    assert_eq!(
        input,
        json!({
            "cniVersion": "1.1.0", "name": "pods", "type": "bridge", "bridge": "cni0",
            "ipam": {"type": "host-local"},
            "runtimeConfig": {
                "ips": ["10.1.0.9"],
                "mac": "02:00:00:00:00:01",
                "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
            },
        })
    );
}

#[test]
fn ports_and_the_result_before_go_to_the_plugin_that_maps_ports() {
    let previous = json!({"cniVersion": "1.1.0", "ips": []});
    let (_, input) = planned(Command::Add, 1, Some(&previous));
    assert_eq!(input["prevResult"], previous);
    assert_eq!(
        input["runtimeConfig"],
        json!({"portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1"},
        ]})
    );
    let (_, input) = planned(Command::Add, 2, None);
    assert_eq!(input.get("runtimeConfig"), None);
}

#[test]
fn a_del_without_a_namespace_says_so() {
    let (network, request) = (network(), request());
    let attaching = Attaching {
        network: &network,
        request: &request,
        bin_dirs: &[],
        netns: None,
    };
    let call = attaching
        .plan(Command::Del, &network.plugins[0], None)
        .unwrap();
    assert!(call.environment.contains(&("CNI_NETNS", String::new())));
}

#[test]
fn gc_names_every_pod_that_counts() {
    let network = network();
    let valid = [ValidAttachment {
        pod_id: "pod1".to_owned(),
        interface: "eth0".to_owned(),
    }];
    let call = plan_gc(&network, &network.plugins[0], &valid, &["/opt".into()]).unwrap();
    let input: Value = serde_json::from_slice(&call.input).unwrap();
    let told = json!([{"containerID": "pod1", "ifname": "eth0"}]);
    assert_eq!(input["cni.dev/valid-attachments"], told);
    assert_eq!(input["cni.dev/attachments"], told);
    assert!(call.environment.contains(&("CNI_COMMAND", "GC".to_owned())));
}

#[test]
fn a_directory_that_would_be_two_is_refused() {
    let network = network();
    let error = plan_status(&network, &network.plugins[0], &["/a:b".into()]).unwrap_err();
    assert!(error.to_string().contains("/a:b"), "{error}");
}

#[test]
fn names_that_would_add_arguments_are_refused() {
    for (name, fits) in [
        ("web", true),
        ("a;b", false),
        ("a=b", false),
        ("a\nb", false),
    ] {
        let mut asked = request();
        asked.arguments[1].1 = name.to_owned();
        assert_eq!(asked.validate().is_ok(), fits, "{name:?}");
    }
    let mut asked = request();
    asked.mac = Some("02:00:00".to_owned());
    assert!(
        asked
            .validate()
            .unwrap_err()
            .to_string()
            .contains("mac: \"02:00:00\"")
    );
}

#[test]
fn what_no_plugin_will_do_is_said() {
    let mut network = network();
    assert_eq!(request().notes(&network).len(), 1, "bandwidth");
    network.plugins.truncate(1);
    let notes = request().notes(&network);
    assert!(
        notes[0].contains("portMappings: host ports are not open"),
        "{notes:?}"
    );
}
