//! Where variables come from.

use super::world::{World, assert_lines};

const SOURCES: &str = r"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue, size: large}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {token: aHVzaA==}
stringData: {user: anne}
---
";

#[test]
fn variables_come_from_everywhere_and_build_on_each_other() {
    let world = World::new();
    let output = world.succeeds(&format!(
        "{SOURCES}{}",
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: env
  labels: {app.kubernetes.io/part: hull}
  annotations: {note: "fair winds"}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'env | sort; echo args=$0,$1', $(GREETING), $(NOBODY)$$(GREETING)]
    resources:
      requests: {memory: 16Mi}
      limits: {cpu: 500m, memory: 32Mi}
    envFrom:
    - prefix: CFG_
      configMapRef: {name: settings}
    - secretRef: {name: keys}
    - configMapRef: {name: absent, optional: true}
    env:
    - {name: NAME, value: berth}
    - {name: GREETING, value: "hello $(NAME)"}
    - {name: LITERAL, value: "$$(NAME) $(LATER)"}
    - {name: LATER, value: x}
    - {name: CFG_size, value: overridden}
    - {name: EMPTY, value: ""}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: POD_IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
    - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app.kubernetes.io/part']"}}}
    - {name: NOTE, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['note']"}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: CPU_MILLI, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
    - {name: MEMORY, valueFrom: {resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}}
    - {name: REQUEST, valueFrom: {resourceFieldRef: {resource: requests.memory}}}
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: keys, key: token}}}
    - {name: GONE, valueFrom: {secretKeyRef: {name: keys, key: none, optional: true}}}
"#
    ));
    assert_lines(
        &output,
        &[
            "GREETING=hello berth",
            "LITERAL=$(NAME) $(LATER)",
            "CFG_color=blue",
            "CFG_size=overridden",
            "EMPTY=",
            "token=hush",
            "user=anne",
            "POD=env",
            "NAMESPACE=default",
            "LABEL=hull",
            "NOTE=fair winds",
            "CPU=1",
            "CPU_MILLI=500",
            "MEMORY=32",
            "REQUEST=16777216",
            "COLOR=blue",
            "TOKEN=hush",
            "HOSTNAME=env",
            "args=hello berth,$(NOBODY)$(GREETING)",
        ],
    );
    let value = |name: &str| {
        let line = output
            .lines()
            .find_map(|line| line.split_once(&format!("{name}=")));
        line.unwrap_or_else(|| panic!("no {name} in:\n{output}")).1
    };
    assert!(
        value("POD_IP").parse::<std::net::Ipv4Addr>().is_ok(),
        "{output}"
    );
    assert!(
        value("POD_IPS").starts_with(&format!("{},", value("POD_IP"))),
        "{output}"
    );
    assert!(
        value("HOST_IP").parse::<std::net::IpAddr>().is_ok(),
        "{output}"
    );
    assert_eq!(value("POD_UID").len(), 36, "{output}");
    assert!(!value("NODE").is_empty(), "{output}");
    assert!(!output.contains("GONE"), "{output}");
    world.end();
}

#[test]
fn a_source_that_is_missing_is_named_and_nothing_is_made() {
    let world = World::new();
    let pod = |env: &str| {
        format!(
            "{SOURCES}
apiVersion: v1
kind: Pod
metadata: {{name: env}}
spec:
  containers:
  - name: main
    image: busybox
    {env}
"
        )
    };
    for (env, expected) in [
        (
            "envFrom: [{configMapRef: {name: sails}}]",
            "configmap \"sails\" not found",
        ),
        (
            "envFrom: [{secretRef: {name: sails}}]",
            "secret \"sails\" not found",
        ),
        (
            "env: [{name: A, valueFrom: {configMapKeyRef: {name: settings, key: weight}}}]",
            "couldn't find key weight in configmap settings",
        ),
        (
            "env: [{name: A, valueFrom: {fieldRef: {fieldPath: spec.wind}}}]",
            "spec.wind",
        ),
        (
            "env: [{name: A, valueFrom: {fileKeyRef: {volumeName: a, path: b, key: c}}}]",
            "fileKeyRef",
        ),
    ] {
        let message = world.refused(&pod(env));
        assert!(message.contains(expected), "{env}: {message}");
    }
    world.end();
}
