use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::{Action, Facts, SLICE_LIMIT, plan};

fn service(spec: Value) -> Service {
    let meta = json!({"name": "web", "namespace": "shop", "uid": "s", "labels": {"team": "a"}});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn pod(number: usize, change: &Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("web-{number}"), "namespace": "shop",
            "uid": format!("u{number:04}"), "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c",
            "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running",
            "podIP": format!("10.0.{}.{}", number / 250, number % 250),
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    json_patch::merge(&mut pod, change);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn actions(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let zone = |node: &str| (node == "n1").then(|| "east".to_owned());
    plan(
        &Facts {
            service,
            pods,
            zone: &zone,
        },
        slices,
    )
}

/// The slices after the actions.
fn settle(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
) -> Vec<Arc<EndpointSlice>> {
    let mut after = slices.to_vec();
    for action in actions(service, pods, slices) {
        match action {
            Action::Create(slice) => {
                let mut slice = *slice;
                slice.metadata.name = Some(format!("made-{}-{}", after.len(), slice.address_type));
                after.push(Arc::new(slice));
            }
            Action::Update { old, new } => {
                let at = after.iter().position(|slice| *slice == old).unwrap();
                after[at] = Arc::new(*new);
            }
            Action::Delete(old) => after.retain(|slice| *slice != old),
        }
    }
    assert_eq!(
        actions(service, pods, &after),
        [],
        "a second look finds nothing to do"
    );
    after
}

fn plain() -> Service {
    service(
        json!({"selector": {"app": "web"}, "clusterIP": "10.211.0.9",
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}),
    )
}

fn conditions(slice: &EndpointSlice, at: usize) -> [Option<bool>; 3] {
    let conditions = slice.endpoints.as_ref().unwrap()[at]
        .conditions
        .as_ref()
        .unwrap();
    [conditions.ready, conditions.serving, conditions.terminating]
}

#[test]
fn an_endpoint_says_where_it_is_and_what_it_may_be_used_for() {
    let terminating = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let pods = [pod(0, &json!({})), pod(1, &unready), pod(2, &terminating)];
    let slices = settle(&plain(), &pods, &[]);
    let slice = &slices[0];
    assert_eq!(slices.len(), 1);
    assert_eq!(slice.address_type, "IPv4");
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["kubernetes.io/service-name"], "web");
    assert_eq!(labels["team"], "a");
    let owner = &slice.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.uid.as_str(), owner.controller), ("s", Some(true)));
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.port),
        (Some("http"), Some(8080))
    );
    assert_eq!(conditions(slice, 0), [Some(true), Some(true), Some(false)]);
    assert_eq!(
        conditions(slice, 1),
        [Some(false), Some(false), Some(false)]
    );
    assert_eq!(conditions(slice, 2), [Some(false), Some(true), Some(true)]);
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0].node_name.as_deref(),
        Some("n1")
    );
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0].zone.as_deref(),
        Some("east")
    );
    assert_eq!(
        slice.endpoints.as_ref().unwrap()[0]
            .target_ref
            .as_ref()
            .unwrap()
            .name
            .as_deref(),
        Some("web-0")
    );
}

#[test]
fn pods_that_ended_or_have_no_address_or_other_labels_are_no_endpoints() {
    let pods = [
        pod(0, &json!({"status": {"phase": "Succeeded"}})),
        pod(1, &json!({"status": {"podIP": null}})),
        pod(2, &json!({"metadata": {"labels": {"app": "db"}}})),
    ];
    assert_eq!(actions(&plain(), &pods, &[]), []);
}

#[test]
fn not_ready_addresses_are_published_where_asked() {
    let mut service = plain();
    service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let unready = json!({"status": {"conditions": []}});
    let slices = settle(&service, &[pod(0, &unready)], &[]);
    assert_eq!(
        conditions(&slices[0], 0),
        [Some(true), Some(false), Some(false)]
    );
}

#[test]
fn a_named_port_with_two_numbers_makes_two_slices() {
    let other = json!({"spec": {"containers": [{"name": "c",
        "ports": [{"name": "http", "containerPort": 9090}]}]}});
    let none = json!({"spec": {"containers": [{"name": "c"}]}});
    let slices = settle(
        &plain(),
        &[pod(0, &json!({})), pod(1, &other), pod(2, &none)],
        &[],
    );
    let ports: Vec<_> = slices
        .iter()
        .map(|slice| slice.ports.as_ref().unwrap()[0].port)
        .collect();
    assert_eq!(ports, [Some(8080), Some(9090)]);
    assert!(
        slices
            .iter()
            .all(|slice| slice.endpoints.as_ref().unwrap().len() == 1)
    );
}

