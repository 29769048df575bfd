use proptest::{prop_assert, proptest};
use serde_json::{Value, json};

use super::{create, not_honoured, unknown_fields, update};
use crate::api::{
    allocate,
    defaults::{
        set_defaults,
        tests::{any_kind, any_object},
    },
    kind::{Kind, by_plural},
};

/// Names the object, fills it in, and lays a change over it.
fn made(kind: &Kind, mut object: Value, change: &Value) -> Value {
    lay(&mut object, change);
    if object["metadata"]["name"].is_null() {
        object["metadata"]["name"] = json!("a");
    }
    if kind.namespaced() {
        object["metadata"]["namespace"] = json!("n");
    }
    object["metadata"]["uid"] = json!("u");
    set_defaults(kind, &mut object);
    if kind.kind == "Service" {
        let _ = allocate::service::complete(
            &allocate::Pool::default(),
            &allocate::Used::default(),
            &mut object,
            None,
            1,
        );
    }
    object
}

/// Lays a change over an object; lists by index.
fn lay(object: &mut Value, change: &Value) {
    match (object, change) {
        (Value::Object(fields), Value::Object(changes)) => {
            for (name, value) in changes {
                lay(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(items), Value::Array(changes)) => {
            for (index, value) in changes.iter().enumerate() {
                match items.get_mut(index) {
                    Some(item) => lay(item, value),
                    None => items.push(value.clone()),
                }
            }
        }
        (object, change) => *object = change.clone(),
    }
}

/// A valid object of a kind, and changes that each break one rule.
fn check_table(group: &str, plural: &str, valid: &Value, table: &[(Value, &str)]) {
    let kind = by_plural(group, plural).unwrap();
    let errors = create(kind, &made(kind, valid.clone(), &json!({})));
    assert_eq!(errors, [], "{plural}");
    for (change, expected) in table {
        let errors = create(kind, &made(kind, valid.clone(), change));
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            errors.iter().any(|error| error.starts_with(expected)),
            "{plural} {change}: expected {expected}, found {errors:#?}"
        );
    }
}

fn pod() -> Value {
    json!({"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}], "volumes": [{"name": "v"}]}})
}

#[test]
fn each_rule_of_a_pod_is_told_by_its_field() {
    let container = |change: Value| json!({"spec": {"containers": [change]}});
    check_table(
        "",
        "pods",
        &pod(),
        &[
            (
                json!({"metadata": {"name": "A_b"}}),
                "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must",
            ),
            (
                json!({"metadata": {"labels": {"a b": "x"}}}),
                "metadata.labels: Invalid value: \"a b\": name part must consist of",
            ),
            (
                json!({"metadata": {"labels": {"a": "-"}}}),
                "metadata.labels: Invalid value: \"-\": a valid label must be",
            ),
            (
                json!({"spec": {"containers": null}}),
                "spec.containers: Required value",
            ),
            (
                json!({"spec": {"containers": "x"}}),
                "spec.containers: Invalid value: \"x\": must be a list",
            ),
            (
                container(json!({"name": ""})),
                "spec.containers[0].name: Required value",
            ),
            (
                container(json!({"image": null})),
                "spec.containers[0].image: Required value",
            ),
            (
                json!({"spec": {"containers": [{}, {"name": "c", "image": "j"}]}}),
                "spec.containers[1].name: Duplicate value: \"c\"",
            ),
            (
                container(json!({"ports": [{"containerPort": 70000}]})),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                container(
                    json!({"ports": [{"name": "x", "containerPort": 1}, {"name": "x", "containerPort": 2}]}),
                ),
                "spec.containers[0].ports[1].name: Duplicate value",
            ),
            (
                json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80, "hostPort": 81}]}]}}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 80: must match `hostPort`",
            ),
            (
                container(json!({"volumeMounts": [{"name": "w"}]})),
                "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            ),
            (
                container(json!({"volumeMounts": [{}, {"name": "v", "mountPath": "/v"}]})),
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
            ),
            (
                container(json!({"volumeMounts": [{"subPath": "../x"}]})),
                "spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..'",
            ),
            (
                container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                container(json!({"resources": {"limits": {"memory": "lots"}}})),
                "spec.containers[0].resources.limits[memory]: Invalid value: \"lots\": must be a quantity",
            ),
            (
                container(json!({"resources": {"limits": {"speed": "1"}}})),
                "spec.containers[0].resources.limits[speed]: Invalid value: \"speed\": must be a standard resource type",
            ),
            (
                container(
                    json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
                ),
                "spec.containers[0].resizePolicy[0].resourceName: Unsupported value: \"disk\"",
            ),
            (
                container(
                    json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}),
                ),
                "spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\"",
            ),
            (
                json!({"spec": {"restartPolicy": "Never", "containers": [
                    {"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]}}),
                "spec.containers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must be 'NotRequired'",
            ),
            (
                container(json!({"readinessProbe": {}})),
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
            ),
            (
                container(
                    json!({"livenessProbe": {"tcpSocket": {"port": 1}, "exec": {"command": ["x"]}}}),
                ),
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1",
            ),
            (
                container(
                    json!({"livenessProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}}),
                ),
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                container(
                    json!({"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}),
                ),
                "spec.containers[0].env[0].valueFrom: Invalid value",
            ),
            (
                container(json!({"imagePullPolicy": "Sometimes"})),
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\"",
            ),
            (
                container(
                    json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
                ),
                "spec.containers[0].securityContext.allowPrivilegeEscalation: Invalid value: false",
            ),
            (
                json!({"spec": {"initContainers": [{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}}),
                "spec.initContainers[0].readinessProbe: Forbidden",
            ),
            (
                json!({"spec": {"volumes": [{"emptyDir": {}, "hostPath": {"path": "/"}}]}}),
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
            ),
            (
                json!({"spec": {"volumes": [{}, {"name": "v", "emptyDir": {}}]}}),
                "spec.volumes[1].name: Duplicate value",
            ),
            (
                json!({"spec": {"restartPolicy": "Maybe"}}),
                "spec.restartPolicy: Unsupported value: \"Maybe\"",
            ),
            (
                json!({"spec": {"dnsPolicy": "None"}}),
                "spec.dnsConfig.nameservers: Required value",
            ),
            (
                json!({"spec": {"tolerations": [{"value": "x"}]}}),
                "spec.tolerations[0].operator: Invalid value",
            ),
            (
                json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}}}),
                "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value",
            ),
            (
                json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]}}),
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0",
            ),
        ],
    );
}

