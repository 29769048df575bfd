//! Kernel parameters: only those that a namespace of the container's own holds.
//!
//! `/proc/sys` mixes parameters of the whole machine with parameters that each
//! namespace has of its own. Writing one of the first kind from a container's
//! configuration would change the host, so it is refused.

use std::collections::HashMap;

use nix::sched::CloneFlags;

use super::SpecError;
use super::namespaces::NamespacePlan;

/// Names held by an IPC namespace (ipc_namespaces(7)).
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Sorts parameters by name and checks each.
///
/// # Errors
///
/// A parameter of the host, or one whose namespace the container shares with the host.
pub fn plan_sysctls(
    wanted: Option<&HashMap<String, String>>,
    namespaces: &NamespacePlan,
) -> Result<Vec<(String, String)>, SpecError> {
    let mut plan = Vec::new();
    for (name, value) in wanted.into_iter().flatten() {
        // Both spellings of sysctl(8): dots, or slashes for names that hold dots.
        let name = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        check(&name, namespaces)?;
        plan.push((name, value.clone()));
    }
    plan.sort();
    Ok(plan)
}

fn check(name: &str, namespaces: &NamespacePlan) -> Result<(), SpecError> {
    let dotted = name.replace('/', ".");
    let field = format!("linux.sysctl[{dotted:?}]");
    let (kind, word) = if dotted.starts_with("net.") {
        (CloneFlags::CLONE_NEWNET, "network")
    } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        (CloneFlags::CLONE_NEWIPC, "ipc")
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        (CloneFlags::CLONE_NEWUTS, "uts")
    } else {
        return Err(SpecError::new(
            field,
            "no namespace holds it, so the host's would change",
        ));
    };
    if namespaces.has_own(kind) {
        return Ok(());
    }
    let reason = format!("a {word} namespace is needed for it, else the host's would change");
    Err(SpecError::new(field, reason))
}
