use super::{ManifestError, Manifests, fields, read_manifests, schema};
use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod};

fn read(text: &str) -> Result<Manifests, ManifestError> {
    read_manifests(text, "web.yaml")
}

fn problems(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

/// A pod whose spec is `lines`, each indented once.
fn pod(lines: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n{lines}")
}

#[test]
fn a_minimal_pod_is_read_with_kubernetes_defaults() {
    let text = pod(
        "  containers:\n  - name: a\n    image: nginx\n    livenessProbe: {tcpSocket: {port: 80}}\n    ports: [{containerPort: 80}]\n",
    );
    let manifests = read(&text).unwrap();
    let spec = manifests.pods[0].spec.as_ref().unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    let container = &spec.containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
    assert_eq!(
        container.ports.as_ref().unwrap()[0].protocol.as_deref(),
        Some("TCP")
    );
    let probe = container.liveness_probe.as_ref().unwrap();
    assert_eq!(
        (probe.period_seconds, probe.failure_threshold),
        (Some(10), Some(3))
    );
    assert_eq!(manifests.warnings, []);
}

#[test]
fn all_mistakes_are_reported_at_once_with_their_lines() {
    let text = "apiVersion: v1
kind: Pod
metadata:
  name: Web_1
spec:
  restartPolicy: Sometimes
  containers:
  - name: a
    image: nginx:1
    imagePulPolicy: Always
    ports:
    - containerPort: many
  - name: a
    volumeMounts:
    - {name: data, mountPath: data}
    env:
    - name: N
      value: 5
";
    assert_eq!(
        problems(text),
        "web.yaml:10:5: spec.containers[0].imagePulPolicy: unknown field; did you mean imagePullPolicy?
web.yaml:12:22: spec.containers[0].ports[0].containerPort: expected a whole number, found the string \"many\"
web.yaml:18:14: spec.containers[1].env[0].value: expected a string (put it in quotes), found the number 5"
    );
    let text = text
        .replace("imagePulPolicy", "imagePullPolicy")
        .replace("many", "0")
        .replace("value: 5", "value: '5'");
    assert_eq!(
        problems(&text),
        "web.yaml:4:9: metadata.name: \"Web_1\" is not a name: expected at most 253 lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit
web.yaml:6:18: spec.restartPolicy: expected one of Always, OnFailure, Never, found \"Sometimes\"
web.yaml:12:22: spec.containers[0].ports[0].containerPort: expected 1 to 65535, found 0
web.yaml:13:5: spec.containers[1].image: required field is missing
web.yaml:13:11: spec.containers[1].name: \"a\" is used twice
web.yaml:15:14: spec.containers[1].volumeMounts[0].name: no volume of the pod is named \"data\"
web.yaml:15:31: spec.containers[1].volumeMounts[0].mountPath: expected an absolute path"
    );
}

#[test]
fn each_bad_document_has_its_message() {
    let table = [
        ("a: [1", "web.yaml:1:4: not YAML:"),
        (
            "",
            "no object: expected a Pod, Deployment, Job, ConfigMap or Secret",
        ),
        (
            "- 1",
            "expected a mapping with apiVersion and kind, found a list",
        ),
        (
            "kind: Pod",
            "apiVersion: required field is missing, as in `apiVersion: v1`",
        ),
        (
            "apiVersion: v1",
            "kind: required field is missing, as in `kind: Pod`",
        ),
        (
            "apiVersion: v1\nkind: Deployment",
            "Deployment has apiVersion apps/v1, found \"v1\"",
        ),
        ("apiVersion: v1\nkind: Pods", "did you mean Pod?"),
        (
            "apiVersion: v1\nkind: Service",
            "v1 Service is not a kind that runs on one machine",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, name: b}",
            "metadata.name: stands twice; the first is at line 3",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}",
            "spec: required field is missing",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}",
            "spec.containers: required field is missing",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'../b': c}",
            "a key holds only letters",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {b: '?'}",
            "not a valid Secret",
        ),
    ];
    for (text, expected) in table {
        let message = problems(text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn each_bad_field_has_its_message() {
    let container = "  containers: [{name: a, image: b, ";
    let table = [
        (
            "resources: {limits: {cpu: 1x}}}]",
            "\"1x\" is not a quantity",
        ),
        (
            "resources: {limits: {cpu: 1}, requests: {cpu: 2}}}]",
            "2 is more than the limit of 1",
        ),
        (
            "resources: {limits: {gpu: 1}}}]",
            "there is no device plug-in here",
        ),
        (
            "livenessProbe: {}}]",
            "expected one of exec, httpGet, tcpSocket, grpc",
        ),
        (
            "livenessProbe: {httpGet: {port: web}}}]",
            "no port of this container is named \"web\"",
        ),
        (
            "livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}}]",
            "must be 1 for this probe",
        ),
        (
            "env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: x}}}]}]",
            "cannot stand beside value",
        ),
        (
            "volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}]\n  volumes: [{name: v, emptyDir: {}}]",
            "expected a relative path without `..`",
        ),
        (
            "}]\n  volumes: [{name: v, nfs: {server: a, path: /}}]",
            "spec.volumes[0].nfs: not supported: this kind of volume",
        ),
        (
            "}]\n  volumes: [{name: v, configMap: {name: c, defaultMode: 1000}}]",
            "expected 0 to 0777, found 0o1750 (1000 in decimal)",
        ),
        (
            "}]\n  volumes: [{name: v}, {name: v, emptyDir: {}}]",
            "\"v\" is used twice",
        ),
        (
            "lifecycle: {preStop: {tcpSocket: {port: 1}}}}]",
            "does nothing in a hook",
        ),
        (
            "securityContext: {privileged: true, allowPrivilegeEscalation: false}}]",
            "cannot be false in a privileged container",
        ),
        (
            "}]\n  hostUsers: false\n  hostPID: true",
            "hostPID: cannot be true where hostUsers is false",
        ),
    ];
    for (rest, expected) in table {
        let message = problems(&pod(&format!("{container}{rest}\n")));
        assert!(message.contains(expected), "{rest}: {message}");
    }
}

#[test]
fn fields_that_are_not_honoured_are_named() {
    let text = pod(
        "  nodeSelector: {disk: ssd}\n  schedulerName: default-scheduler\n  serviceAccountName: robot\n  containers: [{name: a, image: b}]\n",
    );
    let warnings: Vec<String> = read(&text)
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "web.yaml:6:3: spec.nodeSelector: not honoured: the pod runs on this machine",
            "web.yaml:8:3: spec.serviceAccountName: not honoured: there is no API server that would know it",
        ]
    );
}

