//! What kubectl makes of the API's words: explanations, refusals, conflicts, warnings, rows.

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

#[test]
fn explain_reads_the_types_of_every_group() {
    let server = Server::start();
    for (what, expected) in [
        ("pods.spec.containers.ports", "containerPort"),
        ("deployments.spec.strategy.rollingUpdate", "maxSurge"),
        ("cronjobs.spec", "concurrencyPolicy"),
        ("endpointslices", "addressType"),
        ("leases.spec", "holderIdentity"),
        ("poddisruptionbudgets.spec", "minAvailable"),
    ] {
        let text = server.prints(&["explain", what]);
        assert!(text.contains(expected), "{what}: {text}");
    }
    assert!(
        server
            .complains(&["explain", "pods.spec.colour"])
            .contains("colour")
    );
}

#[test]
fn a_refusal_names_every_field() {
    let server = Server::start();
    let broken = DEPLOYMENT
        .replace("replicas: 2", "replicas: -2")
        .replace("{matchLabels: {app: web}}", "{matchLabels: {app: other}}")
        .replace("containerPort: 80", "containerPort: 99999");
    let file = server.file("web.yaml", &broken);
    let text = server.complains(&["create", "-f", &file]);
    for expected in [
        "The Deployment \"web\" is invalid",
        "spec.replicas: Invalid value: -2: must be greater than or equal to 0",
        "`selector` does not match template `labels`",
        "spec.template.spec.containers[0].ports[0].containerPort: Invalid value: 99999",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let unknown = DEPLOYMENT.replace("replicas: 2", "replica: 2");
    let file = server.file("web.yaml", &unknown);
    let text = server.complains(&["apply", "-f", &file]);
    assert!(text.contains("unknown field \"spec.replica\""), "{text}");
    let file = server.file("web.yaml", DEPLOYMENT);
    server.prints(&["apply", "-f", &file]);
    let text = server.complains(&[
        "patch",
        "deploy",
        "web",
        "--type=merge",
        "-p",
        r#"{"spec":{"selector":{"matchLabels":{"app":"x"}}}}"#,
    ]);
    assert!(text.contains("field is immutable"), "{text}");
}

#[test]
fn server_side_apply_of_two_managers() {
    let server = Server::start();
    let file = server.file("web.yaml", DEPLOYMENT);
    let apply = |manager: &str| -> Vec<String> {
        [
            "apply",
            "--server-side",
            "--field-manager",
            manager,
            "-f",
            &file,
        ]
        .map(str::to_owned)
        .to_vec()
    };
    fn words(words: &[String]) -> Vec<&str> {
        words.iter().map(String::as_str).collect()
    }
    assert_eq!(
        server.prints(&words(&apply("one"))),
        "deployment.apps/web serverside-applied\n"
    );
    server.prints(&["scale", "deploy", "web", "--replicas=5"]);
    let text = server.complains(&words(&apply("one")));
    assert!(text.contains("conflict with \"kubectl\""), "{text}");
    assert!(text.contains(".spec.replicas"), "{text}");
    server.file("web.yaml", &DEPLOYMENT.replace("  replicas: 2\n", ""));
    server.prints(&words(&apply("one")));
    assert_eq!(
        server.prints(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]),
        "5"
    );
    server.file("web.yaml", &DEPLOYMENT.replace("web:1", "web:2"));
    let mut forced = apply("two");
    forced.push("--force-conflicts".to_owned());
    server.prints(&words(&forced));
    assert_eq!(
        server.prints(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"]),
        "2"
    );
    let owners = server.prints(&[
        "get",
        "deploy",
        "web",
        "--show-managed-fields",
        "-o",
        "jsonpath={.metadata.managedFields[*].manager}",
    ]);
    assert!(owners.contains("one") && owners.contains("two"), "{owners}");
}

#[test]
fn a_client_side_apply_merges_lists_by_key_and_removes_what_it_no_longer_says() {
    let server = Server::start();
    let two = DEPLOYMENT.replace(
        "      - {name: web,",
        "      - {name: side, image: 'registry.example/side:1', env: [{name: A, value: a}, {name: B, value: b}]}\n      - {name: web,",
    );
    let file = server.file("web.yaml", &two);
    server.prints(&["apply", "-f", &file]);
    server.prints(&["set", "env", "deploy/web", "-c", "web", "X=y"]);
    server.file(
        "web.yaml",
        &two.replace("{name: A, value: a}, ", "")
            .replace("web:1", "web:3"),
    );
    server.prints(&["apply", "-f", &file]);
    let text = server.prints(&["get", "deploy", "web", "-o", "jsonpath={.spec.template.spec.containers[*].env[*].name} {.spec.template.spec.containers[*].image}"]);
    assert_eq!(text, "B X registry.example/side:1 registry.example/web:3");
    server.file("web.yaml", DEPLOYMENT);
    server.prints(&["apply", "-f", &file]);
    let text = server.prints(&[
        "get",
        "deploy",
        "web",
        "-o",
        "jsonpath={.spec.template.spec.containers[*].name}",
    ]);
    assert_eq!(text, "web");
}

#[test]
fn what_is_not_carried_out_is_warned_of_and_rows_have_kubectls_columns() {
    let server = Server::start();
    let file = server.file(
        "s.yaml",
        "
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80}]}
",
    );
    let output = server.kubectl(&["apply", "-f", &file]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("Warning: spec.type: not carried out by berth"),
        "{text}"
    );
    let row = server.prints(&["get", "svc", "s", "-o", "wide"]);
    let mut lines = row.lines();
    let head: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        [
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE",
            "SELECTOR"
        ]
    );
    let cells: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        (cells[1], cells[3], cells[6]),
        ("LoadBalancer", "<pending>", "app=web")
    );
    assert!(
        cells[4].starts_with("80:3") && cells[4].ends_with("/TCP"),
        "{row}"
    );
}