#[test]
fn each_rule_of_a_workload_is_told_by_its_field() {
    let template = json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let selected =
        json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
    let common = [
        (
            json!({"spec": {"selector": null}}),
            "spec.selector: Required value",
        ),
        (
            json!({"spec": {"selector": {"matchLabels": {"app": "b"}}}}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
        ),
        (
            json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"image": ""}]}}}}),
            "spec.template.spec.containers[0].image: Required value",
        ),
    ];
    for plural in ["deployments", "replicasets", "daemonsets"] {
        check_table("apps", plural, &selected, &common);
    }
    check_table(
        "apps",
        "deployments",
        &selected,
        &[
            (
                json!({"spec": {"replicas": -1}}),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": {}}}}),
                "spec.strategy.rollingUpdate: Forbidden",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                json!({"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": "x"}}}}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"x\": a valid percent string",
            ),
            (
                json!({"spec": {"minReadySeconds": 900}}),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
        ],
    );
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    check_table(
        "batch",
        "jobs",
        &job,
        &[
            (
                json!({"spec": {"template": {"spec": {"restartPolicy": null}}}}),
                "spec.template.spec.restartPolicy: Unsupported value: \"Always\": supported values: \"OnFailure\", \"Never\"",
            ),
            (
                json!({"spec": {"completionMode": "Indexed", "parallelism": 2}}),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
        ],
    );
    let cron = json!({"spec": {"schedule": "* * * * *", "jobTemplate": job}});
    check_table(
        "batch",
        "cronjobs",
        &cron,
        &[
            (
                json!({"spec": {"schedule": "every day"}}),
                "spec.schedule: Invalid value: \"every day\": expected exactly 5 fields, found 2",
            ),
            (
                json!({"spec": {"schedule": "TZ=UTC * * * * *"}}),
                "spec.schedule: Invalid value",
            ),
            (
                json!({"spec": {"timeZone": "Moon/Crater"}}),
                "spec.timeZone: Invalid value: \"Moon/Crater\": unknown time zone Moon/Crater",
            ),
            (
                json!({"metadata": {"name": "a".repeat(53)}}),
                "metadata.name: Invalid value",
            ),
        ],
    );
}

