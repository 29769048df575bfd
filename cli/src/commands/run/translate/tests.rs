//! Flags in, Pod out.

use clap::Parser;
use serde_json::json;

use super::*;
use crate::commands::run::flags::RunArguments;

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    run: RunArguments,
}

fn pod(line: &str) -> Result<Value, String> {
    let words = std::iter::once("run").chain(line.split_whitespace());
    let run = Program::try_parse_from(words).unwrap().run;
    let surroundings = Surroundings {
        environment: BTreeMap::from([("HOME".to_owned(), "/root".to_owned())]),
        env_file_lines: vec!["A=file".to_owned(), "B=$(A)".to_owned()],
        directory: "/here".to_owned(),
        suffix: "abcde".to_owned(),
    };
    translate(&run.image, &run.words[0], &run.words[1..], &surroundings)
}

fn container(line: &str) -> Value {
    pod(line).unwrap()["spec"]["containers"][0].clone()
}

#[test]
fn an_image_alone_is_a_pod_that_is_named_after_it() {
    let pod = pod("docker.io/library/nginx:1.29").unwrap();
    assert_eq!(pod["metadata"]["name"], "nginx-abcde");
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(
        pod["spec"]["containers"][0]["image"],
        "docker.io/library/nginx:1.29"
    );
    assert_eq!(label_of("ghcr.io/x/My_App@sha256:00"), "my-app");
}

#[test]
fn words_after_the_image_are_the_command_even_with_hyphens() {
    let value = container("-it --rm busybox ls -l -t /tmp");
    assert_eq!(value["args"], json!(["ls", "-l", "-t", "/tmp"]));
    assert_eq!(
        (&value["stdin"], &value["tty"]),
        (&json!(true), &json!(true))
    );
    let value = container("--entrypoint /bin/sh busybox -c true");
    assert_eq!(value["command"], json!(["/bin/sh"]));
    assert_eq!(value["args"], json!(["-c", "true"]));
}

#[test]
fn ports_have_an_address_a_range_and_a_protocol() {
    let value = container("-p 8080:80 -p 127.0.0.1:53:53/udp -p [::1]:90-91:80-81 nginx");
    assert_eq!(
        value["ports"],
        json!([
            {"containerPort": 80, "hostPort": 8080, "protocol": "TCP"},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"},
            {"containerPort": 80, "hostPort": 90, "protocol": "TCP", "hostIP": "::1"},
            {"containerPort": 81, "hostPort": 91, "protocol": "TCP", "hostIP": "::1"},
        ])
    );
    for wrong in [
        "80",
        "0:80",
        "a:80",
        "80:70000",
        "1-3:1-2",
        "8080:80/icmp",
        "x:80:80",
    ] {
        let message = pod(&format!("-p {wrong} nginx")).unwrap_err();
        assert!(
            message.starts_with(&format!("--publish {wrong}: expected")),
            "{message}"
        );
    }
}

#[test]
fn volumes_are_host_paths_and_memory() {
    let pod = pod("-v ./data:/data:ro --tmpfs /tmp:size=64m \
                   --mount type=bind,source=/etc,target=/host,readonly busybox")
    .unwrap();
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "volume-0", "hostPath": {"path": "/here/./data"}},
            {"name": "volume-1", "hostPath": {"path": "/etc"}},
            {"name": "volume-2", "emptyDir": {"medium": "Memory", "sizeLimit": "67108864"}},
        ])
    );
    let mounts = &pod["spec"]["containers"][0]["volumeMounts"];
    assert_eq!(
        mounts[0],
        json!({"name": "volume-0", "mountPath": "/data", "readOnly": true})
    );
    assert_eq!(mounts[2], json!({"name": "volume-2", "mountPath": "/tmp"}));
}

#[test]
fn a_volume_that_is_not_understood_says_what_was_expected() {
    for (line, words) in [
        ("-v name:/data busybox", "begins with / or ./"),
        ("-v /data busybox", "expected SOURCE:TARGET"),
        ("-v /data:/data:fast busybox", "\"fast\" is not known"),
        ("-v /data:data busybox", "no absolute path"),
        (
            "--mount type=volume,target=/x busybox",
            "expected bind or tmpfs",
        ),
        ("--mount type=bind,target=/x busybox", "source is missing"),
        (
            "--mount type=tmpfs,target=/x,colour=red busybox",
            "\"colour\" is not known",
        ),
    ] {
        let message = pod(line).unwrap_err();
        assert!(message.contains(words), "{line}: {message}");
    }
}

#[test]
fn variables_come_from_files_from_here_and_from_the_line() {
    let value = container("-e HOME -e UNSET -e A=line busybox");
    assert_eq!(
        value["env"],
        json!([
            {"name": "B", "value": "$$(A)"},
            {"name": "HOME", "value": "/root"},
            {"name": "A", "value": "line"},
        ])
    );
}

#[test]
fn limits_and_security_become_their_fields() {
    let value = container(
        "-m 64m --cpus 0.5 -u 1000:1001 --read-only --cap-drop ALL --cap-add cap_net_raw \
         --security-opt no-new-privileges busybox",
    );
    assert_eq!(
        value["resources"]["limits"],
        json!({"memory": "67108864", "cpu": "500m"})
    );
    assert_eq!(
        value["securityContext"],
        json!({
            "runAsUser": 1000,
            "runAsGroup": 1001,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
}

#[test]
fn what_a_pod_cannot_say_is_an_error() {
    assert!(
        pod("--network none busybox")
            .unwrap_err()
            .contains("expected bridge or host")
    );
    assert!(
        pod("--user www-data busybox")
            .unwrap_err()
            .contains("expected UID")
    );
    assert!(pod("--cpus 0 busybox").unwrap_err().contains("above 0"));
    assert!(
        pod("--security-opt label=x busybox")
            .unwrap_err()
            .contains("expected no-new")
    );
    assert!(
        pod("--label =x busybox")
            .unwrap_err()
            .contains("NAME=VALUE")
    );
}
