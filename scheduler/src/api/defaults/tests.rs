use proptest::{prelude::Strategy, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::{begin_status, set_defaults};
use crate::api::kind::{KINDS, Kind, by_plural};

fn filled(group: &str, plural: &str, mut object: Value) -> Value {
    set_defaults(by_plural(group, plural).unwrap(), &mut object);
    object
}

#[test]
fn a_pod_says_everything() {
    let pod = filled(
        "",
        "pods",
        json!({"metadata": {"name": "a", "creationTimestamp": null}, "colour": 1, "spec": {
            "hostNetwork": true,
            "containers": [{"name": "c", "image": "web", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 2, "memory": "1024Mi"}, "requests": {"cpu": "1000m"}},
                "readinessProbe": {"httpGet": {"port": 80}},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}],
            "volumes": [{"name": "v"}, {"name": "w", "configMap": {"name": "m"}}]}}),
    );
    let spec = &pod["spec"];
    let expected = [
        ("/restartPolicy", json!("Always")),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/schedulerName", json!("default-scheduler")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/serviceAccountName", json!("default")),
        ("/containers/0/imagePullPolicy", json!("Always")),
        ("/containers/0/ports/0/hostPort", json!(80)),
        ("/containers/0/ports/0/protocol", json!("TCP")),
        (
            "/containers/0/resources/requests",
            json!({"cpu": "1", "memory": "1Gi"}),
        ),
        ("/containers/0/readinessProbe/failureThreshold", json!(3)),
        ("/containers/0/readinessProbe/httpGet/path", json!("/")),
        (
            "/containers/0/env/0/valueFrom/fieldRef/apiVersion",
            json!("v1"),
        ),
        ("/volumes/0/emptyDir", json!({})),
        ("/volumes/1/configMap/defaultMode", json!(420)),
        ("/tolerations/1/tolerationSeconds", json!(5)),
    ];
    for (path, value) in expected {
        assert_eq!(spec.pointer(path), Some(&value), "{path}");
    }
    assert_eq!(pod["metadata"], json!({"name": "a"}));
    assert!(pod.get("colour").is_none());
}

#[test]
fn the_pull_policy_follows_the_tag() {
    for (image, policy) in [
        ("web", "Always"),
        ("web:latest", "Always"),
        ("web:1", "IfNotPresent"),
        ("host:5000/web", "Always"),
        ("host:5000/web:1", "IfNotPresent"),
        ("web@sha256:0", "IfNotPresent"),
    ] {
        let pod = filled(
            "",
            "pods",
            json!({"spec": {"containers": [{"image": image}]}}),
        );
        assert_eq!(
            pod["spec"]["containers"][0]["imagePullPolicy"], policy,
            "{image}"
        );
    }
}

#[test]
fn tolerations_of_sick_nodes_are_added_unless_named() {
    let pod = |tolerations| filled("", "pods", json!({"spec": {"tolerations": tolerations}}));
    let count = |pod: Value| pod["spec"]["tolerations"].as_array().unwrap().len();
    assert_eq!(count(pod(json!([{"operator": "Exists"}]))), 1);
    assert_eq!(
        count(pod(
            json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}])
        )),
        2
    );
    assert_eq!(
        count(pod(json!([{"operator": "Exists", "effect": "NoSchedule"}]))),
        3
    );
}

#[test]
fn workloads_and_services_say_everything() {
    let deployment = filled(
        "apps",
        "deployments",
        json!({"spec": {"strategy": {}, "template": {"spec": {"containers": []}}}}),
    );
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(
        deployment["spec"]["template"]["spec"]["restartPolicy"],
        "Always"
    );
    assert!(
        deployment["spec"]["template"]["spec"]
            .get("tolerations")
            .is_none()
    );

    let job = filled(
        "batch",
        "jobs",
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {}}}}),
    );
    assert_eq!(
        job["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        "u"
    );
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"]["job-name"],
        "j"
    );
    assert_eq!(
        (&job["spec"]["completions"], &job["spec"]["backoffLimit"]),
        (&json!(1), &json!(6))
    );
    // Nothing is made of what must be there: the client hears that it is missing.
    let bare = filled("batch", "jobs", json!({"metadata": {"uid": "u"}}));
    assert!(bare["spec"].get("template").is_none() && bare["spec"].get("selector").is_none());
    let parallel = filled("batch", "jobs", json!({"spec": {"parallelism": 3}}));
    assert!(parallel["spec"].get("completions").is_none());

    let service = filled(
        "",
        "services",
        json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}}),
    );
    assert_eq!(
        service["spec"]["ports"][0],
        json!({"port": 80, "protocol": "TCP", "targetPort": 80})
    );
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Cluster");

    let secret = filled("", "secrets", json!({"stringData": {"a": "b"}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Yg=="}}));
    let namespace = filled("", "namespaces", json!({"metadata": {"name": "n"}}));
    assert_eq!(
        namespace["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "n"
    );
}

#[test]
fn a_new_pod_is_pending_and_has_a_class() {
    let pods = by_plural("", "pods").unwrap();
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}),
            "Guaranteed",
        ),
    ] {
        let mut pod = json!({"spec": {"containers": [{"resources": resources}]}, "status": {"phase": "Running"}});
        set_defaults(pods, &mut pod);
        begin_status(pods, &mut pod);
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": class})
        );
    }
}

/// Any JSON, with the names of real fields often.
pub(in crate::api) fn any_object() -> impl Strategy<Value = Value> {
    let leaf = proptest::prop_oneof![
        proptest::strategy::Just(Value::Null),
        proptest::bool::ANY.prop_map(Value::from),
        proptest::num::i32::ANY.prop_map(Value::from),
        "[a-z0-9:/.-]{0,6}".prop_map(Value::from),
    ];
    let name = proptest::sample::select(vec![
        "metadata",
        "spec",
        "status",
        "template",
        "containers",
        "name",
        "image",
        "ports",
        "volumes",
        "resources",
        "limits",
        "requests",
        "cpu",
        "labels",
        "selector",
        "matchLabels",
        "type",
        "containerPort",
        "protocol",
        "data",
        "stringData",
        "jobTemplate",
        "lifecycle",
        "preStop",
        "httpGet",
        "env",
        "valueFrom",
        "strategy",
        "rollingUpdate",
        "tolerations",
        "volumeMounts",
        "initContainers",
        "readinessProbe",
        "conditions",
        "finalizers",
        "$patch",
        "endpoints",
        "addresses",
        "schedule",
        "x",
        "clusterIP",
        "port",
        "replicas",
        "ownerReferences",
        "uid",
        "$setElementOrder/containers",
        "$retainKeys",
        "$deleteFromPrimitiveList/finalizers",
        "managedFields",
        "fieldsV1",
        "manager",
        "containerStatuses",
        "state",
        "taints",
    ]);
    leaf.prop_recursive(7, 80, 6, move |inner| {
        proptest::prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::btree_map(name.clone(), inner, 0..7).prop_map(|map| {
                Value::Object(map.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

pub(in crate::api) fn any_kind() -> impl Strategy<Value = &'static Kind> {
    (0..KINDS.len()).prop_map(|index| &KINDS[index])
}

proptest! {
    #[test]
    fn filling_in_twice_is_filling_in_once(kind in any_kind(), object in any_object()) {
        let mut once = object;
        set_defaults(kind, &mut once);
        let mut twice = once.clone();
        set_defaults(kind, &mut twice);
        prop_assert_eq!(once, twice);
    }
}
