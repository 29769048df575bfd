//! Bodies in Kubernetes' protocol buffers: as Go's types write them, and over a socket.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use berth_scheduler::api::wire;
use berth_tests::http::{Request, Response, exchange};
use serde_json::{Value, json};

use crate::Server;

/// Objects of each kind in one run. Every field is empty, absent and full in many of them.
const OBJECTS: &str = "200";

/// The program of Go's types, built once a run; Go keeps what it built before.
fn wire_program() -> &'static Path {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wire");
        let built = Command::new("timeout")
            .args(["900", "go", "build", "-mod=readonly", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("wire"))
            .env("CGO_ENABLED", "0")
            .status()
            .unwrap();
        assert!(built.success(), "tests/wire was not built: {built}");
        program
    });
    &BUILT
}

/// Numbers, names and signs of the table are those of Go's types.
#[test]
fn the_table_of_types_is_that_of_go() {
    let printed = Command::new(wire_program()).arg("table").output().unwrap();
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    let table = include_str!("../../../scheduler/src/api/wire/fields.txt");
    let ours = table.lines().filter(|line| !line.starts_with('#'));
    let differing: Vec<(&str, &str)> = ours
        .clone()
        .zip(printed.lines())
        .filter(|(ours, theirs)| ours != theirs)
        .take(5)
        .collect();
    assert!(differing.is_empty(), "ours and Go's: {differing:#?}");
    assert_eq!(ours.count(), printed.lines().count());
}

/// What a client in Go says in either form is the same object to the API.
#[test]
fn random_objects_of_each_kind_are_read_as_go_writes_them_in_json() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = since.as_micros().to_string();
    let mut program = Command::new("timeout")
        .arg("300")
        .arg(wire_program())
        .args(["objects", OBJECTS, &seed])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut compared = BTreeMap::new();
    for line in BufReader::new(program.stdout.take().unwrap()).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let kind = line["kind"].as_str().unwrap();
        let body = STANDARD.decode(line["protobuf"].as_str().unwrap()).unwrap();
        let read = wire::read_body(&body)
            .unwrap_or_else(|error| panic!("seed {seed}, {kind}: {error}\n{line}"));
        if read != line["json"] {
            let mut differences = Vec::new();
            compare("", &read, &line["json"], &mut differences);
            panic!("seed {seed}, {kind}: ours and Go's differ: {differences:#?}");
        }
        *compared.entry(kind.to_owned()).or_insert(0) += 1;
    }
    assert!(program.wait().unwrap().success());
    assert!(compared.len() >= 23, "{compared:?}");
    let wanted: i32 = OBJECTS.parse().unwrap();
    assert!(
        compared.values().all(|count| *count == wanted),
        "{compared:?}"
    );
}

/// The paths at which two values differ.
fn compare(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => {
            let names: std::collections::BTreeSet<&String> =
                one.keys().chain(other.keys()).collect();
            for name in names {
                match (one.get(name), other.get(name)) {
                    (Some(one), Some(other)) => {
                        compare(&format!("{path}.{name}"), one, other, found);
                    }
                    (one, other) => found.push(format!("{path}.{name}: {one:?}, {other:?}")),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                compare(&format!("{path}[{index}]"), one, other, found);
            }
        }
        (one, other) if one != other => found.push(format!("{path}: {one}, {other}")),
        _ => {}
    }
}

fn post(server: &Server, target: &str, accept: &str, body: &[u8]) -> Response {
    let headers = [("Content-Type", wire::MEDIA_TYPE), ("Accept", accept)];
    let request = Request {
        method: "POST",
        target,
        headers: headers
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec(),
        body,
    };
    exchange(TcpStream::connect(server.address).unwrap(), &request).unwrap()
}

/// What Go's typed clients take: either form, the first rather.
const EITHER: &str = "application/vnd.kubernetes.protobuf,application/json";

#[test]
fn bodies_over_a_socket_and_what_is_refused() {
    let server = Server::start();
    let maps = "/api/v1/namespaces/default/configmaps";
    // { 1 { 1 "v1", 2 "ConfigMap" }, 2 { 1 { 1 "a" } } }
    let good = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x03\x0a\x01a";
    let made = post(&server, maps, EITHER, good);
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.header("content-type"), Some("application/json"));
    let made: Value = serde_json::from_slice(&made.body).unwrap();
    assert_eq!(
        (&made["kind"], &made["metadata"]["name"]),
        (&json!("ConfigMap"), &json!("a"))
    );
    let cases: [(&str, &str, &[u8], u16, &str); 6] = [
        (maps, EITHER, good, 409, "configmaps \"a\" already exists"),
        (
            maps,
            EITHER,
            b"{}",
            400,
            "it does not begin with k8s and a zero byte",
        ),
        (
            maps,
            EITHER,
            &good[..good.len() - 1],
            400,
            "lead beyond the message",
        ),
        (
            maps,
            EITHER,
            b"k8s\0\x0a\x0a\x0a\x02v1\x12\x04Frog",
            400,
            "no kind \"Frog\" of version \"v1\" is served",
        ),
        (
            "/api/v1/namespaces/default/secrets",
            EITHER,
            good,
            400,
            "does not match the expected kind (Secret)",
        ),
        (maps, wire::MEDIA_TYPE, good, 406, "application/json"),
    ];
    for (target, accept, body, code, expected) in cases {
        let answer = post(&server, target, accept, body);
        assert_eq!(answer.status, code, "{expected}: {}", answer.text());
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        let told = status["message"].as_str().unwrap();
        assert!(told.contains(expected), "{expected} in {told}");
        assert_eq!(
            (&status["kind"], &status["code"]),
            (&json!("Status"), &json!(code))
        );
    }
}
