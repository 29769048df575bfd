//! Labels and annotations by which a pod's parts are found again.
//!
//! They are the kubelet's, letter by letter: tools that list containers of a
//! kubelet's node (crictl, log collectors, cAdvisor) read the same here, and a
//! worker that starts anew finds what an earlier one left running.

/// The pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// The pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// The pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// The container's name in its pod.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// A number that changes with the container's spec.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// How often the container was started before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The container's ports, as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// The `preStop` hook, as JSON, for whoever has to stop an unknown pod.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// The file whose text becomes the container's last message.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Whether the log's end may stand for that file.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The pod's grace, in seconds.
pub const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
/// When the pod was first read.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
/// Where the pod was read.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

/// A number that changes with what is serialized: FNV-1a, as small as a label.
///
/// It tells an edited spec from the one that runs; it protects nothing, so it
/// needs no cryptography.
pub fn digest(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The directory of a pod's logs, below that of all logs.
pub fn log_directory(namespace: &str, name: &str, uid: &str) -> String {
    format!("{namespace}_{name}_{uid}")
}

/// The group of a pod below the node's own; none where the engine chooses.
pub fn pod_group(parent: &str, uid: &str) -> Option<String> {
    (!parent.is_empty()).then(|| format!("{}/pod{uid}", parent.trim_end_matches('/')))
}
