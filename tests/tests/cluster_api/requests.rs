//! Requests by hand: statuses, headers and forms that a client library hides.

use std::net::TcpStream;

use berth_tests::http::{Request, Response, exchange};
use serde_json::{Value, json};

use crate::Server;

fn ask(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut all = vec![("Connection", "close".to_owned())];
    all.extend(
        headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
    let request = Request {
        method,
        target,
        headers: all,
        body: body.as_bytes(),
    };
    exchange(TcpStream::connect(server.address).unwrap(), &request).unwrap()
}

fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error}: {}", response.text()))
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[test]
fn failures_are_told_in_kubernetes_words() {
    let server = Server::start();
    let cases = [
        (
            "GET",
            "/api/v1/nonsense",
            "",
            404,
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/apis/apps/v2/deployments",
            "",
            404,
            "the server could not find the requested resource",
        ),
        (
            "GET",
            "/api/v1/namespaces/default/pods/x",
            "",
            404,
            "pods \"x\" not found",
        ),
        (
            "POST",
            "/api/v1/configmaps",
            "{}",
            405,
            "the server does not allow this method on the requested resource",
        ),
        ("POST", MAPS, "{", 400, "the body is not JSON"),
        (
            "POST",
            MAPS,
            r#"{"kind":"Secret"}"#,
            400,
            "does not match the expected kind (ConfigMap)",
        ),
        (
            "POST",
            MAPS,
            r#"{"metadata":{}}"#,
            422,
            "name or generateName is required",
        ),
        (
            "GET",
            "/api/v1/pods?labelSelector=a%20in",
            "",
            400,
            "unable to parse requirement",
        ),
        (
            "GET",
            "/api/v1/pods?fieldSelector=spec.x%3D1",
            "",
            400,
            "field label not supported: spec.x",
        ),
        (
            "GET",
            "/api/v1/pods?limit=x",
            "",
            400,
            "limit is \"x\"; expected a whole number",
        ),
        (
            "GET",
            "/api/v1/pods?watch=1&resourceVersion=999999",
            "",
            504,
            "Too large resource version: 999999",
        ),
        (
            "GET",
            "/api/v1/pods?continue=abc",
            "",
            400,
            "continue key is not valid",
        ),
    ];
    for (method, target, body, code, message) in cases {
        let response = ask(
            &server,
            method,
            target,
            &[("Content-Type", "application/json")],
            body,
        );
        assert_eq!(
            response.status,
            code,
            "{method} {target}: {}",
            response.text()
        );
        let status = value(&response);
        assert_eq!(
            (status["kind"].as_str(), status["code"].as_u64()),
            (Some("Status"), Some(u64::from(code)))
        );
        let told = status["message"].as_str().unwrap();
        assert!(told.contains(message), "{method} {target}: {told}");
    }
}

#[test]
fn media_types_that_are_not_served_are_refused_by_name() {
    let server = Server::start();
    let cbor = [("Content-Type", "application/cbor")];
    let response = ask(&server, "POST", MAPS, &cbor, "k8s");
    assert_eq!(response.status, 415);
    let told = value(&response)["message"].as_str().unwrap().to_owned();
    assert!(
        told.contains("application/cbor") && told.contains("application/vnd.kubernetes.protobuf"),
        "{told}"
    );
    let only = [("Accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(ask(&server, "GET", MAPS, &only, "").status, 406);
    let first = [(
        "Accept",
        "application/vnd.kubernetes.protobuf,application/json",
    )];
    assert_eq!(ask(&server, "GET", MAPS, &first, "").status, 200);
    let large = "x".repeat((3 << 20) + 1);
    let response = ask(
        &server,
        "POST",
        MAPS,
        &[("Content-Type", "application/json")],
        &large,
    );
    assert_eq!(response.status, 413, "{}", response.text());
}

#[test]
fn objects_come_as_tables_metadata_yaml_and_packed() {
    let server = Server::start();
    let yaml = "metadata:\n  name: a\n  labels: {x: z}\ndata:\n  k: v\n";
    let made = ask(
        &server,
        "POST",
        MAPS,
        &[("Content-Type", "application/yaml")],
        yaml,
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let form = |accept: &str| ask(&server, "GET", MAPS, &[("Accept", accept)], "");
    let table = value(&form(
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
    ));
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["metadata"]["labels"]["x"], "z");
    let metadata = value(&form(
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ));
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(metadata["items"][0]["kind"], "PartialObjectMetadata");
    assert!(metadata["items"][0]["data"].is_null());
    assert!(
        form("application/yaml")
            .text()
            .contains("kind: ConfigMapList")
    );
    let pretty = ask(&server, "GET", &format!("{MAPS}/a?pretty=true"), &[], "");
    assert!(
        pretty.text().starts_with("{\n  \"apiVersion\""),
        "{}",
        pretty.text()
    );

    let big =
        json!({ "metadata": { "name": "big" }, "data": { "k": "x".repeat(200_000) } }).to_string();
    ask(
        &server,
        "POST",
        MAPS,
        &[("Content-Type", "application/json")],
        &big,
    );
    let packed = ask(&server, "GET", MAPS, &[("Accept-Encoding", "gzip")], "");
    assert_eq!(packed.header("content-encoding"), Some("gzip"));
    assert!(packed.body.len() < 20_000, "{}", packed.body.len());
}

#[test]
fn unknown_fields_are_dropped_told_or_refused_as_the_client_wants() {
    let server = Server::start();
    let pod = |name: &str| {
        json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i", "imagee": 1 }] } })
            .to_string()
    };
    let post = |name: &str, how: &str| {
        let target = format!("/api/v1/namespaces/default/pods?fieldValidation={how}");
        ask(
            &server,
            "POST",
            &target,
            &[("Content-Type", "application/json")],
            &pod(name),
        )
    };
    let strict = post("a", "Strict");
    assert_eq!(strict.status, 400);
    assert!(
        strict
            .text()
            .contains(r#"strict decoding error: unknown field \"spec.containers[0].imagee\""#),
        "{}",
        strict.text()
    );
    let warned = post("b", "Warn");
    assert_eq!(warned.status, 201, "{}", warned.text());
    assert_eq!(
        warned.header("warning"),
        Some(r#"299 - "unknown field \"spec.containers[0].imagee\"""#)
    );
    assert!(!warned.text().contains("imagee"));
    assert_eq!(post("c", "Ignore").header("warning"), None);
}

#[test]
fn pages_about_the_server_are_there() {
    let server = Server::start();
    for target in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(ask(&server, "GET", target, &[], "").text(), "ok");
    }
    assert_eq!(
        value(&ask(&server, "GET", "/version", &[], ""))["major"],
        "1"
    );
    assert_eq!(
        value(&ask(&server, "GET", "/api", &[], ""))["kind"],
        "APIVersions"
    );
    assert_eq!(
        value(&ask(&server, "GET", "/apis/apps", &[], ""))["kind"],
        "APIGroup"
    );
    let metrics = ask(&server, "GET", "/metrics", &[], "").text();
    assert!(
        metrics.contains("berth_api_objects{resource=\"namespaces\"} 4"),
        "{metrics}"
    );
    let index = value(&ask(&server, "GET", "/openapi/v3", &[], ""));
    let address = index["paths"]["apis/apps/v1"]["serverRelativeURL"]
        .as_str()
        .unwrap();
    let document = ask(&server, "GET", address, &[], "");
    assert_eq!(value(&document)["openapi"], "3.0.0");
    let tag = document.header("etag").unwrap();
    assert_eq!(
        ask(&server, "GET", address, &[("If-None-Match", tag)], "").status,
        304
    );
}