#[test]
fn several_documents_lists_anchors_and_octal_modes_are_read() {
    let text = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: one}
  data: &data {a: b}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: two}
  data: {<<: *data, c: d}
---
# Nothing here.
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {password: x}
---
{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": [{\"name\": \"a\", \"image\": \"b:1\"}],
 \"volumes\": [{\"name\": \"v\", \"secret\": {\"secretName\": \"s\", \"defaultMode\": 0400}}]}}
";
    let manifests = read(text).unwrap();
    assert_eq!(manifests.config_maps.len(), 2);
    assert_eq!(manifests.config_maps[1].data.as_ref().unwrap().len(), 2);
    assert_eq!(
        manifests.secrets[0].data.as_ref().unwrap()["password"].0,
        b"x"
    );
    let volume = &manifests.pods[0]
        .spec
        .as_ref()
        .unwrap()
        .volumes
        .as_ref()
        .unwrap()[0];
    assert_eq!(volume.secret.as_ref().unwrap().default_mode, Some(0o400));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let item = format!("*a{}", level - 1);
        text.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            [item.as_str(); 10].join(", ")
        ));
    }
    assert!(problems(&text).contains("too large"));
    let deep = format!("{}{}", "[".repeat(70), "]".repeat(70));
    assert!(problems(&deep).contains("levels deep"));
}

#[test]
fn the_tables_name_every_field_of_their_types() {
    let mut definitions = schema::definitions_of::<Pod>();
    definitions.extend(schema::definitions_of::<Deployment>());
    definitions.extend(schema::definitions_of::<Job>());
    for table in fields::TABLES {
        let properties = definitions[table.definition]["properties"]
            .as_object()
            .unwrap();
        let mut known: Vec<&str> = properties.keys().map(String::as_str).collect();
        let mut judged: Vec<&str> = table.fields.iter().map(|field| field.name).collect();
        known.sort_unstable();
        judged.sort_unstable();
        assert_eq!(judged, known, "{}", table.definition);
    }
}

/// Set BLESS=1 to write the page anew.
#[test]
fn the_page_of_fields_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/pod-fields.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, fields::render()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), fields::render());
}
