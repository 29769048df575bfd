//! The command line itself: words, flags, manifests, images. No pod runs here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use berth_tests::host::program;
use berth_tests::machine::Machine;
use serde_json::Value;

const POD: &str = "apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: main, image: busybox, ports: [{containerPort: 80, hostPort: 8080}]}
";

/// `berth` on this machine, for what needs no engine.
fn berth(words: &[&str], input: &str) -> Output {
    let mut child = Command::new(program("berth"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("berth is built beside the tests");
    // One that does not read its input may have ended already.
    let _ = child
        .stdin
        .take()
        .expect("it was piped")
        .write_all(input.as_bytes());
    child.wait_with_output().expect("it was spawned")
}

fn succeeds(words: &[&str], input: &str) -> String {
    let output = berth(words, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{words:?}: {}\n{stderr}",
        output.status
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn fails(code: i32, words: &[&str], input: &str) -> String {
    let output = berth(words, input);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{words:?}\n{stderr}");
    assert!(
        output.stdout.is_empty(),
        "{words:?} failed and printed something"
    );
    stderr
}

#[test]
fn every_command_explains_itself_and_completes() {
    let help = succeeds(&["help"], "");
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() > 15, "{help}");
    for command in commands {
        assert!(
            succeeds(&["help", command], "").contains("Usage: berth"),
            "{command}"
        );
    }
    assert!(!help.contains("worker"), "the hidden command is shown");
    for shell in ["bash", "zsh", "fish"] {
        let script = succeeds(&["completion", shell], "");
        assert!(
            script.contains("inspect") && script.contains("tail"),
            "{shell}"
        );
    }
    assert!(succeeds(&["version"], "").starts_with("berth 0."));
}

#[test]
fn an_image_and_flags_are_shown_as_the_pod_that_they_stand_for() {
    let words = [
        "run",
        "--dry-run",
        "-o",
        "json",
        "--name",
        "front",
        "-p",
        "8080:80",
        "-e",
        "A=b",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "nginx",
        "nginx",
        "-g",
        "daemon off;",
    ];
    let pod: Value = serde_json::from_str(&succeeds(&words, "")).unwrap();
    assert_eq!(pod["metadata"]["name"], "front");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        container["args"],
        serde_json::json!(["nginx", "-g", "daemon off;"])
    );
    assert_eq!(container["ports"][0]["hostPort"], 8080);
    assert_eq!(container["resources"]["limits"]["cpu"], "500m");
    // What is shown is a manifest, and means the same.
    let again = succeeds(&["run", "--dry-run", "-o", "json", "-"], &pod.to_string());
    assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), pod);
}

#[test]
fn manifests_come_from_files_standard_input_and_urls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pod.yaml");
    std::fs::write(&file, POD).unwrap();
    let expected = succeeds(&["run", "--dry-run", "-"], POD);
    assert!(expected.contains("hostPort: 8080"), "{expected}");
    let path = file.to_str().unwrap();
    assert_eq!(succeeds(&["run", "--dry-run", path], ""), expected);
    assert_eq!(succeeds(&["run", "--dry-run", "-f", path], ""), expected);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/pod.yaml", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        for body in [Some(POD), None] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).unwrap() > 0);
            let (status, body) = match body {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", "no"),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
            write!(stream, "{head}Connection: close\r\n\r\n{body}").unwrap();
        }
    });
    assert_eq!(succeeds(&["run", "--dry-run", &url], ""), expected);
    let message = fails(125, &["run", "--dry-run", &url], "");
    assert!(
        message.contains(&url) && message.contains("404"),
        "{message}"
    );
    server.join().unwrap();
}

#[test]
fn mistakes_in_manifests_are_told_together_with_their_lines() {
    let text = "apiVersion: v1
kind: Pod
metadata: {name: Web}
spec:
  containers:
    - name: main
      image: busybox
      readinesProbe: {}
";
    let message = fails(125, &["run", "--dry-run", "-"], text);
    assert!(message.contains("standard input:8:"), "{message}");
    assert!(
        message.contains("readinessProbe"),
        "the nearest name is not told: {message}"
    );
    assert!(message.contains("nothing was run"), "{message}");
    let message = fails(125, &["run", "/nowhere/pod.yaml"], "");
    assert!(
        message.contains("/nowhere/pod.yaml: No such file"),
        "{message}"
    );
    assert!(fails(125, &["run", "-"], "kind: Pod\n").contains("apiVersion"));
    assert!(fails(125, &["run", "-"], "").contains("no object"));
    assert!(fails(125, &["run", "-"], "a: [").contains("standard input:"));
}

#[test]
fn a_field_that_is_not_honoured_is_a_warning() {
    let text = POD.replace("spec:", "spec:\n  priorityClassName: high");
    let output = berth(&["run", "--dry-run", "-"], &text);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success());
    assert!(
        stderr.contains("warning: ") && stderr.contains("priorityClassName"),
        "{stderr}"
    );
    let output = berth(&["run", "--dry-run", "--quiet", "-"], &text);
    assert!(output.stderr.is_empty());
}

