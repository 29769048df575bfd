//! One machine, and what a test asks of a pod on it.

use std::time::{Duration, Instant};

use berth_tests::host::Host;
use berth_tests::machine::{LIMIT, Machine, Running};
use serde_json::Value;

/// A machine with `berth`, swept by [`World::end`].
pub struct World {
    pub machine: Machine,
}

/// What a `berth run` in the foreground did.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    pub fn new() -> World {
        World {
            machine: Machine::new().unwrap(),
        }
    }

    pub fn host(&self) -> &Host {
        self.machine.host()
    }

    /// Runs a manifest to its end.
    pub fn run(&self, manifest: &str) -> Ended {
        let path = self.machine.write("run.yaml", manifest).unwrap();
        let output = self
            .machine
            .output(&["run", "--rm", path.to_str().unwrap()])
            .unwrap();
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a manifest to an end with exit code 0; what its containers wrote.
    pub fn succeeds(&self, manifest: &str) -> String {
        let ended = self.run(manifest);
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended.stdout
    }

    /// Runs a manifest that is refused before anything is made; the reason.
    pub fn refused(&self, manifest: &str) -> String {
        let ended = self.run(manifest);
        assert_eq!(ended.code, Some(125), "{ended:#?}");
        assert_eq!(ended.stdout, "", "{ended:#?}");
        ended.stderr
    }

    /// Runs a manifest in the background.
    pub fn detach(&self, manifest: &str) {
        let path = self.machine.write("detach.yaml", manifest).unwrap();
        let path = path.to_str().unwrap();
        self.machine.berth(&["run", "-d", "--rm", path]).unwrap();
    }

    /// Runs a manifest in the foreground of a program that goes on.
    pub fn start(&self, manifest: &str) -> Running {
        let path = self.machine.write("start.yaml", manifest).unwrap();
        self.machine
            .start(&["run", "--rm", path.to_str().unwrap()])
            .unwrap()
    }

    /// What a shell in a pod's container prints.
    pub fn shell(&self, pod: &str, container: &str, script: &str) -> String {
        self.machine
            .berth(&["exec", pod, "-c", container, "--", "sh", "-c", script])
            .unwrap()
    }

    /// The pod's status, as its worker tells it; null before there is a pod.
    pub fn status(&self, pod: &str) -> Value {
        let output = self.machine.output(&["inspect", pod]).unwrap();
        if !output.status.success() {
            return Value::Null;
        }
        let values: Value = serde_json::from_slice(&output.stdout).unwrap();
        values[0]["status"].clone()
    }

    /// The status, once a question about it is answered with yes.
    pub fn status_when(&self, pod: &str, what: &str, question: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + berth_tests::patience::stretched(LIMIT);
        loop {
            let status = self.status(pod);
            if !status.is_null() && question(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never {what}: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops a pod, and removes what is left of it.
    pub fn stop(&self, pod: &str) {
        self.machine.berth(&["stop", pod]).unwrap();
        self.machine
            .berth(&["wait", "--for", "removed", pod])
            .unwrap();
    }

    /// That nothing is left behind.
    pub fn end(self) {
        self.machine.assert_clean().unwrap();
    }
}

/// The status of a pod's container, whichever list holds it.
pub fn container<'a>(status: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists
        .iter()
        .filter_map(|list| status[list].as_array())
        .flatten()
        .find(|container| container["name"] == name)
        .unwrap_or(&Value::Null)
}

/// Whether a condition of a pod holds.
pub fn holds(status: &Value, condition: &str) -> bool {
    status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|known| known["type"] == condition && known["status"] == "True")
}

/// That a text has these lines, without the name of the container before them.
#[track_caller]
pub fn assert_lines(text: &str, expected: &[&str]) {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.split_once("| ").map_or(line, |(_, line)| line))
        .collect();
    for line in expected {
        assert!(lines.contains(line), "no line {line:?} in:\n{text}");
    }
}

/// That one text stands before another.
#[track_caller]
pub fn assert_order(text: &str, expected: &[&str]) {
    let mut rest = text;
    for part in expected {
        let found = rest.split_once(part);
        assert!(
            found.is_some(),
            "{part:?} does not come in its turn in:\n{text}"
        );
        rest = found.unwrap().1;
    }
}
