//! kubectl's commands, each against the API alone: no controller and no agent runs here.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::Server;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'registry.example/web:1', ports: [{containerPort: 80}]}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec: {containers: [{name: c, image: 'registry.example/c:1'}]}
";

#[test]
fn apply_get_describe_and_delete() {
    let server = Server::start();
    let file = server.file("web.yaml", DEPLOYMENT);
    assert_eq!(
        server.prints(&["apply", "-f", &file]),
        "deployment.apps/web created\n"
    );
    assert_eq!(
        server.prints(&["apply", "-f", &file]),
        "deployment.apps/web unchanged\n"
    );
    server.file("web.yaml", &DEPLOYMENT.replace("web:1", "web:2"));
    assert_eq!(
        server.prints(&["apply", "-f", &file]),
        "deployment.apps/web configured\n"
    );

    let wide = server.prints(&["get", "deployments", "-o", "wide"]);
    let mut lines = wide.lines();
    assert!(lines.next().unwrap().starts_with("NAME"), "{wide}");
    assert!(
        lines.next().unwrap().contains("registry.example/web:2"),
        "{wide}"
    );
    assert!(
        server
            .prints(&["get", "deploy/web", "-o", "yaml"])
            .contains("replicas: 2")
    );
    let read: Value =
        serde_json::from_str(&server.prints(&["get", "deploy", "web", "-o", "json"])).unwrap();
    assert_eq!(
        read["spec"]["template"]["spec"]["containers"][0]["image"],
        "registry.example/web:2"
    );
    assert_eq!(
        server.prints(&["get", "deploy", "-l", "app=web", "-o", "name"]),
        "deployment.apps/web\n"
    );
    assert!(
        server
            .prints(&["get", "all", "-A"])
            .contains("deployment.apps/web")
    );
    let described = server.prints(&["describe", "deployment", "web"]);
    assert!(
        described.contains("StrategyType:") && described.contains("registry.example/web:2"),
        "{described}"
    );

    let deleted = server.prints(&["delete", "-f", &file]);
    assert!(
        deleted.starts_with("deployment.apps \"web\" deleted"),
        "{deleted}"
    );
    let missing = server.complains(&["get", "deployment", "web"]);
    assert!(
        missing.contains("deployments.apps \"web\" not found"),
        "{missing}"
    );
}

#[test]
fn labels_annotations_patches_and_scale() {
    let server = Server::start();
    let file = server.file("web.yaml", DEPLOYMENT);
    server.prints(&["create", "-f", &file]);
    assert_eq!(
        server.prints(&["label", "deploy/web", "tier=front"]),
        "deployment.apps/web labeled\n"
    );
    assert!(
        server
            .complains(&["label", "deploy/web", "tier=back"])
            .contains("overwrite")
    );
    server.prints(&["annotate", "deploy/web", "note=hello"]);
    server.prints(&["patch", "deploy/web", "-p", r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"registry.example/web:3"}]}}}}"#]);
    server.prints(&[
        "patch",
        "deploy/web",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"minReadySeconds":3}}"#,
    ]);
    server.prints(&[
        "patch",
        "deploy/web",
        "--type",
        "json",
        "-p",
        r#"[{"op":"replace","path":"/spec/revisionHistoryLimit","value":4}]"#,
    ]);
    assert_eq!(
        server.prints(&["scale", "deploy/web", "--replicas", "5"]),
        "deployment.apps/web scaled\n"
    );
    assert_eq!(
        server.prints(&["set", "image", "deploy/web", "web=registry.example/web:4"]),
        "deployment.apps/web image updated\n"
    );
    let read: Value =
        serde_json::from_str(&server.prints(&["get", "deploy/web", "-o", "json"])).unwrap();
    assert_eq!(read["metadata"]["labels"]["tier"], "front");
    assert_eq!(read["metadata"]["annotations"]["note"], "hello");
    let spec = &read["spec"];
    assert_eq!(
        (spec["replicas"].as_i64(), spec["minReadySeconds"].as_i64()),
        (Some(5), Some(3))
    );
    assert_eq!(spec["revisionHistoryLimit"], 4);
    let containers = spec["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!(
        (containers.len(), containers[0]["image"].as_str()),
        (1, Some("registry.example/web:4"))
    );
}

#[test]
fn server_side_apply_meets_the_fields_of_others() {
    let server = Server::start();
    let file = server.file("web.yaml", DEPLOYMENT);
    let applied = server.prints(&[
        "apply",
        "--server-side",
        "--field-manager",
        "one",
        "-f",
        &file,
    ]);
    assert_eq!(applied, "deployment.apps/web serverside-applied\n");
    server.file(
        "web.yaml",
        &DEPLOYMENT.replace("replicas: 2", "replicas: 3"),
    );
    let conflict = server.complains(&[
        "apply",
        "--server-side",
        "--field-manager",
        "two",
        "-f",
        &file,
    ]);
    assert!(
        conflict.contains("conflict")
            && conflict.contains("\"one\"")
            && conflict.contains(".spec.replicas"),
        "{conflict}"
    );
    server.prints(&[
        "apply",
        "--server-side",
        "--field-manager",
        "two",
        "--force-conflicts",
        "-f",
        &file,
    ]);
    let replicas = server.prints(&["get", "deploy/web", "-o", "jsonpath={.spec.replicas}"]);
    assert_eq!(replicas, "3");
}