#[test]
fn flags_that_make_no_sense_are_refused_by_name() {
    for (words, part) in [
        (&["run"][..], "nothing to run"),
        (&["run", "-p", "80", "nginx"], "--publish 80: expected"),
        (&["run", "-v", "data:/data", "nginx"], "--volume data:/data"),
        (&["run", "--user", "www", "nginx"], "--user www"),
        (&["run", "--security-opt", "x", "nginx"], "--security-opt x"),
        (&["run", "--network", "none", "nginx"], "--network none"),
        (&["run", "--name", "Not_A_Name", "nginx"], "Not_A_Name"),
        (
            &["run", "--env-file", "/nowhere", "nginx"],
            "--env-file /nowhere",
        ),
        (
            &["run", "-p", "8080:80", "./pod.yaml"],
            "--publish goes with an image",
        ),
        (&["run", "-f", "a.yaml", "b.yaml"], "-f"),
        (&["run", "-it", "nginx"], "-t needs a terminal"),
    ] {
        let message = fails(125, words, "");
        assert!(message.contains(part), "{words:?}: {message}");
        assert!(message.starts_with("berth: "), "{words:?}: {message}");
    }
    // What the parser refuses has the parser's code.
    for words in [
        &["run", "-m", "much", "nginx"][..],
        &["run", "--restart", "x", "nginx"],
        &["pss"],
    ] {
        assert!(fails(2, words, "").contains("error: "), "{words:?}");
    }
}

#[test]
fn a_manifest_does_not_choose_the_uid() {
    let text = POD.replace("{name: web}", "{name: web, uid: ../../elsewhere}");
    let shown = succeeds(&["run", "--dry-run", "-"], &text);
    assert!(!shown.contains("elsewhere"), "{shown}");
}

#[test]
fn two_pods_cannot_have_one_port() {
    let text = format!("{POD}---\n{}", POD.replace("{name: web}", "{name: second}"));
    let message = fails(125, &["run", "-"], &text);
    assert!(
        message.contains("8080/TCP") && message.contains("nothing was run"),
        "{message}"
    );
}

#[test]
fn images_are_pulled_listed_inspected_and_removed() {
    let machine = Machine::new().unwrap();
    let id = machine.berth(&["pull", "-q", "nginx"]).unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    machine.berth(&["pull", "busybox:1.37"]).unwrap();
    let table = machine.berth(&["images"]).unwrap();
    assert!(
        table.contains("docker.io/library/nginx") && table.contains("1.37"),
        "{table}"
    );
    let list: Value =
        serde_json::from_str(&machine.berth(&["images", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 2);
    let ids = machine
        .berth(&["images", "-q", "--no-trunc", "nginx"])
        .unwrap();
    assert_eq!(ids, id);
    let seen: Value = serde_json::from_str(&machine.berth(&["inspect", "nginx"]).unwrap()).unwrap();
    assert_eq!(seen[0]["id"], id.trim());
    assert!(seen[0]["config"]["config"].is_object(), "{seen}");
    let message = machine.berth_fails(1, &["pull", "nosuch"]).unwrap();
    assert!(
        message.contains("docker.io/library/nosuch:latest"),
        "{message}"
    );
    let message = machine.berth_fails(1, &["rmi", "nosuch"]).unwrap();
    assert!(
        message.contains("there is no image \"nosuch\""),
        "{message}"
    );
    machine.berth(&["rmi", "nginx"]).unwrap();
    assert!(!machine.berth(&["images"]).unwrap().contains("nginx"));
    let pruned = machine.berth(&["prune", "--all"]).unwrap();
    assert!(
        pruned.contains("busybox") && pruned.contains("freed"),
        "{pruned}"
    );
    machine.assert_clean().unwrap();
}

#[test]
fn what_is_not_there_is_named() {
    let machine = Machine::new().unwrap();
    for words in [
        &["logs", "web"][..],
        &["stop", "web"],
        &["rm", "web"],
        &["kill", "web"],
        &["wait", "web"],
        &["attach", "web"],
        &["exec", "web", "true"],
        &["top", "web"],
        &["stats", "--no-stream", "web"],
        &["inspect", "web"],
    ] {
        let output = machine.output(words).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{words:?}");
        assert!(stderr.contains("\"web\""), "{words:?}: {stderr}");
    }
    machine.berth(&["rm", "-f", "web"]).unwrap();
    assert!(machine.berth(&["ps", "-a"]).unwrap().starts_with("POD"));
    assert!(machine.berth(&["info"]).unwrap().contains("cgroups"));
    machine.assert_clean().unwrap();
}

#[test]
fn a_log_filter_that_is_no_filter_is_told_of() {
    let machine = Machine::new().unwrap();
    let mut command = machine.command(&["ps"]);
    let output = command.env("BERTH_LOG", "berth=loud").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("BERTH_LOG=\"berth=loud\" is not followed"),
        "{said}"
    );
}
