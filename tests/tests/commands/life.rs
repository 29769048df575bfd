//! Lives of pods: unattended ones, stop, kill, wait, events.

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use berth_tests::machine::{LIMIT, Machine};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Ends at once when it is told to.
const SERVE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  restartPolicy: Always
  containers:
    - name: main
      image: busybox
      command: [sh, -c, 'trap \"exit 0\" TERM; echo begun; while :; do sleep 0.1; done']
";

/// Must be killed.
const STUBBORN: &str = "trap '' TERM; echo begun; while :; do sleep 0.1; done";

fn pod(name: &str) -> String {
    SERVE.replace("NAME", name)
}

#[test]
fn volumes_of_an_unattended_pod_are_unmounted_and_not_followed() {
    let machine = Machine::new().unwrap();
    let kept = machine.host().directory().join("kept");
    std::fs::create_dir_all(kept.join("part")).unwrap();
    std::fs::write(kept.join("part/file"), "of the machine").unwrap();
    let text = format!(
        "{}      volumeMounts:
        - {{name: memory, mountPath: /memory}}
        - {{name: machine, mountPath: /part, subPath: part}}
  volumes:
    - {{name: memory, emptyDir: {{medium: Memory}}}}
    - {{name: machine, hostPath: {{path: {}}}}}
",
        pod("web"),
        kept.display()
    );
    machine.write("web.yaml", &text).unwrap();
    let mut running = machine.start(&["run", "web.yaml"]).unwrap();
    running.wait_for("pod web is ready", LIMIT).unwrap();
    let script = "echo a > /memory/a; ln -s /part /memory/link; cat /part/file";
    let inside = machine.berth(&["exec", "web", "sh", "-c", script]).unwrap();
    assert_eq!(inside, "of the machine");
    running.signal(Signal::SIGKILL).unwrap();
    running.wait(LIMIT).unwrap();
    let volumes = machine.host().data_dir().join("volumes");
    assert!(volumes.read_dir().unwrap().next().is_some());
    machine.berth(&["rm", "-f", "web"]).unwrap();
    let file = std::fs::read_to_string(kept.join("part/file")).unwrap();
    assert_eq!(file, "of the machine");
    machine.assert_clean().unwrap();
}

