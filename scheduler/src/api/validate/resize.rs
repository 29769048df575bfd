//! What of a running pod may be resized.
//!
//! A pod's containers may be given more or less processor and memory while they run
//! (`pods/NAME/resize`). The node has to be able to do it, and nothing that was
//! decided by the old amounts may become wrong: the class of service, and whether
//! there is a limit at all.
//!
//! Read more: KEP 1287; "Resize CPU and Memory Resources assigned to Containers" in
//! Kubernetes' documentation.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::checks::{Checks, items, text};
use crate::api::defaults;

/// The resources that the kernel lets change under a process.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
/// The annotation of a pod that a kubelet read from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) fn check(pod: &Value, before: &Value, checks: &mut Checks) {
    if !before["metadata"]["annotations"][MIRROR].is_null() {
        checks.forbidden("spec", "static pods cannot be resized");
    }
    let (was, now) = (
        defaults::quality_of_service(before),
        defaults::quality_of_service(pod),
    );
    if was != now {
        let why = "Pod QOS Class may not change as a result of resizing";
        checks.invalid("spec", &json!(now), why);
    }
    if !can_node_resize(before) {
        checks.forbidden("spec", "Pod running on node without support for resize");
    }
    for list in ["containers", "initContainers"] {
        let pairs = items(&pod["spec"][list]).zip(items(&before["spec"][list]));
        for ((index, one), (_, before)) in pairs {
            let field = format!("spec.{list}[{index}].resources");
            if one["resources"] == before["resources"] {
                continue;
            }
            if list == "initContainers" && before["restartPolicy"] != "Always" {
                let why = "resources of init containers that are no sidecars cannot be changed";
                checks.forbidden(&field, why);
            }
            check_one(&field, &one["resources"], &before["resources"], checks);
        }
    }
}

/// A node says what a running container has if it can change it.
fn can_node_resize(pod: &Value) -> bool {
    items(&pod["status"]["containerStatuses"])
        .filter(|(_, status)| status["state"]["running"].is_object())
        .all(|(_, status)| status["resources"].is_object())
        || text(&pod["status"], "phase") != "Running"
}

fn check_one(field: &str, now: &Value, before: &Value, checks: &mut Checks) {
    for (side, removed) in [
        ("limits", "resource limits cannot be removed"),
        ("requests", "resource requests cannot be removed"),
    ] {
        let names: BTreeSet<&String> = [now, before]
            .into_iter()
            .flat_map(|resources| resources[side].as_object().into_iter().flatten())
            .map(|(name, _)| name)
            .collect();
        for name in names {
            let (is, was) = (&now[side][name], &before[side][name]);
            let field = format!("{field}.{side}");
            if is == was {
                continue;
            }
            if !RESIZABLE.contains(&name.as_str()) {
                let why =
                    format!("pod resize may not change fields other than cpu and memory: {name}");
                checks.forbidden(&field, &why);
            } else if is.is_null() {
                checks.forbidden(&field, &format!("{removed}: {name}"));
            }
        }
    }
    if now["claims"] != before["claims"] {
        let why = "pod resize may not change fields other than cpu and memory";
        checks.forbidden(&format!("{field}.claims"), why);
    }
}
