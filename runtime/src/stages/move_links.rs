//! Stage `move-links`: network devices of the runtime's namespace are the container's.
//!
//! It comes before the hooks, which may look at what the container has. When a
//! later stage fails the devices are moved back: with the container's namespace
//! the kernel would take virtual ones away, and leave the others in the first
//! namespace of the machine, wherever they came from.

use std::path::PathBuf;

use nix::sched::CloneFlags;

use super::clone_init::open_namespace;
use crate::creation::{Creation, Undo};
use crate::links::Passage;
use crate::stage::{Run, Stage, StageError};

/// Place and contract of this stage.
pub const STAGE: Stage = Stage {
    name: "move-links",
    effect: "network devices of the runtime's namespace are the container's, with their addresses, and up",
    after: &["clone-init"],
    see: &[
        "rtnetlink(7)",
        "network_namespaces(7)",
        "OCI config-linux.md#network-devices",
    ],
    run: Run::RuntimeIf(is_asked, move_links),
};

fn is_asked(creation: &Creation) -> bool {
    !creation.plan.links.is_empty()
}

fn move_links(creation: &mut Creation) -> Result<(), StageError> {
    let own = open_namespace(&PathBuf::from("/proc/self/ns/net"))?;
    let passage = Passage::open(own, open_namespace(&container_namespace(creation))?)?;
    creation.passage = Some(passage);
    creation.undo.push(Undo::ReturnLinks);
    for plan in &creation.plan.links {
        let passage = creation.passage.as_ref().expect("it was set above");
        creation.moved.push(passage.send(plan)?);
    }
    Ok(())
}

/// The one that init was made in, or the one that it joins.
fn container_namespace(creation: &Creation) -> PathBuf {
    let mut joined = creation.plan.namespaces.joined.iter();
    match joined.find(|joined| joined.kind == CloneFlags::CLONE_NEWNET) {
        Some(joined) => joined.path.as_path().to_owned(),
        None => {
            let (pid, _) = creation.init.as_ref().expect("clone-init made it");
            PathBuf::from(format!("/proc/{}/ns/net", pid.0))
        }
    }
}