#[test]
fn a_headless_service_needs_no_ports_and_names_its_pods() {
    let service = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
    let named = json!({"spec": {"hostname": "db-0", "subdomain": "web"}});
    let elsewhere = json!({"spec": {"hostname": "db-0", "subdomain": "other"}});
    let slices = settle(&service, &[pod(0, &named), pod(1, &elsewhere)], &[]);
    assert_eq!(slices[0].ports.as_deref(), Some(&[][..]));
    assert_eq!(
        slices[0].endpoints.as_ref().unwrap()[0].hostname.as_deref(),
        Some("db-0")
    );
    assert_eq!(slices[0].endpoints.as_ref().unwrap()[1].hostname, None);
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    assert!(labels.contains_key("service.kubernetes.io/headless"));
}

#[test]
fn two_families_make_two_kinds_of_slices() {
    let mut service = plain();
    service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into(), "IPv6".into()]);
    let both = json!({"status": {"podIPs": [{"ip": "10.0.0.0"}, {"ip": "fd00::1"}]}});
    let slices = settle(&service, &[pod(0, &both), pod(1, &json!({}))], &[]);
    let found: Vec<_> = slices
        .iter()
        .map(|slice| {
            (
                slice.address_type.as_str(),
                slice.endpoints.as_ref().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(found, [("IPv4", 2), ("IPv6", 1)]);
    assert_eq!(
        slices[1].endpoints.as_ref().unwrap()[0].addresses,
        ["fd00::1"]
    );
}

#[test]
fn a_slice_holds_a_hundred_and_changes_only_if_it_must() {
    let mut pods: Vec<_> = (0..250).map(|number| pod(number, &json!({}))).collect();
    let slices = settle(&plain(), &pods, &[]);
    let sizes: Vec<_> = slices
        .iter()
        .map(|slice| slice.endpoints.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [SLICE_LIMIT, SLICE_LIMIT, 50]);
    // One goes from the first slice, one comes: one slice changes.
    pods.remove(7);
    pods.push(pod(300, &json!({})));
    let changed = actions(&plain(), &pods, &slices);
    assert!(
        matches!(&changed[..], [Action::Update { old, .. }] if *old == slices[0]),
        "{changed:?}"
    );
    let slices = settle(&plain(), &pods, &slices);
    // All of the second slice go: it goes too, and no other changes.
    let gone: Vec<_> = slices[1]
        .endpoints
        .as_ref()
        .unwrap()
        .iter()
        .map(|e| e.target_ref.clone().unwrap().uid)
        .collect();
    pods.retain(|pod| !gone.contains(&pod.metadata.uid));
    assert_eq!(
        actions(&plain(), &pods, &slices),
        [Action::Delete(Arc::clone(&slices[1]))]
    );
}

#[test]
fn who_has_no_selector_keeps_the_slices_made_by_hand() {
    let slices = settle(&plain(), &[pod(0, &json!({}))], &[]);
    let without = service(json!({"clusterIP": "10.211.0.9", "ports": [{"port": 80}]}));
    assert_eq!(actions(&without, &[pod(0, &json!({}))], &slices), []);
    let external = service(
        json!({"type": "ExternalName", "externalName": "example.org",
        "selector": {"app": "web"}}),
    );
    assert_eq!(
        actions(&external, &[pod(0, &json!({}))], &slices),
        [Action::Delete(slices[0].clone())]
    );
}

#[test]
fn a_changed_port_or_label_reaches_every_slice() {
    let pods = [pod(0, &json!({}))];
    let slices = settle(&plain(), &pods, &[]);
    let mut service = plain();
    service
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .insert("team".into(), "b".into());
    let after = settle(&service, &pods, &slices);
    assert_eq!(after[0].metadata.labels.as_ref().unwrap()["team"], "b");
    assert_eq!(after[0].metadata.name, slices[0].metadata.name);
    service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].name = Some("other".into());
    let after = settle(&service, &pods, &after);
    assert_eq!(after.len(), 1);
    assert_eq!(
        after[0].ports.as_ref().unwrap()[0].name.as_deref(),
        Some("other")
    );
}
