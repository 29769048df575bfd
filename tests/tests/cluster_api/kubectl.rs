//! kubectl's commands, each against the API alone: no controller and no agent runs here.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
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
    for line in [
        "pods",
        "deployments",
        "endpointslices",
        "priorityclasses",
        "runtimeclasses",
    ] {
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
fn nodes_are_cordoned_and_tainted() {
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
}

/// What kubectl makes by itself it sends as protocol buffers.
#[test]
fn generators_make_every_kind() {
    let server = Server::start();
    assert_eq!(
        server.prints(&["create", "namespace", "team"]),
        "namespace/team created\n"
    );
    for words in [
        "create configmap settings --from-literal=a=b",
        "create secret generic key --from-literal=a=b",
        "create secret docker-registry pull --docker-server=r --docker-username=u --docker-password=p",
        "create serviceaccount robot",
        "create deployment web --image=registry.example/web:1 --replicas=3 --port=80",
        "create job once --image=i -- sh -c true",
        "create job again --from=cronjob/often",
        "create service clusterip inner --tcp=80:8080",
        "create service nodeport outer --tcp=80:8080",
        "create service externalname away --external-name=example.org",
        "create poddisruptionbudget steady --selector=app=web --min-available=1",
        "run tool --image=i --env=A=b --labels=app=tool --port=8080 --restart=Never",
        "expose deployment web --port=80 --target-port=http --name=front",
        "expose pod tool --port=80 --session-affinity=ClientIP",
    ] {
        if words.contains("--from=cronjob") {
            server.prints(&[
                "-n",
                "team",
                "create",
                "cronjob",
                "often",
                "--image=i",
                "--schedule=* * * * *",
            ]);
        }
        let mut all = vec!["-n", "team"];
        all.extend(words.split(' '));
        let made = server.prints(&all);
        assert!(
            made.contains(" created") || made.contains(" exposed"),
            "{words}: {made}"
        );
    }
    server.prints(&[
        "create",
        "priorityclass",
        "urgent",
        "--value=1000",
        "--description=x",
    ]);
    let read = |what: &[&str]| server.prints(&[&["-n", "team", "get"], what].concat());
    for (object, path, expected) in [
        ("configmap/settings", "{.data.a}", "b"),
        ("secret/key", "{.data.a} {.type}", "Yg== Opaque"),
        ("secret/pull", "{.type}", "kubernetes.io/dockerconfigjson"),
        (
            "deployment/web",
            "{.spec.replicas} {.spec.template.spec.containers[0].ports[0].containerPort}",
            "3 80",
        ),
        (
            "job/once",
            "{.spec.template.spec.containers[0].command}",
            r#"["sh","-c","true"]"#,
        ),
        ("job/again", "{.metadata.ownerReferences[0].name}", "often"),
        (
            "service/outer",
            "{.spec.type} {.spec.ports[0].targetPort}",
            "NodePort 8080",
        ),
        ("service/away", "{.spec.externalName}", "example.org"),
        (
            "service/front",
            "{.spec.selector.app} {.spec.ports[0].targetPort}",
            "web http",
        ),
        ("service/tool", "{.spec.sessionAffinity}", "ClientIP"),
        ("pdb/steady", "{.spec.minAvailable}", "1"),
        (
            "pod/tool",
            "{.spec.containers[0].env[0].value} {.spec.restartPolicy}",
            "b Never",
        ),
        ("priorityclass/urgent", "{.value}", "1000"),
    ] {
        let path = format!("jsonpath={path}");
        assert_eq!(read(&[object, "-o", &path]), expected, "{object}");
    }
    // Who wrote what is noted as for any other form.
    let written = read(&["deployment/web", "--show-managed-fields", "-o", "json"]);
    let written: Value = serde_json::from_str(&written).unwrap();
    let manager = &written["metadata"]["managedFields"][0];
    assert_eq!(manager["manager"], "kubectl-create");
    assert!(
        manager["fieldsV1"]["f:spec"]["f:replicas"].is_object(),
        "{manager}"
    );
    // A time that was not set is not there, nor is an empty status of a node's making.
    assert!(
        written["spec"]["template"]["metadata"]
            .get("creationTimestamp")
            .is_none(),
        "{written}"
    );
}

#[test]
fn what_generators_ask_for_in_vain_is_told() {
    let server = Server::start();
    server.prints(&["create", "serviceaccount", "robot"]);
    for (words, expected) in [
        (
            "create configmap Upper_Case",
            "Invalid value: \"Upper_Case\"",
        ),
        (
            "create deployment web --image=i --replicas=-2",
            "spec.replicas: Invalid value: -2",
        ),
        (
            "create token robot",
            "could not find the requested resource",
        ),
        (
            "create role reader --verb=get --resource=pods",
            "could not find the requested resource",
        ),
        (
            "create quota q --hard=pods=1",
            "could not find the requested resource",
        ),
        (
            "-n nowhere create configmap a",
            "namespaces \"nowhere\" not found",
        ),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        let told = server.complains(&words);
        assert!(told.contains(expected), "{words:?}: {told}");
    }
    server.prints(&["create", "configmap", "a"]);
    assert!(
        server
            .complains(&["create", "configmap", "a"])
            .contains("already exists")
    );
    assert_eq!(
        server.prints(&["create", "configmap", "b", "--dry-run=server", "-o", "name"]),
        "configmap/b\n"
    );
    assert!(
        server
            .complains(&["get", "configmap", "b"])
            .contains("not found")
    );
}

/// Evictions go out in either form; budgets hold.
#[test]
fn a_node_is_drained_but_for_what_a_budget_keeps() {
    let server = Server::start();
    let node = server.file(
        "n.yaml",
        "{apiVersion: v1, kind: Node, metadata: {name: n1}}",
    );
    server.prints(&["apply", "-f", &node]);
    server.prints(&[
        "run",
        "free",
        "--image=i",
        "--overrides",
        r#"{"spec":{"nodeName":"n1"}}"#,
    ]);
    server.prints(&[
        "run",
        "kept",
        "--image=i",
        "--overrides",
        r#"{"spec":{"nodeName":"n1"}}"#,
    ]);
    server.prints(&[
        "create",
        "pdb",
        "stay",
        "--selector=run=kept",
        "--max-unavailable=0",
    ]);
    // A pod that never ran is evicted whatever its budget says.
    let ready = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    let pods: kube::Api<Pod> = kube::Api::namespaced(server.client.clone(), "default");
    server
        .runtime
        .block_on(pods.patch_status("kept", &PatchParams::default(), &Patch::Merge(&ready)))
        .unwrap();
    // No controller counts here.
    let counted = json!({ "status": { "observedGeneration": 1, "disruptionsAllowed": 0 } });
    let budgets: kube::Api<PodDisruptionBudget> =
        kube::Api::namespaced(server.client.clone(), "default");
    server
        .runtime
        .block_on(budgets.patch_status("stay", &PatchParams::default(), &Patch::Merge(&counted)))
        .unwrap();
    let told = server.complains(&["drain", "n1", "--force", "--grace-period=0", "--timeout=4s"]);
    assert!(
        told.contains("Cannot evict pod as it would violate the pod's disruption budget"),
        "{told}"
    );
    assert!(
        server
            .complains(&["get", "pod", "free"])
            .contains("not found"),
        "{told}"
    );
    server.prints(&["delete", "pdb", "stay"]);
    let told = server.prints(&[
        "drain",
        "n1",
        "--force",
        "--grace-period=0",
        "--timeout=30s",
    ]);
    assert!(told.contains("node/n1 drained"), "{told}");
    assert_eq!(server.prints(&["get", "pods", "-o", "name"]), "");
}
