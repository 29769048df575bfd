//! Pods, with the one word that says how a pod is.
//!
//! The word is the phase, unless something says it better: a container that
//! waits (`CrashLoopBackOff`, `ImagePullBackOff`), the container that
//! initialization is at (`Init:0/2`), a deletion (`Terminating`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    AGE, Column, Layout, NAME, age, count, has_condition, list, name, string, text_or, wide,
};

pub(super) const LAYOUT: Layout = Layout {
    columns: COLUMNS,
    row,
};

const COLUMNS: &[Column] = &[
    NAME,
    string("Ready", "The containers that are ready, of all."),
    string("Status", "How the pod is, in one word."),
    string(
        "Restarts",
        "How often its containers were started again, and when last.",
    ),
    AGE,
    wide("IP", "The pod's address."),
    wide("Node", "The node that the pod is bound to."),
    wide(
        "Nominated Node",
        "The node that is being cleared for the pod.",
    ),
    wide(
        "Readiness Gates",
        "The pod's further conditions for being ready that hold, of all.",
    ),
];

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match (summary.restarts, summary.last_restart) {
        (0, _) => "0".to_owned(),
        (restarts, Some(last)) => format!("{restarts} ({} ago)", super::age::between(last, now)),
        (restarts, None) => restarts.to_string(),
    };
    let status = &pod["status"];
    let address = match list(&status["podIPs"]).first() {
        Some(first) => &first["ip"],
        None => &status["podIP"],
    };
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.containers)),
        json!(summary.word),
        json!(restarts),
        age(pod, now),
        json!(text_or(address, "<none>")),
        json!(text_or(&pod["spec"]["nodeName"], "<none>")),
        json!(text_or(&status["nominatedNodeName"], "<none>")),
        json!(readiness_gates(pod)),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holding = gates
        .iter()
        .filter(|gate| has_condition(pod, gate["conditionType"].as_str().unwrap_or_default()));
    format!("{}/{}", holding.count(), gates.len())
}

/// What a row says of a pod's containers.
#[derive(Debug, Default)]
struct Summary {
    word: String,
    ready: usize,
    containers: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Summary {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut summary = Summary {
            word: text_or(&status["phase"], ""),
            containers: list(&spec["containers"]).len(),
            ..Summary::default()
        };
        if let Some(reason) = status["reason"]
            .as_str()
            .filter(|reason| !reason.is_empty())
        {
            reason.clone_into(&mut summary.word);
        }
        let gated = list(&status["conditions"]).iter().any(|condition| {
            condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
        });
        if gated {
            "SchedulingGated".clone_into(&mut summary.word);
        }
        let sidecars = summary.initialize(spec, status);
        if let Some(sidecars) = sidecars {
            summary.restarts = sidecars.restarts;
            summary.last_restart = sidecars.last_restart;
            summary.run(pod);
        }
        summary.end(pod);
        summary
    }

    /// The containers that come first. Gives the sidecars' restarts once all is initialized.
    fn initialize(&mut self, spec: &Value, status: &Value) -> Option<Restarts> {
        let first = list(&spec["initContainers"]);
        let is_sidecar = |name: &Value| {
            first
                .iter()
                .any(|one| one["name"] == *name && one["restartPolicy"] == "Always")
        };
        self.containers += first
            .iter()
            .filter(|one| one["restartPolicy"] == "Always")
            .count();
        let mut sidecars = Restarts::default();
        let mut initializing = false;
        for (index, container) in list(&status["initContainerStatuses"]).iter().enumerate() {
            self.count_restarts(container);
            let sidecar = is_sidecar(&container["name"]);
            if sidecar {
                sidecars.add(container);
            }
            let terminated = &container["state"]["terminated"];
            let waiting = &container["state"]["waiting"]["reason"];
            let waits = text_or(waiting, "");
            if terminated.is_object() && count(&terminated["exitCode"]) == 0 {
                continue;
            }
            if sidecar && container["started"] == json!(true) {
                self.ready += usize::from(container["ready"] == json!(true));
                continue;
            }
            self.word = if terminated.is_object() {
                format!("Init:{}", end_of(terminated))
            } else if !waits.is_empty() && waits != "PodInitializing" {
                format!("Init:{waits}")
            } else {
                format!("Init:{index}/{}", first.len())
            };
            initializing = true;
            break;
        }
        let pod = json!({"status": {"conditions": status["conditions"]}});
        (!initializing || has_condition(&pod, "Initialized")).then_some(sidecars)
    }

    /// The containers proper; the first one that has something to say has the last word.
    fn run(&mut self, pod: &Value) {
        let mut running = false;
        for container in list(&pod["status"]["containerStatuses"]).iter().rev() {
            self.count_restarts(container);
            let state = &container["state"];
            let waits = text_or(&state["waiting"]["reason"], "");
            if !waits.is_empty() {
                self.word = waits;
            } else if state["terminated"].is_object() {
                self.word = end_of(&state["terminated"]);
            } else if container["ready"] == json!(true) && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.word == "Completed" && running {
            let ready = has_condition(pod, "Ready");
            self.word = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    /// A deletion outweighs all, until the pod has ended.
    fn end(&mut self, pod: &Value) {
        if pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let status = &pod["status"];
        let ended = status["phase"] == "Succeeded" || status["phase"] == "Failed";
        if status["reason"] == "NodeLost" {
            "Unknown".clone_into(&mut self.word);
        } else if !ended {
            "Terminating".clone_into(&mut self.word);
        }
    }

    fn count_restarts(&mut self, container: &Value) {
        let mut restarts = Restarts {
            restarts: self.restarts,
            last_restart: self.last_restart,
        };
        restarts.add(container);
        self.restarts = restarts.restarts;
        self.last_restart = restarts.last_restart;
    }
}

/// How often, and when last.
#[derive(Debug, Default)]
struct Restarts {
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.restarts += count(&container["restartCount"]);
        let ended = super::age::read(&container["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(ended);
    }
}

/// How a container ended: its reason, its signal or its code.
fn end_of(terminated: &Value) -> String {
    let reason = text_or(&terminated["reason"], "");
    match (reason.is_empty(), count(&terminated["signal"])) {
        (false, _) => reason,
        (true, 0) => format!("ExitCode:{}", count(&terminated["exitCode"])),
        (true, signal) => format!("Signal:{signal}"),
    }
}