#[test]
fn diff_shows_what_an_apply_would_change() {
    let server = Server::start();
    let file = server.file("web.yaml", DEPLOYMENT);
    server.prints(&["apply", "-f", &file]);
    assert_eq!(server.prints(&["diff", "-f", &file]), "");
    server.file("web.yaml", &DEPLOYMENT.replace("web:1", "web:2"));
    let output = server.kubectl(&["diff", "-f", &file]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("-      - image: registry.example/web:1")
            && text.contains("+      - image: registry.example/web:2"),
        "{text}"
    );
}

#[test]
fn wait_and_watch_see_what_others_write() {
    let server = Server::start();
    let file = server.file("p.yaml", POD);
    server.prints(&["apply", "-f", &file]);
    let mut watch = server
        .kubectl_command(&["get", "pods", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("NAME"));
    assert!(lines.next().unwrap().unwrap().starts_with('p'));
    let wait = server
        .kubectl_command(&[
            "wait",
            "pod/p",
            "--for",
            "condition=Ready",
            "--timeout",
            "30s",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pods: kube::Api<Pod> = kube::Api::namespaced(server.client.clone(), "default");
    let ready = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    server
        .runtime
        .block_on(pods.patch_status("p", &PatchParams::default(), &Patch::Merge(&ready)))
        .unwrap();
    assert!(lines.next().unwrap().unwrap().contains("Running"));
    let waited = wait.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&waited.stdout),
        "pod/p condition met\n"
    );
    watch.kill().unwrap();
    watch.wait().unwrap();
    // Not bound to a node, so nothing has to be stopped first.
    assert!(
        server
            .prints(&["delete", "pod", "p"])
            .starts_with("pod \"p\" deleted")
    );
}

#[test]
fn the_api_describes_itself() {
    let server = Server::start();
    let resources = server.prints(&["api-resources"]);
    for line in ["pods", "deployments", "endpointslices", "priorityclasses"] {
        assert!(
            resources.lines().any(|one| one.starts_with(line)),
            "{resources}"
        );
    }
    assert!(
        server
            .prints(&["api-versions"])
            .lines()
            .any(|line| line == "batch/v1")
    );
    let explained = server.prints(&["explain", "pod.spec.containers.image"]);
    assert!(explained.contains("FIELD: image <string>"), "{explained}");
    assert!(server.prints(&["version"]).contains("Server Version: v1."));
    let unknown = server.complains(&["get", "ingresses"]);
    assert!(
        unknown.contains("the server doesn't have a resource type \"ingresses\""),
        "{unknown}"
    );
    let typo = server.file("typo.yaml", &POD.replace("image:", "imagee:"));
    let refused = server.complains(&["apply", "-f", &typo]);
    assert!(
        refused.contains("unknown field \"spec.containers[0].imagee\""),
        "{refused}"
    );
}

#[test]
fn nodes_are_cordoned_and_namespaces_made() {
    let server = Server::start();
    let node = server.file(
        "n.yaml",
        "{apiVersion: v1, kind: Node, metadata: {name: n1}}",
    );
    server.prints(&["apply", "-f", &node]);
    assert_eq!(server.prints(&["cordon", "n1"]), "node/n1 cordoned\n");
    assert!(
        server
            .prints(&["get", "nodes"])
            .contains("SchedulingDisabled")
    );
    assert_eq!(server.prints(&["uncordon", "n1"]), "node/n1 uncordoned\n");
    assert!(
        server
            .prints(&["taint", "node", "n1", "k=v:NoSchedule"])
            .contains("node/n1 tainted")
    );
    // Its generators send protocol buffers, which are not served; what they print is
    // applied as any file.
    for words in [
        &["namespace", "team"][..],
        &["configmap", "settings", "--from-literal", "a=b"],
        &["secret", "generic", "key", "--from-literal", "a=b"],
        &["service", "clusterip", "web", "--tcp", "80:8080"],
        &["job", "once", "--image", "i"],
        &[
            "cronjob",
            "often",
            "--image",
            "i",
            "--schedule",
            "* * * * *",
        ],
    ] {
        let mut create = vec!["create"];
        create.extend(words);
        create.extend(["--dry-run=client", "-o", "yaml"]);
        if words[0] != "namespace" {
            create.extend(["-n", "team"]);
        }
        let made = server.file("made.yaml", &server.prints(&create));
        server.prints(&["apply", "-f", &made]);
    }
    for kind in [
        "configmap/settings",
        "secret/key",
        "service/web",
        "job/once",
        "cronjob/often",
    ] {
        assert!(
            server
                .prints(&["describe", kind, "-n", "team"])
                .contains("Name:"),
            "{kind}"
        );
    }
    assert!(
        server
            .prints(&["get", "cm,secret,svc", "-n", "team"])
            .contains("configmap/settings")
    );
}