#[test]
fn each_rule_of_the_other_kinds_is_told_by_its_field() {
    check_table(
        "",
        "services",
        &json!({"spec": {"ports": [{"port": 80}]}}),
        &[
            (
                json!({"metadata": {"name": "1a"}}),
                "metadata.name: Invalid value: \"1a\": a DNS-1035 label must",
            ),
            (
                json!({"spec": {"ports": null}}),
                "spec.ports: Required value",
            ),
            (
                json!({"spec": {"ports": [{"port": 0}]}}),
                "spec.ports[0].port: Invalid value: 0",
            ),
            (
                json!({"spec": {"ports": [{}, {"port": 81}]}}),
                "spec.ports[0].name: Required value",
            ),
            (
                json!({"spec": {"ports": [{"name": "a"}, {"name": "b", "port": 80}]}}),
                "spec.ports[1]: Duplicate value",
            ),
            (
                json!({"spec": {"ports": [{"nodePort": 30000}]}}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"spec": {"type": "Magic"}}),
                "spec.type: Unsupported value: \"Magic\"",
            ),
            (
                json!({"spec": {"type": "ExternalName"}}),
                "spec.externalName: Required value",
            ),
            (
                json!({"spec": {"clusterIP": "10.1"}}),
                "spec.clusterIPs[0]: Invalid value: \"10.1\": must be a valid IP address",
            ),
            (
                json!({"spec": {"type": "NodePort", "clusterIP": "None"}}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"spec": {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100_000}}}}),
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value",
            ),
        ],
    );
    check_table(
        "discovery.k8s.io",
        "endpointslices",
        &json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
        &[
            (json!({"addressType": null}), "addressType: Required value"),
            (
                json!({"endpoints": [{"addresses": ["fd00::1"]}]}),
                "endpoints[0].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
            ),
        ],
    );
    check_table(
        "",
        "configmaps",
        &json!({"data": {"a": "b"}}),
        &[
            (
                json!({"data": {"a/b": ""}}),
                "data[a/b]: Invalid value: \"a/b\": a valid config key must",
            ),
            (
                json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}}),
                "Too long: may not be more than 1048576 bytes",
            ),
            (
                json!({"binaryData": {"a": "AAAA"}}),
                "binaryData[a]: Invalid value: \"a\": duplicate of key",
            ),
            (
                json!({"binaryData": {"c": "?"}}),
                "binaryData[c]: Invalid value: \"?\": must be base64",
            ),
        ],
    );
    check_table(
        "",
        "secrets",
        &json!({"data": {"a": "AAAA"}}),
        &[(
            json!({"type": "kubernetes.io/tls"}),
            "data[tls.crt]: Required value",
        )],
    );
    check_table(
        "",
        "namespaces",
        &json!({}),
        &[(
            json!({"metadata": {"name": "a.b"}}),
            "metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must",
        )],
    );
    check_table(
        "",
        "nodes",
        &json!({"spec": {"taints": [{"key": "a", "effect": "NoExecute"}]}}),
        &[(
            json!({"spec": {"taints": [{"effect": "Sometimes"}]}}),
            "spec.taints[0].effect: Unsupported value",
        )],
    );
    check_table(
        "coordination.k8s.io",
        "leases",
        &json!({"spec": {"leaseDurationSeconds": 1}}),
        &[(
            json!({"spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        )],
    );
    check_table(
        "scheduling.k8s.io",
        "priorityclasses",
        &json!({"value": 5}),
        &[(
            json!({"value": 2_000_000_000}),
            "value: Forbidden: maximum allowed value",
        )],
    );
    check_table(
        "policy",
        "poddisruptionbudgets",
        &json!({"spec": {"minAvailable": 1}}),
        &[(
            json!({"spec": {"maxUnavailable": 1}}),
            "spec: Invalid value",
        )],
    );
    check_table(
        "",
        "events",
        &json!({"involvedObject": {"namespace": "n"}}),
        &[(
            json!({"involvedObject": {"namespace": "m"}}),
            "involvedObject.namespace: Invalid value: \"m\": does not match",
        )],
    );
}

#[test]
fn an_update_may_not_change_what_others_rely_on() {
    let template = json!({"metadata": {"labels": {"app": "a", "x": "y"}}, "spec": {"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}});
    let selected =
        json!({"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template}});
    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let table = [
        (
            "apps",
            "deployments",
            selected.clone(),
            json!({"spec": {"selector": {"matchLabels": {"x": "y"}}}}),
            "spec.selector: Invalid value",
        ),
        (
            "apps",
            "deployments",
            selected,
            json!({"spec": {"replicas": 5}}),
            "",
        ),
        (
            "batch",
            "jobs",
            job.clone(),
            json!({"spec": {"completions": 9}}),
            "spec.completions: Invalid value: 9: field is immutable",
        ),
        (
            "batch",
            "jobs",
            job.clone(),
            json!({"spec": {"template": {"spec": {"containers": [{"image": "j"}]}}}}),
            "spec.template: Invalid value",
        ),
        (
            "batch",
            "jobs",
            job,
            json!({"spec": {"parallelism": 2}}),
            "",
        ),
        (
            "",
            "pods",
            pod(),
            json!({"spec": {"containers": [{"image": "j"}]}}),
            "",
        ),
        (
            "",
            "pods",
            pod(),
            json!({"spec": {"containers": [{"command": ["x"]}]}}),
            "spec: Forbidden: pod updates may not change fields other than",
        ),
        (
            "",
            "pods",
            pod(),
            json!({"spec": {"tolerations": [null, null, {"operator": "Exists", "key": "z"}]}}),
            "spec.tolerations",
        ),
        ("", "pods", pod(), json!({"spec": {"nodeName": "one"}}), ""),
        (
            "",
            "secrets",
            json!({}),
            json!({"type": "other"}),
            "type: Invalid value: \"other\": field is immutable",
        ),
        (
            "",
            "configmaps",
            json!({"immutable": true, "data": {"a": "b"}}),
            json!({"data": {"a": "c"}}),
            "data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 80}]}}),
            json!({"spec": {"clusterIP": "10.211.9.9"}}),
            "spec.clusterIPs[0]: Invalid value",
        ),
        (
            "",
            "nodes",
            json!({"spec": {"podCIDRs": ["10.0.0.0/24"]}}),
            json!({"spec": {"podCIDRs": ["10.0.1.0/24"]}}),
            "spec.podCIDRs: Forbidden",
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"value": 1}),
            json!({"value": 2}),
            "value: Forbidden: may not be changed in an update.",
        ),
        (
            "",
            "configmaps",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"metadata": {"finalizers": ["a/b"]}}),
            "metadata.finalizers: Forbidden: no new finalizers",
        ),
    ];
    for (group, plural, object, change, expected) in table {
        let kind = by_plural(group, plural).unwrap();
        let before = made(kind, object, &json!({}));
        let mut after = before.clone();
        lay(&mut after, &change);
        let errors: Vec<String> = update(kind, &after, &before)
            .iter()
            .map(ToString::to_string)
            .collect();
        match expected {
            "" => assert!(errors.is_empty(), "{plural} {change}: {errors:?}"),
            expected => assert!(
                errors.iter().any(|error| error.starts_with(expected)),
                "{plural} {change}: {errors:?}"
            ),
        }
    }
}

#[test]
fn fields_that_nothing_knows_or_does_are_named() {
    let pods = by_plural("", "pods").unwrap();
    let object = json!({"specc": {}, "metadata": {"labels": {"any": "x"}}, "spec": {"containers": [{"name": "c", "imagee": "i"}]}});
    assert_eq!(
        unknown_fields(pods, &object),
        ["spec.containers[0].imagee", "specc"]
    );

    let plain = made(pods, pod(), &json!({}));
    assert_eq!(not_honoured(pods, &plain), [""; 0]);
    let claims = made(
        pods,
        pod(),
        &json!({"spec": {"volumes": [{"emptyDir": null, "persistentVolumeClaim": {"claimName": "x"}}]}}),
    );
    let warnings = not_honoured(pods, &claims);
    assert!(
        warnings[0].starts_with("spec.volumes[0].persistentVolumeClaim: not carried out by berth"),
        "{warnings:?}"
    );

    let services = by_plural("", "services").unwrap();
    let balanced = json!({"spec": {"type": "LoadBalancer", "externalIPs": ["1.2.3.4"]}});
    assert_eq!(not_honoured(services, &balanced).len(), 2);
}

proptest! {
    #[test]
    fn no_object_panics(kind in any_kind(), object in any_object(), before in any_object()) {
        let mut filled = object.clone();
        if filled.is_object() {
            set_defaults(kind, &mut filled);
        }
        for object in [&object, &filled] {
            let _ = create(kind, object);
            let _ = update(kind, object, &before);
            let _ = not_honoured(kind, object);
            let _ = unknown_fields(kind, object);
        }
        prop_assert!(unknown_fields(kind, &filled).is_empty());
    }
}

#[test]
fn each_rule_of_a_runtime_class_is_told_by_its_field() {
    check_table(
        "node.k8s.io",
        "runtimeclasses",
        &json!({"handler": "runsc", "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}}),
        &[
            (json!({"handler": ""}), "handler: Invalid value"),
            (json!({"handler": "a/b"}), "handler: Invalid value"),
            (
                json!({"overhead": {"podFixed": {"speed": "1"}}}),
                "overhead.podFixed[speed]: Invalid value: \"speed\": must be a standard resource type",
            ),
            (
                json!({"overhead": {"podFixed": {"cpu": "-1"}}}),
                "overhead.podFixed[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
            ),
            (
                json!({"scheduling": {"nodeSelector": {"a": "b/"}}}),
                "scheduling.nodeSelector: Invalid value",
            ),
            (
                json!({"scheduling": {"tolerations": [{}, {"key": "k", "operator": "Exists"}]}}),
                "scheduling.tolerations[1]: Duplicate value",
            ),
        ],
    );
    let kind = by_plural("node.k8s.io", "runtimeclasses").unwrap();
    let of = |handler: &str| made(kind, json!({ "handler": handler }), &json!({}));
    let errors = update(kind, &of("runc"), &of("runsc"));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .to_string()
            .starts_with("handler: Invalid value: \"runc\": field is immutable")
    );
}

#[test]
fn a_resize_changes_processor_and_memory_and_nothing_else() {
    let kind = by_plural("", "pods").unwrap();
    let sized = |resources: Value| {
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}],
            "initContainers": [{"name": "once", "image": "i"},
                {"name": "side", "image": "i", "restartPolicy": "Always"}]}})
    };
    let whole = json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "2"}});
    let before = made(kind, sized(whole.clone()), &json!({}));
    let running = json!({"status": {"phase": "Running", "containerStatuses": [
        {"name": "c", "state": {"running": {}}}]}});
    let of = |list: &str, index: usize, resources: Value| {
        let mut changed = before.clone();
        changed["spec"][list][index]["resources"] = resources;
        changed
    };
    let main = |resources: Value| of("containers", 0, resources);
    let more =
        json!({"requests": {"cpu": "2", "memory": "2Mi"}, "limits": {"cpu": "3", "memory": "4Mi"}});
    for good in [
        main(whole.clone()),
        main(more.clone()),
        of(
            "initContainers",
            1,
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
        ),
    ] {
        assert_eq!(super::resize(kind, &good, &before), []);
    }
    let exact =
        json!({"requests": {"cpu": "1", "memory": "1Mi"}, "limits": {"cpu": "1", "memory": "1Mi"}});
    let mut alone = before.clone();
    alone["spec"]["initContainers"] = json!([]);
    let mut guaranteed = alone.clone();
    guaranteed["spec"]["containers"][0]["resources"] = exact;
    let mut mirrored = before.clone();
    mirrored["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    let silent = made(kind, before.clone(), &running);
    let cases = [
        (
            guaranteed,
            &alone,
            "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change",
        ),
        (
            main(json!({"requests": {"cpu": "1", "memory": "1Mi"}})),
            &before,
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed: cpu",
        ),
        (
            main(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}})),
            &before,
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed: memory",
        ),
        (
            main(
                json!({"requests": {"cpu": "1", "memory": "1Mi", "ephemeral-storage": "1Mi"}, "limits": {"cpu": "2"}}),
            ),
            &before,
            "spec.containers[0].resources.requests: Forbidden: pod resize may not change fields other than cpu and memory: ephemeral-storage",
        ),
        (
            main(json!({"requests": {"cpu": "3", "memory": "1Mi"}, "limits": {"cpu": "2"}})),
            &before,
            "spec.containers[0].resources.requests: Invalid value: \"3\": must be less than or equal to cpu limit",
        ),
        (
            of("initContainers", 0, json!({"requests": {"cpu": "1"}})),
            &before,
            "spec.initContainers[0].resources: Forbidden",
        ),
        (
            main(more.clone()),
            &mirrored,
            "spec: Forbidden: static pods",
        ),
        (
            main(more.clone()),
            &silent,
            "spec: Forbidden: Pod running on node without support",
        ),
    ];
    for (changed, before, expected) in cases {
        let errors = super::resize(kind, &changed, before);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert!(
            errors.iter().any(|error| error.starts_with(expected)),
            "expected {expected}, found {errors:#?}"
        );
    }
    // By the ordinary path nothing of this changes.
    assert_ne!(update(kind, &main(more), &before), []);
}
