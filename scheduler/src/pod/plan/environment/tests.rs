//! Environments as a table: what is set, what is missing, what is expanded.

use super::{Environment, plan_environment};
use crate::{
    manifest::read_manifests,
    pod::{objects::PodObjects, plan::facts::PodFacts, settings::NodeFacts},
};
use proptest::{prop_assert_eq, proptest};

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {COLOUR: blue, SIZE: '$(COLOUR)'}
---
apiVersion: v1
kind: Secret
metadata: {name: login}
stringData: {password: 's3cret$(COLOUR)'}
";

/// The environment of the first container of a pod with these fields.
fn environment(fields: &str) -> Result<Vec<(String, String)>, String> {
    let pod = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web, uid: u-1, labels: {{app: shop}}, annotations: {{note: 'a \"b\"'}}}}
spec:
  containers:
  - name: main
    image: nginx:1
    {fields}
---
{OBJECTS}"
    );
    let manifests = read_manifests(&pod, "test").unwrap();
    let node = NodeFacts {
        name: "node-1".to_owned(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        cpu_millis: 4000,
        memory_bytes: 8 << 30,
    };
    let addresses = ["10.88.0.2".parse().unwrap()];
    let objects = PodObjects::of(&manifests);
    let facts = PodFacts {
        pod: &manifests.pods[0],
        objects: &objects,
        node: &node,
        addresses: &addresses,
    };
    let container = &manifests.pods[0].spec.as_ref().unwrap().containers[0];
    plan_environment(&facts, container)
        .map(|environment| {
            environment
                .variables
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8(value).unwrap()))
                .collect()
        })
        .map_err(|error| error.to_string())
}

#[test]
fn values_are_expanded_with_what_stands_above() {
    let set = environment(
        "env: [{name: A, value: one}, {name: B, value: '$(A)-$(C)-$$(A)-$'}, {name: C, value: '$(B)'}, {name: A, value: two}]",
    );
    let expected = [
        ("A", "two"),
        ("B", "one-$(C)-$(A)-$"),
        ("C", "one-$(C)-$(A)-$"),
    ];
    assert_eq!(
        set.unwrap(),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn data_of_objects_is_not_expanded_and_env_wins() {
    let set = environment(
        "envFrom: [{prefix: APP_, configMapRef: {name: settings}}, {configMapRef: {name: none, optional: true}}]
    env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}, {name: APP_COLOUR, value: 'very $(APP_COLOUR)'}, {name: GONE, valueFrom: {configMapKeyRef: {name: settings, key: none, optional: true}}}]",
    );
    let expected = [
        ("APP_COLOUR", "very blue"),
        ("APP_SIZE", "$(COLOUR)"),
        ("PASSWORD", "s3cret$(COLOUR)"),
    ];
    assert_eq!(
        set.unwrap(),
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn what_is_missing_is_named() {
    let table = [
        (
            "envFrom: [{configMapRef: {name: none}}]",
            "configmap \"none\" not found",
        ),
        (
            "envFrom: [{secretRef: {name: none}}]",
            "secret \"none\" not found",
        ),
        (
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: none}}}]",
            "env A: couldn't find key none in configmap settings",
        ),
        (
            "env: [{name: A, valueFrom: {secretKeyRef: {name: none, key: k}}}]",
            "env A: secret \"none\" not found",
        ),
    ];
    for (fields, message) in table {
        assert_eq!(environment(fields).unwrap_err(), message, "{fields}");
    }
}

#[test]
fn a_pod_is_told_about_itself() {
    let fields = [
        ("metadata.name", "web"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['app']", "shop"),
        ("metadata.annotations['note']", "a \"b\""),
        ("spec.nodeName", "node-1"),
        ("spec.serviceAccountName", "default"),
        ("status.hostIP", "10.0.0.1"),
        ("status.hostIPs", "10.0.0.1,fd00::1"),
        ("status.podIP", "10.88.0.2"),
        ("status.podIPs", "10.88.0.2"),
    ];
    for (path, value) in fields {
        let set = environment(&format!(
            "env: [{{name: V, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]"
        ));
        assert_eq!(set.unwrap()[0].1, value, "{path}");
    }
}

#[test]
fn resources_come_in_units_of_the_divisor_rounded_up() {
    let table = [
        ("limits.cpu, divisor: 1m", "500"),
        ("limits.cpu", "1"),
        ("limits.memory, divisor: 1Mi", "64"),
        ("limits.memory", "67108864"),
        ("requests.memory", "67108864"),
        ("requests.ephemeral-storage", "0"),
    ];
    for (resource, value) in table {
        let set = environment(&format!(
            "resources: {{limits: {{cpu: 500m, memory: 64Mi}}}}
    env: [{{name: V, valueFrom: {{resourceFieldRef: {{resource: {resource}}}}}}}]"
        ));
        assert_eq!(set.unwrap()[0].1, value, "{resource}");
    }
    let whole_node = environment(
        "env: [{name: V, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}, {name: W, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Gi}}}]",
    )
    .unwrap();
    assert_eq!(
        (whole_node[0].1.as_str(), whole_node[1].1.as_str()),
        ("4", "8")
    );
}

proptest! {
    #[test]
    fn text_without_dollars_is_unchanged(text in "[^$]*") {
        prop_assert_eq!(Environment::default().expand_text(&text), text);
    }

    #[test]
    fn doubled_dollars_are_single_ones(text in "[a-z()$ ]*") {
        let doubled = text.replace('$', "$$");
        prop_assert_eq!(Environment::default().expand_text(&doubled), text);
    }
}