#[test]
fn options_stand_on_either_side_of_manifests() {
    let machine = Machine::new().unwrap();
    machine.write("a.yaml", &pod("a")).unwrap();
    machine.write("b.yaml", &pod("b")).unwrap();
    let names = machine
        .berth(&["run", "-q", "a.yaml", "-d", "b.yaml", "--rm"])
        .unwrap();
    assert_eq!(names, "a\nb\n");
    // --rm: what has ended is gone by itself.
    machine.berth(&["stop", "a", "b"]).unwrap();
    assert_eq!(machine.berth(&["ps", "-aq"]).unwrap(), "");
    machine.assert_clean().unwrap();
    // Behind an image all is the container's.
    let said = machine.berth(&["run", "-q", "busybox", "echo", "-d"]);
    assert_eq!(said.unwrap(), "-d\n");
    let message = machine
        .berth_fails(125, &["run", "a.yaml", "-p", "80:80"])
        .unwrap();
    assert!(
        message.contains("--publish goes with an image"),
        "{message}"
    );
    machine
        .berth_fails(2, &["run", "a.yaml", "--nosuch"])
        .unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_manifest_from_standard_input_runs() {
    let machine = Machine::new().unwrap();
    let mut child = machine
        .command(&["run", "-d", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("{}---{}", pod("one"), pod("two"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "one\ntwo\n");
    // Only one of them is stopped by its name.
    machine.berth(&["stop", "one"]).unwrap();
    let names = machine.berth(&["ps", "--pods", "-o", "json"]).unwrap();
    let pods: Value = serde_json::from_str(&names).unwrap();
    assert_eq!(pods.as_array().unwrap().len(), 1);
    assert_eq!(pods[0]["name"], "two");
    machine.berth(&["rm", "-f", "--all"]).unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_kill_is_a_restart_that_events_tell_and_wait_waits_for() {
    let machine = Machine::new().unwrap();
    let mut events = machine.start(&["events", "web"]).unwrap();
    machine.write("web.yaml", &pod("web")).unwrap();
    machine.berth(&["run", "-d", "web.yaml"]).unwrap();
    machine
        .berth(&["wait", "--for", "ready", "--timeout", "20s", "web"])
        .unwrap();
    events.wait_for("web/main started", LIMIT).unwrap();
    let message = machine
        .berth_fails(1, &["wait", "--timeout", "1s", "web"])
        .unwrap();
    assert!(message.contains("web is not ended in time"), "{message}");
    assert_eq!(machine.berth(&["kill", "web"]).unwrap(), "web/main\n");
    events
        .wait_for("web/main exited exit code 137, signal 9", LIMIT)
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        let shown = machine.berth(&["ps", "-o", "json"]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        if shown[0]["restarts"] == 1 && shown[0]["state"] == "running" {
            break;
        }
        assert!(Instant::now() < deadline, "not restarted: {shown}");
    }
    // A signal that the program takes as its end, with its own exit code.
    machine.berth(&["kill", "-s", "TERM", "web/main"]).unwrap();
    events
        .wait_for("web/main exited exit code 0", LIMIT)
        .unwrap();
    machine.berth(&["stop", "web"]).unwrap();
    let codes = machine.berth(&["wait", "web"]).unwrap();
    assert!(codes.starts_with("web/main "), "{codes}");
    machine.berth(&["rm", "web"]).unwrap();
    machine.berth(&["wait", "--for", "removed", "web"]).unwrap();
    events.wait_for("web pod-removed", LIMIT).unwrap();
    events.signal(Signal::SIGKILL).unwrap();
    events.wait(LIMIT).unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn a_stop_s_time_is_the_caller_s_to_choose() {
    let machine = Machine::new().unwrap();
    let words = [
        "run", "-d", "--name", "web", "busybox", "sh", "-c", STUBBORN,
    ];
    machine.berth(&words).unwrap();
    let began = Instant::now();
    machine.berth(&["stop", "-t", "1", "web"]).unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!((0.9..15.0).contains(&took), "the stop took {took} s");
    let table = machine.berth(&["ps", "-a"]).unwrap();
    assert!(table.contains("Exited (137"), "{table}");
    // The name is taken until the pod is removed.
    let message = machine.berth_fails(125, &words).unwrap();
    assert!(message.contains("berth rm -f web"), "{message}");
    machine.berth(&["rm", "web"]).unwrap();
    machine.assert_clean().unwrap();
}

#[test]
fn an_unattended_pod_is_taken_over_as_it_is() {
    let machine = Machine::new().unwrap();
    // A status in a manifest is another pod's.
    let exported = pod("web") + "status: {startTime: \"2001-01-01T00:00:00Z\"}\n";
    machine.write("web.yaml", &exported).unwrap();
    let mut running = machine.start(&["run", "web.yaml"]).unwrap();
    running.wait_for("pod web is ready", LIMIT).unwrap();
    let id = machine.berth(&["ps", "-q"]).unwrap();
    let start = || {
        let shown = machine.berth(&["inspect", "web"]).unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        shown[0]["status"]["startTime"].as_str().map(str::to_owned)
    };
    let told = start().unwrap();
    assert!(!told.starts_with("2001"), "{told}");
    running.signal(Signal::SIGKILL).unwrap();
    running.wait(LIMIT).unwrap();
    assert!(machine.berth(&["ps"]).unwrap().contains("unattended"));
    machine
        .write("other.yaml", &pod("web").replace("0.1", "0.2"))
        .unwrap();
    let message = machine
        .berth_fails(125, &["run", "-d", "other.yaml"])
        .unwrap();
    assert!(message.contains("from another manifest"), "{message}");
    machine.berth(&["run", "-d", "web.yaml"]).unwrap();
    assert!(!machine.berth(&["ps"]).unwrap().contains("unattended"));
    assert_eq!(machine.berth(&["ps", "-q"]).unwrap(), id);
    assert_eq!(start().as_ref(), Some(&told));
    machine.berth(&["rm", "-f", "web"]).unwrap();
    machine.assert_clean().unwrap();
}
