//! What a pod's status means: is it ready, has it failed, with which exit code. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use crate::error::{ENGINE_FAILED, NOT_EXECUTABLE, NOT_FOUND};

/// Where a pod stands, for one who waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// On its way.
    Starting,
    /// All that should be ready is, or the pod has ended well.
    Ready,
    /// It will not become ready by waiting a little longer.
    Stuck(String),
    /// No waiting and nobody's help will make it ready: its text has to be another.
    Hopeless(String),
    /// A container ends again and again; it is started again and again.
    Looping(String),
    /// It has ended, and not well.
    Failed(String),
}

/// Reads where a pod stands.
pub fn progress(status: &PodStatus) -> Progress {
    match status.phase.as_deref() {
        Some("Succeeded") => return Progress::Ready,
        Some("Failed") => return Progress::Failed(why_failed(status)),
        _ => {}
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    if conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    {
        return Progress::Ready;
    }
    containers(status)
        .find_map(waits_in_vain)
        .unwrap_or(Progress::Starting)
}

/// Init containers first, as they run.
fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
}

/// A container that waits for something that waiting a little does not bring.
fn waits_in_vain(container: &ContainerStatus) -> Option<Progress> {
    const STUCK: [&str; 4] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "ImageInspectError",
    ];
    // A cluster tries these again, for somebody may bring what is missing. Here
    // all that a pod may refer to was read before it began.
    const HOPELESS: [&str; 4] = [
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ];
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let text = match waiting.message.as_deref() {
        None | Some("") => format!("container {}: {reason}", container.name),
        Some(message) => format!("container {}: {reason}: {message}", container.name),
    };
    match reason {
        "CrashLoopBackOff" => Some(Progress::Looping(text)),
        reason if STUCK.contains(&reason) => Some(Progress::Stuck(text)),
        reason if HOPELESS.contains(&reason) => Some(Progress::Hopeless(text)),
        _ => None,
    }
}

/// One line on why a pod failed.
pub fn why_failed(status: &PodStatus) -> String {
    let own = [status.reason.as_deref(), status.message.as_deref()];
    let own: Vec<&str> = own
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    if !own.is_empty() {
        return own.join(": ");
    }
    let ended: Vec<String> = containers(status)
        .filter_map(|container| {
            let end = container.state.as_ref()?.terminated.as_ref()?;
            let reason = end.reason.as_deref().filter(|reason| *reason != "Error");
            let message = end
                .message
                .as_deref()
                .map(str::trim)
                .filter(|text| !text.is_empty());
            let words: Vec<&str> = reason.into_iter().chain(message).collect();
            let more = match words.is_empty() {
                true => String::new(),
                false => format!(": {}", words.join(": ")),
            };
            (end.exit_code != 0).then(|| {
                format!(
                    "container {} ended with {}{more}",
                    container.name, end.exit_code
                )
            })
        })
        .collect();
    match ended.is_empty() {
        true => "the pod failed".to_owned(),
        false => ended.join("; "),
    }
}

/// The exit code of the only container, as `docker run` gives it on.
pub fn exit_code(status: &PodStatus) -> u8 {
    let Some(container) = status.container_statuses.iter().flatten().next() else {
        return ENGINE_FAILED;
    };
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let Some(end) = states
        .into_iter()
        .flatten()
        .find_map(|state| state.terminated.as_ref())
    else {
        return ENGINE_FAILED;
    };
    match end.reason.as_deref() {
        Some("StartError" | "ContainerCannotRun") => {
            start_failure_code(end.message.as_deref().unwrap_or_default())
        }
        _ => u8::try_from(end.exit_code).unwrap_or(ENGINE_FAILED),
    }
}

/// Why the OCI runtime could not start a program, as docker's exit codes have it.
pub fn start_failure_code(message: &str) -> u8 {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&[
        "no such file or directory",
        "not found in path",
        "executable file not found",
    ]) {
        NOT_FOUND
    } else if says(&["permission denied", "exec format error", "is a directory"]) {
        NOT_EXECUTABLE
    } else {
        ENGINE_FAILED
    }
}

/// `http://127.0.0.1:8080 -> nginx:80`, for each port of this machine.
pub fn ports(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    containers
        .flat_map(|container| {
            container
                .ports
                .iter()
                .flatten()
                .map(move |port| (&container.name, port))
        })
        .filter_map(|(name, port)| {
            let host_port = port.host_port.filter(|number| *number > 0)?;
            let address = match port.host_ip.as_deref() {
                None | Some("" | "0.0.0.0" | "::") => "127.0.0.1".to_owned(),
                Some(address) if address.contains(':') => format!("[{address}]"),
                Some(address) => address.to_owned(),
            };
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => String::new(),
                Some(other) => format!("/{}", other.to_lowercase()),
            };
            let to = port.container_port;
            Some(format!("{address}:{host_port}{protocol} -> {name}:{to}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn ended(terminated: Value) -> PodStatus {
        status(json!({"phase": "Failed", "containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}
        }]}))
    }

    #[test]
    fn a_pod_is_ready_by_its_condition_or_its_end() {
        let ready =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(progress(&status(ready)), Progress::Ready);
        assert_eq!(
            progress(&status(json!({"phase": "Succeeded"}))),
            Progress::Ready
        );
        assert_eq!(
            progress(&status(json!({"phase": "Running"}))),
            Progress::Starting
        );
        assert_eq!(progress(&status(json!({}))), Progress::Starting);
    }

    #[test]
    fn a_container_that_waits_in_vain_is_stuck() {
        let waiting = |reason: &str| {
            status(json!({"phase": "Pending", "containerStatuses": [{
                "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "no such tag"}}
            }]}))
        };
        assert_eq!(
            progress(&waiting("ErrImagePull")),
            Progress::Stuck("container main: ErrImagePull: no such tag".to_owned())
        );
        assert_eq!(progress(&waiting("ContainerCreating")), Progress::Starting);
    }

    #[test]
    fn the_exit_code_is_the_container_s_or_docker_s() {
        assert_eq!(exit_code(&ended(json!({"exitCode": 3}))), 3);
        assert_eq!(exit_code(&ended(json!({"exitCode": 137}))), 137);
        let failed = |message: &str| {
            exit_code(&ended(
                json!({"exitCode": 128, "reason": "StartError", "message": message}),
            ))
        };
        assert_eq!(failed("exec /nope: No such file or directory"), 127);
        assert_eq!(failed("exec /etc: Permission denied"), 126);
        assert_eq!(failed("something else"), 125);
        assert_eq!(exit_code(&status(json!({}))), 125);
    }

    #[test]
    fn a_failure_names_its_container() {
        let end = ended(json!({"exitCode": 137, "reason": "OOMKilled"}));
        assert_eq!(why_failed(&end), "container main ended with 137: OOMKilled");
        let own = status(json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
        assert_eq!(why_failed(&own), "DeadlineExceeded");
    }

    #[test]
    fn ports_are_told_where_they_can_be_reached() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c",
        "ports": [
            {"containerPort": 80, "hostPort": 8080},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "::1"},
            {"containerPort": 90}
        ]}]}}))
        .unwrap();
        assert_eq!(
            ports(&pod),
            ["127.0.0.1:8080 -> c:80", "[::1]:53/udp -> c:53"]
        );
    }
}
